"""Open the events of a dataset through Ray: decoded once for every trial of a node, or streamed anew in every epoch.

Resident, each split becomes one array per column in the object store, so a shuffle over all events is one gather per
batch. Columns stored without their zeros stay so and are densified batch by batch.

Ray Data hands out numbers of blocks, and its tasks read the row groups: its own Parquet reader took 5 s for a shard
that a task reads in 0.2 s.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pickle
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.data import ExecutionResources

from hep_ray.dataset.dataset import ROW_GROUP, Dataset, TestPurpose
from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.dataset.sparse import SparseColumn, Values, join
from hep_ray.dataset.splits import Split
from hep_ray.errors import HepRayError, InvalidConfig, InvalidEvents, StreamBroken
from hep_ray.loading.batches import Events, EventSource
from hep_ray.loading.cache import Ingest
from hep_ray.loading.shards import (
    BLOCK_GROUPS,
    ReadPlan,
    RowGroups,
    ShardStream,
    chunks_of,
    cut,
    events_of,
    groups_per_block,
    read_locally,
)

if TYPE_CHECKING:
    from ray import ObjectRef

RESIDENT_SPLITS: tuple[Split, ...] = ("train", "val")
FETCHED_AHEAD = 2
"""Blocks that are fetched before they are asked for."""
ERROR = "hep_ray.error"
"""Column of a table that holds a named error instead of events."""
BLOCK = "hep_ray.block"
"""Column of a table that says which block it is, in every row."""


@dataclass(frozen=True)
class EventData:
    """Handle to the events of a dataset: small and picklable, valid while the Ray session that made it lives.

    Attributes:
        sources: split → its events in the object store, or as a stream of their shards.
        fingerprint: of the dataset.
        nbytes: size of the events in the object store of a node; 0 where they are streamed.
    """

    sources: dict[Split, ObjectRef[Events] | ShardStream]
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
        return source if isinstance(source, ShardStream) else ray.get(source)


def open_events(
    dataset: Dataset,
    ingest: Ingest,
    splits: Sequence[Split] = RESIDENT_SPLITS,
    *,
    purpose: TestPurpose | None = None,
) -> EventData:
    """Open the events of splits as an ingest plan has them: in memory, or streamed.

    Args:
        dataset: an opened dataset.
        ingest: where they are, and how much each stream may hold.
        splits: to open.
        purpose: why the test split is read, where it is among `splits`.

    Raises:
        InvalidConfig: the test split is asked for without a purpose.
        ShardMismatch: a shard cannot be read.
    """
    if ingest.cache == "resident":
        return load_resident(dataset, splits, purpose=purpose)
    start_ray_data_locally()
    memory = ingest.memory_per_stream
    reader = functools.partial(read_with_ray, readers=ingest.readers, memory=memory)
    schema = dataset.schema
    columns = tuple(column.name for column in schema.columns)
    streams: dict[Split, ObjectRef[Events] | ShardStream] = {}
    for split in splits:
        groups = RowGroups.of(dataset, split, purpose)
        sums = _class_sums(dataset, split, groups)
        streams[split] = ShardStream(schema, groups, columns, sums, ingest.groups_per_block, memory, reader)
    return EventData(streams, dataset.fingerprint)


def load_resident(
    dataset: Dataset,
    splits: Sequence[Split] = RESIDENT_SPLITS,
    columns: Sequence[str] | None = None,
    *,
    purpose: TestPurpose | None = None,
) -> EventData:
    """Decode splits into the object store; call it on the driver, once per search.

    Args:
        dataset: an opened dataset.
        splits: to load.
        columns: to load; all of the schema by default.
        purpose: why the test split is read, where it is among `splits`.

    Raises:
        InvalidSchema: a column is not in the schema.
        InvalidConfig: the test split is asked for without a purpose.
        InvalidEvents: a split has no events.
        ShardMismatch: a shard cannot be read.
    """
    schema = dataset.schema
    names = [schema.column(name).name for name in columns or [column.name for column in schema.columns]]
    groups = {split: RowGroups.of(dataset, split, purpose) for split in splits}
    per_block = groups_per_block(ROW_GROUP * dataset.manifest.event_bytes)
    without_zeros = _mostly_zeros(groups[splits[0]], schema, names)
    references: dict[Split, ObjectRef[Events] | ShardStream] = {}
    nbytes = 0
    for split, groups_of_split in groups.items():
        rows = dataset.rows(split)
        if not rows:
            raise InvalidEvents(f"split '{split}' has no events")
        plan = cut(groups_of_split, [(0, rows)], per_block)
        with closing(
            read_with_ray(dataclasses.replace(plan, without_zeros=without_zeros), schema, names)
        ) as tables:
            events = _packed(tables, rows, names, schema)
        references[split] = ray.put(events)
        nbytes += events.nbytes
    return EventData(references, dataset.fingerprint, nbytes)


def _class_sums(
    dataset: Dataset, split: Split, groups: RowGroups
) -> dict[str | None, npt.NDArray[np.float64]]:
    """Events of each class, and sums of their weights where the schema has some."""
    schema = dataset.schema
    sums: dict[str | None, npt.NDArray[np.float64]] = {
        None: np.array([*dataset.manifest.class_counts(split).values()], np.float64)
    }
    if schema.weight is not None:
        total = np.zeros(len(schema.classes))
        plan = cut(groups, [(0, int(groups.rows.sum()))], BLOCK_GROUPS)
        for table in read_locally(plan, schema, [schema.weight]):
            total += events_of(table, schema, [schema.weight]).class_sums(len(total), schema.weight)
        sums[schema.weight] = total
    return sums


def _mostly_zeros(groups: RowGroups, schema: EventSchema, names: Sequence[str]) -> tuple[str, ...]:
    """Columns that are stored whole, but take less memory without their zeros, by the first row group."""
    first = ShardStream(schema, groups, tuple(names), {}).head(int(groups.rows[0]))
    return tuple(
        name
        for name, values in first.inputs.items()
        if not isinstance(values, SparseColumn)
        and schema.column(name).pays_sparse(np.count_nonzero(values) / len(values))
    )


def _packed(tables: Iterable[pa.Table], rows: int, names: Sequence[str], schema: EventSchema) -> Events:
    """Copy the columns of a split's blocks into one array each."""
    dense: dict[str, npt.NDArray[Any]] = {}
    sparse: dict[str, list[SparseColumn]] = {}
    labels = np.empty(rows, np.int64)
    start = 0
    for table in tables:
        labels[start : start + len(table)] = table.column(LABEL).to_numpy()
        for name in names:
            at = start
            for values in chunks_of(table, name, schema):
                if isinstance(values, SparseColumn):
                    sparse.setdefault(name, []).append(values)
                else:
                    whole = dense.setdefault(name, np.empty((rows, *values.shape[1:]), values.dtype))
                    whole[at : at + len(values)] = values
                at += len(values)
        start += len(table)
    if start != rows:
        raise StreamBroken(f"only {start} of the {rows} events of a split came")
    columns: dict[str, Values] = {
        name: dense[name] if name in dense else join(sparse[name]) for name in names
    }
    return Events(columns, labels)


