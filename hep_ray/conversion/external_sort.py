"""An external merge sort of events: any amount of them, ordered by a hash of their id, in bounded memory.

Whoever reads events (one process or many) spills them as sorted runs; any range of keys can then be merged
from all runs on its own, so that shards are written side by side. docs/decisions/external_sort.md says why no
database does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays, EventSchema
from hep_ray.dataset.splits import SPLITS, Split, SplitRule, event_hashes, split_codes

BLOCK_BYTES = 2**20
"""About as much of each run is held while merging."""
MOST_BLOCK_ROWS = 4096
BUFFER_BYTES = 64 * 2**20

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SortedRun:
    """A spilled file of events of one split, sorted by key; the keys and the labels lie beside it.

    Attributes:
        path: of the Arrow file.
        split: of all its events.
        filled: column → how many of its values, over all events, are not zero.
    """

    path: Path
    split: Split
    filled: Mapping[str, int]

    def keys(self) -> Keys:
        """Return the keys, (N,) uint64, ascending, mapped from the disk."""
        return cast("Keys", np.load(self.path.with_suffix(".keys.npy"), mmap_mode="r"))

    def labels(self) -> npt.NDArray[np.int64]:
        """Return the labels, (N,) int64 in the order of the keys."""
        return cast("npt.NDArray[np.int64]", np.load(self.path.with_suffix(".labels.npy")))

    def remove(self) -> None:
        """Delete its files."""
        for suffix in (".arrow", ".keys.npy", ".labels.npy"):
            self.path.with_suffix(suffix).unlink()


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
    _buffer: list[Arrays] = field(default_factory=list, init=False)
    _buffered: int = field(default=0, init=False)
    _runs: list[SortedRun] = field(default_factory=list, init=False)

    def write(self, events: Mapping[str, Any]) -> None:
        """Add events, which are checked against the schema first.

        Raises:
            InvalidEvents: as `EventSchema.checked`.
        """
        checked = self.schema.checked(events)
        self._buffer.append(checked)
        self._buffered += sum(values.nbytes for values in checked.values())
        if self._buffered >= self.buffer_bytes:
            self._spill()

    def finish(self) -> list[SortedRun]:
        """Spill what is held and return all runs of this writer."""
        self._spill()
        return self._runs

    def _spill(self) -> None:
        if not self._buffer:
            return
        events = concatenate(self._buffer)
        self._buffer, self._buffered = [], 0
        hashes = event_hashes(events[EVENT_ID], self.rule.salt)
        codes = split_codes(hashes, self.rule, self.schema.quantities(events))
        for code, split in enumerate(SPLITS):
            rows = np.flatnonzero(codes == code)
            if len(rows):
                order = rows[np.argsort(hashes[rows, 1], kind="stable")]
                self._runs.append(self._write_run(events, order, hashes[order, 1], split))

    def _write_run(self, events: Arrays, order: npt.NDArray[np.intp], keys: Keys, split: Split) -> SortedRun:
        path = self.folder / f"{self.name}-{len(self._runs):05d}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, self.schema.arrow(), options=options) as run,
        ):
            block = block_rows(self.schema)
            for start in range(0, len(order), block):
                run.write_batch(self.schema.encode(take(events, order[start : start + block])))
        np.save(path.with_suffix(".keys.npy"), keys)
        np.save(path.with_suffix(".labels.npy"), events[LABEL][order])
        names = [column.name for column in self.schema.columns]
        return SortedRun(path, split, {name: int(np.count_nonzero(events[name][order])) for name in names})


def merged(
    runs: Sequence[SortedRun], schema: EventSchema, low: int = 0, high: int = 2**64
) -> Iterator[tuple[Arrays, Keys]]:
    """Yield events whose key is in [low, high), in the order of their keys, at most a block of each run at a time."""
    cursors = [_Cursor(run, schema, low, high) for run in runs]
    while cursors := [cursor for cursor in cursors if cursor.fill()]:
        bound = min(cursor.last_key for cursor in cursors)
        chunks, keys = zip(*(cursor.pop(bound) for cursor in cursors), strict=True)
        joined = np.concatenate(keys)
        order = np.argsort(joined, kind="stable")
        yield take(concatenate(chunks), order), joined[order]


class _Cursor:
    """The part of a sorted run within a range of keys, read block by block."""

    def __init__(self, run: SortedRun, schema: EventSchema, low: int, high: int) -> None:
        self._schema = schema
        self._rows = block_rows(schema)
        self._path = run.path
        self._all_keys = run.keys()
        self._next = int(np.searchsorted(self._all_keys, np.uint64(low)))
        self._stop = len(self._all_keys)
        if high < 2**64:
            self._stop = int(np.searchsorted(self._all_keys, np.uint64(high)))
        self._reader: Any = None
        self._keys: Keys = self._all_keys[:0]
        self._arrays: Arrays = {}

    @property
    def last_key(self) -> np.uint64:
        return np.uint64(self._keys[-1])

    def fill(self) -> bool:
        """Hold at least one event; False when none is left."""
        if not len(self._keys) and self._next < self._stop:
            if self._reader is None:
                self._reader = pa.ipc.open_file(pa.OSFile(str(self._path)))
            block = self._next // self._rows
            start, first, last = block * self._rows, self._next, min((block + 1) * self._rows, self._stop)
            events = self._schema.decode(self._reader.get_batch(block))
            self._arrays = take(events, slice(first - start, last - start))
            self._keys = np.array(self._all_keys[first:last])
            self._next = last
        return len(self._keys) > 0

    def pop(self, bound: np.uint64) -> tuple[Arrays, Keys]:
        """Take away every held event whose key is at most the bound."""
        count = int(np.searchsorted(self._keys, bound, side="right"))
        popped = take(self._arrays, slice(count)), self._keys[:count]
        self._arrays, self._keys = take(self._arrays, slice(count, None)), self._keys[count:]
        return popped


def block_rows(schema: EventSchema) -> int:
    """Return the events of a block: about `BLOCK_BYTES` of them."""
    row_bytes = sum(column.nbytes for column in schema.columns)
    return max(1, min(MOST_BLOCK_ROWS, BLOCK_BYTES // row_bytes))


def take(arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """Take some rows of every column, by indices, mask or slice."""
    return {name: values[rows] for name, values in arrays.items()}


def concatenate(chunks: Sequence[Arrays]) -> Arrays:
    """Join events with the same columns, one chunk after the other."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
