"""Writing a dataset folder: Parquet shards of one split each, and their manifest.

Rows stand in the order of a hash of their event id, over the whole split. So every shard holds the
classes in their proportions even when the input is sorted by class, and the shards are the same
bytes in whatever order the events arrive and whoever read them. Events are sorted through spilled runs,
in bounded memory.
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain, groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from hep_ray.conversion.external_sort import (
    BUFFER_BYTES,
    SORT_BYTES,
    Events,
    Keys,
    SortedRun,
    SortedRunWriter,
    held_bytes,
    joined,
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
    weight_sums,
)
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema
from hep_ray.dataset.shard_file import shard_file
from hep_ray.dataset.splits import SPLITS, Split, SplitRule, hashes_of, stratify
from hep_ray.dataset.verified import Stamp, record, settle, stamp_of
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.files import refuse_occupied, replacing, storing
from hep_ray.registry import check_name

Encoding = Literal["auto", "dense"]

DEFAULT_RULE = SplitRule()
ROWS_PER_SHARD = 4096
"""Events of a shard, unless there are so many that the shards would be more than `MOST_SHARDS`."""
MOST_SHARDS = 4096
FEWEST_AT_A_TIME = 8
"""Shards of one piece of work, at least."""
RANGES = 64
"""Pieces of work of a split, about, unless they are larger than is sorted at once."""
WRITE_BYTES = 8 * 2**20
"""About as many bytes of events, whole, are encoded and hashed at a time."""
IDS_OF_VALUES = "add --drop-duplicates, which makes ids of the values"
"""What to type where ids do not tell events apart."""
MOST_STRATIFIED = 1_000_000
"""Events of a stratified dataset, at most: of more the hash alone keeps the shares within a few thousandths."""
KEYS_AT_A_TIME = 2**22
"""Keys that are sorted together to find repeated ones and the shards' bounds."""


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


class Written(NamedTuple):
    """A shard that was written.

    Attributes:
        shard: what the manifest says of it.
        stamp: of the file when it was read back and hashed.
        host: that did.
    """

    shard: Shard
    stamp: Stamp
    host: str


