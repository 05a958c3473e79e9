"""Differences of models whose trainings (seeds) are all judged on the same finite sample of events.

Two noises cross: another seed gives another model, another sample other events. With D_si the value of event i under
seed s, candidate minus baseline, whose mean over events is the difference d_s of the metric,

    D_si = μ + A_s + B_i + (AB)_si,
    Var(mean) = σ²_A/S + σ²_B/N + σ²_AB/(S N).

The spread of the d_s over seeds holds σ²_A + σ²_AB/N: events that every seed gets right or wrong alike do not show in
it. A test over seeds alone leaves out σ²_B/N, and is wrong by as much as that, however many events there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.errors import InvalidConfig
from hep_ray.metrics.inference import LEVEL, SAME, Interval
from hep_ray.metrics.roc import Floats

UNLIKELY = 0.01
"""Chance of a spread of seeds as small as theirs below which it is not believed."""


@dataclass(frozen=True)
class Variance:
    """One of the variances that add up to that of a difference.

    Attributes:
        variance: of the difference, from this noise.
        degrees: of freedom with which it is known.
    """

    variance: float
    degrees: float


@dataclass(frozen=True)
class Crossed:
    """A difference with both noises.

    Attributes:
        difference: left minus right, mean over seeds.
        seed_error: standard error from the seeds; 0 of models that no seed changes.
        event_error: standard error from the finite sample of events.
        degrees: of freedom of the t-distribution that the difference over its error follows.
    """

    difference: float
    seed_error: float
    event_error: float
    degrees: float

    @property
    def error(self) -> float:
        """Standard error of the difference, both noises together."""
        return math.hypot(self.seed_error, self.event_error)

    @property
    def p_value(self) -> float | None:
        """Two-sided, of no difference; None where there is no noise to compare with."""
        from scipy import stats

        if self.error <= SAME * abs(self.difference) or not self.error:
            return None
        return float(2 * stats.t.sf(abs(self.difference) / self.error, self.degrees))

    def interval(self, level: float = LEVEL) -> Interval:
        """The difference with its interval; `sd` is the standard error."""
        from scipy import stats

        half = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.error if self.error else 0.0
        return Interval(self.difference, self.error, self.difference - half, self.difference + half)


@dataclass(frozen=True)
class Sampled:
    """Values of events of one model, and which events they are.

    Attributes:
        values: (S, N) by seed and event, such as `event_values` gives them.
        events: (N,) distinct names; None where all that is compared has the same events.
    """

    values: Floats
    events: pa.Array | None = None

    @classmethod
    def of_runs(cls, values: Sequence[Floats], events: Sequence[pa.Array] | None) -> Sampled:
        """Take runs (N,), whose events may differ from one to another; see `onto`."""
        if events is None or all(one.equals(events[0]) for one in events):
            return cls(np.stack(values), None if events is None else events[0])
        union = pc.unique(pa.concat_arrays(events))
        runs = [cls(one[None], own).onto(union) for one, own in zip(values, events, strict=True)]
        return cls(np.concatenate(runs), union)

    def onto(self, union: pa.Array) -> Floats:
        """Return values (S, U) of U events, with the same means over events and the same errors of these.

        An event's part in the error of a mean m of N is (v_i − m)/N. Its value among U is m + U (v_i − m)/N; that of an
        event which is not in the sample is m and adds nothing. The difference of two models on samples that share some
        events is then a mean over all of either: what is shared is paired, and the rest adds up.

        Args:
            union: (U,) distinct names, these events among them.
        """
        if self.events is None or self.events.equals(union):
            return self.values
        mean = self.values.mean(axis=1, keepdims=True)
        found = np.repeat(mean, len(union), axis=1)
        places = pc.index_in(self.events, union).to_numpy()
        found[:, places] = mean + (self.values - mean) * (len(union) / self.values.shape[1])
        return found


def aligned(left: Sampled, right: Sampled) -> tuple[Floats, Floats]:
    """Return the values of two models on the same events, those of either; see `Sampled.onto`."""
    if left.events is None or right.events is None or left.events.equals(right.events):
        return left.values, right.values
    union = pc.unique(pa.concat_arrays([left.events, right.events]))
    return left.onto(union), right.onto(union)


def crossed(
    left: Floats, right: Floats, *, paired: bool, seedless: tuple[bool, bool] = (False, False)
) -> Crossed | None:
    """Difference of two models by the values of their events, such as `event_values` gives them.

    Args:
        left: (S, N) of one model, by seed and event.
        right: (T, N) of the other, of the same events.
        paired: whether both were trained with the same seeds, in the same order.
        seedless: of each, whether no seed changes it: a fitted model.

    Returns:
        The difference; None where a model that seeds change has one seed, so that nothing is known of their noise.

    Raises:
        InvalidConfig: the events differ, or paired seeds do.
    """
    if left.shape[1] != right.shape[1] or (paired and len(left) != len(right)):
        raise InvalidConfig(
            f"models are compared on the same events and seeds; got {left.shape}, {right.shape}"
        )
    if any(len(one) == 1 and not alone for one, alone in zip((left, right), seedless, strict=True)):
        return None
    groups = [left - right] if paired else [left, right]
    signs = [1.0] if paired else [1.0, -1.0]
    means = [one.mean(axis=1) for one in groups]
    of_events = sum(sign * one.mean(axis=0) for sign, one in zip(signs, groups, strict=True))
    # Expected mean squares: the variance over events is σ²_B plus each group's σ²_AB/S.
    events = left.shape[1]
    shared = float(np.var(of_events, ddof=1)) / events
    of_seeds = []
    for one in groups:
        part, interaction = moments(one)
        of_seeds.append(part)
        shared -= interaction / one.size
    of_sample = Variance(max(0.0, shared), events - 1)
    return Crossed(
        difference=sum(sign * float(mean.mean()) for sign, mean in zip(signs, means, strict=True)),
        seed_error=math.sqrt(sum(part.variance for part in of_seeds)),
        event_error=math.sqrt(of_sample.variance),
        degrees=degrees([*of_seeds, of_sample]),
    )


def one_more(left: Floats, right: Floats, *, seedless: bool = False) -> Crossed | None:
    """Compare one more training of a configuration with several earlier ones of it, by the values of their events.

    The noise of its seed is taken to be that of the earlier ones, whose mean has 1/T of the variance of one:
    Var = (1 + 1/T) (σ²_A + σ²_AB/N) + σ²_B/N, where A and B are now the parts of each training, not of a difference.
    B is what more events to learn from change of the same test events.

    Args:
        left: (1, N) of the one, by event.
        right: (T, N) of the earlier ones, by seed and event.
        seedless: no seed changes them: a fitted model.

    Returns:
        Left minus the mean of right; None where there is one earlier training, which tells no noise of seeds.

    Raises:
        InvalidConfig: the events differ, or left is several trainings.
    """
    if len(left) != 1 or left.shape[1] != right.shape[1]:
        raise InvalidConfig(
            f"one training is compared with others on the same events; got {left.shape}, {right.shape}"
        )
    seeds, events = right.shape
    if seeds == 1 and not seedless:
        return None
    part, interaction = moments(right)
    difference = left[0] - right.mean(axis=0)
    shared = (float(np.var(difference, ddof=1)) - (1 + 1 / seeds) * interaction) / events
    of_seeds = Variance((1 + seeds) * part.variance, part.degrees)
    of_sample = Variance(max(0.0, shared), events - 1)
    return Crossed(
        difference=float(difference.mean()),
        seed_error=math.sqrt(of_seeds.variance),
        event_error=math.sqrt(of_sample.variance),
        degrees=degrees([of_seeds, of_sample]),
    )


def moments(values: Floats) -> tuple[Variance, float]:
    """Variance of the mean over seeds from their spread, and the interaction σ²_AB: of (S, N) values.

    The first estimates σ²_A/S + σ²_AB/(S N), of which the second part is known from how seeds differ event by event,
    with (S − 1)(N − 1) degrees of freedom. Seeds may have nearly the same mean by chance, two of them even the same,
    and would leave no error at all. A spread so far below the second part that χ² is so with less than `UNLIKELY`
    gives way to it; a larger one counts as it is, for what `degrees` allows for.
    """
    from scipy import stats

    seeds, events = values.shape
    if seeds == 1:
        return Variance(0.0, math.inf), 0.0
    of_events = float(np.var(values.mean(axis=0), ddof=1))
    within = float(np.var(values, axis=1, ddof=1).sum())
    interaction = max(0.0, (within - seeds * of_events) / (seeds - 1))
    spread = Variance(float(np.var(values.mean(axis=1), ddof=1)) / seeds, seeds - 1)
    least = Variance(interaction / (seeds * events), (seeds - 1) * (events - 1))
    smallest = least.variance * float(stats.chi2.ppf(UNLIKELY, seeds - 1)) / (seeds - 1)
    return (least if spread.variance < smallest else spread), interaction


def degrees(parts: Sequence[Variance]) -> float:
    """Degrees of freedom f of a sum of variances V_g that are known with ν_g each.

    Satterthwaite's (Biometrics Bull. 2 (1946) 110) is 1/f = Σ R_g²/ν_g with the shares R_g = V_g/ΣV. With two or three
    seeds (ν = 1, 2) shares fluctuate so much that a test at 2.5 % then errs in up to 3.9 %: whenever the spread of the
    seeds comes out small by chance, its share does too. R_g² is therefore taken (1 + b(1 − R_g)) times, with
    b = 4.5/ν (12 of two seeds), which was fitted so that the error rate lies within 2.2 and 2.7 % for ν ≥ 2
    whatever the true shares (`tests/statistics/gate.py` measures it). At R = 1 and R = 0 nothing changes: the t-test
    over seeds, and that over events.
    """
    whole = math.fsum(part.variance for part in parts)
    if not whole:
        return 1.0
    inverse = 0.0
    for part in parts:
        share = part.variance / whole
        if share and math.isfinite(part.degrees):
            slope = 12.0 if part.degrees < 2 else 4.5 / part.degrees  # noqa: PLR2004 - two seeds
            inverse += share**2 * (1 + slope * (1 - share)) / part.degrees
    return 1 / inverse if inverse else math.inf
