"""Tracking survives its server: away, slow, failing, restarted, its database locked; told once, and nothing twice."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from past_search import audit, journal
from servers import MlflowServer, Proxy, free_port, wait_until

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking import mlflow as module
from hep_ray.tracking.client import default_uri, open_client
from hep_ray.tracking.mlflow import PATIENCE, MlflowTracker
from tests.facts import raises


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = MlflowServer(tmp_path_factory.mktemp("server")).start()
    yield running
    running.kill()


@pytest.fixture
def proxy(server):
    standing = Proxy(free_port(), server.port)
    yield standing
    standing.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No test waits for long; what is tested does not depend on it."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.05)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def hand(tracker, records):
    for record in records:
        tracker.record(record)


@pytest.mark.slow
@pytest.mark.ci
def test_a_server_that_is_away_at_the_start_gets_everything_when_it_comes(server):
    port, said = free_port(), []
    tracker = MlflowTracker(f"http://127.0.0.1:{port}", "toy", say=said.append)
    records = journal("late")
    hand(tracker, records[:7])
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert "Connection refused" in said[0]

    proxy = Proxy(port, server.port)
    wait_until(lambda: len(said) == 2, "the server is back")
    hand(tracker, records[7:])
    tracker.close()
    proxy.stop()
    assert "answers again" in said[1]
    assert audit(server.uri, "late") == tracker.run_ids


def test_a_server_that_fails_in_the_middle_is_told_once_and_loses_nothing(server, proxy):
    said, records = [], journal("failing", trials=6)
    tracker = MlflowTracker(proxy.uri, "toy", say=said.append)
    hand(tracker, records[:4])
    wait_until(lambda: not tracker._pending, "the first records are written")
    proxy.mood = 503
    for record in records[4:20]:
        seen = len(proxy.requests)
        tracker.record(record)
        wait_until(lambda seen=seen: len(proxy.requests) > seen, "it was tried")
    assert len(said) == 1
    proxy.mood = "well"
    hand(tracker, records[20:])
    wait_until(lambda: len(said) == 2, "its return is told")
    tracker.close()
    audit(server.uri, "failing", trials=6)


@pytest.mark.parametrize("retries", ["0", "2"])
def test_a_run_whose_creation_was_never_answered_is_not_made_twice(server, proxy, retries, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    proxy.mood, proxy.only = "lose", "runs/create"
    tracker = MlflowTracker(proxy.uri, "toy")
    hand(tracker, journal(f"unheard-{retries}"))
    wait_until(
        lambda: sum("runs/create" in path for path in proxy.requests) > int(retries), "a run was asked for"
    )
    proxy.mood = "well"
    tracker.close()
    assert audit(server.uri, f"unheard-{retries}") == tracker.run_ids


def test_a_slow_server_holds_up_nobody_and_is_not_complained_of(server, proxy):
    said = []
    proxy.mood = "slow"
    tracker = MlflowTracker(proxy.uri, "toy", say=said.append)
    records = journal("slow")
    hand(tracker, records)
    assert tracker._pending, "the records are handed over before the server has them"
    tracker.close()
    assert said == []
    audit(server.uri, "slow")


def test_a_server_that_stays_away_costs_no_result_and_says_how_to_hand_over(server, proxy, monkeypatch):
    monkeypatch.setenv(PATIENCE, "0.2")
    proxy.mood = 500
    tracker = MlflowTracker(proxy.uri, "toy")
    hand(tracker, journal("away"))
    with raises(TrackingUnavailable, "17 records", "`hep-ray track toy`"):
        tracker.close()

    proxy.mood = "well"
    again = MlflowTracker(proxy.uri, "toy")
    again.replay(journal("away"))
    again.close()
    audit(server.uri, "away")


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_us_is_an_error_before_a_trial_starts(proxy, status):
    proxy.mood = status
    with raises(TrackingUnavailable, proxy.uri, status):
        MlflowTracker(proxy.uri, "toy")


@pytest.mark.parametrize(
    ("uri", "facts"),
    [("gopher://x", ["gopher://x"]), ("postgresql+nothing://ana:s3cret@x/y", ["postgresql.nothing"])],
)
def test_what_is_no_tracking_uri_is_an_error_before_a_trial_starts(uri, facts):
    with raises(TrackingUnavailable, *facts) as told:
        MlflowTracker(uri, "toy")
    assert "s3cret" not in str(told.value)


def test_a_run_that_a_person_deletes_costs_no_other_its_records(tmp_path):
    uri, records = default_uri(tmp_path), journal("deleted")
    tracker = MlflowTracker(uri, "toy")
    hand(tracker, records[:3])
    wait_until(lambda: not tracker._pending, "the first trial has a run")
    open_client(uri).delete_run(tracker.run_ids["t0000"])
    hand(tracker, records[3:])
    with raises(TrackingUnavailable, "1 trial", "t0000", "hep-ray track toy"):
        tracker.close()

    again = MlflowTracker(uri, "toy")
    again.replay(records)
    again.close()
    audit(uri, "deleted")


def test_a_deleted_experiment_is_an_error_before_a_trial_starts(tmp_path):
    uri = default_uri(tmp_path)
    client = open_client(uri)
    client.delete_experiment(client.create_experiment("toy"))
    with raises(TrackingUnavailable, "'toy'", "mlflow experiments restore"):
        MlflowTracker(uri, "toy")


LOCK = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
held.execute("ROLLBACK")
"""


