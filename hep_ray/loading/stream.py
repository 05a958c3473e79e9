"""Open the events of a dataset through Ray: decoded once for every trial of a node, or streamed anew in every epoch.

`plan_ingest` decides which, from what they take and what there is.

Resident, each split becomes one array per column in the object store, so a shuffle over all events is one gather per
batch. Columns stored without their zeros stay so and are densified batch by batch.

Ray Data hands out numbers of blocks, and its tasks read the row groups: its own Parquet reader took 5 s for a shard
that a task reads in 0.2 s.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
import pyarrow as pa
import ray

from hep_ray.dataset.dataset import ROW_GROUP, Dataset, Manifest, TestPurpose
from hep_ray.dataset.schema import EVENT_ID, Column, EventSchema
from hep_ray.dataset.splits import Split
from hep_ray.errors import HepRayError, Infeasible, InvalidConfig, InvalidEvents, StreamBroken
from hep_ray.loading.batches import Events, EventSource
from hep_ray.loading.shards import (
    ReadPlan,
    RowGroups,
    ShardStream,
    class_sums,
    groups_per_block,
    mostly_zeros,
    read_locally,
    read_whole,
)
from hep_ray.loading.varied import OtherEvents

if TYPE_CHECKING:
    from ray import ObjectRef

Cache = Literal["auto", "resident", "streaming"]

STORE_FRACTION = 0.5
"""Of the smallest node's object store: the memory budget unless one is given."""
HELD_BLOCKS = 8
"""Blocks that a stream may hold at once: read, waiting, fetched ahead, being cut into batches."""
GB = 10**9
RESIDENT_SPLITS: tuple[Split, ...] = ("train", "val")
LOCAL_BYTES = 2**28
"""Bytes of a split in memory up to which the driver reads it itself: within a second, as Ray Data starts in ten."""
FETCHED_AHEAD = 2
"""Blocks that are fetched before they are asked for."""
ERROR = "hep_ray.error"
"""Column of a table that holds a named error instead of events."""
BLOCK = "hep_ray.block"
"""Column of a table that says which block it is, in every row."""


