"""Accuracy of signal against background by the probability from which on an event is called signal."""

from __future__ import annotations

from hep_ray.drawing.style import colour, line
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.plotting import legend_inside, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.report.scores import THRESHOLDS, Scores, mean_and_error


def larger_class(scores: Scores) -> float:
    """Return the share of the larger of signal and background: the accuracy of calling every event so."""
    counts = scores.contenders[0].runs[0].confusion.sum(axis=1)
    signal = float(counts[scores.signal] / counts.sum())
    return max(signal, 1 - signal)


@figure("accuracy_by_threshold", "classifier", 26, "Accuracy against threshold")
def accuracy_by_threshold(data: ReportData) -> Drawn | str | None:
    """Accuracy of every contender at each threshold; None of more than two classes."""
    scores = data.scores
    if scores is None or len(scores.classes) != 2:  # noqa: PLR2004 - signal and background
        return None
    drawing, (axes,) = panels(1, 1, 4.4, width=6.6)
    told = []
    for place, scored in enumerate(scores.contenders):
        runs = scored.runs
        mean, error = mean_and_error([run.accuracy[0] for run in runs], [run.accuracy[1] for run in runs])
        axes.plot(THRESHOLDS, mean, color=colour(place), linestyle=line(place), label=scored.name)
        axes.fill_between(THRESHOLDS, mean - error, mean + error, color=colour(place), alpha=0.2, linewidth=0)
        best = int(mean.argmax())
        told.append(f"{scored.name} {mean[best]:.4g} at {THRESHOLDS[best]:g}")
    larger = larger_class(scores)
    axes.axhline(larger, color="#717581", linewidth=0.8, linestyle=":", label="the larger class alone")
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"Called {scores.classes[scores.signal]} from this probability on")
    axes.set_ylabel("Accuracy")
    tag(axes, f"{scores.task}, {scores.split}")
    legend_inside(drawing, axes)
    errors = scores.error_words("the binomial error")
    return Drawn(
        drawing,
        f"Accuracy by the threshold; {scores.where}; bands: {errors}. Best: {'; '.join(told)}. Dotted: the share of "
        f"the larger class, {larger:.4g}, which a guess of it has; accuracies are of classes as the split has them.",
    )
