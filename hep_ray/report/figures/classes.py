"""Which class is taken for which, how the scores of each lie, and whether they are probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hep_ray.drawing.style import COLOUR_MAP, colour, line
from hep_ray.metrics.calibration import CALIBRATION_BINS
from hep_ray.metrics.roc import Floats
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.plotting import MARKERS, legend_below, legend_inside, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.report.scores import SCORE_BINS, Performance, Scored, Scores, mean_and_error, mean_and_sd
from hep_ray.search.naming import plus_minus

DARK = 0.5
"""Share of a row from which its cell is light, and its words are dark."""
SMALL = 5
"""Classes from which the words in a matrix are smaller."""


def confusion_shares(scored: Scored) -> tuple[Floats, Floats]:
    """Fraction of each true class (rows) that is predicted as each class: mean over runs and its error, (C, C) each.

    The error is the s.d. over runs, or the binomial one where that is larger.
    """
    shares = [run.confusion / run.confusion.sum(axis=1, keepdims=True) for run in scored.runs]
    return mean_and_error(shares, [run.share_errors for run in scored.runs])


def score_densities(runs: tuple[Performance, ...], label: int) -> tuple[Floats, Floats]:
    """Density of the score of one true class in `SCORE_BINS` bins: mean over runs and its error, (SCORE_BINS,) each.

    The error is the s.d. over runs, or the statistical one where that is larger.
    """
    scale = SCORE_BINS / runs[0].scores[label].sum()
    return mean_and_error(
        [run.scores[label] * scale for run in runs],
        [np.sqrt(run.score_squares[label]) * scale for run in runs],
    )


@figure("confusion", "classifier", 30, "Confusion matrix")
def confusion(data: ReportData) -> Drawn | str | None:
    """Draw the matrix of the best finalist and the baseline, or of the best trial."""
    scores = data.scores
    if scores is None:
        return None
    count = len(scores.classes)
    size = max(2.6, 0.75 * count) + 1.2
    drawing, axes = panels(1, len(scores.shown), size, width=size * len(scores.shown) + 0.6)
    for own, scored in zip(axes, scores.shown, strict=True):
        _matrix(own, scored, scores)
    axes[0].set_ylabel("True class", loc="center")
    which = " and ".join(scored.name for scored in scores.shown)
    errors = f"± {scores.error_words('the binomial error', scores.shown)}"
    return Drawn(
        drawing,
        f"Share of each true class, in per cent, that is predicted as each class ({errors}), and below it the number "
        f"of events; {which}; {scores.where}.",
    )


def _matrix(axes: Axes, scored: Scored, scores: Scores) -> None:
    mean, error = confusion_shares(scored)
    events = np.mean([run.confusion for run in scored.runs], axis=0)
    axes.imshow(mean, cmap=COLOUR_MAP, vmin=0, vmax=1, interpolation="nearest")
    places = np.arange(len(scores.classes))
    long = len(scores.classes) > 2  # noqa: PLR2004
    axes.set_xticks(places, scores.classes, rotation=35 if long else 0, ha="right" if long else "center")
    axes.set_yticks(places, scores.classes, rotation=0 if long else 90, va="center")
    axes.tick_params(which="both", length=0)
    axes.minorticks_off()
    axes.set_xlabel("Predicted class", loc="center")
    small: dict[str, Any] = {
        "fontsize": 7 if len(scores.classes) >= SMALL else 9,
        "ha": "center",
        "va": "center",
    }
    for row in range(len(places)):
        for column in range(len(places)):
            share = 100 * mean[row, column]
            words = f"{plus_minus(share, 100 * error[row, column])}\n{events[row, column]:,.0f}"
            dark = "black" if mean[row, column] > DARK else "white"
            axes.text(column, row, words, color=dark, **small)
    tag(axes, f"{scored.name}, {scores.split}")


@figure("scores", "classifier", 40, "Scores of every class")
def distributions(data: ReportData) -> Drawn | str | None:
    """Density of the probability of the signal class, for each true class."""
    scores = data.scores
    if scores is None:
        return None
    drawing, axes = panels(1, len(scores.shown), 3.9, width=0.8 + 5 * len(scores.shown))
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    lowest = []
    for own, scored in zip(axes, scores.shown, strict=True):
        for label, name in enumerate(scores.classes):
            mean, error = score_densities(scored.runs, label)
            own.stairs(mean, edges, color=colour(label), linestyle=line(label), linewidth=1.4, label=name)
            own.errorbar(centres, mean, error, fmt="none", ecolor=colour(label), elinewidth=0.9)
            lowest += mean[mean > 0].tolist()
        own.set_yscale("log")
        own.set_xlim(0, 1)
        own.set_xlabel(f"Probability of {scores.classes[scores.signal]}")
        tag(own, f"{scored.name}, {scores.split}")
    for own in axes:
        own.set_ylim(bottom=0.5 * min(lowest))
    axes[0].set_ylabel("Density of events (area 1)")
    legend_below(drawing, axes[0])
    errors = scores.error_words("the statistical error", scores.shown)
    return Drawn(
        drawing,
        f"Probability of the signal class for events of each true class, each with area 1; error bars: {errors}; "
        f"{scores.where}.",
    )


@figure("calibration", "classifier", 50, "Calibration")
def calibration(data: ReportData) -> Drawn | str | None:
    """Reliability diagram of the best finalist and the baseline, or of the best trial."""
    scores = data.scores
    if scores is None:
        return None
    drawing, (axes, below) = panels(2, 1, 5.6, width=5.6, share_x=True, heights=(3, 1))
    lowest = 1 / len(scores.classes)

    def points(place: int, values: Sequence[Floats], filled: np.ndarray, label: str) -> None:
        confidence, accuracy, error = (one[filled] for one in values)
        axes.errorbar(
            confidence,
            accuracy,
            error,
            fmt=MARKERS[place % len(MARKERS)],
            color=colour(place),
            markersize=4,
            linestyle=line(place),
            linewidth=1,
            capsize=2,
            label=label,
        )

    for scored in scores.shown:
        place = scores.place(scored)
        *values, filled = reliability_points(scored)
        mean, sd = mean_and_sd([run.reliability.error for run in scored.runs])
        told_error = plus_minus(float(mean), float(sd)) if len(scored.runs) > 1 else f"{float(mean):.4f}"
        points(place, values, filled, f"{scored.name}: calibration error {told_error}")
        count = np.mean([run.reliability.count for run in scored.runs], axis=0)
        edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
        below.stairs(count, edges, color=colour(place), linestyle=line(place))
    told = ""
    if (mended := scores.calibrated) is not None:
        curve = mended.reliability
        values = [curve.mean_confidence, curve.accuracy, curve.accuracy_error]
        label = f"{mended.name} calibrated: {curve.error:.4f}"
        points(len(scores.contenders), values, curve.count > 0, label)
        told = (
            f" Calibrated: one training of {mended.name} by a temperature ({mended.words}), as hep-ray promote stores "
            f"one: calibration error {mended.before.error:.4f} before and {mended.reliability.error:.4f} after."
        )
    axes.plot([lowest, 1], [lowest, 1], color="#717581", linewidth=0.8, linestyle=":", label="calibrated")
    axes.set_xlim(lowest, 1)
    axes.set_ylabel("Fraction predicted rightly")
    below.set_ylabel("Events")
    below.set_yscale("log")
    below.set_xlabel("Probability of the predicted class")
    tag(axes, f"{scores.task}, {scores.split}")
    legend_inside(drawing, axes, longest=64)
    errors = scores.error_words("the binomial error", scores.shown)
    return Drawn(
        drawing,
        f"Reliability diagram in {CALIBRATION_BINS} bins of the probability of the predicted class, and the events in "
        f"each bin; error bars: {errors}; {scores.where}. Points below the diagonal are overconfident. The calibration "
        f"error is the mean distance from the diagonal, weighted by events.{told}",
    )


def reliability_points(scored: Scored) -> tuple[Floats, Floats, Floats, np.ndarray]:
    """Mean confidence, accuracy and its error in each bin, and which bins have events in every run; (15,) each.

    The error is the s.d. over runs, or the binomial one where that is larger.
    """
    runs = [run.reliability for run in scored.runs]
    filled = np.all([run.count > 0 for run in runs], axis=0)
    confidence, _ = mean_and_sd([run.mean_confidence for run in runs])
    accuracy, error = mean_and_error([run.accuracy for run in runs], [run.accuracy_error for run in runs])
    return confidence, accuracy, error, filled
