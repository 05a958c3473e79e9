"""Trials that are drawn as one: those that differ in the seed only, or that a study's table puts in one row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from hep_ray.metrics.roc import Counts, Floats
from hep_ray.search.definition import Search, Stated
from hep_ray.search.means import differ_by
from hep_ray.search.naming import Naming
from hep_ray.search.state import SearchState, TrialState

Kind = Literal["seeds", "trials", "trial"]


@dataclass(frozen=True)
class Band:
    """A metric after each epoch, over the trials of a group that reached it.

    Attributes:
        epochs: (E,) from 1.
        mean: (E,)
        sd: (E,) sample standard deviation; 0 of a single trial.
    """

    epochs: Counts
    mean: Floats
    sd: Floats


@dataclass(frozen=True)
class Group:
    """Trials that are drawn as one, failed ones left out.

    Attributes:
        name: what they have in common and others have not.
        trials: at least one, each with an epoch at least.
        kind: whether they differ in the seed only, in other parameters too, or are one trial.
        breaks: whether the model of one of them breaks a constraint of the search.
        penalty: what it is ranked below its mean, where a search trains again what would lead.
        fell: whether one of its seeds failed then, so that it is ranked behind others.
        scored: trials whose mean ranks it; all of them if none.
        offset: what the folds of these add to their mean, over all folds.
        partial: whether it was not trained on all folds, so that it is ranked behind others.
    """

    name: str
    trials: tuple[TrialState, ...]
    kind: Kind
    breaks: bool = False
    penalty: float = 0.0
    fell: bool = False
    scored: tuple[TrialState, ...] = ()
    offset: float = 0.0
    partial: bool = False

    @property
    def finished(self) -> bool:
        """Whether every trial completed: one of a single epoch was fitted at once, without epochs."""
        return all(trial.status == "completed" for trial in self.trials)

    def values_at(self, metric: str, epoch: int) -> list[float]:
        """A metric after an epoch, of every trial that reached it and reports it."""
        return [
            metrics[metric]
            for trial in self.trials
            for metrics in trial.history
            if int(metrics["epoch"]) == epoch and metric in metrics
        ]

    def band(self, metric: str) -> Band:
        """Mean ± sample s.d. over the trials after each epoch; empty where none reports the metric."""
        last = max(len(trial.history) for trial in self.trials)
        found = {epoch: values for epoch in range(1, last + 1) if (values := self.values_at(metric, epoch))}
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
        return Band(
            epochs=np.array(list(found), dtype=np.int64),
            mean=np.array([statistics.fmean(values) for values in found.values()]),
            sd=np.array(spread),
        )

    def score(self, metric: str, mode: str) -> float:
        """Mean over the trials that rank it of the metric at each one's best epoch, as it were over all folds."""
        return statistics.fmean(self.values(metric, mode)) - self.offset

    def values(self, metric: str, mode: str) -> list[float]:
        """The metric of the trials that rank it, at each one's best epoch."""
        best = [trial.best(metric, mode) for trial in self.scored or self.trials]
        return [metrics[metric] for metrics in best if metrics]


