"""Batches of similar length are for networks that take nothing from a whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn
from hep_ray.errors import InvalidConfig, InvalidSpace
from hep_ray.loading.batches import Events
from hep_ray.search.preflight import check_configurations
from hep_ray.training.config import TrialConfig
from hep_ray.training.length_pool import BY_THE_BATCH, UNLESS_STATED, length_pool
from hep_ray.training.loop import start_trial
from tests.facts import raises

ELEMENTS = ("pt", "energy", "delta_eta", "delta_phi", "charge")
SCHEMA = EventSchema(
    task="toy",
    classes=("b", "s"),
    columns=(Column(name="constituents", shape=(40, 5), lists=True, elements=ELEMENTS), Column(name="mass")),
    spectators=("mass",),
)
TRAINED = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 20}
SMALL: dict[str, dict[str, Any]] = {
    "pfn": {},
    "particlenet": {"neighbours": 2},
    "particle_transformer": {},
}


def events(number: int, seed: int) -> Events:
    """Nothing but the lengths tells the classes apart, and that a little: 8 ± 3 items against 11 ± 3."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    lengths = np.clip(random.normal(8 + 3 * labels, 3).round(), 3, 40).astype(np.int64)
    values = random.normal(1.0, 0.2, (lengths.sum(), 5)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = {
        "constituents": ListColumn((40, 5), offsets, values),
        "mass": random.random(number, np.float32),
    }
    return Events.from_arrays(columns, labels)


def config(model: str, **given: Any) -> TrialConfig:
    return TrialConfig.from_params({"model": model, **TRAINED, **SMALL[model], **given})


@pytest.mark.parametrize("model", SMALL)
def test_networks_that_normalise_by_the_batch_get_their_events_at_random(model: str) -> None:
    loop = start_trial(config(model), SCHEMA, events(80, 0), events(40, 1), epochs=1, seed=0)
    normalises = any(isinstance(one, BY_THE_BATCH) for one in loop.model.modules())
    assert normalises is (model != "pfn")
    assert loop.request(shuffle=True).length_pool == (1 if normalises else UNLESS_STATED)
    assert length_pool(config(model, length_pool=1), loop.model, SCHEMA) == 1
    if not normalises:
        assert length_pool(config(model, length_pool=4), loop.model, SCHEMA) == 4
        decorrelated = config(model, decorrelation=1.0, decorrelate="mass")
        assert length_pool(decorrelated, loop.model, SCHEMA) == 1
        return
    with raises(InvalidConfig, "length_pool=4", ".when(model=…)"):
        length_pool(config(model, length_pool=4), loop.model, SCHEMA)
    with raises(InvalidSpace, model, "length_pool=4"):
        check_configurations([{"model": model, **TRAINED, **SMALL[model], "length_pool": 4}], SCHEMA, 80)


def test_a_network_learns_of_other_events_what_it_learns() -> None:
    """In batches in which each class has one quantile of its lengths, 0.96 of the training events were told apart."""
    torch.manual_seed(0)
    given = {**SMALL["particlenet"], "train_auc": True, "learning_rate": 3e-3}
    loop = start_trial(
        config("particlenet", **given), SCHEMA, events(400, 2), events(400, 3), epochs=2, seed=0
    )
    metrics = [loop.run_epoch() for _ in range(2)][-1]
    assert metrics["train_accuracy"] < metrics["val_accuracy"] + 0.1
