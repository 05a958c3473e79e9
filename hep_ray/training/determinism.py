"""The same numbers from the same training: let a process compute by operations that have a deterministic form alone.

On one thread of a processor a training repeats itself bit for bit anyway. On a GPU many operations of torch add in an
order that differs from run to run, and cuDNN may take another algorithm each time; PyTorch's notes on reproducibility
name what turns that off, and that it is slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from hep_ray.dataset.schema import Column
from hep_ray.errors import NotDeterministic

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Variable by which cuBLAS is told, before it begins, to give every stream one workspace."""
IN_WORDS = (
    "operations without a deterministic form are refused: the same numbers each time on the same machine"
)
REFUSALS = (
    "does not have a deterministic implementation",
    "Deterministic behavior was enabled",
)
"""By which torch's RuntimeErrors are told apart from others."""


def set_determinism(on: bool) -> None:
    """Let this process take deterministic operations alone from now on, or any; call it before CUDA begins.

    Args:
        on: refuse operations without a deterministic form.
    """
    if on:
        os.environ.setdefault(WORKSPACE, ":4096:8")
    if on != deterministic():
        torch.use_deterministic_algorithms(on)


def choose_convolutions(device: torch.device, columns: Iterable[Column]) -> None:
    """Let cuDNN try its algorithms once for each shape where a network on a GPU meets few shapes; else as it ships.

    Args:
        device: of the network.
        columns: that it reads; lists give every batch a shape of its own.
    """
    torch.backends.cudnn.benchmark = meets_few_shapes(device, columns) and not deterministic()


def meets_few_shapes(device: torch.device, columns: Iterable[Column]) -> bool:
    """Return whether a network on this device is a GPU's, and none of its columns is of lists."""
    return device.type == "cuda" and not any(column.lists for column in columns)


def deterministic() -> bool:
    """Return whether this process takes deterministic operations alone."""
    return torch.are_deterministic_algorithms_enabled()


@contextmanager
def refusals_named() -> Iterator[None]:
    """Within, what torch refuses for want of a deterministic form is a named error.

    Raises:
        NotDeterministic: the network, its loss or its optimizer has such an operation.
    """
    try:
        yield
    except RuntimeError as exc:
        if not any(words in str(exc) for words in REFUSALS):
            raise
        first = str(exc).split(", but you set")[0].splitlines()[0]
        raise NotDeterministic(
            f"with --deterministic every operation of a training has a deterministic form; torch says: {first}: take a "
            "model, a loss or an augmentation without it, or leave --deterministic out"
        ) from exc
