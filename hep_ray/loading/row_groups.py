"""Reading shards by their row groups: which rows are read together, and in which order. No Ray.

A row group is the least that Parquet reads at once. A pass over a split is cut into pieces of several of them. Each is
read on its own, by whoever is free, who needs no torch, and its rows are taken in an order of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.dataset.manifest import ROW_GROUP, Shard
from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.dataset.sparse import SparseColumn, Values, join
from hep_ray.errors import ShardMismatch

LOCAL_SHUFFLE = 2
"""Sets the order within pieces apart from that of the row groups, which is drawn from (seed, epoch)."""


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
    def of(cls, paths: Sequence[Path], shards: Sequence[Shard]) -> RowGroups:
        """The row groups of shards, which are of `ROW_GROUP` events but for the last of a shard.

        Args:
            paths: of the shards.
            shards: what the manifest says of them.
        """
        counts = [-(-shard.rows // ROW_GROUP) for shard in shards]
        numbers = [np.arange(count) for count in counts]
        rows = [
            np.minimum(ROW_GROUP, shard.rows - number * ROW_GROUP)
            for shard, number in zip(shards, numbers, strict=True)
        ]
        none = np.zeros(0, np.int64)
        return cls(
            tuple(str(path.absolute()) for path in paths),
            np.repeat(np.arange(len(shards)), counts),
            np.concatenate([none, *numbers]),
            np.concatenate([none, *rows]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def in_order_of(self, order: npt.NDArray[np.int64]) -> RowGroups:
        """The groups in another order."""
        return RowGroups(self.paths, self.shard[order], self.number[order], self.rows[order])


@dataclass(frozen=True)
class ReadPlan:
    """Pieces of a pass, each a number of slices of row groups.

    Attributes:
        paths: of the shards.
        slices: (S, 5): the piece, shard and number of the group, first row and row before which it ends.
        seed: of the order within pieces, None for that of the rows.
        without_zeros: columns that are handed on without their zeros, however they are stored.
    """

    paths: tuple[str, ...]
    slices: npt.NDArray[np.int64]
    seed: tuple[int, ...] | None = None
    without_zeros: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.slices[-1, 0]) + 1 if len(self.slices) else 0

    def rows(self, piece: int) -> int:
        """Events of a piece."""
        mine = self.slices[self.slices[:, 0] == piece]
        return int((mine[:, 4] - mine[:, 3]).sum())

    def read(self, piece: int, schema: EventSchema, names: Sequence[str]) -> pa.Table:
        """The label and some columns of a piece.

        Raises:
            ShardMismatch: a shard cannot be read, or is not as planned.
        """
        mine = self.slices[self.slices[:, 0] == piece, 1:]
        tables = [
            self._rows(shard, mine[mine[:, 0] == shard, 1:], names)
            for shard in dict.fromkeys(mine[:, 0].tolist())
        ]
        table = pa.concat_tables(tables)
        self._check(table, schema, names)
        for place, name in enumerate(names, 1):
            sparse = schema.column(name).sparse_type
            # Whole columns stay in chunks: joining them would copy all that they take.
            if name in self.without_zeros or (
                table.column(name).num_chunks > 1 and table.column(name).type == sparse
            ):
                joined = sparse.encode(column_of(table, name, schema, without_zeros=True))
                table = table.set_column(place, name, joined)
        return table

    def _check(self, table: pa.Table, schema: EventSchema, names: Sequence[str]) -> None:
        for name in names:
            column = schema.column(name)
            found = table.schema.field(name).type if name in table.column_names else None
            if found != column.arrow_type and not (column.shape and found == column.sparse_type):
                raise ShardMismatch(
                    f"a shard has the column '{name}' as its schema says; one of {self.paths[0]} … has {found}"
                )

    def order(self, piece: int, rows: int) -> npt.NDArray[np.intp]:
        """In which order the rows of a piece are to be taken."""
        if self.seed is None:
            return np.arange(rows)
        return np.random.default_rng((*self.seed, LOCAL_SHUFFLE, piece)).permutation(rows)

    def _rows(self, shard: int, groups: npt.NDArray[np.int64], names: Sequence[str]) -> pa.Table:
        path = self.paths[shard]
        try:
            with pq.ParquetFile(path) as parquet:
                return pa.concat_tables(
                    self._group(parquet, path, number, first, stop, names)
                    for number, first, stop in groups.tolist()
                )
        except (OSError, pa.ArrowException) as fault:
            raise ShardMismatch(f"a shard that is streamed can be read; {path}: {fault}") from fault

    @staticmethod
    def _group(
        parquet: pq.ParquetFile, path: str, number: int, first: int, stop: int, names: Sequence[str]
    ) -> pa.Table:
        if number >= parquet.num_row_groups or parquet.metadata.row_group(number).num_rows < stop:
            raise ShardMismatch(
                f"a shard has row groups of {ROW_GROUP} events but for its last; group {number} of {path} has not"
            )
        return parquet.read_row_group(number, columns=[LABEL, *names], use_threads=False)[first:stop]


def cut(
    groups: RowGroups,
    spans: Iterable[tuple[int, int]],
    per_piece: int,
    seed: tuple[int, ...] | None = None,
) -> ReadPlan:
    """Cut a pass into pieces.

    Args:
        groups: in the order of the pass.
        spans: first and last row (excluded) of what is read, among the rows of all groups in their order.
        per_piece: row groups, or parts of them, in a piece.
        seed: of the order within pieces, None for that of the rows.
    """
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(groups.rows)])
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
    pieces = np.arange(len(slices)) // per_piece
    return ReadPlan(groups.paths, np.column_stack([pieces, slices]), seed)


def chunks_of(table: pa.Table, name: str, schema: EventSchema) -> list[Values]:
    """The chunks of a column, one after the other, without a copy."""
    return [schema.column(name).compact(chunk) for chunk in table.column(name).chunks]


def column_of(table: pa.Table, name: str, schema: EventSchema, *, without_zeros: bool = False) -> Values:
    """A column of a table, without a copy where it has one chunk and keeps its form."""
    pieces = chunks_of(table, name, schema)
    if without_zeros:
        pieces = [
            piece if isinstance(piece, SparseColumn) else SparseColumn.from_dense(piece) for piece in pieces
        ]
    return pieces[0] if len(pieces) == 1 else join(pieces)
