"""What is drawn of one model's scores on one split, counted once so that the scores need not be kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.metrics.calibration import Reliability, reliability
from hep_ray.metrics.classification import REJECTION_PERCENTS
from hep_ray.metrics.roc import Counts, Floats, RocCurve, log_odds_of, roc_curve

EFFICIENCIES: Floats = np.arange(1, 101) / 100
"""Signal efficiencies at which curves are drawn."""
SCORE_BINS = 25
"""Bins of a score, from 0 to 1."""


@dataclass(frozen=True)
class WorkingPoint:
    """The tightest cut that keeps at least a signal efficiency.

    Attributes:
        percent: signal efficiency asked for, in per cent.
        threshold: events with at least this probability of the signal pass, as far as a number near 1 can say it.
        log_odds: the same cut as ln p − ln(1 − p).
        background_efficiency: ε_b
        rejection: 1/ε_b
        error: statistical, of 1/ε_b; see `RocCurve.background_rejection`.
        limit: no background event passes: one is taken to, and the rejection is a lower bound.
        tied: background events whose score is exactly the threshold, beside another event of the signal: how many
            of them pass is not known, and all are counted.
    """

    percent: int
    threshold: float
    log_odds: float
    background_efficiency: float
    rejection: float
    error: float
    limit: bool
    tied: int = 0


@dataclass(frozen=True)
class OneVersusRest:
    """One class as the signal, all others as its background, by the probability of that class.

    Attributes:
        recall: fraction of the class that is predicted as it.
        recall_error: statistical (binomial).
        auc: area under the ROC curve.
        auc_error: statistical.
        half: at a signal efficiency of 50 %.
    """

    recall: float
    recall_error: float
    auc: float
    auc_error: float
    half: WorkingPoint


@dataclass(frozen=True)
class Performance:
    """Counts of one model on one split.

    Attributes:
        confusion: (C, C) events, true class × predicted class.
        background_efficiency: (100,) ε_b at each of `EFFICIENCIES`.
        rejection: (100,) 1/ε_b there; a lower bound where no background passes.
        rejection_error: (100,) statistical.
        limit: (100,) whether no background passes.
        auc: of the signal against the rest.
        auc_error: statistical.
        points: the working points.
        one_versus_rest: of every class.
        reliability: bins of the probability of the predicted class.
        scores: (C, SCORE_BINS) events of each true class by the probability of the signal class.
    """

    confusion: Counts
    background_efficiency: Floats
    rejection: Floats
    rejection_error: Floats
    limit: npt.NDArray[np.bool_]
    auc: float
    auc_error: float
    points: tuple[WorkingPoint, ...]
    one_versus_rest: tuple[OneVersusRest, ...]
    reliability: Reliability
    scores: Counts

    @property
    def accuracy(self) -> float:
        """Fraction predicted rightly."""
        return float(np.diagonal(self.confusion).sum() / self.confusion.sum())


def performance_of(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    signal: int,
    log_odds: npt.NDArray[np.floating[Any]] | None = None,
) -> Performance:
    """Count.

    Args:
        probabilities: (N, C), rows summing to one.
        labels: (N,) the true class.
        signal: label of the signal class.
        log_odds: (N, C) by which events are ranked; from the probabilities without them, see `log_odds_of`.

    Raises:
        InvalidEvents: a class is absent, or a probability is not finite.
    """
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    recall = np.diagonal(confusion) / confusion.sum(axis=1)
    ranks = log_odds_of(probabilities) if log_odds is None else log_odds
    curves = [roc_curve(ranks[:, label], labels == label) for label in range(classes)]
    curve = curves[signal]
    cuts = [curve.cut(float(efficiency)) for efficiency in EFFICIENCIES]
    rejections = [curve.background_rejection(float(efficiency)) for efficiency in EFFICIENCIES]
    score = np.clip((probabilities[:, signal] * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    scores = np.bincount(labels * SCORE_BINS + score, minlength=classes * SCORE_BINS)
    return Performance(
        confusion=confusion,
        background_efficiency=curve.background_efficiency[cuts],
        rejection=np.array([rejection for rejection, _ in rejections]),
        rejection_error=np.array([error for _, error in rejections]),
        limit=curve.background_passing[cuts] == 0,
        auc=curve.area,
        auc_error=curve.area_error,
        points=tuple(working_point(curve, percent) for percent in REJECTION_PERCENTS),
        one_versus_rest=tuple(
            OneVersusRest(
                recall=float(recall[label]),
                recall_error=math.sqrt(recall[label] * (1 - recall[label]) / confusion[label].sum()),
                auc=own.area,
                auc_error=own.area_error,
                half=working_point(own, 50),
            )
            for label, own in enumerate(curves)
        ),
        reliability=reliability(probabilities, labels),
        scores=scores.reshape(classes, SCORE_BINS),
    )


def working_point(curve: RocCurve, percent: int) -> WorkingPoint:
    """The cut of a curve at a signal efficiency in per cent."""
    cut = curve.cut(percent / 100)
    rejection, error = curve.background_rejection(percent / 100)
    with_signal, tied = curve.tied(percent / 100)
    return WorkingPoint(
        percent=percent,
        threshold=1 / (1 + math.exp(-max(float(curve.thresholds[cut]), -700.0))),
        log_odds=float(curve.thresholds[cut]),
        background_efficiency=float(curve.background_efficiency[cut]),
        rejection=rejection,
        error=error,
        limit=bool(curve.background_passing[cut] == 0),
        tied=tied if with_signal else 0,
    )


def mean_and_sd(values: Sequence[npt.ArrayLike]) -> tuple[Floats, Floats]:
    """Mean and sample standard deviation over runs; 0 of a single one."""
    stacked = np.asarray(values, dtype=np.float64)
    return stacked.mean(axis=0), (
        stacked.std(axis=0, ddof=1) if len(stacked) > 1 else np.zeros_like(stacked[0])
    )
