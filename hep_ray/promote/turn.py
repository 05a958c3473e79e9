"""One promotion at a time for each registered model, so that a second one is judged against the first."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.files import storing

PATIENCE = 600.0
"""Seconds that a promotion waits for another one to end."""


@contextmanager
def one_at_a_time(uri: str, name: str, storage: Path) -> Iterator[None]:
    """Hold the turn of one model in one registry.

    The lock lies beside a registry that is a SQLite file, else in the storage. Promotions that share neither see
    each other by the alias alone, which is read again right before it is set.

    Args:
        uri: of the registry.
        name: of the registered model.
        storage: of all searches.

    Raises:
        StorageError: another promotion holds it for ten minutes, or the lock cannot be written.
    """
    beside = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else storage
    folder = beside if beside.is_dir() else storage
    digest = hashlib.sha256(f"{uri}\n{name}".encode()).hexdigest()[:16]
    path = folder / f".promote-{digest}.lock"
    with storing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + PATIENCE
        while not _taken(descriptor):
            if time.monotonic() > until:
                raise StorageError(
                    f"one promotion of a model is made at a time; another one of '{name}' holds {path} for "
                    f"{PATIENCE:.0f} s: wait for it to end"
                )
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
