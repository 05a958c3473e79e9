"""The road of clusters/local.yaml over real ssh: ray up, submit, exec, job submit, down, on this machine."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hep_ray.search.find import load_search
from hep_ray.tracking.client import open_client
from hep_ray.tracking.journal import read_records

CLUSTER = "clusters/local.yaml"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


def board(cluster: Any, search: str) -> list[dict[str, object]]:
    path = cluster.home / f"hep_ray_shared/runs/{search}/leaderboard.json"
    return json.loads(path.read_text())["trials"]


def test_ray_submit_runs_the_search_on_the_cluster_that_it_joins(cluster: Any) -> None:
    submit = ("ray", "submit", CLUSTER, "searches/resnet_loss.py", "--", "--preset", "smoke")
    out = cluster.ok(*submit)

    assert "1 node, head 127.0.0.1:6379" in out
    trials = board(cluster, "resnet_loss")
    assert len(trials) == load_search("resnet_loss").presets["smoke"].trials
    assert {trial["status"] for trial in trials} <= {"completed", "stopped"}
    runs = cluster.home / "hep_ray_shared/runs"
    client = open_client(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("resnet_loss")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert {run.info.run_id for run in found} - {parent.info.run_id} == {
        trial["mlflow_run_id"] for trial in trials
    }
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    assert list((runs / "mlartifacts").rglob("leaderboard.json"))
    assert len(parent.data.tags["git_commit"]) == 40
    # The file with the name filled in is none that decides a result.
    assert parent.data.tags["git_dirty"] == "false"

    code, out = cluster.run(*submit)
    assert code == 1
    assert "type --resume" in out


def test_an_interrupted_submission_is_resumed(cluster: Any) -> None:
    submit = ("ray", "submit", CLUSTER, "searches/cnn_loss.py", "--")
    flags = ("--preset", "smoke", "--epochs", "60", "--trials", "2")
    journal = cluster.home / "hep_ray_shared/runs/cnn_loss"
    started = cluster.start(*submit, *flags, log=cluster.home / "submit.log")
    until = time.monotonic() + 300
    while (
        not (journal / "journal.jsonl").exists()
        or b"epoch_finished" not in (journal / "journal.jsonl").read_bytes()
    ):
        assert started.poll() is None, (cluster.home / "submit.log").read_text()
        assert time.monotonic() < until
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(timeout=120) != 0
    wait_for_driver(cluster)
    before = epochs(journal)

    cluster.ok(*submit, "--resume")

    after = epochs(journal)
    assert before
    assert before == after[: len(before)]
    assert len(after) == len(set(after))
    assert {trial["status"] for trial in board(cluster, "cnn_loss")} <= {"completed", "stopped"}


def epochs(folder: Path) -> list[tuple[str, int]]:
    return [(one.trial_id, one.epoch) for one in read_records(folder) if one.kind == "epoch_finished"]


def wait_for_driver(cluster: Any) -> None:
    until = time.monotonic() + 120
    while "cnn_loss.py" in cluster.ok(
        "sh", "-c", "tr '\\0' ' ' </dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    ):
        assert time.monotonic() < until
        time.sleep(1)


def test_the_doctor_finds_nothing(cluster: Any) -> None:
    here = cluster.ok("hep-ray", "doctor", "--print-code").strip()
    out = cluster.ok("ray", "exec", CLUSTER, f"hep-ray doctor --json --code {here}")

    report = json.loads(out[out.index("{") : out.rindex("}") + 1])
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"]
    assert checks["mlflow"]["found"] == "http://127.0.0.1:5000"
    assert checks["authentication"]["found"] == "RAY_AUTH_MODE token"

    (cluster.project / "hep_ray/of_this_test.py").write_text("")
    changed = cluster.ok("env", f"PYTHONPATH={cluster.project}", "hep-ray", "doctor", "--print-code").strip()
    (cluster.project / "hep_ray/of_this_test.py").unlink()
    code, out = cluster.run("ray", "exec", CLUSTER, f"hep-ray doctor --code {changed}")
    assert code == 1
    assert "FAIL  code" in out


def test_ray_job_submit_runs_the_same_script(cluster: Any) -> None:
    submit = ("ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--", "bash", "-c")
    search = "~/hep_ray/clusters/bin/search.sh ~/hep_ray/searches/cnn_loss.py --preset"
    out = cluster.ok(*submit, f"HEP_RAY_STORAGE=~/hep_ray_shared/jobs {search} smoke --epochs 2 --trials 2")

    assert "succeeded" in out
    assert (cluster.home / "hep_ray_shared/jobs/cnn_loss/leaderboard.json").exists()
    code, out = cluster.run(*submit, f"HEP_RAY_STORAGE=~/hep_ray_shared/bad {search} huge")
    assert code == 1
    assert "unknown preset" in out