def read_with_ray(
    plan: ReadPlan,
    schema: EventSchema,
    names: Sequence[str],
    *,
    readers: int | None = None,
    memory: int | None = None,
) -> Generator[pa.Table, None, None]:
    """Read the blocks of a plan in their order, by tasks of Ray Data ahead of their use; a `Reader`.

    Args:
        plan: what is read.
        schema: of the events.
        names: of the columns beside the label.
        readers: tasks at a time; as many as the cluster has cores unless given.
        memory: bytes that blocks may take in the object store. With neither given there is no bound, for blocks that
            all fit into it.

    Raises:
        ShardMismatch: a shard cannot be read, or is not as planned.
        StreamBroken: a table is not one block, whole, and the next one.
    """
    if not len(plan):
        return

    def read(row: dict[str, npt.NDArray[Any]]) -> pa.Table:
        try:
            block = _only(row["id"])
            table = plan.read(block, schema, names)
            return table.append_column(BLOCK, pa.repeat(pa.scalar(block, pa.int64()), len(table)))
        except HepRayError as exc:  # Ray Data would hand on its text alone
            return pa.table({ERROR: [pickle.dumps(exc)]})

    with _quiet():
        blocks = ray.data.range(len(plan), override_num_blocks=len(plan))
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
                    raise pickle.loads(table.column(ERROR)[0].as_py())  # noqa: S301 - of our own task
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
        with _quiet():
            one = ray.data.range(1)
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
    found = table.column(BLOCK).unique().to_pylist() if BLOCK in table.column_names else []
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
