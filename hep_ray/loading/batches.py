"""Torch batches from events in memory; no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.dataset.sparse import SparseColumn, Values
from hep_ray.errors import InvalidEvents
from hep_ray.loading.source import EventWeights, LastBatch, check_pass, dealt_spans, spans
from hep_ray.loading.tensors import ahead, to_tensor


@dataclass(frozen=True)
class Events:
    """Events of one split, in memory and never written to; an `EventSource`.

    Attributes:
        inputs: column name → (N, *shape), perhaps without its zeros.
        labels: (N,) int64.
        weights: (N,) float32 of the events in the training loss; None where all are 1.
    """

    inputs: Mapping[str, Values]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None
    memory: None = None

    @classmethod
    def from_arrays(cls, inputs: Mapping[str, npt.ArrayLike | SparseColumn], labels: npt.ArrayLike) -> Events:
        """Events from plain arrays.

        Raises:
            InvalidEvents: there are none, a column has another length than the labels, or the labels are
                not one integer per event.
        """
        columns = {
            name: values if isinstance(values, SparseColumn) else np.asarray(values)
            for name, values in inputs.items()
        }
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

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.labels.nbytes + sum(values.nbytes for values in self.inputs.values())

    def select(self, columns: Sequence[str], weights: EventWeights | None = None) -> Events:
        """See `EventSource.select`."""
        of_events = None
        if weights is not None:
            values = None if weights.column is None else np.asarray(self.inputs[weights.column])
            of_events = weights.of(self.labels, values)
        return Events({name: self.inputs[name] for name in columns}, self.labels, of_events)

    def class_sums(self, classes: int, column: str | None = None) -> npt.NDArray[np.float64]:
        """See `EventSource.class_sums`."""
        values = None if column is None else np.asarray(self.inputs[column], np.float64)
        return np.bincount(self.labels, values, classes).astype(np.float64)

    def head(self, events: int) -> Events:
        """See `EventSource.head`."""
        if events >= len(self):
            return self
        weights = None if self.weights is None else self.weights[:events]
        return Events(
            {name: values[:events] for name, values in self.inputs.items()}, self.labels[:events], weights
        )

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
        """See `batches`."""
        return batches(
            self,
            batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
            last_batch=last_batch,
            device=device,
        )

    def dealt(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        last_batch: LastBatch = "keep",
        device: torch.device | str = "cpu",
    ) -> tuple[npt.NDArray[np.intp], Iterator[Batch]]:
        """See `dealt_batches`."""
        return dealt_batches(
            self, batch_size, rank=rank, world_size=world_size, last_batch=last_batch, device=device
        )


@dataclass(frozen=True)
class Batch:
    """Some events as tensors on one device.

    Attributes:
        inputs: column name → (B, *shape).
        labels: (B,) int64.
        weights: (B,) float32 of the events in the loss; None where all are 1.
        other_labels: (B,) int64 of the events that these are mixed with; None where they are not.
        other_weights: (B,) float32, their weights in the loss; None where they are as `weights`.
        share: of `labels` in a mixed event; the rest is that of `other_labels`.
        partner: (B,) int64, rows of the events to mix these with at a hidden layer; None where they are not.
        mixing_draw: a large random number that decides at which one.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    other_labels: torch.Tensor | None = None
    other_weights: torch.Tensor | None = None
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
    last_batch: LastBatch = "keep",
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
        last_batch: what becomes of events that do not fill a batch; see `batch_sizes`.
        device: where the tensors go.

    Raises:
        InvalidConfig: `batch_size` is below 1, `rank` is not one of `world_size`, or no batch would result.
    """
    parts = rows_of_pass(
        len(events), batch_size, seed, epoch, rank, world_size, shuffle=shuffle, last_batch=last_batch
    )
    return ahead((make_batch(events, rows, device) for rows in parts), device)


def rows_of_pass(
    events: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    *,
    shuffle: bool,
    last_batch: LastBatch,
) -> list[npt.NDArray[np.intp]]:
    """Rows of the events of each batch that `batches` hands out.

    Raises:
        InvalidConfig: see `batches`.
    """
    sizes = check_pass(events, batch_size, rank, world_size, last_batch)
    order = np.random.default_rng((seed, epoch)).permutation(events) if shuffle else np.arange(events)
    mine = order[rank::world_size]
    return [mine[first:last] for first, last in spans(sizes)]


def dealt_batches(
    events: Events,
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

    Args:
        events: of one split.
        batch_size: events per batch.
        rank: of this worker.
        world_size: number of workers.
        last_batch: what becomes of events that do not fill a batch; see `batch_sizes`.
        device: where the tensors go.

    Returns:
        The rows of the events that count for this rank, in the order of its batches, and the batches.
    """
    rows, mine = dealt_spans(len(events), batch_size, rank, world_size, last_batch)
    return rows, ahead((make_batch(events, np.arange(*span), device) for span in mine), device)


def make_batch(events: Events, rows: npt.NDArray[np.intp], device: torch.device | str) -> Batch:
    """Some events on a device; the tensors own their memory."""
    # The rows are copied, so the tensors own their memory and the shared events stay as they are.
    return Batch(
        {name: to_tensor(values, rows, device) for name, values in events.inputs.items()},
        torch.from_numpy(events.labels.take(rows)).to(device),
        None if events.weights is None else torch.from_numpy(events.weights.take(rows)).to(device),
    )