def test_a_database_that_another_process_locks_is_waited_for(tmp_path):
    uri, records = default_uri(tmp_path), journal("locked")
    tracker = MlflowTracker(uri, "toy")
    hand(tracker, records[:4])
    wait_until(lambda: not tracker._pending, "the first records are written")
    words = [sys.executable, "-c", LOCK, str(tmp_path / "mlflow.db")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        hand(tracker, records[4:])
        assert len(tracker._pending) == len(records) - 4
        threading.Timer(2, holder.stdin.write, ["\n"]).start()
        threading.Timer(2.1, holder.stdin.close).start()
        tracker.close()
    audit(uri, "locked")


WRITE = """
import sys
from pathlib import Path
from hep_ray.tracking.mlflow import MlflowTracker
from past_search import journal
tracker = MlflowTracker(sys.argv[1], sys.argv[3], Path(sys.argv[4]))
for record in journal(sys.argv[2], search=sys.argv[3]):
    tracker.record(record)
tracker.close()
"""


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_that_start_at_once_on_a_new_database_both_write_all(tmp_path):
    uri = default_uri(tmp_path)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, uri, name, name, str(tmp_path / "files")],
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]
    for writer in writers:
        _, told = writer.communicate(timeout=240)
        assert writer.returncode == 0, told
    for name in ("left", "right"):
        audit(uri, name, search=name)


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_has_everything(tmp_path):
    server, said, records = MlflowServer(tmp_path).start(), [], journal("killed", trials=9)
    tracker = MlflowTracker(server.uri, "toy", say=said.append)
    hand(tracker, records[:20])
    server.kill()
    hand(tracker, records[20:40])
    wait_until(lambda: said, "the loss is told")
    server.start()
    hand(tracker, records[40:])
    wait_until(lambda: len(said) == 2, "its return is told")
    tracker.close()
    audit(server.uri, "killed", trials=9)
    server.kill()


@pytest.fixture
def postgres():
    """A PostgreSQL of this test's own, as a user that is not root: it refuses root."""
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    programs = {name: shutil.which(name) for name in ("initdb", "pg_ctl", "postgres")}
    if not all(programs.values()):
        pytest.skip("no PostgreSQL on the path")
    # Not below pytest's folder, which every session of pytest closes to other users.
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    as_user = {"user": "postgres"} if os.geteuid() == 0 else {}
    if as_user:
        shutil.chown(folder, "postgres")

    def run(program, *words):
        done = subprocess.run(
            [programs[program], "-D", str(folder / "data"), *words],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **as_user
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    secret = folder / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    run("initdb", "-U", "ana", "--auth=scram-sha-256", f"--pwfile={secret}")
    start = ("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    run(*start)

    def kill():
        first = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not alive(first), "the server is gone")

    yield f"postgresql://ana:s3cret@127.0.0.1:{port}/postgres", kill, lambda: run(*start)
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_postgresql_killed_in_the_middle_loses_nothing_and_its_password_is_never_told(postgres, tmp_path):
    uri, kill, start = postgres
    said, records = [], journal("elephant", trials=6)
    tracker = MlflowTracker(uri, "toy", tmp_path, say=said.append)
    hand(tracker, records[:12])
    wait_until(lambda: not tracker._pending, "the first records are written")
    kill()
    hand(tracker, records[12:20])
    wait_until(lambda: said, "the loss is told")
    start()
    hand(tracker, records[20:])
    wait_until(lambda: len(said) == 2, "its return is told")
    tracker.close()
    assert "ana:***@" in said[0]
    assert "s3cret" not in "".join(said)
    audit(uri, "elephant", trials=6)
