"""A driver whose cluster is gone ends and says what to do; Ray aborts it after a minute with a line about its own logs.

Everything that was finished is in the journal, so nothing is to be saved first.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from rich.console import Console

LOOK_SECONDS = 3.0
"""Between two looks for the head."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable for how long a process looks for the head before it aborts; we speak before that."""
RECONNECT_SECONDS = 60.0
SHARE = 0.75
"""Of that time that passes before the driver ends itself."""


@contextmanager
def lifeline(console: Console) -> Iterator[None]:
    """End this process, with exit code 1, where the head of its cluster does not answer for most of a minute.

    A head that comes back in time, as one with a Redis behind it does, is found again. The time follows Ray's own,
    `RAY_gcs_rpc_server_reconnect_timeout_s`.

    Args:
        console: told why.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    over = threading.Event()
    patience = SHARE * float(os.environ.get(RECONNECT) or RECONNECT_SECONDS)
    words = (host.strip("[]"), int(port), patience, over, console)
    watcher = threading.Thread(target=_watch, args=words, name="lifeline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(host: str, port: int, patience: float, over: threading.Event, console: Console) -> None:
    answered = time.monotonic()
    while not over.wait(LOOK_SECONDS):
        if _answers(host, port):
            answered = time.monotonic()
        elif time.monotonic() - answered > patience:
            text = (
                f"error: a search needs its Ray cluster; the head at {host}:{port} has not answered for "
                f"{patience:.0f} s; every finished epoch is kept: start the cluster again, then run the same "
                "command again, a search with --resume"
            )
            console.show_cursor()
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=LOOK_SECONDS).close()
    except OSError:
        return False
    return True
