"""Distance correlation, and the shapes of background that passes and that fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hep_ray.losses.distance_correlation import Decorrelation, squared_distance_correlation
from hep_ray.metrics import classification_metrics
from hep_ray.metrics.decorrelation import distance_correlation, shape_divergence


def by_all_pairs(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """dCor² as its definition says, with a matrix of all pairs."""
    own = weights / weights.sum()

    def centred(values: np.ndarray) -> np.ndarray:
        far = np.abs(values[:, None] - values[None, :])
        mean = far @ own
        return far - mean[:, None] - mean[None, :] + own @ mean

    a, b, pairs = centred(x), centred(y), own[:, None] * own[None, :]
    return float((pairs * a * b).sum() / np.sqrt((pairs * a * a).sum() * (pairs * b * b).sum()))


def test_by_hand() -> None:
    # x = -1, 0, 1 and y = x² = 1, 0, 1. Distances of x: row means 1, 2/3, 1, mean 8/9, so A = [-10/9 2/9 8/9;
    # 2/9 -4/9 2/9; 8/9 2/9 -10/9]. Of y: row means 1/3, 2/3, 1/3, mean 4/9, so B = [-2/9 4/9 -2/9; 4/9 -8/9 4/9; …].
    # ΣAB = (20 + 8 - 16 + 8 + 32 + 8 - 16 + 8 + 20)/81 = 72/81, ΣAA = (2·100 + 2·64 + 4·4 + 16)/81 = 360/81,
    # ΣBB = (4·4 + 4·16 + 64)/81 = 144/81, and dCor² = 72/√(360·144) = 1/√10. Pearson's correlation is 0.
    x, y = np.array([-1.0, 0, 1]), np.array([1.0, 0, 1])
    assert distance_correlation(x, y) ** 2 == pytest.approx(1 / np.sqrt(10))
    assert float(squared_distance_correlation(torch.tensor(x), torch.tensor(y))) == pytest.approx(10**-0.5)
    assert distance_correlation(x, 3 - 2 * x) == pytest.approx(1)
    assert distance_correlation(x, np.full(3, 91.2)) == 0


@pytest.mark.parametrize("events", [2, 3, 64, 201])
@pytest.mark.parametrize("weighting", ["counted", "weighted", "signed"])
def test_without_a_matrix_of_pairs_it_is_what_the_definition_says(events: int, weighting: str) -> None:
    random = np.random.default_rng(events)
    x = random.normal(size=events)
    y = np.round(x**2 + random.normal(size=events), 1)  # with ties
    weights = np.ones(events) if weighting == "counted" else random.uniform(0.1, 3, events)
    if weighting == "signed":
        weights[: events // 5] *= -1
    expected = by_all_pairs(x, y, weights)
    assert distance_correlation(x, y, weights) ** 2 == pytest.approx(expected, abs=1e-9)
    if weighting != "signed":
        of_loss = squared_distance_correlation(*(torch.tensor(one) for one in (x, y, weights)))
        assert float(of_loss) == pytest.approx(expected, abs=1e-9)


def test_an_event_of_weight_two_is_that_event_twice() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    weights = np.where(np.arange(40) < 10, 2.0, 1.0)
    twice = [np.concatenate([one[:10], one]) for one in (x, y)]
    assert distance_correlation(x, y, weights) == pytest.approx(distance_correlation(*twice))


def test_what_is_independent_falls_with_the_number_of_events_and_a_curve_is_seen() -> None:
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, 20_000)
    few, many = (distance_correlation(x[:n], random.uniform(size=n)) for n in (200, 20_000))
    assert many < 0.03 < few
    assert distance_correlation(x, x**2) > 0.4


def test_the_term_is_of_background_alone_and_its_gradient_makes_it_smaller() -> None:
    random = torch.Generator().manual_seed(0)
    mass = torch.rand(200, generator=random) * 1e5  # MeV
    labels = torch.arange(200) % 2
    logits = torch.stack([torch.zeros(200), mass / 5e4 - 1], dim=1).requires_grad_()
    term = Decorrelation("mass", 5.0, signal=1)
    before = term(logits.softmax(1), labels, mass)
    (gradient,) = torch.autograd.grad(before, logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[labels == 1] == 0).all()
    assert term((logits - 50 * gradient).softmax(1), labels, mass).item() < before.item()
    assert before.item() == pytest.approx(
        5
        * by_all_pairs(
            *(one[labels == 0].double().detach().numpy() for one in (logits.softmax(1)[:, 1], mass)),
            np.ones(100),
        ),
        rel=1e-4,
    )


@pytest.mark.parametrize("scores", [torch.full((6,), 0.5), torch.ones(6), torch.zeros(6)])
def test_a_score_that_is_constant_costs_nothing(scores: torch.Tensor) -> None:
    given = scores.clone().requires_grad_()
    found = squared_distance_correlation(given, torch.arange(6.0), None)
    assert found.item() == 0
    assert torch.isfinite(torch.autograd.grad(found, given)[0]).all()
    assert squared_distance_correlation(given[:1], torch.ones(1)).item() == 0


def test_shapes_by_hand() -> None:
    values, ones = np.arange(40.0), np.ones(40)
    assert shape_divergence(values, values >= 20, ones) == pytest.approx(1)  # no bin in common
    assert shape_divergence(values, np.arange(40) % 2 == 0, ones) == pytest.approx(0)
    assert shape_divergence(values, np.zeros(40, bool), ones) == 1
    # Bins 0 to 9 fail alone, bins 10 to 19 are half and half: passing 0 and 1, failing 2/3 and 1/3 of their weight.
    passes = (values >= 20) & (np.arange(40) % 2 == 0)
    halves = np.log2(1 / (2 / 3)) + 2 / 3 * np.log2((2 / 3) / (1 / 3)) + 1 / 3 * np.log2((1 / 3) / (2 / 3))
    assert shape_divergence(values, passes, ones) == pytest.approx(halves / 2)


def test_metrics_are_of_background_and_only_where_there_is_a_column() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(4000) % 2
    mass = random.uniform(50, 150, 4000)
    odds = 1.0 * labels + random.normal(size=4000)
    know = np.where(labels == 0, odds + 0.1 * (mass - 100), odds)
    found = []
    for one in (odds, know):
        scores = np.stack([1 / (1 + np.exp(one)), 1 / (1 + np.exp(-one))], axis=1)
        keys = classification_metrics(scores, labels, ["b", "s"], "s", protected=mass)
        assert not any(
            "jsd" in key or "distance" in key for key in classification_metrics(scores, labels, "bs", "s")
        )
        found.append(keys)
    blind, sculpting = found
    assert blind["background_distance_correlation"] < 0.1
    assert sculpting["background_distance_correlation"] > 0.7
    assert blind["background_jsd_at_50"] < 0.03
    assert sculpting["background_jsd_at_50"] > 0.3
