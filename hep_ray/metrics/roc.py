"""The ROC curve as a physicist reads it: what passes a cut, of the signal and of the background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidEvents

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
SURE = 1 / 1024
"""Summed probability of all other classes below which it, and not 1 − p, gives an event's odds."""


@dataclass(frozen=True)
class RocCurve:
    """Events that pass "score ≥ threshold", for every threshold that separates any two events.

    All arrays are (P,), from the tightest cut (nothing passes, threshold +inf) to the loosest (all pass).
    Events of equal score pass together.

    Attributes:
        thresholds: scores at which events start to pass, decreasing.
        signal_passing: number of signal events that pass.
        background_passing: number of background events that pass.
    """

    thresholds: Floats
    signal_passing: Counts
    background_passing: Counts

    @property
    def signal_efficiency(self) -> Floats:
        """ε_s, the fraction of signal that passes."""
        efficiency: Floats = self.signal_passing / self.signal_passing[-1]
        return efficiency

    @property
    def background_efficiency(self) -> Floats:
        """ε_b, the fraction of background that passes."""
        efficiency: Floats = self.background_passing / self.background_passing[-1]
        return efficiency

    @property
    def area(self) -> float:
        """Area under ε_s(ε_b): the probability that a signal event outscores a background event, ties half.

        Counted in integers (the Mann–Whitney U), so it does not depend on the order of the events.
        """
        steps = np.diff(self.background_passing)
        twice_pairs = int(np.dot(steps, self.signal_passing[1:] + self.signal_passing[:-1]))
        return twice_pairs / (2 * int(self.signal_passing[-1]) * int(self.background_passing[-1]))

    @property
    def area_error(self) -> float:
        """Statistical error of the area, from the numbers of events.

        Source: Hanley and McNeil, Radiology 143 (1982) 29, with the probabilities that hold for exponential scores.
        """
        area, signal, background = self.area, int(self.signal_passing[-1]), int(self.background_passing[-1])
        both_beat_one, one_beats_both = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area)
        variance += (signal - 1) * (both_beat_one - area**2) + (background - 1) * (one_beats_both - area**2)
        return math.sqrt(max(variance, 0.0) / (signal * background))

    def cut(self, signal_efficiency: float) -> int:
        """Place in the arrays of the tightest cut that keeps at least this signal efficiency.

        Args:
            signal_efficiency: in (0, 1].

        Raises:
            ValueError: the efficiency is outside (0, 1].
        """
        if not 0 < signal_efficiency <= 1:
            raise ValueError(f"a signal efficiency must be in (0, 1]; got {signal_efficiency!r}")
        # A count, not a quotient, decides: 0.7 of 10 events is 7 whatever 0.7 * 10 rounds to.
        needed = math.ceil(round(signal_efficiency * int(self.signal_passing[-1]), 9))
        return int(np.searchsorted(self.signal_passing, needed))

    def background_rejection(self, signal_efficiency: float) -> tuple[float, float]:
        """1/ε_b at the tightest cut that keeps at least this signal efficiency, and its error.

        The error is the binomial one of ε_b = k/n propagated to 1/ε_b: (n/k)·√((1 − k/n)/k). When no
        background passes, one event is taken to: the rejection is then n, a lower bound.

        Args:
            signal_efficiency: in (0, 1].

        Raises:
            ValueError: the efficiency is outside (0, 1].
        """
        background = int(self.background_passing[-1])
        passing = max(int(self.background_passing[self.cut(signal_efficiency)]), 1)
        rejection = background / passing
        return rejection, rejection * math.sqrt((1 - passing / background) / passing)

    def tied(self, signal_efficiency: float) -> tuple[int, int]:
        """Signal and background events whose score is exactly that of the cut.

        They pass together. Where there are both, and more than one, the order among them is not known: between
        none and all of the tied background the rejection is then decided by ties.

        Args:
            signal_efficiency: in (0, 1].

        Raises:
            ValueError: the efficiency is outside (0, 1].
        """
        cut = self.cut(signal_efficiency)
        return (
            int(self.signal_passing[cut] - self.signal_passing[cut - 1]),
            int(self.background_passing[cut] - self.background_passing[cut - 1]),
        )

    def asimov_significance(self) -> float:
        """Best median discovery significance over all cuts, √(2((s + b) ln(1 + s/b) − s)).

        Source: Cowan, Cranmer, Gross and Vitells, arXiv:1007.1727, eq. 97. s and b are the events counted
        here, unweighted: the value compares cuts and models on one sample and is no experiment's reach.
        Cuts that no background passes are taken to have b = 1.
        """
        signal = self.signal_passing.astype(np.float64)
        background = np.maximum(self.background_passing, 1).astype(np.float64)
        squared = 2 * ((signal + background) * np.log1p(signal / background) - signal)
        return math.sqrt(max(float(squared.max()), 0.0))


