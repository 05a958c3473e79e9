"""The expected limit and the significance with an uncertain background: pyhf's values, the definition, by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from hep_ray import LogUniform, Preset, Search, Space
from hep_ray.confirm.confirmation import Comparison, Estimate
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.metrics import classification_metrics, larger_is_better, worst_of
from hep_ray.metrics.crossed import crossed
from hep_ray.metrics.event_values import event_values
from hep_ray.metrics.labels import metric_words
from hep_ray.metrics.limit import expected_limit, limit_values, score_bins
from hep_ray.metrics.roc import RocCurve, roc_curve
from hep_ray.search.preflight import check_metrics
from tests.facts import raises

PYHF = [
    ([5.0], [50.0], [5.0], 3.5445757),
    ([4.0, 3.0, 2.0], [40.0, 10.0, 2.0], [4.0, 1.0, 0.6], 1.4025732),
    ([1.5, 1.0], [0.8, 0.1], [0.3, 0.1], 1.2736113),
    ([5.0] * 10, list(5 * np.logspace(0, 3, 10)), list(0.5 * np.logspace(0, 3, 10)), 0.779654),
]
"""s, b, σ_b and the median limit of pyhf 0.7.6, numpy backend with its SLSQP, which stops at some 1e-6.

model = pyhf.simplemodels.uncorrelated_background(s, b, σ_b); data = b + model.config.auxdata; the μ at which
pyhf.infer.hypotest(μ, data, model, test_stat="qtilde", return_expected=True, par_bounds=…)[1] is 0.05, μ up to 100.
"""
SCHEMA = EventSchema(
    task="toy", columns=(Column(name="mass", unit="GeV"),), classes=("background", "signal"), signal="signal"
)
LIMITS = [f"expected_limit_b{percent}" for percent in (0, 1, 5, 10, 20)]
BINS = st.lists(
    st.tuples(st.floats(0.1, 50), st.floats(0.5, 1e4), st.floats(0, 0.5)), min_size=1, max_size=6
).map(lambda rows: np.array(rows).T)
"""(s, b, σ_b/b) of some bins."""


@pytest.mark.parametrize(("signal", "background", "error", "limit"), PYHF)
def test_limits_are_those_of_pyhf(signal, background, error, limit):
    assert expected_limit(*map(np.array, (signal, background, error))) == pytest.approx(limit, rel=3e-6)


@settings(max_examples=15)
@given(BINS)
def test_the_limit_is_where_the_profiled_likelihood_says(rows):
    """−2 ln λ from the definition, each γ found numerically, is Φ⁻¹(0.975)² = 3.8415 at the limit."""
    signal, background, share = rows

    def minus_log_likelihood(mu: float, s: float, b: float, f: float) -> float:
        if f < 1e-3:  # its auxiliary measurement has more than a million events: known
            return mu * s + b - b * math.log(mu * s + b)
        tau = 1 / f**2

        def of(log_gamma: float) -> float:
            gamma = math.exp(log_gamma)
            nu = mu * s + gamma * b
            return nu - b * math.log(nu) + tau * (gamma - log_gamma)

        return float(
            optimize.minimize_scalar(of, bounds=(-30, 1), method="bounded", options={"xatol": 1e-9}).fun
        )

    share = np.where(share < 1e-3, 0.0, share)
    limit = expected_limit(signal, background, share * background)
    bins = list(zip(signal, background, share, strict=True))
    q = 2 * sum(minus_log_likelihood(limit, *one) - minus_log_likelihood(0, *one) for one in bins)
    assert q == pytest.approx(3.841459, rel=1e-4)


def test_a_counting_experiment_by_hand():
    s, b = np.array([10.0]), np.array([1e8])
    # 1.95996 √b/s, and 1.64485 √b/s without CL_s, that is at a level of 90 %
    assert expected_limit(s, b, np.array([0.0])) == pytest.approx(1959.96, rel=1e-4)
    assert expected_limit(s, b, np.array([0.0]), level=0.9) == pytest.approx(1644.85, rel=1e-4)
    # σ_b = 3 √b: √(1 + 9) as much
    assert expected_limit(s, b, np.array([3e4])) == pytest.approx(1959.96 * math.sqrt(10), rel=1e-3)
    # Two bins are √2 as good as one.
    both = expected_limit(np.repeat(s, 2), np.repeat(b, 2), np.zeros(2))
    assert both == pytest.approx(1959.96 / math.sqrt(2), rel=1e-4)
    # b → 0: 2 μs = 1.96², so 1.92 events
    assert expected_limit(np.array([1.0]), np.array([1e-9]), np.array([0.0])) == pytest.approx(
        1.9207, rel=1e-4
    )


@settings(max_examples=40)
@given(BINS, st.floats(1.01, 3), st.randoms(use_true_random=False))
def test_what_makes_a_limit_better(rows, factor, random):
    signal, background, share = rows
    limit = expected_limit(signal, background, share * background)
    assert 0 < limit < math.inf
    assert expected_limit(signal, background, (share + 0.1) * background) > limit
    assert expected_limit(signal, factor * background, factor * share * background) > limit
    assert expected_limit(factor * signal, background, share * background) == pytest.approx(limit / factor)
    order = random.sample(range(len(signal)), len(signal))
    assert expected_limit(signal[order], background[order], (share * background)[order]) == pytest.approx(
        limit
    )


@pytest.mark.parametrize(
    ("signal", "background", "error", "level", "facts"),
    [
        ([1.0, 1.0], [1.0, 0.0], [0.1, 0.0], 0.95, ["background", "got 0 in bin 1"]),
        ([-1.0], [1.0], [0.1], 0.95, ["signal", "got -1 in bin 0"]),
        ([0.0], [1.0], [0.1], 0.95, ["signal", "0 in all"]),
        ([1.0], [1.0], [-0.1], 0.95, ["error", "got -0.1"]),
        ([1.0], [math.nan], [0.1], 0.95, ["background", "nan"]),
        ([1.0, 1.0], [1.0], [0.1], 0.95, ["(2,), (1,), (1,)"]),
        ([1.0], [1.0], [0.1], 95.0, ["level", "95"]),
    ],
)
def test_what_has_no_limit_is_refused(signal, background, error, level, facts):
    with raises(InvalidEvents, *facts):
        expected_limit(*map(np.array, (signal, background, error)), level=level)


def events(number: int, seed: int = 0, *, distance: float = 1.5, negative: float = 0.0):
    """Scores, truth and weights: 100 events of signal and 10,000 of background are expected."""
    random = np.random.default_rng(seed)
    is_signal = np.arange(2 * number) % 2 == 1
    scores = random.normal(is_signal * distance)
    weights = random.gamma(4.0, 0.25, len(scores)) * np.where(random.random(len(scores)) < negative, -1, 1)
    for kind, total in ((is_signal, 100.0), (~is_signal, 1e4)):
        weights[kind] *= total / weights[kind].sum()
    return scores, is_signal, weights


def metrics(scores, is_signal, weights=None, only: str | None = "expected_limit") -> dict[str, float]:
    p = 1 / (1 + np.exp(-scores))
    found = (np.stack([1 - p, p], axis=1), is_signal.astype(int), ["b", "s"], "s")
    return classification_metrics(*found, np.stack([-scores, scores], axis=1), weights, only=only)


class TestBins:
    def test_equal_signal(self):
        scores, is_signal, weights = events(20_000)
        found = score_bins(roc_curve(scores, is_signal, weights))
        np.testing.assert_allclose(found.signal, 10, rtol=0.002)  # 100 expected, ten bins
        assert found.background.sum() == pytest.approx(1e4)
        assert found.lowest[-1] == scores.min()

    def test_by_hand(self):
        # Cuts at 3 | 2 | 1, with 4, 4, 2 signal and 9, 1, 20 background events: the first has too little of it.
        scores = np.repeat([3.0, 2.0, 1.0, 3.0, 2.0, 1.0], [4, 4, 2, 9, 1, 20])
        found = score_bins(roc_curve(scores, np.arange(40) < 10))
        assert found.signal.tolist() == [8, 2]
        assert found.background.tolist() == [10, 20]
        assert found.lowest.tolist() == [2, 1]

    def test_what_is_left_joins_the_last(self):
        scores = np.repeat([3.0, 2.0, 1.0, 3.0, 2.0, 1.0], [4, 4, 2, 12, 30, 9])
        found = score_bins(roc_curve(scores, np.arange(61) < 10))
        assert found.signal.tolist() == [4, 6]
        assert found.background.tolist() == [12, 39]

    def test_a_bin_goes_on_until_it_has_background(self):
        """All signal above all background: the first bin ends at the tenth event of the background."""
        found = score_bins(roc_curve(np.arange(300.0), np.arange(300) >= 200))
        assert found.signal.tolist() == [100, 0]
        assert found.background.tolist() == [10, 190]
        assert found.limit(0.0) == expected_limit(*map(np.array, ([100.0], [10.0], [0.0])))

    @pytest.mark.parametrize("scores", [np.zeros(40), np.arange(40.0)])
    def test_ties_and_a_small_background_are_one_bin(self, scores):
        found = score_bins(roc_curve(scores, np.arange(40) < 33))
        assert (found.signal.tolist(), found.background.tolist()) == ([33], [7])
        assert found.limit_error(0.1) == 0

    @settings(max_examples=30)
    @given(st.integers(0, 2**32), st.integers(3, 400), st.floats(0, 0.35))
    def test_no_bin_without_signal_or_background(self, seed, number, negative):
        random = np.random.default_rng(seed)
        scores, is_signal = random.integers(0, 50, 2 * number) / 10, np.arange(2 * number) % 2 == 1
        weights = np.where(random.random(2 * number) < negative, -1.0, 1.0)
        if min(weights[is_signal].sum(), weights[~is_signal].sum()) <= 0:
            return
        found = score_bins(roc_curve(scores, is_signal, weights))
        assert found.signal.min() >= 0
        assert found.background.min() > 0
        if len(found.signal) > 1:
            assert (found.background**2 / found.background_sums[:, 1]).min() >= 10
        assert found.signal.sum() == pytest.approx(weights[is_signal].sum())
        assert found.background.sum() == pytest.approx(weights[~is_signal].sum())
        assert math.isfinite(found.limit(0.1))
        assert math.isfinite(found.limit_error(0.1))


class TestMetric:
    def test_values_and_order(self):
        scores, is_signal, weights = events(2000)
        found = metrics(scores, is_signal, weights)
        assert set(found) == {*LIMITS, *(f"{key}_error" for key in LIMITS)}
        assert all(found[one] < found[other] for one, other in pairwise(LIMITS))
        bins = score_bins(roc_curve(scores, is_signal, weights))
        by_hand = expected_limit(bins.signal, bins.background, 0.05 * bins.background)
        assert found["expected_limit_b5"] == by_hand
        order = np.random.default_rng(1).permutation(len(scores))
        assert metrics(scores[order], is_signal[order], weights[order]) == pytest.approx(found)

    @pytest.mark.parametrize("negative", [0.0, 0.2])
    def test_a_better_separation_has_a_lower_limit(self, negative):
        limits = [
            metrics(*events(1000, distance=distance, negative=negative))["expected_limit_b10"]
            for distance in (0.5, 1.0, 2.0, 3.0, 5.0)
        ]
        assert limits == sorted(limits, reverse=True)

    @pytest.mark.parametrize(("negative", "most"), [(0.0, 1.4), (0.2, 2.5)])
    def test_the_error_is_the_spread_of_samples(self, negative, most):
        samples = [events(5000, seed, negative=negative) for seed in range(60)]
        found = [score_bins(roc_curve(*sample)) for sample in samples]
        spread = np.std([bins.limit(0.1) for bins in found])
        errors = np.mean([bins.limit_error(0.1) for bins in found])
        assert 0.8 < errors / spread < most  # too large where bins end by their background

    def test_values_of_events(self):
        scores, is_signal, weights = events(1000, negative=0.2)
        found = metrics(scores, is_signal, weights)
        values = limit_values(scores, is_signal, 0.1, weights)
        assert values.mean() == pytest.approx(found["expected_limit_b10"])
        assert values.std() / math.sqrt(len(values)) == pytest.approx(found["expected_limit_b10_error"])

    def test_what_an_event_gains_is_what_more_of_it_gives(self):
        """Weights of one bin a thousandth up, all of the kind scaled back: the limit moves as the gains say."""
        scores, is_signal, weights = events(3000)
        bins = score_bins(roc_curve(scores, is_signal, weights))
        for kind, (values, gains) in enumerate(
            zip((bins.signal, bins.background), bins.gains(0.1), strict=True)
        ):
            for place in range(len(values)):
                moved = values * (1 + 1e-4 * (np.arange(len(values)) == place))
                both = [bins.signal, bins.background]
                both[kind] = moved * values.sum() / moved.sum()
                change = expected_limit(*both, 0.1 * both[1]) - bins.limit(0.1)
                assert change == pytest.approx(1e-4 * values[place] * gains[place], rel=0.01, abs=1e-9)

    def test_no_signal_no_limit(self):
        scores, is_signal, _ = events(100)
        p = 1 / (1 + np.exp(-scores))
        found = classification_metrics(np.stack([1 - p, p], axis=1), is_signal.astype(int), ["a", "b"], None)
        assert not [key for key in found if "limit" in key or "significance" in key]


def test_confirmations_compare_limits_by_event():
    """Two models that know the events equally well but for some noise: paired, their difference has a smaller error."""
    scores, is_signal, weights = events(1500)
    noise = np.random.default_rng(5).normal(size=(2, len(scores)))
    rows = []
    for one in (scores, scores + 0.1 * noise[0], scores + 1.5 * noise[1]):
        p, ranks = 1 / (1 + np.exp(-one)), np.stack([-one, one], axis=1)
        shown = (is_signal.astype(int), np.stack([1 - p, p], axis=1), ranks, ["b", "s"], "s")
        rows.append(event_values("expected_limit_b10", *shown, None, weights))
    first, near, far = rows
    alone = (True, True)
    paired = crossed(near[None], first[None], paired=True, seedless=alone)
    other = crossed(far[None], first[None], paired=True, seedless=alone)
    assert paired.event_error < 0.6 * first.std() / math.sqrt(len(first))
    assert other.difference > 3 * other.event_error > 0


class TestRanking:
    def test_smaller_is_better(self):
        assert larger_is_better("val_expected_limit_b10") is False
        assert larger_is_better("test_worst_expected_limit_b10") is False
        assert larger_is_better("val_expected_limit_b10_error") is None
        assert larger_is_better("val_asimov_significance_b10") is True
        worst = worst_of("val_expected_limit_b10", [{"val_expected_limit_b10": x} for x in (1.0, 3.0, 2.0)])
        assert worst == {"val_worst_expected_limit_b10": 3.0}

    def test_a_search_ranks_by_it(self):
        space = Space(model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2))
        presets = {"smoke": Preset(trials=1, epochs=1)}
        assert Search("mine", "task", "Mine.", space, presets, metric="val_expected_limit_b10").mode == "min"
        for percent in (0, 1, 5, 10, 20):
            check_metrics(f"val_expected_limit_b{percent}", None, SCHEMA)
        check_metrics("val_asimov_significance_b20", None, SCHEMA)
        with raises(
            InvalidConfig, "val_expected_limit_b7", "val_expected_limit_b5", "val_expected_limit_b10"
        ):
            check_metrics("val_expected_limit_b7", None, SCHEMA)
        with raises(InvalidConfig, "'val_expected_limit'", "val_expected_limit_b10"):
            check_metrics("val_expected_limit", None, SCHEMA)

    def test_a_confirmation_calls_less_better(self):
        less = Comparison(
            contender="t0001",
            metric="test_expected_limit_b10",
            difference=Estimate(mean=-0.2, sd=0.05, low=-0.3, high=-0.1),
            p_value=0.001,
            adjusted_p_value=0.002,
        )
        assert less.better("min", 0.95)
        assert not less.better("max", 0.95)

    def test_its_name_says_how_uncertain_the_background_is(self):
        assert metric_words("val_expected_limit_b10") == "validation expected limit on μ, b ± 10 %"
        assert metric_words("test_asimov_significance_b5") == "test Asimov significance, b ± 5 %"
        assert metric_words("val_asimov_significance") == "validation Asimov significance"
        assert metric_words("val_accuracy_b10") == "validation accuracy b10"  # of a class of that name


class TestSignificance:
    def test_by_hand(self):
        # One cut: s = 5, b = 50, σ = 5. (s + b)(b + σ²) = 4125, b² + (s + b)σ² = 3875; σ²s/(b(b + σ²)) = 1/30.
        scores = np.repeat([1.0, 1.0], [5, 50])
        curve = roc_curve(scores, np.arange(55) < 5)
        by_hand = math.sqrt(2 * (55 * math.log(4125 / 3875) - 100 * math.log(31 / 30)))
        assert curve.asimov_significance(0.1) == pytest.approx(by_hand)
        assert curve.asimov_significance(0.1) == pytest.approx(
            0.565044, rel=1e-5
        )  # pyhf: √q₀ of s + b, as above
        assert curve.asimov_significance(1e-6) == pytest.approx(curve.asimov_significance())

    def test_of_many_events(self):
        """S/√(b + σ²) with s = 1e3, b = 1e6, σ = 1e4: 0.0995."""
        curve = RocCurve(
            np.array([np.inf, 1.0]), np.array([0.0, 1e3]), np.array([0.0, 1e6]), np.ones(2), np.ones(2)
        )
        assert curve.asimov_significance(0.01) == pytest.approx(1e3 / math.sqrt(1e6 + 1e8), rel=2e-3)

    def test_an_uncertain_background_leaves_less(self):
        scores, is_signal, weights = events(2000)
        found = metrics(scores, is_signal, weights, "asimov_significance")
        keys = ["asimov_significance", *(f"asimov_significance_b{percent}" for percent in (1, 5, 10, 20))]
        assert all(found[one] > found[other] > 0 for one, other in pairwise(keys))
        assert set(found) == {*keys, "asimov_significance_ams"}
