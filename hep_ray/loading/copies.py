"""Copies of arrays of the host to the device of a model."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


def sent(values: npt.NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """Return an array as a tensor on a device; to a GPU it is copied from pinned memory, while the host goes on.

    What uses the tensor stands behind the copy on the GPU's stream, and torch keeps the pinned memory until then.

    Args:
        values: nobody writes to them; on a processor the tensor has their memory.
        device: where it goes.
    """
    here = torch.from_numpy(values)
    return here.pin_memory().to(device, non_blocking=True) if takes_pinned(device) else here.to(device)


def takes_pinned(device: torch.device | str) -> bool:
    """Return whether copies to a device come from pinned memory: those to a GPU."""
    return torch.device(device).type == "cuda"
