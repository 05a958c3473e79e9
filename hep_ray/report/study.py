"""Study tables: trials grouped as the publication groups them, its numbers beside ours."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.table import Table

from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.metrics.labels import metric_words
from hep_ray.search.definition import Search, Stated
from hep_ray.search.published import StudyTable
from hep_ray.search.state import SearchState, TrialState

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])")

LARGE = 1000
"""From here on values are shown without decimals, as counts such as FLOPs are."""


@dataclass(frozen=True)
class Cell:
    """Results of the trials of one row in one column.

    Attributes:
        values: of the metric, one per trial that reached the epoch.
    """

    values: tuple[float, ...]

    def __str__(self) -> str:
        """Mean ± sample s.d. (number of trials); without trials a dash, without spread the value alone."""
        if not self.values:
            return "–"
        mean = statistics.fmean(self.values)
        counted = all(value.is_integer() for value in self.values) and abs(mean) > 1
        shape = ",.0f" if counted or abs(mean) >= LARGE else ".4f"
        if len(self.values) == 1:
            return f"{mean:{shape}} (1)"
        return f"{mean:{shape}} ± {statistics.stdev(self.values):{shape}} ({len(self.values)})"


def read_state(search: Search | Stated, storage: Path) -> SearchState:
    """Read what the storage knows of a search.

    Raises:
        StorageError: it was never run there.
    """
    folder = storage / search.name
    state = SearchState.read(folder)
    if state.started is None:
        raise StorageError(f"no search ran in {folder}: run the search first")
    return state


def cells(
    table: StudyTable, trials: Sequence[TrialState], metric: str, mode: str
) -> dict[str, dict[str, Cell]]:
    """Row → column → results: of each row the best configuration, over its seeds.

    Rows keep the order of the first trial of each. What has no part is told by `left_out`.

    Raises:
        InvalidConfig: no trial reports a metric of the table.
    """
    rows: dict[str, dict[str, Cell]] = {}
    for row, (chosen, _) in _chosen(table, trials, metric, mode).items():
        found: dict[str, list[float]] = {name: [] for name in columns(table)}
        for trial in chosen:
            best = trial.best(metric, mode) or {}
            for name in table.metrics:
                if name not in best:
                    raise InvalidConfig(
                        f"a study table shows metrics that trials report; '{name}' is not among {', '.join(best)}"
                    )
                if not table.epochs:
                    found[_heading(name)].append(best[name])
                for epoch in table.epochs:
                    at = [metrics[name] for metrics in trial.history if int(metrics["epoch"]) == epoch]
                    found[_heading(name, epoch)].extend(at)
        rows[row] = {column: Cell(tuple(values)) for column, values in found.items()}
    return rows


def _chosen(
    table: StudyTable, trials: Sequence[TrialState], metric: str, mode: str
) -> dict[str, tuple[list[TrialState], Counter[str]]]:
    """Return of each row the trials that are averaged, and how many are not, by reason.

    They are the best configuration, by the mean over its completed trials, which differ in their seed alone.
    """
    rows: dict[str, list[TrialState]] = {}
    for trial in sorted(trials, key=lambda one: one.started.number):
        rows.setdefault(table.row(trial.started.params), []).append(trial)
    sign = 1 if mode == "max" else -1
    found = {}
    for row, members in rows.items():
        alike: dict[str, list[TrialState]] = {}
        left: Counter[str] = Counter()
        for trial in members:
            if trial.status == "completed" and trial.history:
                params = {key: value for key, value in trial.started.params.items() if key != "seed"}
                alike.setdefault(repr(sorted(params.items())), []).append(trial)
            else:
                left[trial.status] += 1

        def score(group: list[TrialState]) -> float:
            best = [trial.best(metric, mode) or {} for trial in group]
            return sign * statistics.fmean(one.get(metric, -sign * math.inf) for one in best)

        chosen = max(alike.values(), key=score, default=[])
        others = sum(map(len, alike.values())) - len(chosen)
        if others:
            left["of other parameters"] = others
        if chosen or left.keys() - {"failed", "running"}:
            found[row] = (chosen, left)
    return found


def left_out(table: StudyTable, state: SearchState) -> list[str]:
    """Say what a table does not show: trials that are not averaged, and published numbers of another kind."""
    started = state.started
    assert started is not None
    total: Counter[str] = Counter()
    for _, left in _chosen(table, list(state.trials.values()), started.metric, started.mode).values():
        total.update(left)
    lines = []
    if total:
        words = ", ".join(f"{number} {reason}" for reason, number in total.items())
        lines.append(
            f"Each row is its best configuration over seeds, completed trials alone; left out: {words}."
        )
    if table.published and (reason := table.other_kind(started.task, _classes(state))):
        lines.append(f"Published numbers are not shown: they are {reason}.")
    return lines


def _classes(state: SearchState) -> int | None:
    """Classes that the trials tell apart, by their confusion matrices; None where none was reported."""
    for trial in state.trials.values():
        for metrics in trial.history:
            entries = sum(key.startswith("val_confusion_") for key in metrics)
            if entries:
                return math.isqrt(entries)
    return None


def columns(table: StudyTable) -> list[str]:
    """Headings of the columns of results."""
    return [_heading(name, epoch) for name in table.metrics for epoch in (table.epochs or (None,))]


def rendered(table: StudyTable, state: SearchState, *, markdown: bool = False) -> Table:
    """A study table for a terminal, or in Markdown.

    Rows that differ in numbers alone stand in their order. Published rows that no trial matches are shown with dashes:
    what was not run is not hidden.
    """
    made = Table(
        title=None if markdown else table.title,
        title_justify="left",
        header_style="bold",
        box=MARKDOWN if markdown else SIMPLE_HEAD,
    )
    head, rows = written(table, state)
    published = len(head) - 1 if shown(table, state).published else None
    for place, heading in enumerate(head):
        words = place in {0, published}
        made.add_column(heading, overflow="fold" if words else "ellipsis", no_wrap=not words)
    for row in rows:
        made.add_row(*row)
    made.caption = "\n".join(left_out(table, state)) or None
    made.caption_justify = "left"
    return made


def written(table: StudyTable, state: SearchState) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a study table, in words; the published results are the last column.

    Epochs after the full length of a trial are left out.
    """
    started = state.started
    assert started is not None
    # A column of an epoch that the preset does not reach would be empty: without any other, the best epoch is shown.
    table = shown(table, state)
    found = cells(table, list(state.trials.values()), started.metric, started.mode)
    head = [", ".join(table.rows), *columns(table)]
    if table.published:
        head.append(f"published ({table.published_on})")
    rows = []
    for row in in_order([*found, *table.published]):
        results = found.get(row, {})
        words = [str(results.get(column, Cell(()))) for column in columns(table)]
        rows.append(
            [table.name_of(row), *words, *([table.published.get(row, "")] if table.published else [])]
        )
    return head, rows


def shown(table: StudyTable, state: SearchState) -> StudyTable:
    """The table as far as it can be filled, without published numbers of another kind than the search's."""
    started = state.started
    assert started is not None
    table = replace(table, epochs=tuple(epoch for epoch in table.epochs if epoch <= started.epochs))
    if table.other_kind(started.task, _classes(state)):
        return replace(table, published={}, published_gains={})
    return table


def in_order(rows: Sequence[str]) -> list[str]:
    """Distinct rows, in the order of their numbers where nothing else tells them apart, else as they come."""
    distinct = list(dict.fromkeys(rows))
    if len({_NUMBER.sub("#", row) for row in distinct}) > 1:
        return distinct
    return sorted(distinct, key=lambda row: [float(number) for number in _NUMBER.findall(row)])


def _heading(metric: str, epoch: int | None = None) -> str:
    name = metric_words(metric).removeprefix("validation ")
    return name if epoch is None else f"{name}, epoch {epoch}"
