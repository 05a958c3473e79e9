"""The rows of text files: streams of bytes, the types that all rows tell, and the line and cell of a fault."""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from hep_ray.conversion.readers import LeftOut
from hep_ray.conversion.readers.cells import MISSING, CellKinds, numbers, truths
from hep_ray.conversion.readers.fields import reading
from hep_ray.errors import InvalidEvents

BLOCK_BYTES = 4 * 2**20
"""About as many bytes of whole lines are parsed together."""
AT_A_TIME = 2
"""Ranges of lines that are parsed side by side when a file is looked through for its types."""
LABEL_VALUE = "label_value"
SPACES = " "
QUOTE = b'"'
GZIP = b"\x1f\x8b"
LONGEST_LINE = 2**20
"""Bytes of a line, at most."""
COMMENTS = "take comments out of the table, as by `grep -v '^#'`, and leave the names"

_LINE_END = re.compile(b"\r\n|\r|\n")
_BAD_COLUMN = re.compile(r"In CSV column #(\d+):")


@dataclass(frozen=True)
class TextHead:
    """Layout that the first lines tell: where the events start, and how the columns are called.

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
class TextLayout(TextHead):
    """The same, with what all rows tell of the columns.

    Attributes:
        fields: names and types; nullable where a value is missing.
        decimal: the mark of decimals.
        as_written: columns whose cells Arrow does not take for what they are.
        left_out: columns that become no feature of themselves.
        whole: columns of numbers that are whole.
        wide: those of them that float32 does not hold exactly.
        spans: where each range of whole lines begins in the file, how many bytes it has, and how many rows; none
            for a compressed file, which is read from its start.
    """

    fields: pa.Schema
    decimal: str
    as_written: frozenset[str]
    left_out: Mapping[str, LeftOut]
    whole: frozenset[str]
    wide: frozenset[str]
    spans: tuple[tuple[int, int, int], ...]

    @property
    def rows(self) -> int | None:
        """How many there are; None for a compressed file."""
        return sum(rows for _, _, rows in self.spans) if self.spans else None


@contextmanager
def open_text_stream(path: Path, *, squeezed: bool = False) -> Iterator[Any]:
    """Open a file as a stream of bytes, decompressed if they start as gzip does.

    Args:
        path: of the file.
        squeezed: runs of spaces and tabs become one space, and none is left at the ends of lines.

    Raises:
        UnreadableInput: the file cannot be opened.
    """
    with reading(path, OSError):
        with path.open("rb") as file:
            compression = "gzip" if file.read(len(GZIP)) == GZIP else None
        stream = pa.input_stream(str(path), compression=compression)
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


def cells_of(line: str, delimiter: str, where: str) -> list[str]:
    """Divide a line into its cells.

    Raises:
        InvalidEvents: it cannot be divided.
    """
    if delimiter == SPACES:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter), [""])
    except csv.Error as exc:
        raise InvalidEvents(f"{where} cannot be divided into cells: {exc}") from None


EXACT = 2**53
"""Whole numbers from which on float64 does not hold each."""


class _Numbers:
    """Whether values are missing from a column of plain numbers, are whole, and fit float32 and float64."""

    def __init__(self) -> None:
        self.missing, self.whole, self.narrow, self.exact = False, True, True, True

    def add(self, values: pa.Array, _row: int) -> None:
        self.missing |= values.null_count > 0
        if self.whole:
            found: Any = values.drop_null().to_numpy(zero_copy_only=False)
            with np.errstate(invalid="ignore", over="ignore"):
                self.whole = bool((found == np.floor(found)).all())
                self.narrow &= bool((found == found.astype(np.float32)).all())
                self.exact &= bool((np.abs(found) < EXACT).all())


def with_types(head: TextHead, decimal: str | None) -> TextLayout:
    """Add the types of the columns, which every row decides; no row is held longer than its batch.

    A comma is the decimal mark where it is stated, or where semicolons divide the cells, no number has a point, and
    not every comma stands as one between thousands does, `1,234`.

    Args:
        head: of the file.
        decimal: the mark, if it is stated.

    Raises:
        InvalidEvents: the rows cannot be parsed.
        UnreadableInput: the file is broken.
    """
    with reading(head.path, OSError):
        columns, spans = _scanned(head, decimal or ".")
    texts = [one for one in columns.values() if isinstance(one, CellKinds)]
    mark = decimal or "."
    if decimal is None and head.delimiter == ";" and any(one.has("comma") for one in texts):
        commas = any(one.has("comma") and one.are_numbers(",") for one in texts)
        pointed = any(
            one.has("pointed") if isinstance(one, CellKinds) else not one.whole for one in columns.values()
        )
        mark = "," if commas and not pointed else "."
    fields, left_out, as_written = [], {}, set()
    large = _integers(
        head,
        [name for name, one in columns.items() if isinstance(one, _Numbers) and one.whole and not one.exact],
    )
    for name, one in columns.items():
        kind, missing = large.get(name, pa.float64()), isinstance(one, _Numbers) and one.missing
        if isinstance(one, CellKinds):
            number = one.are_numbers(mark) or one.are_mostly_numbers(mark)
            kind = pa.bool_() if one.are_truths else kind if number else pa.string()
            missing = one.has("missing") and kind != pa.string()
            if reason := one.left_out(mark, lambda row: f"{head.path}:{_line_of(head, row)[0]}"):
                left_out[name] = reason
            if kind != pa.string():
                as_written.add(name)
        fields.append(pa.field(name, kind, nullable=missing))
    whole = frozenset(name for name, one in columns.items() if one.whole)
    return TextLayout(
        **vars(head),
        fields=pa.schema(fields),
        decimal=mark,
        as_written=frozenset(as_written),
        left_out=left_out,
        whole=whole,
        wide=frozenset(name for name in whole if not columns[name].narrow),
        spans=spans,
    )


def _integers(head: TextHead, names: Sequence[str]) -> dict[str, pa.DataType]:
    """Return the type of integers that holds each of these columns as it is written; none of one such as 1e20."""
    kinds = {}
    for name in names:
        for kind in (pa.int64(), pa.uint64()):
            with suppress(pa.ArrowInvalid), reading(head.path, OSError):
                for _ in _rows(head, {name: kind}, [name], "."):
                    pass
                kinds[name] = kind
                break
    return kinds


Spans = tuple[tuple[int, int, int], ...]


def _scanned(head: TextHead, decimal: str) -> tuple[dict[str, _Numbers | CellKinds], Spans]:
    """Look at every cell, once; again from the start when a column turns out to be no plain numbers.

    Returns:
        What the columns hold, and the spans of a file that is not compressed with the rows of each.
    """
    other = set(head.other)
    ranges = None if _compressed(head.path) else tuple(_line_ranges(head.path))
    while True:
        columns: dict[str, _Numbers | CellKinds] = {
            name: CellKinds() if name in other else _Numbers() for name in head.names
        }
        types = {name: pa.binary() if name in other else pa.float64() for name in head.names}
        spans, row = [], 0
        try:
            for place, batches in enumerate(_parts(head, types, decimal, ranges)):
                begin = row
                for batch in batches:
                    for name, column in columns.items():
                        column.add(batch.column(name), row)
                    row += batch.num_rows
                spans += [(*ranges[place], row - begin)] if ranges else []
        except pa.ArrowInvalid as exc:
            found = _BAD_COLUMN.search(str(exc))
            bad = head.names[int(found.group(1))] if found and int(found.group(1)) < len(head.names) else None
            if bad is None or bad in other:
                raise _fault_of(head, {}, exc) from None
            other.add(bad)
        else:
            return columns, tuple(spans)


def _parts(
    head: TextHead,
    types: Mapping[str, pa.DataType],
    decimal: str,
    ranges: Sequence[tuple[int, int]] | None,
) -> Iterator[Iterable[pa.RecordBatch]]:
    """Yield the rows of all columns, range by range in their order; several ranges are parsed side by side."""
    if ranges is None:
        yield _rows(head, types, head.names, decimal)
        return
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        pending: deque[Future[list[pa.RecordBatch]]] = deque()
        for offset, size in ranges:
            pending.append(pool.submit(_rows_of_range, head, types, head.names, decimal, (offset, size)))
            if len(pending) > AT_A_TIME:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _line_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Yield where ranges of whole lines begin in a file, and their bytes: about `BLOCK_BYTES` each.

    No cell holds a line end: Arrow refuses rows that are so divided.
    """
    begin, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while begin < size:
            file.seek(begin + BLOCK_BYTES)
            file.readline()
            end = min(file.tell(), size)
            yield begin, end - begin
            begin = end


