"""Intervals and tests against scipy, by hand, and by simulation of what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hep_ray.errors import InvalidConfig
from hep_ray.metrics.inference import holm, paired_t, t_interval
from tests.facts import raises

EXPERIMENTS = 1000
VALUES = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=2, max_size=8)


def test_t_interval_by_hand() -> None:
    # 0.90, 0.92, 0.94: mean 0.92, s = 0.02, t(0.975, 2) = 4.302653, half = 4.302653 · 0.02/√3 = 0.0496828.
    found = t_interval([0.90, 0.92, 0.94])
    assert (found.mean, found.sd) == pytest.approx((0.92, 0.02))
    assert (found.low, found.high) == pytest.approx((0.8703172, 0.9696828), abs=1e-7)


@given(VALUES, st.floats(0.5, 0.999))
def test_t_interval_is_that_of_scipy(values: list[float], level: float) -> None:
    found = t_interval(values, level)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    assert (found.low, found.high) == pytest.approx(
        (np.mean(values) - half, np.mean(values) + half), abs=1e-9
    )


def test_paired_test_is_that_of_scipy_and_its_interval_agrees_with_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        right = random.normal(0.9, 0.02, 5)
        left = right + random.normal(0.004, 0.005, 5)
        found = paired_t(list(left), list(right))
        expected = stats.ttest_rel(left, right)
        assert found.p_value == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval(0.95)
        assert (found.difference.low, found.difference.high) == pytest.approx(tuple(interval))
        assert (found.p_value < 0.05) == (found.difference.low > 0 or found.difference.high < 0)


def test_without_noise_there_is_no_p_value() -> None:
    assert paired_t([0.9], [0.8]).p_value is None
    assert paired_t([0.9], [0.8]).difference.low == pytest.approx(0.1)
    # Two contenders whose training has nothing random in it: the difference is 0.1 up to rounding, every time.
    same = paired_t([0.9, 0.9, 0.9], [0.8, 0.8, 0.8])
    assert same.p_value is None
    assert (same.difference.low, same.difference.high) == pytest.approx((0.1, 0.1))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04; none below an earlier one.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    # A test that could not be made counts: 0.01 times 3, 0.03 times 2.
    assert holm([0.03, None, 0.01]) == pytest.approx([0.06, None, 0.03])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for value, corrected in zip(p_values, adjusted, strict=True):
        assert corrected is not None
        assert value <= corrected <= min(1.0, len(p_values) * value)
    order = np.argsort(p_values)
    assert np.all(np.diff(np.array(adjusted, dtype=float)[order]) >= 0)


@pytest.mark.parametrize("seeds", [2, 5])
def test_coverage_of_the_interval_over_seeds(seeds: int) -> None:
    """1,000 confirmations of a classifier of known mean: 95 % of the intervals hold it."""
    random = np.random.default_rng(seeds)
    truth, spread = 0.9, 0.01
    held = 0
    for values in random.normal(truth, spread, (EXPERIMENTS, seeds)):
        found = t_interval(list(values))
        held += found.low <= truth <= found.high
    assert 0.93 <= held / EXPERIMENTS <= 0.97


def test_coverage_of_the_paired_difference_and_its_false_alarms() -> None:
    """Seeds that are good for both contenders cancel; without a true gain 5 % of the tests say there is one."""
    random = np.random.default_rng(11)
    common = random.normal(0.9, 0.03, (EXPERIMENTS, 5))
    noise = random.normal(0, 0.004, (2, EXPERIMENTS, 5))
    held = alarms = 0
    for left, right in zip(common + noise[0], common + noise[1], strict=True):
        found = paired_t(list(left), list(right))
        held += found.difference.low <= 0 <= found.difference.high
        assert found.p_value is not None
        alarms += found.p_value < 0.05
    assert 0.93 <= held / EXPERIMENTS <= 0.97
    assert held + alarms == EXPERIMENTS


def test_family_wise_false_alarms_after_the_correction() -> None:
    """Three finalists that are no better than the baseline: at most 5 % of confirmations call any of them better."""
    random = np.random.default_rng(5)
    alarms = plain = 0
    for _ in range(EXPERIMENTS):
        baseline, *finalists = random.normal(0.9, 0.01, (4, 5)).tolist()
        p_values = [paired_t(one, baseline).p_value for one in finalists]
        alarms += any(value is not None and value < 0.05 for value in holm(p_values))
        plain += any(value is not None and value < 0.05 for value in p_values)
    assert alarms / EXPERIMENTS <= 0.06
    assert plain / EXPERIMENTS > 0.08


def test_what_has_no_interval_is_refused() -> None:
    for values, level in (([], 0.95), ([math.nan, 1.0], 0.95), ([1.0, 2.0], 1.0)):
        with pytest.raises(InvalidConfig):
            t_interval(values, level)
    with raises(InvalidConfig, 1, 2):
        paired_t([1.0], [1.0, 2.0])
