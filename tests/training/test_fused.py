"""Trials trained together against the same trials one by one."""

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, NonFiniteLoss
from hep_ray.loading.batches import Events
from hep_ray.loading.scalers.transforms import Standardize
from hep_ray.training.checkpoint import load_checkpoint, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.fused import (
    FusedTrial,
    OwnRandom,
    architecture,
    measured_gain,
    run_epoch_together,
    why_alone,
)
from hep_ray.training.loop import TrialLoop
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="x", shape=(5,), unit="GeV"), Column(name="y", shape=(), unit="", missing=True)),
    classes=("background", "signal"),
)
PARAMS = {
    "model": "mlp",
    "hidden_layers": 2,
    "hidden_features": 12,
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "batch_size": 32,
    "scalar_scaling": "standardize",
}
TOLERANCE = 1e-6
"""Of what is summed over the steps in another order; all else is the same to the last bit."""


def toy(events, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(events) % 2
    x = random.normal(size=(events, 5)).astype(np.float32) + 0.5 * labels[:, None].astype(np.float32)
    y = random.normal(size=events).astype(np.float32)
    y[::7] = np.nan
    return Events.from_arrays({"x": x, "y": y}, labels)


TRAIN, VAL = toy(270), toy(120, seed=1)  # 270 events leave a last batch of another size
OF_18 = EventSchema(
    task="toy", columns=(Column(name="x", shape=(18,), unit="GeV"),), classes=("background", "signal")
)


def toy_of_18(events, seed=0):
    labels = np.arange(events) % 2
    x = np.random.default_rng(seed).normal(size=(events, 18)) + 0.3 * labels[:, None]
    return Events.from_arrays({"x": x.astype(np.float32)}, labels)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loop(seed=0, epochs=3, schema=SCHEMA, train=TRAIN, val=VAL, **params):
    config = TrialConfig.from_params({**PARAMS, **params})
    return TrialLoop(config, schema, train, val, epochs=epochs, seed=seed)


def fused(*settings):
    return [FusedTrial(loop(**one), OwnRandom()) for one in settings]


def numbers(metrics):
    return {key: value for key, value in metrics.items() if key != "epoch_seconds"}


def assert_same(together, alone):
    assert together.keys() == alone.keys()
    summed = {key: together[key] for key in ("train_loss", "train_accuracy")}
    assert summed == pytest.approx({key: alone[key] for key in summed}, rel=0, abs=TOLERANCE)
    assert numbers(together) == {**numbers(alone), **summed}


def check(*settings, epochs=3):
    """Train together, then one by one, and compare every number of every epoch."""
    trials = fused(*settings)
    histories = [run_epoch_together(trials) for _ in range(epochs)]
    for place, one in enumerate(settings):
        trial = loop(**one)
        for reports in histories:
            assert_same(reports[place], trial.run_epoch())
    return trials


def test_trials_that_differ_in_seed_rate_loss_and_dropout_give_the_numbers_that_they_give_alone():
    check(
        {"seed": 1, "dropout": 0.3},
        {"seed": 2, "dropout": 0.3},
        {"seed": 1, "learning_rate": 1e-2, "schedule": "cosine"},
        {"seed": 3, "loss": "root_softmax", "root_index": 3, "dropout": 0.1, "clip_norm": 0.05},
        {"seed": 4, "loss": "focal", "weight_decay": 0.1, "l1_penalty": 1e-3, "swa_start": 0.4},
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"])
def test_every_optimizer_that_is_taken_moves_stacked_weights_as_single_ones(optimizer):
    momentum = {"momentum": 0.0} if optimizer == "sgd" else {}
    check(
        {"optimizer": optimizer, "seed": 5},
        {"optimizer": optimizer, "seed": 6, "weight_decay": 0.01},
        {"optimizer": optimizer, "seed": 7, **momentum},
        epochs=2,
    )


@pytest.mark.parametrize(
    "kind",
    [
        {"activation": "tanh", "dropout_layers": "last", "dropout": 0.5},
        {"activation": "selu", "single_output": True, "class_weights": "balanced"},
        {"hidden_layers": 0, "scalar_scaling": "none", "imputation": "zero", "train_auc": True},
        {"batch_size": 64, "last_batch": "drop", "train_events": 200},
    ],
)
def test_every_kind_of_network_and_batch_gives_the_same_numbers(kind):
    check({"seed": 1, **kind}, {"seed": 2, **kind}, epochs=2)


@pytest.mark.parametrize(
    "loss",
    [
        {"loss": "root_softmax", "root_index": 3},
        {"loss": "binary_cross_entropy", "batch_size": 33},
        {"loss": "focal"},
        {"loss": "hinge"},
        {"loss": "mse"},
    ],
)
def test_trials_of_one_loss_in_batches_that_fill_no_vector_give_the_numbers_that_they_give_alone(loss):
    check(*({"batch_size": 100, "seed": seed, **loss} for seed in (1, 2, 3)), epochs=2)


@pytest.mark.parametrize("width", [7, 33, 65])
@pytest.mark.parametrize(
    "events",
    [{}, {"schema": OF_18, "train": toy_of_18(270), "val": toy_of_18(120, seed=1)}],
    ids=["6 features", "18 features"],
)
def test_networks_of_odd_widths_give_the_numbers_that_they_give_alone(width, events):
    kind = {"hidden_features": width, "batch_size": 100, **events}
    check(*({"seed": seed, **kind} for seed in (1, 2, 3)), epochs=2)
    check(*({"seed": seed, "single_output": True, **kind} for seed in (1, 2)), epochs=1)


def test_a_scaler_that_may_round_by_place_scales_the_events_of_each_trial_by_themselves(monkeypatch):
    monkeypatch.setattr("hep_ray.training.fused.SCALERS_JOINED", frozenset())
    monkeypatch.setattr(Standardize, "_scale", lambda self, values: values.abs().pow(0.3) * values.sign())
    check(
        {"seed": 1, "batch_size": 33}, {"seed": 2, "batch_size": 33}, {"seed": 3, "batch_size": 33}, epochs=1
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"class_weights": "balanced"},
        {"flat_in": "m"},
        {"decorrelate": "m"},
        {"train_events": 500, "loss": "root_softmax", "root_index": 3},
    ],
)
def test_what_stacking_gains_is_measured_where_a_few_events_could_not_be_trained_on(change):
    """None of the first events is signal, the first lacks a value, and all are weighted."""
    columns = (*SCHEMA.columns, *(Column(name=name, shape=(), unit="") for name in ("m", "w")))
    schema = EventSchema(task="toy", columns=columns, classes=SCHEMA.classes, signal="signal", weight="w")
    random = np.random.default_rng(3)

    def events(number):
        labels = (np.arange(number) % 200 == 199).astype(int)
        inputs = {
            "x": random.normal(size=(number, 5)),
            "y": np.where(np.arange(number) % 7, random.normal(size=number), np.nan),
            "m": random.normal(size=number),
            "w": random.uniform(0.5, 1, number),
        }
        return Events.from_arrays({key: one.astype(np.float32) for key, one in inputs.items()}, labels)

    train, val = events(800), events(400)
    steps = []

    def made(seed):
        one = loop(seed, schema=schema, train=train, val=val, batch_size=16, **change)
        steps.append(one)
        return one

    gain = measured_gain(lambda seed=seed: made(seed) for seed in (1, 2, 3))

    assert gain > 0
    assert [len(one.train) for one in steps] == [8 * 16] * 3  # of which it saw so many each time


