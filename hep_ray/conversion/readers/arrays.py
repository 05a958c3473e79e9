"""Arrays side by side in a file (HDF5 datasets, npz members) as tables of events.

Arrays of one length in one folder are one table with a field per array; or every array is a table of its own,
such as the images of one class. The members of a compound dtype are fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.conversion.readers import BATCH_BYTES, LeftOut, Part
from hep_ray.conversion.readers.cells import text_left_out
from hep_ray.conversion.readers.fields import (
    asked,
    field,
    is_number,
    is_text,
    row_bytes,
    rows_per_batch,
    steps,
    to_arrow,
)
from hep_ray.errors import InvalidConfig, UnreadableInput

LARGEST_CHUNK = 8 * BATCH_BYTES
"""A chunk of compressed rows up to this size is read whole, so that it is decompressed once."""


@dataclass(frozen=True)
class Stored:
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
    def readable(self) -> bool:
        """Whether there are rows, of numbers or of members that are numbers, none of them of size zero."""
        numbers = any(is_number(dtype) for _, dtype, _ in self._members())
        return bool(self.shape) and min(self.shape[1:], default=1) > 0 and numbers

    @property
    def is_text(self) -> bool:
        """Whether it is one text per event."""
        return len(self.shape) == 1 and is_text(self.dtype)

    def left_out(self, sample: Sample) -> Iterator[tuple[str, LeftOut]]:
        """The array, or its members, that are not read, and why.

        Args:
            sample: the first rows of it, or of a member.
        """
        name = self.name.rpartition("/")[2]
        if not self.shape or min(self.shape) == 0:
            kind = f"of shape {self.shape}" if self.shape else "one value for all events"
            yield name, LeftOut(f"{kind} ({_kind(self.dtype)})")
            return
        read = {member for member, dtype, _ in self._members() if is_number(dtype)}
        for member in self.dtype.names or (None,):
            if member in read:
                continue
            dtype, shape = (self.dtype, ()) if member is None else _subarray(self.dtype[member])
            kind = _kind(dtype)
            if kind == "text" and not (*self.shape[1:], *shape):
                yield member or name, text_left_out(sample(self, member))
            else:
                yield member or name, LeftOut(kind)

    def fields(self, name: str) -> list[tuple[pa.Field, str | None]]:
        """Fields with the member that each is, None for the array itself, which is called `name`."""
        return [
            (field(member or name, dtype, (*self.shape[1:], *shape)), member)
            for member, dtype, shape in self._members()
        ]

    def _members(self) -> list[tuple[str | None, np.dtype[Any], tuple[int, ...]]]:
        if self.dtype.names is None:
            return [(None, self.dtype, ())] if is_number(self.dtype) or self.is_text else []
        members = [(name, *_subarray(self.dtype[name])) for name in self.dtype.names]
        flat = len(self.shape) == 1
        return [
            member
            for member in members
            if is_number(member[1]) or (flat and not member[2] and is_text(member[1]))
        ]


Sample = Callable[[Stored, str | None], Sequence[Any]]
"""`sample(array, member)`: the first texts of an array, or of the member of its compound dtype."""


def _kind(dtype: np.dtype[Any]) -> str:
    """What a dtype is that is not read."""
    stated: Mapping[Any, Any] = dtype.metadata or {}
    inner = stated.get("vlen")
    if dtype.kind in "SUT" or inner in (str, bytes):
        return "text"
    if dtype.kind == "O":
        return f"lists of variable length of {inner}" if inner is not None else "objects"
    if dtype.kind in "mM":
        return f"times ({dtype})"
    return f"members within members ({', '.join(dtype.names)})" if dtype.names else f"values of type {dtype}"


def _is_text(source: Source) -> bool:
    dtype = source.array.dtype
    return is_text(dtype if source.member is None else dtype[source.member])


def _subarray(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    return dtype.subdtype or (dtype, ())


@dataclass(frozen=True)
class Source:
    """Where a field comes from: an array, and the member of its compound dtype if it has one."""

    array: Stored
    member: str | None


@dataclass(frozen=True)
class Table:
    """A part, and where each of its fields comes from."""

    part: Part
    sources: dict[str, Source]


def with_texts(arrays: Sequence[Stored], found: Iterable[Stored]) -> list[Stored]:
    """Arrays of a table, and texts beside them in the same folder that are as many."""
    shared = {(array.name.rpartition("/")[0], array.shape[0]) for array in arrays}
    texts = [one for one in found if one.is_text and (one.name.rpartition("/")[0], one.shape[0]) in shared]
    return [*arrays, *(one for one in texts if one not in arrays)]


def table_of(
    name: str,
    arrays: Sequence[Stored],
    path: Path,
    field_name: str = "",
    left_out: Mapping[str, LeftOut] | None = None,
    options: tuple[str, str] = ("datasets", "part_per_dataset"),
) -> Table:
    """Arrays of one length as one table.

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
            f"the arrays of a table have one length; in {path} they have {listed}: name those that belong "
            f"together, such as --set {names}={together}, or take each as the part of its class, --set {parts}=true"
        )
    named = [
        (array, arrow_field, member)
        for array in arrays
        for arrow_field, member in array.fields(field_name or array.name.rpartition("/")[2])
    ]
    uses = Counter(arrow_field.name for _, arrow_field, _ in named)
    fields, sources = [], {}
    for array, arrow_field, member in named:
        if uses[arrow_field.name] > 1 and member is not None:
            arrow_field = arrow_field.with_name(f"{array.name.rpartition('/')[2]}_{member}")  # noqa: PLW2901
        if arrow_field.name in sources:
            raise InvalidConfig(
                f"a table's fields have distinct names; {path} has '{arrow_field.name}' twice"
            )
        fields.append(arrow_field)
        sources[arrow_field.name] = Source(array, member)
    others = {
        key: why for key, why in (left_out or {}).items() if key not in sources or _is_text(sources[key])
    }
    return Table(Part(name, arrays[0].shape[0], pa.schema(fields), others), sources)


Fetch = Callable[[Stored, Sequence[str], int, int], npt.NDArray[Any]]
"""`fetch(array, members, start, stop)`: rows of an array, compound with at least these members if it has any."""


def read_table(
    table: Table, start: int, stop: int | None, names: Sequence[str], path: Path, fetch: Fetch
) -> Iterator[pa.RecordBatch]:
    """Rows of a table in batches that end where chunks do.

    Raises:
        InvalidConfig: a name is not a field's.
    """
    schema = asked(table.part, names, path)
    members: dict[Stored, list[str]] = {}
    for name in names:
        source = table.sources[name]
        members.setdefault(source.array, []).extend([source.member] if source.member else [])
    step, chunk = rows_per_batch(schema), max(array.chunk for array in members)
    if step < chunk and chunk * row_bytes(schema) <= LARGEST_CHUNK:
        step = chunk
    for first, last in steps(start, stop, table.part.rows or 0, step, chunk):
        fetched = {array: fetch(array, wanted, first, last) for array, wanted in members.items()}
        columns = []
        for arrow_field in schema:
            source = table.sources[arrow_field.name]
            values = fetched[source.array]
            try:
                columns.append(to_arrow(values[source.member] if source.member else values, arrow_field.type))
            except ValueError as fault:
                raise UnreadableInput(
                    f"texts are UTF-8; {path}: {source.array.name}, rows {first} to {last - 1}: {fault}"
                ) from None
        yield pa.record_batch(columns, schema=schema)
