"""Check that the storage can be written and has room for what trials keep."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.files import make_folder
from hep_ray.training.checkpoint import KEEP_BEST

STATES = 5
"""Models' worth of the two checkpoints of a trial that has begun: the best; weights, two moments and an average."""


def check_storage(storage: Path) -> None:
    """Make the folder of all searches, and check that it can be written.

    Raises:
        StorageError: it cannot.
    """
    probe = storage / f".probe-{os.getpid()}"
    try:
        make_folder(storage)
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise StorageError(f"cannot write to storage {storage}: {exc.strerror}") from exc


def disk_bytes(model_bytes: int, concurrent: int, keep: int = KEEP_BEST, paused: int = 0) -> int:
    """Return the bytes of kept models and of the checkpoints of trials that run or pause; arguments as `check_room`."""
    return model_bytes * (keep + STATES * (concurrent + paused))


def check_room(
    storage: Path, model_bytes: int, concurrent: int, keep: int = KEEP_BEST, paused: int = 0
) -> None:
    """Refuse trials whose checkpoints do not fit on the storage as it is now.

    Args:
        storage: a folder that exists.
        model_bytes: of the largest model's weights.
        concurrent: trials side by side.
        keep: models that are kept when all trials have ended.
        paused: trials that wait.

    Raises:
        StorageError: the free space is less than that.
    """
    needed = disk_bytes(model_bytes, concurrent, keep, paused)
    free = shutil.disk_usage(storage).free
    if free < needed:
        raise StorageError(
            f"not enough room on storage {storage}: {keep} kept models and the state of {concurrent} running trials"
            f"{f', and of {paused} that pause,' * bool(paused)} take {size_words(needed)}, {size_words(free)} are "
            f"free: make room, or choose another --storage{', or a scheduler that pauses none' * bool(paused)}"
        )


def size_words(size: int) -> str:
    """Return a number of bytes in words, such as `1.3 GB`."""
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"  # noqa: PLR2004 - the unit's own bound
