"""Flatness of minima: of a loss that is known, and of two networks, one of which is the other written sharper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.batches import Batch, BatchRequest, Events
from hep_ray.losses import build_loss
from hep_ray.models import Model
from hep_ray.training.config import TrialConfig
from hep_ray.training.flatness import along_random_directions, sharpness

SCHEMA = EventSchema(task="toy", columns=(Column(name="x", shape=(4,)),), classes=("a", "b"))


class Quadratic(Model):
    """Has the loss |w − t|² / 2 whatever the events are."""

    def __init__(self, weight: torch.Tensor, target: torch.Tensor) -> None:
        super().__init__()
        self.columns = ("x",)
        self.weight, self.target = torch.nn.Parameter(weight.clone()), target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((self.weight - self.target) ** 2).sum() / 2 * torch.ones(len(x), 1)


class AsItIs(torch.nn.Module):
    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]


def batches(events: int = 40) -> list[Batch]:
    labels = np.arange(events) % 2
    values = np.random.default_rng(3).normal(size=(events, 4)).astype(np.float32) + labels[:, None]
    source = Events.from_arrays({"x": values.astype(np.float32)}, labels)
    return list(source.batches(BatchRequest(16)))


def test_along_a_direction_a_quadratic_rises_by_half_of_the_step_squared() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    model = Quadratic(weight, weight)
    distances = np.array([-0.5, 0.0, 0.2])
    found = along_random_directions(model, AsItIs(), batches(), distances=distances, directions=4)  # type: ignore[arg-type]
    # Each row is as long as the weight's own: |d|² = 25 + 4, whatever was drawn.
    np.testing.assert_allclose(found, np.tile(29 * distances**2 / 2, (4, 1)), rtol=1e-5, atol=1e-6)
    assert torch.equal(model.weight.detach(), weight)


def test_the_sharpness_of_a_quadratic_is_that_of_the_corner_of_the_box() -> None:
    weight, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 0.0]])
    model = Quadratic(weight, target)
    found = sharpness(model, AsItIs(), batches(), box=0.01)  # type: ignore[arg-type]
    # L = 2.5; the corner is at 1 + 0.01 · 2 and −2 − 0.01 · 3.
    corner = (1.02**2 + 2.03**2) / 2
    assert found == pytest.approx(100 * (corner - 2.5) / 3.5, rel=1e-4)
    assert torch.equal(model.weight.detach(), weight)


def test_a_network_is_itself_again_and_a_minimum_far_from_flat_is_sharper() -> None:
    params = {
        "model": "mlp",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.01,
        "dropout": 0.3,
    }
    torch.manual_seed(0)
    model = TrialConfig.from_params(params).build_model(SCHEMA).train()
    loss, before = build_loss("cross_entropy", {}), None
    measured = []
    for _ in range(2):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        curves = along_random_directions(model, loss, batches(), directions=2)
        measured.append((sharpness(model, loss, batches()), curves))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model.training
        with torch.no_grad():
            for one in model.parameters():
                one.mul_(3.0)  # the same classes, by larger logits: a steeper loss
    assert measured[1][0] > measured[0][0] > 0
    middle = len(measured[0][1][0]) // 2
    assert measured[0][1][0, middle] == pytest.approx(measured[0][1][1, middle])  # where no step is taken
    again = along_random_directions(model, loss, batches(), directions=2)
    np.testing.assert_array_equal(again, along_random_directions(model, loss, batches(), directions=2))
