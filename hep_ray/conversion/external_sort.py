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
    sources = [_blocks(run, schema, low, high) for run in runs]
    held = {source: block for source in sources if (block := next(source, None))}
    while held:
        bound = min(keys[-1] for _, keys in held.values())
        popped = []
        for source, (events, keys) in list(held.items()):
            count = int(np.searchsorted(keys, bound, side="right"))
            popped.append((take(events, slice(count)), keys[:count]))
            held[source] = take(events, slice(count, None)), keys[count:]
        chunks, parts = zip(*popped, strict=True)
        joined = np.concatenate(parts)
        order = np.argsort(joined, kind="stable")
        yield take(concatenate(chunks), order), joined[order]
        for source in [source for source, (_, keys) in held.items() if not len(keys)]:
            if block := next(source, None):
                held[source] = block
            else:
                del held[source]


def _blocks(run: SortedRun, schema: EventSchema, low: int, high: int) -> Iterator[tuple[Arrays, Keys]]:
    """Yield the part of a sorted run within a range of keys, block by block."""
    keys, rows = run.keys(), block_rows(schema)
    first = int(np.searchsorted(keys, np.uint64(low)))
    stop = int(np.searchsorted(keys, np.uint64(high))) if high < 2**64 else len(keys)
    if first == stop:
        return
    with pa.OSFile(str(run.path)) as file:
        reader = pa.ipc.open_file(file)
        while first < stop:
            block, last = first // rows, min((first // rows + 1) * rows, stop)
            events = schema.decode(reader.get_batch(block))
            yield take(events, slice(first - block * rows, last - block * rows)), np.array(keys[first:last])
            first = last


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
