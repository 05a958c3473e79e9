"""An external merge sort of events: any amount of them, ordered by a key, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.data.events import Arrays, EventSchema

BLOCK = 512
"""Events read at a time from each run while merging."""

Keys = npt.NDArray[np.uint64]


class SortedRuns:
    """Runs of events, each sorted and spilled to a file, merged into one ordered stream.

    Args:
        folder: existing folder for the run files.
        name: their prefix.
        schema: of the events.
    """

    def __init__(self, folder: Path, name: str, schema: EventSchema) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema
        self._runs: list[tuple[Path, Keys]] = []

    def add(self, arrays: Arrays, keys: Keys) -> None:
        """Sort events by key and spill them as one run."""
        order = np.argsort(keys, kind="stable")
        path = self._folder / f"{self._name}-{len(self._runs):05d}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, self._schema.arrow(), options=options) as run,
        ):
            for start in range(0, len(order), BLOCK):
                rows = order[start : start + BLOCK]
                run.write_batch(self._schema.encode(take(arrays, rows)))
        self._runs.append((path, keys[order]))

    def merged(self) -> Iterator[Arrays]:
        """All events in the order of their keys, in pieces of at most `BLOCK` events per run."""
        runs = [_Run(path, keys, self._schema) for path, keys in self._runs]
        while runs := [run for run in runs if run.fill()]:
            bound = min(run.last_key for run in runs)
            pieces, keys = zip(*(run.pop(bound) for run in runs), strict=True)
            yield take(concatenate(pieces), np.argsort(np.concatenate(keys), kind="stable"))

    def remove(self) -> None:
        """Delete the run files."""
        for path, _ in self._runs:
            path.unlink()
        self._runs = []


class _Run:
    """One sorted run, read block by block."""

    def __init__(self, path: Path, keys: Keys, schema: EventSchema) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._schema = schema
        self._unread = keys
        self._block = 0
        self._keys = keys[:0]
        self._arrays: Arrays = {}

    @property
    def last_key(self) -> np.uint64:
        return np.uint64(self._keys[-1])

    def fill(self) -> bool:
        """Hold at least one event; False when none is left."""
        if not len(self._keys) and self._block < self._reader.num_record_batches:
            self._arrays = self._schema.decode(self._reader.get_batch(self._block))
            self._keys, self._unread = self._unread[:BLOCK], self._unread[BLOCK:]
            self._block += 1
        return len(self._keys) > 0

    def pop(self, bound: np.uint64) -> tuple[Arrays, Keys]:
        """Take away every held event whose key is at most the bound."""
        count = int(np.searchsorted(self._keys, bound, side="right"))
        popped = take(self._arrays, slice(count)), self._keys[:count]
        self._arrays, self._keys = take(self._arrays, slice(count, None)), self._keys[count:]
        return popped


def take(arrays: Arrays, rows: Any) -> Arrays:
    """Some rows of every column, by indices, mask or slice."""
    return {name: values[rows] for name, values in arrays.items()}


def concatenate(pieces: Sequence[Arrays]) -> Arrays:
    """Pieces with the same columns, one after the other."""
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
