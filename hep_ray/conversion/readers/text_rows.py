"""The rows of text files: batches of typed columns, and the line and cell of a fault."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from hep_ray.conversion.readers import LeftOut
from hep_ray.conversion.readers.cells import MISSING, Cells, numbers, truths
from hep_ray.errors import InvalidEvents, UnreadableInput

BLOCK_BYTES = 4 * 2**20
LABEL_VALUE = "label_value"
SPACES = " "
GZIP = b"\x1f\x8b"
LONGEST_LINE = 2**20
"""Bytes of a line, at most."""


@contextmanager
def opened(path: Path, *, squeezed: bool = False) -> Iterator[Any]:
    """The bytes of a file, decompressed if they start as gzip does.

    Args:
        path: of the file.
        squeezed: runs of spaces and tabs become one space, and none is left at the ends of lines.

    Raises:
        UnreadableInput: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            compression = "gzip" if file.read(len(GZIP)) == GZIP else None
        stream = pa.input_stream(str(path), compression=compression)
    except OSError as fault:
        raise UnreadableInput(f"an input is a readable file; {path}: {fault}") from None
    with stream:
        yield io.BufferedReader(_Squeezed(stream), LONGEST_LINE) if squeezed else stream


class _Squeezed(io.RawIOBase):
    """A stream with single spaces between cells and none around lines."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._partial = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._stream.read(LONGEST_LINE)
            lines = self._partial + block
            end = lines.rfind(b"\n") + 1 if block else len(lines)
            self._partial = lines[end:]
            self._ready = memoryview(_squeeze(lines[:end]))
            if not block:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _squeeze(lines: bytes) -> bytes:
    lines = lines.replace(b"\t", b" ")
    while b"  " in lines:
        lines = lines.replace(b"  ", b" ")
    return lines.replace(b" \r", b"\r").replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")


@dataclass(frozen=True)
class Head:
    """What the first lines tell: where the events start, and how the columns are called.

    Attributes:
        path: of the file.
        delimiter: between cells.
        skipped: lines before the first event.
        names: of the columns.
        unnamed: whether the first column alone has no name, as pandas writes its index.
        other: columns that are no plain numbers in the first rows.
    """

    path: Path
    delimiter: str
    skipped: int
    names: tuple[str, ...]
    unnamed: bool
    other: tuple[str, ...]


@dataclass(frozen=True)
class Layout(Head):
    """The same, with the types of the columns, which all rows tell."""

    types: Types


def rows_of(
    head: Head, types: Mapping[str, pa.DataType], names: Sequence[str], decimal: str
) -> Iterator[pa.RecordBatch]:
    """All rows of these columns, each of its type; Arrow's and the system's errors are passed on."""
    with opened(head.path, squeezed=head.delimiter == SPACES) as stream:
        yield from pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(
                column_names=list(head.names), skip_rows=head.skipped, block_size=BLOCK_BYTES
            ),
            parse_options=pacsv.ParseOptions(delimiter=head.delimiter),
            convert_options=pacsv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(names),
                null_values=list(MISSING),
                decimal_point=decimal,
            ),
        )


def batches_of(layout: Layout, names: Sequence[str], stop: int | None) -> Iterator[pa.RecordBatch]:
    """The rows from the first up to `stop`, of these columns."""
    rows, fields = 0, layout.types.fields
    schema = pa.schema([fields.field(name) for name in names])
    types = {
        name: pa.string() if name in layout.types.as_written else fields.field(name).type for name in names
    }
    try:
        for batch in rows_of(layout, types, names, layout.types.decimal):
            columns = [_converted(batch.column(item.name), item.type, layout) for item in schema]
            whole = pa.record_batch(columns, schema=schema)
            yield whole if stop is None else whole.slice(0, max(0, stop - rows))
            rows += batch.num_rows
            if stop is not None and rows >= stop:
                return
    except pa.ArrowInvalid as fault:
        numbers = {name: layout.types.decimal for name in names if schema.field(name).type == pa.float64()}
        raise fault_of(layout, numbers, fault) from None
    except OSError as fault:
        raise UnreadableInput(
            f"a text file is whole and readable; {layout.path}, after row {rows}: {fault}"
        ) from None


def _converted(values: pa.Array, kind: pa.DataType, layout: Layout) -> pa.Array:
    if values.type == kind:
        return values
    return truths(values) if kind == pa.bool_() else numbers(values, layout.types.decimal)


def _lines(head: Head) -> Iterator[tuple[int, list[str]]]:
    """Numbers of the lines that hold events, from 1, and their cells."""
    with opened(head.path, squeezed=head.delimiter == SPACES) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace")
        for number, line in enumerate(text, 1):
            if number > head.skipped and line.strip():
                yield number, cells_of(line, head.delimiter, f"{head.path}:{number}")


def line_of(head: Head, row: int) -> tuple[int, list[str]]:
    """Number of a row's line, from 1, and its cells."""
    return next(itertools.islice(_lines(head), row, None), (head.skipped + row + 1, []))


