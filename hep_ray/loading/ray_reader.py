"""Pieces of a pass read by tasks of Ray Data, ahead of their use and in their order.

Ray Data hands out numbers of pieces, and its tasks read the row groups: its own Parquet reader took 5 s for a shard
that a task reads in 0.2 s.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.data import ExecutionResources

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import HepRayError, StreamBroken
from hep_ray.loading.row_groups import ReadPlan

AHEAD = 2
"""Blocks that are fetched before they are asked for."""
FAULT = "hep_ray.fault"
"""Column of a block that holds a named error instead of events."""
PIECE = "hep_ray.piece"
"""Column of a block that says which piece it is, in every row."""


def streamed(
    plan: ReadPlan,
    schema: EventSchema,
    names: Sequence[str],
    *,
    readers: int | None = None,
    memory: int | None = None,
) -> Generator[pa.Table, None, None]:
    """The pieces of a plan in their order, read by Ray Data's tasks ahead of their use; a `Reader`.

    Args:
        plan: what is read.
        schema: of the events.
        names: of the columns beside the label.
        readers: tasks at a time; as many as the cluster has cores unless given.
        memory: bytes that blocks may take in the object store. With neither given there is no bound, for pieces that
            all fit into it.

    Raises:
        ShardMismatch: a shard cannot be read, or is not as planned.
        StreamBroken: a block is not one piece, whole, and the next one.
    """
    if not len(plan):
        return

    def read(row: dict[str, npt.NDArray[Any]]) -> pa.Table:
        try:
            piece = _alone(row["id"])
            table = plan.read(piece, schema, names)
            return table.append_column(PIECE, pa.repeat(pa.scalar(piece, pa.int64()), len(table)))
        except HepRayError as fault:  # Ray Data would hand on its text alone
            return pa.table({FAULT: [pickle.dumps(fault)]})

    with _quiet():
        pieces = ray.data.range(len(plan), override_num_blocks=len(plan))
        pieces.context.enable_progress_bars = False
        options = pieces.context.execution_options
        options.preserve_order = True
        if readers is None and memory is None:
            # Ray Data learns what it may use seconds after it began, and reads with one task until then.
            pieces.context.op_resource_reservation_enabled = False
        else:
            options.resource_limits = ExecutionResources.for_limits(cpu=readers, object_store_memory=memory)
        tables: Any = iter(
            pieces.map_batches(read, batch_size=None).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=AHEAD
            )
        )
        try:
            come = 0
            for table in tables:
                if table.column_names == [FAULT]:
                    raise pickle.loads(table.column(FAULT)[0].as_py())  # noqa: S301 - of our own task
                yield _next(table, come, plan)
                come += 1
            if come != len(plan):
                raise StreamBroken(f"a pass ends with its last piece; {come} of {len(plan)} pieces came")
        finally:
            tables.close()  # which stops the tasks


def begin_here() -> None:
    """Run a dataset of one row in this process, the driver, where trials on other nodes are about to stream.

    Ray Data keeps two actors for all its datasets on the node where the first one runs; when a worker node is lost,
    it must not take them along.
    """
    if sum(node["Alive"] for node in ray.nodes()) > 1:  # type: ignore[no-untyped-call]
        with _quiet():
            one = ray.data.range(1)
            one.context.enable_progress_bars = False
            one.materialize()


def _alone(ids: npt.NDArray[Any]) -> int:
    """The one number of a piece that a task is given.

    Raises:
        StreamBroken: it is given none, or several, of which all but the first would vanish.
    """
    if len(ids) != 1:
        raise StreamBroken(
            f"a task of Ray Data reads one piece, a block of one row; it was given {len(ids)}: {ids.tolist()[:10]}"
        )
    return int(ids[0])


def _next(table: pa.Table, piece: int, plan: ReadPlan) -> pa.Table:
    """A block without the column that says which piece it is.

    Raises:
        StreamBroken: it is not the piece that follows, whole.
    """
    found = table.column(PIECE).unique().to_pylist() if PIECE in table.column_names else []
    if found != [piece] or len(table) != plan.rows(piece):
        raise StreamBroken(
            f"pieces come one by one and whole; piece {piece} has {plan.rows(piece)} events, a block of {len(table)} "
            f"came, of pieces {found}"
        )
    return table.drop_columns([PIECE])


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
