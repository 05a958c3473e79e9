"""Several searches in one table: `hep-ray compare`, and `hep_ray.compare` in Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hep_ray.confirm.confirmation import FILE_NAME, FOLDER, Confirmation, load_confirmation
from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.flags import STORAGE, AsJson, Storage
from hep_ray.search.naming import count_words, number, plus_minus

if TYPE_CHECKING:
    import pandas as pd

    from hep_ray.api import Result

LEAST = 2
COLUMNS = {
    "search": "search",
    "trials": "trials",
    "epochs": "epochs",
    "cpu_hours": "CPU h",
    "trial": "best trial",
    "validation": "on validation",
    "confirmed": "confirmed on test",
    "confirmation_fault": "confirmation that cannot be read",
    "gain": "gain over its baseline",
    "end": "end",
}
"""Column of a row → its heading."""
MUST_AGREE = {"dataset_fingerprint": "the dataset", "metric": "the metric", "mode": "its direction"}
"""Fact of a search without whose agreement its numbers stand beside no other's → in words."""
LEAST_HOURS = 0.1
"""CPU hours that are told in hundredths; of fewer the first digit."""


@dataclass(frozen=True)
class SearchesCompared:
    """Several searches side by side.

    Attributes:
        groups: rows of searches whose numbers may stand beside each other; one group where all of them may.
        apart: why there are several groups; empty where there is one.
        differences: what the searches were told differently: name → what each was told, in the order of `names`.
        names: of all searches, as the rows name them.
    """

    groups: tuple[tuple[Mapping[str, Any], ...], ...]
    apart: str
    differences: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """Return the rows of all groups; `group` tells which may stand beside each other."""
        import pandas as pd

        rows = [{"group": place, **row} for place, group in enumerate(self.groups, 1) for row in group]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        from hep_ray.drawing.html_table import html_table

        parts = [f"<p>{escape(self.apart)}</p>"] if self.apart else []
        for group in self.groups:
            shown = shown_columns(group)
            title = f"<p>{escape(title_of(group))}</p>"
            rows = [[text_of(row, name) for name in shown] for row in group]
            parts.append(title + html_table([COLUMNS[name] for name in shown], rows))
        if self.differences:
            rows = [[name, *values] for name, values in self.differences.items()]
            parts.append("<p>What differs:</p>" + html_table(["", *self.names], rows))
        return "".join(parts)


def compare(*searches: str | Path | Result, storage: str | Path = STORAGE) -> SearchesCompared:
    """Set searches side by side: the best of each, what it cost, whether it is confirmed, and what differs.

    Numbers of other events or of another metric are kept in groups of their own.

    Args:
        searches: results, or folders, names or scripts as `Result.open` takes them.
        storage: folder of all searches, for names and scripts.

    Raises:
        InvalidConfig: fewer than two, or the same one twice.
        UnknownSearch, NotRun: there is no such search, or it was not run.
        NothingCompleted: a search has no result yet.
    """
    from hep_ray.api import Result

    results = [one if isinstance(one, Result) else Result.open(one, storage) for one in searches]
    folders = Counter(one.folder.resolve() for one in results)
    if len(results) < LEAST or len(folders) < len(results):
        twice = ", ".join(str(folder) for folder, count in folders.items() if count > 1)
        raise InvalidConfig(
            f"a comparison needs two or more searches, each once; got {len(results)}"
            + (f", of which twice: {twice}" if twice else "")
        )
    same_name = Counter(one.name for one in results)
    names = [one.name if same_name[one.name] == 1 else str(one.folder) for one in results]
    facts = [tuple(getattr(one.started, fact) for fact in MUST_AGREE) for one in results]
    kinds = list(dict.fromkeys(facts))
    groups = tuple(
        tuple(_row(one, name) for one, name, own in zip(results, names, facts, strict=True) if own == kind)
        for kind in kinds
    )
    apart = "" if len(kinds) == 1 else _apart(kinds, groups)
    told = [_told(one) for one in results]
    keys = list(dict.fromkeys(key for one in told for key in one))
    columns = {key: tuple(one.get(key, "–") for one in told) for key in keys}
    differences = {key: values for key, values in columns.items() if len(set(values)) > 1}
    return SearchesCompared(groups, apart, differences, tuple(names))


def _row(result: Result, name: str) -> dict[str, Any]:
    trials = result.state.drawn()
    failed = sum(trial.status == "failed" for trial in trials)
    best = result.best
    metric = result.started.metric
    confirmation, fault = _confirmation(result)
    used = [trial.used["cpu_seconds"] for trial in trials if "cpu_seconds" in trial.used]
    row: dict[str, Any] = {
        "search": name,
        "trials": len(trials),
        "epochs": sum(len(trial.history) for trial in trials),
        "cpu_hours": sum(used) / 3600 if used else None,
        "metric": metric,
        "dataset_fingerprint": result.started.dataset_fingerprint,
        "trial": best.trial_id,
        "validation": best.metrics[metric],
        "validation_error": best.metrics.get(f"{metric}_error"),
        "end": ("ended" if result.finished else "not ended") + (f", {failed} failed" if failed else ""),
    }
    if confirmation is None:
        return row | ({"confirmation_fault": fault} if fault else {})
    # The one that the search ranked first: to take the best on test would be a biased pick.
    first = confirmation.finalists[0]
    estimate = first.estimates[confirmation.metric]
    change = next(one for one in confirmation.comparisons if one.contender == first.name)
    return row | {
        "confirmed_trial": first.name,
        "confirmed_metric": confirmation.metric,
        "confirmed": estimate.mean,
        "confirmed_low": estimate.low,
        "confirmed_high": estimate.high,
        "confirmed_seeds": len(first.runs),
        "gain": change.difference.mean,
        "gain_low": change.difference.low,
        "gain_high": change.difference.high,
        "adjusted_p_value": change.adjusted_p_value,
    }