def shown(head: Head, row: int, column: int) -> str:
    """A cell for messages, such as `events.csv:58 ('NA')`."""
    number, cells = line_of(head, row)
    return f"{head.path}:{number} ({cells[column]!r})" if column < len(cells) else f"{head.path}:{number}"


def fault_of(head: Head, numbers: Mapping[str, str], fault: Exception) -> InvalidEvents:
    """Finds the line that Arrow refused; `numbers` has the columns of numbers and their decimal mark."""
    width = len(head.names)
    for number, cells in _lines(head):
        where = f"{head.path}:{number}"
        if len(cells) != width:
            comment = (
                ": comments are no part of a table: take them out, as by `grep -v '^#'`, and leave the names"
            )
            return InvalidEvents(
                f"every row has {width} cells; {where} has {len(cells)}"
                + comment * any(cell.lstrip().startswith("#") for cell in (*head.names[:1], *cells[:1]))
            )
        for name, decimal in numbers.items():
            cell = cells[head.names.index(name)]
            if not Cells.of([cell]).are_numbers(decimal):
                return InvalidEvents(
                    f"column '{name}' holds numbers, as in most of its rows; {where} has {cell!r}"
                )
    return InvalidEvents(f"the rows of a text file can be parsed; {head.path}: {fault}")


def beside(
    batches: Iterator[pa.RecordBatch], labels: Iterator[pa.RecordBatch], path: Path, label_path: Path
) -> Iterator[pa.RecordBatch]:
    """Rows of two files side by side."""
    held = pa.table({LABEL_VALUE: next(labels, pa.record_batch({})).column(0)})
    rows = 0
    for batch in batches:
        while held.num_rows < batch.num_rows and (more := next(labels, None)) is not None:
            held = pa.concat_tables([held, pa.table({LABEL_VALUE: more.column(0)})])
        rows += min(batch.num_rows, held.num_rows)
        if held.num_rows < batch.num_rows:
            raise InvalidEvents(
                f"a label file has one value per event; {label_path} has {rows}, {path} has more"
            )
        values = held.slice(0, batch.num_rows).combine_chunks().column(0)
        yield batch.append_column(
            LABEL_VALUE, values.chunk(0) if values.num_chunks else values.combine_chunks()
        )
        held = held.slice(batch.num_rows)
    if held.num_rows or next(labels, None) is not None:
        raise InvalidEvents(f"a label file has one value per event; {path} has {rows}, {label_path} has more")


def cells_of(line: str, delimiter: str, where: str) -> list[str]:
    """The cells of a line.

    Raises:
        InvalidEvents: it cannot be divided.
    """
    if delimiter == SPACES:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter), [""])
    except csv.Error as fault:
        raise InvalidEvents(f"a line of text has cells; {where}: {fault}") from None


Read = Callable[[Mapping[str, pa.DataType], str], Iterator[pa.RecordBatch]]
"""`read(types, decimal)`: all rows, every column as float64, null where a value is missing, or as binary."""

_BAD_COLUMN = re.compile(r"In CSV column #(\d+):")


