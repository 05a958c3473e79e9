"""Common parts of the readers: numpy in Arrow, ranges of rows, the names that were asked for, broken files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.conversion.paths import listed
from hep_ray.conversion.readers import BATCH_BYTES, LeftOut, Part
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.dataset.values import offsets_of
from hep_ray.errors import HepRayError, InvalidConfig, NoEvents, UnreadableInput, did_you_mean

ROW_INDEX = LeftOut("a row number, as pandas writes it", "--columns keeps it as a feature")
IMAGE = "image"
"""Field of formats that have one image per event."""
TEXT_BYTES = 32
"""Bytes that a string is taken to have when batches are planned."""
LIST_LENGTH = 16
"""Elements that a list of variable length is taken to have when batches are planned."""
LONGEST_CAUSE = 300
"""Characters of a library's error that are shown."""


@contextmanager
def reading(where: object, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors that a library raises on broken or absent files into the named one.

    Raises:
        UnreadableInput: the block raised one of `errors`; `where` is named.
    """
    try:
        yield
    except HepRayError:
        raise
    except errors as exc:
        cause = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
        raise UnreadableInput(f"cannot read {where}: {cause[:LONGEST_CAUSE]}") from None


def is_number(dtype: np.dtype[Any]) -> bool:
    """Return whether values are integers, floats of at most 64 bits, or booleans."""
    return dtype.kind in "biuf" and dtype.itemsize <= np.dtype(np.float64).itemsize


def is_text(dtype: np.dtype[Any]) -> bool:
    """Return whether values are texts: of fixed length in numpy, or HDF5's of any."""
    kind: Any = dict(dtype.metadata or {}).get("vlen")
    return dtype.kind in "SU" or kind in (str, bytes)


def item_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype of the numbers of HDF5's lists of varying length; None of what is no such list."""
    kind: Any = dict(dtype.metadata or {}).get("vlen")
    return kind if isinstance(kind, np.dtype) and is_number(kind) else None


def native(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.dtype[Any]:
    """Return the dtype in this machine's byte order; booleans within an array count as uint8."""
    return np.dtype(np.uint8) if shape and dtype.kind == "b" else dtype.newbyteorder("=")


def field(name: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (), *, jagged: bool = False) -> pa.Field:
    """Return the field of a number, an array of numbers, a list of them (`jagged`) or a text, which is never null."""
    if is_text(dtype):
        return pa.field(name, pa.string(), nullable=False)
    if (inner := item_dtype(dtype)) is not None:
        dtype, jagged = inner, True
    value_type = pa.from_numpy_dtype(native(dtype, shape))
    if jagged:
        return pa.field(name, pa.list_(value_type), nullable=False)
    return pa.field(name, pa.fixed_shape_tensor(value_type, shape) if shape else value_type, nullable=False)


def list_array(lengths: Any, items: npt.NDArray[Any], arrow_type: pa.DataType) -> pa.ListArray:
    """Return lists of these lengths as Arrow; their items (M,) stand one after the other."""
    flat = pa.array(np.ascontiguousarray(items), arrow_type.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets_of(lengths).astype(np.int32)), flat, type=arrow_type)


def to_arrow(values: npt.NDArray[Any], arrow_type: pa.DataType) -> pa.Array:
    """Return values (N, *shape) as an Arrow array of N rows of a `field`'s type.

    Raises:
        ValueError: texts are not UTF-8.
    """
    if pa.types.is_string(arrow_type):
        texts = values.tolist()
        return pa.array([text.decode() if isinstance(text, bytes) else text for text in texts], arrow_type)
    if pa.types.is_list(arrow_type):
        items = np.concatenate([np.empty(0, arrow_type.value_type.to_pandas_dtype()), *values])
        return list_array([len(one) for one in values], items, arrow_type)
    values = np.ascontiguousarray(values, dtype=native(values.dtype, values.shape[1:]))
    if not isinstance(arrow_type, pa.FixedShapeTensorType):
        return pa.array(values, arrow_type)
    flat = pa.array(values.reshape(-1), arrow_type.value_type)
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(arrow_type.shape)))
    return pa.ExtensionArray.from_storage(arrow_type, storage)


def row_bytes(schema: pa.Schema) -> int:
    """Return about as many bytes as an event's fields take, at least one."""
    return max(1, sum(_value_bytes(item.type) for item in schema))


