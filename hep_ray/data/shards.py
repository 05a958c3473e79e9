"""Writing a dataset folder: Parquet shards of one split each, and their manifest.

Rows stand in the order of a hash of their event id, over the whole split. So every shard holds the
classes in their proportions even when the input is sorted by class, and the shards are the same
bytes in whatever order the events arrive. Events are sorted through spilled runs, in bounded memory.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from hep_ray.data.events import EVENT_ID, LABEL, Arrays, EventSchema
from hep_ray.data.folder import refuse_occupied, replacing, storing
from hep_ray.data.manifest import MANIFEST, Manifest, Shard
from hep_ray.data.sorting import SortedRuns, concatenate, take
from hep_ray.data.splits import SPLITS, Split, SplitRule, event_hashes, split_codes
from hep_ray.errors import InvalidConfig, InvalidEvents

ROW_GROUP = 512
BUFFER_BYTES = 64 * 2**20
DEFAULT_RULE = SplitRule()


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


class ShardWriter:
    """Writes one dataset folder, whole or not at all; use it as a context manager.

    Args:
        out_dir: the folder; absent or empty.
        schema: of the events.
        rule: which split an event belongs to.
        source: JSON values kept in the manifest and hashed into the fingerprint: the input files or the
            generator's settings, and nothing that does not decide the content (no path, time or host).
        rows_per_shard: events in a shard, at most.
        overwrite: replace an earlier dataset in `out_dir`.
        buffer_bytes: events held in memory before they are spilled.

    Raises:
        StorageError: `out_dir` is occupied or cannot be written.
        InvalidConfig: `rows_per_shard` is neither a multiple of the row group (512) nor between 1 and it.

    Attributes:
        manifest: of the dataset, once the block has ended.
    """

    manifest: Manifest

    def __init__(
        self,
        out_dir: Path | str,
        schema: EventSchema,
        rule: SplitRule = DEFAULT_RULE,
        source: Mapping[str, JsonValue] | None = None,
        *,
        rows_per_shard: int = 4096,
        overwrite: bool = False,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if rows_per_shard < 1 or (rows_per_shard > ROW_GROUP and rows_per_shard % ROW_GROUP):
            raise InvalidConfig(
                f"rows_per_shard is a multiple of {ROW_GROUP}, or between 1 and {ROW_GROUP}; "
                f"got {rows_per_shard}"
            )
        self._out_dir = Path(out_dir)
        self._schema = schema
        self._rule = rule
        self._source = dict(source or {})
        self._rows_per_shard = rows_per_shard
        self._overwrite = overwrite
        self._buffer_bytes = buffer_bytes
        self._buffer: list[Arrays] = []
        self._buffered = 0
        self._class_counts = np.zeros(len(schema.classes), dtype=np.int64)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        refuse_occupied(self._out_dir, MANIFEST, overwrite=self._overwrite)
        self._folder = self._stack.enter_context(replacing(self._out_dir))
        self._runs = {split: SortedRuns(self._folder, split, self._schema) for split in SPLITS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is not None:
            self._stack.__exit__(kind, fault, trace)
            return
        with self._stack, storing(self._out_dir):
            self.manifest = self._finish()

    def write(self, events: pa.RecordBatch | Mapping[str, Any]) -> None:
        """Add events.

        Args:
            events: an Arrow record batch of the schema's `arrow()`, or numpy arrays: `event_id` (N,) strings,
                `label` (N,) integers, and every column (N, *shape) in its dtype.

        Raises:
            InvalidEvents: as `EventSchema.checked` and `EventSchema.decode`.
        """
        arrays = self._schema.decode(events) if isinstance(events, pa.RecordBatch) else events
        checked = self._schema.checked(arrays)
        self._class_counts += np.bincount(checked[LABEL], minlength=len(self._class_counts))
        self._buffer.append(checked)
        self._buffered += sum(values.nbytes for values in checked.values())
        if self._buffered >= self._buffer_bytes:
            with storing(self._out_dir):
                self._spill()

    def _spill(self) -> None:
        if not self._buffer:
            return
        events = concatenate(self._buffer)
        self._buffer, self._buffered = [], 0
        hashes = event_hashes(events[EVENT_ID], self._rule.salt)
        codes = split_codes(hashes, self._rule)
        for code, split in enumerate(SPLITS):
            rows = np.flatnonzero(codes == code)
            if len(rows):
                self._runs[split].add(take(events, rows), hashes[rows, 1])

    def _finish(self) -> Manifest:
        self._refuse_absent_classes()
        self._spill()
        shards = [shard for split in SPLITS for shard in self._write_split(split)]
        for split in SPLITS:
            self._runs[split].remove()
            if self._rule.fraction(split) > 0 and not any(shard.split == split for shard in shards):
                raise InvalidEvents(
                    f"every split with a fraction above 0 gets events; '{split}' "
                    f"({self._rule.fraction(split)}) got none of {int(self._class_counts.sum())}"
                )
        manifest = Manifest.create(
            self._schema,
            self._rule,
            self._source,
            shards,
            created_by=f"hep_ray {importlib.metadata.version('hep-ray')}",
        )
        (self._folder / MANIFEST).write_text(manifest.dumps(), encoding="utf-8")
        return manifest

    def _refuse_absent_classes(self) -> None:
        if not self._class_counts.all():
            counts = dict(zip(self._schema.classes, self._class_counts.tolist(), strict=True))
            raise InvalidEvents(f"every class of a dataset has events; got {counts}")

    def _write_split(self, split: Split) -> Iterator[Shard]:
        group_rows = min(ROW_GROUP, self._rows_per_shard)
        groups = enumerate(_regrouped(_distinct(self._runs[split].merged()), group_rows))
        for number, members in groupby(
            groups, key=lambda group: group[0] * group_rows // self._rows_per_shard
        ):
            file = f"{split}-{number:05d}.parquet"
            yield self._write_shard(file, split, (events for _, events in members))

    def _write_shard(self, file: str, split: Split, groups: Iterator[Arrays]) -> Shard:
        path = self._folder / file
        content = ContentHash(self._schema)
        counts = np.zeros(len(self._schema.classes), dtype=np.int64)
        with pq.ParquetWriter(
            path,
            self._schema.arrow(),
            compression="zstd",
            use_dictionary=False,
            write_statistics=[EVENT_ID, LABEL],
        ) as parquet:
            for events in groups:
                parquet.write_batch(self._schema.encode(events))
                content.update(events)
                counts += np.bincount(events[LABEL], minlength=len(counts))
        return Shard(
            file=file,
            split=split,
            rows=int(counts.sum()),
            size=path.stat().st_size,
            sha256=sha256_of(path),
            content=content.hexdigest(),
            classes=dict(zip(self._schema.classes, counts.tolist(), strict=True)),
        )


def _distinct(pieces: Iterator[Arrays]) -> Iterator[Arrays]:
    previous = ""
    for events in pieces:
        event_ids = [previous, *events[EVENT_ID]]
        for left, right in pairwise(event_ids):
            if left == right:
                raise InvalidEvents(f"an event id is used once in a dataset; '{right}' is there twice")
        previous = event_ids[-1]
        yield events


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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
