"""The expected limit on a signal, of a fit to the score whose background is uncertain.

Every bin has an uncertainty of its own, so that the fit is a quadratic equation for each, and a limit takes a
millisecond after every epoch. pyhf 0.7.6 has the same likelihood (`uncorrelated_background`) and fits it numerically:
`upper_limit` took 6 s for one bin and 57 s for ten, on a busy core. The tests hold its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidEvents
from hep_ray.metrics import metric
from hep_ray.metrics.roc import BACKGROUND_PERCENTS, ROUNDING, Floats, RocCurve, roc_curve

BINS = 10
"""Of the score, each with an equal share of the signal."""
FEWEST_EVENTS = 10
"""Background events in a bin, effectively: a relative error of at most a third."""
LEVEL = 0.95
"""Confidence level of the limit."""
KNOWN = 1e-12
"""σ_b/b below which a background is known."""
STEPS = 100
"""Of Newton's method, at most; about six are needed."""


@metric("expected_limit", larger_is_better=False, label="expected limit on μ")
def expected_limits(signal: int | None, curves: Mapping[int, RocCurve]) -> dict[str, float]:
    """Expected upper limit on the signal strength μ, `_b{0,1,5,10,20}`: background uncertain by so many per cent.

    At 95 % CL_s, of a fit to the score of the signal in the bins of `score_bins`, see `expected_limit`; σ_b is that
    share of the background of each bin, independent from bin to bin. In units of the signal that the weights state; of
    events without weights it compares models on one sample only. `…_error` is from the number of events:
    `ScoreBins.limit_error`.
    """
    if signal is None:
        return {}
    bins, found = score_bins(curves[signal]), {}
    for percent in BACKGROUND_PERCENTS:
        key = f"expected_limit_b{percent}"
        found[key] = mu = bins.limit(percent / 100)
        found[f"{key}_error"] = bins.limit_error(percent / 100, mu)
    return found


@dataclass(frozen=True)
class ScoreBins:
    """Events in bins of the score, from the tightest to the loosest.

    Attributes:
        lowest: (B,) least score that is in the bin.
        signal_sums: (B, 2) sum of weights, at least 0, and of squared weights of the signal; both the number of events
            where they are counted.
        background_sums: (B, 2) the same of the background, above 0.
    """

    lowest: Floats
    signal_sums: Floats
    background_sums: Floats

    @property
    def signal(self) -> Floats:
        """(B,) expected events of the signal."""
        return self.signal_sums[:, 0]

    @property
    def background(self) -> Floats:
        """(B,) expected events of the background."""
        return self.background_sums[:, 0]

    def limit(self, uncertainty: float) -> float:
        """Return the expected limit with σ_b/b = `uncertainty` in every bin; see `expected_limit`."""
        return expected_limit(self.signal, self.background, uncertainty * self.background)

    def gains(self, uncertainty: float, limit: float | None = None) -> tuple[Floats, Floats]:
        """dμ of the limit for one more expected event in a bin, (B,) of signal and (B,) of background.

        Less their mean over the events of the kind, of which the sum that is expected is known: what a bin has more,
        the others have less.

        Args:
            uncertainty: σ_b/b.
            limit: the same bins' `limit` of it, where it is known already.
        """
        signal, background = self.signal, self.background
        mu = self.limit(uncertainty) if limit is None else limit
        more, away = _profile(mu, signal, background, uncertainty * background)
        of_signal = 2 * more / (1 + more)
        of_background = 2 * ((1 + away) * more / (1 + more) - np.log1p(more))
        slope = np.dot(signal, of_signal)
        found = (-mu * of_signal / slope, -of_background / slope)
        centred = [
            one - np.average(one, weights=sums) for one, sums in zip(found, (signal, background), strict=True)
        ]
        return centred[0], centred[1]

    def limit_error(self, uncertainty: float, limit: float | None = None) -> float:
        """Statistical error of the limit from the finite number of events: √(Σ g² Σ_bin w²), see `gains`.

        Bins are taken as they are. Where they end by their number of background events, that does not fluctuate, and
        the error is up to twice the spread of samples.

        Args:
            uncertainty: σ_b/b.
            limit: as `gains` takes it.
        """
        of_signal, of_background = self.gains(uncertainty, limit)
        variance = np.dot(of_signal**2, self.signal_sums[:, 1])
        variance += np.dot(of_background**2, self.background_sums[:, 1])
        return math.sqrt(float(variance))


def score_bins(curve: RocCurve, bins: int = BINS) -> ScoreBins:
    """Cut the score into bins of equal signal, as far as the background allows.

    From the tightest on, a bin ends at the first cut that keeps 1/B, 2/B, … of the signal and has background worth 10
    events or more in the bin, (Σw)²/Σw², with no sum below 0. What is left at the loose end is a bin of its own if it
    has as much background, else it joins the last. So no bin is without background, and none rests on a few events,
    which would promise too low a limit. With fewer than 20 background events in all, and where scores tie, there may be
    one bin.

    Args:
        curve: of the score of the signal.
        bins: B, at most, and one of background alone.
    """
    kinds = np.stack([curve.signal, curve.background])
    least = -ROUNDING * float(kinds[0, -1, 0])

    def enough(tight: int, loose: slice) -> NDArray[np.bool_]:
        (signal, _), (background, squares) = np.moveaxis(kinds[:, loose] - kinds[:, tight, None], 2, 1)
        filled = (background > 0) & (background**2 >= FEWEST_EVENTS * squares)
        fine: NDArray[np.bool_] = filled & (signal >= least)
        return fine

    last, edges = len(curve.thresholds) - 1, [0]
    for number in range(1, bins):
        if (cut := curve.cut(number / bins)) <= edges[-1]:
            continue
        width = 1
        while cut <= last and not (fine := enough(edges[-1], slice(cut, cut + width))).any():
            cut, width = cut + width, 4 * width
        if cut > last:
            break
        edges.append(cut + int(np.argmax(fine)))
    while edges[-1] != last:
        if enough(edges[-1], slice(last, None)).all() or len(edges) == 1:
            edges.append(last)
        else:
            edges.pop()
    signal_sums, background_sums = np.diff(kinds[:, edges], axis=1)
    signal_sums[:, 0] = np.maximum(signal_sums[:, 0], 0.0)
    return ScoreBins(curve.thresholds[edges[1:]], signal_sums, background_sums)


