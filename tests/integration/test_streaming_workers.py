"""Two workers that stream their shares of one trial, beside a core for Ray Data: three logical cores of a Ray apart."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = """
import sys
from pathlib import Path
import ray
from rich.console import Console
from hep_ray import Preset, Search, SearchOptions, Space, prepare, run_search

ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
space = Space(model="cnn", loss="cross_entropy", optimizer="adam", learning_rate=1e-3, batch_size=16)
search = Search(
    name="streams", task="toy", title="Streams.", space=space,
    presets={"smoke": Preset(trials=1, epochs=2, scheduler="none")},
)
data, storage = map(Path, sys.argv[1:])
options = SearchOptions(
    data=data, storage=storage, preset="smoke", workers_per_trial=2, cache="streaming", memory_budget=0.2
)
plan = prepare(search, options)
print(plan.resources)
print(run_search(plan, console=Console(quiet=True)).leaderboard)
"""


def test_a_trial_of_two_workers_streams(make_dataset, tmp_path):
    data = make_dataset(events=1200, size=28)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )
    assert done.returncode == 0, done.stderr
    assert "2 workers × 1 CPU) + Ray Data 1 CPU = 3 CPU" in done.stdout
    board = json.loads((tmp_path / "runs/streams/leaderboard.json").read_text())
    (trial,) = board["trials"]
    assert (trial["status"], trial["epochs"]) == ("completed", 2)
    assert trial["metrics"]["val_accuracy"] > 0.9
