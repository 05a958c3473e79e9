"""Signal efficiency and background rejection at working points, against a quantity and for each kind of background."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from hep_ray.drawing.style import colour
from hep_ray.metrics.classification import REJECTION_PERCENTS
from hep_ray.metrics.roc import Floats
from hep_ray.report.divisions import Division
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.plotting import MARKERS, legend_inside, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.report.scores import Scored, Scores, mean_and_error
from hep_ray.search.naming import count_words

POINTS = (90, 70, 50)
"""Signal efficiencies in per cent, where the study's tables name none."""
SYMBOLS = {"|η|": r"$|\eta|$", "p_T": r"$p_\mathrm{T}$", "E_T": r"$E_\mathrm{T}$"}
WIDE = 8.0
"""Ratio of the last edge of a bin to the first from which the axis is logarithmic."""


def shown_points(data: ReportData) -> tuple[int, ...]:
    """Return the signal efficiencies, in per cent, of the rejections that the study's tables have; else `POINTS`."""
    metrics = [name for table in data.search.tables for name in table.metrics]
    found = [re.search(r"background_rejection_at_(\d+)$", name) for name in metrics]
    named = {int(one[1]) for one in found if one} & set(REJECTION_PERCENTS)
    return tuple(sorted(named, reverse=True)) or POINTS


