"""Torch batches from events in memory; no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.errors import InvalidConfig, InvalidEvents


@dataclass(frozen=True)
class Events:
    """Events of one split, in memory and never written to.

    Attributes:
        inputs: column name → (N, *shape).
        labels: (N,) int64.
        weights: (N,) float32 of the events in the training loss; None where all are 1.
    """

    inputs: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_arrays(cls, inputs: Mapping[str, npt.ArrayLike], labels: npt.ArrayLike) -> Events:
        """Events from plain arrays.

        Raises:
            InvalidEvents: there are none, a column has another length than the labels, or the labels are
                not one integer per event.
        """
        columns = {name: np.asarray(values) for name, values in inputs.items()}
        label_array = np.asarray(labels)
        if label_array.ndim != 1 or label_array.dtype.kind not in "iu" or not len(label_array):
            raise InvalidEvents(
                f"labels are one integer per event, at least one; got {label_array.dtype} {label_array.shape}"
            )
        for name, values in columns.items():
            if values.shape[:1] != label_array.shape:
                raise InvalidEvents(
                    f"a column has one row per label, {len(label_array)}; '{name}' has shape {values.shape}"
                )
        return cls(columns, label_array.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """Some events as tensors on one device.

    Attributes:
        inputs: column name → (B, *shape).
        labels: (B,) int64.
        weights: (B,) float32 of the events in the loss; None where all are 1.
        other_labels: (B,) int64 of the events that these are mixed with; None where they are not.
        share: of `labels` in a mixed event; the rest is that of `other_labels`.
        partner: (B,) int64, rows of the events to mix these with at a hidden layer; None where they are not.
        mixing_draw: a large random number that decides at which one.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    other_labels: torch.Tensor | None = None
    share: float = 1.0
    partner: torch.Tensor | None = None
    mixing_draw: int = 0

    def __len__(self) -> int:
        return len(self.labels)


def batches(
    events: Events,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """One pass over the events of this rank.

    The order is a function of (seed, epoch) alone, the same on every rank; rank r takes every
    `world_size`-th event from the r-th on. All ranks get equally many: up to `world_size` - 1
    events are left out of an epoch. Without `shuffle` the order is that of the events.

    Args:
        events: of one split.
        batch_size: B, events per batch on this rank.
        seed: of the shuffle.
        epoch: each has its own order.
        shuffle: over all events, not within a buffer.
        rank: of this worker.
        world_size: number of workers.
        drop_last: leave out a last batch that is not full.
        device: where the tensors go.

    Raises:
        InvalidConfig: `batch_size` is below 1, `rank` is not one of `world_size`, or no batch would result.
    """
    if batch_size < 1:
        raise InvalidConfig(f"a batch holds at least 1 event; batch_size is {batch_size}")
    if not 0 <= rank < world_size:
        raise InvalidConfig(f"a rank is at least 0 and below world_size; got rank {rank} of {world_size}")
    share = len(events) // world_size
    used = share - share % batch_size if drop_last else share
    if not used:
        raise InvalidConfig(
            f"every rank gets at least one batch; {len(events)} events on {world_size} ranks in batches of "
            f"{batch_size} (drop_last={drop_last}) give none"
        )
    order = (
        np.random.default_rng((seed, epoch)).permutation(len(events)) if shuffle else np.arange(len(events))
    )
    mine = order[rank::world_size][:used]
    return (_batch(events, mine[start : start + batch_size], device) for start in range(0, used, batch_size))


def dealt_batches(
    events: Events, batch_size: int, *, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
) -> tuple[npt.NDArray[np.intp], Iterator[Batch]]:
    """Whole batches in the order of the events, dealt out to the ranks in turn.

    Together the ranks have every event once, in the batches that one process would have, so that each gives the
    numbers that one process would. A rank that gets none is given the first batch, and no rows.

    Args:
        events: of one split.
        batch_size: events per batch.
        rank: of this worker.
        world_size: number of workers.
        device: where the tensors go.

    Returns:
        The rows of the events that count for this rank, in the order of its batches, and the batches.
    """
    starts = range(0, len(events), batch_size)
    mine = starts[rank::world_size]
    parts = [np.arange(start, min(start + batch_size, len(events))) for start in mine or starts[:1]]
    rows = np.concatenate(parts) if mine else np.arange(0)
    return rows, (_batch(events, part, device) for part in parts)


def _batch(events: Events, rows: npt.NDArray[np.intp], device: torch.device | str) -> Batch:
    # `take` copies the rows, so the tensors own their memory and the shared events stay as they are.
    return Batch(
        {
            name: torch.from_numpy(values.take(rows, axis=0)).to(device)
            for name, values in events.inputs.items()
        },
        torch.from_numpy(events.labels.take(rows)).to(device),
        None if events.weights is None else torch.from_numpy(events.weights.take(rows)).to(device),
    )
