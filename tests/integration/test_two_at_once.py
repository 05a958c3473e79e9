"""Two searches started at once on one storage and one database: both right, or one refused with the reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hep_ray.tracking.client import default_uri, find_runs, open_client
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG

pytestmark = pytest.mark.slow

SCRIPT = """
from hep_ray import LogUniform, Preset, Search, Space, main

search = Search(
    name="{name}",
    task="toy",
    title="A toy.",
    space=Space(model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2), batch_size=16),
    presets={{"smoke": Preset(trials=4, epochs=2)}},
)
if __name__ == "__main__":
    main(search)
"""
TRIALS, EPOCHS = 4, 2


def both(folder: Path, data: Path, *names: str):
    """Start a script per name at once; (exit code, what it wrote) of each."""
    started = []
    for name in names:
        script = folder / f"{name}.py"
        script.write_text(SCRIPT.format(name=name))
        words = [sys.executable, str(script), "--data", str(data), "--preset", "smoke"]
        started.append(
            subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    told = [process.communicate(timeout=560)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, told, strict=True)]


def is_whole(storage: Path, name: str) -> None:
    """Journal, leaderboard and MLflow hold every trial and every epoch once."""
    records = read_records(storage / name)
    epochs = [(record.trial_id, record.epoch) for record in records if record.kind == "epoch_finished"]
    ended = [record.trial_id for record in records if record.kind == "trial_finished"]
    assert len(epochs) == len(set(epochs))
    assert sorted(ended) == [f"t{number:04d}" for number in range(TRIALS)]
    board = json.loads((storage / name / "leaderboard.json").read_text())["trials"]
    client = open_client(default_uri(storage))
    experiment = client.get_experiment_by_name(name).experiment_id
    found = find_runs(client, experiment, f"tags.`{SEARCH_TAG}` = '{records[0].search_id}'")
    runs = {tags[TRIAL_TAG]: run_id for run_id, tags in found if TRIAL_TAG in tags}
    assert len(found) == TRIALS + 1
    assert {trial["trial_id"]: trial["mlflow_run_id"] for trial in board} == runs
    logged = [
        (trial, point.step)
        for trial, run_id in runs.items()
        for point in client.get_metric_history(run_id, "val/loss")
    ]
    assert sorted(logged) == sorted(epochs)


def test_of_two_names_both_are_right(make_dataset, tmp_path):
    data = make_dataset(events=96, size=28)
    for status, told in both(tmp_path, data, "left", "right"):
        assert status == 0, told
    for name in ("left", "right"):
        is_whole(tmp_path / "runs", name)


def test_of_one_name_one_runs_and_the_other_is_told_why_not(make_dataset, tmp_path):
    data = make_dataset(events=96, size=28)
    (first, refused), (second, other) = sorted(both(tmp_path, data, "same", "same"), reverse=True)
    assert (first, second) == (2, 0), refused + other
    assert "one process runs a search at a time" in refused or "holds a search already" in refused
    assert "Traceback" not in refused
    is_whole(tmp_path / "runs", "same")
