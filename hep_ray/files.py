"""Write files whole or not at all, wherever the process, the disk or the machine stops; lock what one process uses.

Who fills a file beside its place holds a lock on it. One that nobody holds was left by a process that was killed, and
the next writer of the same file removes it.

The locks are `flock`'s, on the file or folder itself: they end with their process. (filelock takes a file of its own,
which it empties; it serves where there is one, in `simulate/run.py` and `promote/run.py`.)
"""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hep_ray.errors import StorageError, StorageHeld

logger = logging.getLogger(__name__)

FILLING = ".tmp"
"""Ends the name of a file that is being filled."""
UNFINISHED = f".*{FILLING}"
"""Pattern of such names."""
NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system answers that cannot lock, as some network file systems."""
ONE_WRITER = "one process writes a file or folder at a time"
SYNCED = 8
"""Files that the disk is asked for at a time."""
LOOK_SECONDS = 0.05
"""Between two attempts to take a lock."""


def take_lock(descriptor: int, path: Path, rule: str, patience: float = 0.0) -> bool:
    """Lock an open file or folder for this process, until the descriptor is closed or the process has ended.

    Args:
        descriptor: of the open file or folder.
        path: of it, for the message.
        rule: what the lock keeps, such as `one process runs a search at a time`.
        patience: seconds to wait for another process.

    Returns:
        Whether it is locked: some network file systems cannot lock.

    Raises:
        StorageHeld: another process holds it all that time.
    """
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                waited = f" for {patience:.0f} s" if patience else ""
                raise StorageHeld(f"another process holds {path}{waited}: {rule}") from None
            time.sleep(LOOK_SECONDS)
        except OSError as exc:
            if exc.errno not in NO_LOCKS:
                raise
            logger.info("%s is not locked, its file system cannot (%s): %s", path, exc.strerror, rule)
            return False
        else:
            return True


@contextmanager
def lock(path: Path, rule: str, patience: float = 0.0) -> Iterator[bool]:
    """Hold an existing file or folder for the block; see `take_lock`."""
    # A network file system locks a file exclusively only where it is open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        yield take_lock(descriptor, path, rule, patience)
    finally:
        os.close(descriptor)


def open_locked(path: Path, rule: str) -> BinaryIO:
    """Open a file for reading and appending, and hold it until it is closed; it and its folder are made where absent.

    Its name is on the disk when this returns: a file whose name is lost is lost, however often its lines were synced.

    Raises:
        StorageError: it cannot be written, or its file system cannot lock.
        StorageHeld: another process holds it.
    """
    with ExitStack() as closing:
        try:
            make_folder(path.parent)
            file = closing.enter_context(path.open("a+b"))
            locked = take_lock(file.fileno(), path, rule)
            sync(path.parent)
        except OSError as exc:
            raise StorageError(f"cannot write to storage {path.parent}: {exc.strerror}") from exc
        if not locked:
            raise StorageError(f"cannot lock {path}: the file system of a storage must be able to")
        closing.pop_all()
    return file


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """Name what went wrong while writing.

    Raises:
        StorageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as exc:
        raise StorageError(f"cannot write {target}: {exc}") from exc


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` to fill: it takes its place, on the disk, when the block ends well, else vanishes.

    The folder of `path` is made where it is absent. A crash at any moment leaves the former file or the new one.

    Raises:
        OSError: of the system, where the file cannot be written; see `storing`.
    """
    make_folder(path.parent)
    remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.*{FILLING}"))
    filling = path.with_name(f".{path.name}.{os.getpid()}{FILLING}")
    descriptor = os.open(filling, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        take_lock(descriptor, filling, ONE_WRITER, patience=float("inf"))
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


def refuse_occupied(target: Path, marker: str, *, overwrite: bool) -> None:
    """See that a folder may be written at `target`.

    Args:
        target: the folder to be.
        marker: file that shows an existing folder to be one of ours, and so replaceable.
        overwrite: whether one of ours may be replaced.

    Raises:
        StorageError: something is there that must not be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir() or not (target / marker).is_file():
        raise StorageError(
            f"cannot write {target}: it is neither absent nor an empty folder nor an earlier dataset"
        )
    if not overwrite:
        raise StorageError(f"{target} holds a dataset, which is replaced only when told to overwrite")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`: it takes its place when the block ends well, else vanishes; see `whole`.

    Raises:
        StorageError: the folder cannot be made or renamed.
    """
    target = target.absolute()
    filling = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.partial"
    with ExitStack() as stack:
        with storing(target):
            for path in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
                with suppress(OSError):  # it may be somebody else's, whom it is left to
                    remove_abandoned([path])
            make_folder(filling.parent)
            filling.mkdir()
            stack.callback(shutil.rmtree, filling, ignore_errors=True)
            stack.enter_context(lock(filling, ONE_WRITER))
        yield filling
        with storing(target), ThreadPoolExecutor(SYNCED) as pool:
            list(pool.map(sync, filling.rglob("*")))  # beside other work one by one took ten times as long
            sync(filling)
            _swap(filling, target)


def _swap(filling: Path, target: Path) -> None:
    retired = filling.with_suffix(".retired")
    if target.exists():
        target.rename(retired)
    try:
        filling.rename(target)
    except OSError:
        if retired.exists():
            retired.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


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
    """Remove files and folders that killed writers left half-filled; what a living one fills stays."""
    for left in unfinished:
        with suppress(FileNotFoundError, StorageHeld), lock(left, ONE_WRITER) as locked:
            if locked:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
                logger.info("removed %s, which a killed process left half-written", left)


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
