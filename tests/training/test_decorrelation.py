"""Trials whose score is to know nothing of a mass that no model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hep_ray.confirm.comparison import values_of
from hep_ray.confirm.confirmation import ConfirmedRun, Contender
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.loading.batches import Events
from hep_ray.losses.distance_correlation import Decorrelation
from hep_ray.training.checkpoint import BEST, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial
from hep_ray.training.testing import SCORES, evaluate_once
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="x", shape=(2,)), Column(name="mass"), Column(name="run")),
    classes=("qcd", "higgs"),
    signal="higgs",
    spectators=("mass", "run"),
)
PARAMS: dict[str, Any] = {
    "model": "mlp",
    "hidden_layers": 1,
    "hidden_features": 16,
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 0.02,
    "batch_size": 256,
}


def events(seed: int, count: int = 2048) -> Events:
    """Two numbers that tell the classes apart, of which the first does so by the mass alone."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    mass = np.where(labels, random.normal(125, 10, count), random.uniform(50, 200, count))
    x = np.stack([np.abs(mass - 125) / 50, labels + random.normal(0, 1, count)], axis=1)
    columns = {"x": x, "mass": mass, "run": np.ones(count)}
    return Events.from_arrays({name: one.astype(np.float32) for name, one in columns.items()}, labels)


def trained(epochs: int = 4, **params: Any) -> tuple[Any, dict[str, float]]:
    config = TrialConfig.from_params({**PARAMS, **params})
    trial = start_trial(config, SCHEMA, events(0), events(1), epochs=epochs, seed=1)
    for _ in range(1 if config.fitted else epochs):
        found = trial.run_epoch()
    return trial, found


def test_a_mass_that_no_model_reads_is_forgotten() -> None:
    _, bare = trained()
    blind, told = trained(decorrelate="mass")
    assert {key: value for key, value in told.items() if key in bare and key != "epoch_seconds"} == {
        key: value for key, value in bare.items() if key != "epoch_seconds"
    }  # it changes nothing by itself, and is told
    assert blind.model.columns == ("x",)
    _, apart = trained(decorrelate="mass", decorrelation=5.0)
    assert told["val_background_distance_correlation"] > 0.3
    assert apart["val_background_distance_correlation"] < 0.15
    assert told["val_background_jsd_at_50"] > 3 * apart["val_background_jsd_at_50"]
    assert 0.7 < apart["val_auc"] < told["val_auc"]  # the second number alone gives Φ(1/√2) = 0.76


def test_the_term_rises_over_the_epochs_of_its_warm_up() -> None:
    term = Decorrelation("mass", 6.0, 1, warmup=0.6)
    terms = [term.of_epoch(epoch, 5) for epoch in range(5)]
    assert [None if one is None else one.strength for one in terms] == [None, 2.0, 4.0, 6.0, 6.0]
    assert term.of_epoch(0, 1) is term  # the only epoch has it
    for epochs, warmup, rising in (
        (100, 0.29, 29),
        (100, 0.55, 55),
        (50, 0.58, 29),
        (5, 0.1, 1),
        (4, 0.9, 3),
    ):
        whole = [one for one in range(epochs) if Decorrelation("mass", 6.0, 1, warmup).of_epoch(one, epochs)]
        at_strength = [
            one
            for one in whole
            if Decorrelation("mass", 6.0, 1, warmup).of_epoch(one, epochs).strength == 6.0
        ]
        assert at_strength[0] == rising, (epochs, warmup)
    assert Decorrelation("mass", 6.0, 1).of_epoch(0, 5) is not None
    first, bare = ({"decorrelate": "mass", "decorrelation": one} for one in (5.0, 0.0))
    late = {**first, "decorrelation_warmup": 0.5}
    histories: list[list[float]] = [[], [], []]
    for history, params in zip(histories, (bare, late, first), strict=True):
        config = TrialConfig.from_params({**PARAMS, **params})
        trial = start_trial(config, SCHEMA, events(0), events(1), epochs=4, seed=1)
        history += [trial.run_epoch()["val_loss"] for _ in range(2)]
    without, rising, at_once = histories
    assert rising[0] == without[0]  # λ is 0 in the first epoch, and half of itself in the second
    assert rising[1] != without[1]
    assert at_once[0] != without[0]


