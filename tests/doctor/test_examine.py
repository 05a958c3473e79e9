"""The doctor on a real Ray of one node."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.cores import usable_cores
from hep_ray.doctor.examine import Wanted, examine
from hep_ray.search.node_checks import living_nodes, unreadable, unshared
from hep_ray.tracking.provenance import code_hash

pytestmark = pytest.mark.ray


@pytest.fixture
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_everything_is_ready_on_this_machine(ray_session, tmp_path, make_dataset):
    found = examine(Wanted(storage=tmp_path / "runs", data=make_dataset(events=40), code=code_hash()))

    # The suite's Ray hands out two CPUs, whatever it runs on.
    wrong = {"cores"} if usable_cores() < 2 else set()
    assert {check.name for check in found if not check.ok} == wrong
    assert [check.name for check in found] == [
        *(
            "nodes",
            "versions",
            "code",
            "cores",
            "gpus",
            "authentication",
            "token file",
            "clocks",
            "storage",
            "data",
            "mlflow",
            "resources",
        )
    ]
    assert not list((tmp_path / "runs").iterdir())


def test_faults_end_with_one_and_say_what_to_do(ray_session, tmp_path, closed_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").touch()
    flags = ["--storage", str(tmp_path / "file/runs"), "--data", str(tmp_path / "absent")]
    flags += ["--tracking-uri", f"http://127.0.0.1:{closed_port}", "--gpus-per-trial", "1", "--code", "1ap"]
    flags += ["--workers-per-trial", "2"]

    done = CliRunner().invoke(app, ["doctor", "--json", *flags])

    report = json.loads(done.stdout)
    assert done.exit_code == 1
    assert not report["ok"]
    failed = {check["name"]: check for check in report["checks"] if not check["ok"]}
    assert set(failed) - {"cores"} == {"code", "storage", "data", "mlflow", "resources"}
    assert all(check["advice"] for check in failed.values())
    assert "2 × (1 CPU + 1 GPU) = 2 CPU + 2 GPU" in failed["resources"]["found"]


def test_the_hash_tells_the_code_without_a_cluster():
    done = CliRunner().invoke(app, ["doctor", "--print-code"])

    assert done.exit_code == 0
    assert done.stdout.strip() == code_hash()


def test_a_folder_is_shared_with_this_node_and_a_missing_file_is_not(ray_session, tmp_path):
    nodes = living_nodes()

    assert unshared(tmp_path, nodes) == {}
    assert not list(tmp_path.iterdir())
    assert unreadable(Path(__file__), nodes) == {}
    assert set(unreadable(tmp_path / "absent", nodes)) == {nodes[0].node_id}
