"""How trials ended, and which are beaten by none where there are two objectives."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from hep_ray.drawing.style import colour
from hep_ray.metrics.labels import metric_words
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label, capital
from hep_ray.report.plotting import STATUS, epoch_axis, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.search.naming import count_words
from hep_ray.search.state import OF_MODEL, TrialState, pareto_front

DECADES = 30
"""Ratio of the largest to the smallest cost from which they are drawn by their logarithms."""
LARGE = 1e5
Ends = tuple[float, float, float]
PREDICTED = 8
"""Ends that are drawn of trials which were left."""


@figure("stopping", "search", 50, "How trials ended")
def stopping(data: ReportData) -> Drawn | str | None:
    """Every trial's metric, where it ended and why; how many trials were still in training at each epoch."""
    metric = data.started.metric
    trials = [trial for trial in data.state.trials.values() if trial.history]
    drawing, (axes, beside) = panels(1, 2, 4.0)
    for trial in trials:
        place, marker = STATUS[trial.status]
        values = [metrics[metric] for metrics in trial.history]
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color=colour(place), linewidth=0.7, alpha=0.6)
        axes.plot(epochs[-1], values[-1], color=colour(place), marker=marker, markersize=4, linestyle="none")
    full = data.started.epochs
    foreseen = _draw_predicted(axes, predicted_ends(trials, full, data.started.mode), full)
    epochs = np.arange(1, full + 1)
    bottom = np.zeros(full)
    for status, (place, _) in STATUS.items():
        lengths = np.array([len(trial.history) for trial in trials if trial.status == status])
        if len(lengths):
            alive = (lengths[:, None] >= epochs).sum(axis=0)
            beside.bar(epochs, alive, 0.9, bottom=bottom, color=colour(place), linewidth=0)
            bottom += alive
    epoch_axis(axes)
    epoch_axis(beside)
    axes.margins(x=0.03, y=0.05)
    beside.margins(y=0.05)
    beside.set_xlim(0.4, full + 0.6)
    beside.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(axis_label(metric))
    beside.set_ylabel("Trials that trained this epoch")
    tag(axes, f"{data.started.task}, validation split")
    present = [status for status in STATUS if data.count(status)]
    marks = [
        Line2D([], [], color=colour(STATUS[status][0]), marker=STATUS[status][1], markersize=4)
        for status in present
    ]
    words = [f"{status} ({data.count(status)})" for status in present]
    drawing.legend(marks, words, loc="outside lower left", ncols=4, fontsize=8)
    started = data.started
    rule = (
        "no trial was stopped early" if started.scheduler == "none" else f"early stopping: {started.stopping}"
    )
    spent = sum(len(trial.history) for trial in trials)
    allowed = full * len(data.state.trials)
    lost = len(data.state.trials) - len(trials)
    unseen = f" {count_words(lost, 'trial')} without an epoch not shown on the left." if lost else ""
    return Drawn(
        drawing,
        f"Left: every trial, with a mark where it ended.{foreseen} Right: trials by the epochs that they trained, "
        f"coloured by how they ended. {count_words(spent, 'epoch')} of {allowed:,} were trained "
        f"({spent / allowed:.0%}); {rule}.{unseen}",
    )


def predicted_ends(trials: list[TrialState], full: int, mode: str) -> list[tuple[TrialState, Ends]]:
    """Return the trials that were left with a predicted end, the most promising first."""
    left = [(one, one.ending) for one in trials if one.ending is not None and len(one.history) < full]
    return sorted(left, key=lambda pair: pair[1][1], reverse=mode == "max")


def _draw_predicted(axes: Axes, left: list[tuple[TrialState, Ends]], full: int) -> str:
    """Draw where they would have ended, the first few; return the caption's words of it."""
    for place, (trial, (low, middle, high)) in enumerate(left[:PREDICTED]):
        own, at = colour(STATUS[trial.status][0]), full * (1 + 0.015 * (place + 1))
        axes.errorbar([at], [middle], [[middle - low], [high - middle]], color=own, marker=".", linewidth=0.8)
    if not left:
        return ""
    return (
        f" Right of the last epoch, with one standard deviation: where {min(len(left), PREDICTED)} of the "
        f"{count_words(len(left), 'trial')} that were left before it would have ended, as the model of learning curves "
        "expected when they last paused; the most promising first."
    )


@figure("pareto", "search", 10, "Pareto front")
def pareto(data: ReportData) -> Drawn | str | None:
    """Metric against cost; of a search with one objective there is none."""
    cost, metric = data.started.second_objective, data.started.metric
    if cost is None:
        return None
    front = pareto_front(data.state)
    points = [
        (trial.total(cost), best[metric], trial.trial_id)
        for trial in data.state.trials.values()
        if trial.status == "completed" and (best := trial.best(metric, data.started.mode))
    ]
    on = sorted(point for point in points if point[2] in front)
    off = [point for point in points if point[2] not in front]
    drawing, (axes,) = panels(1, 1, 4.2, width=6.4)
    if off:
        axes.plot(
            [x for x, _, _ in off], [y for _, y, _ in off], "o", color=colour(3), markersize=4, label="beaten"
        )
    x, y = [point[0] for point in on], [point[1] for point in on]
    axes.plot(x, y, color=colour(2), marker="D", markersize=5, drawstyle="steps-post", label="Pareto front")
    for at, height, name in on:
        axes.annotate(name, (at, height), xytext=(4, -9), textcoords="offset points", fontsize=7)
    axes.margins(0.06)
    costs = [point[0] for point in points]
    if 0 < DECADES * min(costs) < max(costs):
        axes.set_xscale("log")
    elif max(costs) >= LARGE:
        axes.xaxis.set_major_formatter(
            EngFormatter(sep="")
        )  # a power of ten at the end would lie on the label
    words = metric_words(cost) if cost in OF_MODEL else f"total {metric_words(cost)}"
    axes.set_xlabel(capital(words))
    axes.set_ylabel(axis_label(metric))
    axes.legend(loc="best", fontsize=8)
    tag(axes, f"{data.started.task}, validation split")
    return Drawn(
        drawing,
        f"Best {metric_words(metric)} of every completed trial against its {words}. No other trial "
        f"equals or beats one of the front in both and beats it in one: {len(on)} of {len(points)} trials.",
    )
