"""Arrays side by side in a file (HDF5 datasets, npz members) as tables of events.

Arrays of one length in one folder are one table with a field per array; or every array is a table of its own,
such as the images of one class. The members of a compound dtype are fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.conversion.readers import BATCH_BYTES, LeftOut, Opened, Part
from hep_ray.conversion.readers.cells import text_left_out
from hep_ray.conversion.readers.fields import (
    absent,
    asked,
    field,
    is_number,
    is_text,
    item_dtype,
    not_empty,
    part_named,
    reading,
    row_bytes,
    rows_per_batch,
    steps,
    to_arrow,
)
from hep_ray.errors import InvalidConfig

LARGEST_CHUNK = 8 * BATCH_BYTES
"""A chunk of compressed rows up to this size is read whole, so that it is decompressed once."""

Member = tuple[str | None, np.dtype[Any], tuple[int, ...]]
"""A member of a compound dtype, None for a plain array; its dtype and shape in one event."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        name: of the array, with the folders that it lies in, divided by slashes.
        dtype: of its elements; may be compound.
        shape: (N, *shape of an event's value).
        chunk: rows that are compressed together.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk: int = 1

    @property
    def folder(self) -> str:
        """Path of the folder that it lies in."""
        return self.name.rpartition("/")[0]

    @property
    def own_name(self) -> str:
        """Its name within the folder."""
        return self.name.rpartition("/")[2]

    @property
    def readable(self) -> bool:
        """Whether there are rows, of numbers or of members that are numbers, none of them of size zero."""
        numbers = any(is_number(dtype) or item_dtype(dtype) is not None for _, dtype, _ in self.members)
        return bool(self.shape) and min(self.shape[1:], default=1) > 0 and numbers

    @property
    def is_text(self) -> bool:
        """Whether it is one text per event."""
        return len(self.shape) == 1 and is_text(self.dtype)

    @property
    def is_list(self) -> bool:
        """Whether it is one list of numbers per event, as HDF5 has them."""
        return len(self.shape) == 1 and item_dtype(self.dtype) is not None

    @property
    def members(self) -> list[Member]:
        """Readable parts: itself or members of its compound dtype, of numbers or of one text per event."""
        if self.dtype.names is None:
            return [(None, self.dtype, ())] if is_number(self.dtype) or self.is_text or self.is_list else []
        found = [(name, *_subarray(self.dtype[name])) for name in self.dtype.names]
        flat = len(self.shape) == 1
        return [one for one in found if is_number(one[1]) or (flat and not one[2] and is_text(one[1]))]

    def left_out(self, sample: Sample) -> Iterator[tuple[str, LeftOut]]:
        """Yield the array, or its members, that are not read, and why.

        Args:
            sample: the first rows of it, or of a member.
        """
        if not self.shape or min(self.shape) == 0:
            kind = f"of shape {self.shape}" if self.shape else "one value for all events"
            yield self.own_name, LeftOut(f"{kind} ({_kind(self.dtype)})")
            return
        read = {
            member
            for member, dtype, _ in self.members
            if is_number(dtype) or (member is None and self.is_list)
        }
        for member in self.dtype.names or (None,):
            if member in read:
                continue
            dtype, shape = (self.dtype, ()) if member is None else _subarray(self.dtype[member])
            kind = _kind(dtype)
            single_text = kind == "text" and not (*self.shape[1:], *shape)
            why = text_left_out(sample(self, member)) if single_text else LeftOut(kind)
            yield member or self.own_name, why


Sample = Callable[[StoredArray, str | None], Sequence[Any]]
"""`sample(array, member)`: the first texts of an array, or of the member of its compound dtype."""
Fetch = Callable[[StoredArray, Sequence[str], int, int], npt.NDArray[Any]]
"""`fetch(array, members, start, stop)`: rows of an array, compound with at least these members if it has any."""


def _kind(dtype: np.dtype[Any]) -> str:
    """Describe a dtype that is not read."""
    stated: Mapping[Any, Any] = dtype.metadata or {}
    inner = stated.get("vlen")
    if dtype.kind in "SUT" or inner in (str, bytes):
        return "text"
    if dtype.kind == "O":
        return f"lists of variable length of {inner}" if inner is not None else "objects"
    if dtype.kind in "mM":
        return f"times ({dtype})"
    return f"members within members ({', '.join(dtype.names)})" if dtype.names else f"values of type {dtype}"


def _subarray(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    return dtype.subdtype or (dtype, ())


@dataclass(frozen=True)
class ArrayTable:
    """A part, and for each of its fields the array and the member of its compound dtype that it comes from."""

    part: Part
    sources: dict[str, tuple[StoredArray, str | None]]


def array_named(kind: str, name: str, found: Mapping[str, StoredArray], path: Path) -> StoredArray:
    """Return the array of that name, which the user chose.

    Raises:
        InvalidConfig: there is none, or it holds neither numbers nor texts.
    """
    if (array := found.get(name) or found.get(name.strip("/"))) is None:
        raise absent(kind, name, found, path)
    if not (array.readable or array.is_text):
        raise InvalidConfig(
            f"{path}: {name} has no rows of numbers: it is {array.dtype} of shape {array.shape}"
        )
    return array


def with_texts(arrays: Sequence[StoredArray], found: Iterable[StoredArray]) -> list[StoredArray]:
    """Return arrays of a table, and texts beside them in the same folder that are as many."""
    shared = {(array.folder, array.shape[0]) for array in arrays}
    texts = [one for one in found if one.is_text and (one.folder, one.shape[0]) in shared]
    return [*arrays, *(one for one in texts if one not in arrays)]


def table_of(
    name: str,
    arrays: Sequence[StoredArray],
    path: Path,
    field_name: str = "",
    left_out: Mapping[str, LeftOut] | None = None,
    options: tuple[str, str] = ("datasets", "part_per_dataset"),
) -> ArrayTable:
    """Return arrays of one length as one table.

    Args:
        name: of the part.
        arrays: of it.
        path: of the file, for messages.
        field_name: what the field of a plain array is called; its own name unless given. Members that two arrays
            have in common are called `<array>_<member>`.
        left_out: what belongs to the table and is not read.
        options: of the reader: which arrays, and each as a part, for messages.

    Raises:
        InvalidConfig: the lengths differ, or two fields would have one name.
    """
    lengths = {array.name: array.shape[0] for array in arrays}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        length = Counter(lengths.values()).most_common(1)[0][0]
        together = ",".join(one for one, rows in lengths.items() if rows == length)
        names, parts = options
        raise InvalidConfig(
            f"the arrays of {path} differ in length, so they are no one table: {listed}: name those that belong "
            f"together, such as --set {names}={together}, or take each as the part of its class, --set {parts}=true"
        )
    named = [
        (array, member, field(member or field_name or array.own_name, dtype, (*array.shape[1:], *shape)))
        for array in arrays
        for member, dtype, shape in array.members
    ]
    uses = Counter(item.name for _, _, item in named)
    fields: dict[str, pa.Field] = {}
    sources: dict[str, tuple[StoredArray, str | None]] = {}
    for array, member, item in named:
        shared = uses[item.name] > 1 and member is not None
        key = f"{array.own_name}_{member}" if shared else item.name
        if key in sources:
            raise InvalidConfig(f"{path} has two fields '{key}' in one table: give fields distinct names")
        fields[key], sources[key] = item.with_name(key), (array, member)
    others = {
        key: why
        for key, why in (left_out or {}).items()
        if key not in fields or pa.types.is_string(fields[key].type)
    }
    return ArrayTable(Part(name, arrays[0].shape[0], pa.schema(fields.values()), others), sources)


def opened(
    tables: Sequence[ArrayTable],
    path: Path,
    left_out: Mapping[str, LeftOut],
    fetching: Callable[[], AbstractContextManager[Fetch]],
) -> Opened:
    """Return an input of tables, whose rows come from what `fetching` hands out for the time of a reading.

    Raises:
        NoEvents: none has events.
        UnreadableInput: there is no table.
    """
    parts = not_empty([table.part for table in tables], path, left_out)

    def read(part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        table = tables[parts.index(part_named(parts, part.name, path))]
        with fetching() as fetch:
            yield from _read_table(table, start, stop, names, path, fetch)

    return Opened(parts, read)


def _read_table(
    table: ArrayTable, start: int, stop: int | None, names: Sequence[str], path: Path, fetch: Fetch
) -> Iterator[pa.RecordBatch]:
    """Yield rows of a table in batches that end where chunks do."""
    schema = asked(table.part, names, path)
    members: dict[StoredArray, list[str]] = {}
    for name in names:
        array, member = table.sources[name]
        members.setdefault(array, []).extend([member] if member else [])
    step, chunk = rows_per_batch(schema), max(array.chunk for array in members)
    if step < chunk and chunk * row_bytes(schema) <= LARGEST_CHUNK:
        step = chunk
    for first, last in steps(start, stop, table.part.rows or 0, step, chunk):
        fetched = {array: fetch(array, wanted, first, last) for array, wanted in members.items()}
        columns = []
        for item in schema:
            array, member = table.sources[item.name]
            values = fetched[array][member] if member else fetched[array]
            with reading(f"{path}: {array.name}, rows {first} to {last - 1}, as UTF-8 text", ValueError):
                columns.append(to_arrow(values, item.type))
        yield pa.record_batch(columns, schema=schema)
