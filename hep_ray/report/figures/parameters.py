"""Which parameters made trials good: parallel coordinates, importance, slices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import NullFormatter
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState as OptunaState

from hep_ray.drawing.style import COLOUR_MAP, colour
from hep_ray.metrics.labels import metric_words
from hep_ray.metrics.roc import Floats
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label
from hep_ray.report.plotting import STATUS, legend_below, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.search.naming import count_words, number
from hep_ray.search.state import TrialState
from hep_ray.tracking.records import RecordedParameter

MOST_AXES = 8
MOST_SLICES = 9
ACROSS = 3
FEWEST = 8
"""Completed trials from which an importance is worked out."""
BEST_TRIALS = 5
"""Trials that count as the best ones for the importance, by Optuna's advice at least so many."""
NEEDS = "needs two trials with different parameters"


def _best_values(data: ReportData) -> Floats:
    """Return (N,) the metric of each ranked trial's best epoch."""
    metric, mode = data.started.metric, data.started.mode
    found = [trial.best(metric, mode) for trial in data.ranked]
    return np.array([metrics[metric] for metrics in found if metrics])


@figure("parallel_coordinates", "search", 20, "Parallel coordinates")
def parallel(data: ReportData) -> Drawn | str | None:
    """Every trial as a line through its parameters to its result."""
    trials = data.ranked
    found = [coordinate(name, trials, data.started.space) for name in data.varied[:MOST_AXES]]
    if not found:
        return f"Parallel coordinates: {NEEDS}."
    values = _best_values(data)
    result = Coordinate(metric_words(data.started.metric), values, (), log=False)
    drawing, (axes,) = panels(1, 1, 4.2, width=max(6.0, 1.9 + 1.25 * (len(found) + 1)))
    norm = Normalize(*result.limits)
    heights = np.array([*(one.places for one in found), result.places])
    for trial in np.argsort(values if data.started.mode == "max" else -values):
        shade = ScalarMappable(norm, COLOUR_MAP).to_rgba(values[trial])
        stopped = trials[trial].status != "completed"
        axes.plot(
            heights[:, trial],
            color=shade,
            linewidth=0.9 if stopped else 1.7,
            linestyle="--" if stopped else "-",
        )
    for place, one in enumerate((*found, result)):
        _axis(axes, place, one)
    axes.set_xlim(-0.3, len(found) + 0.45)
    axes.set_ylim(ABSENT - 0.06, 1.06)
    axes.set_axis_off()
    bar = drawing.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=axes, pad=0.02, aspect=30)
    bar.set_label(axis_label(data.started.metric), loc="center")
    left_out = len(data.varied) - len(found)
    return Drawn(
        drawing,
        f"{count_words(len(trials), 'trial')}, each a line through its parameters to its best "
        f"{metric_words(data.started.metric)}"
        + ("; dashed: not trained in full" if any(trial.status != "completed" for trial in trials) else "")
        + ("; at –: trials without the parameter" if any(np.isnan(one.values).any() for one in found) else "")
        + "."
        + (f" {count_words(left_out, 'parameter')} more not shown." if left_out else ""),
    )


def _axis(axes: Axes, place: int, one: Coordinate) -> None:
    axes.vlines(place, 0, 1, color="black", linewidth=0.8)
    ticks = one.ticks
    if np.isnan(one.values).any():
        ticks = [*ticks, (ABSENT, "–")]
    for height, words in ticks:
        axes.plot([place - 0.02, place + 0.02], [height, height], color="black", linewidth=0.8)
        boxed = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6}
        axes.text(place + 0.04, height, words, fontsize=7, va="center", bbox=boxed)
    name = one.name.replace("_", "\n", 1) if "_" in one.name else one.name.replace(" ", "\n", 1)
    axes.text(place, 1.06, name, fontsize=8, ha="center", va="bottom")