def write_shards(shards: ShardRange) -> list[Written]:
    """Write a range of shards.

    Raises:
        InvalidEvents: two different ids have the same hash.
        OSError: the storage cannot be written.
    """
    row_bytes = sum(column.nbytes for column in shards.schema.columns)
    rows = _rows_at_a_time(shards.rows_per_shard, row_bytes)
    groups = enumerate(_regrouped(_kept(shards), rows, shards.sparse))
    return [
        _write_shard(shards, shards.first + number, (events for _, events in members))
        for number, members in groupby(groups, key=lambda group: group[0] * rows // shards.rows_per_shard)
    ]


def _rows_at_a_time(rows_per_shard: int, row_bytes: int) -> int:
    """Return how many events are written at a time: whole row groups, of which a shard is a multiple."""
    if rows_per_shard <= ROW_GROUP:
        return rows_per_shard
    groups = rows_per_shard // ROW_GROUP
    most = max(1, WRITE_BYTES // (row_bytes * ROW_GROUP))
    return ROW_GROUP * max(number for number in range(1, min(groups, most) + 1) if groups % number == 0)


def _kept(shards: ShardRange) -> Iterator[Events]:
    last_keys = np.array(shards.last_keys, dtype=np.uint64)
    special = np.array(sorted(shards.repeated | shards.refused), dtype=np.uint64)
    seen: dict[int, str] = {}  # key → id of the first event that has it
    for events, keys in merged(shards.runs, shards.schema, shards.low, shards.high, shards.sparse):
        keep = np.ones(len(keys), dtype=bool)
        if len(last_keys):
            keep &= keys <= last_keys[events[LABEL]]
        for row in np.flatnonzero(np.isin(keys, special)) if len(special) else ():
            key, event_id = int(keys[row]), events[EVENT_ID][int(row)].as_py()
            keep[row] &= key not in shards.refused and key not in seen
            if seen.setdefault(key, event_id) != event_id:
                raise InvalidEvents(
                    f"the ids '{event_id}' and '{seen[key]}' have the same hash: choose another salt"
                )
        yield events if keep.all() else take(events, keep)


def _write_shard(shards: ShardRange, number: int, groups: Iterator[Events]) -> Written:
    path = shards.folder / f"{shards.split}-{number:05d}.parquet"
    content = ContentHash(shards.schema)
    counts: npt.NDArray[np.int64] = np.zeros(len(shards.schema.classes), dtype=np.int64)
    with shard_file(path, shards.schema.arrow(shards.sparse)) as parquet:
        for events in groups:
            parquet.write_batch(shards.schema.encode(events, shards.sparse), row_group_size=ROW_GROUP)
            content.update(events)
            counts += np.bincount(events[LABEL], minlength=len(counts))
    settle(path)
    stamp = stamp_of(path, "")  # before it is hashed: a change meanwhile has another one
    shard = Shard(
        file=path.name,
        split=shards.split,
        rows=int(counts.sum()),
        size=stamp[0],
        sha256=sha256_of(path),
        content=content.hexdigest(),
        classes=dict(zip(shards.schema.classes, counts.tolist(), strict=True)),
    )
    return Written(shard, (*stamp[:3], shard.sha256), socket.gethostname())


def _regrouped(chunks: Iterator[Events], rows: int, sparse: Sequence[str]) -> Iterator[Events]:
    """Yield the same events, so many rows at a time."""
    held: list[Events] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk[LABEL])
        if count < rows:
            continue
        events = joined(held, sparse)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield take(events, slice(start, start + rows))
        held, count = [take(events, slice(whole, None))], count - whole
    if count:
        yield joined(held, sparse)


def sparse_columns(schema: EventSchema, runs: Sequence[SortedRun]) -> dict[str, float]:
    """Return the columns that have so many zeros that leaving them out pays.

    It depends on the events alone, not on their order or on how they were cut into runs.

    Args:
        schema: of the events.
        runs: all that were spilled.

    Returns:
        Column → values per event that are not zero, on average over the events given.
    """
    events = sum(run.rows for run in runs)
    chosen = {}
    for column in schema.columns if events else ():
        filled = sum(run.filled[column.name] for run in runs) / events
        if column.pays_sparse(filled):
            chosen[column.name] = filled
    return chosen


Mapper = Callable[[Callable[[ShardRange], list[Written]], Iterable[ShardRange]], Iterable[list[Written]]]


def refuse_many(events: int) -> None:
    """Refuse to stratify more events than are divided a second time.

    Raises:
        InvalidConfig: there are more.
    """
    if events > MOST_STRATIFIED:
        raise InvalidConfig(
            f"{events} events are too many to stratify, at most {MOST_STRATIFIED} are: by their hashes alone so many "
            "keep their shares within a few thousandths: leave --stratify out"
        )


def refuse_absent(rule: SplitRule, schema: EventSchema, counts: npt.NDArray[np.int64]) -> None:
    """Refuse a split of a fraction above 0 in which a class has no events.

    Args:
        rule: of the splits.
        schema: whose classes are counted.
        counts: events of each class in each of `SPLITS`, (3, classes).

    Raises:
        InvalidEvents: there is such a split.
    """
    for split, of_classes in zip(SPLITS, counts, strict=True):
        if rule.fraction(split) > 0 and not of_classes.all():
            found = ", ".join(f"{one} {n}" for one, n in zip(schema.classes, of_classes, strict=True))
            raise InvalidEvents(
                f"the split '{split}' would have no events of a class ({found}) at the fraction "
                f"{rule.fraction(split):g}: give it more events, or with --split a larger share, or none: 80/20/0, or "
                "100/0/0 for events that are only predicted on"
            )


@dataclass(eq=False)
class ShardWriter:
    """Writer of one dataset folder, whole or not at all; use it as a context manager.

    Args:
        out_dir: the folder; absent or empty.
        schema: of the events.
        rule: which split an event belongs to.
        source: JSON values kept in the manifest: the input files or the generator's settings.
        rows_per_shard: events in a shard; 4096 unless given, and of more than 16 million events twice that, four
            times and so on, so that the shards stay about 4096 at most.
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
            the rule's expression does not suit the schema, or could give events of one `split_by` to several splits.

    Attributes:
        manifest: of the dataset, once the block has ended.
        folder: the hidden folder that is being filled.
        schema: of the events.
        rule: which split an event belongs to; a stratified one gets its cuts when the block ends.
        source: as given; what is added before the block ends goes into the manifest.
    """

    out_dir: Path | str
    schema: EventSchema
    rule: SplitRule = DEFAULT_RULE
    source: dict[str, JsonValue] = field(default_factory=dict)
    _: KW_ONLY
    rows_per_shard: int | None = None
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
        if rows is not None and (rows < 1 or (rows > ROW_GROUP and rows % ROW_GROUP)):
            raise InvalidConfig(
                f"rows_per_shard must be a multiple of {ROW_GROUP}, or between 1 and {ROW_GROUP}; got {rows}"
            )
        expression, by = self.rule.train_where, self.schema.split_by
        read = set() if expression is None else set(Expression(expression).names)
        if read and by is not None and read != {by} and not self.rule.by_test_file:
            raise InvalidConfig(
                f"--train-where '{expression}' may give events of one {by} to different splits, which --split-by {by} "
                f"rules out: let the expression read {by} alone, or leave one of the two out"
            )
        self.source = dict(self.source)
        self._adopted: list[SortedRun] = []
        self._sound: dict[str, Stamp] = {}
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
        record(Path(self.out_dir), self._sound)

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
        runs = [*self._events.finish(), *sorted(self._adopted, key=lambda run: run.path.name)]
        spilled = runs
        if self.rule.stratified:
            runs = self._stratified(runs)
            spilled = [*spilled, *runs]
        counts = np.zeros(len(self.schema.classes), dtype=np.int64)
        for run in runs:
            counts += np.array(run.classes)
        if not counts.all():
            named = dict(zip(self.schema.classes, counts.tolist(), strict=True))
            raise InvalidEvents(f"a class has no events: {named}")
        if self.every_class:
            self._refuse_absent(runs)
        sparse = sparse_columns(self.schema, runs) if self.encoding == "auto" else {}
        ranges = [one for split in SPLITS for one in self._ranges(split, runs, tuple(sparse))]
        written = list(chain.from_iterable(self.mapper(write_shards, ranges)))
        ordered = sorted((one.shard for one in written), key=lambda one: (SPLITS.index(one.split), one.file))
        here = socket.gethostname()
        self._sound = {one.shard.file: one.stamp for one in written if one.host == here}
        for run in spilled:
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
            lengths={
                column.name: sum(run.filled[column.name] for run in runs) / int(counts.sum())
                for column in self.schema.columns
                if column.lists
            },
            weights=weight_sums(self.folder, self.schema, ordered),
        )
        (self.folder / MANIFEST).write_text(manifest.dumps(), encoding="utf-8")
        return manifest

    def _stratified(self, runs: Sequence[SortedRun]) -> list[SortedRun]:
        """Give the rule its cuts, of all events together, and return new runs that are divided by them.

        Raises:
            InvalidConfig: there are too many events.
        """
        refuse_many(sum(run.rows for run in runs))
        hashes, labels, inside = [], [], []
        for run in runs:
            with run.within(0, 2**64) as batch:
                by = self.schema.split_by
                groups = None if by is None else batch.column(by).to_numpy().copy()
                hashes.append(hashes_of(batch.column(EVENT_ID), self.rule.salt, groups))
                labels.append(batch.column(LABEL).to_numpy().copy())
                inside.append(np.full(run.rows, self.rule.train_where is None or run.split != "test"))
        of_all, classes = np.concatenate(hashes), np.concatenate(labels)
        _, first, places = np.unique(of_all[:, 1], return_index=True, return_inverse=True)
        contradicted = np.zeros(len(first), dtype=bool)
        # The same event in several classes is left out.
        contradicted[places[classes != classes[first][places]]] = True
        kept = np.sort(first[~contradicted])
        self.rule, together = stratify(
            self.rule, of_all[kept], classes[kept], len(self.schema.classes), np.concatenate(inside)[kept]
        )
        if together:
            notes = self.source.get("notes")
            said = (
                f"events of one '{self.schema.split_by}' belong to several classes: the splits keep their fractions of "
                "all events together, not of each class"
            )
            self.source["notes"] = [*(notes if isinstance(notes, list) else ()), said]
        writer = SortedRunWriter(self.folder, "stratified", self.schema, self.rule, self.buffer_bytes)
        step = max(1, self.buffer_bytes // sum(column.nbytes for column in self.schema.columns))
        for run in runs:
            for start in range(0, run.rows, step):
                with run.within(0, 2**64) as batch:
                    piece = pa.concat_batches([batch.slice(start, step), batch.slice(0, 0)])
                writer.write(self.schema.decode(piece))
        return writer.finish()

    def _refuse_absent(self, runs: Sequence[SortedRun]) -> None:
        counts = np.zeros((len(SPLITS), len(self.schema.classes)), dtype=np.int64)
        for run in runs:
            counts[SPLITS.index(run.split)] += np.array(run.classes)
        refuse_absent(self.rule, self.schema, counts)

    def _ranges(
        self, split: Split, all_runs: Sequence[SortedRun], sparse: tuple[str, ...]
    ) -> Iterator[ShardRange]:
        runs = tuple(run for run in all_runs if run.split == split)
        if not runs:
            return
        keys = _SplitKeys(runs, self.schema, drop_repeated=self.drop_repeated)
        last_keys = keys.balanced() if self.balance else ()
        rows_per_shard = self._rows_per_shard(all_runs)
        bounds = [0]
        kept, step = 0, self._shards_at_a_time(runs, sparse, rows_per_shard) * rows_per_shard
        repeated, refused = [], []
        for part in range(keys.parts):
            found = keys.part(part, last_keys)
            repeated.append(found.repeated)
            refused.append(found.refused)
            starts = range(-kept % step, len(found.kept), step)
            bounds += [int(found.kept[start]) for start in starts if kept + start]
            kept += len(found.kept)
        special = [np.concatenate(several) for several in (repeated, refused)]
        for number, (low, high) in enumerate(pairwise([*bounds, 2**64]) if kept else ()):
            here = [several[(several >= low) & (several <= high - 1)].tolist() for several in special]
            yield ShardRange(
                folder=self.folder,
                schema=self.schema,
                split=split,
                runs=runs,
                low=low,
                high=high,
                first=number * step // rows_per_shard,
                rows_per_shard=rows_per_shard,
                last_keys=last_keys,
                repeated=frozenset(here[0]),
                refused=frozenset(here[1]),
                sparse=sparse,
            )

    def _rows_per_shard(self, runs: Sequence[SortedRun]) -> int:
        """Return the events of a shard: as given, or so many that there are at most `MOST_SHARDS`, about."""
        if self.rows_per_shard is not None:
            return self.rows_per_shard
        rows = ROWS_PER_SHARD
        while sum(run.rows for run in runs) > rows * MOST_SHARDS:
            rows *= 2
        return rows

    def _shards_at_a_time(
        self, runs: Sequence[SortedRun], sparse: tuple[str, ...], rows_per_shard: int
    ) -> int:
        """Return the shards of one piece of work: enough pieces to share, and few where there are many runs."""
        shard_bytes = rows_per_shard * held_bytes(runs, self.schema, sparse)
        most = max(FEWEST_AT_A_TIME, int(SORT_BYTES / shard_bytes))
        return min(most, max(FEWEST_AT_A_TIME, sum(run.rows for run in runs) // (RANGES * rows_per_shard)))


@dataclass(frozen=True)
class _Keys:
    """Keys of a part of a split: of the events kept, of repeated ones, and of those in several classes."""

    kept: Keys
    labels: npt.NDArray[np.int64]
    repeated: Keys
    refused: Keys


@dataclass(frozen=True)
class _SplitKeys:
    """The keys of a split, a part of their range at a time: never all in memory."""

    runs: tuple[SortedRun, ...]
    schema: EventSchema
    _: KW_ONLY
    drop_repeated: bool

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-sum(run.rows for run in self.runs) // KEYS_AT_A_TIME)

    def part(self, number: int, last_keys: tuple[int, ...] = ()) -> _Keys:
        """Return one part; `last_keys` are those after which the events of a class are left out.

        Raises:
            InvalidEvents: an event is given twice, and is not to be dropped.
        """
        low, high = (2**64 * place // self.parts for place in (number, number + 1))
        found = [run.keys_and_labels(low, high) for run in self.runs]
        keys, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(keys, kind="stable")
        keys, labels = keys[order], labels[order]
        first = np.ones(len(keys), dtype=bool)
        first[1:] = keys[1:] != keys[:-1]
        repeated = np.unique(keys[~first])
        if len(repeated) and not self.drop_repeated:
            key = int(repeated[0])
            events, _ = next(merged(self.runs, self.schema, key, key + 1))
            raise InvalidEvents(
                f"the event id '{events[EVENT_ID][0].as_py()}' is there twice: leave the event out once or, where "
                f"other events have got it, as of files of one name, {IDS_OF_VALUES}"
            )
        change = ~first
        change[1:] &= labels[1:] != labels[:-1]
        refused = np.unique(keys[change])  # of events in different classes
        keep = first & ~np.isin(keys, refused) if len(refused) else first
        if last_keys:
            keep = keep & (keys <= np.array(last_keys, dtype=np.uint64)[labels])
        return _Keys(keys[keep], labels[keep], repeated, refused)

    def balanced(self) -> tuple[int, ...]:
        """Return the key of each class after which its events are more than the rarest class has."""
        classes = len(self.schema.classes)
        counts = np.array(
            [np.bincount(self.part(number).labels, minlength=classes) for number in range(self.parts)]
        )
        ends = np.cumsum(counts, axis=0)
        rarest = int(ends[-1].min())
        last_keys = [0] * classes
        for label in range(classes) if rarest else ():
            number = int(np.searchsorted(ends[:, label], rarest))
            part = self.part(number)
            of_class = part.kept[part.labels == label]
            last_keys[label] = int(of_class[rarest - 1 - int(ends[number, label] - counts[number, label])])
        return tuple(last_keys)
