"""Metrics from the confusion matrix and from the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hep_ray.metrics import metric
from hep_ray.metrics.roc import BACKGROUND_PERCENTS, Counts, Floats, RocCurve, influences

REJECTION_PERCENTS = (30, 50, 70, 80, 88, 90, 93)
"""Signal efficiencies; 80, 88 and 93 are those of ATLAS' tight, medium and loose electrons (arXiv:1902.04655)."""


def _correct(confusion: Counts | Floats) -> Floats:
    return np.diagonal(confusion).astype(np.float64)


@metric("accuracy", larger_is_better=True)
def accuracy(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    confusion: Counts | Floats,
    event_weights: NDArray[np.floating] | None,
) -> list[tuple[str, float]]:
    """Fraction of events predicted rightly, its `_error`, and `_<class>`, the recall of that class.

    The error is the binomial one, √(a(1 − a)/N); of weighted events √(Σw²(c − a)²)/Σw with c = 1 of those predicted
    rightly, else 0.
    """
    events, correct = confusion.sum().item(), _correct(confusion)
    fraction = float(correct.sum()) / events
    recalls = (correct / confusion.sum(axis=1)).tolist()
    if event_weights is None:
        error = math.sqrt(fraction * (1 - fraction) / events)
    else:
        away = (scores.argmax(axis=1) == labels) - fraction
        error = math.sqrt(float((event_weights**2 * away**2).sum())) / events
    return [
        ("accuracy", fraction),
        ("accuracy_error", error),
        *((f"accuracy_{name}", value) for name, value in zip(classes, recalls, strict=True)),
    ]


@metric("precision", larger_is_better=True)
def precision(confusion: Counts | Floats) -> float:
    """Mean over classes of the fraction predicted as the class that is of it; 0 of a class never predicted."""
    return _mean_ratio(_correct(confusion), confusion.sum(axis=0))


@metric("recall", larger_is_better=True)
def recall(confusion: Counts | Floats) -> float:
    """Mean over classes of the fraction of the class that is predicted as it."""
    return float((_correct(confusion) / confusion.sum(axis=1)).mean())


@metric("f1", larger_is_better=True, label="F1")
def f1(confusion: Counts | Floats) -> float:
    """Mean over classes of the harmonic mean of precision and recall."""
    return _mean_ratio(2 * _correct(confusion), confusion.sum(axis=1) + confusion.sum(axis=0))


def _mean_ratio(part: Floats, whole: Counts | Floats) -> float:
    """Return the mean of ratios; one of nothing, or of weights that sum to 0 or less, counts as 0."""
    return float(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0).mean())


@metric("confusion", larger_is_better=None)
def confusion_counts(classes: Sequence[str], confusion: Counts | Floats) -> list[tuple[str, float]]:
    """Confusion matrix: `confusion_<true>_<predicted>`, numbers of events, or sums of their weights."""
    return [
        (f"confusion_{truth}_{guess}", float(confusion[row, column]))
        for row, truth in enumerate(classes)
        for column, guess in enumerate(classes)
    ]


@metric("auc", larger_is_better=True, label="AUC")
def auc(
    labels: NDArray[np.integer],
    log_odds: NDArray[np.floating],
    curves: Mapping[int, RocCurve],
    event_weights: NDArray[np.floating] | None,
) -> dict[str, float]:
    """Area under the ROC curve and its `_error`; with more than two classes the mean of each against the rest."""
    area = math.fsum(curve.area for curve in curves.values()) / len(curves)
    if len(curves) == 1:
        (curve,) = curves.values()
        return {"auc": area, "auc_error": curve.area_error}
    # The curves share their events, of whose parts in each the squares of the sums are summed.
    parts = [
        influences(curve, log_odds[:, label], labels == label, event_weights)
        for label, curve in curves.items()
    ]
    return {"auc": area, "auc_error": math.sqrt(float((np.mean(parts, axis=0) ** 2).sum()))}


@metric("background_rejection", larger_is_better=True, label="1/ε_b at ε_s = {}")
def background_rejection(signal: int | None, curves: Mapping[int, RocCurve]) -> dict[str, float]:
    """1/ε_b `_at_{30,50,70,80,88,90,93}` per cent of the signal, with `…_error`: `RocCurve.background_rejection`."""
    found: dict[str, float] = {}
    for percent in REJECTION_PERCENTS if signal is not None else ():
        key = f"background_rejection_at_{percent}"
        found[key], found[f"{key}_error"] = curves[signal or 0].background_rejection(percent / 100)
    return found


@metric("asimov_significance", larger_is_better=True, label="Asimov significance")
def asimov_significance(signal: int | None, curves: Mapping[int, RocCurve]) -> dict[str, float]:
    """Best median discovery significance over all cuts: `RocCurve.asimov_significance`.

    `_b{1,5,10,20}` have a background that is uncertain by so many per cent. Of events with weights also `_ams`, the
    figure of the Higgs challenge: `RocCurve.approximate_median_significance`.
    """
    if signal is None:
        return {}
    curve = curves[signal]
    found = {
        f"asimov_significance_b{percent}" if percent else "asimov_significance": curve.asimov_significance(
            percent / 100
        )
        for percent in BACKGROUND_PERCENTS
    }
    if curve.weighted:
        found["asimov_significance_ams"] = curve.approximate_median_significance()
    return found