def _rows(
    head: TextHead, types: Mapping[str, pa.DataType], names: Iterable[str], decimal: str
) -> Iterator[pa.RecordBatch]:
    """Yield all rows of these columns, each of its type; Arrow's and the system's errors are passed on."""
    with open_text_stream(head.path, squeezed=head.delimiter == SPACES) as stream:
        yield from pacsv.open_csv(stream, **_csv_options(head, types, names, decimal, head.skipped))


def _rows_of_range(
    head: TextHead,
    types: Mapping[str, pa.DataType],
    names: Iterable[str],
    decimal: str,
    span: tuple[int, int],
) -> list[pa.RecordBatch]:
    """Return the rows of a range of whole lines; Arrow's and the system's errors are passed on."""
    offset, size = span
    with head.path.open("rb") as file:
        file.seek(offset)
        lines = file.read(size)
    if head.delimiter == SPACES:
        lines = _squeeze(lines)
    if not lines.strip():
        return []
    options = _csv_options(head, types, names, decimal, 0 if offset else head.skipped)
    options["read_options"].use_threads = False
    found: list[pa.RecordBatch] = pacsv.read_csv(pa.BufferReader(lines), **options).to_batches()
    if lines.count(QUOTE) % 2:
        _refuse_swallowed(head, lines, offset, sum(batch.num_rows for batch in found))
    return found


