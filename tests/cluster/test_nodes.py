"""A second node joins the cluster, loses the storage, or dies in the middle of a search.

Each node is a raylet with processes and mounts of its own beside the head of clusters/local.yaml.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hep_ray.tracking.journal import read_records

CLUSTER = "clusters/local.yaml"
TRIALS, EPOCHS = 4, 25

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


@contextlib.contextmanager
def node(cluster: Any, before: str = "true") -> Iterator[Any]:
    """A worker node; it dies at once, with all of its processes, when the context ends."""
    count = living(cluster)
    join = f"{before}; . ~/.bashrc; exec ray start --address=127.0.0.1:6379 --num-cpus=2 --block"
    words = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "bash", "-c", join]
    log = cluster.home / "node.log"
    started = cluster.start(*words, log=log)
    try:
        until = time.monotonic() + 300
        while living(cluster) == count:
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
        yield started
    finally:
        started.kill()
        started.wait()
        cluster.ok(
            "sh",
            "-c",
            "for p in /proc/[0-9]*; do grep -q num-cpus=[2] $p/cmdline && kill -9 ${p#/proc/}; done; true",
        )


def living(cluster: Any) -> int:
    code = "import ray; ray.init(address='127.0.0.1:6379', logging_level='ERROR'); "
    code += "print('alive', sum(node['Alive'] for node in ray.nodes()))"
    return int(cluster.ok("python", "-W", "ignore", "-c", code).split("alive ")[1].split()[0])


def test_storage_that_a_node_does_not_share_is_refused(cluster: Any) -> None:
    with node(cluster, before="mount -t tmpfs none ~/hep_ray_shared"):
        code, out = cluster.run("ray", "exec", CLUSTER, "hep-ray doctor --json")
        report = json.loads(out[out.index("{") : out.rindex("}") + 1])
        assert code == 1
        assert [check["name"] for check in report["checks"] if not check["ok"]] == ["storage"]

        code, out = cluster.run(
            "ray", "submit", CLUSTER, "searches/cnn_loss.py", "--", "--storage", "~/hep_ray_shared/a"
        )
        assert code == 1
        assert "is not shared by all" in out


def epochs(folder: Path) -> list[tuple[str, int]]:
    if not (folder / "journal.jsonl").exists():
        return []
    return [(one.trial_id, one.epoch) for one in read_records(folder) if one.kind == "epoch_finished"]


def test_a_node_that_dies_in_mid_search_costs_nothing_that_was_finished(cluster: Any) -> None:
    folder = cluster.home / "hep_ray_shared/lost/cnn_loss"
    log = cluster.home / "lost.log"
    flags = ["--preset", "smoke", "--trials", str(TRIALS), "--epochs", str(EPOCHS)]
    with node(cluster):
        words = [
            "ray",
            "submit",
            CLUSTER,
            "searches/cnn_loss.py",
            "--",
            *flags,
            "--storage",
            "~/hep_ray_shared/lost",
        ]
        search = cluster.start(*words, log=log)
        until = time.monotonic() + 600
        while len({trial for trial, _ in epochs(folder)}) < TRIALS:
            assert search.poll() is None, log.read_text()[-8000:]
            assert time.monotonic() < until, log.read_text()[-8000:]
            time.sleep(0.2)
        assert "2 nodes" in log.read_text()
        before = epochs(folder)
    with node(cluster):
        assert search.wait(timeout=1200) == 0, log.read_text()[-8000:]

    after = epochs(folder)
    assert after[: len(before)] == before
    assert len(after) == len(set(after))
    board = json.loads((folder / "leaderboard.json").read_text())["trials"]
    assert len(board) == TRIALS
    assert {trial["status"] for trial in board} <= {"completed", "stopped"}
    assert any(trial["epochs"] == EPOCHS for trial in board)