def test_a_fitted_model_is_judged_by_it_and_cannot_be_decorrelated() -> None:
    fitted = {"model": "gradient_boosting"}
    config = TrialConfig.from_params({**fitted, "decorrelate": "mass"})
    found = start_trial(config, SCHEMA, events(0), events(1), epochs=1, seed=0).run_epoch()
    assert found["val_background_distance_correlation"] > 0.3
    with raises(InvalidConfig, "'decorrelation'"):
        TrialConfig.from_params({**fitted, "decorrelate": "mass", "decorrelation": 1.0})


def test_a_resumed_trial_goes_on_and_the_test_keeps_the_mass(tmp_path: Path) -> None:
    params = {"decorrelate": "mass", "decorrelation": 5.0}
    whole, expected = trained(2, **params)
    begun, resumed = (
        start_trial(
            TrialConfig.from_params({**PARAMS, **params}), SCHEMA, events(0), events(1), epochs=2, seed=1
        )
        for _ in range(2)
    )
    begun.run_epoch()
    resumed.load_state_dict(begun.state_dict())
    after = resumed.run_epoch()
    assert after["val_background_distance_correlation"] == expected["val_background_distance_correlation"]
    save_checkpoint(
        tmp_path / BEST,
        {"params": whole.config.resolved(), "model": whole.model.state_dict(), "metrics": expected},
    )
    ids = pa.array([str(row) for row in range(2048)])
    once = [evaluate_once(tmp_path, SCHEMA, events(1), ids) for _ in range(2)]
    assert once[0] == once[1]
    term = 5 * expected["val_background_distance_correlation"] ** 2
    assert expected["val_decorrelated_loss"] == pytest.approx(expected["val_loss"] + term)
    for key in ("background_distance_correlation", "background_jsd_at_50", "decorrelated_loss"):
        assert once[0].metrics[f"test_{key}"] == pytest.approx(expected[f"val_{key}"])
        run = ConfirmedRun(
            trial_id="t", seed=1, epoch=2, metrics=once[0].metrics, checkpoint=BEST, scores=SCORES
        )
        contender = Contender(name="t", role="finalist", params=PARAMS | params, runs=(run,), estimates={})
        values = values_of(tmp_path, SCHEMA, contender, f"test_{key}")
        assert values is not None, key  # so that confirm and the gate judge by seeds and events
        assert values.values.mean() == pytest.approx(once[0].metrics[f"test_{key}"])


@pytest.mark.parametrize(
    ("params", "error", "facts"),
    [
        ({"decorrelate": "tau21"}, InvalidConfig, ["decorrelate", "'tau21'", "mass"]),
        ({"decorrelate": "x"}, InvalidConfig, ["decorrelate", "'x'", "scalar"]),
        ({"decorrelation": 3.0}, InvalidConfig, ["3", "decorrelate="]),
        ({"decorrelation_warmup": 0.5}, InvalidConfig, ["decorrelation_warmup 0.5", "decorrelate="]),
        (
            {"decorrelation_warmup": 0.5, "decorrelate": "mass"},
            InvalidConfig,
            ["decorrelation_warmup 0.5", "λ is 0"],
        ),
        ({"decorrelation_warmup": 1.0, "decorrelate": "mass"}, InvalidConfig, ["decorrelation_warmup"]),
        ({"decorrelate": "run"}, InvalidEvents, ["'run'", "1 in all"]),
        ({"decorrelate": "mass", "decorrelation": 1.0, "mixup": 0.2}, InvalidConfig, ["mixup"]),
    ],
)
def test_what_cannot_be_is_named_before_training(
    params: dict[str, Any], error: Any, facts: list[str]
) -> None:
    with raises(error, *facts):
        trained(**params)


def test_one_class_alone_and_a_dataset_without_a_signal_are_named() -> None:
    config = TrialConfig.from_params({**PARAMS, "decorrelate": "mass"})
    for label, name in ((0, "background"), (1, "signal")):
        only = events(0)
        only = Events(only.inputs, np.full(len(only), label))
        with raises(InvalidEvents, "decorrelate 'mass'", name):
            start_trial(config, SCHEMA, only, events(1), epochs=1, seed=0)
    with raises(InvalidConfig, "decorrelate 'mass'", "qcd, higgs", "--signal"):
        config.build_model(SCHEMA.model_copy(update={"signal": None}))
