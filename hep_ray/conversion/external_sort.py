"""An external sort of events: any amount of them, ordered by a hash of their id, in linear time and bounded memory.

Whoever reads events (one process or many) spills them as runs sorted by key, uncompressed. As the keys are hashes, a
range of them is about as large a share of every run, and exactly the rows of the range are read from each: its events
are gathered, sorted in memory, and handed on. Every event is so written once and read once, one file is open at a time,
and ranges are independent, so that shards are written side by side. docs/decisions/external_sort.md says why no
database does it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema, texts
from hep_ray.dataset.splits import SPLITS, Split, SplitRule, hashes_of, split_codes
from hep_ray.dataset.values import SparseColumn, compact, join, mask_of, select

BUFFER_BYTES = 64 * 2**20
"""Events held before they are spilled."""
SORT_BYTES = 64 * 2**20
"""About as many bytes of events, as they are held, are sorted in memory at once."""
LOOKED_AT = 64
"""Events that tell whether a column is worth being held without its zeros."""
KEY = "key"
"""Column of a run: what it is sorted by."""

Keys = npt.NDArray[np.uint64]
Events = dict[str, Any]
"""Ids as Arrow strings (N,), labels as numpy (N,), columns as numpy (N, *shape) or without their zeros."""


@dataclass(frozen=True)
class SortedRun:
    """A spilled file of events of one split, sorted by key.

    Attributes:
        rows: events.
        classes: events of each class.
        filled: column → how many of its values, over all events, are not zero; of lists, how many items.
        sparse: columns that it holds without their zeros.
        size: of the file, in bytes.
    """

    path: Path
    split: Split
    rows: int
    classes: tuple[int, ...]
    filled: Mapping[str, int]
    sparse: tuple[str, ...]
    size: int

    @contextmanager
    def within(self, low: int, high: int) -> Iterator[pa.RecordBatch]:
        """Yield the events whose key is in [low, high), mapped from the disk: to be copied within the block."""
        with pa.memory_map(str(self.path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
            keys = batch.column(KEY).to_numpy()
            first = int(np.searchsorted(keys, np.uint64(low))) if low else 0
            stop = int(np.searchsorted(keys, np.uint64(high))) if high < 2**64 else len(keys)
            del keys
            yield batch.slice(first, stop - first)

    def keys_and_labels(self, low: int = 0, high: int = 2**64) -> tuple[Keys, npt.NDArray[np.int64]]:
        """Return the keys in [low, high), ascending, and the labels of their events."""
        with self.within(low, high) as batch:
            return batch.column(KEY).to_numpy().copy(), batch.column(LABEL).to_numpy().copy()

    def remove(self) -> None:
        """Delete its file."""
        self.path.unlink()


@dataclass(eq=False)
class SortedRunWriter:
    """Spills checked events as runs, split by split.

    Args:
        folder: existing folder for the runs.
        name: prefix of their names; no other writer in the folder has it.
        schema: of the events.
        rule: which split an event belongs to.
        buffer_bytes: events held in memory before they are spilled.
    """

    folder: Path
    name: str
    schema: EventSchema
    rule: SplitRule
    buffer_bytes: int = BUFFER_BYTES
    _buffer: list[Events] = field(default_factory=list, init=False)
    _buffered: int = field(default=0, init=False)
    _runs: list[SortedRun] = field(default_factory=list, init=False)

    def write(self, events: Mapping[str, Any]) -> None:
        """Add events, which are checked against the schema first.

        Raises:
            InvalidEvents: as `EventSchema.checked`.
        """
        checked = self.schema.checked(events)
        rows = len(checked[LABEL])
        step = max(1, BUFFER_BYTES // sum(column.nbytes for column in self.schema.columns))
        for start in range(0, rows, step):
            piece: Events = take(checked, slice(start, start + step)) if rows > step else {**checked}
            piece[EVENT_ID] = texts(piece[EVENT_ID])
            for column in self.schema.columns:
                values = piece[column.name]
                if column.shape and column.pays_sparse(
                    np.count_nonzero(values[:LOOKED_AT]) / len(values[:LOOKED_AT])
                ):
                    piece[column.name] = SparseColumn.from_dense(values)
            self._buffer.append(piece)
            self._buffered += sum(values.nbytes for values in piece.values())
            if self._buffered >= self.buffer_bytes:
                self._spill()

    def finish(self) -> list[SortedRun]:
        """Spill what is held and return all runs of this writer."""
        self._spill()
        return self._runs

    def _spill(self) -> None:
        if not self._buffer:
            return
        sparse = [
            column.name
            for column in self.schema.columns
            if all(isinstance(piece[column.name], SparseColumn) for piece in self._buffer)
        ]
        events = joined(self._buffer, sparse)
        self._buffer, self._buffered = [], 0
        groups = None if self.schema.split_by is None else np.asarray(events[self.schema.split_by])
        hashes = hashes_of(events[EVENT_ID], self.rule.salt, groups)
        quantities = None
        if self.rule.train_where is not None:
            names = [column.name for column in self.schema.columns]
            quantities = self.schema.quantities({name: np.asarray(events[name]) for name in names})
        codes = split_codes(hashes, self.rule, quantities, events[LABEL])
        for code, split in enumerate(SPLITS):
            rows = np.flatnonzero(codes == code)
            if len(rows):
                order = rows[np.argsort(hashes[rows, 1], kind="stable")]
                self._runs.append(
                    self._write_run(take(events, order), hashes[order, 1], split, tuple(sparse))
                )

    def _write_run(self, events: Events, keys: Keys, split: Split, sparse: tuple[str, ...]) -> SortedRun:
        path = self.folder / f"{self.name}-{len(self._runs):05d}.arrow"
        batch = self.schema.encode(events, sparse)
        batch = pa.record_batch(
            [*batch.columns, pa.array(keys)], schema=batch.schema.append(pa.field(KEY, pa.uint64()))
        )
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as run:
            run.write_batch(batch)
        filled = {}
        for column in self.schema.columns:
            values = events[column.name]
            kept = mask_of(values) if column.lists else values.value if column.name in sparse else values
            filled[column.name] = int(np.count_nonzero(kept))
        classes = np.bincount(events[LABEL], minlength=len(self.schema.classes))
        return SortedRun(path, split, len(keys), tuple(classes.tolist()), filled, sparse, path.stat().st_size)


def merged(
    runs: Sequence[SortedRun],
    schema: EventSchema,
    low: int = 0,
    high: int = 2**64,
    sparse: Sequence[str] = (),
    sort_bytes: int = SORT_BYTES,
) -> Iterator[tuple[Events, Keys]]:
    """Yield events whose key is in [low, high), in the order of their keys; equal ones in the order of the runs.

    Args:
        runs: of one split.
        schema: of the events.
        low: first key.
        high: key before which it ends.
        sparse: columns that are wanted without their zeros.
        sort_bytes: about as many are held, sorted, at a time.
    """
    rows = 0
    for run in runs:
        with run.within(low, high) as batch:
            rows += batch.num_rows
    parts = max(1, math.ceil(rows * held_bytes(runs, schema, sparse) / sort_bytes))
    for first, stop in pairwise(low + (high - low) * part // parts for part in range(parts + 1)):
        chunks = [chunk for run in runs if (chunk := _chunk(run, schema, first, stop)) is not None]
        if chunks:
            keys = np.concatenate([keys for _, keys in chunks])
            order = np.argsort(keys, kind="stable")
            events = joined([events for events, _ in chunks], sparse)
            del chunks
            yield take(events, order), keys[order]


def _chunk(run: SortedRun, schema: EventSchema, low: int, high: int) -> tuple[Events, Keys] | None:
    """Return the part of a run within a range of keys, in memory of its own; None where there is nothing."""
    with run.within(low, high) as mapped:
        if not mapped.num_rows:
            return None
        batch = pa.concat_batches([mapped, mapped.slice(0, 0)])
        del mapped
    events = {
        EVENT_ID: batch.column(EVENT_ID),
        LABEL: batch.column(LABEL).to_numpy(),
        **{column.name: compact(batch.column(column.name), column.shape) for column in schema.columns},
    }
    return events, batch.column(KEY).to_numpy()


def held_bytes(runs: Sequence[SortedRun], schema: EventSchema, sparse: Sequence[str]) -> float:
    """Return about as many bytes as an event takes while it is sorted, at least one."""
    whole = sum(column.nbytes for column in schema.columns if column.name not in sparse)
    rows = sum(run.rows for run in runs)
    return max(1.0, float(whole), sum(run.size for run in runs) / max(1, rows))


def take(arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """Take some rows of every column, by indices, mask or slice."""
    return {name: _taken(values, rows) for name, values in arrays.items()}


def _taken(values: Any, rows: Any) -> Any:
    if isinstance(values, pa.Array):
        if isinstance(rows, slice):
            return values[rows]
        return values.filter(pa.array(rows)) if rows.dtype == bool else values.take(pa.array(rows))
    if isinstance(values, SparseColumn):
        places = np.arange(len(values))[rows] if isinstance(rows, slice) or rows.dtype == bool else rows
        return select(values, places)
    if isinstance(values, np.ndarray) and isinstance(rows, np.ndarray) and rows.dtype != bool:
        return values.take(rows, axis=0)
    return values[rows]


def joined(chunks: Sequence[Mapping[str, Any]], sparse: Sequence[str] = ()) -> Events:
    """Join events with the same columns, one chunk after the other; those of `sparse` are without their zeros."""
    events: Events = {}
    for name, first in chunks[0].items():
        pieces = [chunk[name] for chunk in chunks]
        if isinstance(first, pa.Array):
            events[name] = pa.concat_arrays(pieces) if len(pieces) > 1 else first
            continue
        if name in sparse:
            pieces = [
                one if isinstance(one, SparseColumn) else SparseColumn.from_dense(one) for one in pieces
            ]
        else:
            pieces = [np.asarray(one) for one in pieces]
        events[name] = join(pieces) if len(pieces) > 1 else pieces[0]
    return events
