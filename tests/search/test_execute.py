import socket
import subprocess
import sys

import pytest

from tests.facts import tells

WATCHES = """
import sys, threading
from rich.console import Console
from hep_ray.search import execute

execute.LOOK_SECONDS = 0.05
execute._watch("127.0.0.1", int(sys.argv[1]), 0.3, threading.Event(), Console(stderr=True), "type --resume")
"""


def watch(port):
    return subprocess.Popen(
        [sys.executable, "-c", WATCHES, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.ci
def test_a_driver_ends_when_the_head_no_longer_answers_and_not_before():
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        port = head.getsockname()[1]
        driver = watch(port)
        for _ in range(10):  # ten looks, each answered
            head.accept()[0].close()
        assert driver.poll() is None

    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert tells(said, f"127.0.0.1:{port}", "0 s")
    assert "--resume" in said
