"""Read the events of a split from its shards: which row groups together, in which order, as which batches. No Ray.

A row group is the least that Parquet reads at once. A pass over a split is cut into blocks of several of them. Each is
read on its own, by whoever is free, who needs no torch, and its rows are taken in an order of its own. As events stand
in their shards in the order of a hash, the events of a block are a random choice to begin with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional

from hep_ray.addresses import Address, located
from hep_ray.dataset.dataset import ROW_GROUP, Dataset, TestPurpose
from hep_ray.dataset.schema import LABEL, Column, EventSchema
from hep_ray.dataset.shard_file import open_shard
from hep_ray.dataset.splits import Split
from hep_ray.dataset.values import ListColumn, SparseColumn, Values, compact, join, offsets_of, pays_sparse
from hep_ray.errors import InvalidConfig, ShardMismatch, StreamBroken
from hep_ray.loading.batches import Batch, BatchRequest, Events, EventWeights, by_length, prefetched
from hep_ray.loading.copies import sent

BLOCK_GROUPS = 16
"""Row groups of a block, at most: what is mixed with one another."""
BLOCK_BYTES = 128 * 2**20
"""Memory of a block, at most, but always a row group."""
BLOCK_SHUFFLE, BY_LENGTH = 2, 3
"""Sets the order within blocks apart from that of the row groups, which is drawn from (seed, epoch)."""
LARGE = 2**10
"""Bytes of an event's value from which a column stays in chunks; to look in many of them has its price too."""


