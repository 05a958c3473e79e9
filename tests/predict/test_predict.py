"""Prediction through Ray Data and the command line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.dataset.dataset import sha256_of
from hep_ray.errors import (
    CorruptModel,
    HepRayError,
    Infeasible,
    InvalidConfig,
    InvalidEvents,
    ModelMismatch,
    StorageError,
    UnknownName,
    UnreadableInput,
)
from hep_ray.predict import run
from hep_ray.predict.cli import find_model
from hep_ray.predict.output import MANIFEST
from hep_ray.predict.run import Crew, predict
from hep_ray.promote.package import Package, load_model
from hep_ray.training.calibration import Calibration
from tests.facts import raises, tells

SCRIPT = """
import sys
import time
from pathlib import Path

from hep_ray.predict import run
from hep_ray.promote.package import Package

score_piece = run.score_piece


def slowly(*args):
    time.sleep(0.5)
    return score_piece(*args)


class Slow(run.Scorer):
    def __call__(self, row):
        time.sleep(0.5)
        return super().__call__(row)


if __name__ == "__main__":
    run.Scorer, run.score_piece = Slow, slowly
    crew = run.Crew(workers=int(sys.argv[4]) or None)
    run.predict(Package.read(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]), crew=crew)
"""
"""A prediction that takes half a second longer for each of its pieces, in its workers or in its own process."""


def scores_of(out):
    return pq.read_table(out).to_pandas().set_index("event_id")


def expect_all(out, events, package):
    table = pq.read_table(out).to_pandas()
    assert Counter(table["event_id"]) == Counter(events["event_id"])
    reference = package.build().predict(events)
    scores = scores_of(out).loc[events["event_id"]]
    likely = scores.filter(regex="^score_")
    np.testing.assert_allclose(likely, reference, rtol=0, atol=1e-5)
    odds = np.log(reference) - np.log1p(-reference)  # of two classes, none of them near 1
    np.testing.assert_allclose(scores.filter(regex="^log_odds_"), odds, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
def test_the_result_is_that_of_one_process_and_the_manifest_says_of_what(
    ray_session, dataset, events, package, tmp_path
):
    done = predict(
        package, [dataset], tmp_path / "scores", crew=Crew(workers=2, batch=7), origin="models:/toy/1"
    )

    assert (done.events, done.reused, done.units) == (300, 0, "checked")
    expect_all(tmp_path / "scores", events, package)
    manifest = json.loads((tmp_path / "scores" / MANIFEST).read_text())
    assert manifest["complete"]
    assert manifest["model"]["uri"] == "models:/toy/1"
    assert manifest["model"]["digest"] == package.digest
    shards = sorted(path.name for path in dataset.glob("*.parquet"))
    assert sorted(one["file"] for one in manifest["files"]) == shards
    assert dict(manifest["inputs"]) == {name: sha256_of(dataset / name) for name in shards}
    for one in manifest["files"]:
        assert sha256_of(tmp_path / "scores" / one["file"]) == one["sha256"]

    again = predict(package, [dataset], tmp_path / "scores")
    assert (again.events, again.reused) == (300, again.files)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.ci])])
def test_killed_in_the_middle_nothing_is_lost_or_done_twice(
    ray_session, dataset, events, package, tmp_path, workers
):
    package.write(tmp_path / "model")
    (tmp_path / "slow.py").write_text(SCRIPT)
    out = tmp_path / "scores"
    words = [sys.executable, "slow.py", "model", str(dataset), str(out), str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log, env=environment)
    deadline = time.monotonic() + 240
    while len(list(out.glob("*.parquet"))) < 2:
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, "the prediction did not get going"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    pieces = len(list(dataset.glob("*.parquet")))
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(kept) < pieces
    assert not json.loads((out / MANIFEST).read_text())["complete"]
    (out / ".test-00000.parquet.1.tmp").write_bytes(b"torn")

    done = predict(package, [dataset], out)

    assert done.reused >= len(kept)  # a worker may finish its piece after its driver was killed
    expect_all(out, events, package)
    assert len(list(out.glob("*.parquet"))) == pieces
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert json.loads((out / MANIFEST).read_text())["complete"]
    assert not (out / ".test-00000.parquet.1.tmp").exists()


def test_little_is_scored_in_this_process_without_ray(dataset, events, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    threads = torch.get_num_threads()

    done = predict(package, [dataset], tmp_path / "scores", crew=Crew(batch=7))

    assert (done.events, done.reused) == (300, 0)
    expect_all(tmp_path / "scores", events, package)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_much_goes_to_workers_where_there_is_room_for_more_than_threads(
    ray_session, dataset, events, package, tmp_path, monkeypatch, threads
):
    monkeypatch.setattr(run, "PATIENCE", 0.0)
    monkeypatch.setattr(run, "THREADS", threads)
    by_workers = []
    score = run._Scoring.by_workers

    def counted(*args):
        for row in score(*args):
            by_workers.append(row)
            yield row

    monkeypatch.setattr(run._Scoring, "by_workers", counted)

    done = predict(package, [dataset], tmp_path / "scores")

    pieces = len(list(dataset.glob("*.parquet")))
    assert done.files == pieces
    assert (0 < len(by_workers) < pieces) if threads == 1 else not by_workers
    expect_all(tmp_path / "scores", events, package)


@pytest.mark.ray
def test_a_folder_of_another_prediction_is_refused(ray_session, dataset, package, tmp_path):
    out = tmp_path / "scores"
    predict(package, [dataset], out)

    shifted = Package(
        package.description.model_copy(update={"dataset_fingerprint": "0" * 64}), package.weights
    )
    with raises(StorageError, out, "model_digest", "--out"):
        predict(shifted, [dataset], out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.pdf").touch()
    with raises(StorageError, tmp_path / "full"):
        predict(package, [dataset], tmp_path / "full")
    (out / next(dataset.glob("*.parquet")).name).write_bytes(b"torn")
    with raises(StorageError, out / next(dataset.glob("*.parquet")).name):
        predict(package, [dataset], out)


@pytest.mark.ray
def test_a_named_error_of_a_worker_reaches_the_user(ray_session, package, tmp_path):
    lines = ["pt,eta,phi,mass", "1,1,1,1", "1,nan,1,1"]
    (tmp_path / "bad.csv").write_text("\n".join(lines) + "\n")

    with raises(InvalidEvents, "'features'", "'bad/1'"):
        predict(package, [tmp_path / "bad.csv"], tmp_path / "scores")
    assert not list((tmp_path / "scores").glob("*.parquet"))


@pytest.mark.ray
def test_workers_that_have_no_room_are_refused(ray_session, dataset, package, tmp_path):
    for crew in (Crew(workers=64), Crew(gpus_per_worker=1)):
        with raises(Infeasible, "2 CPUs", "0 GPUs"):
            predict(package, [dataset], tmp_path / "scores", crew=crew)
    for values in ({"workers": 0}, {"batch": 0}, {"gpus_per_worker": -1}):
        with pytest.raises(InvalidConfig):
            Crew(**values)


@pytest.mark.ray
def test_the_command_line_predicts_with_the_folder_of_a_model(
    ray_session, dataset, events, package, tmp_path
):
    package.write(tmp_path / "model")

    words = [
        "predict",
        str(tmp_path / "model"),
        str(dataset),
        "--out",
        str(tmp_path / "scores"),
        "--batch",
        "50",
    ]
    done = CliRunner().invoke(app, words)

    assert done.exit_code == 0, done.output
    assert "300 events scored" in done.output
    assert "pandas.read_parquet" in done.output
    expect_all(tmp_path / "scores", events, package)


def test_a_model_is_found_or_the_error_says_what_there_is(package, tmp_path):
    package.write(tmp_path / "model")
    assert find_model(str(tmp_path / "model"), tmp_path, None)[0] == package
    with raises(UnreadableInput, tmp_path, "model.json"):
        find_model(str(tmp_path), tmp_path, None)
    with raises(StorageError, tmp_path, "--storage", "--tracking-uri"):
        find_model("models:/toy@champion", tmp_path, None)

    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with raises(CorruptModel, tmp_path / "model/model.safetensors", "SHA-256"):
        load_model(tmp_path / "model")


def test_an_unknown_model_alias_or_version_is_refused_with_those_that_exist(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with raises(UnknownName, "'toy'", "none"):
        find_model("models:/toy@champion", tmp_path, uri)
    from hep_ray.tracking.client import open_client

    client = open_client(uri)
    client.create_registered_model("toy")
    client.create_model_version("toy", source=str(tmp_path / "nowhere"), run_id="0")
    client.set_registered_model_alias("toy", "best", "1")
    for model, facts in (
        ("models:/other@champion", ["'other'", "toy"]),
        ("models:/toy@champion", ["'toy'", "'champion'", "best"]),
        ("models:/toy/7", ["'toy'", "version 7", 1]),
        ("models:/toy", ["models:/NAME@ALIAS", "'models:/toy'"]),
        ("models:/toy@best", ["models:/toy/1", "nowhere"]),
    ):
        with raises(HepRayError, *facts):
            find_model(model, tmp_path, uri)


def test_calibrated_scores_are_those_of_the_stored_map_and_refused_without_one(
    dataset, events, package, tmp_path
):
    package.write(tmp_path / "bare")
    words = ["predict", str(tmp_path / "bare"), str(dataset), "--out", str(tmp_path / "none"), "--calibrated"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ModelMismatch)
    assert tells(str(refused.exception), "no calibration", "--calibrated")
    assert not (tmp_path / "none").exists()

    hot = Calibration(method="temperature", events=500, temperature=2.0)
    described = package.description.model_copy(update={"calibration": hot})
    mended = dataclasses.replace(package, description=described, calibrated=True)
    predict(mended, [dataset], tmp_path / "scores")
    found = scores_of(tmp_path / "scores")
    odds = np.log(package.build().predict(events)) - np.log1p(-package.build().predict(events))
    ordered = found.loc[events["event_id"]]
    np.testing.assert_allclose(ordered.filter(regex="^score_"), 1 / (1 + np.exp(-odds / 2)), atol=1e-5)
    np.testing.assert_allclose(ordered.filter(regex="^log_odds_"), odds, atol=1e-4)
    with raises(StorageError, "calibrated", "--out"):
        predict(dataclasses.replace(mended, calibrated=False), [dataset], tmp_path / "scores")
