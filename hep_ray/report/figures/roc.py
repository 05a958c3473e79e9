"""ROC curve, and background rejection against signal efficiency, with what a study gains over its row to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from hep_ray.drawing.style import colour, line
from hep_ray.metrics.classification import REJECTION_PERCENTS
from hep_ray.metrics.roc import Floats
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.plotting import MARKERS, legend_inside, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.report.scores import EFFICIENCIES, Scored, Scores, mean_and_error
from hep_ray.report.study import shown
from hep_ray.search.naming import plus_minus
from hep_ray.search.published import StudyTable

RANDOM: dict[str, Any] = {"color": "#717581", "linewidth": 0.8, "linestyle": (0, (1, 2))}


@dataclass(frozen=True)
class RocBand:
    """A contender's curve at `EFFICIENCIES`.

    Attributes:
        background_efficiency: (100,) mean over runs of ε_b.
        background_error: (100,) s.d. over runs; of a single run the statistical error.
        rejection: (100,) mean over runs of 1/ε_b.
        rejection_error: (100,) as above.
        measured: (100,) whether background passes in every run, so that 1/ε_b is no lower bound.
        auc: mean over runs.
        auc_error: s.d. over runs; of a single run the statistical error.
    """

    background_efficiency: Floats
    background_error: Floats
    rejection: Floats
    rejection_error: Floats
    measured: npt.NDArray[np.bool_]
    auc: float
    auc_error: float


def roc_band(scored: Scored) -> RocBand:
    """Average the runs' curves."""
    runs = scored.runs
    of_background = [
        run.rejection_error * run.background_efficiency**2 for run in runs
    ]  # dε_b = d(1/ε_b)·ε_b²
    auc, auc_error = mean_and_error([run.auc for run in runs], [run.auc_error for run in runs])
    return RocBand(
        *mean_and_error([run.background_efficiency for run in runs], of_background),
        *mean_and_error([run.rejection for run in runs], [run.rejection_error for run in runs]),
        ~np.any([run.limit for run in runs], axis=0),
        float(auc),
        float(auc_error),
    )


def _band_words(scores: Scores) -> str:
    return f"bands: {scores.error_words('the statistical error')}"


def _signal_words(scores: Scores) -> str:
    rest = [name for label, name in enumerate(scores.classes) if label != scores.signal]
    return f"Signal {scores.classes[scores.signal]}, background {', '.join(rest)}"


@dataclass(frozen=True)
class Gain:
    """The factor by which the best contender rejects more background than the one to beat, at a working point.

    Attributes:
        name: of the working point, as the study calls it.
        efficiency: ε_s there.
        to_beat: 1/ε_b of the one to beat.
        factor: ratio of the two 1/ε_b.
        error: of both, as if they were independent.
        bound: whether no background passes the best contender in some run, so that the factor is a lower bound.
        published: of the study; None where its numbers are of another kind than this search's.
    """

    name: str
    efficiency: float
    to_beat: float
    factor: float
    error: float
    bound: bool
    published: float | None

    def __str__(self) -> str:
        published = "" if self.published is None else f" (published {self.published:g})"
        return f"{self.name} {self.words}{published}"

    @property
    def words(self) -> str:
        """The factor with its error, or the bound."""
        return f"> {self.factor:.3g}" if self.bound else plus_minus(self.factor, self.error)


def gains(table: StudyTable, scores: Scores, *, comparable: bool) -> list[Gain]:
    """Return the gains at the working points of a study's table; none where nothing is to beat.

    Args:
        table: of the study.
        scores: of the best contender and of the one to beat.
        comparable: whether the published numbers are of the kind of these.
    """
    if [one.baseline for one in scores.shown] != [False, True]:
        return []
    best, to_beat = (roc_band(one) for one in scores.shown)
    found = []
    for name, (percent, published) in table.published_gains.items():
        place = int(np.searchsorted(EFFICIENCIES, percent / 100 - 1e-9))
        if to_beat.measured[place]:
            factor = float(best.rejection[place] / to_beat.rejection[place])
            relative = [float(one.rejection_error[place] / one.rejection[place]) for one in (best, to_beat)]
            error, bound = factor * math.hypot(*relative), not best.measured[place]
            at = float(EFFICIENCIES[place]), float(to_beat.rejection[place])
            found.append(Gain(name, *at, factor, error, bound, published if comparable else None))
    return found


