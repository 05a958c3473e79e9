"""Killed with -9 and resumed in another process, a trial goes on as if it had not been, bit for bit."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hep_ray.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow  # three processes; `test_loop.py` resumes in one

SCRIPT = Path(__file__).with_name("crash.py")
_SPEC = importlib.util.spec_from_file_location("crash", SCRIPT)
crash = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(crash)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Metrics by case, of trials that ran through and of those that were killed and resumed; and their folder."""
    folder = tmp_path_factory.mktemp("crash")

    def start(what):
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), what, str(folder)], stdout=subprocess.PIPE, text=True
        )

    with start("begin") as killed:
        assert killed.stdout.readline() == "ready\n"
        killed.kill()
    for what in ("resume", "whole"):
        with start(what) as running:
            assert running.wait(300) == 0
    return folder, *(json.loads((folder / f"{what}.json").read_text()) for what in ("whole", "resume"))


@pytest.mark.parametrize("case", list(crash.CASES))
def test_nothing_tells_that_it_was_killed(trained, case):
    folder, whole, resumed = trained
    assert [metrics["epoch"] for metrics in resumed[case]] == [3, 4]
    assert resumed[case] == whole[case][crash.KEPT :]
    left, right = (load_checkpoint(folder / case / f"{what}.pt") for what in ("whole", "resume"))
    assert identical(left, right)
    assert not identical(left, load_checkpoint(folder / case / "last.pt"))


def identical(left, right):
    """Weights, moments of the optimizer, schedule, averages and random state: the same bits."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    return left == right
