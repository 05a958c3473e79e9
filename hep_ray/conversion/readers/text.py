"""Text with one event per line: CSV, TSV or columns divided by spaces, plain or gzipped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from hep_ray.config import Config
from hep_ray.conversion.readers import Opened, Part, reader
from hep_ray.conversion.readers.cells import CellKinds, is_fraction, is_number_text
from hep_ray.conversion.readers.fields import ROW_INDEX, asked, reading, rows_per_batch
from hep_ray.conversion.readers.text_rows import (
    COMMENTS,
    LABEL_VALUE,
    LONGEST_LINE,
    SPACES,
    TextHead,
    TextLayout,
    batches_of,
    beside,
    cells_of,
    open_text_stream,
    shown,
    with_types,
)
from hep_ray.errors import InvalidConfig, InvalidEvents, NoEvents, UnreadableInput

HEAD_ROWS = 100
"""Rows that are looked at before the types of all rows are found."""

_LINE_END = re.compile("\r\n|\r|\n")
_OTHERS = {
    b"BZh": "unpack it by bunzip2",
    b"PK\x03\x04": "it is a zip archive or a spreadsheet: unpack it, or save it as CSV",
    b"\xfd7zXZ": "unpack it by unxz",
    b"\x28\xb5\x2f\xfd": "unpack it by unzstd",
    b"\xff\xfe": "it is UTF-16: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "it is UTF-16: iconv -f UTF-16 -t UTF-8",
}
"""How files start that are no UTF-8, and what to do with them."""


class TextOptions(Config):
    """How the lines are divided.

    Attributes:
        delimiter: between cells; a space stands for any run of spaces and tabs. By default the first of comma,
            tab, semicolon that the first line holds, else a space.
        header: whether the first line names the columns; by default it does if a cell of it is text and no
            `columns` are given.
        columns: names for a file without header; by default c0, c1 and so on.
        decimal: the mark of decimals, `.` or `,`; by default a comma where semicolons divide the cells and numbers
            have commas and no points, else a point.
        label_file: a second file, named relative to the first one's folder, with one value per line for each
            event; it becomes the field `label_value`.
    """

    delimiter: str | None = None
    header: bool | None = None
    columns: tuple[str, ...] = ()
    decimal: Literal[".", ","] | None = None
    label_file: str | None = None


@reader("text", TextOptions, suffixes=(".csv", ".tsv", ".txt"))
def open_text(path: Path, options: TextOptions) -> Opened:
    """Text file with one event per line: CSV, TSV or columns divided by spaces; also gzipped.

    All rows decide what a column is: float64 numbers, also with Fortran's exponents (`1.0D+02`) and, where
    semicolons divide the cells, decimal commas; whole numbers of which float64 does not hold each, int64 or uint64;
    booleans of `true` and `false`; else strings. Empty cells and such
    as `NA` are null in columns of numbers. A column without a name is called by its place, such as c0.

    Raises:
        UnreadableInput: the file is absent, empty, not text, or a gzip that ends too early.
        InvalidConfig: names and columns do not fit.
        InvalidEvents: a row has another number of cells, or (while reading) a cell of a column that is mostly
            numbers is none; the message has file and line. Or the label file has another number of rows.
    """
    layout = _layout(path, options)
    fields, labels = layout.fields, None
    if options.label_file is not None:
        labels = _layout(path.parent / options.label_file, TextOptions(columns=(LABEL_VALUE,)))
        if LABEL_VALUE in fields.names:
            raise InvalidConfig(f"{path} has a column {LABEL_VALUE}, which is the label file's name")
        fields = fields.append(labels.fields.field(0))
    left_out = dict(layout.left_out)
    if layout.unnamed and layout.names[0] in layout.whole:
        left_out[layout.names[0]] = ROW_INDEX
    part = Part("", layout.rows if labels is None else None, fields, left_out, layout.whole, layout.wide)

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = asked(part, names, path)
        own = [name for name in dict.fromkeys(names) if name in layout.names]
        batches = batches_of(layout, own or layout.names[:1], start, stop)
        if labels is not None and LABEL_VALUE in names:
            batches = beside(batches, batches_of(labels, [LABEL_VALUE], start, stop), path, labels.path)
        step = rows_per_batch(schema)
        for batch in batches:
            for first in range(0, batch.num_rows, step):
                piece = batch.slice(first, step)
                yield pa.record_batch([piece.column(name) for name in names], schema=schema)

    def cell(row: int, name: str) -> str:
        of = labels if labels is not None and name == LABEL_VALUE else layout
        return shown(of, row, of.names.index(name))

    return Opened((part,), read, companions=() if labels is None else (labels.path,), cell=cell, costly=True)


def _layout(path: Path, options: TextOptions) -> TextLayout:
    with reading(path, OSError):
        stat = path.stat()
    return _layout_of(path, options, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _layout_of(path: Path, options: TextOptions, _size: int, _changed: int) -> TextLayout:
    """Read a file once in a process, as long as it stays as it is, for its layout."""
    return with_types(_head_of(path, options), options.decimal)


def _head_of(path: Path, options: TextOptions) -> TextHead:
    with open_text_stream(path) as stream:
        lines = _first_lines(stream, path)
    first = next((place for place, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise NoEvents(f"{path} has no lines of text")
    delimiter = options.delimiter or next((mark for mark in ",\t;" if mark in lines[first]), SPACES)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InvalidConfig(f"delimiter {delimiter!r} is not one character, or is a quote or a line end")
    where = f"{path}:{first + 1}"
    cells = cells_of(lines[first], delimiter, where)
    header = _has_names(cells, lines[first], options, where)
    if header and options.columns:
        raise InvalidConfig(f"{path} has a header; the option columns names those of a file without")
    if options.columns and len(options.columns) != len(cells):
        raise InvalidConfig(
            f"{where} has {len(cells)} cells, the option columns {len(options.columns)} names"
        )
    names = list(options.columns)
    if header:
        names = [cell.strip() for cell in cells_of(lines[first].lstrip("#"), delimiter, where)]
    unnamed = header and len(names) > 1 and not names[0] and all(names[1:])
    names = [name or f"c{place}" for place, name in enumerate(names or [""] * len(cells))]
    if len(set(names)) < len(names):
        raise InvalidConfig(f"{where} names columns twice: {names}")
    rows = [line for line in lines[first + header :] if line.strip()]
    if not rows:
        raise NoEvents(f"{path} has a header and no events")
    event = cells_of(rows[0], delimiter, f"{path}, first event")
    if len(event) != len(names):
        raise InvalidEvents(
            f"the first event of {path} has {len(event)} cells, its first line {len(names)}: {_division(lines[first])}"
        )
    event_rows = [cells_of(row, delimiter, "") for row in rows[:HEAD_ROWS]]
    other = [
        name
        for place, name in enumerate(names)
        if not all(is_number_text(row[place]) for row in event_rows if place < len(row))
    ]
    return TextHead(path, delimiter, first + header, tuple(names), unnamed, tuple(other))


def _has_names(cells: Sequence[str], line: str, options: TextOptions, where: str) -> bool:
    """Return whether the first line names the columns."""
    if options.header is not None:
        return options.header
    header = not options.columns and not CellKinds.of(cells).are_data
    said = None
    if not header and not options.columns and _counts(cells):
        said = f"counts '{line.strip()}', as pandas names columns that have no names"
    elif header and any(is_fraction(cell) for cell in cells):
        said = "has words and numbers"
    if said:
        raise InvalidConfig(
            f"{where} {said}, so it may name the columns or be an event: --set header=true makes it names, "
            "--set header=false makes it an event"
        )
    return header


def _division(line: str) -> str:
    """Return what to type where the first line has not as many cells as the first event."""
    if line.lstrip().startswith("#"):
        return COMMENTS
    mark = next((mark for mark in "|:" if mark in line), None)
    return f"say what divides them, --set 'delimiter={mark or 'MARK'}'"


def _counts(cells: Sequence[str]) -> bool:
    """Return whether cells are 0, 1, 2 and so on, at least three; or two or more behind an empty one."""
    cells = [cell.strip() for cell in cells]
    behind = cells[1:] if not cells[0] else cells
    return behind == [str(place) for place in range(len(behind))] and len(cells) > 2  # noqa: PLR2004


def _first_lines(stream: Any, path: Path) -> list[str]:
    """Return the first lines, of 1 MiB altogether; all are whole."""
    with reading(path, OSError):
        head: bytes = stream.read(LONGEST_LINE)
    if len(head) == LONGEST_LINE:
        head = head[: head.rfind(b"\n") + 1]
        if not head:
            raise UnreadableInput(f"the first line of {path} has more than {LONGEST_LINE} bytes")
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        remedies = (words for start, words in _OTHERS.items() if head.startswith(start))
        remedy = next(remedies, "save it as UTF-8")
        raise UnreadableInput(f"{path} is no UTF-8 text, plain or gzipped ({exc}): {remedy}") from None
    if "\0" in text:
        raise UnreadableInput(f"{path} holds zero bytes, as no text does")
    return _LINE_END.split(text)
