"""Events of a split that live on a GPU, as small as they go without a loss, and are gathered and densified there.

The rule of the dtypes: floating-point values are held as float16, or float64 ones as float32, where every value of the
column comes back bit for bit; integers in the smallest type that holds them; anything else as it is. Columns without
their zeros stay so. The batches are those that the host would have sent, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hep_ray.dataset.values import ListColumn, SparseColumn, Values
from hep_ray.loading.batches import (
    Batch,
    BatchRequest,
    Events,
    EventSource,
    EventWeights,
    signed,
    torch_dtype,
)

CHUNK = 2**22
"""Values that are compared with their smaller form at a time."""
SPLIT_FRACTION = 0.25
"""Of the memory that a trial has of its GPU: what each of its splits may take there."""
SMALLER = {"float64": ("float32", "float16"), "float32": ("float16",)}
INTEGERS = ("uint8", "int8", "int16", "int32")
"""That torch gathers by; from the smallest."""


@dataclass(frozen=True)
class Dense:
    """Values (N, *shape) on a device.

    Attributes:
        values: in a dtype that holds them.
        dtype: that batches have.
    """

    values: Tensor
    dtype: torch.dtype

    def gather(self, rows: Tensor) -> Tensor:
        """Return some events, (len(rows), *shape)."""
        return signed(self.values)[rows].view(self.values.dtype).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.values.nbytes


@dataclass(frozen=True)
class Sparse:
    """Values (N, *row_shape) on a device, without their zeros; see `SparseColumn`.

    Attributes:
        row_shape: of one event's value.
        offsets: (N + 1,) int64.
        index: (M,) int16 or int32.
        value: (M,) in a dtype that holds them.
        dtype: that batches have.
    """

    row_shape: tuple[int, ...]
    offsets: Tensor
    index: Tensor
    value: Tensor
    dtype: torch.dtype

    def gather(self, rows: Tensor) -> Tensor:
        """Return some events, densified, (len(rows), *row_shape)."""
        size = int(np.prod(self.row_shape))
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        ends = counts.cumsum(0)
        first = torch.arange(0, len(rows) * size, size, device=rows.device)
        source = torch.repeat_interleave(starts - (ends - counts), counts)
        source += torch.arange(len(source), device=rows.device)
        places = torch.repeat_interleave(first, counts) + self.index[source]
        whole = torch.zeros(len(rows) * size, dtype=self.dtype, device=rows.device)
        found = signed(self.value)[source].view(self.value.dtype).to(self.dtype)
        signed(whole)[places] = signed(found)
        return whole.view(len(rows), *self.row_shape)

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.offsets.nbytes + self.index.nbytes + self.value.nbytes


@dataclass(frozen=True)
class Lists:
    """Lists of N events on a device; see `ListColumn`.

    Attributes:
        offsets: (N + 1,) int64.
        items: (M, F) in a dtype that holds them.
        dtype: that batches have.
    """

    offsets: Tensor
    items: Tensor
    dtype: torch.dtype

    def gather(self, rows: Tensor) -> Tensor:
        """Return some events, (len(rows), L, F), filled up to the longest of them with NaN."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        length = max(1, int(counts.max())) if len(rows) else 1
        places = torch.arange(length, device=rows.device)
        mask = places < counts[:, None]
        values = torch.full(
            (len(rows), length, self.items.shape[1]), torch.nan, dtype=self.dtype, device=rows.device
        )
        values[mask] = self.items[(starts[:, None] + places)[mask]].to(self.dtype)
        return values

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.offsets.nbytes + self.items.nbytes


OnDevice: TypeAlias = Dense | Sparse | Lists


