"""Text with one event per line: CSV, TSV or columns divided by spaces, plain or gzipped."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from hep_ray.config import Config
from hep_ray.data.readers import Opened, Part, reader
from hep_ray.data.readers.fields import asked, rows_per_batch
from hep_ray.data.readers.lines import LONGEST_LINE, is_number_text, opened
from hep_ray.errors import InvalidConfig, InvalidEvents, NoEvents, UnreadableInput

BLOCK_BYTES = 4 * 2**20
LABEL_VALUE = "label_value"
SPACES = " "

_LINE_END = re.compile("\r\n|\r|\n")


class TextOptions(Config):
    """How the lines are divided.

    Attributes:
        delimiter: between cells; a space stands for any run of spaces and tabs. By default the first of comma,
            tab, semicolon that the first line holds, else a space.
        header: whether the first line names the columns; by default it does if a cell of it is no number and no
            `columns` are given.
        columns: names for a file without header; by default c0, c1 and so on.
        label_file: a second file, named relative to the first one's folder, with one value per line for each
            event; it becomes the field `label_value`.
    """

    delimiter: str | None = None
    header: bool | None = None
    columns: tuple[str, ...] = ()
    label_file: str | None = None


@dataclass(frozen=True)
class _Layout:
    """What the first lines tell: where the events start, and columns of numbers or of text."""

    path: Path
    delimiter: str
    skipped: int
    fields: pa.Schema


@reader("text", TextOptions, seekable=False, suffixes=(".csv", ".tsv", ".txt"))
def open_text(path: Path, options: TextOptions) -> Opened:
    """Text file with one event per line: CSV, TSV or columns divided by spaces; also gzipped.

    A column is of float64 numbers if its cell in the first event is, else of strings; a column without a name
    is called by its place, such as c0.

    Raises:
        UnreadableInput: the file is absent, empty, not text, or (while reading) a gzip that ends too early.
        InvalidConfig: names and columns do not fit.
        InvalidEvents: (while reading) a row has another number of cells, or a cell is no number; the message
            has file and line. Or the label file has another number of rows.
    """
    layout = _survey(path, options)
    fields, labels = layout.fields, None
    if options.label_file is not None:
        labels = _survey(path.parent / options.label_file, TextOptions(columns=(LABEL_VALUE,)))
        if LABEL_VALUE in fields.names:
            raise InvalidConfig(
                f"the name {LABEL_VALUE} is the label file's; {path} has a column of that name"
            )
        fields = fields.append(labels.fields.field(0))
    part = Part("", None, fields)

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = asked(part, names, path)
        own = [name for name in dict.fromkeys(names) if name in layout.fields.names]
        batches = _batches(layout, own or layout.fields.names[:1], stop)
        if labels is not None and LABEL_VALUE in names:
            batches = _beside(batches, _batches(labels, [LABEL_VALUE], stop), path, labels.path)
        step, row = rows_per_batch(schema), 0
        for batch in batches:
            wanted = batch.slice(
                max(0, start - row), None if stop is None else max(0, stop - max(start, row))
            )
            row += batch.num_rows
            for first in range(0, wanted.num_rows, step):
                piece = wanted.slice(first, step)
                yield pa.record_batch([piece.column(name) for name in names], schema=schema)

    return Opened((part,), read, companions=() if labels is None else (labels.path,))


def _survey(path: Path, options: TextOptions) -> _Layout:
    with opened(path) as stream:
        lines = _head(stream, path)
    first = next((place for place, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise NoEvents(f"a text file has one event per line; {path} has none")
    delimiter = options.delimiter or next((mark for mark in ",\t;" if mark in lines[first]), SPACES)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InvalidConfig(f"a delimiter is one character, and no quote or line end; got {delimiter!r}")
    where = f"{path}:{first + 1}"
    cells = _cells(lines[first], delimiter, where)
    header = options.header
    if header is None:
        header = not options.columns and not all(is_number_text(cell) for cell in cells)
    if header and options.columns:
        raise InvalidConfig(f"columns name those of a file without header; {path} has one")
    if options.columns and len(options.columns) != len(cells):
        raise InvalidConfig(
            f"there is one name for each column; {where} has {len(cells)} cells, "
            f"columns has {len(options.columns)} names"
        )
    names = (
        [cell.strip() for cell in _cells(lines[first].lstrip("#"), delimiter, where)]
        if header
        else options.columns
    )
    names = [name or f"c{place}" for place, name in enumerate(names or [""] * len(cells))]
    if len(set(names)) < len(names):
        raise InvalidConfig(f"columns have distinct names; {where} has {names}")
    rows = [line for line in lines[first + header :] if line.strip()]
    if not rows:
        raise NoEvents(f"a text file has one event per line; {path} has a header only")
    event = _cells(rows[0], delimiter, f"{path}, first event")
    if len(event) != len(names):
        raise InvalidEvents(f"every row has {len(names)} cells; the first event of {path} has {len(event)}")
    types = [pa.float64() if is_number_text(cell) or not cell.strip() else pa.string() for cell in event]
    fields = pa.schema([pa.field(*named, nullable=False) for named in zip(names, types, strict=True)])
    return _Layout(path, delimiter, first + header, fields)


def _head(stream: Any, path: Path) -> list[str]:
    """The first lines, of 1 MiB altogether; all are whole."""
    try:
        head: bytes = stream.read(LONGEST_LINE)
    except OSError as fault:
        raise UnreadableInput(f"a text file is whole and readable; {path}: {fault}") from None
    if len(head) == LONGEST_LINE:
        head = head[: head.rfind(b"\n") + 1]
        if not head:
            raise UnreadableInput(f"a line has at most {LONGEST_LINE} bytes; the first of {path} has more")
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise UnreadableInput(f"a text file is UTF-8; {path} is not: {fault}") from None
    if "\0" in text:
        raise UnreadableInput(f"a text file holds no zero bytes; {path} does")
    return _LINE_END.split(text)


def _cells(line: str, delimiter: str, where: str) -> list[str]:
    if delimiter == SPACES:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter), [""])
    except csv.Error as fault:
        raise InvalidEvents(f"a line of text has cells; {where}: {fault}") from None


def _batches(layout: _Layout, names: Sequence[str], stop: int | None) -> Iterator[pa.RecordBatch]:
    """The rows from the first up to `stop`, of these columns."""
    rows = 0
    with opened(layout.path, squeezed=layout.delimiter == SPACES) as stream:
        try:
            table = pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(
                    column_names=layout.fields.names, skip_rows=layout.skipped, block_size=BLOCK_BYTES
                ),
                parse_options=pacsv.ParseOptions(delimiter=layout.delimiter),
                convert_options=pacsv.ConvertOptions(
                    column_types=layout.fields, include_columns=list(names), null_values=[]
                ),
            )
            for batch in table:
                yield batch if stop is None else batch.slice(0, max(0, stop - rows))
                rows += batch.num_rows
                if stop is not None and rows >= stop:
                    return
        except pa.ArrowInvalid as fault:
            raise _fault(layout, names, fault) from None
        except OSError as fault:
            raise UnreadableInput(
                f"a text file is whole and readable; {layout.path}, after row {rows}: {fault}"
            ) from None


def _fault(layout: _Layout, names: Sequence[str], fault: Exception) -> InvalidEvents:
    """Finds the line that Arrow refused."""
    numbers = [
        (place, name)
        for place, name in enumerate(layout.fields.names)
        if name in names and layout.fields.field(name).type == pa.float64()
    ]
    width = len(layout.fields)
    with opened(layout.path, squeezed=layout.delimiter == SPACES) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace")
        for number, line in enumerate(text, 1):
            if number <= layout.skipped or not line.strip():
                continue
            where = f"{layout.path}:{number}"
            cells = _cells(line, layout.delimiter, where)
            if len(cells) != width:
                return InvalidEvents(f"every row has {width} cells; {where} has {len(cells)}")
            for place, name in numbers:
                if not is_number_text(cells[place]):
                    return InvalidEvents(
                        f"column '{name}' holds numbers, as in its first row; {where} has {cells[place]!r}"
                    )
    return InvalidEvents(f"the rows of a text file can be parsed; {layout.path}: {fault}")


def _beside(
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
