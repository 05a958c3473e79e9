"""Pieces of an input: each becomes one file of scores.

How an input is cut depends on the input alone, not on the workers, so an interrupted prediction finds its own pieces
again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hep_ray.conversion.paths import stem_of, told_apart
from hep_ray.conversion.readers import Part
from hep_ray.dataset.schema import Column

PIECE_BYTES = 32 * 2**20
"""About as much of an input, decoded, is one piece."""


@dataclass(frozen=True)
class Piece:
    """Part of an input.

    Attributes:
        number: from 0.
        path: of the file that is read.
        part: number of the table within it.
        start: first row.
        stop: row before which it ends; None for the end of the table.
        prefix: stands before the events' ids; empty where they are ids already.
        file: name of the file of scores.
    """

    number: int
    path: Path
    part: int
    start: int
    stop: int | None
    prefix: str
    file: str


def cut(
    tables: Sequence[tuple[Path, int, Part]], columns: Sequence[Column], *, seekable: bool, own_ids: bool
) -> Iterator[Piece]:
    """The pieces of some tables.

    Args:
        tables: file, number of the table within it, what the reader says of it.
        columns: of the model.
        seekable: whether a range of rows is reached without reading those before it.
        own_ids: whether events bring their ids; otherwise these are made of the file's name and the row.

    Raises:
        InvalidConfig: an input is given twice.
    """
    counter = itertools.count()
    stems = told_apart(path for path, _, _ in tables)
    stride = max(1, PIECE_BYTES // max(1, sum(column.nbytes for column in columns)))
    for path, number, part in tables:
        several = sum(other == path for other, _, _ in tables) > 1
        prefix = f"{stems[path]}/{part.name}/" if several else f"{stems[path]}/"
        bounds: list[tuple[int, int | None]] = [(0, None)]
        if part.rows is not None and seekable:
            bounds = [(start, min(start + stride, part.rows)) for start in range(0, part.rows, stride)]
        for start, stop in bounds:
            piece = next(counter)
            name = f"{stem_of(path)}-{piece:05d}.parquet"
            yield Piece(piece, path, number, start, stop, "" if own_ids else prefix, name)