def _draw_gains(axes: Axes, found: list[Gain]) -> None:
    """Draw an arrow up from the row to beat at each working point, with the factor below."""
    for gain in found:
        x, low = gain.efficiency, gain.to_beat
        arrow: dict[str, Any] = {
            "arrowstyle": "->",
            "color": "#444444",
            "linewidth": 0.7,
            "shrinkA": 3,
            "shrinkB": 3,
        }
        axes.annotate("", (x, low * gain.factor), (x, low), arrowprops=arrow)
        words = f"{gain.name}: × {gain.words}"
        axes.text(x, low / 1.3, words, rotation=90, ha="center", va="top", color="#444444", fontsize=7)


@figure("roc", "classifier", 10, "ROC curve")
def roc(data: ReportData) -> Drawn | str | None:
    """ε_s against ε_b."""
    scores = data.scores
    if scores is None:
        return None
    drawing, (axes,) = panels(1, 1, 5.4, width=5.6)
    for place, scored in enumerate(scores.contenders):
        band = roc_band(scored)
        x, y = np.concatenate([[0], EFFICIENCIES]), np.concatenate([[0], band.background_efficiency])
        axes.plot(
            y,
            x,
            color=colour(place),
            linestyle=line(place),
            label=f"{scored.name}: AUC {plus_minus(band.auc, band.auc_error)}",
        )
        low, high = (
            np.concatenate([[0], band.background_efficiency + sign * band.background_error])
            for sign in (-1, 1)
        )
        axes.fill_betweenx(
            x, np.clip(low, 0, 1), np.clip(high, 0, 1), color=colour(place), alpha=0.2, linewidth=0
        )
    axes.plot([0, 1], [0, 1], label="random", **RANDOM)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel(r"Background efficiency $\varepsilon_b$")
    axes.set_ylabel(r"Signal efficiency $\varepsilon_s$")
    tag(axes, f"{scores.task}, {scores.split}")
    legend_inside(drawing, axes, "lower right", longest=50)
    return Drawn(
        drawing,
        f"{_signal_words(scores)}; {scores.where}; {_band_words(scores)}, and so the errors of the AUC.",
    )


@figure("rejection", "classifier", 20, "Background rejection against signal efficiency")
def rejection(data: ReportData) -> Drawn | str | None:
    """1/ε_b against ε_s, with the working points and what the study gains at its own."""
    scores = data.scores
    if scores is None:
        return None
    drawing, (axes,) = panels(1, 1, 4.8, width=7.0)
    places = np.searchsorted(EFFICIENCIES, np.array(REJECTION_PERCENTS) / 100 - 1e-9)
    for place, scored in enumerate(scores.contenders):
        band = roc_band(scored)
        drawn = np.where(band.measured, band.rejection, np.nan)
        low = np.maximum(drawn - band.rejection_error, drawn / 2)
        axes.plot(EFFICIENCIES, drawn, color=colour(place), linestyle=line(place), label=scored.name)
        axes.fill_between(
            EFFICIENCIES, low, drawn + band.rejection_error, color=colour(place), alpha=0.2, linewidth=0
        )
        axes.errorbar(
            EFFICIENCIES[places],
            drawn[places],
            [(drawn - low)[places], band.rejection_error[places]],
            fmt=MARKERS[place % len(MARKERS)],
            color=colour(place),
            markersize=4,
            capsize=2.5,
            linewidth=1,
        )
    gained = [
        gain
        for table in data.search.tables
        for gain in gains(table, scores, comparable=bool(shown(table, data.state).published_gains))
    ]
    _draw_gains(axes, gained)
    beside = (
        f" {scores.shown[0].name} over {scores.shown[1].name}: × {', '.join(map(str, gained))}."
        if gained
        else ""
    )
    axes.plot(EFFICIENCIES, 1 / EFFICIENCIES, label="random", **RANDOM)
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0.9)
    axes.set_xlabel(r"Signal efficiency $\varepsilon_s$")
    axes.set_ylabel(r"Background rejection $1/\varepsilon_b$")
    tag(axes, f"{scores.task}, {scores.split}")
    legend_inside(drawing, axes, "lower left", longest=50)
    return Drawn(
        drawing,
        f"{_signal_words(scores)}; {scores.where}; {_band_words(scores)}. Points: the working points of the table "
        "below. Where no background event passes in some run there is no measurement, and no line; below, bands and "
        f"bars end at half the value.{beside}",
    )