def _refuse_swallowed(head: TextHead, lines: bytes, offset: int, rows: int) -> None:
    """Refuse a quotation mark that begins a cell and that none ends: Arrow takes the lines after it for the cell's."""
    divided = _LINE_END.split(lines)
    begin = 0 if offset else head.skipped
    told = [number for number in range(begin, len(divided)) if divided[number].strip()]
    if rows >= len(told):
        return
    first = next(number for number in told if divided[number].count(QUOTE) % 2)
    with head.path.open("rb") as file:
        before = len(_LINE_END.findall(file.read(offset)))
    raise InvalidEvents(
        f"{head.path}:{before + first + 1} has a quotation mark that nothing ends, and {len(told) - rows} rows after "
        "it would be lost in its cell: take it out, or double it in a cell that is quoted"
    )


def _csv_options(
    head: TextHead, types: Mapping[str, pa.DataType], names: Iterable[str], decimal: str, skipped: int
) -> dict[str, Any]:
    return {
        "read_options": pacsv.ReadOptions(
            column_names=list(head.names), skip_rows=skipped, block_size=2 * BLOCK_BYTES
        ),
        "parse_options": pacsv.ParseOptions(delimiter=head.delimiter),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict(types),
            include_columns=list(names),
            null_values=list(MISSING),
            decimal_point=decimal,
        ),
    }