def test_a_trial_goes_on_from_its_checkpoint_alone_or_in_another_stack(tmp_path):
    settings = [{"seed": seed, "dropout": 0.2, "schedule": "exponential"} for seed in (1, 2, 3)]
    trials = fused(*settings)

    def keep(place, metrics, cpu_seconds):
        save_checkpoint(tmp_path / f"{place}.pt", trials[place].loop.state_dict())

    run_epoch_together(trials, keep)
    rest = [run_epoch_together(trials) for _ in range(2)]
    for place, one in enumerate(settings):
        alone = loop(**one)
        alone.load_state_dict(load_checkpoint(tmp_path / f"{place}.pt"))
        for reports in rest:
            assert_same(reports[place], alone.run_epoch())

    others = []
    for place in (2, 0):
        other = loop(**settings[place])
        other.load_state_dict(load_checkpoint(tmp_path / f"{place}.pt"))
        others.append(FusedTrial(other, OwnRandom()))
    for reports in rest:
        for place, found in zip((2, 0), run_epoch_together(others), strict=True):
            assert_same(found, reports[place])


def test_a_trial_that_diverges_ends_no_other(tmp_path):
    settings = [{"seed": 1}, {"seed": 2, "learning_rate": 1e30, "optimizer": "adam"}, {"seed": 3}]
    trials = fused(*settings)

    first = run_epoch_together(trials)

    assert isinstance(first[1], NonFiniteLoss)
    assert "learning_rate 1e+30" in str(first[1])
    assert "epoch 1" in str(first[1])
    rest = run_epoch_together([trials[0], trials[2]])
    for place, found in ((0, (first[0], rest[0])), (2, (first[2], rest[1]))):
        alone = loop(**settings[place])
        for report in found:
            assert_same(report, alone.run_epoch())


