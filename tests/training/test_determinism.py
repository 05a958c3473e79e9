"""Deterministic trainings: what has no deterministic form is refused by name, two runs are equal, GPUs measure else."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import NotDeterministic
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.loading.stream import EventData
from hep_ray.models import MODELS, model
from hep_ray.search.failures import kind_of
from hep_ray.search.options import AfterSearch, Resume, SearchOptions
from hep_ray.search.trial import TrialJob, TrialRun, failure_of
from hep_ray.tracking.records import SearchStarted
from hep_ray.training.determinism import WORKSPACE, deterministic, meets_few_shapes, set_determinism
from tests.facts import raises

TRAINER = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.01, "batch_size": 20}
MLP = {"model": "mlp", "hidden_layers": 1, "hidden_features": 8, "dropout": 0.5, **TRAINER}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialJob]:
    monkeypatch.delenv(WORKSPACE, raising=False)
    schema = EventSchema(task="toy", columns=(Column(name="x", shape=(2,)),), classes=("b", "s"))
    random, labels = np.random.default_rng(0), np.arange(100) % 2
    x = (random.normal(size=(100, 2)) + labels[:, None]).astype(np.float32)
    with ShardWriter(tmp_path / "d", schema, source={}) as writer:
        writer.write({"event_id": [f"e{row}" for row in range(100)], "label": labels, "x": x})
    dataset = Dataset.open(tmp_path / "d")
    sources: dict[Any, Any] = {
        split: ShardStream(dataset.schema, RowGroups.of(dataset, split), ("x",), class_sums(dataset, split))
        for split in ("train", "val")
    }
    data = EventData(sources, dataset.fingerprint)
    trials = str(tmp_path / "trials")
    yield TrialJob(trials, dataset.schema, data, 2, "val_auc", "max", cpus=1, gpu=False, deterministic=True)
    set_determinism(False)


def run(job: TrialJob, name: str, params: dict[str, Any]) -> TrialRun:
    job.folder(name).mkdir(parents=True)
    return TrialRun(job, {"trial_id": name, "params": params, "seed": 3}, "cpu")


class Puts(nn.Module):
    """Writes to places of a tensor, of which torch has no deterministic form."""

    def __init__(self, schema: EventSchema) -> None:
        super().__init__()
        self.layer = nn.Linear(2, len(schema.classes))

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.layer(x)
        if self.training:
            answers = answers + torch.zeros(4).put_(torch.tensor([0]), torch.ones(1))[0]
        return answers


@pytest.fixture
def puts() -> Iterator[None]:
    model("puts")(Puts)
    yield
    MODELS._entries.pop("puts")


@pytest.mark.usefixtures("puts")
def test_an_operation_without_a_deterministic_form_fails_its_trial_by_name(job: TrialJob) -> None:
    params = {"model": "puts", **TRAINER}
    dataclasses.replace(job, deterministic=False).begin()
    assert run(job, "free", params).report()["epoch"] == 1
    job.begin()
    trial = run(job, "strict", params)
    with raises(NotDeterministic, "put_", "--deterministic", "leave --deterministic out") as caught:
        trial.report()
    assert isinstance(caught.value, Exception)
    told = failure_of(caught.value)
    assert told["failure"].startswith("NotDeterministic: ")
    assert "Traceback" not in told["failure"]
    assert kind_of(caught.value) == "error"  # of its parameters: the search learns from it


def test_two_runs_are_equal(job: TrialJob) -> None:
    job.begin()
    assert deterministic()
    assert os.environ[WORKSPACE] == ":4096:8"
    found = []
    for name in ("first", "second"):
        trial = run(job, name, MLP)
        reports = [dict(trial.report()["metrics"]) for _ in range(2)]
        found.append(
            [{key: value for key, value in one.items() if key != "epoch_seconds"} for one in reports]
        )
    assert found[0] == found[1]


def test_a_process_that_trained_so_takes_any_operation_again(job: TrialJob) -> None:
    job.begin()
    dataclasses.replace(job, deterministic=False).begin()
    assert not deterministic()


def test_cudnn_measures_where_a_gpu_meets_few_shapes() -> None:
    image, lists = Column(name="i", shape=(8, 8, 3)), Column(name="l", shape=(5, 2), lists=True)
    assert meets_few_shapes(torch.device("cuda"), [image])
    assert not meets_few_shapes(torch.device("cuda"), [image, lists])
    assert not meets_few_shapes(torch.device("cpu"), [image])


def test_a_search_keeps_it_and_what_trains_its_configurations_takes_it_over() -> None:
    asked = SearchOptions(data=Path("d"), deterministic=True)
    assert asked.record(Resume.MUST_MATCH)["deterministic"] is True
    started = SearchStarted(
        time=0.0, search="s", search_id="i", dataset_fingerprint="f", task="t", metric="val_auc", mode="max", epochs=1,
        sampler="tpe", scheduler="none", seed=0, options=asked.record(), provenance={}, deterministic=True,
    )  # fmt: skip
    given = {"search": "s", "storage": Path("r")}
    assert AfterSearch(**given).as_in_search(started).deterministic
    assert not AfterSearch(**given, deterministic=False).as_in_search(started).deterministic
    older = started.model_copy(update={"options": {"data": "d"}})
    assert not AfterSearch(**given).as_in_search(older).deterministic
