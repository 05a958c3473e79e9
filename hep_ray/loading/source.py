"""What training asks of the events of a split, wherever they are: in memory, on the device, or streamed from shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.errors import InvalidConfig

if TYPE_CHECKING:
    from hep_ray.loading.batches import Batch, Events

LastBatch = Literal["share", "keep", "drop"]
"""What becomes of the events that are left over when a pass is cut into batches; see `batch_sizes`."""


@dataclass(frozen=True)
class EventWeights:
    """How much an event counts in the loss: a factor of its class, times its value in a column.

    Attributes:
        factors: (classes,) float64.
        column: scalar column of sample weights, None where there is none.
    """

    factors: npt.NDArray[np.float64]
    column: str | None = None

    def of(self, labels: npt.NDArray[np.int64], values: npt.NDArray[Any] | None) -> npt.NDArray[np.float32]:
        """(N,) float32 of N events.

        Args:
            labels: (N,).
            values: (N,) of the column, None where there is none.
        """
        factors = self.factors[labels]
        return (factors if values is None else values.astype(np.float64) * factors).astype(np.float32)


class EventSource(Protocol):
    """Events of one split.

    Two sources of the same events give the same batches without `shuffle`, and in one epoch the same events with it;
    their order then depends on the source, on (seed, epoch) and on nothing else.
    """

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) of all events in their order."""

    @property
    def memory(self) -> int | None:
        """Bytes that events taken out by `head` may fill; None where all are in memory already."""

    def __len__(self) -> int:
        """Events of the split."""

    def select(self, columns: Sequence[str], weights: EventWeights | None = None) -> EventSource:
        """The same events with fewer columns, and with weights."""

    def class_sums(self, classes: int, column: str | None = None) -> npt.NDArray[np.float64]:
        """(classes,) events of each class, or the sum of their values in a scalar column."""

    def head(self, events: int) -> Events:
        """The first events, in memory; they stand in random order. All, where there are not so many."""

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
        """One pass over the events of this rank, all ranks having equally many and none in common.

        Up to `world_size` - 1 events are left out; the others are cut as `batch_sizes` says.

        Raises:
            InvalidConfig: `batch_size` is below 1, `rank` is not one of `world_size`, or no batch would result.
        """

    def dealt(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        last_batch: LastBatch = "keep",
        device: torch.device | str = "cpu",
    ) -> tuple[npt.NDArray[np.intp], Iterator[Batch]]:
        """Whole batches in the order of the events, dealt out to the ranks in turn.

        Together the ranks have every event once, in the batches that one process would have, so that each gives the
        numbers that one process would. A rank that gets none is given the first batch, and no rows.

        Returns:
            The rows of the events that count for this rank, in the order of its batches, and the batches.
        """


def batch_sizes(events: int, batch_size: int, last_batch: LastBatch) -> list[int]:
    """Events of each batch of one pass.

    All hold `batch_size` but for what is left over, r events, at the end:

    - `keep`: they are a batch, however few.
    - `drop`: they are left out.
    - `share`: fewer than half a batch take events over from the batch before, so that both hold at least half of
      `batch_size` and none more than it. The last one then holds the least multiple of r that is half a batch, so that
      workers who share every batch cut their shares at the same places as one who has it alone.

    Args:
        events: of the pass.
        batch_size: B.
        last_batch: what becomes of those left over.
    """
    whole, left = divmod(events, batch_size)
    sizes = [batch_size] * whole
    if not left or last_batch == "drop":
        return sizes
    if last_batch == "keep" or not whole or 2 * left >= batch_size:
        return [*sizes, left]
    last = left * -(-batch_size // (2 * left))
    return [*sizes[:-1], batch_size + left - last, last]


def check_pass(
    events: int, batch_size: int, rank: int, world_size: int, last_batch: LastBatch = "keep"
) -> list[int]:
    """Events of each batch of one rank in one pass.

    Raises:
        InvalidConfig: see `EventSource.batches`.
    """
    if batch_size < 1:
        raise InvalidConfig(f"a batch holds at least 1 event; batch_size is {batch_size}")
    if not 0 <= rank < world_size:
        raise InvalidConfig(f"a rank is at least 0 and below world_size; got rank {rank} of {world_size}")
    sizes = batch_sizes(events // world_size, batch_size, last_batch)
    if not sizes:
        raise InvalidConfig(
            f"every rank gets at least one batch; {events} events on {world_size} ranks in batches of "
            f"{batch_size} (last_batch '{last_batch}') give none"
        )
    return sizes


def spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """First and last row (excluded) of batches that follow one another."""
    ends = list(itertools.accumulate(sizes))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def dealt_spans(
    events: int, batch_size: int, rank: int, world_size: int, last_batch: LastBatch = "keep"
) -> tuple[npt.NDArray[np.intp], list[tuple[int, int]]]:
    """The rows of `EventSource.dealt`, and first and last row (excluded) of each batch."""
    everyone = spans(batch_sizes(events, batch_size, last_batch))
    mine = everyone[rank::world_size]
    return np.concatenate([np.arange(*span) for span in mine]) if mine else np.arange(0), mine or everyone[:1]
