"""Running statistics of an averaged model: taken anew where training moves them, left alone elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.models import Model
from hep_ray.training.averaging import take_anew
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import validate
from hep_ray.training.loop import TrialLoop

IMAGES = EventSchema(task="toy", columns=(Column(name="image", shape=(16, 16, 1)),), classes=("a", "b"))


def images(seed: int, count: int = 36) -> Events:
    labels = np.arange(count) % 2
    values = np.random.default_rng(seed).random((count, 16, 16, 1)) * (1 + labels[:, None, None, None])
    return Events.from_arrays({"image": values.astype(np.float32)}, labels)


def features(count: int) -> Events:
    # Batches of unlike mean, so that the weight of each tells.
    values = np.random.default_rng(0).normal(size=(count, 3)) + np.arange(count)[:, None]
    return Events.from_arrays({"x": values.astype(np.float32)}, np.arange(count) % 2)


def pretrained(**params: Any) -> TrialLoop:
    """A frozen ResNet34 whose statistics are those of no data that the trial has."""
    given = {"model": "pretrained_resnet34", "weights": "random", "loss": "cross_entropy", "optimizer": "sgd"}
    config = TrialConfig.from_params(given | {"learning_rate": 0.05, "batch_size": 16} | params)
    trial = TrialLoop(config, IMAGES, images(0), images(1), epochs=1, seed=3)
    for module in (*trial.model.modules(), *trial.kept.modules()):
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.fill_(0.25)
    return trial


@pytest.mark.parametrize(
    "params",
    [{"swa_start": 0.0}, {"optimizer": "entropy_sgd", "inner_steps": 2}, {"optimizer": "replicated_sgd"}],
)
def test_frozen_statistics_stay_byte_for_byte(params: dict[str, Any]) -> None:
    trial = pretrained(**params)
    before = {name: value.clone() for name, value in trial.model.state_dict().items() if "backbone" in name}
    trial.run_epoch()
    assert trial.kept is not trial.model
    after = trial.kept.state_dict()
    assert sum("running" in name for name in before) == 2 * 36
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def test_the_average_of_one_epoch_of_a_frozen_network_validates_as_the_network_itself() -> None:
    trial = pretrained(swa_start=0.0)
    metrics = trial.run_epoch()
    own = validate(trial.model, trial.loss, images(1), IMAGES, str)
    assert metrics["val_loss"] == own["val_loss"]


class Network(Model):
    """One normalisation that training moves, and several that it does not."""

    columns = ("x",)

    def __init__(self) -> None:
        super().__init__()
        self.moved = nn.BatchNorm1d(3)
        self.instance = nn.InstanceNorm1d(3, track_running_stats=True)
        self.frozen = nn.BatchNorm1d(3)
        self.still = nn.BatchNorm1d(3, momentum=0.0)
        self.idle = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.0)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, values: Tensor) -> Tensor:
        pair = torch.stack(
            [values, values + 2], dim=2
        )  # an instance has a variance where it has several values
        return self.still(self.frozen(self.moved(values))) + self.instance(pair).mean(2)


def test_every_batch_counts_by_its_size_and_what_training_leaves_alone_stays() -> None:
    torch.manual_seed(0)
    network, events = Network().eval(), features(40)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in network.state_dict().items()}

    take_anew(network, lambda: events.batches(BatchRequest(16)))

    # Batches of 16, 16 and 8 events: the mean is that of all 40, the variance the mean of the batches' own, by size.
    x = np.asarray(events.inputs["x"], np.float64)
    batches = [x[:16], x[16:32], x[32:]]
    variance = sum(len(one) * one.var(0, ddof=1) for one in batches) / 40
    after = network.state_dict()
    torch.testing.assert_close(
        after["moved.running_mean"].double(), torch.from_numpy(x.mean(0)), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        after["moved.running_var"].double(), torch.from_numpy(variance), rtol=1e-4, atol=1e-4
    )
    assert int(after["moved.num_batches_tracked"]) == 3
    # An instance is x and x + 2: its mean x + 1, its variance 2.
    torch.testing.assert_close(
        after["instance.running_mean"].double(), torch.from_numpy(x.mean(0) + 1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(after["instance.running_var"], torch.full((3,), 2.0), rtol=1e-3, atol=1e-3)
    for name, value in before.items():
        if name.startswith(("frozen", "still.running", "idle")):
            assert torch.equal(after[name], value), name
    assert not network.training
    assert (network.moved.momentum, network.still.momentum) == (0.1, 0.0)
    assert not network.moved._forward_pre_hooks


def test_without_anything_to_take_anew_no_event_is_read() -> None:
    class Plain(Model):
        columns = ("x",)

    def read() -> list[Any]:
        raise AssertionError("the events were read")

    take_anew(Plain(), read)
