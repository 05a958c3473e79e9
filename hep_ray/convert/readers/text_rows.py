"""The rows of text files: batches of typed columns, and the line and cell of a fault."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from hep_ray.convert.readers.cells import MISSING, Cells, numbers, truths
from hep_ray.convert.readers.lines import opened
from hep_ray.convert.readers.text_types import Types
from hep_ray.errors import InvalidEvents, UnreadableInput

BLOCK_BYTES = 4 * 2**20
LABEL_VALUE = "label_value"
SPACES = " "


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
