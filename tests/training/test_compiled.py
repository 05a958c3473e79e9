"""Compiled steps: the numbers of a network as it is, checkpoints that know nothing of them, one program for several."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Events
from hep_ray.search.options import SearchOptions
from hep_ray.training.compiled import (
    SMALL,
    STEPS,
    CompiledForward,
    becomes_graphs,
    is_compiled,
    why_not_compiled,
)
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop
from tests.facts import raises

SCHEMA = EventSchema(task="toy", columns=(Column(name="x", shape=(4,)),), classes=("a", "b"))
PARAMS: dict[str, Any] = {
    "model": "mlp", "hidden_layers": 2, "hidden_features": 16, "dropout": 0.2, "scalar_scaling": "standardize",
    "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.01, "batch_size": 32, "last_batch": "keep",
}  # fmt: skip
GPU, CPU = torch.device("cuda"), torch.device("cpu")


def events(seed: int, number: int) -> Events:
    random, labels = np.random.default_rng(seed), np.arange(number) % 2
    x = random.normal(size=(number, 4)) + 0.5 * labels[:, None]
    return Events.from_arrays({"x": x.astype(np.float32)}, labels)


def loop(compiling: Any, seed: int = 1, **params: Any) -> TrialLoop:
    config = TrialConfig.from_params({**PARAMS, **params})
    return TrialLoop(config, SCHEMA, events(0, 100), events(1, 40), epochs=4, seed=seed, compiling=compiling)


def losses(trial: TrialLoop, epochs: int) -> list[float]:
    return [
        one[key] for one in (trial.run_epoch() for _ in range(epochs)) for key in ("train_loss", "val_loss")
    ]


def test_auto_compiles_on_gpus_where_a_trial_has_steps_enough_to_pay() -> None:
    assert is_compiled("auto", GPU, STEPS)
    assert not is_compiled("auto", GPU, STEPS - 1)
    assert not is_compiled("auto", CPU, 100 * STEPS)
    assert is_compiled("on", CPU, 1)
    assert not is_compiled("off", GPU, 100 * STEPS)


def test_small_steps_on_gpus_become_graphs() -> None:
    assert becomes_graphs(GPU, SMALL)
    assert not becomes_graphs(GPU, 2 * SMALL)
    assert not becomes_graphs(CPU, 1.0)


def test_what_has_no_steps_of_one_shape_runs_as_it_is() -> None:
    plain, lists = Column(name="x", shape=(4,)), Column(name="l", shape=(5, 2), lists=True)
    free: dict[str, bool] = {"alone": True, "mixes": False, "deterministic": False}
    assert not why_not_compiled([plain], **free)
    assert "lists" in why_not_compiled([plain, lists], **free)
    assert "workers" in why_not_compiled([plain], **{**free, "alone": False})
    assert "hidden layer" in why_not_compiled([plain], **{**free, "mixes": True})
    assert "deterministic" in why_not_compiled([plain], **{**free, "deterministic": True})
    assert isinstance(loop("on")._forward, CompiledForward)
    assert not isinstance(loop("on", manifold_mixup=0.2)._forward, CompiledForward)
    assert not isinstance(loop("auto")._forward, CompiledForward)


def test_compile_on_is_refused_beside_what_keeps_every_trial_from_it() -> None:
    asked = SearchOptions(data=Path("d"), compile="on")
    with raises(InvalidConfig, "--compile on", "--deterministic"):
        dataclasses.replace(asked, deterministic=True)
    with raises(InvalidConfig, "--compile on", "--workers-per-trial 2"):
        dataclasses.replace(asked, workers_per_trial=2)


@pytest.mark.slow
def test_compiled_steps_give_the_numbers_of_the_network_as_it_is() -> None:
    averaged = {"swa_start": 0.25}
    plain = loop("off", **averaged)
    expected = losses(plain, 4)
    compiled = loop("on", **averaged)
    assert losses(compiled, 2) == pytest.approx(expected[:4], abs=1e-5)
    programs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert programs == 1  # the scaler and the network, forward and backward
    state = compiled.state_dict()
    assert state["model"].keys() == plain.state_dict()["model"].keys()
    assert not [name for name in state["model"] if "_orig_mod" in name]
    for way in ("on", "off"):  # it goes on compiled, or as it is
        resumed = loop(way, **averaged)
        resumed.load_state_dict(
            copy.deepcopy(state)
        )  # an optimizer goes on with the tensors that it is given
        assert losses(resumed, 2) == pytest.approx(expected[4:], abs=1e-5)
        assert resumed.kept.state_dict().keys() == plain.kept.state_dict().keys()
    # Another trial of the architecture finds the program that is there.
    other = {"seed": 2, "learning_rate": 0.02, "mixup": 0.3}
    assert losses(loop("on", **other), 1) == pytest.approx(losses(loop("off", **other), 1), abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == programs
