"""Row groups that were read together, and batches of them; large values stay in the chunks that they came in.

Joining the chunks of images would copy all of them once more, into memory that this process alone holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.loading.batches import Batch, Events, make_batch
from hep_ray.loading.row_groups import chunks_of, column_of
from hep_ray.loading.source import EventWeights

LARGE = 2**10
"""Bytes of an event's value from which a column stays in chunks; to look in many of them has its price too."""


@dataclass(frozen=True)
class Chunks:
    """A column (N, *shape) that lies in several arrays.

    Attributes:
        arrays: (N_i, *shape), one after the other.
        starts: row at which each begins, then N.
    """

    arrays: tuple[npt.NDArray[Any], ...]
    starts: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Values (len(rows), *shape) of rows that ascend."""
        if len(rows) and not (self.starts[0] <= rows[0] and rows[-1] < self.starts[-1]):
            raise IndexError(f"rows {rows[0]} to {rows[-1]} are taken of a column with {self.starts[-1]}")
        found = np.empty((len(rows), *self.arrays[0].shape[1:]), self.arrays[0].dtype)
        ends = np.searchsorted(rows, self.starts)
        for array, start, low, high in zip(self.arrays, self.starts, ends, ends[1:], strict=False):
            # The rows are within the array; numpy would copy once more to be able to say where they are not.
            array.take(rows[low:high] - start, axis=0, out=found[low:high], mode="clip")
        return found


@dataclass(frozen=True)
class Piece:
    """Events of a few row groups.

    Attributes:
        events: the labels, the weights, and the columns that lie in one array.
        chunks: the other columns.
        columns: all of them in the order that batches have.
    """

    events: Events
    chunks: Mapping[str, Chunks]
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls, table: pa.Table, schema: EventSchema, columns: Sequence[str], weights: EventWeights | None
    ) -> Piece:
        """The columns of a table, and its events' weights in the loss."""
        chunks = {name: _chunks(table, name, schema) for name in columns if _is_large(table, name, schema)}
        small = [name for name in columns if name not in chunks]
        weight = [] if weights is None or weights.column is None else [weights.column]
        found = {name: column_of(table, name, schema) for name in dict.fromkeys([*small, *weight])}
        events = Events(found, table.column(LABEL).to_numpy())
        return cls(events.select(small, weights), chunks, tuple(columns))

    def __len__(self) -> int:
        return len(self.events)

    def batch(self, rows: npt.NDArray[np.intp], device: torch.device | str) -> Batch:
        """Rows that ascend, as tensors that own their memory."""
        batch = make_batch(self.events, rows, device)
        large = {name: torch.from_numpy(chunks.take(rows)).to(device) for name, chunks in self.chunks.items()}
        found = batch.inputs | large
        return dataclasses.replace(batch, inputs={name: found[name] for name in self.columns})


def _is_large(table: pa.Table, name: str, schema: EventSchema) -> bool:
    column = schema.column(name)
    return table.schema.field(name).type == column.arrow_type and column.nbytes >= LARGE


def _chunks(table: pa.Table, name: str, schema: EventSchema) -> Chunks:
    arrays = tuple(np.asarray(chunk) for chunk in chunks_of(table, name, schema))
    return Chunks(arrays, np.cumsum([0, *(len(array) for array in arrays)]))
