"""Scalers, augmentation and weights within a trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents, UnknownName
from hep_ray.loading.augment import Augmentation, AugmentConfig
from hep_ray.loading.batches import Batch, BatchRequest, Events, metric_weights, training_weights
from hep_ray.losses import LOSSES
from hep_ray.training.config import ScaledModel, TrialConfig
from hep_ray.training.loop import TrialLoop
from hep_ray.training.step import train_step
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="image", shape=(28, 28, 3)), Column(name="w")),
    classes=("a", "b"),
    weight="w",
)
PARAMS: dict[str, Any] = {
    "model": "cnn",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "batch_size": 16,
}


def events(seed: int, count: int = 48) -> Events:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.random((count, 28, 28, 3), dtype=np.float32) * (1 + labels[:, None, None, None]) * 500
    return Events.from_arrays({"image": images.astype(np.float32), "w": np.ones(count, np.float32)}, labels)


def loop(**params: Any) -> TrialLoop:
    config = TrialConfig.from_params(PARAMS | params)
    return TrialLoop(config, SCHEMA, events(0), events(1), epochs=3, seed=3)


def without_time(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key != "epoch_seconds"}


@pytest.mark.parametrize(
    "params",
    [
        {"image_scaling": "per_channel"},
        {"image_scaling": "log1p", "phi_rotation": True, "eta_flip": True},
        {"mixup": 0.4, "noise": 0.1, "class_weights": "balanced"},
    ],
)
def test_a_resumed_trial_goes_on_as_if_it_had_not_stopped(params: dict[str, Any]) -> None:
    whole = loop(**params)
    epochs = [without_time(whole.run_epoch()) for _ in range(3)]
    first = loop(**params)
    first.run_epoch()
    state = first.state_dict()
    second = loop(**params)
    second.load_state_dict(state)
    assert [without_time(second.run_epoch()) for _ in range(2)] == epochs[1:]


def test_a_scaler_is_fitted_to_the_training_split_and_saved_with_the_model() -> None:
    trial = loop(image_scaling="per_channel")
    assert isinstance(trial.model, ScaledModel)
    mean = trial.state_dict()["model"]["scalers.image.mean"]
    np.testing.assert_allclose(mean, events(0).inputs["image"].mean((0, 1, 2)), rtol=1e-5)


def test_without_scaling_the_model_is_bare() -> None:
    assert not isinstance(loop().model, ScaledModel)


def test_bad_choices_are_named() -> None:
    with raises(UnknownName, "'standard'", "'standardize'"):
        loop(image_scaling="standard")
    with raises(InvalidConfig, "class_weights", "'equal'"):
        loop(class_weights="equal")
    with raises(InvalidConfig, "cutout", 2.0):
        loop(cutout=2.0)


def test_balanced_weights_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    given = Events.from_arrays({"w": np.array([1, 1, 2, 2], np.float32)}, labels)
    # Sums per class 4 and 2; w/sum = 1/4, 1/4, 1/2, 1 with mean 1/2; over the mean: 1/2, 1/2, 1, 2.
    weights = training_weights(given, SCHEMA, balanced=True)
    assert weights is not None
    assert weights.of(labels, given.inputs).tolist() == [0.5, 0.5, 1, 2]
    assert given.select(("w",), weights).weights.tolist() == [0.5, 0.5, 1, 2]
    # Mean of the sample weights is 3/2.
    plain = training_weights(given, SCHEMA, balanced=False)
    assert plain is not None
    np.testing.assert_allclose(plain.of(labels, given.inputs), np.array([1, 1, 2, 2]) / 1.5, rtol=1e-6)
    empty = Events.from_arrays({"w": np.array([0, 0, 0, 1], np.float32)}, labels)
    with raises(InvalidEvents, "weights", "a 0", "b 1", "--weights off"):
        training_weights(empty, SCHEMA, balanced=False)


class Fixed(torch.nn.Module):
    """Its bias alone, which one step of size 1 from zero leads to minus the gradient."""

    columns = ("x",)

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 0 * values[:, :2] + self.bias


def test_weights_and_mixed_labels_enter_the_step() -> None:
    model: Any = Fixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = LOSSES["cross_entropy"].build(LOSSES["cross_entropy"].config())
    given = Batch(
        {"x": torch.zeros(2, 2)},
        torch.tensor([0, 0]),
        weights=torch.tensor([0.0, 2.0]),
        second_labels=torch.tensor([0, 1]),
        mix_ratio=0.75,
    )
    train_step(model, loss, optimizer, given)
    # Softmax of zeros is (½, ½). Only the second event counts, with weight 2 of 2 events: its target is
    # (¾, ¼), so the gradient is (½ − ¾, ½ − ¼) = (−¼, ¼) and the step of size 1 leads to (¼, −¼).
    torch.testing.assert_close(model.bias.detach(), torch.tensor([0.25, -0.25]))


@pytest.mark.parametrize(
    "mixing",
    [{}, {"mixup": 1.0}, {"cutmix": 1.0}, {"manifold_mixup": 1.0}],
    ids=lambda mixing: str([*mixing]),
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighting", ["balanced", "sample", "both"])
def test_mixing_leaves_each_class_the_share_that_its_weights_give(
    mixing: dict[str, float], smoothing: float, weighting: str
) -> None:
    labels = np.repeat([0, 1], [180, 20])
    sample = np.random.default_rng(0).exponential(1 + labels).astype(np.float32)
    schema = EventSchema(
        task="toy",
        columns=(Column(name="x", shape=(4, 4, 1), axes=("phi", "eta")), Column(name="w")),
        classes=("a", "b"),
        weight=None if weighting == "balanced" else "w",
    )
    given = Events.from_arrays({"x": np.zeros((200, 4, 4, 1), np.float32), "w": sample}, labels)
    weights = training_weights(given, schema, balanced=weighting != "sample")
    (batch,) = given.select(("x",), weights).batches(BatchRequest(200, shuffle=True))
    # A bias alone answers (½, ½). Weights have mean 1; let the minority's share of their sum be p. With smoothing s its
    # mean target is t = (1 − s) p + s/2, however events are mixed, and the step of size 1 leads to (½ − t, t − ½).
    p = sample[labels == 1].sum() / sample.sum() if weighting == "sample" else 0.5
    t = (1 - smoothing) * p + smoothing / 2
    model: Any = Fixed()
    model.forward = lambda values: 0 * values.flatten(1)[:, :2] + model.bias
    loss = LOSSES["cross_entropy"].build(LOSSES["cross_entropy"].config(label_smoothing=smoothing))
    for epoch in range(5):
        model.bias.data.zero_()
        mixed = Augmentation(AugmentConfig(**mixing), 1, epoch, columns=schema.columns[:1])(batch)
        assert (mixed.second_labels is not None) == bool(mixing)
        train_step(model, loss, torch.optim.SGD(model.parameters(), lr=1.0), mixed)
        torch.testing.assert_close(model.bias.detach(), torch.tensor([0.5 - t, t - 0.5], dtype=torch.float32))


def test_negative_weights_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    given = Events.from_arrays({"w": np.array([3, -1, 2, 2], np.float32)}, labels)

    def weights(negative: Any, *, balanced: bool = False) -> list[float]:
        found = training_weights(given, SCHEMA, balanced=balanced, negative=negative)
        assert found is not None
        return [float(one) for one in found.of(labels, given.inputs)]

    # Sums per class 4 and 2: the mean is 3/2. Of sizes the first class has 6, without the negative one 5.
    assert weights("signed") == pytest.approx([2, -2 / 3, 4 / 3, 4 / 3])
    assert weights("absolute") == pytest.approx([2 * 4 / 6, 2 / 3 * 4 / 6, 4 / 3 * 4 / 6, 4 / 3])
    assert weights("zero") == pytest.approx([2 * 4 / 5, 0, 4 / 3 * 4 / 5, 4 / 3])
    for negative in ("signed", "absolute", "zero"):
        assert sum(weights(negative)) == pytest.approx(4)
        assert sum(weights(negative, balanced=True)[:3]) == pytest.approx(2)


def test_metrics_are_in_events_expected() -> None:
    labels = np.array([0, 0, 0, 1])
    given = Events.from_arrays({"w": np.array([3, -1, 2, 2], np.float32)}, labels)
    schema = SCHEMA.model_copy(update={"expected": {"a": 40.0, "b": 1.0}})
    found = metric_weights(given, schema)
    assert found is not None
    assert found.of(labels, given.inputs).tolist() == pytest.approx([30, -10, 20, 1])
    assert metric_weights(given, schema.without_weights()) is None
    with raises(InvalidEvents, "a 0", "--weights off"):
        metric_weights(Events.from_arrays({"w": np.array([1, -1, 0, 2], np.float32)}, labels), schema)


def test_a_trial_weighs_its_validation() -> None:
    def weighed(seed: int) -> Events:
        plain = events(seed)
        w = np.random.default_rng(seed).choice([1.0, 1.0, 1.0, -1.0], len(plain.labels)).astype(np.float32)
        return Events.from_arrays({**plain.inputs, "w": w * 5}, plain.labels)

    val = weighed(1)
    schema = SCHEMA.model_copy(
        update={"expected": dict(zip(SCHEMA.classes, val.class_sums(2, "w").tolist(), strict=True))}
    )
    trial = TrialLoop(TrialConfig.from_params(PARAMS), schema, weighed(0), val, epochs=1, seed=0)
    found = trial.run_epoch()
    trial.model.eval()
    with torch.no_grad():
        logits = trial.model(*(torch.from_numpy(val.inputs[name]) for name in trial.model.columns))
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(val.labels), reduction="none")
    right = logits.argmax(1).numpy() == val.labels
    assert found["val_accuracy"] == pytest.approx(np.average(right, weights=val.inputs["w"]), rel=1e-5)
    assert found["val_loss"] == pytest.approx(np.average(losses.numpy(), weights=val.inputs["w"]), rel=1e-4)
    assert "val_asimov_significance_ams" in found
    without = TrialLoop(
        TrialConfig.from_params(PARAMS), schema.without_weights(), weighed(0), val, epochs=1, seed=0
    )
    counted = without.run_epoch()
    assert "val_asimov_significance_ams" not in counted
    assert set(counted) == set(found) - {"val_asimov_significance_ams"}


def spectra(seed: int, count: int = 4000) -> Events:
    """p_T falls, and falls more steeply for the first class; a weight of either sign."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pt = rng.exponential(np.where(labels == 0, 20.0, 40.0)).astype(np.float32)
    eta = rng.normal(size=count).astype(np.float32)
    w = rng.choice([2.0, 2.0, 2.0, -2.0], count).astype(np.float32)
    return Events.from_arrays(
        {"image": np.zeros((count, 1), np.float32), "pt": pt, "eta": eta, "w": w}, labels
    )


