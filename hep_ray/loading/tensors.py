"""Columns in memory to tensors that own their memory; columns without zeros are made whole where the tensor lies."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.dataset.sparse import SparseColumn, Values

T = TypeVar("T")

AHEAD = 2
"""Batches that are made ready while a GPU works."""


def to_tensor(values: Values, rows: npt.NDArray[np.intp], device: torch.device | str) -> torch.Tensor:
    """Whole values (len(rows), *shape) of some events on a device."""
    if not isinstance(values, SparseColumn):
        return torch.from_numpy(values.take(rows, axis=0)).to(device)
    places, found = values.placed(rows)
    # Torch reuses the memory of the last batch, where numpy would ask the system for new pages.
    dense = torch.zeros(len(rows) * values.size, dtype=torch_dtype(values.dtype), device=device)
    if dense.device.type == "cpu":
        dense.numpy()[places] = found
    else:
        signed(dense)[torch.from_numpy(places).to(device)] = signed(torch.from_numpy(found).to(device))
    return dense.view(len(rows), *values.row_shape)


SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types that torch does not index → those of the same size that it does."""


def signed(values: torch.Tensor) -> torch.Tensor:
    """A view of the same memory that can be indexed."""
    return values.view(SIGNED[values.dtype]) if values.dtype in SIGNED else values


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's name of a numpy dtype."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def ahead(items: Iterator[T], device: torch.device | str) -> Iterator[T]:
    """The same items; for a GPU a thread makes the next ones ready (and copies them there) meanwhile."""
    return items if torch.device(device).type == "cpu" else prefetched(items)


def prefetched(items: Iterator[T], depth: int = AHEAD) -> Generator[T, None, None]:
    """The same items, made by a thread that is up to `depth` of them ahead and ends with this iterator.

    What the items raise is raised here.
    """
    thread = _Maker(items, depth)
    thread.start()
    try:
        while (made := thread.ready.get()) is not _END:
            if isinstance(made, _Fault):
                raise made.fault
            yield made
    finally:
        thread.closed.set()
        thread.join()


_END = object()


@dataclass(frozen=True)
class _Fault:
    fault: BaseException


class _Maker(threading.Thread):
    """Makes items until it is closed or there are no more."""

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        super().__init__(daemon=True)
        self.ready: queue.Queue[Any] = queue.Queue(depth)
        self.closed = threading.Event()
        self._items = items

    def run(self) -> None:
        last: object = _END
        try:
            for item in self._items:
                self._offer(item)
                if self.closed.is_set():
                    break
        except BaseException as fault:  # noqa: BLE001 - raised where the items are used
            last = _Fault(fault)
        if isinstance(self._items, Generator):
            self._items.close()
        self._offer(last)

    def _offer(self, item: object) -> None:
        while not self.closed.is_set():
            try:
                self.ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
