"""The ROC curve as a physicist reads it: what passes a cut, of the signal and of the background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidEvents

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Scores = tuple[NDArray[np.float32], Floats]
"""Probabilities and log-odds of events, each (N, C)."""
ROUNDING = 1e-12
"""Relative difference of two sums of weights that is no more than their rounding."""
BACKGROUND_PERCENTS = (0, 1, 5, 10, 20)
"""Uncertainties of the background that stand in the names of metrics, such as `expected_limit_b10`."""
SURE = 1 / 1024
"""Summed probability of all other classes below which it, and not 1 − p, gives an event's odds."""


@dataclass(frozen=True)
class RocCurve:
    """Events that pass "score ≥ threshold", for every threshold that separates any two events.

    All arrays are (P,), from the tightest cut (nothing passes, threshold +inf) to the loosest (all pass).
    Events of equal score pass together. Weighted events, some of negative weight perhaps, are summed: what passes need
    then not rise from cut to cut.

    Attributes:
        thresholds: scores at which events start to pass, decreasing.
        signal_passing: number of signal events that pass, or sum of their weights.
        background_passing: the same of the background.
        signal_squares: sum of the squared weights of the signal that passes; None where events are counted.
        background_squares: the same of the background.
    """

    thresholds: Floats
    signal_passing: Counts | Floats
    background_passing: Counts | Floats
    signal_squares: Floats | None = None
    background_squares: Floats | None = None

    @property
    def weighted(self) -> bool:
        """Whether weights are summed, and not events counted."""
        return self.signal_squares is not None

    @property
    def signal(self) -> Floats:
        """(P, 2) sum of weights and of squared weights of the signal that passes; both the number where it is counted.

        (Σw)²/Σw² is the effective number of events.
        """
        return _sums(self.signal_passing, self.signal_squares)

    @property
    def background(self) -> Floats:
        """The same of the background."""
        return _sums(self.background_passing, self.background_squares)

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

        Counted in integers (the Mann–Whitney U), so it does not depend on the order of the events. Of weighted events
        every pair counts with the product of its weights, whatever their signs.
        """
        steps = np.diff(self.background_passing)
        twice_pairs = np.dot(steps, self.signal_passing[1:] + self.signal_passing[:-1]).item()
        return float(twice_pairs / (2 * self.signal_passing[-1].item() * self.background_passing[-1].item()))

    @property
    def outscored(self) -> tuple[Floats, Floats]:
        """Placements of each step, (P - 1,): background below its signal, signal above its background, as fractions.

        Ties count half: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837.
        """
        below = 1 - (self.background_efficiency[1:] + self.background_efficiency[:-1]) / 2
        above = (self.signal_efficiency[1:] + self.signal_efficiency[:-1]) / 2
        return below, above

    @property
    def area_error(self) -> float:
        """Statistical error of the area, from the placements of the events and the squares of their weights.

        Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837, with divisors n instead of n - 1; with
        weights each event's part counts as often as its weight says, the variance Σw²(V − A)²/(Σw)² for each kind.
        """
        area, (below, above) = self.area, self.outscored
        signal, background = self.signal, self.background
        variance = np.dot(np.diff(signal[:, 1]), (below - area) ** 2) / signal[-1, 0] ** 2
        variance += np.dot(np.diff(background[:, 1]), (above - area) ** 2) / background[-1, 0] ** 2
        return math.sqrt(max(float(variance), 0.0))

    def cut(self, signal_efficiency: float) -> int:
        """Place in the arrays of the tightest cut that keeps at least this signal efficiency.

        Args:
            signal_efficiency: in (0, 1].

        Raises:
            ValueError: the efficiency is outside (0, 1].
        """
        if not 0 < signal_efficiency <= 1:
            raise ValueError(f"a signal efficiency must be in (0, 1]; got {signal_efficiency!r}")
        total = self.signal_passing[-1].item()
        if self.weighted:
            return int(np.argmax(self.signal_passing >= signal_efficiency * total * (1 - ROUNDING)))
        # A count, not a quotient, decides: 0.7 of 10 events is 7 whatever 0.7 * 10 rounds to.
        needed = math.ceil(round(signal_efficiency * total, 9))
        return int(np.searchsorted(self.signal_passing, needed))

    @property
    def one_event(self) -> float:
        """Background that is taken to pass where none does: one event, of weighted ones one of the weight Σw²/Σw."""
        total, squares = self.background[-1]
        return float(squares / total)

    def is_limit(self, cut: int) -> bool:
        """Return whether so little background passes a cut that one event is taken to."""
        return bool(self.background_passing[cut] < self.one_event * (1 - ROUNDING))

    def background_rejection(self, signal_efficiency: float) -> tuple[float, float]:
        """1/ε_b at the tightest cut that keeps at least this signal efficiency, and its error.

        The error is that of ε_b, σ², propagated to 1/ε_b. It has two parts: the binomial one of the background that
        passes, ε_b(1 − ε_b)/n, of weighted events [(1 − ε_b)² Σ_pass w² + ε_b² Σ_fail w²]/(Σw)²; and that of the
        signal, by which the cut is set: its own binomial error times dε_b/dε_s, the slope of the curve between the cuts
        an error further in and out. When no background passes, one event is taken to: the rejection is then a lower
        bound.

        Args:
            signal_efficiency: in (0, 1].

        Raises:
            ValueError: the efficiency is outside (0, 1].
        """
        cut = self.cut(signal_efficiency)
        total = float(self.background_passing[-1])
        passing = max(float(self.background_passing[cut]), self.one_event)
        of_cut = _binomial(self.signal, cut) * self._slope(signal_efficiency, _binomial(self.signal, cut))
        if self.is_limit(cut):
            squares = float(self.background[-1, 1])
            kept = self.one_event / total
            own = math.sqrt(kept * (1 - kept) * squares) / total if kept < 1 else 0.0
        else:
            own = _binomial(self.background, cut)
        rejection = total / passing
        return rejection, rejection**2 * math.hypot(own, of_cut)

    def _slope(self, signal_efficiency: float, error: float) -> float:
        """dε_b/dε_s around a signal efficiency that is known within an error."""
        inner, outer = (
            max(signal_efficiency - error, signal_efficiency / 2),
            min(signal_efficiency + error, 1.0),
        )
        if outer <= inner:
            return 0.0
        efficiency = self.background_efficiency
        return max(0.0, float(efficiency[self.cut(outer)] - efficiency[self.cut(inner)])) / (outer - inner)

    def tied(self, signal_efficiency: float) -> tuple[int, int]:
        """Signal and background events whose score is exactly that of the cut; of weighted ones effective numbers.

        They pass together. Where there are both, and more than one, the order among them is not known: between
        none and all of the tied background the rejection is then decided by ties.

        Args:
            signal_efficiency: in (0, 1].

        Raises:
            ValueError: the efficiency is outside (0, 1].
        """
        cut = self.cut(signal_efficiency)
        if not self.weighted:
            return (
                int(self.signal_passing[cut] - self.signal_passing[cut - 1]),
                int(self.background_passing[cut] - self.background_passing[cut - 1]),
            )
        signal, background = (
            effective_events(*(sums[cut] - sums[cut - 1])) for sums in (self.signal, self.background)
        )
        return math.ceil(signal - ROUNDING), math.ceil(background - ROUNDING)

    def asimov_significance(self, uncertainty: float = 0.0) -> float:
        """Best median discovery significance over all cuts, √(2((s + b) ln(1 + s/b) − s)) of a known background.

        With σ = f·b, the error of a background that is measured beside,
        √(2((s + b) ln((s + b)(b + σ²)/(b² + (s + b)σ²)) − b²/σ² ln(1 + σ²s/(b(b + σ²))))), about s/√(b + σ²).

        Source: Cowan, Cranmer, Gross and Vitells, arXiv:1007.1727, eq. 97; with σ: Cowan, Discovery sensitivity for a
        counting experiment with background uncertainty (2012), eq. 20. s and b are the sums of the weights that
        pass: events expected where weights are normalised so. Of unweighted events they are counts, and the value
        compares cuts and models on one sample and is no experiment's reach. Cuts that no background passes are taken
        to have one event (`one_event`).

        Args:
            uncertainty: f, relative, at least 0.
        """
        return self._significance(np.maximum(self.background_passing, self.one_event), uncertainty)

    def approximate_median_significance(self, regularisation: float = 10.0) -> float:
        """Best AMS over all cuts: the same with b + b_reg in the place of b.

        Source: Adam-Bourdarios et al., The Higgs boson machine learning challenge, JMLR W&CP 42 (2015) 19, eq. 7, whose
        b_reg is 10; unlike there b is at least one event, so that a cut that few events pass promises nothing.
        """
        return self._significance(np.maximum(self.background_passing, self.one_event) + regularisation)

    def _significance(self, background: NDArray[np.generic], uncertainty: float = 0.0) -> float:
        signal = np.maximum(self.signal_passing, 0).astype(np.float64)
        expected = background.astype(np.float64)
        both, share = signal + expected, uncertainty**2
        missed = np.log1p(share * signal / (1 + share * expected)) / share if share else signal
        squared = 2 * (both * np.log1p(signal / (expected * (1 + share * both))) - missed)
        return math.sqrt(max(float(squared.max()), 0.0))


def _sums(passing: Counts | Floats, squares: Floats | None) -> Floats:
    both: Floats = np.stack([passing, passing if squares is None else squares], axis=1).astype(np.float64)
    return both


def _binomial(sums: Floats, cut: int) -> float:
    """Return the error of the fraction that passes a cut, of (P, 2) sums of weights and of their squares."""
    (total, squares), (passing, own) = sums[-1], sums[cut]
    fraction = passing / total
    variance = (1 - fraction) ** 2 * own + fraction**2 * (squares - own)
    return math.sqrt(max(float(variance), 0.0)) / float(total)


def effective_events(total: float, squares: float) -> float:
    """Return (Σw)²/Σw²: how many unweighted events are as precise; 0 of none."""
    return float(total) ** 2 / float(squares) if squares > 0 else 0.0


def roc_curve(
    scores: NDArray[np.floating],
    is_signal: NDArray[np.bool_],
    weights: NDArray[np.floating] | None = None,
) -> RocCurve:
    """The ROC curve of a score that is higher for signal; one sort.

    Args:
        scores: (N,), finite.
        is_signal: (N,), True for signal.
        weights: (N,) of the events, of any sign; None counts them.

    Raises:
        InvalidEvents: shapes differ, a score is not finite, signal or background is absent, or the weights of either
            do not sum to more than 0.
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
    thresholds: Floats = np.concatenate(([np.inf], ordered[last_of_tie]))
    own = is_signal[order]
    if weights is None:
        signal_passing = np.cumsum(own, dtype=np.int64)[last_of_tie]
        return RocCurve(
            thresholds=thresholds,
            signal_passing=np.concatenate(([0], signal_passing)),
            background_passing=np.concatenate(([0], last_of_tie + 1 - signal_passing)),
        )
    if weights.shape != scores.shape:
        raise InvalidEvents(f"weights must be (N,) as scores are; got {weights.shape} and {scores.shape}")
    weight = weights.astype(np.float64)[order]

    def summed(values: Floats, kind: NDArray[np.bool_]) -> Floats:
        return np.concatenate(([0.0], np.cumsum(np.where(kind, values, 0.0))[last_of_tie]))

    passing, other = summed(weight, own), summed(weight, ~own)
    if not (passing[-1] > 0 and other[-1] > 0):
        raise InvalidEvents(
            f"a ROC curve needs weights that sum to more than 0; got {passing[-1]:g} of the signal and {other[-1]:g} "
            "of the background"
        )
    return RocCurve(thresholds, passing, other, summed(weight**2, own), summed(weight**2, ~own))


