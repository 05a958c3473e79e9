"""Entropy-SGD and replicated SGD: steps worked out by hand, and what their centre is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hep_ray.config import parse
from hep_ray.optim import OPTIMIZERS
from hep_ray.optim.wide_minima import CentredOptimizer
from tests.facts import raises


def optimizer(name: str, weight: nn.Parameter, learning_rate: float = 0.1, **values: Any) -> CentredOptimizer:
    entry = OPTIMIZERS[name]
    built = entry.build(parse(entry.config, values, name), [weight], learning_rate)
    assert isinstance(built, CentredOptimizer)
    return built


def steps(built: CentredOptimizer, weight: nn.Parameter, *gradients: float) -> list[tuple[float, float]]:
    """(weight, centre) after each step."""
    seen = []
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        built.step()
        seen.append((weight.item(), built.centre(weight).item()))
    return seen


def test_entropy_sgd_by_hand() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    built = optimizer(
        "entropy_sgd", weight, momentum=0, inner_steps=2, scope=0.5, scope_growth=1, thermal_noise=0,
        newest_share=0.5, outer_rate=0.5,
    )  # fmt: skip
    # x = µ = 1. First: x' = 1 − 0.1·(2 − 0.5·0) = 0.8, µ = 0.9.
    # Second: x' = 0.8 − 0.1·(1 − 0.5·(1 − 0.8)) = 0.71, µ = 0.805; x = 1 − 0.5·(1 − 0.805) = 0.9025 = x'.
    # Third, with γ = 1: x' = 0.9025 − 0.1·1 = 0.8025, the centre stays.
    # Fourth: x' = 0.8025 − 0.1·(1 − 1·0.1) = 0.7125; µ = ((0.9025 + 0.8025)/2 + 0.7125)/2 = 0.7825;
    # x = (0.9025 + 0.7825)/2 = 0.8425.
    seen = steps(built, weight, 2.0, 1.0, 1.0, 1.0)
    expected = [(0.8, 1.0), (0.9025, 0.9025), (0.8025, 0.9025), (0.8425, 0.8425)]
    assert [value for pair in seen for value in pair] == pytest.approx([v for pair in expected for v in pair])


def test_in_the_middle_of_the_inner_loop_entropy_sgd_has_found_where_x_would_go() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    built = optimizer(
        "entropy_sgd", weight, momentum=0, inner_steps=2, scope=0.5, scope_growth=1, thermal_noise=0,
        newest_share=0.5, outer_rate=0.5,
    )  # fmt: skip
    # As above: x = 1, µ = 0.9 after the first step, 1 − 0.5·0.1; after the second the centre itself; after the third
    # x = 0.9025, µ = (0.9025 + 0.8025)/2 = 0.8525, 0.9025 − 0.5·0.05.
    found = []
    for gradient in (2.0, 1.0, 1.0):
        weight.grad = torch.full_like(weight, gradient)
        built.step()
        found.append(built.so_far(weight).item())
    assert found == pytest.approx([0.95, 0.9025, 0.8775])
    assert built.centre(weight).item() == pytest.approx(0.9025)


def test_replicated_sgd_by_hand() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    built = optimizer("replicated_sgd", weight, momentum=0, replicas=2, attraction=0.5, attraction_growth=1)
    # First replica: 1 − 0.1·2 = 0.8, centre 0.9; the second is handed out, still 1.
    # Second: 1 − 0.1·(1 + 0.5·(1 − 0.9)) = 0.895, centre 0.8475; the first is handed out.
    # First again, with γ = 1: 0.8 − 0.1·(0 + 0.8 − 0.8475) = 0.80475.
    seen = steps(built, weight, 2.0, 1.0, 0.0)
    expected = [(1.0, 0.9), (0.8, 0.8475), (0.895, (0.80475 + 0.895) / 2)]
    assert [value for pair in seen for value in pair] == pytest.approx([v for pair in expected for v in pair])


def test_momentum_is_nesterovs() -> None:
    # Velocities 2 and 0.5·2 + 1 = 2; directions 2 + 0.5·2 = 3 and 1 + 0.5·2 = 2.
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    built = optimizer("entropy_sgd", weight, momentum=0.5, scope=0, thermal_noise=0)
    assert [pair[0] for pair in steps(built, weight, 2.0, 1.0)] == pytest.approx([0.7, 0.5])


def test_thermal_noise_has_the_spread_of_the_paper() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(20_000))
    built = optimizer("entropy_sgd", weight, learning_rate=0.25, momentum=0, scope=0, thermal_noise=0.5)
    weight.grad = torch.zeros_like(weight)
    built.step()
    assert weight.std().item() == pytest.approx(0.25**0.5 * 0.5, rel=0.03)


@pytest.mark.parametrize("name", ["entropy_sgd", "replicated_sgd"])
def test_before_the_first_step_the_centre_is_the_weights(name: str) -> None:
    weight = nn.Parameter(torch.arange(3.0))
    assert torch.equal(optimizer(name, weight).centre(weight), torch.arange(3.0))
    assert torch.equal(optimizer(name, weight).so_far(weight), torch.arange(3.0))


@pytest.mark.parametrize("name", ["entropy_sgd", "replicated_sgd"])
def test_a_closure_is_refused(name: str) -> None:
    with raises(TypeError, "closure"):
        optimizer(name, nn.Parameter(torch.zeros(1))).step(lambda: 0.0)


@pytest.mark.parametrize("name", ["sgd", "entropy_sgd"])
def test_the_l1_penalty_is_the_sign_of_the_weight(name: str) -> None:
    entry = OPTIMIZERS[name]
    weight = nn.Parameter(torch.tensor([2.0, -3.0, 0.0], dtype=torch.float64))
    built = entry.build(parse(entry.config, {"l1_penalty": 0.5, "momentum": 0}, name), [weight], 0.1)
    weight.grad = torch.zeros_like(weight)
    built.step()
    assert weight.tolist() == pytest.approx([1.95, -2.95, 0.0], abs=1e-4)