@pytest.mark.parametrize("negative", ["signed", "absolute", "zero"])
@pytest.mark.parametrize("weighted", [True, False])
def test_each_class_is_flat_and_keeps_its_sum(weighted: bool, negative: Any) -> None:
    given = spectra(0)
    schema = SCHEMA if weighted else SCHEMA.without_weights()
    found = training_weights(given, schema, balanced=False, negative=negative, flat_in=("pt",), flat_bins=8)
    assert found is not None
    weights = found.of(given.labels, given.inputs)
    assert weights.mean() == pytest.approx(1, rel=1e-4)
    low, high = np.quantile(given.inputs["pt"], [0.01, 0.99])
    for label in (0, 1):
        own = given.labels == label
        counts, _ = np.histogram(
            np.clip(given.inputs["pt"][own], low, high), np.linspace(low, high, 9), weights=weights[own]
        )
        filled = counts[np.abs(counts) > 1e-3]  # a bin whose weights sum to 0 or less is left out
        assert len(filled) >= 6
        np.testing.assert_allclose(filled, filled.mean(), rtol=1e-4)
    sums = given.class_sums(2, "w") if weighted else given.class_sums(2)
    np.testing.assert_allclose(np.bincount(given.labels, weights) / 4000, sums / sums.sum(), rtol=1e-4)