@dataclass(frozen=True)
class Types:
    """Of the columns of a file.

    Attributes:
        fields: names and types; nullable where a value is missing.
        decimal: the mark of decimals.
        as_written: columns whose cells Arrow does not take for what they are.
        left_out: columns that become no feature of themselves.
        whole: columns of numbers that are whole.
    """

    fields: pa.Schema
    decimal: str
    as_written: frozenset[str]
    left_out: Mapping[str, LeftOut]
    whole: frozenset[str]


@dataclass
class _Numbers:
    missing: bool = False
    whole: bool = True

    def add(self, values: pa.Array) -> None:
        self.missing |= values.null_count > 0
        if self.whole:
            numbers: Any = values.drop_null().to_numpy(zero_copy_only=False)
            with np.errstate(invalid="ignore"):
                self.whole = bool((numbers == np.floor(numbers)).all())


@dataclass
class _Scan:
    numbers: dict[str, _Numbers] = field(default_factory=dict)
    cells: dict[str, Cells] = field(default_factory=dict)


def types_of(
    read: Read,
    names: Sequence[str],
    other: Sequence[str],
    decimal: str | None,
    delimiter: str,
    place: Callable[[int], str],
) -> Types:
    """Types of the columns, from every row; none is held longer than its batch.

    A comma is the decimal mark where it is stated, or where semicolons divide the cells and no number has a point.

    Args:
        read: the rows, from the first.
        names: of all columns.
        other: columns that are known to be no plain numbers.
        decimal: the mark, if it is stated.
        delimiter: between cells.
        place: shows a row, such as `line 2`.

    Raises:
        pa.ArrowInvalid: the rows cannot be parsed.
    """
    mark = decimal or "."
    scan = _scanned(read, names, set(other), mark)
    commas = any(cells.has("comma") and cells.are_numbers(",") for cells in scan.cells.values())
    if decimal is None and delimiter == ";" and commas and not _pointed(scan):
        mark = ","
    fields, left_out, whole, as_written = [], {}, set(), set()
    for name in names:
        if name in scan.numbers:
            one = scan.numbers[name]
            kind, missing = pa.float64(), one.missing
            if one.whole:
                whole.add(name)
        else:
            cells = scan.cells[name]
            kind, missing = _type(cells, mark), cells.has("missing")
            if (reason := cells.left_out(mark, place)) is not None:
                left_out[name] = reason
            if kind != pa.string():
                as_written.add(name)
            if cells.whole:
                whole.add(name)
        fields.append(pa.field(name, kind, nullable=missing and kind != pa.string()))
    return Types(pa.schema(fields), mark, frozenset(as_written), left_out, frozenset(whole))


def _type(cells: Cells, decimal: str) -> pa.DataType:
    if cells.are_truths:
        return pa.bool_()
    number = cells.are_numbers(decimal) or cells.are_mostly_numbers(decimal)
    return pa.float64() if number else pa.string()


def _pointed(scan: _Scan) -> bool:
    fractions = any(not one.whole for one in scan.numbers.values())
    return fractions or any(cells.has("pointed") for cells in scan.cells.values())


def _scanned(read: Read, names: Sequence[str], other: set[str], decimal: str) -> _Scan:
    """One pass; it starts again when a column turns out to be no plain numbers."""
    while True:
        scan = _Scan(
            {name: _Numbers() for name in names if name not in other},
            {name: Cells() for name in names if name in other},
        )
        row = 0
        try:
            types = {name: pa.binary() if name in other else pa.float64() for name in names}
            for batch in read(types, decimal):
                for name, numbers in scan.numbers.items():
                    numbers.add(batch.column(name))
                for name, cells in scan.cells.items():
                    cells.add(batch.column(name), row)
                row += batch.num_rows
        except pa.ArrowInvalid as fault:
            found = _BAD_COLUMN.search(str(fault))
            bad = names[int(found.group(1))] if found and int(found.group(1)) < len(names) else None
            if bad is None or bad in other:
                raise
            other = {*other, bad}
        else:
            return scan