def groups_per_block(row_group: int, memory: int = BLOCK_BYTES) -> int:
    """Return how many row groups of so many bytes are read at once, in the memory that they may take."""
    return max(1, min(BLOCK_GROUPS, min(BLOCK_BYTES, memory) // row_group))


@dataclass(frozen=True)
class RowGroups:
    """All row groups of a split, in order.

    Attributes:
        paths: of the shards.
        shard: (G,) of each group, an index into `paths`.
        number: (G,) of each within its shard.
        rows: (G,) events of each.
    """

    paths: tuple[str, ...]
    shard: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, split: Split, purpose: TestPurpose | None = None) -> RowGroups:
        """List the row groups of a split: of `ROW_GROUP` events, but for the last of a shard.

        Raises:
            InvalidConfig: the test split is asked for without a purpose.
        """
        paths = dataset.paths(split, purpose=purpose)
        shards = [shard.rows for shard in dataset.manifest.shards if shard.split == split]
        counts = [-(-rows // ROW_GROUP) for rows in shards]
        none = np.zeros(0, np.int64)
        number = np.concatenate([none, *map(np.arange, counts)])
        shard = np.repeat(np.arange(len(shards)), counts)
        rows = np.minimum(ROW_GROUP, np.array(shards, np.int64)[shard] - number * ROW_GROUP)
        return cls(tuple(str(path.absolute()) for path in paths), shard, number, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def reordered(self, order: npt.NDArray[np.int64]) -> RowGroups:
        """Return the groups in another order."""
        return RowGroups(self.paths, self.shard[order], self.number[order], self.rows[order])


@dataclass(frozen=True)
class ReadPlan:
    """Blocks of a pass, each a number of slices of row groups.

    Attributes:
        paths: of the shards.
        slices: (S, 5): the block, shard and number of the group, first row and row before which it ends.
        seed: of the order within blocks, None for that of the rows.
        without_zeros: columns that are handed on without their zeros, however they are stored.
    """

    paths: tuple[str, ...]
    slices: npt.NDArray[np.int64]
    seed: tuple[int, ...] | None = None
    without_zeros: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.slices[-1, 0]) + 1 if len(self.slices) else 0

    def rows(self, block: int) -> int:
        """Count the events of a block."""
        _, _, first, stop = self._slices(block).T
        return int((stop - first).sum())

    def order(self, block: int, rows: int) -> npt.NDArray[np.intp]:
        """Return the order in which the rows of a block are to be taken."""
        if self.seed is None:
            return np.arange(rows)
        return np.random.default_rng((*self.seed, BLOCK_SHUFFLE, block)).permutation(rows)

    def read(self, block: int, columns: Sequence[Column]) -> pa.Table:
        """Read the label and some columns of a block.

        Raises:
            ShardMismatch: a shard cannot be read, or is not as planned.
        """
        slices = self._slices(block)

        def of_shard(shard: int) -> pa.Table:
            return self._read_shard(self.paths[shard], slices[slices[:, 0] == shard, 1:], columns)

        shards = list(dict.fromkeys(slices[:, 0].tolist()))
        if isinstance(located(self.paths[shards[0]]), Address):  # of which each is waited for
            with ThreadPoolExecutor(min(len(shards), BLOCK_GROUPS)) as pool:
                table = pa.concat_tables(pool.map(of_shard, shards))
        else:
            table = pa.concat_tables(map(of_shard, shards))
        for place, column in enumerate(columns, 1):
            name = column.name
            stored = table.schema.field(name).type if name in table.column_names else None
            sparse = bool(column.shape) and not column.lists and stored == column.sparse_type
            if stored != column.arrow_type and not sparse:
                raise ShardMismatch(
                    f"column '{name}' of a shard is {stored}, not what its schema says; one of {self.paths[0]} …"
                )
            # Whole columns stay in chunks: joining them would copy all that they take.
            if name in self.without_zeros or (sparse and table[name].num_chunks > 1):
                values = column_of(table, column, without_zeros=True)
                assert not isinstance(values, ListColumn)
                table = table.set_column(place, name, column.sparse_type.encode(values))
        return table

    def _slices(self, block: int) -> npt.NDArray[np.int64]:
        return self.slices[self.slices[:, 0] == block, 1:]

    @staticmethod
    def _read_shard(path: str, groups: npt.NDArray[np.int64], columns: Sequence[Column]) -> pa.Table:
        names = [LABEL, *(column.name for column in columns)]

        def read(parquet: pq.ParquetFile, number: int, first: int, stop: int) -> pa.Table:
            if number >= parquet.num_row_groups or parquet.metadata.row_group(number).num_rows < stop:
                raise ShardMismatch(
                    f"row group {number} of {path} is missing or short: a shard has row groups of {ROW_GROUP} events "
                    "but for its last"
                )
            return parquet.read_row_group(number, columns=names, use_threads=False)[first:stop]

        try:
            with open_shard(path) as parquet:
                return pa.concat_tables(read(parquet, *group) for group in groups.tolist())
        except (OSError, pa.ArrowException) as exc:
            raise ShardMismatch(f"cannot read shard {path}: {exc}") from exc


def cut(
    groups: RowGroups,
    spans: Iterable[tuple[int, int]],
    per_block: int,
    seed: tuple[int, ...] | None = None,
) -> ReadPlan:
    """Cut a pass into blocks.

    Args:
        groups: in the order of the pass.
        spans: first and last row (excluded) of what is read, among the rows of all groups in their order.
        per_block: row groups, or parts of them, in a block.
        seed: of the order within blocks, None for that of the rows.
    """
    ends = offsets_of(groups.rows)
    found: list[npt.NDArray[np.int64]] = [np.zeros((0, 4), np.int64)]
    for first, last in spans:
        low, high = np.searchsorted(ends, first, side="right") - 1, np.searchsorted(ends, last)
        begin = ends[low:high]
        found.append(
            np.stack(
                [
                    groups.shard[low:high],
                    groups.number[low:high],
                    np.maximum(first - begin, 0),
                    np.minimum(last - begin, groups.rows[low:high]),
                ],
                axis=1,
            )
        )
    slices = np.concatenate(found)
    return ReadPlan(groups.paths, np.column_stack([np.arange(len(slices)) // per_block, slices]), seed)


Reader: TypeAlias = Callable[[ReadPlan, Sequence[Column]], Generator[pa.Table, None, None]]
"""Reads the blocks of a plan, in their order; closing it ends the reading."""


def read_locally(plan: ReadPlan, columns: Sequence[Column]) -> Generator[pa.Table, None, None]:
    """Read in this process, when asked for the next block; a `Reader`."""
    for block in range(len(plan)):
        yield plan.read(block, columns)


def chunks_of(table: pa.Table, column: Column) -> list[Values]:
    """Return the chunks of a column, one after the other, without a copy."""
    return [compact(chunk, column.shape) for chunk in table[column.name].chunks]


def column_of(table: pa.Table, column: Column, *, without_zeros: bool = False) -> Values:
    """Return a column of a table, without a copy where it has one chunk and keeps its form."""
    chunks = chunks_of(table, column)
    if without_zeros:
        chunks = [SparseColumn.from_dense(one) if isinstance(one, np.ndarray) else one for one in chunks]
    return chunks[0] if len(chunks) == 1 else join(chunks)


def events_of(table: pa.Table, columns: Iterable[Column]) -> Events:
    """Return the events of a table, without a copy where it has one chunk."""
    return Events({column.name: column_of(table, column) for column in columns}, table[LABEL].to_numpy())


def read_whole(
    groups: RowGroups,
    columns: Sequence[Column],
    per_block: int,
    reader: Reader = read_locally,
    without_zeros: Sequence[str] = (),
) -> Events:
    """Read all events of a split into one array a column.

    Args:
        groups: of the split.
        columns: to read.
        per_block: row groups that are read at once.
        reader: reads the blocks.
        without_zeros: columns that are kept without their zeros, however they are stored.

    Raises:
        ShardMismatch: a shard cannot be read.
        StreamBroken: the reader gave other events.
    """
    rows = int(groups.rows.sum())
    plan = dataclasses.replace(cut(groups, [(0, rows)], per_block), without_zeros=tuple(without_zeros))
    with closing(reader(plan, columns)) as tables:
        return packed(tables, rows, columns)


def packed(tables: Iterable[pa.Table], rows: int, columns: Sequence[Column]) -> Events:
    """Copy the columns of a split's blocks into one array each.

    Raises:
        StreamBroken: they have not so many rows.
    """
    dense: dict[str, npt.NDArray[Any]] = {}
    parts: dict[str, list[Values]] = {}
    labels = np.empty(rows, np.int64)
    start = 0
    for table in tables:
        labels[start : start + len(table)] = table[LABEL].to_numpy()
        for column in columns:
            at = start
            for values in chunks_of(table, column):
                if not isinstance(values, np.ndarray):
                    parts.setdefault(column.name, []).append(values)
                else:
                    whole = dense.setdefault(column.name, np.empty((rows, *values.shape[1:]), values.dtype))
                    whole[at : at + len(values)] = values
                at += len(values)
        start += len(table)
    if start != rows:
        raise StreamBroken(f"only {start} of the {rows} events of a split came")
    names = [column.name for column in columns]
    return Events({name: dense[name] if name in dense else join(parts[name]) for name in names}, labels)


def mostly_zeros(groups: RowGroups, columns: Sequence[Column]) -> list[str]:
    """Return the columns that are stored whole, but take less memory without their zeros, by the first row group."""
    first = events_of(next(read_locally(cut(groups, [(0, int(groups.rows[0]))], 1), columns)), columns).inputs
    return [
        column.name
        for column in columns
        if isinstance(values := first[column.name], np.ndarray)
        and pays_sparse(values.shape[1:], values.dtype, np.count_nonzero(values) / len(values))
    ]


def size_of(column: str) -> str:
    """Return the key of a sum of the sizes of a column's values."""
    return f"|{column}|"


def class_sums(dataset: Dataset, split: Split) -> dict[str | None, npt.NDArray[np.float64]]:
    """Return the events of each class of a split, and the sums of their weights and of the sizes of these, if any."""
    schema = dataset.schema
    sums: dict[str | None, npt.NDArray[np.float64]] = {
        None: np.array([*dataset.manifest.class_counts(split).values()], np.float64)
    }
    if schema.weight is not None:
        signed, sizes = np.array([*dataset.weight_sums[split].values()]).T
        sums |= {schema.weight: signed, size_of(schema.weight): sizes}
    return sums


@dataclass(frozen=True)
class ChunkedColumn:
    """A column (N, *shape) that lies in several arrays.

    Joining the chunks of images would copy all of them once more, into memory that this process alone holds.

    Attributes:
        arrays: (N_i, *shape), one after the other.
        starts: row at which each begins, then N.
    """

    arrays: tuple[npt.NDArray[Any], ...]
    starts: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return the values (len(rows), *shape) of rows that ascend."""
        if len(rows) and not (self.starts[0] <= rows[0] and rows[-1] < self.starts[-1]):
            raise IndexError(f"rows {rows[0]} to {rows[-1]} are taken of a column with {self.starts[-1]}")
        found = np.empty((len(rows), *self.arrays[0].shape[1:]), self.arrays[0].dtype)
        ends = np.searchsorted(rows, self.starts)
        for array, start, low, high in zip(self.arrays, self.starts, ends, ends[1:], strict=False):
            # The rows are within the array; numpy would copy once more to be able to say where they are not.
            array.take(rows[low:high] - start, axis=0, out=found[low:high], mode="clip")
        return found


@dataclass(frozen=True)
class Block:
    """Events of a few row groups that were read together.

    Attributes:
        events: the labels, the weights, and the columns that lie in one array.
        chunked: the other columns.
        columns: all of them in the order that batches have.
    """

    events: Events
    chunked: Mapping[str, ChunkedColumn]
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls, table: pa.Table, columns: Sequence[Column], names: Sequence[str], weights: EventWeights | None
    ) -> Block:
        """Take columns of a table, of which batches have those of these names, and the events' weights in the loss."""
        chunked = {}
        for column in columns:
            stored_whole = not column.lists and table.schema.field(column.name).type == column.arrow_type
            if stored_whole and column.nbytes >= LARGE:
                arrays = tuple(np.asarray(chunk) for chunk in chunks_of(table, column))
                chunked[column.name] = ChunkedColumn(arrays, offsets_of([len(array) for array in arrays]))
        events = events_of(table, [column for column in columns if column.name not in chunked])
        small = [name for name in names if name not in chunked]
        return cls(events.select(small, weights), chunked, tuple(names))

    def __len__(self) -> int:
        return len(self.events)

    def batch(self, rows: npt.NDArray[np.intp], device: torch.device | str) -> Batch:
        """Copy rows that ascend to a device."""
        batch = self.events.batch(rows, device)
        large = {name: sent(chunks.take(rows), device) for name, chunks in self.chunked.items()}
        inputs = batch.inputs | large
        return dataclasses.replace(batch, inputs={name: inputs[name] for name in self.columns})


@dataclass(frozen=True)
class ShardStream:
    """An `EventSource` on shards: every pass reads them anew, and holds a few row groups at a time.

    A pass with `shuffle` takes the row groups in an order of (seed, epoch), gives every rank an equal stretch of their
    rows, and mixes the rows of each block.

    Attributes:
        schema: of the events.
        groups: of the split.
        columns: that batches have.
        sums: `class_sums` of the split: None → events of each class, weight column → their weights, `size_of` it →
            the sizes of these.
        groups_per_block: row groups that are read, and mixed, at once.
        memory: bytes that the stream may hold.
        reader: reads the blocks.
        weights: of the events in the loss.
    """

    schema: EventSchema
    groups: RowGroups
    columns: tuple[str, ...]
    sums: Mapping[str | None, npt.NDArray[np.float64]]
    groups_per_block: int = BLOCK_GROUPS
    memory: int = 2**28
    reader: Reader = read_locally
    weights: EventWeights | None = None

    def __len__(self) -> int:
        return int(self.groups.rows.sum())

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """See `EventSource.labels`; they are read from the shards."""
        return self._read(len(self), []).labels

    def select(self, columns: Sequence[str], weights: EventWeights | None = None) -> ShardStream:
        """See `EventSource.select`."""
        return dataclasses.replace(self, columns=tuple(columns), weights=weights)

    def class_sums(
        self, classes: int, column: str | None = None, *, sizes: bool = False
    ) -> npt.NDArray[np.float64]:
        """See `EventSource.class_sums`.

        Raises:
            InvalidConfig: the column is not the schema's weight.
        """
        key = size_of(column) if sizes and column is not None else column
        if key not in self.sums or len(self.sums[key]) != classes:
            raise InvalidConfig(
                f"sums are known of the {len(self.sums[None])} classes and of the weight column, got {classes} classes "
                f"and column '{column}'"
            )
        return self.sums[key]

    def head(self, events: int) -> Events:
        """See `EventSource.head`; read in this process."""
        return self._read(min(events, len(self)), self._read_columns()).select(self.columns, self.weights)

    def head_batches(self, events: int, request: BatchRequest) -> Iterator[Batch]:
        """Return the batches of the first events, in their order, of which a block at a time is in memory.

        Args:
            events: as many, or all where there are fewer.
            request: of one rank, not shuffled.
        """
        rows = min(events, len(self))
        plan = cut(self.groups, [(0, rows)], self.groups_per_block)
        return prefetched(self._batches(plan, request.sizes(rows), request.device), request.device)

    def batches(self, request: BatchRequest) -> Iterator[Batch]:
        """See `EventSource.batches`."""
        events, sizes = len(self), request.sizes(len(self))
        if request.sharded:
            plan = cut(self.groups, request.spans(events), self.groups_per_block)
        else:
            first = request.rank * (events // request.world_size)
            groups, seed = self.groups, None
            if request.shuffle:
                order = np.random.default_rng((request.seed, request.epoch)).permutation(len(groups))
                groups, seed = groups.reordered(order), (request.seed, request.epoch, request.rank)
            plan = cut(groups, [(first, first + sum(sizes))], self.groups_per_block, seed)
        return prefetched(self._batches(plan, sizes, request.device, request.length_pool), request.device)

    def _batches(
        self, plan: ReadPlan, sizes: Sequence[int], device: torch.device | str, length_pool: int = 1
    ) -> Generator[Batch, None, None]:
        columns = self._read_columns()
        with closing(self.reader(plan, columns)) as tables:
            numbered = enumerate(tables)
            held: Block | None = None
            order, at = np.arange(0), 0
            for size in sizes:
                parts, left = [], size
                while left:
                    if held is None or at == len(held):
                        held = None  # let go before the next block takes its memory
                        number, table = next(numbered)
                        held = Block.of(table, columns, self.columns, self.weights)
                        del table
                        order, at = plan.order(number, len(held)), 0
                        if (
                            plan.seed is not None
                            and length_pool > 1
                            and (lengths := held.events.lengths) is not None
                        ):
                            ends = [*range(min(left, len(held)), len(held), sizes[0]), len(held)]
                            random = np.random.default_rng((*plan.seed, BY_LENGTH, number))
                            order = by_length(order, ends, lengths, held.events.labels, length_pool, random)
                    taken = min(left, len(held) - at)
                    parts.append(held.batch(np.sort(order[at : at + taken]), device))
                    at, left = at + taken, left - taken
                yield parts[0] if len(parts) == 1 else _joined(parts)

    def _read_columns(self) -> list[Column]:
        names = [*self.columns, *(() if self.weights is None else self.weights.columns)]
        return [self.schema.column(name) for name in dict.fromkeys(names)]

    def _read(self, events: int, columns: Sequence[Column]) -> Events:
        plan = cut(self.groups, [(0, events)], self.groups_per_block)
        return packed(read_locally(plan, columns), events, columns)


def _joined(parts: Sequence[Batch]) -> Batch:
    weights = [part.weights for part in parts if part.weights is not None]
    return Batch(
        {name: _concatenated([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        torch.cat([part.labels for part in parts]),
        torch.cat(weights) if weights else None,
    )


def _concatenated(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join values (B, *shape); lists are filled up to the longest of all."""
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        length = max(tensor.shape[1] for tensor in tensors)
        tensors = [
            functional.pad(one, (0, 0, 0, length - one.shape[1]), value=float("nan")) for one in tensors
        ]
    return torch.cat(list(tensors))