def test_flat_in_two_columns_by_hand() -> None:
    pt, eta = np.array([0, 0, 0, 1, 1, 0, 1], np.float32), np.array([0, 0, 1, 0, 1, 0, 1], np.float32)
    given = Events.from_arrays({"pt": pt, "eta": eta}, np.array([0, 0, 0, 0, 0, 1, 1]))
    found = training_weights(
        given, SCHEMA.without_weights(), balanced=True, flat_in=("pt", "eta"), flat_bins=2
    )
    assert found is not None
    # Class a has 2, 1, 1, 1 events in four bins, b one in each of two: sums 7/2 each, 7/8 of a bin of a.
    expected = [7 / 16, 7 / 16, 7 / 8, 7 / 8, 7 / 8, 7 / 4, 7 / 4]
    assert found.of(given.labels, given.inputs).tolist() == pytest.approx(expected)


def test_a_trial_is_flat_in_a_spectator_and_a_column_that_is_not_there_is_named() -> None:
    columns = (*SCHEMA.columns, Column(name="pt"))
    schema = EventSchema(task="toy", columns=columns, classes=("a", "b"), weight="w", spectators=("pt",))
    plain = [events(0), events(1)]
    train, val = (
        Events.from_arrays(
            {**one.inputs, "pt": np.random.default_rng(3).random(48).astype(np.float32)}, one.labels
        )
        for one in plain
    )
    config = TrialConfig.from_params({**PARAMS, "flat_in": "pt", "flat_bins": 3})
    flat, bare = (
        TrialLoop(one, schema, train, val, epochs=1, seed=0).run_epoch()
        for one in (config, TrialConfig.from_params(PARAMS))
    )
    assert flat["train_loss"] != bare["train_loss"]
    with raises(InvalidConfig, "flat_in", "'mass'", "pt"):
        TrialLoop(
            TrialConfig.from_params({**PARAMS, "flat_in": "mass"}), schema, train, val, epochs=1, seed=0
        )
    with raises(InvalidConfig, "more than 2"):
        TrialConfig.from_params({**PARAMS, "flat_in": "pt+pt"}).build_model(schema)


def test_the_training_auc_knows_nothing_of_what_the_loss_weighs() -> None:
    given = spectra(1, 400)
    given = Events.from_arrays({**given.inputs, "image": np.log(given.inputs["pt"])[:, None]}, given.labels)
    columns = (Column(name="image", shape=(1,)), Column(name="pt"), Column(name="w"))
    schema = EventSchema(task="toy", columns=columns, classes=("a", "b"), weight="w", spectators=("pt",))
    params = {key: value for key, value in PARAMS.items() if key != "model"}
    config = TrialConfig.from_params(
        {**params, "model": "mlp", "train_auc": True, "flat_in": "pt", "negative_weights": "absolute"}
    )
    found = TrialLoop(config, schema, given, given, epochs=1, seed=0).run_epoch()
    assert found["train_auc"] == found["val_auc"]
