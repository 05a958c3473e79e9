"""The page of a report: gather, draw, fill the template, write, attach."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from hep_ray.confirm.refit_result import REFIT
from hep_ray.drawing.page import render
from hep_ray.drawing.style import house_style
from hep_ray.errors import StorageError
from hep_ray.files import storing, write_whole
from hep_ray.flags import typed
from hep_ray.metrics.labels import metric_words
from hep_ray.report import tables
from hep_ray.report.answer import answer, confirm_command
from hep_ray.report.figures import Drawn, Section, of_section
from hep_ray.report.formatting import capital
from hep_ray.report.report_data import ReportData, gather
from hep_ray.search.definition import Search, Stated
from hep_ray.search.naming import count_words
from hep_ray.tracking.client import recorded_uri
from hep_ray.tracking.mlflow_writer import attach_to_search

FILE_NAME = "report.html"
TEMPLATE = Path(__file__).with_name("report.html")
DPI = 200
"""Pixels per inch of a figure's own PNG."""
HOUR = 3600.0


@dataclass(frozen=True)
class Shown:
    """A figure of the page, or why there is none.

    Attributes:
        name: of its files.
        section: where it stands.
        title: above it.
        drawn: the figure and its caption, or a sentence in their place.
    """

    name: str
    section: Section
    title: str
    drawn: Drawn | str


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes:
        path: of the page.
        figures: files of single figures.
        data: what it was made of.
    """

    path: Path
    figures: tuple[Path, ...]
    data: ReportData


def write_report(
    search: Search | Stated,
    storage: Path,
    *,
    out: Path | None = None,
    figures: Path | None = None,
    data: Path | None = None,
    against: Sequence[str] = (),
) -> Report:
    """Write the page of a search, and where a folder is given its figures as PNG and PDF, numbers of some as JSON.

    Args:
        search: as it was stated.
        storage: folder of all searches.
        out: the page; `report.html` in the folder of the search unless given.
        figures: folder for single figures; made when absent.
        data: dataset folder; that of the search unless given.
        against: quantities in whose bins efficiencies and rejections are shown; |η| and p_T or E_T unless given.

    Raises:
        StorageError: the search was never run there, or something cannot be written.
        NothingCompleted: no trial has completed.
        UnreadableInput: the dataset that is given is none, or another one than the search's.
        UnknownName, InvalidConfig: a quantity does not suit the dataset's columns.
    """
    path = out or storage / search.name / FILE_NAME
    if out is not None and not path.absolute().parent.is_dir():
        raise StorageError(f"cannot write the page {path}: the folder {path.parent} does not exist")
    found = gather(search, storage, data, against)
    files: list[Path] = []
    with house_style():
        drawn = draw(found)
        text = page(found, drawn, storage)
        if figures is not None:
            with storing(figures):
                figures.mkdir(parents=True, exist_ok=True)
                files = [file for shown in drawn for file in save(shown, figures)]
    with storing(path):
        write_whole(path, text)
    return Report(path, tuple(files), found)


def page(data: ReportData, figures: Sequence[Shown], storage: Path) -> str:
    """Return the HTML of a report.

    Args:
        data: gathered.
        figures: drawn, in their order.
        storage: folder of all searches, for the commands.
    """
    return render(
        TEMPLATE,
        title=data.search.title.rstrip("."),
        data=data,
        figures=figures,
        tables=tables,
        running=still_running(data),
        answer=answer(data),
        first=first_figure(data),
        ranked_by=capital(metric_words(data.started.metric)),
        what_ran=what_ran(data),
        confirm=confirm_command(data),
        commands=commands(data, storage),
    )


def first_figure(data: ReportData) -> str:
    """Return the name of the figure that stands beside the answer: the ranking metric by epoch."""
    return {"val_accuracy": "accuracy_by_epoch", "val_loss": "loss_by_epoch"}.get(
        data.started.metric, "metric_by_epoch"
    )


def draw(data: ReportData) -> list[Shown]:
    """Return every figure that there is for this search, in the order of the page; in the house style of the caller."""
    entries = [entry for section in get_args(Section) for entry in of_section(section)]
    drawn = [(entry, entry.draw(data)) for entry in entries]
    return [Shown(one.name, one.section, one.title, made) for one, made in drawn if made is not None]


def attach(report: Report, storage: Path, uri: str | None = None) -> str:
    """Store the page with the search's parent run in MLflow.

    Args:
        report: written.
        storage: folder of all searches.
        uri: tracking URI; that of the search unless given.

    Returns:
        Id of the parent run.

    Raises:
        TrackingUnavailable: MLflow does not answer, or does not know the search.
    """
    started = report.data.started
    return attach_to_search(
        uri or recorded_uri(storage / started.search, started), started.search, started.search_id, report.path
    )


def save(shown: Shown, folder: Path) -> list[Path]:
    """Write a figure as PNG and PDF, and its numbers as JSON, and return the files.

    None where there is a sentence in its place; no numbers where it hands none on.
    """
    if not isinstance(shown.drawn, Drawn):
        return []
    paths = [folder / f"{shown.name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        shown.drawn.figure.savefig(path, dpi=DPI)
    if shown.drawn.numbers:
        paths.append(folder / f"{shown.name}.json")
        write_whole(paths[-1], json.dumps(_of_json(shown.drawn.numbers), indent=1) + "\n")
    return paths


def _of_json(value: Any) -> Any:
    """Return a value with null for NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _of_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_of_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def what_ran(data: ReportData) -> str:
    """Say how many trials ended how, after how many epochs and hours."""
    trials = data.state.trials
    ends = [
        f"{count} {status}"
        for status in ("completed", "stopped", "failed", "running", "paused")
        if (count := data.count(status))
    ]
    epochs = sum(len(trial.history) for trial in trials.values())
    seconds = sum(trial.seconds for trial in trials.values())
    duration = f"{seconds / HOUR:.1f} hours" if seconds >= HOUR else f"{seconds / 60:.1f} minutes"
    if seconds < 60:  # noqa: PLR2004 - of a minute
        duration = f"{seconds:.1f} seconds"
    return (
        f"{count_words(len(trials), 'trial')} of up to {count_words(data.started.epochs, 'epoch')}: "
        f"{', '.join(ends)}. {count_words(epochs, 'epoch')} were trained in {duration} of trial time "
        "(trials that ran side by side counted each)."
    )


def still_running(data: ReportData) -> str:
    """Say what has not ended yet; empty where all has."""
    if not data.running:
        return ""
    open_trials = [trial.trial_id for trial in data.state.unfinished()]
    words = f": {', '.join(open_trials[:10])} not ended" if open_trials else ""
    return (
        f"Still running, or interrupted{words}. This is what there is so far; type the command again later."
    )


def commands(data: ReportData, storage: Path) -> str:
    """Return the commands that make the same again."""
    name = data.search.name
    again = typed("hep-ray", "confirm", name, storage=storage)
    commit = data.started.provenance.get("git_commit", "unknown")
    lines = [] if commit.startswith("unknown") else [f"git checkout {commit}"]
    lines.append(data.started.provenance.get("command", f"python searches/{name}.py"))
    if data.confirmation is not None:
        lines.append(data.confirmation.provenance.get("command", again))
    if data.refit is not None:
        refit = typed("hep-ray", REFIT, name, storage=storage)
        lines.append(data.refit.found.provenance.get("command", refit))
    lines.append(typed("hep-ray", "report", name, storage=storage))
    return "\n".join(lines)