def test_patience_ends_one_trial_and_the_others_go_on():
    settings = [{"seed": 1, "patience": 1, "learning_rate": 1e-12}, {"seed": 2, "patience": 1}]
    trials = fused(*settings)
    for _ in range(3):
        run_epoch_together([one for one in trials if not one.loop.finished])

    for trial, one in zip(trials, settings, strict=True):
        alone = loop(**one)
        while not alone.finished:
            alone.run_epoch()
        assert trial.loop.epoch == alone.epoch
    assert trials[0].loop.epoch < trials[1].loop.epoch == 3


def test_what_keeps_a_trial_raises_for_it_alone():
    def keep(place, metrics, cpu_seconds):
        if place == 0:
            raise OSError("the disk is full")

    first, second = run_epoch_together(fused({"seed": 1}, {"seed": 2}), keep)

    assert isinstance(first, OSError)
    assert second["epoch"] == 1


def test_event_weights_count_as_they_do_alone():
    weighted = EventSchema(
        task="toy",
        columns=(*SCHEMA.columns, Column(name="w", shape=(), unit="")),
        classes=SCHEMA.classes,
        weight="w",
    )
    random = np.random.default_rng(2)

    def with_weights(events):
        values = random.uniform(-0.2, 1, len(events)).astype(np.float32)
        return Events.from_arrays({**events.inputs, "w": values}, events.labels)

    train, val = with_weights(TRAIN), with_weights(VAL)

    def made(seed):
        return TrialLoop(TrialConfig.from_params(PARAMS), weighted, train, val, epochs=2, seed=seed)

    trials = [FusedTrial(made(seed), OwnRandom()) for seed in (1, 2)]
    histories = [run_epoch_together(trials) for _ in range(2)]
    for place, seed in enumerate((1, 2)):
        alone = made(seed)
        for reports in histories:
            assert_same(reports[place], alone.run_epoch())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"optimizer": "entropy_sgd"}, "entropy_sgd"),
        ({"mixup": 0.2}, "augmented"),
        ({"decorrelate": "y", "decorrelation": 1.0}, "decorrelated"),
        ({"precision": "bfloat16"}, "bfloat16"),
        ({"model": "pfn"}, "pfn"),
    ],
)
def test_what_cannot_be_stacked_is_told(change, word):
    params = {**PARAMS, **change}
    if change.get("model"):
        params = {key: value for key, value in params.items() if not key.startswith("hidden")}
    config = TrialConfig.from_params(params)

    assert word in why_alone(config)
    with raises(InvalidConfig, word):
        architecture(config)
    assert not why_alone(TrialConfig.from_params(PARAMS))


def test_trials_of_several_architectures_or_epochs_are_refused():
    with raises(InvalidConfig, "one architecture", '"hidden_features": 9'):
        run_epoch_together(fused({"seed": 1}, {"seed": 1, "hidden_features": 9}))
    trials = fused({"seed": 1}, {"seed": 2})
    run_epoch_together(trials[:1])
    with raises(InvalidConfig, "[0, 1]"):
        run_epoch_together(trials)
    with raises(InvalidConfig, "same events"):
        run_epoch_together(fused({"seed": 1}, {"seed": 2, "train": toy(270, seed=9)}))
