"""Columns of lists of varying length, such as the constituents of a jet: only the items that are there are kept.

As a plain array such a column is (N, L, F): L items at most, F values of each. An item that is absent is a row of NaN,
and those stand behind the ones that are there, so that the mask of an array is its first value not being NaN.

Shape suffixes: N events, L items of the longest event, M items of all events, F values of an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.errors import InvalidEvents


@dataclass(frozen=True)
class ListColumn:
    """Lists of N events.

    Attributes:
        row_shape: most items of an event that the schema allows, and F.
        offsets: (N + 1,) int64; the items of event n are `offsets[n]` to `offsets[n + 1]`.
        items: (M, F) in the column's dtype.
    """

    row_shape: tuple[int, ...]
    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[Any]

    @classmethod
    def from_dense(cls, values: npt.NDArray[Any], row_shape: tuple[int, ...]) -> ListColumn:
        """Return the same lists as an array (N, L, F), whose absent items are NaN."""
        present = mask_of(values)
        return cls(row_shape, offsets_of(present.sum(axis=1)), values[present])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *row_shape), as of an array in which every list has the greatest length."""
        return (len(self), *self.row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy dtype of the values."""
        return self.items.dtype

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.offsets.nbytes + self.items.nbytes

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) items of each event."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> ListColumn:
        """Return consecutive events, still as lists."""
        return self.select(np.arange(len(self))[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all lists, each filled up to the greatest length of the schema; numpy asks for this."""
        return self.padded(np.arange(len(self)), self.row_shape[0]).astype(dtype or self.dtype, copy=False)

    def take(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return the lists of some events, filled up to the longest of them, but to one item at least."""
        return self.padded(rows, max(1, int(self.lengths[rows].max(initial=0))))

    def padded(self, rows: npt.NDArray[np.intp], length: int) -> npt.NDArray[Any]:
        """Return the lists of some events, filled up to a length that is that of the longest or more."""
        source, counts = items_of(self.offsets, rows)
        values = np.full((len(rows), length, self.items.shape[1]), np.nan, self.dtype)
        values[np.arange(length) < counts[:, None]] = self.items[source]
        return values

    def select(self, rows: npt.NDArray[np.intp]) -> ListColumn:
        """Return some events, still as lists."""
        source, counts = items_of(self.offsets, rows)
        return ListColumn(self.row_shape, offsets_of(counts), self.items[source])


def mask_of(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which items of an array (N, L, F) are there, (N, L)."""
    present: npt.NDArray[np.bool_] = ~np.isnan(values[..., 0])
    return present


def offsets_of(lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the offsets (N + 1,) of lists of these lengths (N,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def items_of(
    offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where the items of some events (R,) lie, one event after the other, and how many each has, (R,)."""
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    shifts = starts - (np.cumsum(counts) - counts)
    return np.arange(int(counts.sum())) + np.repeat(shifts, counts), counts


def join_lists(pieces: Sequence[ListColumn]) -> ListColumn:
    """Return the lists of one column after the other."""
    lengths = np.concatenate([piece.lengths for piece in pieces])
    items = np.concatenate([piece.items[piece.offsets[0] : piece.offsets[-1]] for piece in pieces])
    return ListColumn(pieces[0].row_shape, offsets_of(lengths), items)


def list_type(value_type: pa.DataType, size: int) -> pa.DataType:
    """Return Arrow's type of such a column: lists of items, each `size` values."""
    item = pa.list_(pa.field("element", value_type, nullable=False), size)
    return pa.list_(pa.field("element", item, nullable=False))


def encode(column: ListColumn) -> pa.Array:
    """Return lists as Arrow."""
    kind = list_type(pa.from_numpy_dtype(column.dtype), column.row_shape[1])
    low, high = column.offsets[[0, -1]]
    flat = pa.array(np.ascontiguousarray(column.items[low:high]).reshape(-1))
    items = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array((column.offsets - low).astype(np.int32)), items, type=kind)


def decode(values: pa.ListArray, row_shape: tuple[int, ...]) -> ListColumn:
    """Return Arrow as lists, without a copy of the items.

    Raises:
        InvalidEvents: a list is longer than the schema states.
    """
    bounds = values.offsets.to_numpy().astype(np.int64)
    # Items of a slice are not those of the whole array.
    items = values.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0])).flatten().to_numpy()
    column = ListColumn(row_shape, bounds - bounds[0], items.reshape(-1, row_shape[1]))
    if len(column) and (longest := int(column.lengths.max())) > row_shape[0]:
        raise InvalidEvents(
            f"a list must have at most the {row_shape[0]} items that the schema states, got one of {longest}"
        )
    return column