def influences(
    curve: RocCurve,
    scores: NDArray[np.floating],
    is_signal: NDArray[np.bool_],
    weights: NDArray[np.floating] | None = None,
) -> Floats:
    """Return the part (N,) of each event in the deviation of the area from its expectation; they sum to 0.

    w(V − A)/Σw with the event's placement V among events of the other kind and the sum over its own kind. The root of
    the sum of their squares is `RocCurve.area_error`.

    Args:
        curve: of the same events.
        scores: (N,).
        is_signal: (N,).
        weights: (N,), None counts events.
    """
    below, above = curve.outscored
    place = np.searchsorted(-curve.thresholds[1:], -scores)
    total = np.where(is_signal, curve.signal[-1, 0], curve.background[-1, 0])
    placement = np.where(is_signal, below[place], above[place])
    own: Floats = (1.0 if weights is None else weights) * (placement - curve.area) / total
    return own


def mean_of(several: Sequence[Scores]) -> Scores:
    """Return the mean probabilities (N, C) of several models, and ln p − ln(1 − p) of them.

    The log-odds are worked out of those of the models, ln Σ p − ln Σ (1 − p), so that they tell events apart where
    single precision has probabilities of 1.
    """
    odds = np.stack([one for _, one in several])
    # ln p and ln (1 − p) of log-odds x are −ln(1 + e^∓x).
    up, down = (np.logaddexp.reduce(-np.logaddexp(0, sign * odds), axis=0) for sign in (-1, 1))
    probabilities = np.mean([one for one, _ in several], axis=0, dtype=np.float64)
    return np.asarray(probabilities, np.float32), np.asarray(up - down, np.float64)


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


def passing(
    scores: NDArray[np.floating],
    is_signal: NDArray[np.bool_],
    cut: float,
    weights: NDArray[np.floating] | None = None,
) -> tuple[float, float]:
    """ε_s and ε_b of "score ≥ cut"; with no background event passing, one is taken to.

    Args:
        scores: (N,).
        is_signal: (N,); both kinds occur.
        cut: least score.
        weights: (N,) of the events; None counts them.
    """
    weight = np.ones(len(scores)) if weights is None else weights.astype(np.float64)
    passes = scores >= cut
    signal, background = weight[is_signal], weight[~is_signal]
    one_event = float((background**2).sum() / background.sum())
    kept = max(float(weight[passes & ~is_signal].sum()), one_event)
    return float(weight[passes & is_signal].sum() / signal.sum()), kept / float(background.sum())
