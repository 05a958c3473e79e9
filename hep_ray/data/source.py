"""What training asks of the events of a split, wherever they are: in memory, on the device, or streamed from shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.errors import InvalidConfig

if TYPE_CHECKING:
    from hep_ray.data.batches import Batch, Events


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
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """One pass over the events of this rank, all ranks having equally many and none in common.

        Up to `world_size` - 1 events are left out.

        Raises:
            InvalidConfig: `batch_size` is below 1, `rank` is not one of `world_size`, or no batch would result.
        """

    def dealt(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
    ) -> tuple[npt.NDArray[np.intp], Iterator[Batch]]:
        """Whole batches in the order of the events, dealt out to the ranks in turn.

        Together the ranks have every event once, in the batches that one process would have, so that each gives the
        numbers that one process would. A rank that gets none is given the first batch, and no rows.

        Returns:
            The rows of the events that count for this rank, in the order of its batches, and the batches.
        """


def check_pass(events: int, batch_size: int, rank: int, world_size: int, *, drop_last: bool = False) -> int:
    """Events of one rank in one pass.

    Raises:
        InvalidConfig: see `EventSource.batches`.
    """
    if batch_size < 1:
        raise InvalidConfig(f"a batch holds at least 1 event; batch_size is {batch_size}")
    if not 0 <= rank < world_size:
        raise InvalidConfig(f"a rank is at least 0 and below world_size; got rank {rank} of {world_size}")
    share = events // world_size
    used = share - share % batch_size if drop_last else share
    if not used:
        raise InvalidConfig(
            f"every rank gets at least one batch; {events} events on {world_size} ranks in batches of "
            f"{batch_size} (drop_last={drop_last}) give none"
        )
    return used


def dealt_spans(
    events: int, batch_size: int, rank: int, world_size: int
) -> tuple[npt.NDArray[np.intp], list[tuple[int, int]]]:
    """The rows of `EventSource.dealt`, and first and last row (excluded) of each batch."""
    starts = range(0, events, batch_size)
    mine = starts[rank::world_size]
    spans = [(start, min(start + batch_size, events)) for start in mine or starts[:1]]
    return np.concatenate([np.arange(*span) for span in spans]) if mine else np.arange(0), spans