@dataclass(frozen=True)
class DeviceEvents:
    """An `EventSource` on a device.

    Attributes:
        events: the same in the memory of the host.
        columns: column → its values.
        device_labels: (N,) int64.
        device_weights: (N,) float32, None where all are 1.
        device: where they are.
    """

    events: Events
    columns: dict[str, OnDevice]
    device_labels: Tensor
    device_weights: Tensor | None
    device: torch.device
    memory: None = None

    @classmethod
    def of(cls, events: Events, device: torch.device | str) -> DeviceEvents:
        """Copy events to a device."""
        where = torch.device(device)
        return cls(
            events,
            {name: _copied(values, where) for name, values in events.inputs.items()},
            torch.tensor(events.labels, device=where),
            None if events.weights is None else torch.tensor(events.weights, device=where),
            where,
        )

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """See `EventSource.labels`."""
        return self.events.labels

    @property
    def nbytes(self) -> int:
        """Memory that they take on the device."""
        return self.device_labels.nbytes + sum(column.nbytes for column in self.columns.values())

    def __len__(self) -> int:
        return len(self.events)

    def select(self, columns: Sequence[str], weights: EventWeights | None = None) -> DeviceEvents:
        """See `EventSource.select`."""
        events = self.events.select(columns, weights)
        on_gpu = None if events.weights is None else torch.tensor(events.weights, device=self.device)
        kept = {name: self.columns[name] for name in columns}
        return DeviceEvents(events, kept, self.device_labels, on_gpu, self.device)

    def class_sums(
        self, classes: int, column: str | None = None, *, sizes: bool = False
    ) -> npt.NDArray[np.float64]:
        """See `EventSource.class_sums`."""
        return self.events.class_sums(classes, column, sizes=sizes)

    def head(self, events: int) -> Events:
        """See `EventSource.head`."""
        return self.events.head(events)

    def batches(self, request: BatchRequest) -> Iterator[Batch]:
        """See `EventSource.batches`; the same as those of the host."""
        parts = self.events.rows(request)
        rows = torch.from_numpy(np.concatenate(parts)).to(self.device)
        split = torch.split(rows, [len(part) for part in parts])
        return (self._batch(part, request.device) for part in split)

    def _batch(self, rows: Tensor, device: torch.device | str) -> Batch:
        return Batch(
            {name: column.gather(rows).to(device) for name, column in self.columns.items()},
            self.device_labels[rows].to(device),
            None if self.device_weights is None else self.device_weights[rows].to(device),
        )


def on_device(source: EventSource, device: torch.device | str, gpu_fraction: float) -> EventSource:
    """Move events in memory to a GPU where they take at most `SPLIT_FRACTION` of the trial's part; else leave them.

    Args:
        source: of the events.
        device: of the trial.
        gpu_fraction: of the GPU's memory that is the trial's, at most 1.
    """
    where = torch.device(device)
    if where.type != "cuda" or not isinstance(source, Events):
        return source
    _, total = torch.cuda.mem_get_info(where)
    # What they take as they are is an upper bound.
    return (
        DeviceEvents.of(source, where)
        if source.nbytes <= SPLIT_FRACTION * min(gpu_fraction, 1.0) * total
        else source
    )


def _copied(values: Values, device: torch.device) -> OnDevice:
    dtype = torch_dtype(values.dtype)
    if isinstance(values, ListColumn):
        items = torch.tensor(smallest(values.items), device=device)
        return Lists(torch.tensor(values.offsets, device=device), items, dtype)
    if not isinstance(values, SparseColumn):
        return Dense(torch.tensor(smallest(values), device=device), dtype)
    index = values.index.astype(np.int16 if values.size <= 2**15 else np.int32)
    return Sparse(
        values.row_shape,
        torch.tensor(values.offsets, device=device),
        torch.tensor(index, device=device),
        torch.tensor(smallest(values.value), device=device),
        dtype,
    )


def smallest(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the same values in the smallest dtype from which they come back."""
    names = SMALLER.get(values.dtype.name, INTEGERS if values.dtype.kind in "iu" else ())
    for name in sorted(names, key=lambda one: np.dtype(one).itemsize):
        small = np.dtype(name)
        if small.itemsize < values.dtype.itemsize and _holds(values.reshape(-1), small):
            return values.astype(small)
    return values


def _holds(values: npt.NDArray[Any], small: np.dtype[Any]) -> bool:
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(part.astype(small).astype(values.dtype), part)
            for part in np.array_split(values, max(1, len(values) // CHUNK))
        )
