"""Intervals and tests for a few repeated trainings and for a finite sample of events."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hep_ray.errors import InvalidConfig

LEVEL = 0.95
"""Of an interval, unless another is asked for."""
SAME = 1e-12
"""Relative spread below which values are equal but for rounding."""


@dataclass(frozen=True)
class Interval:
    """A mean with its spread and its confidence interval.

    Attributes:
        mean: of the values.
        sd: sample standard deviation (divisor n - 1); 0 of one value.
        low: lower end of the interval; the mean of one value, which has none.
        high: upper end.
    """

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A difference between two series of values that belong together one by one.

    Attributes:
        difference: left minus right.
        p_value: of the two-sided paired t-test that the true difference is 0; None of fewer than two pairs, and
            where all differences are equal, so that there is no noise to compare with.
    """

    difference: Interval
    p_value: float | None


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's interval of the mean, mean ± t·s/√n with n - 1 degrees of freedom.

    It covers what varies between the values and nothing else. Of trainings with different seeds on one dataset that
    is the initial weights and the order of events; that the events are a finite sample, it does not cover.

    Args:
        values: at least one, finite; independent and about normal.
        level: in (0, 1), such as 0.95.

    Raises:
        InvalidConfig: no value, one that is not finite, or a level outside (0, 1).
    """
    from scipy import stats

    _check(values, level)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, 0.0, mean, mean)
    sd = statistics.stdev(values)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * sd / math.sqrt(len(values))
    return Interval(mean, sd, mean - half, mean + half)


def paired_t(left: Sequence[float], right: Sequence[float], level: float = LEVEL) -> Paired:
    """Difference of two series, pair by pair, with its interval and the paired t-test (`scipy.stats.ttest_rel`).

    Args:
        left: of one contender, by seed.
        right: of the other, by the same seeds in the same order.
        level: of the interval.

    Raises:
        InvalidConfig: the lengths differ, or see `t_interval`.
    """
    from scipy import stats

    if len(left) != len(right):
        raise InvalidConfig(f"paired values are equally many; got {len(left)} and {len(right)}")
    difference = t_interval([one - other for one, other in zip(left, right, strict=True)], level)
    scale = max(abs(value) for value in (*left, *right))
    if len(left) == 1 or difference.sd <= SAME * scale:
        return Paired(difference, None)
    return Paired(difference, float(stats.ttest_rel(left, right).pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected so that, of all tests together, a false alarm is as rare as the level says.

    Source: Holm, Scand. J. Statist. 6 (1979) 65 (`statsmodels.stats.multitest.multipletests`).

    Args:
        p_values: one per test; None where a test could not be made, which counts among the tests all the same.
    """
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    # multipletests has Python look for garbage, a second's work in a large process: here there is nothing to look at.
    gc.freeze()
    try:
        # 1 comes last in Holm's order, where it changes no other value.
        _, adjusted, _, _ = multipletests(
            [1.0 if value is None else value for value in p_values], method="holm"
        )
    finally:
        gc.unfreeze()
    return [None if value is None else float(one) for value, one in zip(p_values, adjusted, strict=True)]


def _check(values: Sequence[float], level: float) -> None:
    if not values or not all(math.isfinite(value) for value in values):
        raise InvalidConfig(f"an interval is of one or more finite values; got {list(values)}")
    if not 0 < level < 1:
        raise InvalidConfig(f"the level of an interval is between 0 and 1, such as 0.95; got {level}")