def batches_of(
    layout: TextLayout, names: Sequence[str], start: int, stop: int | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows from `start` up to `stop`, of these columns; only their lines are read, unless compressed.

    Raises:
        InvalidEvents: a row has another number of cells, or a cell is no number.
        UnreadableInput: the file is broken; the row is named.
    """
    schema = pa.schema([layout.fields.field(name) for name in names])
    types = {item.name: pa.string() if item.name in layout.as_written else item.type for item in schema}
    batches, row = _from(layout, types, names, start)
    while stop is None or row < stop:
        try:
            with reading(f"{layout.path}, after row {row}", OSError):
                batch = next(batches, None)
            if batch is None:
                return
            wanted = batch.slice(max(0, start - row))
            wanted = wanted if stop is None else wanted.slice(0, stop - max(start, row))
            columns = [_converted(wanted.column(item.name), item.type, layout) for item in schema]
        except pa.ArrowInvalid as exc:
            marks = {item.name: layout.decimal for item in schema if item.type == pa.float64()}
            raise _fault_of(layout, marks, exc) from None
        row += batch.num_rows
        if wanted.num_rows:
            yield pa.record_batch(columns, schema=schema)


def _from(
    layout: TextLayout, types: Mapping[str, pa.DataType], names: Sequence[str], start: int
) -> tuple[Iterator[pa.RecordBatch], int]:
    """Return batches from the range of lines that holds row `start` on, and the number of their first row."""
    if not layout.spans:
        return _rows(layout, types, names, layout.decimal), 0
    ends = list(itertools.accumulate(rows for _, _, rows in layout.spans))
    first = bisect.bisect_right(ends, start)
    ranges = (
        _rows_of_range(layout, types, names, layout.decimal, (offset, size))
        for offset, size, _ in layout.spans[first:]
    )
    return itertools.chain.from_iterable(ranges), ends[first - 1] if first else 0


def _converted(values: pa.Array, kind: pa.DataType, layout: TextLayout) -> pa.Array:
    if values.type == kind:
        return values
    return truths(values) if kind == pa.bool_() else numbers(values, layout.decimal)


def _lines(head: TextHead) -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers of the lines that hold events, from 1, and their cells."""
    with open_text_stream(head.path, squeezed=head.delimiter == SPACES) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace")
        for number, line in enumerate(text, 1):
            if number > head.skipped and line.strip():
                yield number, cells_of(line, head.delimiter, f"{head.path}:{number}")


def _line_of(head: TextHead, row: int) -> tuple[int, list[str]]:
    """Return the number of a row's line, from 1, and its cells."""
    return next(itertools.islice(_lines(head), row, None), (head.skipped + row + 1, []))


def shown(head: TextHead, row: int, column: int) -> str:
    """Return a cell as messages show it, such as `events.csv:58 ('NA')`."""
    number, cells = _line_of(head, row)
    return f"{head.path}:{number} ({cells[column]!r})" if column < len(cells) else f"{head.path}:{number}"


def _fault_of(head: TextHead, marks: Mapping[str, str], cause: Exception) -> InvalidEvents:
    """Find the line that Arrow refused; `marks` has the columns of numbers and their decimal marks."""
    width = len(head.names)
    for number, cells in _lines(head):
        where = f"{head.path}:{number}"
        if len(cells) != width:
            comment = any(cell.lstrip().startswith("#") for cell in (*head.names[:1], *cells[:1]))
            remedy = f": {COMMENTS}" * comment
            return InvalidEvents(f"{where} has {len(cells)} cells; every row must have {width}{remedy}")
        for name, decimal in marks.items():
            cell = cells[head.names.index(name)]
            if not CellKinds.of([cell]).are_numbers(decimal):
                return InvalidEvents(
                    f"{where} has {cell!r} in column '{name}', of which most rows are numbers"
                )
    return InvalidEvents(f"cannot parse the rows of {head.path}: {cause}")


def beside(
    batches: Iterator[pa.RecordBatch], labels: Iterator[pa.RecordBatch], path: Path, label_path: Path
) -> Iterator[pa.RecordBatch]:
    """Join the rows of two files side by side.

    Raises:
        InvalidEvents: one has more rows than the other.
    """
    first = next(labels, None)
    held = pa.table({LABEL_VALUE: pa.array([], pa.float64()) if first is None else first.column(0)})
    rows = 0
    for batch in batches:
        while held.num_rows < batch.num_rows and (more := next(labels, None)) is not None:
            held = pa.concat_tables([held, pa.table({LABEL_VALUE: more.column(0)})])
        rows += min(batch.num_rows, held.num_rows)
        if held.num_rows < batch.num_rows:
            raise InvalidEvents(
                f"{label_path} has {rows} values, {path} has more events: each event needs one"
            )
        values = held.slice(0, batch.num_rows).combine_chunks().column(0)
        yield batch.append_column(
            LABEL_VALUE, values.chunk(0) if values.num_chunks else values.combine_chunks()
        )
        held = held.slice(batch.num_rows)
    if held.num_rows or next(labels, None) is not None:
        raise InvalidEvents(f"{path} has {rows} events, {label_path} has more values: each is of one event")
