"""The values of a column in memory and in Arrow: whole, without their zeros, or lists of varying length.

Of a column with few values that are not zero, such as images of a calorimeter, only those values are kept. Nothing is
lost: what counts as zero is a value whose bits are all zero, so −0.0 is kept too. At 3 % of the values a column takes a
twentieth of the memory, and is read and densified six times faster than Parquet decompresses it whole
(docs/performance.md).

Of a column of lists, such as the constituents of a jet, only the items that are there are kept. As a plain array it is
(N, L, F): L items at most, F values of each. An item that is absent is a row of NaN, and those stand behind the ones
that are there, so that the mask of an array is its first value not being NaN.

Shape suffixes: N events, M values or items kept of all of them, L items of the longest event, F values of an item.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.errors import InvalidEvents

SHORT_INDEX = 2**16
"""Values of one event up to which an index takes two bytes."""
LEAST_SIZE = 64
"""Values of an event below which a column is stored whole."""
MOST_SHARE = 0.25
"""Of a column's size that its values without the zeros, and their indices, take at most: 17 % of float32 values."""
NUMBERS = {
    pa.from_numpy_dtype(one): one
    for one in map(np.dtype, ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"))
}
"""Arrow's types of numbers → numpy's. Arrow's own `to_pandas_dtype` imports pandas, half a second of every command."""


@dataclass(frozen=True)
class SparseColumn:
    """Values (N, *row_shape) of N events.

    Attributes:
        row_shape: of one event's value.
        offsets: (N + 1,) int64; those of event n are `offsets[n]` to `offsets[n + 1]`.
        index: (M,) uint16 or uint32, places in the flattened value of an event, ascending.
        value: (M,) in the column's dtype.
    """

    row_shape: tuple[int, ...]
    offsets: npt.NDArray[np.int64]
    index: npt.NDArray[Any]
    value: npt.NDArray[Any]

    @classmethod
    def from_dense(cls, values: npt.NDArray[Any]) -> SparseColumn:
        """Return the same values (N, *shape), of at least one dimension beside the events."""
        row_shape = values.shape[1:]
        size = int(np.prod(row_shape))
        flat = np.ascontiguousarray(values).reshape(-1)
        # Numpy finds what is true faster than what is not zero, and faster in one dimension than in two.
        places = np.flatnonzero(flat.view(f"u{flat.itemsize}") != 0)
        value = flat.take(places)
        starts = np.arange(len(values) + 1) * size
        offsets = np.searchsorted(places, starts)
        places -= np.repeat(starts[:-1], np.diff(offsets))
        return cls(row_shape, offsets, places.astype(index_dtype(size)), value)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *row_shape), as of an array."""
        return (len(self), *self.row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy dtype of the values."""
        return self.value.dtype

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.offsets.nbytes + self.index.nbytes + self.value.nbytes

    @property
    def size(self) -> int:
        """Values of one event."""
        return int(np.prod(self.row_shape))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Return dense values of consecutive events, (…, *row_shape)."""
        return self.take(np.arange(len(self))[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all values, whole; numpy asks for this."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def take(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return dense values of some events, (len(rows), *row_shape)."""
        places, values = self.placed(rows)
        dense = np.zeros(len(rows) * self.size, self.dtype)
        dense[places] = values
        return dense.reshape(len(rows), *self.row_shape)

    def placed(self, rows: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Return places in the flattened whole values of some events, and what stands there."""
        source, counts = items_of(self.offsets, rows)
        places = np.repeat(np.arange(0, len(rows) * self.size, self.size), counts)
        places += self.index.take(source)
        return places, self.value.take(source)

    def select(self, rows: npt.NDArray[np.intp]) -> SparseColumn:
        """Return some events, still without their zeros."""
        source, counts = items_of(self.offsets, rows)
        index, value = self.index.take(source), self.value.take(source)
        return SparseColumn(self.row_shape, offsets_of(counts), index, value)


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


def offsets_of(lengths: npt.NDArray[Any] | Sequence[int]) -> npt.NDArray[np.int64]:
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


Values: TypeAlias = npt.NDArray[Any] | SparseColumn | ListColumn
"""A column in memory: (N, *shape), whole, without its zeros, or as lists."""


def select(values: Values, rows: npt.NDArray[np.intp]) -> Values:
    """Return some events of a column, in the form that it has."""
    return values.take(rows, axis=0) if isinstance(values, np.ndarray) else values.select(rows)


def join(pieces: Sequence[Values]) -> Values:
    """Return one column after the other, all of one kind; the result owns its memory."""
    first = pieces[0]
    if isinstance(first, np.ndarray):
        return np.concatenate([np.asarray(piece) for piece in pieces])
    kept = [piece for piece in pieces if isinstance(piece, SparseColumn | ListColumn)]
    offsets = offsets_of(np.concatenate([np.diff(piece.offsets) for piece in kept]))

    def joined(part: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(one, part)[one.offsets[0] : one.offsets[-1]] for one in kept])

    if isinstance(first, ListColumn):
        return ListColumn(first.row_shape, offsets, joined("items"))
    return SparseColumn(first.row_shape, offsets, joined("index"), joined("value"))


def index_dtype(size: int) -> np.dtype[Any]:
    """Return the dtype of the indices into a value of that size, little-endian."""
    return np.dtype("<u2" if size <= SHORT_INDEX else "<u4")


def pays_sparse(shape: tuple[int, ...], dtype: npt.DTypeLike, filled: float) -> bool:
    """Return whether to leave out the zeros of values of a shape, of which so many per event are not zero."""
    size, item = int(np.prod(shape)), np.dtype(dtype).itemsize
    return size >= LEAST_SIZE and filled * (item + index_dtype(size).itemsize) <= MOST_SHARE * size * item


class SparseType(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types
    """Arrow's type of such a column: for each event the bytes of its indices and those of its values.

    Both are little-endian; two bytes an index where an event has at most 65,536 values, else four.

    Args:
        value_type: of the values.
        shape: of one event's value.
    """

    def __init__(self, value_type: pa.DataType, shape: Sequence[int]) -> None:
        self.value_type = value_type
        self.shape = tuple(shape)
        storage = [pa.field(name, pa.binary(), nullable=False) for name in ("index", "value")]
        super().__init__(pa.struct(storage), "hep_ray.sparse")

    def __arrow_ext_serialize__(self) -> bytes:
        return json.dumps({"value_type": str(self._dtype), "shape": self.shape}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> SparseType:
        stated = json.loads(serialized)
        return cls(pa.from_numpy_dtype(np.dtype(stated["value_type"])), stated["shape"])

    @property
    def _dtype(self) -> np.dtype[Any]:
        return NUMBERS[self.value_type]

    def encode(self, values: npt.NDArray[Any] | SparseColumn) -> pa.ExtensionArray:
        """Return values (N, *shape) as Arrow."""
        column = values if isinstance(values, SparseColumn) else SparseColumn.from_dense(values)
        low, high = column.offsets[[0, -1]]
        offsets = column.offsets - low
        value = column.value.astype(column.dtype.newbyteorder("<"), copy=False)
        parts = [_blobs(part[low:high], offsets) for part in (column.index, value)]
        storage = pa.StructArray.from_arrays(parts, fields=list(self.storage_type))
        return pa.ExtensionArray.from_storage(self, storage)

    def decode(self, values: pa.ExtensionArray) -> SparseColumn:
        """Return Arrow as values (N, *shape), without a copy where it is aligned.

        Raises:
            InvalidEvents: the indices are not those of values of this shape.
        """
        size = int(np.prod(self.shape))
        index, index_offsets = _unpacked(values.storage.field(0), index_dtype(size))
        value, offsets = _unpacked(values.storage.field(1), self._dtype.newbyteorder("<"))
        if not np.array_equal(index_offsets, offsets) or (len(index) and int(index.max()) >= size):
            raise InvalidEvents(
                f"a sparse column has {len(index)} indices up to {int(index.max()) if len(index) else 'none'} for "
                f"{len(value)} values; it must have one below {size} for each"
            )
        return SparseColumn(self.shape, offsets, index, value)


def _blobs(part: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> pa.Array:
    bounds = (offsets * part.itemsize).astype(np.int32)
    content = np.ascontiguousarray(part)
    return pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(content)]
    )


def _unpacked(blobs: pa.Array, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return all values of the blobs, and where each blob begins among them."""
    _, bounds, content = blobs.buffers()
    ends = np.frombuffer(bounds, np.int32)[blobs.offset : blobs.offset + len(blobs) + 1].astype(np.int64)
    low, high = (int(ends[0]), int(ends[-1])) if len(ends) else (0, 0)
    if ((ends - low) % dtype.itemsize).any():
        raise InvalidEvents(f"a sparse column has {high - low} bytes, which are no whole values of {dtype}")
    filled = content is not None and high > low
    values = (
        np.frombuffer(content, dtype, (high - low) // dtype.itemsize, low) if filled else np.empty(0, dtype)
    )
    return values, (ends - low) // dtype.itemsize if len(ends) else np.zeros(1, np.int64)


def list_type(value_type: pa.DataType, size: int) -> pa.DataType:
    """Return Arrow's type of such a column: lists of items, each `size` values."""
    item = pa.list_(pa.field("element", value_type, nullable=False), size)
    return pa.list_(pa.field("element", item, nullable=False))


def encode_lists(column: ListColumn) -> pa.Array:
    """Return lists as Arrow."""
    kind = list_type(pa.from_numpy_dtype(column.dtype), column.row_shape[1])
    low, high = column.offsets[[0, -1]]
    flat = pa.array(np.ascontiguousarray(column.items[low:high]).reshape(-1))
    items = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array((column.offsets - low).astype(np.int32)), items, type=kind)


def decode_lists(values: pa.ListArray, row_shape: tuple[int, ...]) -> ListColumn:
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


def compact(values: pa.Array, shape: tuple[int, ...]) -> Values:
    """Return Arrow as values (N, *shape) in the form that they are stored in."""
    if pa.types.is_list(values.type):
        return decode_lists(values, shape)
    if isinstance(values.type, SparseType):
        return values.type.decode(values)
    array: npt.NDArray[Any] = (values.storage.flatten() if shape else values).to_numpy()
    return array.reshape(len(values), *shape)


pa.register_extension_type(SparseType(pa.float32(), (1,)))
