"""A report from start to end: gather, draw, write, attach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hep_ray.drawing.page import write_page
from hep_ray.drawing.style import house_style
from hep_ray.errors import StorageError
from hep_ray.files import storing
from hep_ray.report.figures import Drawn, Section, of_section
from hep_ray.report.material import Material, gather
from hep_ray.report.page import Shown, page
from hep_ray.search.definition import Search
from hep_ray.search.state import recorded_uri
from hep_ray.search.stated import Stated
from hep_ray.tracking.mlflow_writer import attach_to_search

FILE_NAME = "report.html"
SECTIONS: tuple[Section, ...] = ("confirmation", "classifier", "training", "search")
DPI = 200
"""Pixels per inch of a figure's own PNG."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: of the page.
        figures: files of single figures.
        material: what it was made of.
    """

    path: Path
    figures: tuple[Path, ...]
    material: Material


def write_report(
    search: Search | Stated,
    storage: Path,
    *,
    out: Path | None = None,
    figures: Path | None = None,
    data: Path | None = None,
) -> Report:
    """Write the page of a search, and its figures as PNG and PDF where a folder for them is given.

    Args:
        search: as it was stated.
        storage: folder of all searches.
        out: the page; `report.html` in the folder of the search unless given.
        figures: folder for single figures; made when absent.
        data: dataset folder; that of the search unless given.

    Raises:
        StorageError: the search was never run there, or something cannot be written.
        NothingCompleted: no trial has completed.
        UnreadableInput: the dataset that is given is none, or another one than the search's.
    """
    path = out or storage / search.name / FILE_NAME
    if out is not None and not path.absolute().parent.is_dir():
        raise StorageError(f"a page is written into a folder that exists; {path.parent} does not")
    material = gather(search, storage, data)
    files: list[Path] = []
    with house_style():
        drawn = draw(material)
        text = page(material, drawn, storage)
        if figures is not None:
            with storing(figures):
                figures.mkdir(parents=True, exist_ok=True)
                files = [file for shown in drawn for file in save(shown, figures)]
    with storing(path):
        write_page(path, text)
    return Report(path, tuple(files), material)


def draw(material: Material) -> list[Shown]:
    """Every figure that there is for this search, in the order of the page; in the house style of the caller."""
    made = []
    for section in SECTIONS:
        for entry in of_section(section):
            drawn = entry.draw(material)
            if drawn is not None:
                made.append(Shown(entry.name, section, entry.title, drawn))
    return made


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
    started = report.material.started
    return attach_to_search(
        uri or recorded_uri(storage / started.search, started), started.search, started.search_id, report.path
    )


def save(shown: Shown, folder: Path) -> list[Path]:
    """A figure as PNG and PDF; nothing where there is a sentence in its place."""
    if not isinstance(shown.drawn, Drawn):
        return []
    paths = [folder / f"{shown.name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        shown.drawn.figure.savefig(path, dpi=DPI)
    return paths
