"""Weighted events: what scikit-learn gives, what repeating events gives, and errors that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hep_ray.errors import InvalidEvents
from hep_ray.metrics import classification_metrics
from hep_ray.metrics.event_values import event_values
from hep_ray.metrics.roc import passing, roc_curve
from tests.facts import raises

NEGATIVE = 0.2
SIGNAL_AT_HALF = 0.0
"""Score above which half of the signal lies: it is a Gaussian around 0."""


def sample(rng: np.random.Generator, events: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, truth and weights ±w, of which each event has the minus with chance 0.2, whatever its score."""
    is_signal = rng.random(events) < 0.5
    scores = rng.normal(np.where(is_signal, 0.0, -1.5))
    weights = rng.gamma(4.0, 0.25, events) * np.where(rng.random(events) < NEGATIVE, -1, 1)
    return scores, is_signal, weights


def probabilities(scores: np.ndarray) -> np.ndarray:
    signal = 1 / (1 + np.exp(-scores))
    return np.stack([1 - signal, signal], axis=1)


@pytest.fixture(scope="module")
def events() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, is_signal, weights = sample(np.random.default_rng(7), 3000)
    return np.round(scores, 2), is_signal, weights  # with ties


class TestAgainstScikitLearn:
    def test_curve_and_area(self, events: tuple[np.ndarray, ...]) -> None:
        scores, is_signal, weights = events
        false, true, thresholds = sklearn_metrics.roc_curve(
            is_signal, scores, sample_weight=weights, drop_intermediate=False
        )
        curve = roc_curve(scores, is_signal, weights)
        np.testing.assert_allclose(curve.thresholds[1:], thresholds[1:])
        np.testing.assert_allclose(curve.background_efficiency, false, atol=1e-12)
        np.testing.assert_allclose(curve.signal_efficiency, true, atol=1e-12)
        # scikit-learn's own area refuses a curve that turns back, as negative weights make it: the rule of trapezia.
        assert curve.area == pytest.approx(np.trapezoid(true, false), abs=1e-12)
        positive = np.abs(weights)
        assert roc_curve(scores, is_signal, positive).area == pytest.approx(
            sklearn_metrics.roc_auc_score(is_signal, scores, sample_weight=positive), abs=1e-12
        )

    def test_rejection(self, events: tuple[np.ndarray, ...]) -> None:
        scores, is_signal, weights = events
        false, true, _ = sklearn_metrics.roc_curve(
            is_signal, scores, sample_weight=weights, drop_intermediate=False
        )
        for efficiency in (0.3, 0.5, 0.7, 0.9):
            rejection, _ = roc_curve(scores, is_signal, weights).background_rejection(efficiency)
            assert rejection == pytest.approx(1 / false[np.argmax(true >= efficiency)], rel=1e-9)

    def test_decisions(self, events: tuple[np.ndarray, ...]) -> None:
        scores, is_signal, weights = events
        labels, predicted = is_signal.astype(int), (scores > 0).astype(int)
        found = classification_metrics(probabilities(scores), labels, ["b", "s"], "s", weights=weights)
        given_weights = {"sample_weight": weights}
        assert found["accuracy"] == pytest.approx(
            sklearn_metrics.accuracy_score(labels, predicted, **given_weights)
        )
        matrix = sklearn_metrics.confusion_matrix(labels, predicted, **given_weights)
        assert found["confusion_s_b"] == pytest.approx(matrix[1, 0])
        for name, theirs in (
            ("precision", sklearn_metrics.precision_score),
            ("recall", sklearn_metrics.recall_score),
            ("f1", sklearn_metrics.f1_score),
        ):
            assert found[name] == pytest.approx(theirs(labels, predicted, average="macro", **given_weights))


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(1, 4)), min_size=4, max_size=30).filter(
        lambda rows: len({signal for _, signal, _ in rows}) == 2
    )
)
def test_whole_weights_count_as_repeated_events(rows: list[tuple[int, bool, int]]) -> None:
    scores, is_signal, weights = (np.array(column) for column in zip(*rows, strict=True))
    weighted = roc_curve(scores.astype(float), is_signal, weights.astype(float))
    repeated = roc_curve(np.repeat(scores, weights).astype(float), np.repeat(is_signal, weights))
    assert weighted.area == pytest.approx(repeated.area)
    np.testing.assert_allclose(weighted.signal_passing, repeated.signal_passing)
    np.testing.assert_allclose(weighted.background_passing, repeated.background_passing)
    assert weighted.cut(0.5) == repeated.cut(0.5)
    p = probabilities(scores + 0.5)
    labels = is_signal.astype(int)
    one = classification_metrics(p, labels, ["b", "s"], "s", weights=weights.astype(float))
    other = classification_metrics(np.repeat(p, weights, axis=0), np.repeat(labels, weights), ["b", "s"], "s")
    for key in ("accuracy", "auc", "f1", "precision", "calibration_error", "confusion_s_s"):
        assert one[key] == pytest.approx(other[key])


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3))
def test_a_common_factor_changes_no_fraction_and_no_error(seed: int, factor: float) -> None:
    scores, is_signal, weights = sample(np.random.default_rng(seed), 200)
    weights = np.abs(weights)
    one, other = (roc_curve(scores, is_signal, weights * scale) for scale in (1.0, factor))
    assert one.area_error == pytest.approx(other.area_error)
    assert one.background_rejection(0.5) == pytest.approx(other.background_rejection(0.5))
    assert one.tied(0.5) == other.tied(0.5)


