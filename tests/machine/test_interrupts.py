"""Ctrl-C once ends a command in good order; typed again while it tidies up, it is not heard."""

import os
import signal
import subprocess
import sys
import time

import pytest

TIDY = """
import time, typer
from hep_ray.console import run_app

app = typer.Typer()

@app.command()
def work():
    try:
        print("works", flush=True)
        time.sleep(60)
    finally:
        print("tidies", flush=True)
        time.sleep(0.6)
        print("tidied", flush=True)

run_app(app, "hep-ray")
"""
WITH_RAY = """
import typer, time
from hep_ray.cluster import connect
from hep_ray.console import run_app

app = typer.Typer()

@app.command()
def work():
    connect()
    print("works", flush=True)
    time.sleep(60)

run_app(app, "hep-ray")
"""


def interrupted(code):
    """Its exit code and what it printed, with SIGINT every 50 ms from the moment on at which it works."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout.readline() == "works\n"
        until = time.monotonic() + 300
        while process.poll() is None:
            assert time.monotonic() < until
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        return process.returncode, process.stdout.read()
    finally:
        process.kill()
        process.stdout.close()


def test_a_command_tidies_up_to_its_end_however_often_ctrl_c_is_typed():
    code, told = interrupted(TIDY)

    assert code in {1, 130}
    assert told.split()[:2] == ["tidies", "tidied"]
    assert "Traceback" not in told


@pytest.mark.slow
def test_ray_is_shut_down_to_its_end_however_often_ctrl_c_is_typed():
    code, told = interrupted(WITH_RAY)

    assert code in {1, 130}, told
    assert "Traceback" not in told
    assert "KeyboardInterrupt" not in told