def roc_curve(scores: NDArray[np.floating], is_signal: NDArray[np.bool_]) -> RocCurve:
    """The ROC curve of a score that is higher for signal; one sort.

    Args:
        scores: (N,), finite.
        is_signal: (N,), True for signal.

    Raises:
        InvalidEvents: shapes differ, a score is not finite, or signal or background is absent.
    """
    if scores.ndim != 1 or scores.shape != is_signal.shape:
        raise InvalidEvents(
            f"scores and is_signal must both be (N,); got {scores.shape} and {is_signal.shape}"
        )
    if not np.isfinite(scores).all():
        raise InvalidEvents(f"scores must be finite; {np.count_nonzero(~np.isfinite(scores))} are not")
    signal = int(np.count_nonzero(is_signal))
    if signal in (0, len(is_signal)):
        raise InvalidEvents(
            f"a ROC curve needs signal and background events; got {signal} and {len(is_signal) - signal}"
        )
    order = np.argsort(-scores)
    ordered = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    signal_passing = np.cumsum(is_signal[order], dtype=np.int64)[last_of_tie]
    background_passing = last_of_tie + 1 - signal_passing
    return RocCurve(
        thresholds=np.concatenate(([np.inf], ordered[last_of_tie])),
        signal_passing=np.concatenate(([0], signal_passing)),
        background_passing=np.concatenate(([0], background_passing)),
    )


def log_odds_of(probabilities: NDArray[np.floating]) -> Floats:
    """Log-odds ln p − ln(1 − p) of every class, as far as probabilities tell them.

    1 − p is formed where that is exact enough. Where the other classes' probabilities sum to less than 1/1024, that sum
    q takes its place, and ln(1 − q) − ln q tells events apart whose p is rounded to 1: in single precision up to odds
    of 10³⁸. An event of which all others are 0 is at the end of the scale, and ties there are ties. Exact values come
    from the logits: `Loss.log_odds`.

    Args:
        probabilities: (N, C), rows summing to one.
    """
    own = np.asarray(probabilities, dtype=np.float64)
    others = _others(own)
    near = np.clip(np.where(others < SURE, others, own), np.finfo(np.float64).tiny, 1 - SURE / 2)
    size = np.log(near) - np.log1p(-near)
    odds: Floats = np.where(others < SURE, -size, size)
    return odds


def _others(own: Floats) -> Floats:
    """Return of each probability (N, C) the sum of the other classes'."""
    return np.stack([np.delete(own, label, axis=1).sum(axis=1) for label in range(own.shape[1])], axis=1)


def order_of(probabilities: NDArray[np.floating]) -> Floats:
    """Scores of every class that order events as `log_odds_of` does, (N, C), and keep each difference of p as it is.

    Below `SURE` of the others it is p itself, above it 1 − ln q; a logarithm of all would make neighbouring doubles
    one.

    Args:
        probabilities: (N, C), rows summing to one.
    """
    own = np.asarray(probabilities, dtype=np.float64)
    others = _others(own)
    above: Floats = 1 - np.log(np.maximum(others, np.finfo(np.float64).tiny))
    return np.where(others < SURE, above, own)


def passing(scores: NDArray[np.floating], is_signal: NDArray[np.bool_], cut: float) -> tuple[float, float]:
    """ε_s and ε_b of "score ≥ cut"; with no background event passing, one is taken to.

    Args:
        scores: (N,).
        is_signal: (N,); both kinds occur.
        cut: least score.
    """
    signal, background = scores[is_signal], scores[~is_signal]
    kept = max(int((background >= cut).sum()), 1)
    return float((signal >= cut).mean()), kept / len(background)