def _value_bytes(arrow_type: pa.DataType) -> int:
    if isinstance(arrow_type, pa.FixedShapeTensorType):
        return int(np.prod(arrow_type.shape)) * _value_bytes(arrow_type.value_type)
    if pa.types.is_list(arrow_type):
        return LIST_LENGTH * _value_bytes(arrow_type.value_type)
    if pa.types.is_fixed_size_list(arrow_type):
        return int(arrow_type.list_size) * _value_bytes(arrow_type.value_type)
    return TEXT_BYTES if pa.types.is_string(arrow_type) else -(-arrow_type.bit_width // 8)


def rows_per_batch(schema: pa.Schema) -> int:
    """Return how many rows of these fields make a batch."""
    return max(1, BATCH_BYTES // row_bytes(schema))


def steps(start: int, stop: int | None, rows: int, step: int, align: int = 1) -> Iterator[tuple[int, int]]:
    """Divide rows into batches.

    Args:
        start: the first row.
        stop: the row after the last; None: to the end.
        rows: that there are.
        step: rows of a batch.
        align: batches end at multiples of this number, such as the rows of a chunk, once `step` exceeds it.
    """
    stop = rows if stop is None else min(stop, rows)
    step = step // align * align or step
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield start, end
        start = end


def asked(part: Part, names: Sequence[str], path: Path) -> pa.Schema:
    """Return the fields of these names, in this order.

    Raises:
        InvalidConfig: there is no such field, or no name; the message has the nearest.
    """
    if not names:
        raise InvalidConfig(f"no name of a field of {place(path, part.name)} is given")
    for name in names:
        if name not in part.fields.names:
            raise absent("field", name, part.fields.names, place(path, part.name))
    return pa.schema([part.fields.field(name) for name in names])


def images_of(
    part: Part,
    path: Path,
    events: Sequence[str],
    load: Callable[[str, npt.NDArray[Any]], None],
    rows: tuple[int, int | None],
    names: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    """Yield rows of a part with the fields `event_id` and `image`.

    Args:
        part: with these fields.
        path: of the input, for messages.
        events: their ids, in order.
        load: `load(event, image)` fills the image of an event.
        rows: the first, and the one after the last (None: to the end).
        names: of the fields asked for.
    """
    schema = asked(part, names, path)
    for first, last in steps(*rows, len(events), rows_per_batch(schema)):
        columns = {EVENT_ID: pa.array(events[first:last], pa.string())}
        if IMAGE in names:
            kind = schema.field(IMAGE).type
            images = np.empty((last - first, *kind.shape), kind.value_type.to_pandas_dtype())
            for event, image in zip(events[first:last], images, strict=True):
                load(event, image)
            columns[IMAGE] = to_arrow(images, kind)
        yield pa.record_batch([columns[name] for name in names], schema=schema)


def absent(kind: str, name: str, known: Iterable[str], where: object) -> InvalidConfig:
    """Return the error that says that a file has no such field, tree or dataset, with the nearest that it has."""
    known = list(known)
    return InvalidConfig(f"{where} has no {kind} '{name}'{did_you_mean(name, known)}, only: {listed(known)}")


def place(path: Path, part: str) -> str:
    """Return a part of a file as messages show it."""
    return f"{path}: {part}" if part else str(path)


def part_named(parts: Iterable[Part], name: str, path: Path) -> Part:
    """Return the part of that name.

    Raises:
        InvalidConfig: there is none.
    """
    by_name = {part.name: part for part in parts}
    if name not in by_name:
        raise absent("part", name, by_name, path)
    return by_name[name]


def not_empty(
    parts: Sequence[Part], path: Path, left_out: Mapping[str, LeftOut] | None = None
) -> tuple[Part, ...]:
    """Return the parts, once one is known to have rows, and every such one fields.

    Args:
        parts: of an input.
        path: of it.
        left_out: what it holds beside them, for the message when there is no part.

    Raises:
        NoEvents: none has events.
        UnreadableInput: there is no part, or one with events and without fields.
    """
    if not parts:
        others = "; ".join(f"'{name}': {why.reason}" for name, why in (left_out or {}).items())
        raise UnreadableInput(f"{path} has no table of numbers" + f", only {others}" * bool(others))
    for part in parts:
        if part.rows != 0 and not part.fields.names:
            raise UnreadableInput(
                f"{place(path, part.name)} has {part.rows} events and 0 fields that can be read"
            )
    if all(part.rows == 0 for part in parts):
        raise NoEvents(", ".join(f"{place(path, part.name)} has 0 events" for part in parts))
    return tuple(parts)
