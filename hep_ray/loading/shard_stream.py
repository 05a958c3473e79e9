"""Events of a split that stay in their shards: every pass reads them anew, and holds a few row groups at a time.

A pass with `shuffle` takes the row groups in an order of (seed, epoch), deals an equal stretch of their rows to every
rank, and mixes the rows of each piece of several groups. As events stand in their shards in the order of a hash, the
events of a piece are a random choice to begin with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.dataset.sparse import Values, join
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch, Events
from hep_ray.loading.piece import Piece
from hep_ray.loading.row_groups import ReadPlan, RowGroups, column_of, cut
from hep_ray.loading.source import EventWeights, LastBatch, check_pass, dealt_spans
from hep_ray.loading.tensors import ahead

PER_PIECE = 16
"""Row groups of a piece, at most: what is mixed with one another."""

Reader: TypeAlias = Callable[[ReadPlan, EventSchema, Sequence[str]], Generator[pa.Table, None, None]]
"""Reads the pieces of a plan, in their order; closing it ends the reading."""


def one_by_one(plan: ReadPlan, schema: EventSchema, names: Sequence[str]) -> Generator[pa.Table, None, None]:
    """A `Reader` that reads in this process, when asked for the next piece."""
    for piece in range(len(plan)):
        yield plan.read(piece, schema, names)


def decoded(table: pa.Table, schema: EventSchema, names: Sequence[str]) -> Events:
    """Events of a table, without a copy where it has one chunk."""
    columns: dict[str, Values] = {name: column_of(table, name, schema) for name in names}
    return Events(columns, table.column(LABEL).to_numpy())


@dataclass(frozen=True)
class ShardStream:
    """An `EventSource` on shards.

    Attributes:
        schema: of the events.
        groups: of the split.
        columns: that batches have.
        sums: `class_sums` of the split: None → events of each class, weight column → their weights.
        per_piece: row groups of a piece.
        memory: bytes that the stream may hold.
        reader: reads the pieces.
        weights: of the events in the loss.
    """

    schema: EventSchema
    groups: RowGroups
    columns: tuple[str, ...]
    sums: Mapping[str | None, npt.NDArray[np.float64]]
    per_piece: int = PER_PIECE
    memory: int = 2**28
    reader: Reader = one_by_one
    weights: EventWeights | None = None

    def __len__(self) -> int:
        return int(self.groups.rows.sum())

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """See `EventSource.labels`; they are read from the shards."""
        return self._read(len(self), ()).labels

    def select(self, columns: Sequence[str], weights: EventWeights | None = None) -> ShardStream:
        """See `EventSource.select`."""
        return dataclasses.replace(self, columns=tuple(columns), weights=weights)

    def class_sums(self, classes: int, column: str | None = None) -> npt.NDArray[np.float64]:
        """See `EventSource.class_sums`.

        Raises:
            InvalidConfig: the column is not the schema's weight.
        """
        if column not in self.sums or len(self.sums[column]) != classes:
            raise InvalidConfig(
                f"sums are known of the {len(self.sums[None])} classes and of the weight column; got {classes} classes "
                f"and column '{column}'"
            )
        return self.sums[column]

    def head(self, events: int) -> Events:
        """See `EventSource.head`; read in this process."""
        return self._read(min(events, len(self)), self._names()).select(self.columns, self.weights)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        last_batch: LastBatch = "keep",
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """See `EventSource.batches`."""
        sizes = check_pass(len(self), batch_size, rank, world_size, last_batch)
        share = len(self) // world_size
        groups, own = self.groups, None
        if shuffle:
            own = (seed, epoch, rank)
            groups = groups.in_order_of(np.random.default_rng((seed, epoch)).permutation(len(groups)))
        plan = cut(groups, [(rank * share, rank * share + sum(sizes))], self.per_piece, own)
        return ahead(self._batches(plan, sizes, device), device)

    def dealt(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        last_batch: LastBatch = "keep",
        device: torch.device | str = "cpu",
    ) -> tuple[npt.NDArray[np.intp], Iterator[Batch]]:
        """See `EventSource.dealt`."""
        rows, spans = dealt_spans(len(self), batch_size, rank, world_size, last_batch)
        plan = cut(self.groups, spans, self.per_piece)
        sizes = (last - first for first, last in spans)
        return rows, ahead(self._batches(plan, sizes, device), device)

    def _batches(
        self, plan: ReadPlan, sizes: Iterable[int], device: torch.device | str
    ) -> Generator[Batch, None, None]:
        with closing(self.reader(plan, self.schema, self._names())) as tables:
            pieces = enumerate(tables)
            held: Piece | None = None
            order, at = np.arange(0), 0
            for size in sizes:
                parts, left = [], size
                while left:
                    if held is None or at == len(held):
                        held = None  # let go before the next piece takes its memory
                        number, table = next(pieces)
                        held = Piece.of(table, self.schema, self.columns, self.weights)
                        del table
                        order, at = plan.order(number, len(held)), 0
                    taken = min(left, len(held) - at)
                    parts.append(held.batch(np.sort(order[at : at + taken]), device))
                    at, left = at + taken, left - taken
                yield parts[0] if len(parts) == 1 else _joined(parts)

    def _names(self) -> tuple[str, ...]:
        weight = None if self.weights is None else self.weights.column
        return self.columns if weight in (None, *self.columns) else (*self.columns, str(weight))

    def _read(self, events: int, names: tuple[str, ...]) -> Events:
        plan = cut(self.groups, [(0, events)], self.per_piece)
        read = [decoded(table, self.schema, names) for table in one_by_one(plan, self.schema, names)]
        columns: dict[str, Values] = {name: join([one.inputs[name] for one in read]) for name in names}
        return Events(columns, np.concatenate([one.labels for one in read]))


def _joined(parts: Sequence[Batch]) -> Batch:
    weights = [part.weights for part in parts if part.weights is not None]
    return Batch(
        {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        torch.cat([part.labels for part in parts]),
        torch.cat(weights) if weights else None,
    )