def _values(scored: Scored, place: int, percent: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Return efficiency, rejection (B,) with their errors, and where the rejection is a lower bound."""
    row = REJECTION_PERCENTS.index(percent)
    runs = [run.parts[place] for run in scored.runs]
    return (
        *mean_and_error([run.efficiency[row] for run in runs], [run.efficiency_error[row] for run in runs]),
        *mean_and_error([run.rejection[row] for run in runs], [run.rejection_error[row] for run in runs]),
        np.any([run.limit[row] for run in runs], axis=0),
    )


def _words(scores: Scores) -> str:
    errors = f"{scores.error_words('the binomial error')}, without that of the cut"
    return (
        f"{scores.where}. Cuts are those of the whole split; error bars: {errors}. An arrow is a lower bound: no "
        "background event passes (in some run), and one is taken to"
    )


@figure("working_points", "classifier", 22, "Efficiency and rejection against kinematics")
def working_points(data: ReportData) -> Drawn | str | None:
    """ε_s and 1/ε_b at the working points in bins of each quantity; None where the dataset has none."""
    scores = data.scores
    if scores is None:
        return None
    binned = [(place, one) for place, one in enumerate(scores.divisions) if not one.kinds]
    if not binned:
        return None
    columns, points = len(binned), shown_points(data)
    drawing, axes = panels(2, columns, 5.8, width=2.6 + 3.1 * columns, share_y=True)
    for column, (place, division) in enumerate(binned):
        above, below = axes[column], axes[columns + column]
        for which, scored in enumerate(scores.shown):
            for number, percent in enumerate(points):
                efficiency, error, *rejections = _values(scored, place, percent)
                style = _style(scored, which, number, percent)
                x, spans = _within(division, 0.5 + 0.16 * (which - 0.5) + 0.05 * (number - 1))
                above.errorbar(x, efficiency, error, spans, **style)
                _rejections(below, x, rejections, spans, style)
        for own in (above, below):
            _quantity_axis(own, division)
        below.set_yscale("log")
    axes[0].set_ylabel(r"Signal efficiency $\varepsilon_s$")
    axes[columns].set_ylabel(r"Background rejection $1/\varepsilon_b$")
    tag(axes[0], f"{scores.task}, {scores.split}")
    legend_inside(drawing, axes[0], longest=60)
    divided = " and ".join(division.divided for _, division in binned)
    return Drawn(
        drawing, f"At the cuts that keep {_listed(points)} of the signal, {divided}; {_words(scores)}."
    )


def _listed(points: tuple[int, ...]) -> str:
    *first, last = [f"{percent} %" for percent in points]
    return f"{', '.join(first)} and {last}" if first else last


def _is_wide(division: Division) -> bool:
    """Whether the bins are of a quantity with a unit, such as a momentum, over a large range: on a logarithmic axis."""
    edges = division.edges
    return bool(division.unit and len(edges) and edges[0] > 0 and edges[-1] > WIDE * edges[0])


def _within(division: Division, share: float) -> tuple[Floats, Floats | None]:
    """Return a place (B,) in each bin and its extent (2, B) to both sides; of values, which have none, near each."""
    if division.values:
        values = np.array(division.values)
        return values + (share - 0.5) * np.diff(values).min(), None
    low, high = division.edges[:-1], division.edges[1:]
    x = low * (high / low) ** share if _is_wide(division) else low + share * (high - low)
    return x, np.array([x - low, high - x])


def _quantity_axis(axes: Axes, division: Division) -> None:
    if division.values:
        axes.set_xticks(division.values, [f"{value:.4g}" for value in division.values])
        axes.tick_params(axis="x", which="minor", top=False, bottom=False)
    if _is_wide(division):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    words = division.words
    for plain, symbol in SYMBOLS.items():
        words = words.replace(plain, symbol)
    axes.set_xlabel(words)


def _style(scored: Scored, which: int, number: int, percent: int) -> dict[str, Any]:
    """Return the marks of a contender (the first filled, the second open) at a working point."""
    return {
        "color": colour(number),
        "markerfacecolor": colour(number) if which == 0 else "white",
        "markersize": 4.5,
        "linewidth": 1,
        "fmt": MARKERS[number % len(MARKERS)],
        "label": f"{scored.name}, $\\varepsilon_s$ = {percent / 100:g}",
    }


def _rejections(
    axes: Axes, x: Floats, values: Sequence[Floats], spans: Floats | None, style: Mapping[str, Any]
) -> None:
    """Draw rejections with their errors, and lower bounds as arrows.

    Args:
        axes: of the panel.
        x: (B,) where.
        values: rejections, their errors, and which are lower bounds.
        spans: (2, B) of the bins to both sides of x.
        style: of the marks.
    """
    rejection, error, limit = values
    bound, known = limit.astype(bool), np.isfinite(rejection)
    # An error as large as the value, of a single event that passes, has no lower end on a logarithmic axis.
    ends = np.array([np.minimum(error, 0.9 * rejection), error])
    for chosen, own in ((known & ~bound, ends), (known & bound, np.array([0.5 * rejection] * 2))):
        if chosen.any():
            wide = None if spans is None else spans[:, chosen]
            arrows = {"lolims": True} if bound[chosen].all() else {}
            axes.errorbar(x[chosen], rejection[chosen], own[:, chosen], wide, **{**style, **arrows})
            style = {**style, "label": "_"}  # one entry of the legend


@figure("background_kinds", "classifier", 24, "Rejection of each kind of background")
def background_kinds(data: ReportData) -> Drawn | str | None:
    """1/ε_b of each kind of background at the working points; None where there is a single kind."""
    scores = data.scores
    if scores is None:
        return None
    found = [(place, one) for place, one in enumerate(scores.divisions) if one.kinds]
    if not found:
        return None
    ((place, division),) = found
    points = shown_points(data)
    drawing, (axes,) = panels(1, 1, 4.6, width=2.4 + 1.5 * division.parts)
    width = 0.8 / (len(points) * len(scores.shown))
    for which, scored in enumerate(scores.shown):
        for number, percent in enumerate(points):
            _, _, *rejections = _values(scored, place, percent)
            slot = number * len(scores.shown) + which - (len(points) * len(scores.shown) - 1) / 2
            x = np.arange(division.parts, dtype=np.float64) + slot * width
            _rejections(axes, x, rejections, None, _style(scored, which, number, percent))
    axes.set_yscale("log")
    axes.axhline(1, color="#717581", linewidth=0.8, linestyle=":")
    counts = scores.contenders[0].runs[0].parts[place].background
    names = [
        f"{name.replace('_', ' ')}\n({count_words(int(count), 'event')})"
        for name, count in zip(division.kinds, counts, strict=True)
    ]
    axes.set_xticks(np.arange(division.parts), names, fontsize=7.5)
    axes.tick_params(axis="x", which="both", top=False, bottom=False)
    axes.set_xlim(-0.5, division.parts - 0.5)
    axes.set_ylabel(r"Background rejection $1/\varepsilon_b$")
    tag(axes, f"{scores.task}, {scores.split}")
    legend_inside(drawing, axes, longest=60)
    return Drawn(
        drawing,
        f"Rejection of each kind of background at the cuts that keep {_listed(points)} of the signal; "
        f"{_words(scores)}.",
    )
