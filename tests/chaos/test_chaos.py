"""A short turn of `make chaos`: every kind of fault once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("kinds", "trials", "flags"),
    [
        ("actor,node,server,driver", 40, []),
        ("machine,head", 20, []),
        ("actor,node,driver,machine", 96, ["--stacked"]),
    ],
    ids=["parts", "everything", "stacks"],
)
def test_a_search_among_falling_machines_loses_nothing_and_leaves_nothing(kinds, trials, flags):
    faults = len(kinds.split(","))
    words = [
        "--seeds",
        "1",
        "--first-seed",
        "3",
        "--kinds",
        kinds,
        "--faults",
        str(faults),
        "--trials",
        str(trials),
        *flags,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.run", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["faults"], counts["trials"]) == (faults, trials)
    for nothing in ("epochs lost", "twice", "different", "temporary files", "orphans", "placement groups"):
        assert counts[nothing] == 0
    assert counts["replayed"] > 0
    assert counts["not bit-identical"] == 0
