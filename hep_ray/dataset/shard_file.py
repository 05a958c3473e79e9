"""Writing the shards of one range of keys, from the sorted runs of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hep_ray.dataset.events import EVENT_ID, LABEL, Arrays, EventSchema
from hep_ray.dataset.manifest import Shard
from hep_ray.dataset.runs import Keys, Run, concatenate, merged, take
from hep_ray.dataset.splits import Split
from hep_ray.errors import InvalidEvents

ROW_GROUP = 512


@dataclass(frozen=True)
class Stretch:
    """Consecutive shards of a split.

    Attributes:
        folder: of the shards.
        schema: of the events.
        split: of all of them.
        runs: every run of the split.
        low: first key.
        high: key before which it ends.
        first: number of its first shard.
        rows_per_shard: events in a shard.
        last_keys: the key after which the events of a class are left out, one for each class; empty for none.
        repeated: keys of events that are given more than once: the first is kept.
        refused: keys of events to be left out.
        sparse: columns to be stored without their zeros.
    """

    folder: Path
    schema: EventSchema
    split: Split
    runs: tuple[Run, ...]
    low: int
    high: int
    first: int
    rows_per_shard: int
    last_keys: tuple[int, ...] = ()
    repeated: frozenset[int] = field(default_factory=frozenset)
    refused: frozenset[int] = field(default_factory=frozenset)
    sparse: tuple[str, ...] = ()


def write_stretch(stretch: Stretch) -> list[Shard]:
    """Write the shards of a stretch.

    Raises:
        InvalidEvents: two different ids have the same hash.
        OSError: the storage cannot be written.
    """
    rows = min(ROW_GROUP, stretch.rows_per_shard)
    groups = enumerate(_regrouped(_kept(stretch), rows))
    return [
        _write_shard(stretch, stretch.first + number, (events for _, events in members))
        for number, members in groupby(groups, key=lambda group: group[0] * rows // stretch.rows_per_shard)
    ]


def _kept(stretch: Stretch) -> Iterator[Arrays]:
    last_keys = np.array(stretch.last_keys, dtype=np.uint64)
    seen: dict[int, str] = {}  # key → id of the first event that has it
    for events, keys in merged(stretch.runs, stretch.schema, stretch.low, stretch.high):
        keep = np.ones(len(keys), dtype=bool)
        if len(last_keys):
            keep &= keys <= last_keys[events[LABEL]]
        for row in _special(keys, stretch.repeated | stretch.refused):
            key, event_id = int(keys[row]), events[EVENT_ID][row]
            keep[row] &= key not in stretch.refused and key not in seen
            if seen.setdefault(key, event_id) != event_id:
                raise InvalidEvents(
                    f"different ids have different hashes; '{event_id}' and '{seen[key]}' have the same: "
                    "choose another salt"
                )
        yield events if keep.all() else take(events, keep)


def _special(keys: Keys, wanted: frozenset[int]) -> list[int]:
    if not wanted:
        return []
    return np.flatnonzero(np.isin(keys, np.fromiter(wanted, dtype=np.uint64, count=len(wanted)))).tolist()


def _write_shard(stretch: Stretch, number: int, groups: Iterator[Arrays]) -> Shard:
    path = stretch.folder / f"{stretch.split}-{number:05d}.parquet"
    content = ContentHash(stretch.schema)
    counts: npt.NDArray[np.int64] = np.zeros(len(stretch.schema.classes), dtype=np.int64)
    with pq.ParquetWriter(
        path,
        stretch.schema.arrow(stretch.sparse),
        compression="zstd",
        use_dictionary=False,
        write_statistics=[EVENT_ID, LABEL],
    ) as parquet:
        for events in groups:
            parquet.write_batch(stretch.schema.encode(events, stretch.sparse))
            content.update(events)
            counts += np.bincount(events[LABEL], minlength=len(counts))
    return Shard(
        file=path.name,
        split=stretch.split,
        rows=int(counts.sum()),
        size=path.stat().st_size,
        sha256=sha256_of(path),
        content=content.hexdigest(),
        classes=dict(zip(stretch.schema.classes, counts.tolist(), strict=True)),
    )


def _regrouped(pieces: Iterator[Arrays], rows: int) -> Iterator[Arrays]:
    held: list[Arrays] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece[LABEL])
        if count < rows:
            continue
        events = concatenate(held)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield take(events, slice(start, start + rows))
        held, count = [take(events, slice(whole, None))], count - whole
    if count:
        yield concatenate(held)


class ContentHash:
    """SHA-256 of decoded events in their order, whatever file or chunks they come in."""

    def __init__(self, schema: EventSchema) -> None:
        self._columns = {name: hashlib.sha256() for name in schema.arrow().names}

    def update(self, arrays: Arrays) -> None:
        """Append events."""
        for name, hasher in self._columns.items():
            if name == EVENT_ID:
                hasher.update("".join(f"{len(event_id)}:{event_id}" for event_id in arrays[name]).encode())
            else:
                values = np.ascontiguousarray(arrays[name])
                hasher.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)

    def hexdigest(self) -> str:
        """The hash of all events so far."""
        digests = "".join(f"{name}:{hasher.hexdigest()}\n" for name, hasher in self._columns.items())
        return hashlib.sha256(digests.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
