"""Study tables: trials grouped as the publication groups them, its numbers beside ours."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.table import Table

from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.search.script import load_search

if TYPE_CHECKING:
    from hep_ray.search.definition import Search, StudyTable
    from hep_ray.search.state import SearchState, TrialState
    from hep_ray.search.stated import Stated

__all__ = ["Cell", "cells", "columns", "load_search", "read_state", "rendered", "written"]


_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])")


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
        if len(self.values) == 1:
            return f"{mean:.4f} (1)"
        return f"{mean:.4f} ± {statistics.stdev(self.values):.4f} ({len(self.values)})"


def read_state(search: Search | Stated, storage: Path) -> SearchState:
    """What the storage knows of a search.

    Raises:
        StorageError: it was never run there.
    """
    from hep_ray.search.state import SearchState

    folder = storage / search.name
    state = SearchState.read(folder)
    if state.started is None:
        raise StorageError(f"a report is of a search that ran; {folder} holds none: run the search first")
    return state


def cells(
    table: StudyTable, trials: Sequence[TrialState], metric: str, mode: str
) -> dict[str, dict[str, Cell]]:
    """Row → column → results. Rows keep the order of the first trial of each; failed trials have no part.

    Raises:
        InvalidConfig: no trial reports a metric of the table.
    """
    rows: dict[str, dict[str, list[float]]] = {}
    for trial in sorted(trials, key=lambda one: one.started.number):
        if trial.status == "failed" or not trial.history:
            continue
        found = rows.setdefault(table.row(trial.started.params), {name: [] for name in columns(table)})
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
    return {
        row: {column: Cell(tuple(values)) for column, values in found.items()} for row, found in rows.items()
    }


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
    published = len(head) - 1 if table.published else None
    for place, heading in enumerate(head):
        words = place in {0, published}
        made.add_column(heading, overflow="fold" if words else "ellipsis", no_wrap=not words)
    for row in rows:
        made.add_row(*row)
    return made


def written(table: StudyTable, state: SearchState) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a study table, in words; the published results are the last column.

    Epochs after the full length of a trial are left out.
    """
    started = state.started
    assert started is not None
    # A column of an epoch that the preset does not reach would be empty: without any other, the best epoch is shown.
    table = replace(table, epochs=tuple(epoch for epoch in table.epochs if epoch <= started.epochs))
    found = cells(table, list(state.trials.values()), started.metric, started.mode)
    head = [", ".join(table.rows), *columns(table)]
    if table.published:
        head.append(f"published ({table.published_on})")
    rows = []
    for row in in_order([*found, *table.published]):
        results = found.get(row, {})
        words = [str(results.get(column, Cell(()))) for column in columns(table)]
        rows.append([row or "all", *words, *([table.published.get(row, "")] if table.published else [])])
    return head, rows


def in_order(rows: Sequence[str]) -> list[str]:
    """Distinct rows, in the order of their numbers where nothing else tells them apart, else as they come."""
    distinct = list(dict.fromkeys(rows))
    if len({_NUMBER.sub("#", row) for row in distinct}) > 1:
        return distinct
    return sorted(distinct, key=lambda row: [float(number) for number in _NUMBER.findall(row)])


def _heading(metric: str, epoch: int | None = None) -> str:
    name = metric.removeprefix("val_").replace("_", " ")
    return name if epoch is None else f"{name}, epoch {epoch}"