def _confirmation(result: Result) -> tuple[Confirmation | None, str]:
    """Return the confirmation of a search, if it is of this very search, or what is wrong with its file."""
    if not (result.folder / FOLDER / FILE_NAME).is_file():
        return None, ""
    try:
        found = load_confirmation(result.folder)
    except StorageError as exc:
        return None, str(exc)
    return (found if found.search_id == result.started.search_id and found.finalists else None), ""


def _apart(kinds: Sequence[tuple[Any, ...]], groups: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    differing = [
        words for place, words in enumerate(MUST_AGREE.values()) if len({kind[place] for kind in kinds}) > 1
    ]
    listing = "; ".join(", ".join(str(row["search"]) for row in group) for group in groups)
    return (
        f"These searches differ in {' and '.join(differing)}, so their numbers stand in tables of their own and are "
        f"compared within each alone: {listing}"
    )


def _told(result: Result) -> dict[str, str]:
    """Return what a search was told, as texts: what decides its trials, and its space."""
    started = result.started
    references = [
        ", ".join(f"{name}={value}" for name, value in one.items()) for one in started.points_to_evaluate
    ]
    facts = {
        "task": started.task,
        "dataset": f"{started.options.get('data', '')} ({started.dataset_fingerprint[:12]})",
        "metric": f"{started.mode} {started.metric}",
        "second objective": started.second_objective or "none",
        "sampler": started.sampler,
        "stopping": started.stopping,
        "epochs of a trial": str(started.epochs),
        "seed": str(started.seed),
        "workers of a trial": str(started.workers_per_trial),
        "evaluated first": "; ".join(references) or "none",
        "own code": ", ".join(f"{Path(one.path).name} {one.sha256[:8]}" for one in result.state.plugins)
        or "none",
        "hep_ray": started.provenance.get("hep_ray_files")
        or started.provenance.get("version_hep-ray", "unknown"),
    }
    return facts | {f"space: {name}": str(one) for name, one in started.space.items()}


def title_of(group: Sequence[Mapping[str, Any]]) -> str:
    """Return the title of a group: its metric and its events."""
    return f"{group[0]['metric']} on events {group[0]['dataset_fingerprint'][:12]}"


def shown_columns(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of which a group has anything to show."""
    return [name for name in COLUMNS if any(row.get(name) is not None for row in group)]


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Return a cell of a row as a text; numbers with their errors or intervals."""
    value = row.get(name)
    if value is None:
        return "–"
    if name == "validation" and row["validation_error"] is not None:
        return plus_minus(value, row["validation_error"])
    if name == "confirmed":
        interval = f"[{row['confirmed_low']:.4g}, {row['confirmed_high']:.4g}]"
        return f"{value:.4g} {interval} ({row['confirmed_trial']}, {count_words(row['confirmed_seeds'], 'seed')})"
    if name == "gain":
        p_value = row["adjusted_p_value"]
        text = f"{value:+.2g} [{row['gain_low']:+.2g}, {row['gain_high']:+.2g}]"
        return text if p_value is None else f"{text}, p = {p_value:.2g}"
    if name == "cpu_hours":
        return f"{value:.2f}" if value >= LEAST_HOURS else f"{value:.1g}"
    return number(value)


def compare_command(
    searches: Annotated[
        list[str], typer.Argument(metavar="SEARCH…", help="Two or more: names, folders, or paths of scripts.")
    ],
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """Set several searches side by side: the best of each, what it cost, whether it is confirmed, and what differs.

    The best on validation is a biased pick, the more so the more trials there were: where a search is confirmed, the
    mean over seeds of its first finalist on the test split stands beside it. Numbers of other events or another metric
    are shown in a table of their own.

    Example: `hep-ray compare cnn_loss resnet_loss`, or `hep-ray compare runs/susy other/susy`.

    Raises:
        InvalidConfig: fewer than two searches, or one of them twice.
        UnknownSearch, NotRun: there is no such search, or it was not run.
        NothingCompleted: a search has no result yet.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from hep_ray.console import print_text, result_console

    found = compare(*searches, storage=storage)
    console = result_console()
    if as_json:
        rows = [[dict(row) for row in group] for group in found.groups]
        told = {
            name: dict(zip(found.names, values, strict=True)) for name, values in found.differences.items()
        }
        console.print_json(json.dumps({"groups": rows, "apart": found.apart, "differences": told}))
        return
    if found.apart:
        print_text(console, found.apart + "\n")
    for group in found.groups:
        table = Table(title=title_of(group), title_justify="left", box=SIMPLE_HEAD)
        shown = shown_columns(group)
        for name in shown:
            table.add_column(COLUMNS[name], overflow="fold")
        for row in group:
            table.add_row(*(text_of(row, name) for name in shown))
        console.print(table)
    if found.differences:
        table = Table(title="What differs", title_justify="left", box=SIMPLE_HEAD)
        for name in ("", *found.names):
            table.add_column(name, overflow="fold")
        for name, values in found.differences.items():
            table.add_row(name, *values)
        console.print(table)
