"""Every metric of one classifier on one split, as one flat dictionary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidEvents
from hep_ray.metrics.calibration import calibration_error
from hep_ray.metrics.roc import Counts, Floats, order_of, roc_curve

REJECTION_PERCENTS = (30, 50, 70, 80, 88, 90, 93)
"""Signal efficiencies; 80, 88 and 93 are those of ATLAS' tight, medium and loose electrons (arXiv:1902.04655)."""
NORMALISATION_TOLERANCE = 1e-2


def classification_metrics(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    signal: str | None,
    log_odds: NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """Metrics of class probabilities against the truth.

    Args:
        probabilities: (N, C), rows summing to one.
        labels: (N,), the true class, 0 … C - 1; every class must occur.
        classes: C class names, in the order of the labels.
        signal: the class whose log-odds are the score of the signal, all others being background;
            None leaves out the last three lines below.
        log_odds: (N, C) ln p − ln(1 − p) of each class as `Loss.log_odds` gives them, by which events are ranked;
            without them they are taken from the probabilities as far as these tell: see `order_of`.

    Returns:
        Finite numbers under keys that MLflow accepts (a `+` in a class name becomes `plus`):

        - `accuracy` and its binomial `accuracy_error`; `accuracy_<class>`, the recall of that class.
        - `precision`, `recall`, `f1`: means over classes; the precision of a class never predicted is 0.
        - `confusion_<true>_<predicted>`: numbers of events.
        - `calibration_error`: see `calibration_error`.
        - `auc`: area under the ROC curve; with more than two classes the mean of each against the rest.
        - `background_rejection_at_{30,50,70,80,88,90,93}` and `…_error`: see `RocCurve.background_rejection`.
        - `asimov_significance`: see `RocCurve.asimov_significance`.

    Raises:
        InvalidEvents: shapes disagree, a probability is not one, a label is outside the classes, a class
            is absent, the signal is not a class, or two class names make the same key.
    """
    _validate(probabilities, labels, classes, signal)
    ranks = order_of(probabilities) if log_odds is None else log_odds
    if ranks.shape != probabilities.shape:
        raise InvalidEvents(f"log-odds are (N, C) as probabilities are; got {ranks.shape}")
    names = [name.replace("+", "plus") for name in classes]
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * len(names) + predicted, minlength=len(names) ** 2)
    confusion = confusion.reshape(len(names), len(names))

    metrics = _counting_metrics(confusion, names)
    metrics.append(("calibration_error", calibration_error(probabilities, labels)))
    signal_index = 1 if signal is None else list(classes).index(signal)
    scored = [signal_index] if len(names) == 2 else range(len(names))  # noqa: PLR2004 - two share one curve
    curves = {index: roc_curve(ranks[:, index], labels == index) for index in scored}
    metrics.append(("auc", math.fsum(curve.area for curve in curves.values()) / len(curves)))
    if signal is not None:
        curve = curves[signal_index]
        for percent in REJECTION_PERCENTS:
            rejection, error = curve.background_rejection(percent / 100)
            metrics.append((f"background_rejection_at_{percent}", rejection))
            metrics.append((f"background_rejection_at_{percent}_error", error))
        metrics.append(("asimov_significance", curve.asimov_significance()))
    return _as_dictionary(metrics)


def _counting_metrics(confusion: Counts, names: Sequence[str]) -> list[tuple[str, float]]:
    """Metrics that follow from the confusion matrix (C true, C predicted)."""
    events = int(confusion.sum())
    correct: Floats = np.diagonal(confusion).astype(np.float64)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    recall = correct / true
    precision = correct / np.maximum(predicted, 1)
    f1 = 2 * correct / (true + predicted)
    accuracy = float(correct.sum()) / events
    return [
        ("accuracy", accuracy),
        ("accuracy_error", math.sqrt(accuracy * (1 - accuracy) / events)),
        *((f"accuracy_{name}", float(value)) for name, value in zip(names, recall, strict=True)),
        ("precision", float(precision.mean())),
        ("recall", float(recall.mean())),
        ("f1", float(f1.mean())),
        *(
            (f"confusion_{truth}_{guess}", float(confusion[row, column]))
            for row, truth in enumerate(names)
            for column, guess in enumerate(names)
        ),
    ]


def _as_dictionary(metrics: Sequence[tuple[str, float]]) -> dict[str, float]:
    by_key = dict(metrics)
    if len(by_key) < len(metrics):
        keys = [key for key, _ in metrics]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise InvalidEvents(f"class names must give each metric its own key; used twice: {', '.join(twice)}")
    return by_key


def _validate(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    signal: str | None,
) -> None:
    if labels.ndim != 1 or probabilities.shape != (len(labels), len(classes)):
        raise InvalidEvents(
            f"probabilities must be (N, {len(classes)}) and labels (N,) for classes {', '.join(classes)}; "
            f"got {probabilities.shape} and {labels.shape}"
        )
    if signal is not None and signal not in classes:
        raise InvalidEvents(f"the signal must be one of {', '.join(classes)}; got '{signal}'")
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        raise InvalidEvents(f"labels must be 0 … {len(classes) - 1}; got {labels[outside][0]}")
    present = np.bincount(labels, minlength=len(classes)) > 0
    if not present.all():
        absent = ", ".join(name for name, here in zip(classes, present, strict=True) if not here)
        raise InvalidEvents(f"every class must occur among the labels; absent: {absent}")
    rows = probabilities.sum(axis=1)
    wrong = ~((np.abs(rows - 1) <= NORMALISATION_TOLERANCE) & (probabilities.min(axis=1) >= 0))
    if wrong.any():
        raise InvalidEvents(
            f"probabilities must be ≥ 0 and sum to one in each row; got {probabilities[wrong][0].tolist()}"
        )
