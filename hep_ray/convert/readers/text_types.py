"""What the columns of a text file are, from all of its rows: numbers, truths or text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from hep_ray.convert.readers import LeftOut
from hep_ray.convert.readers.cells import Cells

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