@figure("slices", "search", 40, "Slices")
def slices(data: ReportData) -> Drawn | str | None:
    """The result against each parameter by itself."""
    trials = data.ranked
    found = [coordinate(name, trials, data.started.space) for name in data.varied[:MOST_SLICES]]
    if not found:
        return f"Slices: {NEEDS}."
    values = _best_values(data)
    rows = -(-len(found) // ACROSS)
    across = min(len(found), ACROSS)
    drawing, axes = panels(rows, across, 0.7 + 2.5 * rows, width=1.2 + 2.6 * max(across, 2))
    for unused in axes[len(found) :]:
        unused.set_axis_off()
    for place, (own, one) in enumerate(zip(axes, found, strict=False)):
        _slice(own, one, values, trials)
        if place % across == 0:
            own.set_ylabel(axis_label(data.started.metric))
    tag(axes[0], f"{data.started.task}, validation split")
    legend_below(drawing, axes[0])
    return Drawn(
        drawing,
        f"Best {metric_words(data.started.metric)} of {count_words(len(trials), 'trial')} against each parameter; "
        "names are spread sideways to tell trials apart. Other parameters differ too: a slice shows no cause.",
    )


def _slice(axes: Axes, one: Coordinate, values: Floats, trials: list[TrialState]) -> None:
    sideways = np.zeros(len(values))
    if one.names:
        sideways = 0.25 * (np.arange(len(values)) % 5 - 2) / 2
    for status, (place, marker) in STATUS.items():
        own = np.array([trial.status == status for trial in trials])
        shown = own & ~np.isnan(one.values)
        if own.any():
            axes.plot(
                (one.values + sideways)[shown],
                values[shown],
                marker,
                color=colour(place),
                markersize=4,
                markerfacecolor=colour(place) if status == "completed" else "none",
                label=status,
            )
    if one.names:
        long = max(len(name) for name in one.names) * len(one.names) > 24  # noqa: PLR2004 - characters below a panel
        axes.set_xticks(
            range(len(one.names)), one.names, rotation=25 if long else 0, ha="right" if long else "center"
        )
        axes.set_xlim(*one.limits)
        axes.tick_params(axis="x", which="minor", bottom=False, top=False)
    elif one.log:
        axes.set_xscale("log")
        axes.set_xticks(round_places(*one.limits))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if not one.names:
        axes.margins(x=0.06)
    axes.margins(y=0.08)
    axes.set_xlabel(one.name.replace("_", " "))


def round_places(low: float, high: float) -> list[float]:
    """The powers of ten in a range; where there are fewer than two, three values of one digit across it."""
    powers = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    if len(powers) > 1:
        return powers
    return sorted({float(f"{value:.1g}") for value in np.geomspace(low, high, 3)})


def importances(data: ReportData) -> dict[str, float]:
    """Importance of each parameter that differs, by Optuna's PED-ANOVA over the completed trials; they sum to 1.

    The metric alone counts, of a search with a cost too.
    """
    study = data.study
    assert study is not None
    completed = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
    quantile = float(np.clip(BEST_TRIALS / len(completed), 0.1, 0.5))
    sign = -1 if data.started.mode == "max" else 1
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="PedAnova", category=UserWarning
        )  # of the sign, which is given here
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile),
            target=lambda trial: sign * trial.values[0],
        )
    kept = {name: share for name, share in found.items() if name in data.varied}
    total = sum(kept.values()) or 1.0
    return {name: share / total for name, share in kept.items()}


@figure("importance", "search", 30, "Importance of parameters")
def importance(data: ReportData) -> Drawn | str | None:
    """Bars of `importances`."""
    if data.study is None or len(data.varied) < 2:  # noqa: PLR2004 - one parameter is all there is
        return None
    completed = data.count("completed")
    if completed < FEWEST:
        return f"Importance of parameters: needs {FEWEST} completed trials; there are {completed}."
    found = importances(data)
    names = list(reversed(found))
    drawing, (axes,) = panels(1, 1, 1.0 + 0.32 * len(names), width=6.4)
    axes.barh(np.arange(len(names)), [found[name] for name in names], 0.7, color=colour(0))
    axes.set_yticks(np.arange(len(names)), [name.replace("_", " ") for name in names])
    axes.tick_params(axis="y", which="both", left=False, right=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("Share of the importance")
    tag(axes, f"{data.started.task}, {axis_label(data.started.metric)}")
    return Drawn(
        drawing,
        f"PED-ANOVA (Optuna; arXiv:2304.10255) over {completed} completed trials: how far the parameters of the best "
        f"of them differ from those of all. Trials that were stopped have no part. With few trials a rough guide.",
    )


FEW_VALUES = 6
"""Different numbers up to which an axis shows each by name."""
ABSENT = -0.14
"""Place of trials that do not have the parameter."""


@dataclass(frozen=True)
class Coordinate:
    """One parameter of all trials.

    Attributes:
        name: of the parameter.
        values: (N,) as numbers: the parameter itself, or the rank of its name; NaN where a trial lacks it.
        names: of the ranks; empty for numbers.
        log: whether it is drawn uniformly in its logarithm.
    """

    name: str
    values: Floats
    names: tuple[str, ...]
    log: bool

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis."""
        if self.names:
            return (-0.5, len(self.names) - 0.5)
        low, high = float(np.nanmin(self.values)), float(np.nanmax(self.values))
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    @property
    def places(self) -> Floats:
        """(N,) from 0 to 1 along the axis; `ABSENT` where a trial lacks the parameter."""
        low, high = self.limits
        values = self.values
        if self.log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return np.where(np.isnan(values), ABSENT, (values - low) / (high - low))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and words along the axis."""
        if self.names:
            return [((rank + 0.5) / len(self.names), name) for rank, name in enumerate(self.names)]
        low, high = self.limits
        middle = math.sqrt(low * high) if self.log else (low + high) / 2
        return [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]


def coordinate(name: str, trials: Sequence[TrialState], space: Mapping[str, RecordedParameter]) -> Coordinate:
    """One parameter of these trials.

    Args:
        name: of the parameter; at least one trial has it.
        trials: (N,)
        space: what was searched.
    """
    found = [trial.started.params.get(name) for trial in trials]
    present = {value for value in found if value is not None}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    log = numeric and name in space and space[name].is_log
    if numeric and (log or len(present) > FEW_VALUES):
        values = np.array([math.nan if value is None else float(value) for value in found])
        return Coordinate(name, values, (), log)
    ordered = sorted(present) if numeric else sorted(present, key=str)
    ranks = {value: rank for rank, value in enumerate(ordered)}
    values = np.array([math.nan if value is None else float(ranks[value]) for value in found])
    return Coordinate(name, values, tuple(number(value) for value in ordered), log=False)
