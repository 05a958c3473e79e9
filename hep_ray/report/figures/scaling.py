"""How a result improves with the events that it is learnt from, and the power law that it follows."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.optimize import OptimizeWarning, curve_fit

from hep_ray.drawing.style import colour, line
from hep_ray.metrics import metric_of
from hep_ray.metrics.labels import SPLITS, metric_words
from hep_ray.metrics.roc import Floats
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import capital
from hep_ray.report.plotting import MARKERS, legend_inside, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.search.naming import Naming, plus_minus
from hep_ray.search.state import TrialState

EVENTS = "train_events"
"""Parameter of how many events are learnt from; 0 is all of the training split."""
FEWEST = 3
"""Sizes that a law of two parameters is fitted to, at least."""
MOST_LINES = 6
HALF_EVENT = 0.5
"""Of an event predicted wrongly: the least error of a share of which none was."""
FRACTIONS = ("accuracy", "auc", "f1", "precision", "recall")
"""Metrics that are 1 of a perfect classifier: what is missing from 1 is drawn, and follows the law."""


@dataclass(frozen=True)
class Scaling:
    """Results of one configuration by the events that it was trained with.

    Attributes:
        events: (S,) ascending.
        result: (S,) one minus a metric of `FRACTIONS`, or another as it is: mean over seeds of each trial's best epoch.
        error: (S,) s.d. of the mean over seeds and the statistical error of the validation split, in quadrature; 0
            where neither is known.
        seeds: (S,) trials of each.
        of_events: whether errors have that of the validation split, which not every metric has.
    """

    events: Floats
    result: Floats
    error: Floats
    seeds: tuple[int, ...]
    of_events: bool = True


@dataclass(frozen=True)
class PowerLaw:
    """Fit of result = α · events^−β.

    Attributes:
        scale: α
        exponent: β
        scale_error: of ln α.
        exponent_error: of β, from the errors of the points or, unweighted, from their scatter.
        correlation: of ln α and β.
        chi2: of the fit; None where it is unweighted, since not every point has an error.
        degrees: of freedom.
    """

    scale: float
    exponent: float
    scale_error: float
    exponent_error: float
    correlation: float
    chi2: float | None
    degrees: int

    def band(self, events: Floats) -> tuple[Floats, Floats]:
        """Return the fitted result and its error, both parameters' errors propagated.

        Args:
            events: (N,)
        """
        value = self.scale * events**-self.exponent
        x, (a, b) = np.log(events), (self.scale_error, self.exponent_error)
        variance = a**2 + (b * x) ** 2 - 2 * x * self.correlation * a * b
        return value, value * np.sqrt(np.clip(variance, 0, None))


def fitted_law(points: Scaling) -> PowerLaw | None:
    """Fit a power law by least squares; None of fewer than three sizes, of negative results, or where it fails.

    Points weigh by their errors, where each has one; else equally, and their scatter about the law gives its errors.

    Source: Hestness et al., arXiv:1712.00409, eq. 1 without the irreducible part.
    """
    if len(points.events) < FEWEST or not _on_logarithmic_axis(points):
        return None
    weighted = bool((points.error > 0).all())
    x = np.log(points.events)
    middle = float(x.mean())  # the two parameters are hardly correlated there

    def law(logarithm: Floats, height: float, exponent: float) -> Floats:
        powers: Floats = np.exp(height - exponent * (logarithm - middle))
        return powers

    start = (math.log(max(float(points.result.mean()), 1e-6)), 0.3)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            found, covariance = curve_fit(
                law,
                x,
                points.result,
                start,
                sigma=points.error if weighted else None,
                absolute_sigma=weighted,
                maxfev=5000,
            )
    except (RuntimeError, OptimizeWarning):
        return None
    if not np.isfinite(covariance).all():
        return None
    height, exponent = map(float, found)
    # ln α = height + β · middle
    turn = np.array([[1.0, middle], [0.0, 1.0]])
    covariance = turn @ covariance @ turn.T
    errors = np.sqrt(np.diagonal(covariance))
    both = float(errors[0] * errors[1])
    pull = (points.result - law(x, *found)) / points.error if weighted else None
    return PowerLaw(
        scale=math.exp(height + exponent * middle),
        exponent=exponent,
        scale_error=float(errors[0]),
        exponent_error=float(errors[1]),
        correlation=float(covariance[0, 1]) / both if both else 0.0,
        chi2=None if pull is None else float(pull @ pull),
        degrees=len(x) - 2,
    )


def _on_logarithmic_axis(points: Scaling) -> bool:
    return bool((points.result >= 0).all() and (points.result > 0).any())


def is_fraction(metric: str) -> bool:
    """Return whether a metric, with its split, is one of `FRACTIONS`."""
    split, _, rest = metric.partition("_")
    owner = metric_of(rest if split in SPLITS else metric)
    return owner is not None and owner.name in FRACTIONS


def scalings(data: ReportData) -> dict[str, Scaling]:
    """Return the results of each configuration that was trained with several numbers of events, by its name."""
    metric, mode = data.started.metric, data.started.mode
    all_events = data.manifest.rows("train") if data.manifest is not None else 0
    groups: dict[str, dict[int, dict[int, TrialState]]] = {}
    params_of: dict[str, Mapping[str, Any]] = {}
    for trial in data.state.trials.values():
        own = {name: value for name, value in trial.started.params.items() if name not in (EVENTS, "seed")}
        if trial.status != "completed" or EVENTS not in trial.started.params:
            continue
        asked = int(trial.started.params[EVENTS])
        events = min(asked, all_events) if asked and all_events else asked or all_events
        if events:
            key = repr(sorted(own.items()))
            params_of[key] = own
            of_seed = groups.setdefault(key, {}).setdefault(events, {})
            of_seed.setdefault(
                trial.started.seed, trial
            )  # all events, asked for by number, are the same again
    several = {key: sizes for key, sizes in groups.items() if len(sizes) > 1}
    naming = Naming.among([params_of[key] for key in several])
    rows = data.manifest.rows("val") if data.manifest is not None else 0
    found = {}
    for key, sizes in several.items():
        best = [[trial.best(metric, mode) or {} for trial in sizes[n].values()] for n in sorted(sizes)]
        points = [_point(of_size, metric, rows) for of_size in best]
        result, error, of_events = (np.array(values) for values in zip(*points, strict=True))
        counts = tuple(len(sizes[n]) for n in sorted(sizes))
        words = naming.words(params_of[key]) or "all trials"
        numbers = np.array(sorted(sizes), dtype=np.float64)
        found[words] = Scaling(numbers, result, error, counts, bool((of_events > 0).any()))
    return found


def _point(best: Sequence[Mapping[str, float]], metric: str, rows: int) -> tuple[float, float, float]:
    """Return the result of trials that differ in their seed, its error, and the statistical part of that."""
    fraction = is_fraction(metric)
    values = [1 - one[metric] if fraction else one[metric] for one in best]
    errors = [one[f"{metric}_error"] for one in best if f"{metric}_error" in one]
    statistical = statistics.fmean(errors) if errors else 0.0
    if rows and errors and statistical == 0 and fraction:
        statistical = HALF_EVENT / rows
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), math.hypot(statistical, spread), statistical


@figure("scaling_law", "training", 55, "Result against the events to learn from")
def scaling_law(data: ReportData) -> Drawn | str | None:
    """One minus the metric against the size of the training data, with a power law; None of a single size.

    Metrics that have no such bound, such as 1/ε_b, are drawn as they are, without a law where larger is better.
    """
    found = scalings(data)
    if not found:
        return None
    drawing, (axes,) = panels(1, 1, 4.4, width=6.6)
    falls = data.started.mode == "min" or is_fraction(data.started.metric)
    logarithmic = all(_on_logarithmic_axis(points) for points in found.values())
    told = []
    for place, (name, points) in enumerate(list(found.items())[:MOST_LINES]):
        lower = np.minimum(points.error, 0.9 * points.result) if logarithmic else points.error
        axes.errorbar(
            points.events, points.result, [lower, points.error], fmt=MARKERS[place % len(MARKERS)],
            color=colour(place), markersize=4.5, linewidth=1, capsize=2.5,
            label=name if len(found) > 1 else "measured",
        )  # fmt: skip
        law = fitted_law(points) if falls else None
        if law is None:
            continue
        grid = np.geomspace(points.events[0], points.events[-1], 60)
        value, error = law.band(grid)
        beta = plus_minus(law.exponent, law.exponent_error)
        axes.plot(grid, value, color=colour(place), linestyle=line(place), label=rf"$\beta$ = {beta}")
        axes.fill_between(
            grid,
            np.maximum(value - error, 0.1 * value),
            value + error,
            color=colour(place),
            alpha=0.2,
            linewidth=0,
        )
        of = f"{name}: " if len(found) > 1 else ""
        quality = "unweighted" if law.chi2 is None else f"χ²/ndf = {law.chi2:.1f}/{law.degrees}"
        told.append(f"{of}β = {beta}, {quality}")
    sizes = np.concatenate([points.events for points in found.values()])
    axes.set_xscale("log")
    axes.set_yscale("log" if logarithmic else "linear")
    axes.set_xlim(0.8 * sizes.min(), 1.25 * sizes.max())
    for own in (axes.xaxis, axes.yaxis) if logarithmic else (axes.xaxis,):
        own.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        own.set_major_formatter("{x:g}")
        own.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Events to learn from")
    words = metric_words(data.started.metric)
    label = f"1 − {words}" if is_fraction(data.started.metric) else capital(words)
    axes.set_ylabel(label)
    tag(axes, f"{data.started.task}, validation split")
    legend_inside(drawing, axes)
    seeds = sorted({count for points in found.values() for count in points.seeds})
    many = "one training each" if seeds == [1] else f"mean over {'–'.join(map(str, seeds))} seeds"
    if told:
        fits = f"Power law α · events^−β, least squares: {'; '.join(told)}"
        if "unweighted" in fits:
            fits += "; unweighted where a point has no error: the error of β is then of the points' scatter"
    elif not falls:
        fits = "No power law is fitted, which is one of what falls to 0"
    elif all(len(points.events) < FEWEST for points in found.values()):
        fits = "Too few sizes for a power law"
    else:
        fits = "No power law fits"
    left = f" {len(found) - MOST_LINES} more configurations are not shown." if len(found) > MOST_LINES else ""
    return Drawn(
        drawing,
        f"{label} of each trial at its best epoch by the events that it was trained with; {many}; "
        f"{_errors_of(found.values())}. {fits}.{left}",
    )


def _errors_of(found: Collection[Scaling]) -> str:
    """Return what the error bars are, for the caption."""
    parts = []
    if any(count > 1 for points in found for count in points.seeds):
        parts.append("that of the mean over seeds")
    if any(points.of_events for points in found):
        parts.append("that of the validation events, which all sizes share")
    return (
        f"error bars: {' and '.join(parts)}"
        if parts
        else "no error bars: one training each, and the metric has no error"
    )
