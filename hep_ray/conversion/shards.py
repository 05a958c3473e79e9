"""Writing a dataset folder: Parquet shards of one split each, and their manifest.

Rows stand in the order of a hash of their event id, over the whole split. So every shard holds the
classes in their proportions even when the input is sorted by class, and the shards are the same
bytes in whatever order the events arrive and whoever read them. Events are sorted through spilled runs,
in bounded memory.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain, groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from hep_ray.conversion.external_sort import (
    BUFFER_BYTES,
    SortedRun,
    SortedRunWriter,
    concatenate,
    merged,
    take,
)
from hep_ray.dataset.dataset import (
    MANIFEST,
    ROW_GROUP,
    ContentHash,
    Manifest,
    Shard,
    fingerprint_of,
    sha256_of,
)
from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays, EventSchema
from hep_ray.dataset.splits import SPLITS, Split, SplitRule
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.files import refuse_occupied, replacing, storing
from hep_ray.registry import check_name

Encoding = Literal["auto", "dense"]

DEFAULT_RULE = SplitRule()
SHARDS_AT_A_TIME = 8
"""Shards of one piece of work."""


@dataclass(frozen=True)
class ShardRange:
    """Consecutive shards of a split.

    Attributes:
        runs: every run of the split.
        low: first key.
        high: key before which it ends.
        rows_per_shard: events in a shard.
        last_keys: the key after which the events of a class are left out, one for each class; empty for none.
        repeated: keys of events that are given more than once: the first is kept.
        refused: keys of events to be left out.
        sparse: columns to be stored without their zeros.
    """

    folder: Path
    schema: EventSchema
    split: Split
    runs: tuple[SortedRun, ...]
    low: int
    high: int
    first: int
    rows_per_shard: int
    last_keys: tuple[int, ...]
    repeated: frozenset[int]
    refused: frozenset[int]
    sparse: tuple[str, ...]


def write_shards(shards: ShardRange) -> list[Shard]:
    """Write a range of shards.

    Raises:
        InvalidEvents: two different ids have the same hash.
        OSError: the storage cannot be written.
    """
    rows = min(ROW_GROUP, shards.rows_per_shard)
    groups = enumerate(_regrouped(_kept(shards), rows))
    return [
        _write_shard(shards, shards.first + number, (events for _, events in members))
        for number, members in groupby(groups, key=lambda group: group[0] * rows // shards.rows_per_shard)
    ]


def _kept(shards: ShardRange) -> Iterator[Arrays]:
    last_keys = np.array(shards.last_keys, dtype=np.uint64)
    special = np.array(sorted(shards.repeated | shards.refused), dtype=np.uint64)
    seen: dict[int, str] = {}  # key → id of the first event that has it
    for events, keys in merged(shards.runs, shards.schema, shards.low, shards.high):
        keep = np.ones(len(keys), dtype=bool)
        if len(last_keys):
            keep &= keys <= last_keys[events[LABEL]]
        for row in np.flatnonzero(np.isin(keys, special)) if len(special) else ():
            key, event_id = int(keys[row]), events[EVENT_ID][row]
            keep[row] &= key not in shards.refused and key not in seen
            if seen.setdefault(key, event_id) != event_id:
                raise InvalidEvents(
                    f"the ids '{event_id}' and '{seen[key]}' have the same hash: choose another salt"
                )
        yield events if keep.all() else take(events, keep)


def _write_shard(shards: ShardRange, number: int, groups: Iterator[Arrays]) -> Shard:
    path = shards.folder / f"{shards.split}-{number:05d}.parquet"
    content = ContentHash(shards.schema)
    counts: npt.NDArray[np.int64] = np.zeros(len(shards.schema.classes), dtype=np.int64)
    with pq.ParquetWriter(
        path,
        shards.schema.arrow(shards.sparse),
        compression="zstd",
        use_dictionary=False,
        write_statistics=[EVENT_ID, LABEL],
    ) as parquet:
        for events in groups:
            parquet.write_batch(shards.schema.encode(events, shards.sparse))
            content.update(events)
            counts += np.bincount(events[LABEL], minlength=len(counts))
    return Shard(
        file=path.name,
        split=shards.split,
        rows=int(counts.sum()),
        size=path.stat().st_size,
        sha256=sha256_of(path),
        content=content.hexdigest(),
        classes=dict(zip(shards.schema.classes, counts.tolist(), strict=True)),
    )


def _regrouped(chunks: Iterator[Arrays], rows: int) -> Iterator[Arrays]:
    """Yield the same events, so many rows at a time."""
    held: list[Arrays] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk[LABEL])
        if count < rows:
            continue
        events = concatenate(held)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield take(events, slice(start, start + rows))
        held, count = [take(events, slice(whole, None))], count - whole
    if count:
        yield concatenate(held)


def sparse_columns(schema: EventSchema, runs: Sequence[SortedRun]) -> dict[str, float]:
    """Return the columns that have so many zeros that leaving them out pays.

    It depends on the events alone, not on their order or on how they were cut into runs.

    Args:
        schema: of the events.
        runs: all that were spilled.

    Returns:
        Column → values per event that are not zero, on average over the events given.
    """
    events = sum(len(run.keys()) for run in runs)
    chosen = {}
    for column in schema.columns if events else ():
        filled = sum(run.filled[column.name] for run in runs) / events
        if column.pays_sparse(filled):
            chosen[column.name] = filled
    return chosen


Mapper = Callable[[Callable[[ShardRange], list[Shard]], Iterable[ShardRange]], Iterable[list[Shard]]]


@dataclass(eq=False)
class ShardWriter:
    """Writer of one dataset folder, whole or not at all; use it as a context manager.

    Args:
        out_dir: the folder; absent or empty.
        schema: of the events.
        rule: which split an event belongs to.
        source: JSON values kept in the manifest: the input files or the generator's settings.
        rows_per_shard: events in a shard.
        overwrite: replace an earlier dataset in `out_dir`.
        buffer_bytes: events held in memory before they are spilled.
        balance: in every split, keep as many events of each class as the rarest has: those that come first
            in the order of the hash of their id.
        every_class: refuse a split that would have no event of some class, before a shard is written.
        drop_repeated: of events with the same id keep one; none, where they belong to different classes.
        encoding: `auto` leaves out the zeros of columns that have many (`hep_ray.conversion.shards`), `dense` of none.
        mapper: does the writing of shards, in any order; one after the other in this process by default.

    Raises:
        StorageError: `out_dir` is occupied or cannot be written.
        UnknownName: there is no such encoding.
        InvalidConfig: `rows_per_shard` is neither a multiple of the row group (512) nor between 1 and it;
            the rule's expression does not suit the schema.

    Attributes:
        manifest: of the dataset, once the block has ended.
        folder: the hidden folder that is being filled.
        schema: of the events.
        rule: which split an event belongs to.
        source: as given; what is added before the block ends goes into the manifest.
    """

    out_dir: Path | str
    schema: EventSchema
    rule: SplitRule = DEFAULT_RULE
    source: dict[str, JsonValue] = field(default_factory=dict)
    _: KW_ONLY
    rows_per_shard: int = 4096
    overwrite: bool = False
    buffer_bytes: int = BUFFER_BYTES
    balance: bool = False
    every_class: bool = False
    drop_repeated: bool = False
    encoding: Encoding = "auto"
    mapper: Mapper = map
    manifest: Manifest = field(init=False)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        check_name("encoding", self.encoding, get_args(Encoding))
        rows = self.rows_per_shard
        if rows < 1 or (rows > ROW_GROUP and rows % ROW_GROUP):
            raise InvalidConfig(
                f"rows_per_shard must be a multiple of {ROW_GROUP}, or between 1 and {ROW_GROUP}; got {rows}"
            )
        self.source = dict(self.source)
        self._adopted: list[SortedRun] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        out = Path(self.out_dir)
        refuse_occupied(out, MANIFEST, overwrite=self.overwrite)
        self.folder = self._stack.enter_context(replacing(out))
        self._events = SortedRunWriter(self.folder, "run", self.schema, self.rule, self.buffer_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is not None:
            self._stack.__exit__(kind, exc, trace)
            return
        with self._stack, storing(Path(self.out_dir)):
            self.manifest = self._finish()

    def write(self, events: pa.RecordBatch | Mapping[str, Any]) -> None:
        """Add events.

        Args:
            events: an Arrow record batch of the schema's `arrow()`, or numpy arrays: `event_id` (N,) strings,
                `label` (N,) integers, and every column (N, *shape) in its dtype.

        Raises:
            InvalidEvents: as `EventSchema.checked` and `EventSchema.decode`.
        """
        with storing(Path(self.out_dir)):
            self._events.write(self.schema.decode(events) if isinstance(events, pa.RecordBatch) else events)

    def adopt(self, runs: Iterable[SortedRun]) -> None:
        """Add events that another `SortedRunWriter` of the same schema and rule has spilled into `folder`."""
        self._adopted += runs

    def _finish(self) -> Manifest:
        runs = [*self._events.finish(), *self._adopted]
        counts = np.zeros(len(self.schema.classes), dtype=np.int64)
        for run in runs:
            counts += np.bincount(run.labels(), minlength=len(counts))
        if not counts.all():
            named = dict(zip(self.schema.classes, counts.tolist(), strict=True))
            raise InvalidEvents(f"a class has no events: {named}")
        if self.every_class:
            self._refuse_absent(runs)
        sparse = sparse_columns(self.schema, runs) if self.encoding == "auto" else {}
        ranges = [one for split in SPLITS for one in self._ranges(split, runs, tuple(sparse))]
        shards = chain.from_iterable(self.mapper(write_shards, ranges))
        ordered = sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.file))
        for run in runs:
            run.remove()
        for split in SPLITS:
            fraction = self.rule.fraction(split)
            if fraction > 0 and not any(shard.split == split for shard in ordered):
                events = sum(shard.rows for shard in ordered)
                raise InvalidEvents(
                    f"the split '{split}' of the fraction {fraction} gets none of {events} events"
                )
        manifest = Manifest(
            event_schema=self.schema,
            split_rule=self.rule,
            source=self.source,
            shards=tuple(ordered),
            created_by=f"hep_ray {importlib.metadata.version('hep-ray')}",
            fingerprint=fingerprint_of(self.schema, self.rule, ordered),
            sparse=sparse,
        )
        (self.folder / MANIFEST).write_text(manifest.dumps(), encoding="utf-8")
        return manifest

    def _refuse_absent(self, runs: Sequence[SortedRun]) -> None:
        """Refuse a split of a fraction above 0 in which a class has no events."""
        for split in SPLITS:
            labels = [run.labels() for run in runs if run.split == split]
            counts = np.bincount(
                np.concatenate([[], *labels]).astype(np.int64), minlength=len(self.schema.classes)
            )
            if self.rule.fraction(split) > 0 and not counts.all():
                found = ", ".join(f"{one} {n}" for one, n in zip(self.schema.classes, counts, strict=True))
                raise InvalidEvents(
                    f"the split '{split}' would have no events of a class ({found}) at the fraction "
                    f"{self.rule.fraction(split):g}: give it more events, or a larger share with --split"
                )

    def _ranges(
        self, split: Split, all_runs: Sequence[SortedRun], sparse: tuple[str, ...]
    ) -> Iterator[ShardRange]:
        runs = tuple(run for run in all_runs if run.split == split)
        if not runs:
            return
        keys = np.concatenate([run.keys() for run in runs])
        labels = np.concatenate([run.labels() for run in runs])
        order = np.argsort(keys, kind="stable")
        keys, labels = keys[order], labels[order]
        first = np.concatenate([[True], keys[1:] != keys[:-1]])
        repeated = np.unique(keys[~first])
        if len(repeated) and not self.drop_repeated:
            event_id = next(merged(runs, self.schema, int(repeated[0])))[0][EVENT_ID][0]
            raise InvalidEvents(f"the event id '{event_id}' is there twice")
        change = ~first & (labels != np.concatenate([labels[:1], labels[:-1]]))
        refused = np.unique(keys[change])  # of events in different classes
        keep = first & ~np.isin(keys, refused)
        last_keys: tuple[int, ...] = ()
        if self.balance:
            of_class = [keys[keep & (labels == label)] for label in range(len(self.schema.classes))]
            rarest = min(map(len, of_class))
            last_keys = tuple(int(class_keys[rarest - 1]) if rarest else 0 for class_keys in of_class)
            keep &= keys <= np.array(last_keys, dtype=np.uint64)[labels]
        kept = keys[keep]
        starts = range(0, len(kept), SHARDS_AT_A_TIME * self.rows_per_shard)
        bounds = [0, *(int(kept[start]) for start in starts[1:]), 2**64]
        for number, (low, high) in enumerate(pairwise(bounds) if len(kept) else ()):
            yield ShardRange(
                folder=self.folder,
                schema=self.schema,
                split=split,
                runs=runs,
                low=low,
                high=high,
                first=number * SHARDS_AT_A_TIME,
                rows_per_shard=self.rows_per_shard,
                last_keys=last_keys,
                repeated=frozenset(repeated.tolist()),
                refused=frozenset(refused.tolist()),
                sparse=sparse,
            )
