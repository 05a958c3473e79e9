"""A restored model gives the numbers of the epoch that it was saved after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CorruptCheckpoint
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.training.checkpoint import restore_model, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import evaluate
from hep_ray.training.loop import TrialLoop
from tests.facts import raises

SCHEMA = EventSchema(task="toy", columns=(Column(name="x", shape=(3,)),), classes=("a", "b"))
PARAMS = {
    "model": "mlp", "loss": "root_softmax", "root_index": 3, "optimizer": "adam", "learning_rate": 1e-2,
    "scalar_scaling": "standardize", "swa_start": 0.5,
}  # fmt: skip


def events(count: int, seed: int) -> Events:
    labels = np.arange(count) % 2
    values = (np.random.default_rng(seed).normal(size=(count, 3)) + labels[:, None]).astype(np.float32)
    return Events.from_arrays({"x": values}, labels)


def test_the_numbers_are_those_of_the_validation(tmp_path: Path) -> None:
    validation = events(50, 1)
    loop = TrialLoop(TrialConfig.from_params(PARAMS), SCHEMA, events(100, 0), validation, epochs=2, seed=0)
    metrics = [loop.run_epoch() for _ in range(2)][-1]
    path = tmp_path / "best.pt"
    save_checkpoint(
        path, {"model": loop.kept.state_dict(), "params": loop.config.resolved(), "metrics": metrics}
    )
    trained = restore_model(path, SCHEMA)
    found = evaluate(trained.model, trained.loss, validation.batches(BatchRequest(16)), half=trained.half)
    assert found.loss == pytest.approx(metrics["val_loss"], rel=1e-6)
    assert (found.probabilities.argmax(1) == found.labels).mean() == pytest.approx(metrics["val_accuracy"])
    assert trained.metrics == metrics
    assert not trained.model.training


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = TrialConfig.from_params(PARAMS)
    path = tmp_path / "best.pt"
    wider = EventSchema(task="toy", columns=(Column(name="x", shape=(5,)),), classes=("a", "b"))
    model = config.build_model(wider).state_dict()
    save_checkpoint(path, {"model": model, "params": config.resolved(), "metrics": {}})
    with raises(CorruptCheckpoint, path, "model.layers.0.weight"):
        restore_model(path, SCHEMA)
    save_checkpoint(path, {"model": model})
    with raises(CorruptCheckpoint, path, "'params'"):
        restore_model(path, SCHEMA)
