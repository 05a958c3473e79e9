"""Early stopping, clipping and precision within a trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch, Events
from hep_ray.losses import LOSSES
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop
from hep_ray.training.step import train_step
from tests.facts import raises

SCHEMA = EventSchema(task="toy", columns=(Column(name="x", shape=(4,)),), classes=("a", "b"))
PARAMS: dict[str, Any] = {
    "model": "mlp",
    "hidden_features": 8,
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "batch_size": 16,
}


def events(seed: int, flipped: bool = False) -> Events:
    random = np.random.default_rng(seed)
    labels = np.arange(64) % 2
    values = random.normal(size=(64, 4)).astype(np.float32) + 2 * labels[:, None].astype(np.float32)
    return Events.from_arrays({"x": values}, 1 - labels if flipped else labels)


def loop(epochs: int = 10, flipped: bool = False, **params: Any) -> TrialLoop:
    config = TrialConfig.from_params(PARAMS | params)
    return TrialLoop(config, SCHEMA, events(0), events(1, flipped), epochs=epochs, seed=3)


def test_patience_ends_a_trial_whose_validation_loss_only_rises() -> None:
    # Validation labels are turned round: what is learnt is wrong there, and the first loss stays the lowest.
    trial = loop(flipped=True, patience=3)
    seen = []
    while not trial.finished:
        seen.append(trial.run_epoch()["val_loss"])
    assert seen == sorted(seen)
    assert len(seen) == 4


def test_without_patience_or_while_it_improves_a_trial_runs_in_full() -> None:
    for trial in (loop(epochs=6, flipped=True), loop(epochs=6, patience=6)):
        epochs = 0
        while not trial.finished:
            trial.run_epoch()
            epochs += 1
        assert epochs == 6


def test_a_resumed_trial_remembers_how_long_it_has_waited() -> None:
    whole, again = loop(flipped=True, patience=3), loop(flipped=True, patience=3)
    whole.run_epoch()
    whole.run_epoch()
    again.load_state_dict(whole.state_dict())
    again.run_epoch()
    assert not again.finished
    again.run_epoch()
    assert again.finished


class Weight(torch.nn.Module):
    columns = ("x",)

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.bias


@pytest.mark.parametrize(("clip_norm", "length"), [(0.0, 0.5**0.5), (0.25, 0.25), (2.0, 0.5**0.5)])
def test_clipping_shortens_long_gradients_only(clip_norm: float, length: float) -> None:
    # Softmax of zeros is (1/2, 1/2), so the gradient of the bias is (-1/2, 1/2), of length sqrt(1/2).
    model: Any = Weight()
    loss = LOSSES["cross_entropy"].build(LOSSES["cross_entropy"].config())
    batch = Batch({"x": torch.zeros(1, 2)}, torch.tensor([0]))
    train_step(model, loss, torch.optim.SGD(model.parameters(), lr=1.0), batch, clip_norm=clip_norm)
    assert model.bias.norm().item() == pytest.approx(length, rel=1e-4)


def test_bfloat16_trains_to_nearly_the_same_loss_with_weights_in_32_bits() -> None:
    full, half = loop(), loop(precision="bfloat16")
    for _ in range(5):
        in_full, in_half = full.run_epoch(), half.run_epoch()
    assert in_half["val_loss"] != in_full["val_loss"]
    assert in_half["val_loss"] == pytest.approx(in_full["val_loss"], rel=0.1)
    assert {weight.dtype for weight in half.model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("values", [{"patience": -1}, {"clip_norm": -0.1}, {"precision": "float16"}])
def test_refusals(values: dict[str, Any]) -> None:
    with raises(InvalidConfig, *values):
        loop(**values)
