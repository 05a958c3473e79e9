"""Trials that go wrong in every way fail alone: the search ends, says why, and tries again what may succeed."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hep_ray.tracking.client import default_uri, open_client
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.mlflow_writer import CAUSE_TAG, LOG_ARTIFACT, LOST_TAG
from tests.facts import tells

SCRIPT = Path(__file__).with_name("faulty_search.py")


@pytest.fixture
def run(make_dataset, tmp_path):
    data = make_dataset(events=118, size=28)
    os.mkfifo(tmp_path / "source")

    def search(preset, *flags, code=0, meanwhile=None):
        storage = tmp_path / "runs"
        words = [sys.executable, str(SCRIPT), "--data", str(data), "--storage", str(storage)]
        paths = [str(SCRIPT.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        if meanwhile:
            threading.Thread(target=meanwhile, args=(storage / "faulty",), daemon=True).start()
        done = subprocess.run(
            [*words, "--preset", preset, *flags],
            env={**os.environ, "FAULTY_FOLDER": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr[-8000:]
        board = json.loads((storage / "faulty/leaderboard.json").read_text())["trials"]
        assert not [
            path for path in storage.rglob("*") if path.name.startswith(".") or path.name == "last.pt"
        ]
        return {one["params"]["behaviour"]: one for one in board}, storage, done

    return search


def in_mlflow(storage, trial):
    client = open_client(default_uri(storage))
    run = client.get_run(trial["mlflow_run_id"])
    logs = [one.path for one in client.list_artifacts(run.info.run_id)]
    text = ""
    if LOG_ARTIFACT in logs:
        text = Path(client.download_artifacts(run.info.run_id, LOG_ARTIFACT)).read_text()
    return run, text


def told_to_optuna(storage):
    import optuna

    study = optuna.load_study(study_name="faulty", storage=f"sqlite:///{storage / 'faulty/optuna.db'}")
    return {trial.params["behaviour"]: trial for trial in study.trials}


CAUSES = {
    "diverges": "step 1 of epoch 2",
    "raises": "KeyError: 'no such layer'",
    "memory": "MemoryError",
    "allocator": "can't allocate memory",
}


@pytest.mark.slow
@pytest.mark.ci
def test_a_trial_that_raises_diverges_or_runs_out_of_memory_fails_alone_and_is_not_tried_again(run):
    trials, storage, done = run("fail")

    assert (trials["sound"]["status"], trials["sound"]["epochs"]) == ("completed", 3)
    assert next(iter(trials)) == "sound"  # a good epoch before the failure ranks none above it
    told = told_to_optuna(storage)
    assert told["sound"].state.name == "COMPLETE"
    for behaviour, words in CAUSES.items():
        trial = trials[behaviour]
        assert (trial["status"], trial["epochs"]) == ("failed", 1)
        assert words in trial["cause"]
        assert f"step 6, and now: {behaviour}" in trial["log"]
        assert "losses" not in trial
        assert (told[behaviour].state.name, told[behaviour].value) == ("FAIL", None)
        tracked, log = in_mlflow(storage, trial)
        assert tracked.info.status == "FAILED"
        assert words in tracked.data.tags[CAUSE_TAG]
        assert log == trial["log"]
        assert words in done.stdout


@pytest.mark.slow  # test_search.py has one in which every trial diverges; tests/search counts the causes
def test_a_search_in_which_every_trial_fails_ends_with_one_and_the_commonest_cause(run):
    *_, done = run("all", code=1)

    assert tells(done.stderr, "error", "all 4", 2, "KeyError: 'no such layer'")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_process_that_is_lost_is_tried_again_from_its_last_epoch_three_times_in_a_row(run):
    trials, storage, done = run("die")

    whole, died = trials["sound"], trials["dies_once"]
    assert (died["status"], died["losses"]) == ("completed", 1)
    for one, other in zip(whole["history"], died["history"], strict=True):
        assert {**one, "epoch_seconds": 0} == {**other, "epoch_seconds": 0}  # to the last bit
    assert "Worker unexpectedly exits" in in_mlflow(storage, died)[0].data.tags[LOST_TAG]
    for behaviour in ("exits", "segfaults"):
        trial = trials[behaviour]
        assert (trial["status"], trial["epochs"], trial["losses"]) == ("failed", 1, 3)
        assert trial["cause"].startswith("ProcessLost: Worker unexpectedly exits")
        assert trial["cause"].endswith("(4 times in a row in epoch 2)")
        assert f"step 6, and now: {behaviour}" in in_mlflow(storage, trial)[1]
    assert "Segmentation fault" in trials["segfaults"]["log"]
    assert "in go_wrong" in trials["segfaults"]["log"]
    kinds = [record.kind for record in read_records(storage / "faulty")]
    assert (kinds.count("trial_lost"), kinds.count("epoch_finished")) == (7, 3 + 3 + 1 + 1)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_trial_that_takes_the_memory_of_its_node_is_ended_by_ray_and_fails_alone(run, monkeypatch):
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
    used = memory["MemTotal"] - memory["MemAvailable"]
    if memory["MemAvailable"] < 12e9:
        pytest.skip("needs 12 GB of free memory, of which a trial takes up to 8")
    monkeypatch.setenv("GREEDY_GB", "8")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + 5e9) / memory['MemTotal']:.3f}")

    trials, storage, done = run("greedy")

    assert trials["sound"]["status"] == "completed"
    trial = trials["greedy"]
    assert (trial["status"], trial["epochs"], trial["losses"]) == ("failed", 1, 3)
    assert trial["cause"].startswith("OutOfMemory: ")
    assert "the node running low on memory" in trial["cause"]
    assert in_mlflow(storage, trial)[0].info.status == "FAILED"
    assert trial["cause"].splitlines()[0] in done.stdout


@pytest.mark.slow
def test_an_epoch_that_hangs_is_ended_tried_once_more_and_does_not_hang_the_search(run):
    trials, *_ = run("hang", "--epoch-timeout", "30")

    assert trials["sound"]["status"] == "completed"
    for behaviour in ("reads", "spins"):
        trial = trials[behaviour]
        assert (trial["status"], trial["epochs"], trial["losses"]) == ("failed", 1, 1)
        assert trial["cause"].startswith("EpochTimeout: an epoch takes at most 30 s")
        assert "in go_wrong" in trial["log"]  # where it hung


@pytest.mark.slow
def test_a_data_source_that_hangs_costs_an_epoch_and_the_trial_goes_on_when_it_is_back(run, tmp_path):
    def bring_back(folder):
        while "trial_lost" not in [record.kind for record in records(folder)]:
            time.sleep(0.2)
        (tmp_path / "away").rename(next((tmp_path / "toy").glob("train-*.parquet")))
        (tmp_path / "away").touch()

    trials, storage, _ = run("source", "--cache", "streaming", "--epoch-timeout", "30", meanwhile=bring_back)

    trial = trials["loses_source"]
    assert (trial["status"], trial["epochs"], trial["losses"]) == ("completed", 3, 1)
    lost = next(record for record in records(storage / "faulty") if record.kind == "trial_lost")
    assert lost.cause.startswith("EpochTimeout: an epoch takes at most 30 s")
    assert "most recent call first" in lost.log


def records(folder):
    return read_records(folder) if (folder / "journal.jsonl").exists() else []
