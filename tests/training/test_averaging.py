"""Stochastic weight averaging, centres of optimizers, and mixing at hidden layers, within a trial."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.augment import Augmentation, AugmentConfig
from hep_ray.loading.batches import Batch, Events
from hep_ray.losses import LOSSES
from hep_ray.models import build_model
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop
from hep_ray.training.step import mixed, mixing_points, train_step
from tests.facts import raises

IMAGES = EventSchema(task="toy", columns=(Column(name="image", shape=(16, 16, 1)),), classes=("a", "b"))
FEATURES = EventSchema(task="toy", columns=(Column(name="x", shape=(4,)),), classes=("a", "b"))


def images(seed: int, count: int = 48) -> Events:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    values = random.random((count, 16, 16, 1), dtype=np.float32) * (1 + labels[:, None, None, None])
    return Events.from_arrays({"image": values.astype(np.float32)}, labels)


def features(seed: int, count: int = 48) -> Events:
    labels = np.arange(count) % 2
    values = np.random.default_rng(seed).normal(size=(count, 4)) + labels[:, None]
    return Events.from_arrays({"x": values.astype(np.float32)}, labels)


def loop(schema: EventSchema = FEATURES, epochs: int = 4, **params: Any) -> TrialLoop:
    given = {"model": "mlp", "hidden_features": 8} if schema is FEATURES else {"model": "resnet18"}
    common = {"loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.05, "batch_size": 16}
    events = features if schema is FEATURES else images
    config = TrialConfig.from_params(given | common | params)
    return TrialLoop(config, schema, events(0), events(1), epochs=epochs, seed=3)


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key != "epoch_seconds"}


def test_swa_keeps_the_mean_of_the_last_epochs() -> None:
    trial, ends = loop(swa_start=0.5), []
    for _ in range(4):
        trial.run_epoch()
        ends.append({name: value.clone() for name, value in trial.model.state_dict().items()})
        if len(ends) <= 2:
            assert trial.kept is trial.model
    for name, value in trial.kept.state_dict().items():
        torch.testing.assert_close(value, (ends[2][name] + ends[3][name]) / 2)
        assert not torch.equal(value, trial.model.state_dict()[name])


@pytest.mark.parametrize("params", [{"swa_start": 0.0}, {"optimizer": "replicated_sgd"}])
def test_running_statistics_are_those_of_the_averaged_weights(params: dict[str, Any]) -> None:
    trial = loop(IMAGES, **params)
    trial.run_epoch()
    first = next(module for module in trial.kept.modules() if isinstance(module, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, args: seen.append(args[0].mean((0, 2, 3))))
    with torch.no_grad():
        for start in range(0, 48, 16):
            trial.kept.eval()(torch.from_numpy(images(0).inputs["image"][start : start + 16]))
    handle.remove()
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, torch.stack(seen).mean(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["entropy_sgd", "replicated_sgd"])
def test_what_is_validated_is_the_centre(optimizer: str) -> None:
    trial = loop(optimizer=optimizer)
    metrics = trial.run_epoch()
    assert trial.kept is not trial.model
    with torch.no_grad():
        logits = trial.kept.eval()(torch.from_numpy(features(1).inputs["x"]))
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(features(1).labels)).item()
    assert metrics["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_an_epoch_shorter_than_the_inner_loop_validates_what_it_trained() -> None:
    # 48 events in batches of 16 are 3 steps; x moves after 20.
    trial = loop(optimizer="entropy_sgd", learning_rate=0.5)
    initial = [own.detach().clone() for own in trial.model.parameters()]
    untrained = trial.run_epoch()["val_loss"]
    states = [trial.optimizer.state[own] for own in trial.model.parameters()]
    for own, first, state in zip(trial.kept.parameters(), initial, states, strict=True):
        assert state["inner"] == 3
        assert torch.equal(state["centre"], first)
        assert torch.equal(own, state["mean"])  # the way to µ is gone in full (outer_rate 1)
    for _ in range(3):
        trained = trial.run_epoch()["val_loss"]
    assert trained < untrained


@pytest.mark.parametrize(
    "params",
    [
        {"swa_start": 0.25, "dropout": 0.3},
        {"swa_start": 0.25, "dropout": 0.3, "batch_size": 20},
        {"optimizer": "entropy_sgd", "batch_size": 20, "last_batch": "drop"},
        {"optimizer": "entropy_sgd", "inner_steps": 4},
        {"optimizer": "replicated_sgd", "swa_start": 0.5},
        {"manifold_mixup": 0.4, "l1_penalty": 1e-4},
    ],
)
def test_a_resumed_trial_goes_on_bit_for_bit(params: dict[str, Any]) -> None:
    whole = loop(**params)
    for _ in range(2):
        whole.run_epoch()
    state = copy.deepcopy(whole.state_dict())
    rest = [numbers(whole.run_epoch()) for _ in range(2)]
    again = loop(**params)
    torch.rand(5)
    again.load_state_dict(state)
    assert [numbers(again.run_epoch()) for _ in range(2)] == rest
    for name, value in whole.kept.state_dict().items():
        assert torch.equal(value, again.kept.state_dict()[name])


STREAMS = EventSchema(
    task="electrons",
    columns=(
        Column(name="em1_image", shape=(56, 11)),
        Column(name="layer_images", shape=(7, 11, 6)),
        Column(name="tracks", shape=(15, 5)),
        Column(name="scalars", shape=(15,)),
    ),
    classes=("a", "b"),
)


def batch_of(schema: EventSchema, events: int = 6) -> Batch:
    torch.manual_seed(0)
    inputs = {column.name: torch.rand(events, *column.shape) for column in schema.columns}
    return Batch(inputs, torch.arange(events) % 2)


@pytest.mark.parametrize(
    ("name", "schema"), [("electron_id", STREAMS), ("resnet18", IMAGES), ("mlp", FEATURES)]
)
def test_mixing_with_oneself_changes_nothing_and_with_another_something(
    name: str, schema: EventSchema
) -> None:
    torch.manual_seed(0)
    model = build_model(name, {}, schema).eval()
    batch = batch_of(schema)
    points = mixing_points(model, batch)
    plain = model(*batch.inputs.values())
    order = torch.arange(6).roll(1)
    for draw, point in enumerate(points):
        oneself = Batch(
            batch.inputs, batch.labels, mix_ratio=0.3, permutation=torch.arange(6), mixing_draw=draw
        )
        with mixed(model, points, oneself):
            torch.testing.assert_close(model(*batch.inputs.values()), plain)
        swapped = Batch(batch.inputs, batch.labels, mix_ratio=0.0, permutation=order, mixing_draw=draw)
        with mixed(model, points, swapped):
            torch.testing.assert_close(
                model(*batch.inputs.values()), plain[order], rtol=1e-3, atol=1e-5, msg=point
            )
    torch.testing.assert_close(model(*batch.inputs.values()), plain)


def test_no_single_stream_is_a_mixing_point() -> None:
    model = build_model("electron_id", {}, STREAMS)
    points = mixing_points(model, batch_of(STREAMS))
    streams = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert streams
    assert not set(points) & set(streams)


def test_residual_branches_are_no_mixing_points_and_the_stages_are() -> None:
    points = mixing_points(build_model("resnet18", {}, IMAGES), batch_of(IMAGES))
    assert {"network.layer2", "network.layer4"} <= set(points)
    assert not [point for point in points if "layer" in point and point.endswith(("conv2", "bn1"))]


def test_a_mixed_loss_has_both_labels() -> None:
    model = build_model("mlp", {"hidden_layers": 0}, FEATURES)
    batch = batch_of(FEATURES)
    points = mixing_points(model, batch)
    augmented = Augmentation(AugmentConfig(manifold_mixup=1.0), 1, 0)(batch)
    share, partner = augmented.mix_ratio, augmented.permutation
    assert partner is not None
    assert torch.equal(augmented.inputs["x"], batch.inputs["x"])
    # A linear model of mixed features is a mixture of logits.
    logits = model(batch.inputs["x"])
    logits = share * logits + (1 - share) * logits[partner]
    losses = [
        nn.functional.cross_entropy(logits, labels, reduction="sum")
        for labels in (batch.labels, batch.labels[partner])
    ]
    entry = LOSSES["cross_entropy"]
    step = train_step(
        model,
        entry.build(entry.config()),
        torch.optim.SGD(model.parameters(), lr=0.0),
        augmented,
        mixing_points=points,
    )
    assert step.loss_sum.item() == pytest.approx(
        (share * losses[0] + (1 - share) * losses[1]).item(), rel=1e-5
    )


def test_one_event_cannot_be_mixed() -> None:
    with raises(InvalidConfig, "manifold_mixup", "1 events"):
        mixing_points(build_model("mlp", {}, FEATURES), batch_of(FEATURES, events=1))


@pytest.mark.parametrize("values", [{"swa_start": 1.5}, {"manifold_mixup": -1}, {"l1_penalty": -0.1}])
def test_refusals(values: dict[str, Any]) -> None:
    with raises(InvalidConfig, *values):
        loop(**values)
