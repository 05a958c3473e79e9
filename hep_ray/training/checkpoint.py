"""Checkpoints on a (shared) file system: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hep_ray.errors import CorruptCheckpoint
from hep_ray.files import whole

LAST = "last.pt"
"""State from which a trial goes on: model, optimizer, schedule, epoch, random state, last metrics."""
BEST = "best.pt"
"""Model of the epoch with the best validation metric so far."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state so that a crash at any moment leaves the former file or the new one, never a torn one.

    Raises:
        OSError: the disk is full, say; the former file stays.
    """
    with whole(path) as filling, filling.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as fault:
            # Closing the file that it could not write, torch hides why.
            if isinstance(fault.__context__, OSError):
                raise fault.__context__ from None
            raise


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state back (tensors, numbers, strings, lists and dicts only: nothing is executed).

    Raises:
        CorruptCheckpoint: the file is not a whole checkpoint, or not as it was written.
    """
    try:
        _verify(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as fault:  # broken bytes make the unpickler raise anything
        raise CorruptCheckpoint(f"a checkpoint is read back whole; {path} is not: {fault}") from fault
    if not isinstance(state, dict):
        raise CorruptCheckpoint(f"a checkpoint holds a dict; {path} holds {type(state).__name__}")
    return state


def _verify(path: Path) -> None:
    """Compare every member of the file with its checksum, which torch writes and does not read.

    Raises:
        zipfile.BadZipFile: one differs, or is compressed, as torch never does: it could unpack to any size.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("its members are compressed")
        if broken := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {broken} is another")


def check_own(state: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Refuse the state of a trial with other parameters.

    Raises:
        CorruptCheckpoint: it is one.
    """
    if state["params"] != params:
        raise CorruptCheckpoint(
            f"a trial resumes its own checkpoint; this one holds {state['params']}, the trial is {params}"
        )
