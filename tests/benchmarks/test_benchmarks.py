"""Every benchmark runs and tells what it promises; at these sizes its figures mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def lines(script, *flags):
    """What a benchmark prints at this size."""
    command = [sys.executable, REPOSITORY / "benchmarks" / f"{script}.py", *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": "local"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in found:
        assert line["what"].startswith(script)
        assert line["ratio"] > 0
        assert {"ours", "peer"} <= line.keys()
    return found


@pytest.mark.slow
def test_trial_overhead():
    (line,) = lines("trial_overhead", "--trials", 5, "--peer-trials", 1)
    assert line["ratio"] == pytest.approx(line["peer"] / line["ours"], rel=0.1)
    assert line["more_than_optuna_loop"] == pytest.approx(line["ours"] - line["optuna_loop"], abs=0.002)
    assert 0 < line["ours_marginal"] < line["ours"]  # the whole search has the start of its workers in it


def test_epoch_overhead():
    cnn, mlp = lines("epoch_overhead", "--images", 100, "--rows", 1024, "--rounds", 1, "--threads", 1)
    for line in (cnn, mlp):
        assert line["ratio"] == pytest.approx(line["peer"] / line["ours"], rel=0.1)
        assert line["ratio_to_data_loader"] == pytest.approx(line["data_loader"] / line["ours"], rel=0.1)
