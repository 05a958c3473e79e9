"""Maps from scores to probabilities, fitted on events that the model was not trained on."""

from __future__ import annotations

import numpy as np
import pytest

from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.training.calibration import METHODS, Calibration, fit_calibration, log_loss
from tests.facts import raises


def two_classes(seed: int, count: int = 20_000, *, sharpness: float = 1.0, shift: float = 0.0):
    """Log-odds (N, 2) that are the true ones o times a sharpness plus a shift, and labels drawn by σ(o)."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, count)
    labels = (random.random(count) < 1 / (1 + np.exp(-true))).astype(np.int64)
    odds = sharpness * true + shift
    return np.stack([-odds, odds], axis=1), labels


def probabilities(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize("method", METHODS)
def test_overconfident_scores_become_probabilities_on_other_events(method) -> None:
    fitted = fit_calibration(method, *two_classes(0, sharpness=3.0))
    odds, labels = two_classes(1, sharpness=3.0)
    judged = fitted.judged("test", probabilities(odds), odds, labels)
    assert judged.before["test_calibration_error"] > 0.08
    assert judged.after["test_calibration_error"] < 0.015
    assert judged.after["test_log_loss"] < judged.before["test_log_loss"] - 0.1
    assert Calibration.model_validate_json(judged.model_dump_json()) == judged
    np.testing.assert_allclose(judged(odds).sum(axis=1), 1)


def test_the_temperature_is_the_sharpness_and_keeps_the_order() -> None:
    odds, labels = two_classes(0, sharpness=2.5)
    fitted = fit_calibration("temperature", odds, labels)
    assert fitted.temperature == pytest.approx(2.5, rel=0.04)
    rising = np.diff(fitted(odds)[:, 1][np.argsort(odds[:, 1])])
    assert (rising >= 0).all()
    assert Calibration(method="temperature", events=1)(odds) == pytest.approx(probabilities(odds))


def test_platt_also_mends_the_share_of_the_classes() -> None:
    odds, labels = two_classes(0, sharpness=2.0, shift=1.0)
    fitted = fit_calibration("platt", odds, labels)
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.5, -0.5), abs=0.03)
    hot = fit_calibration("temperature", odds, labels)
    assert log_loss(fitted(odds), labels) < log_loss(hot(odds), labels)


def test_several_classes_by_hand() -> None:
    # p = (.5, .3, .2) at T = 2: the roots (.7071, .5477, .4472), over their sum 1.7020.
    p = np.array([[0.5, 0.3, 0.2]])
    found = Calibration(method="temperature", events=1, temperature=2.0)(np.log(p) - np.log(1 - p))
    np.testing.assert_allclose(found, [[0.41544, 0.32180, 0.26275]], atol=1e-5)


def test_several_classes_are_mended() -> None:
    random = np.random.default_rng(0)
    true = random.normal(0, 1.5, (20_000, 3))
    p = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = (random.random((20_000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    sharp = p**2 / (p**2).sum(axis=1, keepdims=True)
    fitted = fit_calibration("temperature", np.log(sharp) - np.log1p(-sharp), labels)
    assert fitted.temperature == pytest.approx(2, rel=0.04)
    with raises(InvalidConfig, "'isotonic'", 3, "'temperature'"):
        fit_calibration("isotonic", true, labels)


@pytest.mark.parametrize("method", METHODS)
def test_an_event_of_weight_two_is_that_event_twice(method) -> None:
    odds, labels = two_classes(3, 400)
    weights = np.where(np.arange(400) < 100, 2.0, 1.0)
    weighted = fit_calibration(method, odds, labels, weights)
    twice = fit_calibration(
        method, np.concatenate([odds[:100], odds]), np.concatenate([labels[:100], labels])
    )
    np.testing.assert_allclose(weighted(odds), twice(odds), atol=2e-3)


def test_weights_move_the_share() -> None:
    odds, labels = two_classes(0)
    tenth = np.where(labels == 1, 0.1, 1.0)
    fitted = fit_calibration("platt", odds, labels, tenth)
    assert fitted.intercept == pytest.approx(np.log(0.1), abs=0.06)
    assert log_loss(fitted(odds), labels, tenth) < log_loss(probabilities(odds), labels, tenth) - 0.2


def test_what_cannot_be_fitted_is_named() -> None:
    odds, labels = two_classes(0, 400)
    with raises(InvalidEvents, "100", 50):
        fit_calibration("temperature", odds[:50], labels[:50])
    with raises(InvalidEvents, "1 of 2 classes"):
        fit_calibration("temperature", odds, np.zeros(400, np.int64))
    with raises(InvalidEvents, "no temperature"):
        fit_calibration("temperature", odds, (odds[:, 1] > 0).astype(np.int64))
    signs = np.where(np.arange(400) % 5 == 0, -1.0, 1.0)
    assert fit_calibration("temperature", odds, labels, signs).temperature > 0
    with raises(InvalidConfig, "'platt'", "negative"):
        fit_calibration("platt", odds, labels, signs)
