"""What a search states for those who look at it afterwards: kept in its journal, whatever becomes of its script."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hep_ray.search.definition import Search, StudyTable
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.records import SearchStarted
from hep_ray.training.config import TrialConfig

CROSS_ENTROPY: Mapping[str, Any] = {"loss": "cross_entropy"}
"""The baseline of a search that states none."""


@dataclass(frozen=True)
class Stated:
    """What a search states beside what decides its trials.

    Attributes:
        name: of the search.
        title: one line.
        baseline: parameters that mark the trials to beat; empty where it states none.
        tables: of the study.
        known: whether this was stated; not, where a journal of an earlier version is all that there is.
    """

    name: str
    title: str
    baseline: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[StudyTable, ...] = ()
    known: bool = True


def stated_by(search: Search) -> dict[str, Any]:
    """What a search states, as its journal keeps it."""
    return {
        "title": search.title,
        "baseline": dict(search.baseline),
        "tables": [dataclasses.asdict(table) for table in search.tables],
    }


def stated_in(started: SearchStarted, search: Search | None = None) -> Stated:
    """What a search stated when it began.

    Args:
        started: first record of its journal.
        search: as its script states it now; taken where a journal of an earlier version says nothing.
    """
    if started.stated is None:
        if search is None:
            return Stated(started.search, started.search, known=False)
        return Stated(search.name, search.title, search.baseline, search.tables)
    names = {one.name for one in dataclasses.fields(StudyTable)}
    tables = tuple(
        StudyTable(**{key: _frozen(value) for key, value in table.items() if key in names})
        for table in started.stated.get("tables", ())
    )
    title, baseline = started.stated.get("title", started.search), started.stated.get("baseline", {})
    return Stated(started.search, title, baseline, tables)


def has_parameters(params: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a configuration, its defaults included, has these values; a root index of 1 is cross-entropy."""
    values = TrialConfig.from_params(params).resolved()
    if values.get("loss") == "root_softmax" and values.get("root_index") == 1 and wanted == CROSS_ENTROPY:
        return True
    return all(key in values and values[key] == value for key, value in wanted.items())


def words_to_confirm(state: SearchState, stated: Search | Stated) -> list[str] | None:
    """The words after `hep-ray` that confirm a search; None where there is nothing to compare.

    A search that states no baseline, and whose best trial has the default one, is given a trial to beat by name: the
    first that is another configuration. What wins is never what is to be beaten.
    """
    assert state.started is not None
    ranked = [trial for trial in state.ranked(state.started.metric, state.started.mode) if _ended_well(trial)]
    if not any(trial.status == "completed" for trial in ranked):
        return None
    best, known = ranked[0], not isinstance(stated, Stated) or stated.known
    words = ["confirm", stated.name]
    others = sorted(_others(ranked), key=lambda trial: trial.started.number)
    if known and stated.baseline:
        alone = not others and has_parameters(best.started.params, stated.baseline)
        return None if alone else words
    if known and not has_parameters(best.started.params, CROSS_ENTROPY):
        return words
    return [*words, "--baseline", f"trial={others[0].trial_id}"] if others else None


def _ended_well(trial: TrialState) -> bool:
    return bool(trial.history) and trial.status in {"completed", "stopped"}


def _others(ranked: list[TrialState]) -> Iterator[TrialState]:
    return (trial for trial in ranked[1:] if trial.started.params != ranked[0].started.params)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