@dataclass(frozen=True)
class Groups:
    """All groups of a search, in the order in which they are named.

    Attributes:
        members: every group.
        metric: that ranks.
        mode: whether more or less of it is better.
        baseline: parameters that mark the trials to beat.
        of_study: whether the names are those that the study gives its rows.
        alike: in what trainings of one configuration differ: `seeds`, or `folds`.
    """

    members: tuple[Group, ...]
    metric: str
    mode: str
    baseline: tuple[tuple[str, object], ...] = ()
    of_study: bool = False
    alike: str = "seeds"

    @cached_property
    def ranked(self) -> tuple[Group, ...]:
        """Best first; then those that were not on all folds, of which a seed failed, and that break a constraint."""
        sign = -1 if self.mode == "max" else 1

        def place(group: Group) -> tuple[bool, bool, bool, float]:
            score = sign * group.score(self.metric, self.mode) + group.penalty
            return group.breaks, group.fell, group.partial, score

        return tuple(sorted(self.members, key=place))

    def leading(self, most: int) -> tuple[Group, ...]:
        """The best groups and, where it is not among them, the one to beat.

        In the order of naming, trials that stand alone best first.
        """
        chosen = list(self.ranked[:most])
        if self.to_beat is not None and self.to_beat not in chosen:
            chosen[-1] = self.to_beat
        alone = all(group.kind == "trial" for group in self.members)
        return tuple(group for group in (self.ranked if alone else self.members) if group in chosen)

    @cached_property
    def to_beat(self) -> Group | None:
        """The best group whose trials all have the parameters of the baseline."""
        if not self.baseline:
            return None
        for group in self.ranked:
            params = [trial.started.params for trial in group.trials]
            if all(own.get(key) == value for own in params for key, value in self.baseline):
                return group
        return None

    def words(self, groups: Sequence[Group]) -> str:
        """Over what the means of these groups are taken, for a caption."""
        counts = sorted({len(group.trials) for group in groups})
        many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        if all(group.kind == "trial" for group in groups):
            return "one trial each, so without a band"
        if any(group.kind == "trials" for group in groups):
            return f"mean ± s.d. over {many} trials, which differ in other parameters too"
        return f"mean ± s.d. over {many} {self.alike}"


def groups_of(search: Search | Stated, state: SearchState) -> Groups:
    """Group the trials of a search.

    Trials that differ in the seed only are one group, where the search has such. Otherwise the rows of the study's
    first table are, unless trials were stopped early: the mean over those that survive an epoch is not that of the
    row. Otherwise each trial stands alone.
    """
    started = state.started
    assert started is not None
    trials = [trial for trial in state.trials.values() if trial.status != "failed" and trial.history]
    trials.sort(key=lambda trial: trial.started.number)
    alike = _collect(trials, [repr(sorted(trial.started.params.items())) for trial in trials])
    kind: Kind = "seeds"
    if len(alike) == len(trials):
        kind = "trial"
        if search.tables and started.scheduler == "none":
            rows = _collect(trials, [search.tables[0].row(trial.started.params) for trial in trials])
            if len(rows) < len(trials):
                alike, kind = rows, "trials"
    names = _names(alike, search, kind, state.naming)
    members = tuple(
        Group(
            name,
            tuple(group),
            kind if len(group) > 1 else "trial",
            any(map(state.breaks, group)),
            0.0 if kind == "trials" else state.penalty(group[0]),
            kind != "trials" and state.fell(group[0]),
            (scored := tuple(state.seeds_of(group[0])) if state.repeats > 1 and kind != "trials" else ()),
            state.offset(scored or group),
            kind != "trials" and state.partial(group[0]),
        )
        for name, group in zip(names, alike, strict=True)
    )
    named = {name for table in search.tables for name in table.names.values()}
    of_study = {group.name for group in members} <= named
    return Groups(
        members, started.metric, started.mode, tuple(search.baseline.items()), of_study, differ_by(state)
    )


def _collect(trials: Sequence[TrialState], keys: Sequence[str]) -> list[list[TrialState]]:
    found: dict[str, list[TrialState]] = {}
    for trial, key in zip(trials, keys, strict=True):
        found.setdefault(key, []).append(trial)
    return list(found.values())


def _called(words: str, names: Mapping[str, str]) -> str:
    """Put the study's own names in place of single parameters: `cross-entropy` for `root_index=1`."""
    return ", ".join(names.get(word, word) for word in words.split(", "))


def _names(
    groups: Sequence[Sequence[TrialState]], search: Search | Stated, kind: Kind, naming: Naming
) -> list[str]:
    params = [group[0].started.params for group in groups]
    for table in search.tables:  # a study's own names, where they tell the groups apart
        called = [table.name_of(table.row(own)) for own in params]
        if table.names and len(set(called)) == len(called) and set(called) <= set(table.names.values()):
            return called
    if kind == "trials":
        return [search.tables[0].row(own) or "all" for own in params]
    names = {row: name for table in search.tables for row, name in table.names.items()}
    words = [_called(naming.words(own), names) for own in params]
    if kind == "seeds":
        return [name or "all trials" for name in words]
    ids = [group[0].trial_id for group in groups]
    return [one + (f": {name}" if name else "") for one, name in zip(ids, words, strict=True)]
