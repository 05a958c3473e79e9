"""Writing one file whole or not at all, wherever the process, the disk or the machine stops.

Who fills a file beside its place holds a lock on it. One that nobody holds was left by a process that was killed, and
the next writer of the same file removes it.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hep_ray.errors import StorageError

logger = logging.getLogger(__name__)

__all__ = [
    "UNFINISHED",
    "make_folder",
    "remove_abandoned",
    "rename",
    "storing",
    "sync",
    "whole",
    "write_whole",
]

FILLING = ".tmp"
"""Ends the name of a file that is being filled."""
UNFINISHED = f".*{FILLING}"
"""Pattern of such names."""


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """Name what went wrong while writing.

    Raises:
        StorageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as fault:
        raise StorageError(f"the storage must be writable; writing {target} failed: {fault}") from fault


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to be filled: takes its place, on the disk, when the block ends well, else vanishes.

    The folder of `path` is made where it is absent. A crash at any moment leaves the former file or the new one.

    Raises:
        OSError: of the system, where the file cannot be written; see `storing`.
    """
    make_folder(path.parent)
    remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.*{FILLING}"))
    filling = path.with_name(f".{path.name}.{os.getpid()}{FILLING}")
    descriptor = os.open(filling, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield filling
        sync(filling)
        filling.replace(path)
        sync(path.parent)
    finally:
        filling.unlink(missing_ok=True)
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text, as UTF-8, whole or not at all.

    Raises:
        OSError: as `whole`.
    """
    with whole(path) as filling:
        filling.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder where it is absent, with those above it; their names are on the disk when this returns.

    Raises:
        OSError: of the system.
    """
    absent = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in absent:
        sync(made.parent)


def rename(old: Path, new: Path) -> Path:
    """Give a file or folder another name; both names are as they should be on the disk when this returns.

    Raises:
        OSError: of the system.
    """
    renamed = old.rename(new)
    for folder in {old.parent, new.parent}:
        sync(folder)
    return renamed


def remove_abandoned(unfinished: Iterable[Path]) -> None:
    """Remove files that killed writers left half-filled; what a living one fills stays."""
    for left in unfinished:
        try:
            descriptor = os.open(left, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)
            logger.info("removed %s, which a killed process left half-written", left)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
