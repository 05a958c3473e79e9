"""Columns of which few values are not zero, such as images of a calorimeter: only those values are kept.

Nothing is lost: what counts as zero is a value whose bits are all zero, so −0.0 is kept too. At 3 % of the values a
column takes a twentieth of the memory, and is read and made whole six times faster than Parquet decompresses it whole
(docs/performance.md).

Shape suffixes: N events, M values kept of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.dataset.lists import ListColumn, items_of, join_lists, offsets_of
from hep_ray.errors import InvalidEvents

SHORT_INDEX = 2**16
"""Values of one event up to which an index takes two bytes."""


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
        """Return whole values of consecutive events, (…, *row_shape)."""
        return self.take(np.arange(len(self))[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all values, whole; numpy asks for this."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def take(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return whole values of some events, (len(rows), *row_shape)."""
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


Values: TypeAlias = npt.NDArray[Any] | SparseColumn | ListColumn
"""A column in memory: (N, *shape), whole, without its zeros, or as lists."""


def select(values: Values, rows: npt.NDArray[np.intp]) -> Values:
    """Return some events of a column, in the form that it has."""
    return values.take(rows, axis=0) if isinstance(values, np.ndarray) else values.select(rows)


def join(pieces: Sequence[Values]) -> Values:
    """Return one column after the other, all of one kind; the result owns its memory."""
    first = pieces[0]
    if isinstance(first, ListColumn):
        return join_lists([piece for piece in pieces if isinstance(piece, ListColumn)])
    if not isinstance(first, SparseColumn):
        return np.concatenate([np.asarray(piece) for piece in pieces])
    sparse = [piece for piece in pieces if isinstance(piece, SparseColumn)]
    bounds = [(piece.offsets[0], piece.offsets[-1]) for piece in sparse]
    ends = np.cumsum([0, *(high - low for low, high in bounds)])
    offsets = [
        piece.offsets[1:] - low + end for piece, (low, _), end in zip(sparse, bounds, ends, strict=False)
    ]
    cut = [slice(low, high) for low, high in bounds]
    index = np.concatenate([piece.index[one] for piece, one in zip(sparse, cut, strict=True)])
    value = np.concatenate([piece.value[one] for piece, one in zip(sparse, cut, strict=True)])
    return SparseColumn(first.row_shape, np.concatenate([np.zeros(1, np.int64), *offsets]), index, value)


def index_dtype(size: int) -> np.dtype[Any]:
    """Return the dtype of the indices into a value of that size, little-endian."""
    return np.dtype("<u2" if size <= SHORT_INDEX else "<u4")


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
        dtype: np.dtype[Any] = np.dtype(self.value_type.to_pandas_dtype())
        return dtype

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


pa.register_extension_type(SparseType(pa.float32(), (1,)))
