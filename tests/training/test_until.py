"""A training that ends before its last epoch without choosing: the schedule is of all epochs, the model of the last."""

import dataclasses

import numpy as np
import pytest
import torch

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.loading.stream import EventData
from hep_ray.search.trial import TrialJob, TrialRun
from hep_ray.training.checkpoint import BEST, load_checkpoint

MLP = {
    "model": "mlp",
    "hidden_layers": 1,
    "hidden_features": 8,
    "loss": "cross_entropy",
    "optimizer": "adam",
    "schedule": "cosine",
    "learning_rate": 0.1,
    "batch_size": 32,
    "swa_start": 0.25,
    "patience": 1,
    "patience_metric": "goal",
}
LENGTH, UNTIL = 8, 5
RATES = [0.05 * (1 + np.cos(np.pi * epoch / LENGTH)) for epoch in range(LENGTH)]
"""Cosine annealing of 0.1 to 0 over eight epochs."""


@pytest.fixture
def job(tmp_path):
    torch.set_num_threads(1)
    random, labels = np.random.default_rng(0), np.arange(200) % 2
    schema = EventSchema(task="toy", columns=(Column(name="x", shape=(2,)),), classes=("b", "s"))
    x = (random.normal(size=(200, 2)) + labels[:, None]).astype(np.float32)
    with ShardWriter(tmp_path / "d", schema, source={}) as writer:
        writer.write({"event_id": [f"e{row}" for row in range(200)], "label": labels, "x": x})
    dataset = Dataset.open(tmp_path / "d")
    names = tuple(column.name for column in dataset.schema.columns)
    data = EventData(
        {
            split: ShardStream(
                dataset.schema, RowGroups.of(dataset, split), names, class_sums(dataset, split)
            )
            for split in ("train", "val")
        },
        dataset.fingerprint,
    )
    return TrialJob(
        str(tmp_path / "trials"), dataset.schema, data, LENGTH, "val_accuracy", "max", 1, gpu=False
    )


def whole(job, name, until=None, stop=None, **params):
    """Train until the end, or as far as a process gets that dies; return reports and the weights of each epoch."""
    job = job if until is None else dataclasses.replace(job, until=until, metric="seen_accuracy")
    job.folder(name).mkdir(parents=True, exist_ok=True)
    run = TrialRun(job, {"trial_id": name, "params": {**MLP, **params}, "seed": 3}, "cpu")
    reports, weights = [], []
    while not run.loop.finished and (stop is None or run.loop.epoch < stop):
        result = run.report()
        reports.append(dict(result["metrics"]))
        weights.append({key: value.clone() for key, value in run.loop.kept.state_dict().items()})
    return reports, weights


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_it_is_the_first_epochs_of_the_training_of_full_length(job):
    full, weights = whole(job, "full", patience=0)
    first, _ = whole(job, "refit", UNTIL, patience=0)
    assert [one["learning_rate"] for one in full] == pytest.approx(RATES)
    assert [one["learning_rate"] for one in first] == pytest.approx(RATES[:UNTIL])
    assert [one["train_loss"] for one in first] == [one["train_loss"] for one in full[:UNTIL]]
    kept = load_checkpoint(job.folder("refit") / BEST)
    assert kept["metrics"]["epoch"] == UNTIL
    assert same(kept["model"], weights[UNTIL - 1])
    assert not same(kept["model"], weights[UNTIL - 2])


def test_no_metric_of_events_that_are_learnt_from_ends_it_or_chooses_its_model(job):
    # Epochs of equal accuracy are no gain, so that its own patience would end it, and an earlier epoch be its best.
    long = {"patience": 1, "learning_rate": 1e-9}
    alone, _ = whole(job, "alone", **long)
    assert len(alone) == 2
    found, weights = whole(job, "refit", UNTIL, **long)
    assert len(found) == UNTIL
    assert load_checkpoint(job.folder("alone") / BEST)["metrics"]["epoch"] == 1
    kept = load_checkpoint(job.folder("refit") / BEST)
    assert kept["metrics"]["epoch"] == UNTIL
    assert same(kept["model"], weights[-1])
    for told in (found[-1], kept["metrics"]):
        assert not [name for name in told if name.startswith("val_")]
        assert told["seen_accuracy"] == pytest.approx(alone[-1]["val_accuracy"])


def test_cut_off_it_goes_on_to_the_same_model(job):
    whole(job, "whole", UNTIL)
    whole(job, "cut", UNTIL, stop=2)
    assert not (job.folder("cut") / BEST).exists()  # no epoch before is worth keeping
    told, _ = whole(job, "cut", UNTIL)
    assert [int(one["epoch"]) for one in told][-1] == UNTIL
    left, right = (load_checkpoint(job.folder(name) / BEST)["model"] for name in ("whole", "cut"))
    assert same(left, right)


def test_a_fitted_model_is_kept_after_its_fit(job):
    params = {"model": "logistic_regression"}
    job.folder("fit").mkdir(parents=True)
    run = TrialRun(
        dataclasses.replace(job, until=1, metric="seen_accuracy"),
        {"trial_id": "fit", "params": params, "seed": 3},
        "cpu",
    )
    result = run.report()
    assert result["done"]
    assert "seen_auc" in dict(result["metrics"])
    assert (job.folder("fit") / BEST).exists()
