"""`hep_ray.run` on Ray as its user started it, from a thread, as notebooks and servers do."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hep_ray import Choice, Dataset, LogUniform, Preset, Result, Search, Space, plan, run
from hep_ray.conversion.shards import ShardWriter
from hep_ray.errors import CannotConfirm, NothingCompleted, StorageError, UnknownName
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.records import SearchStarted
from tests.conftest import toy_events, toy_schema
from tests.facts import raises, tells

pytestmark = pytest.mark.ray
SEARCH = Search(
    name="from_python",
    task="toy",
    title="A toy.",
    space=Space(
        model=Choice("mlp", "gradient_boosting"),
        inputs="image",
        hidden_features=Choice(8, 16).when(model="mlp"),
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(1e-3, 1e-2),
        batch_size=16,
    ),
    points_to_evaluate=({"model": "gradient_boosting", "inputs": "image", "trees": 5},),
    presets={"laptop": Preset(trials=9, epochs=9)},
)


@pytest.fixture(scope="module")
def done(ray_session, tmp_path_factory) -> tuple[Path, Result]:
    """Folder of the data and the storage, and what was found; read only."""
    folder = tmp_path_factory.mktemp("from_python")
    with ShardWriter(folder / "toy", toy_schema(), source={"seed": 0}) as writer:
        writer.write(toy_events(120))
    found: list[Any] = []

    def in_thread() -> None:
        given = {"data": folder / "toy", "storage": str(folder / "runs"), "trials": 2, "epochs": 3, "seed": 4}
        found.append(run(SEARCH, console=Console(quiet=True), **given))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    return folder, found[0]


def test_a_run_returns_what_the_folder_tells(done) -> None:
    folder, result = done
    assert result.finished
    assert result.untracked is None
    assert (len(result.trials), result.started.seed) == (3, 4)
    assert result.started.options["trials"] == 2
    read = Result.open(folder / "runs" / "from_python")
    assert read.trials.equals(result.trials)
    assert read.best.metrics == result.best.metrics
    assert len(result.study.trials) == 3
    started = next(one for one in read_records(result.folder) if isinstance(one, SearchStarted))
    assert started.provenance["command"]


def test_each_model_gives_the_scores_of_its_trial(done) -> None:
    folder, result = done
    events = Dataset.open(folder / "toy").arrays("val")
    assert {trial.started.params["model"] for trial in result.state.drawn()} >= {"gradient_boosting"}
    for name in result.state.trials:
        trial = result.trial(name)
        model = trial.model()
        assert not model.model.training
        scores = model(events)
        assert scores.shape == (len(events["label"]), 2)
        accuracy = (scores.argmax(axis=1) == events["label"]).mean()
        assert accuracy == pytest.approx(trial.metrics["val_accuracy"], abs=1e-6)
        assert np.array_equal(model(events["image"]), scores)


def test_a_model_is_not_read_with_other_data(done, make_dataset, tmp_path) -> None:
    _, result = done
    with raises(CannotConfirm, result.started.dataset_fingerprint[:12], "data="):
        result.best.model(data=make_dataset(events=80))
    shutil.copytree(result.folder, tmp_path / "runs" / "from_python")
    copied = Result.open(tmp_path / "runs" / "from_python")
    shutil.rmtree(copied.folder / "trials" / copied.best.trial_id)
    with raises(NothingCompleted, copied.best.trial_id):
        copied.best.model()


def test_a_plan_is_shown_and_nothing_is_run(done, tmp_path) -> None:
    folder, _ = done
    made = plan(SEARCH, data=folder / "toy", storage=tmp_path / "runs", trials=5)
    assert made.trials == 6
    assert tells(made._repr_html_(), "6 trials × 9 epochs", "hidden_features: 8 | 16 when model=mlp", "toy")
    assert not (tmp_path / "runs" / "from_python").exists()


def test_what_is_wrong_is_raised_before_anything_is_run(done, tmp_path) -> None:
    folder, result = done
    with raises(UnknownName, "'trails'", "'trials'"):
        run(SEARCH, data=folder / "toy", trails=3)
    with raises(UnknownName, "'lapdog'", "laptop"):
        run(SEARCH, data=folder / "toy", storage=tmp_path, preset="lapdog")
    before = (result.folder / "journal.jsonl").read_bytes()
    with raises(StorageError, result.folder, "--resume"):
        run(SEARCH, data=folder / "toy", storage=folder / "runs")
    assert (result.folder / "journal.jsonl").read_bytes() == before
