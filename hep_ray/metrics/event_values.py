"""Values of events: their mean is the metric, and their spread its error from the sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hep_ray.metrics import classification_metrics
from hep_ray.metrics.decorrelation import DECORRELATED_LOSS
from hep_ray.metrics.limit import limit_values
from hep_ray.metrics.roc import Floats, influences, roc_curve

GROUPS = 50
"""Groups of events of the jackknife, for metrics without values of single events."""
FEWEST_OF_A_CLASS = 20
"""Test events of a class below which nothing is said of the sample."""
CORRELATION = "background_distance_correlation"


def event_values(
    metric: str,
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    log_odds: NDArray[np.floating],
    classes: Sequence[str],
    signal: str | None,
    losses: NDArray[np.floating] | None = None,
    weights: NDArray[np.floating] | None = None,
    *,
    protected: NDArray[np.floating] | None = None,
    decorrelation: float = 0.0,
) -> Floats | None:
    """Return values of events, or of groups of events, of one model.

    - `accuracy`: 1 where the prediction is right, else 0. `loss`: that of the event.
    - `auc`: the placements of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837: for an event of the signal
      the share V of the background that it outscores, for one of the background the share of the signal that outscores
      it; with A the area and π the share of the event's own kind, A + (V − A)/π. Of several classes the mean.
    - `expected_limit_b10`: those of `limit_values`, the part of an event in the limit with the bins as they are.
    - every other metric of `classification_metrics`: pseudo-values of a jackknife over 50 groups of events, each with
      its part of every class; Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 11. So too
      `decorrelated_loss`. Of a score that is independent of the column the distance correlation is at its bound, where
      the spread of these values is no good error.

    With weights w a mean such as `accuracy` is m = Σwv/Σw, and the value of an event m + N w(v − m)/Σw; `auc` has the
    placements of weighted events, and the jackknife leaves weighted events out.

    Args:
        metric: without its split.
        labels: (N,).
        probabilities: (N, C).
        log_odds: (N, C), which rank.
        classes: names.
        signal: one of them, or None.
        losses: (N,) where they are known.
        weights: (N,) of the events; None counts them.
        protected: (N,) of the column that the trial is decorrelated from; None where there is none.
        decorrelation: λ of `decorrelated_loss`.

    Returns:
        (N,) or (50,); None where a class has fewer than 20 events, effectively if weighted, or the metric does not
        follow from what is given.
    """
    one = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    sums, squares = (np.bincount(labels, values, len(classes)) for values in (one, one**2))
    if squares.min() == 0 or (sums**2 / squares).min() < FEWEST_OF_A_CLASS:
        return None
    if metric == "loss":
        return None if losses is None else _of_mean(losses, weights)
    if metric == "accuracy":
        return _of_mean(probabilities.argmax(axis=1) == labels, weights)
    if metric == "auc":
        own = 1 if signal is None else list(classes).index(signal)
        scored = [own] if len(classes) == 2 else range(len(classes))  # noqa: PLR2004 - two share one curve
        of_classes = np.stack([placements(log_odds[:, k], labels == k, weights) for k in scored])
        return np.asarray(of_classes.mean(axis=0))
    if (percent := re.fullmatch(r"expected_limit_b(\d+)", metric)) and signal is not None:
        own = list(classes).index(signal)
        return limit_values(log_odds[:, own], labels == own, int(percent[1]) / 100, weights)

    def of(rows: NDArray[np.bool_]) -> float:
        left = None if weights is None else weights[rows]
        if left is not None and np.bincount(labels[rows], left, len(classes)).min() <= 0:
            return np.nan
        found = classification_metrics(
            *(probabilities[rows], labels[rows], classes, signal, log_odds[rows], left),
            only=CORRELATION if metric == DECORRELATED_LOSS else metric,
            protected=None if protected is None else protected[rows],
        )
        if metric == DECORRELATED_LOSS and losses is not None:
            loss = np.average(losses[rows].astype(np.float64), weights=left)
            return float(loss) + decorrelation * found.get(CORRELATION, np.nan) ** 2
        return found.get(metric, np.nan)

    return _jackknife(of, labels, len(classes))


def _jackknife(
    of: Callable[[NDArray[np.bool_]], float], labels: NDArray[np.integer], classes: int
) -> Floats | None:
    """Return pseudo-values of what a function makes of chosen rows; None where it is not finite."""
    group = np.empty(len(labels), dtype=np.int64)
    groups = min(GROUPS, int(np.bincount(labels).min()))
    random = np.random.default_rng(0)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        group[random.permutation(rows)] = np.arange(len(rows)) % groups
    whole = of(np.ones(len(labels), dtype=np.bool_))
    if not np.isfinite(whole):
        return None
    without = np.array([of(group != number) for number in range(groups)])
    if not np.isfinite(without).all():
        return None
    return np.asarray(whole - (groups - 1) * (without - without.mean()))


def _of_mean(values: NDArray[np.generic], weights: NDArray[np.floating] | None) -> Floats:
    """Return values of events whose mean is that of the given ones, weighted where they have weights."""
    own = np.asarray(values, dtype=np.float64)
    if weights is None:
        return own
    mean = float(np.average(own, weights=weights))
    return np.asarray(mean + len(own) * weights * (own - mean) / weights.sum())


def placements(
    scores: NDArray[np.floating],
    is_signal: NDArray[np.bool_],
    weights: NDArray[np.floating] | None = None,
) -> Floats:
    """DeLong's placements as values of events, (N,), with the area under the ROC curve as their mean.

    Args:
        scores: (N,), higher for signal.
        is_signal: (N,), of both kinds.
        weights: (N,) of the events; None counts them.
    """
    curve = roc_curve(scores, is_signal, weights)
    return curve.area + len(scores) * influences(curve, scores, is_signal, weights)
