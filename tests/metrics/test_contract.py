"""What every registered metric promises, and what the registry makes of a function."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hep_ray import LogUniform, Preset, Search, Space
from hep_ray.errors import InvalidConfig, UnknownName
from hep_ray.metrics import METRICS, classification_metrics, larger_is_better, metric, metric_of
from tests.facts import raises

NOT_OF_DECISIONS = ("calibration_error", "background_distance_correlation", "background_jsd")
"""Metrics that judge probabilities, or what else the score knows."""
CLASSES = ("background", "signal", "other")


def predictions(classes: int = 3, events: int = 300, *, sharpness: float = 1.0):
    """Probabilities (N, C) that know the more of the labels (N,) the sharper they are."""
    random = np.random.default_rng(0)
    labels = np.arange(events) % classes
    logits = random.normal(size=(events, classes)) + sharpness * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def values(name: str, classes: int = 3, signal: str | None = "signal", **options: float) -> dict[str, float]:
    scores, labels = predictions(classes, **options)
    mass = np.random.default_rng(1).uniform(50, 150, len(labels))
    return classification_metrics(scores, labels, CLASSES[:classes], signal, only=name, protected=mass)


@pytest.fixture
def registered():
    """`metric`, whose registrations end with the test."""
    before = dict(METRICS._entries) if len(METRICS) else {}
    yield metric
    METRICS._entries.clear()
    METRICS._entries.update(before)


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    @pytest.mark.parametrize("classes", [2, 3])
    @pytest.mark.parametrize("signal", ["signal", None])
    def test_it_gives_finite_numbers_under_its_own_keys(self, name: str, classes: int, signal: str | None):
        found = values(name, classes, signal)
        assert all(type(value) is float and math.isfinite(value) for value in found.values())
        assert all(metric_of(key) is METRICS[name] for key in found)

    def test_it_gives_the_same_number_of_the_same_events(self, name: str):
        assert values(name) == values(name)

    def test_it_leaves_what_it_is_given_as_it_was(self, name: str):
        scores, labels = predictions()
        weights = np.ones(len(labels))
        for given in (scores, labels, weights):
            given.flags.writeable = False
        assert classification_metrics(
            scores, labels, CLASSES, "signal", scores, weights, only=name, protected=weights
        )

    def test_a_model_that_knows_more_is_better(self, name: str):
        direction = METRICS[name].larger_is_better
        if direction is None:
            assert larger_is_better(f"val_{name}") is None
            return
        if name in NOT_OF_DECISIONS:
            return
        better, worse = values(name, sharpness=3.0), values(name, sharpness=0.5)
        ranked = [key for key in better if larger_is_better(f"val_{key}") is not None]
        assert ranked
        assert all((better[key] > worse[key]) is direction for key in ranked)


def test_directions():
    assert larger_is_better("val_auc") is True
    assert larger_is_better("test_background_rejection_at_50") is True
    assert larger_is_better("val_loss") is False
    assert larger_is_better("val_calibration_error") is False
    assert larger_is_better("val_accuracy_error") is None
    assert larger_is_better("val_unheard_of") is None


@pytest.mark.parametrize(
    ("key", "mode"),
    [("val_accuracy", "max"), ("val_loss", "min"), ("val_calibration_error", "min"), ("val_other", "max")],
)
def test_a_search_ranks_in_the_direction_of_its_metric(key: str, mode: str):
    def search(**given: str) -> Search:
        space = Space(model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2))
        return Search(
            "mine", "task", "Mine.", space, {"smoke": Preset(trials=1, epochs=1)}, metric=key, **given
        )

    assert search().mode == mode
    assert search(mode="max").mode == "max"
    assert search(mode="min").mode == "min"
    with raises(UnknownName, "upwards"):
        search(mode="upwards")


class TestOnesOwn:
    def test_a_number(self, registered):
        @registered("weighted_accuracy", larger_is_better=True)
        def weighted(scores, labels, weights):
            return np.average(scores.argmax(axis=1) == labels, weights=weights)

        scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
        labels = np.array([0, 1, 1])
        found = classification_metrics(scores, labels, ["a", "b"], None)
        assert found["weighted_accuracy"] == pytest.approx(2 / 3)
        weighed = classification_metrics(scores, labels, ["a", "b"], None, weights=np.array([1.0, 1.0, 2.0]))
        assert weighed["weighted_accuracy"] == pytest.approx(2 / 4)  # 1 + 1 of 1 + 1 + 2
        assert found["accuracy"] == pytest.approx(2 / 3)
        assert weighed["accuracy"] == pytest.approx(2 / 4)
        assert larger_is_better("val_weighted_accuracy") is True

    def test_numbers_by_key(self, registered):
        registered("mean_score", larger_is_better=None)(
            lambda scores, classes: {
                f"mean_score_{name}": scores[:, i].mean() for i, name in enumerate(classes)
            }
        )
        scores, labels = predictions(2)
        found = classification_metrics(scores, labels, ["a+", "b"], None, only="mean_score_b")
        assert found == {"mean_score_aplus": scores[:, 0].mean(), "mean_score_b": scores[:, 1].mean()}

    @pytest.mark.parametrize(
        ("compute", "facts"),
        [
            (lambda labels: "much", ["mine", "much"]),
            (lambda labels: None, ["mine", "None"]),
            (lambda labels: labels * 1.0, ["mine"]),
            (lambda labels: {"yours": 1.0}, ["mine", "yours"]),
        ],
    )
    def test_what_is_no_metric_is_refused(self, registered, compute, facts):
        registered("mine", larger_is_better=True)(compute)
        scores, labels = predictions(2)
        with raises(InvalidConfig, *facts):
            classification_metrics(scores, labels, ["a", "b"], None)

    def test_unknown_arguments_are_refused(self, registered):
        with raises(InvalidConfig, "mine", "y_true", "labels"):
            registered("mine", larger_is_better=True)(lambda y_true: 0.0)
