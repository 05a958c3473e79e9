"""Events through Ray Data: decoded once and shared by every trial of a node, or streamed anew in every epoch.

Resident, each split becomes one array per column in the object store, so a shuffle over all events is one gather per
batch. Columns stored without their zeros stay so and are made whole batch by batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from hep_ray.dataset.dataset import Dataset, TestPurpose
from hep_ray.dataset.manifest import ROW_GROUP
from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.dataset.sparse import SparseColumn, Values, join
from hep_ray.dataset.splits import Split
from hep_ray.errors import InvalidConfig, StreamBroken
from hep_ray.loading.batches import Events
from hep_ray.loading.cache import Ingest, bytes_held, groups_per_block
from hep_ray.loading.ray_reader import begin_here, streamed
from hep_ray.loading.row_groups import RowGroups, chunks_of, cut
from hep_ray.loading.shard_stream import PER_PIECE, Reader, ShardStream, decoded, one_by_one
from hep_ray.loading.source import EventSource

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")

RESIDENT_SPLITS: tuple[Split, ...] = ("train", "val")


class EventData(Protocol):
    """Handle to the events of a dataset: small and picklable."""

    @property
    def fingerprint(self) -> str:
        """Of the dataset."""

    def events(self, split: Split) -> EventSource:
        """The events of a split.

        Raises:
            InvalidConfig: the split was not opened.
        """


@dataclass(frozen=True)
class ResidentData:
    """Handle to events in the object store, valid while the Ray session that made it lives.

    Attributes:
        references: split → reference to its `Events`.
        fingerprint: of the dataset.
        nbytes: size of all its events in the object store of a node.
    """

    references: dict[Split, ObjectRef[Events]]
    fingerprint: str
    nbytes: int

    def events(self, split: Split) -> Events:
        """The events of a split as read-only views on the object store of this node.

        Raises:
            InvalidConfig: the split was not loaded.
        """
        return ray.get(_one(self.references, split))


@dataclass(frozen=True)
class StreamedData:
    """Handle to events that stay in their shards.

    Attributes:
        streams: split → its events.
        fingerprint: of the dataset.
    """

    streams: dict[Split, ShardStream]
    fingerprint: str

    def events(self, split: Split) -> ShardStream:
        """The events of a split.

        Raises:
            InvalidConfig: the split was not opened.
        """
        return _one(self.streams, split)


def _one(known: dict[Split, T], split: Split) -> T:
    if split not in known:
        raise InvalidConfig(f"only loaded splits can be read ({', '.join(known)}); got '{split}'")
    return known[split]


def open_events(
    dataset: Dataset,
    ingest: Ingest,
    splits: Sequence[Split] = RESIDENT_SPLITS,
    *,
    purpose: TestPurpose | None = None,
) -> ResidentData | StreamedData:
    """The events of splits as an ingest plan has them: in memory, or streamed.

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
    begin_here()
    reader = functools.partial(streamed, readers=ingest.readers, memory=ingest.memory_per_stream)
    streams = {
        split: _stream(dataset, split, purpose, ingest.groups_per_piece, ingest.memory_per_stream, reader)
        for split in splits
    }
    return StreamedData(streams, dataset.fingerprint)


def load_resident(
    dataset: Dataset,
    splits: Sequence[Split] = RESIDENT_SPLITS,
    columns: Sequence[str] | None = None,
    *,
    purpose: TestPurpose | None = None,
) -> ResidentData:
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
    groups = {split: _groups(dataset, split, purpose) for split in splits}
    row_group = ROW_GROUP * bytes_held(dataset.manifest)
    without_zeros = _mostly_zeros(groups[splits[0]], schema, names)
    references: dict[Split, ObjectRef[Events]] = {}
    nbytes = 0
    for split, of_split in groups.items():
        plan = cut(of_split, [(0, dataset.rows(split))], groups_per_block(row_group))
        plan = dataclasses.replace(plan, without_zeros=without_zeros)
        with closing(streamed(plan, schema, names)) as tables:
            events = _pack(tables, dataset.rows(split), names, schema)
        references[split] = ray.put(events)
        nbytes += events.nbytes
    return ResidentData(references, dataset.fingerprint, nbytes)


def _stream(
    dataset: Dataset, split: Split, purpose: TestPurpose | None, per_piece: int, memory: int, reader: Reader
) -> ShardStream:
    schema = dataset.schema
    counts = dataset.manifest.class_counts(split)
    sums: dict[str | None, npt.NDArray[np.float64]] = {None: np.array([*counts.values()], np.float64)}
    groups = _groups(dataset, split, purpose)
    if schema.weight is not None:
        total = np.zeros(len(schema.classes))
        plan = cut(groups, [(0, dataset.rows(split))], PER_PIECE)
        for table in one_by_one(plan, schema, [schema.weight]):
            total += decoded(table, schema, [schema.weight]).class_sums(len(total), schema.weight)
        sums[schema.weight] = total
    columns = tuple(column.name for column in schema.columns)
    return ShardStream(schema, groups, columns, sums, per_piece, memory, reader)


def _groups(dataset: Dataset, split: Split, purpose: TestPurpose | None) -> RowGroups:
    shards = [shard for shard in dataset.manifest.shards if shard.split == split]
    return RowGroups.of(dataset.paths(split, purpose=purpose), shards)


def _mostly_zeros(groups: RowGroups, schema: EventSchema, names: Sequence[str]) -> tuple[str, ...]:
    """The columns that are stored whole, but take less memory without their zeros, by the first row group."""
    plan = cut(groups, [(0, int(groups.rows[:1].sum()))], 1)
    return tuple(
        name
        for table in one_by_one(plan, schema, names)
        for name, values in decoded(table, schema, names).inputs.items()
        if not isinstance(values, SparseColumn)
        and schema.column(name).pays_sparse(np.count_nonzero(values) / len(values))
    )


def _pack(tables: Iterator[pa.Table], rows: int, names: Sequence[str], schema: EventSchema) -> Events:
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
        raise StreamBroken(f"a split is loaded whole; {start} of its {rows} events came")
    columns: dict[str, Values] = {
        name: dense[name] if name in dense else join(sparse[name]) for name in names if start
    }
    return Events.from_arrays(columns, labels)