@dataclass(frozen=True)
class Ingest:
    """Where the events of a search are.

    Attributes:
        cache: `resident`: in the object store of every node; `streaming`: read anew in every epoch.
        asked: what was asked for.
        held: bytes that training and validation split, and what is watched, take in memory, columns with many zeros
            without them.
        decoded: bytes that they would take as plain arrays.
        budget: bytes that they may take, of a node.
        store: bytes of the smallest node's object store; 0 where Ray does not tell.
        row_group: bytes of a row group in memory.
        streams: that a node reads at once, one for each worker of each trial that it may have; 1 where none is.
        readers: cores that Ray Data reads with, at least.
        spare: whether it gets every core that no trial takes, too.
    """

    cache: Literal["resident", "streaming"]
    asked: Cache
    held: int
    decoded: int
    budget: int
    store: int
    row_group: int
    streams: int = 1
    readers: int = 1
    spare: bool = False

    @property
    def memory_per_stream(self) -> int:
        """Bytes that a stream may hold."""
        return self.budget // self.streams

    @property
    def most_streams(self) -> int:
        """Streams that the budget of a node holds at once."""
        return self.budget // (HELD_BLOCKS * self.row_group)

    @property
    def groups_per_block(self) -> int:
        """Row groups that are read, and mixed, at once; see `hep_ray.loading.shards`."""
        return groups_per_block(self.row_group, self.memory_per_stream // HELD_BLOCKS)

    def __str__(self) -> str:
        size = f"training and validation take {_gb(self.held)} in memory"
        if self.held < self.decoded:
            size += f" ({_gb(self.decoded)} as plain arrays)"
        chosen = "" if self.asked == "auto" else " (asked for)"
        if self.cache == "resident":
            return f"resident{chosen}: {size}, the budget of a node is {_gb(self.budget)}"
        return (
            f"streaming{chosen}: {size}, the budget of a node is {_gb(self.budget)}; {self.streams} streams of up to "
            f"{_gb(self.memory_per_stream)} on a node, {self.groups_per_block * ROW_GROUP} events mixed at a time, "
            f"Ray Data reads with {self.readers} CPU"
        )


RESIDENT = Ingest("resident", "resident", held=0, decoded=0, budget=0, store=0, row_group=0)
"""Events are loaded, whatever they take."""


def plan_ingest(
    manifest: Manifest,
    nodes: Sequence[Mapping[str, float]],
    cache: Cache = "auto",
    budget: float | None = None,
    readers: int | None = None,
    beside: Sequence[Manifest] = (),
    *,
    copies: int = 1,
) -> Ingest:
    """Decide between resident and streaming.

    `auto` streams what takes more than the budget. Ray Data gets a core for each node when it streams, and those that
    no trial takes, unless it is said how many.

    Args:
        manifest: of the dataset.
        nodes: each node's resources, as `{"CPU": 16, "object_store_memory": 4e9}`.
        cache: what is asked for.
        budget: GB of a node that events may take; `STORE_FRACTION` of the smallest object store by default.
        readers: cores that Ray Data reads with.
        beside: of the datasets whose validation splits are evaluated beside the first's.
        copies: of the first's events, one for each fold.

    Raises:
        InvalidConfig: the budget is not above 0, there is no such cache, or readers are asked for where there is
            nothing for them to read.
        Infeasible: `resident` is asked for and no node's object store holds the events.
    """
    if cache not in ("auto", "resident", "streaming"):
        raise InvalidConfig(f"--cache must be auto, resident or streaming, got '{cache}'")
    if budget is not None and not 0 < budget < math.inf:
        raise InvalidConfig(f"--memory-budget must be above 0 GB and finite, got {budget:g}")
    if readers is not None and (readers < 1 or cache == "resident"):
        raise InvalidConfig(
            f"--readers must be at least 1 and read what is streamed; got {readers} with --cache {cache}: leave one of "
            "them out"
        )
    store = int(min((node.get("object_store_memory", 0) for node in nodes), default=0))
    given = int(STORE_FRACTION * store) if budget is None else int(budget * GB)
    splits: tuple[Split, ...] = ("train", "val")
    rows = copies * sum(manifest.rows(split) for split in splits) + sum(one.rows("val") for one in beside)
    per_event = max(one.event_bytes for one in (manifest, *beside))
    held = rows * per_event
    if cache == "resident" and store and held > store:
        raise Infeasible(
            f"events do not fit into the object store of every node: {rows} events of training, validation "
            f"and --watch or variations take {_gb(held)}, the smallest object store has {_gb(store)}; leave --cache to "
            "auto"
        )
    decided: Literal["resident", "streaming"] = "streaming" if held > given else "resident"
    return Ingest(
        cache=decided if cache == "auto" else cache,
        asked=cache,
        held=held,
        decoded=rows * sum(column.nbytes for column in manifest.event_schema.columns),
        budget=given,
        store=store,
        row_group=ROW_GROUP * per_event,
        readers=readers or max(1, len(nodes)),
        spare=readers is None,
    )


def with_streams(ingest: Ingest, streams: int) -> Ingest:
    """Return the same plan for so many streams at once on a node.

    Raises:
        Infeasible: the budget does not hold a few row groups for each.
    """
    planned = dataclasses.replace(ingest, streams=max(1, streams))
    least = HELD_BLOCKS * ingest.row_group * planned.streams
    if ingest.cache == "streaming" and ingest.budget < least:
        raise Infeasible(
            f"--memory-budget {_gb(ingest.budget)} is too small: {planned.streams} streams, each of {HELD_BLOCKS} "
            f"row groups of {_gb(ingest.row_group)}, need {_gb(least)}; raise it"
        )
    return planned


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"


@dataclass(frozen=True)
class EventData:
    """Handle to the events of a dataset: small and picklable, valid while the Ray session that made it lives.

    Attributes:
        sources: split → its events in the object store, as a stream of their shards, or here in memory, with which the
            handle is as large as they are.
        fingerprint: of the dataset.
        nbytes: size of the events in the object store of a node; 0 where they are streamed.
    """

    sources: dict[Split, ObjectRef[Events] | ShardStream | Events]
    fingerprint: str
    nbytes: int = 0

    def events(self, split: Split) -> EventSource:
        """Return the events of a split: read-only views on the object store of this node, or a stream.

        Raises:
            InvalidConfig: the split was not opened.
        """
        if split not in self.sources:
            raise InvalidConfig(f"split '{split}' was not loaded, only {', '.join(self.sources)}")
        source = self.sources[split]
        return source if isinstance(source, ShardStream | Events) else ray.get(source)


@dataclass(frozen=True)
class OtherData:
    """Handle to the events of a dataset that a variation names.

    Attributes:
        data: of its events.
        schema: its own.
        event_ids: of the split that is tested; None where none is.
    """

    data: EventData
    schema: EventSchema
    event_ids: pa.Array | None = None

    def events(self, split: Split) -> OtherEvents:
        """Return the events of a split, see `EventData.events`."""
        return OtherEvents(self.data.events(split), self.schema, self.event_ids)


def open_others(
    datasets: Mapping[str, Dataset],
    ingest: Ingest,
    split: Split,
    *,
    purpose: TestPurpose | None = None,
    ids: bool = False,
    here: bool = False,
) -> dict[str, OtherData]:
    """Open a split of the datasets that variations name, with the events' ids or without; see `open_events`."""
    return {
        name: OtherData(
            open_events(one, ingest, [split], purpose=purpose, here=here),
            one.schema,
            one.values(EVENT_ID, split, purpose=purpose).combine_chunks() if ids else None,
        )
        for name, one in datasets.items()
    }


def open_events(
    dataset: Dataset,
    ingest: Ingest,
    splits: Sequence[Split] = RESIDENT_SPLITS,
    *,
    purpose: TestPurpose | None = None,
    here: bool = False,
) -> EventData:
    """Open the events of splits as an ingest plan has them: in memory, or streamed.

    Args:
        dataset: an opened dataset.
        ingest: where they are, and how much each stream may hold.
        splits: to open.
        purpose: why the test split is read, where it is among `splits`.
        here: what is in memory is in that of this process, which needs no Ray.

    Raises:
        InvalidConfig: the test split is asked for without a purpose.
        ShardMismatch: a shard cannot be read.
    """
    if ingest.cache == "resident":
        return load_resident(dataset, splits, purpose=purpose, here=here)
    start_ray_data_locally()
    memory = ingest.memory_per_stream
    reader = functools.partial(read_with_ray, readers=ingest.readers, memory=memory)
    schema = dataset.schema
    columns = tuple(column.name for column in schema.columns)
    streams: dict[Split, ObjectRef[Events] | ShardStream | Events] = {}
    for split in splits:
        groups = RowGroups.of(dataset, split, purpose)
        sums = class_sums(dataset, split)
        streams[split] = ShardStream(schema, groups, columns, sums, ingest.groups_per_block, memory, reader)
    return EventData(streams, dataset.fingerprint)


def load_resident(
    dataset: Dataset,
    splits: Sequence[Split] = RESIDENT_SPLITS,
    *,
    purpose: TestPurpose | None = None,
    here: bool = False,
) -> EventData:
    """Decode splits into memory, that of the object store or `here`; call it on the driver, once per search.

    See `open_events`.

    Raises:
        InvalidConfig: the test split is asked for without a purpose.
        InvalidEvents: a split has no events.
        ShardMismatch: a shard cannot be read.
    """
    read = dataset.schema.columns
    groups = {split: RowGroups.of(dataset, split, purpose) for split in splits}
    per_block = groups_per_block(ROW_GROUP * dataset.manifest.event_bytes)
    without_zeros = mostly_zeros(groups[splits[0]], read)
    sources: dict[Split, ObjectRef[Events] | ShardStream | Events] = {}
    nbytes = 0
    for split, groups_of_split in groups.items():
        if not dataset.rows(split):
            raise InvalidEvents(f"split '{split}' has no events")
        small = dataset.rows(split) * dataset.manifest.event_bytes <= LOCAL_BYTES
        reader = read_locally if small else read_with_ray
        events = read_whole(groups_of_split, read, per_block, reader, without_zeros)
        sources[split] = events if here else ray.put(events)
        nbytes += events.nbytes
    return EventData(sources, dataset.fingerprint, nbytes)


def read_with_ray(
    plan: ReadPlan,
    columns: Sequence[Column],
    *,
    readers: int | None = None,
    memory: int | None = None,
) -> Generator[pa.Table, None, None]:
    """Read the blocks of a plan in their order, by tasks of Ray Data ahead of their use; a `Reader`.

    Args:
        plan: what is read.
        columns: beside the label.
        readers: tasks at a time; as many as the cluster has cores unless given.
        memory: bytes that blocks may take in the object store. With neither given there is no bound, for blocks that
            all fit into it.

    Raises:
        ShardMismatch: a shard cannot be read, or is not as planned.
        StreamBroken: a table is not one block, whole, and the next one.
    """
    if not len(plan):
        return
    from ray import data  # seconds, which a small dataset has no need of
    from ray.data import ExecutionResources

    def read(row: dict[str, npt.NDArray[Any]]) -> pa.Table:
        try:
            block = _only(row["id"])
            table = plan.read(block, columns)
            return table.append_column(BLOCK, pa.repeat(pa.scalar(block, pa.int64()), len(table)))
        except HepRayError as exc:  # Ray Data would hand on its text alone
            return pa.table({ERROR: [pickle.dumps(exc)]})

    with _quiet():
        blocks = data.range(len(plan), override_num_blocks=len(plan))
        blocks.context.enable_progress_bars = False
        options = blocks.context.execution_options
        options.preserve_order = True
        if readers is None and memory is None:
            # Ray Data learns what it may use seconds after it began, and reads with one task until then.
            blocks.context.op_resource_reservation_enabled = False
        else:
            options.resource_limits = ExecutionResources.for_limits(cpu=readers, object_store_memory=memory)
        tables: Any = iter(
            blocks.map_batches(read, batch_size=None).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=FETCHED_AHEAD
            )
        )
        try:
            come = 0
            for table in tables:
                if table.column_names == [ERROR]:
                    raise pickle.loads(table[ERROR][0].as_py())  # noqa: S301 - of our own task
                yield _checked(table, come, plan)
                come += 1
            if come != len(plan):
                raise StreamBroken(f"only {come} of the {len(plan)} blocks of a pass came")
        finally:
            tables.close()  # which stops the tasks


