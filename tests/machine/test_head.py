"""A cluster that cannot be reached: an end within seconds, its own words for each cause, and signals that are heard."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hep_ray import cluster
from hep_ray.errors import ClusterUnavailable, InvalidConfig
from tests.facts import raises, tells

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "PROBE_SECONDS", 0.6)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.2)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@contextlib.contextmanager
def server(says):
    """Says something to whoever comes, and stays silent from then on; gives its port and the times it was called."""
    lines, calls = [], []
    with socket.socket() as listening:
        listening.bind(("", 0))  # Ray takes 127.0.0.1 for this machine's own address
        listening.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listening.accept()
                    calls.append(time.monotonic())
                    lines.append(line)
                    line.sendall(says)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listening.getsockname()[1], calls
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for line in lines:
                line.close()


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def refusal():
    start = time.monotonic()
    with pytest.raises(ClusterUnavailable) as refused:
        cluster.check_head(cluster.head_to_join())
    assert time.monotonic() - start < 5
    return str(refused.value)


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("127.0.0.1:{closed}", "Connection refused"),
        ("ray://127.0.0.1:{closed}", "Connection refused"),
        ("192.0.2.77:6379", ""),  # of a network that is nowhere (RFC 5737): no answer, or no way to it
        ("nowhere.invalid:6379", "no host of that name"),
    ],
)
def test_an_address_where_nobody_answers_is_named_within_seconds(monkeypatch, address, cause):
    monkeypatch.setenv("RAY_ADDRESS", address.format(closed=closed_port()))

    told = refusal()

    assert told.startswith("RAY_ADDRESS names a running Ray cluster to join; none answers at ")
    assert cause in told
    assert "RAY_ADDRESS=local" in told


@pytest.mark.parametrize(
    ("says", "cause"), [(b"", "no answer"), (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak gRPC")]
)
def test_what_listens_there_without_being_ray_is_none(monkeypatch, says, cause):
    with server(says) as (port, _):
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert cause in refusal()


def test_the_note_of_a_cluster_that_is_gone_is_named_with_what_to_type(tmp_path):
    note = tmp_path / "ray/ray_current_cluster"
    note.parent.mkdir()
    note.write_text(f"127.0.0.1:{closed_port()}\n")

    told = refusal()

    assert f"rm {note}" in told
    assert "is gone" in told
    assert "RAY_ADDRESS names" not in told


def test_a_cluster_is_started_here_where_none_is_named(monkeypatch, tmp_path):
    assert cluster.head_to_join() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("10.0.0.5:6379")
    assert str(cluster.head_to_join()) == "10.0.0.5:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster.head_to_join() is None
    monkeypatch.setenv("RAY_ADDRESS", "[2001:db8::1]:6379")
    assert (cluster.head_to_join().host, cluster.head_to_join().port) == ("2001:db8::1", 6379)
    monkeypatch.setenv("RAY_ADDRESS", "the-cluster")
    with raises(InvalidConfig, "RAY_ADDRESS", "HOST:PORT"):
        cluster.head_to_join()


@pytest.mark.ray
def test_the_head_of_a_real_cluster_answers(ray_session, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setattr(cluster, "PROBE_SECONDS", 10)
    cluster.check_head(cluster.head_to_join())


CAUSES = """
import os, sys
from pathlib import Path
from hep_ray.cluster import connect
from hep_ray.errors import ClusterUnavailable
base = Path(sys.argv[1])
(base / "file").touch()
sound = {"RAY_TMPDIR": str(base), "HOME": str(base)}
for name, changed in {
    "home": {"HOME": str(base / "file")},
    "token": {"RAY_AUTH_TOKEN_PATH": str(base / "absent")},
    "temp": {"RAY_TMPDIR": str(base / "file")},
    "long": {"RAY_TMPDIR": "", "TMPDIR": str(base / ("x" * 100))},
}.items():
    for key in ("RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        os.environ.pop(key, None)
    os.environ.update({key: value for key, value in {**sound, **changed}.items() if value})
    try:
        connect()
    except ClusterUnavailable as fault:
        print(name, "→", fault, flush=True)
"""


def test_each_cause_for_which_ray_cannot_start_here_has_its_own_remedy(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CAUSES, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = dict(line.split(" → ", 1) for line in done.stdout.splitlines())
    assert set(told) == {"long", "temp", "home", "token"}, done.stdout + done.stderr
    assert "at most 107 bytes" in told["long"]
    assert f"below TMPDIR={tmp_path}" in told["long"]
    assert "type RAY_TMPDIR=/tmp" in told["long"]
    assert tells(told["temp"], tmp_path / "file/ray", "Not a directory")
    assert "type RAY_TMPDIR=FOLDER" in told["temp"]
    assert tells(told["home"], tmp_path / "file/.ray/auth_token")
    assert "type HOME=FOLDER" in told["home"]
    assert "unset RAY_AUTH_TOKEN_PATH" in told["token"]
    assert not any("ray status" in one or "must be those of the cluster" in one for one in told.values())


JOINS = """
from hep_ray import cluster
cluster.PATIENCE = 0.5
print("joins", flush=True)
cluster.connect()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, {143, -15}), (signal.SIGINT, {130})])
def test_a_signal_ends_a_driver_that_waits_for_a_head_which_greets_and_says_no_more(number, code):
    with server(SETTINGS_FRAME) as (port, calls):
        driver = subprocess.Popen(
            [sys.executable, "-c", JOINS],
            env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until = time.monotonic() + 300
            while len(calls) < 2:  # ours, then Ray's
                assert driver.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            time.sleep(0.5)
            driver.send_signal(number)
            _, told = driver.communicate(timeout=120)
        finally:
            driver.kill()
            driver.communicate()
    assert driver.returncode in code, told


@pytest.mark.parametrize(("late", "started"), [(2, True), (3, False)])
def test_ray_is_started_again_where_a_busy_machine_took_longer_than_it_waits(monkeypatch, late, started):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    calls = []

    def init(*where, **how):
        calls.append(where)
        if len(calls) <= late:
            raise Exception("The current node timed out during startup. This could happen because …")  # noqa: TRY002

    monkeypatch.setattr("ray.init", init)
    if started:
        cluster.connect()
    else:
        with raises(ClusterUnavailable, "timed out during startup"):
            cluster.connect()
    assert calls == [("local",)] * 3