def limit_values(
    scores: NDArray[np.floating],
    is_signal: NDArray[np.bool_],
    uncertainty: float,
    weights: NDArray[np.floating] | None = None,
) -> Floats:
    """Values of events, (N,), with the expected limit as their mean and its error as that of the mean.

    μ + N w g with the event's part g, `ScoreBins.gains`, in bins that are taken as they are.

    Args:
        scores: (N,), higher for signal.
        is_signal: (N,), of both kinds.
        uncertainty: σ_b/b.
        weights: (N,) of the events; None counts them.
    """
    bins = score_bins(roc_curve(scores, is_signal, weights))
    place = np.searchsorted(-bins.lowest, -scores)
    limit = bins.limit(uncertainty)
    of_signal, of_background = bins.gains(uncertainty, limit)
    gains = np.where(is_signal, of_signal[place], of_background[place])
    own = np.ones(len(scores)) if weights is None else weights.astype(np.float64)
    values: Floats = limit + len(scores) * own * gains
    return values


def expected_limit(signal: Floats, background: Floats, error: Floats, level: float = LEVEL) -> float:
    """Return the median upper limit on μ, by CL_s, of experiments in which there is no signal.

    With the Asimov dataset of μ = 0, n = b in every bin, CL_s = 2 (1 − Φ(√q̃_μ)) at the median, which is 1 − level where
    √q̃_μ = Φ⁻¹((1 + level)/2): 1.96 at 95 %. Where b is large and known, μ = 1.96/√(Σs²/b). The formulae hold for many
    events: of one bin with b → 0 they exclude 1.9 signal events, where counting excludes 3.0.

    Source: Cowan, Cranmer, Gross and Vitells, arXiv:1007.1727 (q̃_μ, the Asimov dataset and the median limit); Read,
    J. Phys. G 28 (2002) 2693 (CL_s).

    Args:
        signal: (B,) events expected at μ = 1 in each bin, at least 0.
        background: (B,) events expected, above 0.
        error: (B,) σ_b, independent from bin to bin; 0 where the background is known.
        level: confidence level, in (0, 1).

    Raises:
        InvalidEvents: the shapes differ, a value is not finite, a signal or an error below 0, a bin without background,
            no bin has signal, or the level is outside (0, 1).
    """
    _check(signal, background, error, level)
    goal = NormalDist().inv_cdf((1 + level) / 2)
    # The limit where all bins have many events. q̃ is convex, so that Newton's steps then come down from above.
    mu = goal / math.sqrt(float((signal**2 / (background + error**2)).sum()))
    tau = np.divide(background**2, error**2, out=np.zeros(len(background)), where=error > KNOWN * background)
    for _ in range(STEPS):
        more, away = _profile(mu, signal, background, error)
        slope = 2 * float(np.dot(signal, more / (1 + more)))
        # q̃_μ of the Asimov dataset of μ = 0, whose best fit is μ = 0 and γ = 1.
        statistic = 2 * (background * (more - np.log1p(more)) + tau * (away - np.log1p(away))).sum()
        step = (float(statistic) - goal**2) / slope
        mu -= step
        if abs(step) <= 1e-12 * mu:
            break
    return mu


def _check(signal: Floats, background: Floats, error: Floats, level: float) -> None:
    shapes = [np.shape(one) for one in (signal, background, error)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        told = ", ".join(map(str, shapes))
        raise InvalidEvents(f"signal, background and its error must all be (bins,) for a limit; got {told}")
    for name, values, rule, fine in (
        ("signal", signal, "0 or more", signal >= 0),
        ("background", background, "above 0", background > 0),
        ("error of the background", error, "0 or more", error >= 0),
    ):
        if not (good := np.isfinite(values) & fine).all():
            place = int(np.argmin(good))
            raise InvalidEvents(
                f"{name} must be {rule} in every bin of a limit; got {values[place]:g} in bin {place}"
            )
    if not signal.any():
        raise InvalidEvents("signal must be above 0 in some bin of a limit; got 0 in all")
    if not 0 < level < 1:
        raise InvalidEvents(f"the level of a limit must be between 0 and 1, such as 0.95; got {level}")


def _profile(mu: float, signal: Floats, background: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Return μs/b + d and d of each bin, (B,), where γ = 1 + d scales the background as fits best for given μ.

    Every bin is Poisson(n | μs + γb) · Poisson(τ | γτ) with τ = (b/σ)². At n = b the best γ is the positive root of
    γ² + (x − 1)γ − xb/(b + σ²), x = μs/b, here without differences of near numbers.
    """
    x, variance = mu * signal / background, error**2
    free = variance / (background + variance)
    away: Floats = -2 * x * free / (1 + x + np.sqrt((1 - x) ** 2 + 4 * x * (1 - free)))
    return x + away, away