def test_ones_are_as_no_weights() -> None:
    scores, is_signal, _ = sample(np.random.default_rng(0), 500)
    labels = is_signal.astype(int)
    counted = classification_metrics(probabilities(scores), labels, ["b", "s"], "s")
    weighted = classification_metrics(
        probabilities(scores), labels, ["b", "s"], "s", weights=np.ones(len(labels))
    )
    ams = weighted.pop("asimov_significance_ams")
    assert weighted == pytest.approx(counted)
    assert 0 < ams < counted["asimov_significance"]


def test_significance_by_hand() -> None:
    # Cuts: s = 2, b = 0; s = 5, b = 4; s = 5, b = 104. An event of the background weighs (4² + 100²)/104 = 96.3.
    scores, is_signal = np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])
    curve = roc_curve(scores, is_signal, np.array([2.0, 3.0, 4.0, 100.0]))
    assert curve.one_event == pytest.approx(10016 / 104)

    def asimov(s: float, b: float) -> float:
        return math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s))

    assert curve.asimov_significance() == pytest.approx(asimov(5, 10016 / 104))
    assert curve.approximate_median_significance() == pytest.approx(asimov(5, 10016 / 104 + 10))
    assert curve.is_limit(2)
    assert not curve.is_limit(3)
    assert passing(scores, is_signal, 2.0, np.array([2.0, 3.0, 4.0, 100.0])) == (
        1.0,
        pytest.approx(96.3 / 104, rel=1e-3),
    )


def test_the_challenges_scale_of_expected_events() -> None:
    """s = 692 and b = 411,000 in all, of which a cut keeps 200 and 2400: AMS = 4.02, whatever was simulated."""
    scores = np.repeat([2.0, 1.0, 2.0, 1.0], [200, 492, 24, 4086])
    is_signal = np.arange(len(scores)) < 692
    curve = roc_curve(scores, is_signal, np.where(is_signal, 1.0, 100.0))
    assert curve.approximate_median_significance() == pytest.approx(4.015, abs=0.01)


def test_what_sums_to_nothing_is_refused() -> None:
    p, labels = probabilities(np.array([1.0, -1.0, 2.0])), np.array([1, 0, 1])
    with raises(InvalidEvents, "weights", "b 1", "s -1"):
        classification_metrics(p, labels, ["b", "s"], "s", weights=np.array([1.0, 1.0, -2.0]))
    with raises(InvalidEvents, "weights", "signal", "-1"):
        roc_curve(np.array([1.0, 0.0]), np.array([True, False]), np.array([-1.0, 1.0]))


@pytest.mark.slow
def test_errors_cover_the_truth_over_pseudo_samples() -> None:
    """500 samples with 20 % of negative weights: 68 % of the intervals hold the truth, within binomial error."""
    rng = np.random.default_rng(11)
    from scipy.stats import norm

    truth = {
        "auc": float(norm.cdf(1.5 / math.sqrt(2))),
        "background_rejection_at_50": 1 / float(norm.sf(1.5)),
        "background_rejection_at_80": 1 / float(norm.sf(1.5 + norm.ppf(0.2))),
        "accuracy": (float(norm.cdf(0)) + float(norm.cdf(1.5))) / 2,
    }
    covered = dict.fromkeys(truth, 0)
    samples = 500
    for _ in range(samples):
        scores, is_signal, weights = sample(rng, 3000)
        found = classification_metrics(
            probabilities(scores),
            is_signal.astype(int),
            ["b", "s"],
            "s",
            np.stack([-scores, scores], 1),
            weights,
        )
        for key, value in truth.items():
            covered[key] += abs(found[key] - value) <= found[f"{key}_error"]
    for key, count in covered.items():
        assert 0.683 - 3 * 0.0208 < count / samples < 0.683 + 3 * 0.0208, (key, count / samples)


@pytest.mark.parametrize("metric", ["accuracy", "auc", "loss", "background_rejection_at_50"])
def test_values_of_weighted_events_have_the_metric_as_mean_and_its_error_as_spread(metric: str) -> None:
    scores, is_signal, weights = sample(np.random.default_rng(3), 4000)
    labels, p, odds = is_signal.astype(int), probabilities(scores), np.stack([-scores, scores], axis=1)
    losses = -np.log(p[np.arange(len(labels)), labels])
    values = event_values(metric, labels, p, odds, ["b", "s"], "s", losses, weights)
    assert values is not None
    found = classification_metrics(p, labels, ["b", "s"], "s", odds, weights)
    found["loss"] = float(np.average(losses, weights=weights))
    tolerance = 0.1 if metric.startswith("background") else 1e-9  # the jackknife's mean is corrected for bias
    assert values.mean() == pytest.approx(found[metric], rel=tolerance)
    if f"{metric}_error" in found:
        spread = values.std(ddof=1) / math.sqrt(len(values))
        assert spread == pytest.approx(found[f"{metric}_error"], rel=0.4 if tolerance == 0.1 else 0.01)


def test_effectively_few_events_say_nothing_of_the_sample() -> None:
    scores, is_signal, _ = sample(np.random.default_rng(3), 4000)
    weights = np.where(np.arange(4000) < 20, 1000.0, 1e-3)
    odds = np.stack([-scores, scores], axis=1)
    assert (
        event_values(
            "auc", is_signal.astype(int), probabilities(scores), odds, ["b", "s"], "s", None, weights
        )
        is None
    )
