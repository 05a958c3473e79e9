"""Figures of a report: one function each, found by themselves.

    @figure("accuracy", "training", 10, "Accuracy per epoch")
    def accuracy(data: ReportData) -> Drawn | str | None: ...

A function returns the figure with its caption; a sentence that says why it cannot be drawn; or None where there is
no such thing, as a Pareto front of one objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from matplotlib.figure import Figure

from hep_ray.registry import Registry, check_name
from hep_ray.report.report_data import ReportData

Section = Literal["confirmation", "classifier", "training", "search"]


@dataclass(frozen=True)
class Drawn:
    """A figure and what it shows.

    Attributes:
        figure: drawn, in the house style.
        caption: what is shown, of which split, over how many trials or seeds.
        numbers: that are drawn, and those of the caption, as values of JSON; empty where none are handed on.
    """

    figure: Figure
    caption: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


Draw = Callable[[ReportData], "Drawn | str | None"]


@dataclass(frozen=True)
class Entry:
    """One registered figure.

    Attributes:
        name: of its files.
        section: of the page.
        place: within the section.
        title: above it.
        draw: makes it.
    """

    name: str
    section: Section
    place: int
    title: str
    draw: Draw


FIGURES: Registry[Entry] = Registry("figure", __name__)


def figure(name: str, section: Section, place: int, title: str) -> Callable[[Draw], Draw]:
    """Register a function from the data to a figure.

    Args:
        name: of its files.
        section: of the page.
        place: within the section.
        title: above it.

    Raises:
        DuplicateName: another figure has the name.
        UnknownName: the page has no such section.
    """
    check_name("section", section, get_args(Section))

    def register(draw: Draw) -> Draw:
        FIGURES.add(name, Entry(name, section, place, title, draw))
        return draw

    return register


def of_section(section: Section) -> Iterator[Entry]:
    """The figures of a section, in their order."""
    entries = [FIGURES[name] for name in FIGURES]
    yield from sorted((entry for entry in entries if entry.section == section), key=lambda entry: entry.place)
