"""Metrics from the confusion matrix and from the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hep_ray.metrics import metric
from hep_ray.metrics.roc import Counts, Floats, RocCurve

REJECTION_PERCENTS = (30, 50, 70, 80, 88, 90, 93)
"""Signal efficiencies; 80, 88 and 93 are those of ATLAS' tight, medium and loose electrons (arXiv:1902.04655)."""


def _correct(confusion: Counts) -> Floats:
    return np.diagonal(confusion).astype(np.float64)


@metric("accuracy", larger_is_better=True)
def accuracy(classes: Sequence[str], confusion: Counts) -> list[tuple[str, float]]:
    """Fraction of events predicted rightly, its binomial `_error`, and `_<class>`, the recall of that class."""
    events, correct = int(confusion.sum()), _correct(confusion)
    fraction = float(correct.sum()) / events
    recalls = (correct / confusion.sum(axis=1)).tolist()
    return [
        ("accuracy", fraction),
        ("accuracy_error", math.sqrt(fraction * (1 - fraction) / events)),
        *((f"accuracy_{name}", value) for name, value in zip(classes, recalls, strict=True)),
    ]


@metric("precision", larger_is_better=True)
def precision(confusion: Counts) -> float:
    """Mean over classes of the fraction predicted as the class that is of it; 0 of a class never predicted."""
    return float((_correct(confusion) / np.maximum(confusion.sum(axis=0), 1)).mean())


@metric("recall", larger_is_better=True)
def recall(confusion: Counts) -> float:
    """Mean over classes of the fraction of the class that is predicted as it."""
    return float((_correct(confusion) / confusion.sum(axis=1)).mean())


@metric("f1", larger_is_better=True, label="F1")
def f1(confusion: Counts) -> float:
    """Mean over classes of the harmonic mean of precision and recall."""
    return float((2 * _correct(confusion) / (confusion.sum(axis=1) + confusion.sum(axis=0))).mean())


@metric("confusion", larger_is_better=None)
def confusion_counts(classes: Sequence[str], confusion: Counts) -> list[tuple[str, float]]:
    """Confusion matrix: `confusion_<true>_<predicted>`, numbers of events."""
    return [
        (f"confusion_{truth}_{guess}", float(confusion[row, column]))
        for row, truth in enumerate(classes)
        for column, guess in enumerate(classes)
    ]


@metric("auc", larger_is_better=True, label="AUC")
def auc(curves: Mapping[int, RocCurve]) -> float:
    """Area under the ROC curve; with more than two classes the mean of each against the rest."""
    return math.fsum(curve.area for curve in curves.values()) / len(curves)


@metric("background_rejection", larger_is_better=True, label="1/ε_b at ε_s = {}")
def background_rejection(signal: int | None, curves: Mapping[int, RocCurve]) -> dict[str, float]:
    """1/ε_b `_at_{30,50,70,80,88,90,93}` per cent of the signal, with `…_error`: `RocCurve.background_rejection`."""
    found: dict[str, float] = {}
    for percent in REJECTION_PERCENTS if signal is not None else ():
        key = f"background_rejection_at_{percent}"
        found[key], found[f"{key}_error"] = curves[signal or 0].background_rejection(percent / 100)
    return found


@metric("asimov_significance", larger_is_better=True)
def asimov_significance(signal: int | None, curves: Mapping[int, RocCurve]) -> dict[str, float]:
    """Best median discovery significance over all cuts: `RocCurve.asimov_significance`."""
    return {} if signal is None else {"asimov_significance": curves[signal].asimov_significance()}
