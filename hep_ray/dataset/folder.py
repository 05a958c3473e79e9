"""Writing a whole folder or nothing: a hidden sibling is filled, then renamed into place.

Who fills a sibling holds a lock on it. A sibling that nobody holds was left by a process that was killed, and
the next writer of the same target removes it.
"""

from __future__ import annotations

import glob
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.files import ONE_WRITER, lock, make_folder, remove_abandoned, storing, sync


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
    """An empty folder beside `target`: takes its place when the block ends well, vanishes when it fails.

    Raises:
        StorageError: the folder cannot be made or renamed.
    """
    target = target.absolute()
    filling = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.partial"
    with ExitStack() as stack:
        with storing(target):
            _remove_abandoned(target)
            make_folder(filling.parent)
            filling.mkdir()
            stack.callback(shutil.rmtree, filling, ignore_errors=True)
            stack.enter_context(lock(filling, ONE_WRITER))
        yield filling
        with storing(target):
            for path in (*filling.iterdir(), filling):
                sync(path)
            _swap(filling, target)


def _remove_abandoned(target: Path) -> None:
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(OSError):  # it may be somebody else's, whom it is left to
            remove_abandoned([path])


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
