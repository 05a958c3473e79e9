"""The room on the storage: what a search will keep there, and how a disk that is full shows itself."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.search.recorder import KEEP_BEST

STATES = 5
"""Models' worth of a running trial's two checkpoints: the best model, and weights, two moments and an average."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_WORDS = (
    "No space left on device",
    "database or disk is full",
    "Disk quota exceeded",
    "Read-only file system",
)
"""How libraries that hide the error's number word it."""


def check_room(storage: Path, model_bytes: int, concurrent: int, keep: int = KEEP_BEST) -> None:
    """Refuse a search whose checkpoints do not fit on the storage as it is now.

    Args:
        storage: a folder that exists.
        model_bytes: of the largest model's weights.
        concurrent: trials side by side.
        keep: models that are kept when all trials have ended.

    Raises:
        StorageError: the free space is less than that.
    """
    needed = model_bytes * (keep + STATES * concurrent)
    free = shutil.disk_usage(storage).free
    if free < needed:
        raise StorageError(
            f"the storage has room for {keep} kept models and the state of {concurrent} running trials, "
            f"{_words(needed)}; {storage} has {_words(free)} free"
        )


@contextmanager
def stopped_by_storage(folder: Path) -> Iterator[None]:
    """Name a full or read-only disk, however deep in Ray or SQLite it was met.

    Raises:
        StorageError: the block failed for want of room.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as fault:
        if not _is_full(fault):
            raise
        raise StorageError(
            f"the storage must be writable; {folder} is not any more: {_line(fault)}; every finished epoch is kept: "
            "make room, then resume"
        ) from fault


def _is_full(fault: BaseException | None) -> bool:
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in _FULL:
            return True
        if any(words in str(fault) for words in _WORDS):
            return True
        fault = fault.__cause__ or fault.__context__
    return False


def _line(fault: BaseException) -> str:
    lines = str(fault).splitlines()
    return next((line.strip() for line in lines if any(words in line for words in _WORDS)), str(fault)[:200])


def _words(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"  # noqa: PLR2004 - the unit's own bound
