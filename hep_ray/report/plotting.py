"""Panels, labels and legends that the figures of a report share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hep_ray.drawing.style import colour, line
from hep_ray.report.groups import Band

WIDTH = 8.4
"""Of a figure, in inches."""
GREY = "#c8c8c8"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
MOST_INSIDE = 8
"""Entries of a legend that stands inside its panel."""
LONGEST_INSIDE, LONGEST_OF_TWO = 44, 26
"""Characters of such an entry, and of one that leaves room for a second column."""
STATUS = {
    "completed": (0, "o"),
    "stopped": (1, "s"),
    "failed": (2, "X"),
    "running": (4, "^"),
    "paused": (3, "D"),
}
"""How a trial ended → place of its colour, and its marker."""


def panels(
    rows: int,
    columns: int,
    height: float,
    *,
    width: float = WIDTH,
    share_x: bool = False,
    share_y: bool = False,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels.

    Args:
        rows: of panels.
        columns: of panels.
        height: of the figure, in inches.
        width: the same.
        share_x: one horizontal axis for all.
        share_y: one vertical axis for each row.
        heights: of the rows, relative to each other; the same unless given.
    """
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharex=share_x,
        sharey="row" if share_y else False,
        height_ratios=heights,
    )
    return figure, list(grid.flat)


def curve(axes: Axes, band: Band, place: int, label: str) -> None:
    """Draw the mean of a band, and ± s.d. around it where there is any."""
    # A single point has no line to be seen.
    marker = MARKERS[place % len(MARKERS)] if len(band.epochs) == 1 else None
    axes.plot(
        band.epochs,
        band.mean,
        color=colour(place),
        linestyle=line(place),
        label=label,
        marker=marker,
        markersize=3,
    )
    if np.any(band.sd > 0):
        low, high = band.mean - band.sd, band.mean + band.sd
        axes.fill_between(band.epochs, low, high, color=colour(place), alpha=0.2, linewidth=0)


def epoch_axis(axes: Axes) -> None:
    """Epochs are whole numbers."""
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.xaxis.set_minor_locator(MaxNLocator(integer=True, nbins=40, min_n_ticks=1))


def tag(axes: Axes, words: str) -> None:
    """Which events these are, above a panel."""
    axes.set_title(words, loc="left", fontsize=8.5, color="#444444")


def legend_below(figure: Figure, axes: Axes, longest: int = 125) -> None:
    """The legend of a panel under the figure, in as many columns as its words leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        width = max(len(label) for label in labels) + 6
        columns = int(np.clip(longest // width, 1, len(labels)))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=8)


def legend_inside(
    figure: Figure,
    axes: Axes,
    place: Literal["best", "lower left", "lower right"] = "best",
    longest: int = LONGEST_INSIDE,
) -> None:
    """The legend of a panel in it; under the figure where it is too large for that.

    Args:
        figure: of the panel.
        axes: the panel.
        place: in the panel, in matplotlib's words; "best" is where it hides least.
        longest: characters of an entry that fit.
    """
    handles, labels = axes.get_legend_handles_labels()
    widest = max((len(label) for label in labels), default=0)
    if len(labels) > MOST_INSIDE or widest > longest:
        legend_below(figure, axes)
    elif handles:
        columns = 1 if len(labels) <= MOST_INSIDE // 2 or widest > LONGEST_OF_TWO else 2
        axes.legend(loc=place, ncols=columns, fontsize=8, frameon=True, framealpha=0.8, edgecolor="none")


def spread(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Limits of an axis that leave some room on both sides."""
    low, high = min(values), max(values)
    room = share * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def bulk(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that a few values far off, such as the loss of a first epoch, do not flatten.

    The range of all finite values, cut where it reaches further from the middle nine tenths than those are wide.
    """
    finite = np.array([value for value in values if np.isfinite(value)])
    if len(finite) == 0:
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.05, 0.95])
    wide = high - low
    return spread([max(float(finite.min()), low - wide), min(float(finite.max()), high + wide)])


def outside(values: Sequence[float], limits: tuple[float, float]) -> str:
    """Say in a caption how many values lie beyond the limits of an axis; empty where none does."""
    count = sum(not limits[0] <= value <= limits[1] for value in values)
    return f" {count} of {len(values)} points lie beyond the vertical axis." if count else ""
