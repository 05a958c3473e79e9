"""Readers of the file formats in which experiments keep their events, one module each.

A reader tells what tables of events a file holds and hands their rows out as Arrow record batches, with the
names and types of the file. What becomes of them (columns, labels, ids, selection) is `assemble`'s affair.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_origin

import pyarrow as pa

from hep_ray.config import Config, parse
from hep_ray.errors import UnknownName
from hep_ray.registry import Registry

BATCH_BYTES = 16 * 2**20
"""About as much as a reader holds of a file at a time, decoded."""
EVENT_SCHEMA = b"hep_ray.event_schema"
"""Key in the metadata of a part's fields: the schema of a dataset folder, in JSON."""


@dataclass(frozen=True)
class LeftOut:
    """Why a field of an input becomes no column unless somebody says so.

    Attributes:
        reason: such as `text, first cell 'mu' in line 2`.
        remedy: what to type, where there is something.
        refused: it is made of numbers that cannot be read as they stand: a conversion of all fields ends here.
    """

    reason: str
    remedy: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Part:
    """A table of events within an input: a tree, a dataset of one class, a folder of pictures.

    Attributes:
        name: of the tree, dataset or folder; empty when an input is one table.
        rows: number of events; None when only reading tells.
        fields: names and Arrow types of what every event has; lists of variable length are `pa.list_`,
            images and vectors `pa.fixed_shape_tensor`. A value may be null only where the field is nullable.
        left_out: fields that become no column of themselves, among them all those that are not read at all.
        whole: fields of floating-point type that are known to hold whole numbers only.
        wide: those of them that float32 does not hold exactly, such as 16777217.
    """

    name: str
    rows: int | None
    fields: pa.Schema
    left_out: Mapping[str, LeftOut] = default(default_factory=dict)
    whole: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Opened:
    """An input that was found to be in its format.

    Attributes:
        parts: its tables, in the order of the file.
        read: `read(part, start, stop, names)` yields the rows from `start` up to `stop` (None: to the end)
            of the fields of these names, in order, in batches of about `BATCH_BYTES`.
        companions: files that belong to the input and are read beside it, such as labels.
        cell: `cell(row, name)` shows where a value stands and how it is written, for messages.
        costly: to open it takes as long as to read it: workers are handed what was found, and do not look again.
    """

    parts: tuple[Part, ...]
    read: Callable[[Part, int, int | None, Sequence[str]], Iterator[pa.RecordBatch]]
    companions: tuple[Path, ...] = ()
    cell: Callable[[int, str], str] | None = None
    costly: bool = False


class Open(Protocol):
    """Opens one input of a format; it may be called again in another process to read another range."""

    def __call__(self, path: Path, options: Any, /) -> Opened:
        """Look into an input without reading its events.

        Raises:
            NoEvents: it is in this format and holds no events.
            UnreadableInput: it is absent, broken, or not in this format; so may `Opened.read`, naming file and row.
            InvalidConfig: the options do not suit the input.
        """
        ...


@dataclass(frozen=True)
class Reader:
    """A registered format.

    Args:
        name: of the format.
        options: class of its options.
        open: opens an input.
        seekable: whether a range of rows is reached without reading those before it.
        suffixes: endings of its files, in small letters and without that of a compression.
        takes_folders: whether a folder is one input; otherwise it stands for the files in it.
        guessed: whether the ending of a file tells the format; False for one layout among the files of an ending.
    """

    name: str
    options: type[Config]
    open: Open
    seekable: bool = True
    suffixes: tuple[str, ...] = ()
    takes_folders: bool = False
    guessed: bool = True

    @property
    def summary(self) -> str:
        """First line of the opening function's docstring, if it has one."""
        return (self.open.__doc__ or "").strip().partition("\n")[0]


class Readers(Registry[Reader]):
    """Readers by name; for the ending of a file in place of one it says who reads such files."""

    def __getitem__(self, name: str) -> Reader:
        """Return the reader of that name.

        Raises:
            UnknownName: none has it.
        """
        try:
            return super().__getitem__(name)
        except UnknownName as exc:
            ending = "." + str(name).strip(" *.").lower()
            readers = [f"'{one}'" for one in self if ending in map(str.lower, self._entries[one].suffixes)]
            if not readers:
                raise
            raise UnknownName(
                f"{exc}; files that end in {ending} are read by {' or '.join(readers)}"
            ) from None


READERS = Readers("reader", "hep_ray.conversion.readers")

F = TypeVar("F", bound=Open)


def reader(
    name: str,
    options: type[Config] = Config,
    *,
    seekable: bool = True,
    suffixes: tuple[str, ...] = (),
    takes_folders: bool = False,
    guessed: bool = True,
) -> Callable[[F], F]:
    """Register an opening function as a format."""

    def register(function: F) -> F:
        READERS.add(name, Reader(name, options, function, seekable, suffixes, takes_folders, guessed))
        return function

    return register


def parse_options(reader: Reader, options: Mapping[str, Any]) -> Config:
    """Return the options of a reader; a list may be a text with commas between its members, as `--set` gives it.

    Raises:
        InvalidConfig: an option is unknown or its value refused.
    """
    lists = {
        name for name, field in reader.options.model_fields.items() if get_origin(field.annotation) is tuple
    }
    values = {
        name: _members(value) if name in lists and isinstance(value, str) else value
        for name, value in options.items()
    }
    return parse(reader.options, values, f"options of the reader '{reader.name}'")


def _members(text: str) -> Sequence[str]:
    with contextlib.suppress(json.JSONDecodeError):
        if isinstance(found := json.loads(text), list):
            return found
    return [word.strip() for word in text.split(",")]
