"""Metrics agree with scikit-learn and with small samples worked out by hand, and are always finite."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hep_ray.errors import InvalidEvents
from hep_ray.metrics import classification_metrics, roc_curve
from hep_ray.metrics.roc import log_odds_of
from tests.facts import raises

seeds = st.integers(0, 2**31 - 1)


def sample(seed: int, classes: int, events: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels that hold every class, and probabilities that know something of them; few decimals make ties."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, events - classes)])
    logits = rng.normal(size=(events, classes)) + np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities[:, 1:] = probabilities[:, 1:].round(decimals) * (1 - 1e-3)
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
    probabilities = probabilities.clip(0, 1)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def names(classes: int) -> list[str]:
    return [f"class{index}" for index in range(classes)]


def two_class(scores: list[float], labels: list[int]) -> dict[str, float]:
    signal = np.array(scores)
    return classification_metrics(
        np.stack([1 - signal, signal], axis=1), np.array(labels), ["bkg", "sig"], "sig"
    )


class TestAgainstScikitLearn:
    @given(
        seed=seeds, classes=st.integers(2, 5), events=st.integers(6, 120), decimals=st.sampled_from([1, 2, 8])
    )
    @settings(max_examples=60, deadline=None)
    def test_classification(self, seed: int, classes: int, events: int, decimals: int):
        probabilities, labels = sample(seed, classes, events, decimals)
        ours = classification_metrics(probabilities, labels, names(classes), "class1")
        predicted = probabilities.argmax(axis=1)
        averages = {"average": "macro", "zero_division": 0, "labels": range(classes)}
        expected = {
            "accuracy": reference.accuracy_score(labels, predicted),
            "precision": reference.precision_score(labels, predicted, **averages),
            "recall": reference.recall_score(labels, predicted, **averages),
            "f1": reference.f1_score(labels, predicted, **averages),
            "auc": reference.roc_auc_score(labels, probabilities[:, 1])
            if classes == 2
            else np.mean([reference.roc_auc_score(labels == i, probabilities[:, i]) for i in range(classes)]),
        }
        assert {key: ours[key] for key in expected} == pytest.approx(expected, abs=1e-12)
        recalls = reference.recall_score(labels, predicted, average=None, labels=range(classes))
        assert [ours[f"accuracy_{name}"] for name in names(classes)] == pytest.approx(list(recalls))
        confusion = reference.confusion_matrix(labels, predicted, labels=range(classes))
        ours_confusion = [[ours[f"confusion_{t}_{p}"] for p in names(classes)] for t in names(classes)]
        assert np.array_equal(ours_confusion, confusion)

    @given(seed=seeds, events=st.integers(2, 150), decimals=st.sampled_from([1, 2, 8]))
    @settings(max_examples=60, deadline=None)
    def test_roc_curve(self, seed: int, events: int, decimals: int):
        probabilities, labels = sample(seed, 2, events, decimals)
        scores = probabilities[:, 1]
        curve = roc_curve(scores, labels == 1)
        background, signal, thresholds = reference.roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(curve.signal_efficiency, signal)
        np.testing.assert_allclose(curve.background_efficiency, background)
        np.testing.assert_array_equal(curve.thresholds, thresholds)
        assert curve.area == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)

        metrics = classification_metrics(probabilities, labels, ["bkg", "sig"], "sig")
        for percent in (30, 50, 70, 90):
            efficiency = background[np.argmax(signal >= percent / 100 - 1e-12)]
            expected = 1 / max(efficiency, 1 / (labels == 0).sum())
            assert metrics[f"background_rejection_at_{percent}"] == pytest.approx(expected)


# Ten events, best first, signal (s) and background (b), with the cut at 0.5 after the seventh:
# s .95  s .9  s .85  b .8  s .75  b .7  s .6 | b .4  s .3  b .1
SCORES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.4, 0.3, 0.1)
LABELS = (1, 1, 1, 0, 1, 0, 1, 0, 1, 0)


@pytest.fixture(scope="module")
def metrics() -> dict[str, float]:
    return two_class(list(SCORES), list(LABELS))


class TestByHand:
    def test_counts(self, metrics: dict[str, float]):
        # five signal and two background events above 0.5
        assert metrics["confusion_sig_sig"] == 5
        assert metrics["confusion_sig_bkg"] == 1
        assert metrics["confusion_bkg_sig"] == 2
        assert metrics["confusion_bkg_bkg"] == 2
        assert metrics["accuracy"] == pytest.approx(0.7)
        assert metrics["accuracy_error"] == pytest.approx(math.sqrt(0.7 * 0.3 / 10))
        assert metrics["accuracy_sig"] == pytest.approx(5 / 6)
        assert metrics["accuracy_bkg"] == pytest.approx(1 / 2)
        assert metrics["precision"] == pytest.approx((5 / 7 + 2 / 3) / 2)
        assert metrics["recall"] == pytest.approx((5 / 6 + 1 / 2) / 2)
        assert metrics["f1"] == pytest.approx((10 / 13 + 4 / 7) / 2)

    def test_auc(self, metrics: dict[str, float]):
        # signal events above each background event: 3, 4, 5 and 6 of 6
        assert metrics["auc"] == pytest.approx(18 / 24)

    def test_the_error_of_an_area_is_the_spread_of_experiments(self):
        """Exponential scores of means 3 and 1 give the area 3/4."""
        random = np.random.default_rng(0)
        is_signal = np.arange(100) < 60
        curves = [roc_curve(random.exponential(np.where(is_signal, 3.0, 1.0)), is_signal) for _ in range(400)]
        spread = np.std([curve.area for curve in curves], ddof=1)
        # the spread itself is known to 1/sqrt(2 * 400), 3.5 %
        assert np.mean([curve.area_error for curve in curves]) == pytest.approx(spread, rel=0.12)
        # by hand, of 60 and 40 events at A = 3/4: (0.1875 + 59 * (0.6 - 0.5625) + 39 * (9/14 - 0.5625)) / 2400
        assert math.sqrt((0.1875 + 59 * 0.0375 + 39 * (9 / 14 - 0.5625)) / 2400) == pytest.approx(
            spread, rel=0.12
        )

    def test_background_rejection(self, metrics: dict[str, float]):
        # 30 % and 50 % of six need two and three signal events, before any background event: one is taken.
        assert metrics["background_rejection_at_30"] == 4
        assert metrics["background_rejection_at_50"] == 4
        # 70 % need five: two of four background events pass. 90 % need six: three pass.
        assert metrics["background_rejection_at_70"] == 2
        assert metrics["background_rejection_at_90"] == pytest.approx(4 / 3)
        # ε = 2/4: σ(ε) = √(¼/4) = ¼ of the background. Of the signal: the cuts one error (√(5/36/6) = 0.15) further in
        # and out keep 4 and 6 of it, and 1 and 3 of the 4 background events: half of that is another ¼.
        # σ(1/ε) = σ(ε)/ε² = 4 √(¼² + ¼²)
        assert metrics["background_rejection_at_70_error"] == pytest.approx(math.sqrt(2))
        # ε = 3/4: σ(ε) = √(3/16/4), times 16/9
        assert metrics["background_rejection_at_90_error"] == pytest.approx(math.sqrt(3 / 64) * 16 / 9)

    def test_asimov_significance(self, metrics: dict[str, float]):
        # candidates (s, b): (3, 0 → 1), (4, 1), (5, 2), (6, 3), (6, 4); the best is (4, 1):
        # 2·(5 ln 5 − 4) = 8.0944
        assert metrics["asimov_significance"] == pytest.approx(math.sqrt(2 * (5 * math.log(5) - 4)))

    def test_calibration_error(self):
        # Bins of width 1/15. Confidences .9 and .92 share (13/15, 14/15]: one right of two, mean .91;
        # .6 = 9/15 closes the bin (8/15, 9/15] that holds .55 too: one right of two, mean .575.
        metrics = two_class([0.9, 0.92, 0.6, 0.45], [1, 0, 1, 1])
        assert metrics["calibration_error"] == pytest.approx((2 * 0.41 + 2 * 0.075) / 4)

    def test_equal_scores_pass_together(self):
        metrics = two_class([0.7, 0.7, 0.7, 0.7], [1, 0, 1, 0])
        assert metrics["auc"] == 0.5
        assert metrics["background_rejection_at_30"] == 1
        assert metrics["background_rejection_at_30_error"] == 0

    def test_a_signal_efficiency_is_counted_not_rounded(self):
        # 55 of 100 signal events are 55 %, though 0.55·100 is 55.00000000000001: no background passes yet.
        scores = np.array([1.0] * 55 + [0.5] * 2 + [0.2] * 45 + [0.1])
        is_signal = np.array([True] * 55 + [False] * 2 + [True] * 45 + [False])
        assert roc_curve(scores, is_signal).background_rejection(0.55)[0] == 3

    def test_perfect_separation_is_a_bound(self):
        metrics = two_class([0.9] * 50 + [0.1] * 100, [1] * 50 + [0] * 100)
        assert metrics["auc"] == 1
        assert metrics["background_rejection_at_90"] == 100
        assert metrics["background_rejection_at_90_error"] == pytest.approx(100, rel=0.01)

    def test_the_signal_class_decides_whose_score_is_cut_on(self):
        signal = np.array(SCORES)
        probabilities = np.stack([signal, 1 - signal], axis=1)
        labels = 1 - np.array(LABELS)
        first = classification_metrics(probabilities, labels, ["sig", "bkg"], "sig")
        assert first == pytest.approx(two_class(list(SCORES), list(LABELS)))


class TestProperties:
    @given(
        seed=seeds, classes=st.integers(2, 4), events=st.integers(4, 60), decimals=st.sampled_from([0, 1, 8])
    )
    @settings(max_examples=60, deadline=None)
    def test_every_metric_is_finite_and_has_an_mlflow_key(
        self, seed: int, classes: int, events: int, decimals: int
    ):
        probabilities, labels = sample(seed, classes, events, decimals)
        class_names = ["W+", "W-", "t_t", "Z"][:classes]
        for signal in (None, *class_names):
            metrics = classification_metrics(probabilities.astype(np.float32), labels, class_names, signal)
            for key, value in metrics.items():
                assert isinstance(value, float), key
                assert math.isfinite(value), key
                assert re.fullmatch(r"[/\w.\- :]*", key, re.ASCII), key

    @given(seed=seeds, classes=st.integers(2, 4))
    @settings(max_examples=20, deadline=None)
    def test_the_order_of_events_does_not_matter(self, seed: int, classes: int):
        probabilities, labels = sample(seed, classes, 50, 1)
        order = np.random.default_rng(seed).permutation(50)
        first = classification_metrics(probabilities, labels, names(classes), "class0")
        second = classification_metrics(probabilities[order], labels[order], names(classes), "class0")
        assert second == pytest.approx(first, abs=1e-12)

    @given(seed=seeds)
    @settings(max_examples=20, deadline=None)
    def test_a_roc_curve_sees_the_order_of_the_scores_only(self, seed: int):
        probabilities, labels = sample(seed, 2, 50, 2)
        first = roc_curve(probabilities[:, 1], labels == 1)
        second = roc_curve(np.exp(3 * probabilities[:, 1]), labels == 1)
        np.testing.assert_array_equal(first.signal_passing, second.signal_passing)
        np.testing.assert_array_equal(first.background_passing, second.background_passing)
        assert (np.diff(first.thresholds) < 0).all()

    def test_without_a_signal_nothing_is_said_about_one(self):
        probabilities, labels = sample(0, 2, 30, 8)
        metrics = classification_metrics(probabilities, labels, names(2), None)
        assert not [key for key in metrics if "rejection" in key or "asimov" in key]
        assert "auc" in metrics


class TestRefusals:
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    labels = np.array([0, 1, 0])

    @pytest.mark.parametrize(
        ("changes", "facts"),
        [
            ({"classes": ["a", "b", "c"]}, ["(N, 3)", "(3, 2)"]),
            ({"labels": np.array([0, 1])}, ["(3, 2)", "(2,)"]),
            ({"labels": np.array([0, 2, 0])}, ["labels", 2]),
            ({"labels": np.array([0, -1, 0])}, ["labels", -1]),
            ({"labels": np.array([0, 0, 0])}, ["absent", "b"]),
            ({"signal": "c"}, ["a, b", "'c'"]),
            ({"probabilities": 3 * probabilities}, ["probabilities", 2.4000000000000004]),
            ({"probabilities": np.array([[0.5, 0.5], [np.nan, 0.5], [0.5, 0.5]])}, ["probabilities"]),
            ({"probabilities": np.array([[0.5, 0.5], [1.5, -0.5], [0.5, 0.5]])}, ["probabilities"]),
            ({"classes": ["a", "error"]}, ["accuracy_error"]),
            ({"classes": ["W+", "Wplus"]}, ["accuracy_Wplus", "confusion_Wplus_Wplus"]),
        ],
    )
    def test_classification_metrics(self, changes: dict[str, object], facts: list[object]):
        arguments = {"probabilities": self.probabilities, "labels": self.labels, "classes": ["a", "b"]}
        arguments |= {"signal": None, **changes}
        with raises(InvalidEvents, *facts):
            classification_metrics(**arguments)

    @pytest.mark.parametrize(
        ("scores", "is_signal", "facts"),
        [
            ([0.1, 0.2], [True], ["(2,)", "(1,)"]),
            ([0.1, np.nan], [True, False], ["finite", 1]),
            ([0.1, 0.2], [True, True], ["signal", "background", 2, 0]),
            ([0.1, 0.2], [False, False], ["signal", "background", 0, 2]),
        ],
    )
    def test_roc_curve(self, scores: list[float], is_signal: list[bool], facts: list[object]):
        with raises(InvalidEvents, *facts):
            roc_curve(np.array(scores), np.array(is_signal))

    @pytest.mark.parametrize("efficiency", [0.0, -0.5, 1.01, math.nan])
    def test_signal_efficiency(self, efficiency: float):
        curve = roc_curve(np.array([0.1, 0.9]), np.array([False, True]))
        with raises(ValueError, "(0, 1]", efficiency):
            curve.background_rejection(efficiency)


class TestRanksDoNotSaturate:
    """Log-odds with known efficiencies, P(background > t) = exp(−t/5) and P(signal > t) = exp(−t/30).

    Cuts lie beyond ln 2²⁴ = 16.6, where every probability in single precision is 1.
    """

    @staticmethod
    def sample(events: int) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles instead of draws: efficiencies are then exact to one event."""
        quantiles = (np.arange(events) + 0.5) / events
        background = 5.0 * -np.log(quantiles)  # P(> t) = exp(−t/5)
        signal = 30.0 * -np.log(quantiles)  # P(> t) = exp(−t/30)
        return np.concatenate([background, signal]), np.repeat([0, 1], events)

    def test_the_rejection_is_the_true_one(self):
        log_odds, labels = self.sample(40_000)
        both = np.stack([-log_odds, log_odds], axis=1)
        probabilities = (1 / (1 + np.exp(-both))).astype(np.float32)
        found = classification_metrics(probabilities, labels, ["bkg", "sig"], "sig", both)
        # Half the signal is above t = 30 ln 2, where ε_b = exp(−6 ln 2) = 1/64.
        assert found["background_rejection_at_50"] == pytest.approx(64, rel=0.01)
        # 30 %: t = 30 ln(1/0.3), ε_b = 0.3⁶.
        assert found["background_rejection_at_30"] == pytest.approx(0.3**-6, rel=0.05)
        # AUC: P(s > b) = ∫ e^(−t/30) d(1 − e^(−t/5)) = 30/35.
        assert found["auc"] == pytest.approx(30 / 35, abs=1e-4)
        # Single precision makes all events beyond ln 2²⁴ one: of the background 2^(−24/5) = 1/27.9 of all pass.
        saturated = roc_curve(probabilities[:, 1].astype(np.float64), labels == 1)
        assert saturated.background_rejection(0.3)[0] < 64
        signal, background = saturated.tied(0.3)
        assert signal > 1000
        assert background > 1000
        exact = roc_curve(log_odds, labels == 1)
        assert exact.tied(0.3) == (1, 0)

    def test_probabilities_alone_tell_it_by_the_other_class(self):
        log_odds, labels = self.sample(20_000)
        both = np.stack([-log_odds, log_odds], axis=1)
        # As a softmax in single precision: p is 1, and that of the other class is still exp(−30).
        smallest = np.minimum(1 / (1 + np.exp(np.abs(log_odds))), 0.5)
        signal = np.where(log_odds > 0, 1 - smallest, smallest)
        probabilities = np.stack([np.where(log_odds > 0, smallest, 1 - smallest), signal], axis=1)
        single = probabilities.astype(np.float32)
        exact = classification_metrics(single, labels, ["bkg", "sig"], "sig", both)
        for keys in ("auc", "background_rejection_at_30", "background_rejection_at_50"):
            assert classification_metrics(single, labels, ["bkg", "sig"], "sig")[keys] == pytest.approx(
                exact[keys], rel=1e-3
            )
        kept = log_odds_of(single)[:, 1]
        reachable = np.abs(log_odds) < 80  # 10⁻³⁸ is where single precision ends at its small end
        assert np.allclose(kept[reachable], log_odds[reachable], rtol=1e-4, atol=1e-6)

    def test_one_class_against_several(self):
        probabilities = np.array([[0.2, 0.3, 0.5], [1e-9, 2e-9, 1 - 3e-9]])
        expected = np.log(probabilities) - np.log([[0.8, 0.7, 0.5], [1 - 1e-9, 1 - 2e-9, 3e-9]])
        assert np.allclose(log_odds_of(probabilities), expected, rtol=1e-9)

    def test_log_odds_have_the_shape_of_the_probabilities(self):
        with raises(InvalidEvents, "log-odds", "(2,)"):
            classification_metrics(np.eye(2), np.arange(2), ["a", "b"], "b", np.zeros(2))