def start_ray_data_locally() -> None:
    """Run a dataset of one row in this process, the driver, where trials on other nodes are about to stream.

    Ray Data keeps two actors for all its datasets on the node where the first one runs; when a worker node is lost,
    it must not take them along.
    """
    if sum(node["Alive"] for node in ray.nodes()) > 1:  # type: ignore[no-untyped-call]
        from ray import data

        with _quiet():
            one = data.range(1)
            one.context.enable_progress_bars = False
            one.materialize()


def _only(ids: npt.NDArray[Any]) -> int:
    """Return the one number of a block that a task is given.

    Raises:
        StreamBroken: it is given none, or several, of which all but the first would vanish.
    """
    if len(ids) != 1:
        raise StreamBroken(
            f"a task of Ray Data was given {len(ids)} blocks to read instead of 1: {ids.tolist()[:10]}"
        )
    return int(ids[0])


def _checked(table: pa.Table, block: int, plan: ReadPlan) -> pa.Table:
    """Drop the column that says which block it is.

    Raises:
        StreamBroken: it is not the block that follows, whole.
    """
    found = table[BLOCK].unique().to_pylist() if BLOCK in table.column_names else []
    if found != [block] or len(table) != plan.rows(block):
        raise StreamBroken(
            f"block {block} of {plan.rows(block)} events must come next, and whole, got {len(table)} events of blocks "
            f"{found}"
        )
    return table.drop_columns([BLOCK])


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
