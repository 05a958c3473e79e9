"""Calibration: the reliability diagram and its summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hep_ray.metrics import metric
from hep_ray.metrics.roc import Counts, Floats

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Events in bins of equal width of the probability of the predicted class, ((b − 1)/B, b/B].

    Attributes:
        count: (B,) events, or the sum of their weights.
        confidence: (B,) sum of the probabilities of the predicted class, each times its event's weight.
        correct: (B,) events, or the weights of those, whose predicted class is the true one.
        squares: (B,) sum of the squared weights; None where events are counted.
    """

    count: Counts | Floats
    confidence: Floats
    correct: Counts | Floats
    squares: Floats | None = None

    @property
    def mean_confidence(self) -> Floats:
        """(B,) mean probability of the predicted class; NaN in an empty bin."""
        return _ratio(self.confidence, self.count)

    @property
    def accuracy(self) -> Floats:
        """(B,) fraction predicted rightly; NaN in an empty bin."""
        return _ratio(self.correct, self.count)

    @property
    def accuracy_error(self) -> Floats:
        """(B,) binomial error of the accuracy, from the effective number of events (Σw)²/Σw²; NaN in an empty bin."""
        share = np.clip(self.accuracy, 0, 1)
        squares = self.count if self.squares is None else self.squares
        errors: Floats = np.sqrt(
            share * (1 - share) * _ratio(squares, self.count) / np.maximum(self.count, 1e-300)
        )
        return errors

    @property
    def error(self) -> float:
        """Expected calibration error: see `calibration_error`."""
        return float(np.abs(self.correct - self.confidence).sum() / self.count.sum())


def reliability(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.floating] | None = None,
) -> Reliability:
    """Fill the bins.

    Args:
        probabilities: (N, C), rows summing to one.
        labels: (N,), the true class.
        weights: (N,) of the events; None counts them.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    if weights is not None:
        count, sure, right, squares = (
            np.bincount(bins, weights=weights * part, minlength=CALIBRATION_BINS).astype(np.float64)
            for part in (1.0, confidence, correct, weights)
        )
        return Reliability(count=count, confidence=sure, correct=right, squares=squares)
    return Reliability(
        count=np.bincount(bins, minlength=CALIBRATION_BINS),
        confidence=np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS).astype(np.float64),
        correct=np.bincount(bins[correct], minlength=CALIBRATION_BINS),
    )


@metric("calibration_error", larger_is_better=False)
def calibration_error(
    scores: NDArray[np.floating], labels: NDArray[np.integer], event_weights: NDArray[np.floating] | None
) -> float:
    """Return the expected calibration error with 15 bins of equal width in the probability of the predicted class.

    Σ_bins (n_bin/N)·|accuracy_bin − mean confidence_bin|: Guo et al., arXiv:1706.04599, eq. 3; n are sums
    of weights where events have some.
    """
    return reliability(scores, labels, event_weights).error


def _ratio(part: Floats | Counts, whole: Counts | Floats) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio
