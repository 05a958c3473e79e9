"""Decide whether events are held in memory or streamed, from what they take and what there is. No Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hep_ray.dataset.dataset import ROW_GROUP, Manifest
from hep_ray.dataset.splits import Split
from hep_ray.errors import Infeasible, InvalidConfig
from hep_ray.loading.shards import groups_per_block

Cache = Literal["auto", "resident", "streaming"]

STORE_FRACTION = 0.5
"""Of the smallest node's object store: the memory budget unless one is given."""
HELD_BLOCKS = 8
"""Blocks that a stream may hold at once: read, waiting, fetched ahead, being cut into batches."""
GB = 10**9


@dataclass(frozen=True)
class Ingest:
    """Where the events of a search are.

    Attributes:
        cache: `resident`: in the object store of every node; `streaming`: read anew in every epoch.
        asked: what was asked for.
        held: bytes that training and validation split take in memory, columns with many zeros without them.
        decoded: bytes that they would take as plain arrays.
        budget: bytes that they may take, of a node.
        store: bytes of the smallest node's object store; 0 where Ray does not tell.
        row_group: bytes of a row group in memory.
        streams: that a node reads at once, one for each worker of each trial that it may have; 1 where none is.
        readers: cores that Ray Data reads with.
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
) -> Ingest:
    """Decide between resident and streaming.

    `auto` streams what takes more than the budget. Ray Data gets a core for each node when it streams.

    Args:
        manifest: of the dataset.
        nodes: each node's resources, as `{"CPU": 16, "object_store_memory": 4e9}`.
        cache: what is asked for.
        budget: GB of a node that events may take; `STORE_FRACTION` of the smallest object store by default.

    Raises:
        InvalidConfig: the budget is not above 0, or there is no such cache.
        Infeasible: `resident` is asked for and no node's object store holds the events.
    """
    if cache not in ("auto", "resident", "streaming"):
        raise InvalidConfig(f"--cache must be auto, resident or streaming, got '{cache}'")
    if budget is not None and not 0 < budget < math.inf:
        raise InvalidConfig(f"--memory-budget must be above 0 GB and finite, got {budget:g}")
    store = int(min((node.get("object_store_memory", 0) for node in nodes), default=0))
    given = int(STORE_FRACTION * store) if budget is None else int(budget * GB)
    splits: tuple[Split, ...] = ("train", "val")
    rows = sum(manifest.rows(split) for split in splits)
    per_event = manifest.event_bytes
    held = rows * per_event
    if cache == "resident" and store and held > store:
        raise Infeasible(
            f"events do not fit into the object store of every node: {rows} events of training and validation take "
            f"{_gb(held)}, the smallest object store has {_gb(store)}; leave --cache to auto, or stream"
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
        readers=max(1, len(nodes)),
    )


def with_streams(ingest: Ingest, streams: int) -> Ingest:
    """Return the same plan for so many streams at once on a node.

    Raises:
        Infeasible: the budget does not hold a few row groups for each.
    """
    planned = replace(ingest, streams=max(1, streams))
    least = HELD_BLOCKS * ingest.row_group * planned.streams
    if ingest.cache == "streaming" and ingest.budget < least:
        raise Infeasible(
            f"--memory-budget {_gb(ingest.budget)} is too small: {planned.streams} streams, each of {HELD_BLOCKS} "
            f"row groups of {_gb(ingest.row_group)}, need {_gb(least)}; raise it"
        )
    return planned


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
