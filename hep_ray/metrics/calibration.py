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
        count: (B,) events.
        confidence: (B,) sum of the probabilities of the predicted class.
        correct: (B,) events whose predicted class is the true one.
    """

    count: Counts
    confidence: Floats
    correct: Counts

    @property
    def mean_confidence(self) -> Floats:
        """(B,) mean probability of the predicted class; NaN in an empty bin."""
        return _ratio(self.confidence, self.count)

    @property
    def accuracy(self) -> Floats:
        """(B,) fraction predicted rightly; NaN in an empty bin."""
        return _ratio(self.correct, self.count)

    @property
    def error(self) -> float:
        """Expected calibration error: see `calibration_error`."""
        return float(np.abs(self.correct - self.confidence).sum() / self.count.sum())


def reliability(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Reliability:
    """Fill the bins.

    Args:
        probabilities: (N, C), rows summing to one.
        labels: (N,), the true class.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    return Reliability(
        count=np.bincount(bins, minlength=CALIBRATION_BINS),
        confidence=np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS).astype(np.float64),
        correct=np.bincount(bins[correct], minlength=CALIBRATION_BINS),
    )


@metric("calibration_error", larger_is_better=False)
def calibration_error(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the expected calibration error with 15 bins of equal width in the probability of the predicted class.

    Σ_bins (n_bin/N)·|accuracy_bin − mean confidence_bin|: Guo et al., arXiv:1706.04599, eq. 3.
    """
    return reliability(scores, labels).error


def _ratio(part: Floats | Counts, whole: Counts) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio
