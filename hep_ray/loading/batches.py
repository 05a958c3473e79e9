"""Batches of a split: what is asked for (`BatchRequest`), who answers (`EventSource`), `Events` in memory. No Ray."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.dataset.dataset import refuse_sums
from hep_ray.dataset.schema import EventSchema
from hep_ray.dataset.values import ListColumn, SparseColumn, Values
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.loading.copies import sent

T = TypeVar("T")

LastBatch = Literal["share", "keep", "drop"]
"""What becomes of the events that are left over when a pass is cut into batches; see `batch_sizes`."""

PREFETCHED = 3
"""Batches that are made ready while a GPU works."""


@dataclass(frozen=True)
class BatchRequest:
    """One pass over a split, as every source cuts it into batches.

    Without `sharded` all ranks have equally many events and none in common; up to `world_size` - 1 are left out.

    Attributes:
        batch_size: events per batch of this rank.
        seed: of the shuffle.
        epoch: each has its own order.
        shuffle: take the events in an order that depends on the source, on (seed, epoch) and on nothing else; the
            same on every rank.
        rank: of this worker.
        world_size: number of workers.
        last_batch: what becomes of events that do not fill a batch; see `batch_sizes`.
        length_pool: so many batches of a shuffled pass share their events, drawn at random, out by the lengths of their
            lists, if any; see `by_length`. 1 leaves them at random.
        sharded: hand whole batches, in the order of the events, to the ranks in turn. Together the ranks have every
            event once, in the batches that one process would have, so that each gives the numbers that one process
            would. A rank that gets none is given the first batch, whose rows do not count.
        device: where the tensors go.

    Raises:
        InvalidConfig: `batch_size` is below 1, `rank` is not one of `world_size`, or a sharded pass is shuffled.
    """

    batch_size: int
    seed: int = 0
    epoch: int = 0
    shuffle: bool = False
    rank: int = 0
    world_size: int = 1
    last_batch: LastBatch = "keep"
    length_pool: int = 1
    sharded: bool = False
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidConfig(f"batch_size must be at least 1, got batch_size={self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise InvalidConfig(
                f"rank must be at least 0 and below world_size, got rank={self.rank}, world_size={self.world_size}"
            )
        if self.sharded and self.shuffle:
            raise InvalidConfig("sharded batches follow the order of the events, got shuffle=True")

    def spans(self, events: int) -> list[tuple[int, int]]:
        """Return first and last row (excluded) of each batch: among this rank's events, or among all where `sharded`.

        Args:
            events: of the split.

        Raises:
            InvalidConfig: there would be no batch.
        """
        own = events if self.sharded else events // self.world_size
        ends = list(itertools.accumulate(batch_sizes(own, self.batch_size, self.last_batch)))
        if not ends:
            raise InvalidConfig(
                f"no batch for any rank: {events} events on {self.world_size} ranks in batches of {self.batch_size} "
                f"with last_batch '{self.last_batch}'; choose a smaller batch_size or fewer workers"
            )
        found = list(zip([0, *ends[:-1]], ends, strict=True))
        return (found[self.rank :: self.world_size] or found[:1]) if self.sharded else found

    def sizes(self, events: int) -> list[int]:
        """Return the number of events of each batch of this rank.

        Raises:
            InvalidConfig: there would be no batch.
        """
        return [stop - first for first, stop in self.spans(events)]

    def rows(
        self,
        events: int,
        lengths: npt.NDArray[np.int64] | None = None,
        labels: npt.NDArray[np.int64] | None = None,
    ) -> list[npt.NDArray[np.intp]]:
        """Return the rows of each batch of this rank, shuffled over all events where that is asked for.

        Args:
            events: of the split.
            lengths: (N,) items of the lists of each event; None where there are no lists.
            labels: (N,) classes; needed with `lengths`.

        Raises:
            InvalidConfig: there would be no batch.
        """
        spans = self.spans(events)
        if self.sharded:
            return [np.arange(first, stop) for first, stop in spans]
        order = np.arange(events)
        if self.shuffle:
            random = np.random.default_rng((self.seed, self.epoch))
            order = random.permutation(events)
            if lengths is not None and self.length_pool > 1:
                assert labels is not None
                ends = [self.world_size * stop for _, stop in spans]
                order = by_length(order, ends, lengths, labels, self.length_pool, random)
        local = order[self.rank :: self.world_size]
        return [local[first:stop] for first, stop in spans]

    def counted_rows(self, events: int) -> npt.NDArray[np.intp]:
        """Return the rows of a sharded pass that count for this rank, in the order of its batches; perhaps none."""
        batches = len(batch_sizes(events, self.batch_size, self.last_batch))
        return np.concatenate(self.rows(events)) if self.rank < batches else np.arange(0)


def batch_sizes(events: int, batch_size: int, last_batch: LastBatch) -> list[int]:
    """Return the number of events of each batch of one pass.

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
    full, left = divmod(events, batch_size)
    sizes = [batch_size] * full
    if not left or last_batch == "drop":
        return sizes
    if last_batch == "keep" or not full or 2 * left >= batch_size:
        return [*sizes, left]
    last = left * -(-batch_size // (2 * left))
    return [*sizes[:-1], batch_size + left - last, last]


def by_length(
    order: npt.NDArray[np.intp],
    ends: Sequence[int],
    lengths: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    pool: int,
    random: np.random.Generator,
) -> npt.NDArray[np.intp]:
    """Return an order whose batches hold events of similar length, so that little is filled up in each.

    The events of `pool` successive batches are sorted by the quantile of their length among those of their class: a
    batch so has the classes in the proportions of the pool, even where one has longer lists. The batches then come in
    random order. Each event is in the order as often as before.

    Args:
        order: (M,) rows, at random.
        ends: position in it at which each batch ends, rising; what is behind the last one stays.
        lengths: (N,) of all rows.
        labels: (N,) of all rows.
        pool: batches that are sorted together.
        random: decides the order of the batches.
    """
    made = order.copy()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    for first in range(0, len(spans), pool):
        own = spans[first : first + pool]
        events = order[own[0][0] : own[-1][1]]
        ranked = np.lexsort((lengths[events], labels[events]))
        _, starts, counts = np.unique(labels[events][ranked], return_index=True, return_counts=True)
        places = np.arange(len(events)) - np.repeat(starts, counts)
        quantiles = np.empty(len(events))
        quantiles[ranked] = (places + 0.5) / np.repeat(counts, counts)
        events = events[np.argsort(quantiles, kind="stable")]
        at = 0
        for place in random.permutation(len(own)):
            low, high = own[place]
            made[low:high] = events[at : at + high - low]
            at += high - low
    return made


@dataclass(frozen=True)
class Batch:
    """Some events as tensors on one device.

    Attributes:
        inputs: column name → (B, *shape); of lists (B, L, F), L the longest of the batch, absent items NaN.
        labels: (B,) int64.
        weights: (B,) float32 of the events in the loss; None where all are 1.
        second_labels: (B,) int64 of the events that these are mixed with; None where they are not.
        second_weights: (B,) float32, their weights in the loss; None where they are as `weights`.
        mix_ratio: λ, what counts of `labels` in a mixed event; 1 − λ is that of `second_labels`.
        permutation: (B,) int64, rows of the events to mix these with at a hidden layer; None where they are not.
        mixing_draw: a large random number that decides at which one.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    second_labels: torch.Tensor | None = None
    second_weights: torch.Tensor | None = None
    mix_ratio: float = 1.0
    permutation: torch.Tensor | None = None
    mixing_draw: int = 0

    def __len__(self) -> int:
        return len(self.labels)


NegativeWeights = Literal["signed", "absolute", "zero"]


@dataclass(frozen=True)
class Flattening:
    """Factors that make each class flat in one or two columns.

    Attributes:
        columns: scalar ones.
        edges: of the bins of each column; values outside are in the outer bins.
        factors: (classes, bins) float64, bins of two columns row by row.
    """

    columns: tuple[str, ...]
    edges: tuple[npt.NDArray[np.float64], ...]
    factors: npt.NDArray[np.float64]

    def of(
        self, labels: npt.NDArray[np.int64], inputs: Mapping[str, npt.NDArray[Any]]
    ) -> npt.NDArray[np.float64]:
        """Return the factor (N,) of each of N events."""
        return self.factors[labels, bins_of([inputs[name] for name in self.columns], self.edges)]


def bins_of(
    values: Sequence[npt.NDArray[Any]], edges: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.intp]:
    """Return the bin of each event, (N,), of values (N,) of each column."""
    places = [
        np.clip(np.searchsorted(own, one, "right") - 1, 0, len(own) - 2)
        for one, own in zip(values, edges, strict=True)
    ]
    return np.ravel_multi_index(tuple(places), tuple(len(own) - 1 for own in edges))


@dataclass(frozen=True)
class EventWeights:
    """How much an event counts: a factor of its class, times its value in a column, times that of a flattening.

    Attributes:
        factors: (classes,) float64.
        column: scalar column of sample weights, None where there is none.
        negative: what stands for a value below 0: itself, its size, or 0.
        flat: factors of bins, None where there are none.
    """

    factors: npt.NDArray[np.float64]
    column: str | None = None
    negative: NegativeWeights = "signed"
    flat: Flattening | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns whose values decide the weight of an event."""
        own = () if self.column is None else (self.column,)
        return own if self.flat is None else (*own, *self.flat.columns)

    def of(
        self, labels: npt.NDArray[np.int64], inputs: Mapping[str, npt.NDArray[Any]]
    ) -> npt.NDArray[np.float32]:
        """Return the weights (N,) of N events.

        Args:
            labels: (N,).
            inputs: (N,) of each of `columns`; others may be there.
        """
        weights = self.factors[labels]
        if self.column is not None:
            weights = weights * counted(np.asarray(inputs[self.column]), self.negative)
        if self.flat is not None:
            weights = weights * self.flat.of(labels, inputs)
        return weights.astype(np.float32)


def counted(weights: npt.NDArray[Any], negative: NegativeWeights) -> npt.NDArray[np.float64]:
    """Return weights (N,), or what stands for those below 0."""
    values = weights.astype(np.float64)
    if negative == "signed":
        return values
    return np.abs(values) if negative == "absolute" else np.maximum(values, 0)


def training_weights(
    train: EventSource,
    schema: EventSchema,
    *,
    balanced: bool,
    negative: NegativeWeights = "signed",
    flat_in: Sequence[str] = (),
    flat_bins: int = 20,
) -> EventWeights | None:
    """Return the weights of the training events in the loss, with mean 1; None where all are alike.

    The schema's weight column, and with `balanced` a factor that gives every class the same sum. Negative weights stay
    as they are, or their sizes or 0 stand for them, and with `flat_in` each class is made flat in columns; it is then
    scaled to the sum that it had.

    Args:
        train: of the training split, with all columns.
        schema: of the events.
        balanced: give every class the same sum.
        negative: what stands for a weight below 0.
        flat_in: scalar columns in whose bins every class has the same sum.
        flat_bins: of each of these, of equal width between its quantiles of 1 % and 99 %.

    Raises:
        InvalidEvents: the weights of a class sum to 0 or less.
    """
    if schema.weight is None and not balanced and not flat_in:
        return None
    classes = len(schema.classes)
    sums = train.class_sums(classes, schema.weight)
    refuse_sums(dict(zip(schema.classes, sums.tolist(), strict=True)), "training events")
    after, flat = sums, None
    if flat_in:
        needed = tuple(dict.fromkeys((*flat_in, *([schema.weight] if schema.weight else []))))
        events = train.select(needed).head(len(train))
        ones = np.ones(len(events))
        weights = (
            ones if schema.weight is None else counted(np.asarray(events.inputs[schema.weight]), negative)
        )
        flat = _flattening(events, weights, classes, tuple(flat_in), flat_bins)
        inputs = {name: np.asarray(events.inputs[name]) for name in flat_in}
        after = np.bincount(events.labels, weights * flat.of(events.labels, inputs), classes).astype(
            np.float64
        )
    elif negative != "signed" and schema.weight is not None:
        sizes = train.class_sums(classes, schema.weight, sizes=True)
        after = sizes if negative == "absolute" else (sizes + sums) / 2
    mean = (classes if balanced else sums.sum()) / len(train)
    factors = (1 / sums if balanced else np.ones(classes)) * sums / after / mean
    return EventWeights(factors, schema.weight, negative, flat)


LARGEST_FACTOR = 100.0
"""Of the mean of a class, that an event of a sparse bin is multiplied by at most."""


def _flattening(
    events: Events, weights: npt.NDArray[np.float64], classes: int, columns: tuple[str, ...], bins: int
) -> Flattening:
    """Return factors that give the filled bins of each class one sum of weights; of bins that sum to 0 or less, 0."""
    values = [np.asarray(events.inputs[name], np.float64) for name in columns]
    ends = [[float(end) for end in np.quantile(one, (0.01, 0.99))] for one in values]
    edges = tuple(np.linspace(low, high, bins + 1) for low, high in ends)
    count = bins ** len(columns)
    cells = events.labels * count + bins_of(values, edges)
    sums = np.bincount(cells, weights, classes * count).reshape(classes, count)
    filled = sums > 0
    share = sums.sum(axis=1, keepdims=True) / np.maximum(filled.sum(axis=1, keepdims=True), 1)
    factors = np.divide(share, sums, out=np.zeros(sums.shape), where=filled)
    return Flattening(columns, edges, np.minimum(factors, LARGEST_FACTOR))


def metric_weights(events: EventSource, schema: EventSchema) -> EventWeights | None:
    """Return the weights of a split's events in metrics: each class sums to the events expected of it in all splits.

    None where the schema has no weight, so that events are counted.

    Raises:
        InvalidEvents: the weights of a class sum to 0 or less.
    """
    if schema.weight is None:
        return None
    sums = events.class_sums(len(schema.classes), schema.weight)
    refuse_sums(dict(zip(schema.classes, sums.tolist(), strict=True)), "events to be judged by")
    return EventWeights(schema.to_expected(sums), schema.weight)


class EventSource(Protocol):
    """Events of one split: in memory, on a device, or streamed from shards.

    Two sources of the same events give the same batches without `shuffle`, and in one epoch the same events with it.
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
        """Return the same events with fewer columns, and with weights."""

    def class_sums(
        self, classes: int, column: str | None = None, *, sizes: bool = False
    ) -> npt.NDArray[np.float64]:
        """Count the events of each class, (classes,), or sum their values in a scalar column, or the sizes of these."""

    def head(self, events: int) -> Events:
        """Return the first events, in memory; they stand in random order. All, where there are not so many."""

    def batches(self, request: BatchRequest) -> Iterator[Batch]:
        """Return the batches of one pass.

        Raises:
            InvalidConfig: no batch would result; raised by the call itself, not by the first batch.
        """


@dataclass(frozen=True)
class Events:
    """Events of one split, in memory and never written to; an `EventSource`.

    Attributes:
        inputs: column name → (N, *shape), perhaps without its zeros, or as lists.
        labels: (N,) int64.
        weights: (N,) float32 of the events in the training loss; None where all are 1.
    """

    inputs: Mapping[str, Values]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None
    memory: None = None

    @classmethod
    def from_arrays(cls, inputs: Mapping[str, npt.ArrayLike | Values], labels: npt.ArrayLike) -> Events:
        """Check plain arrays, and take them as events.

        Raises:
            InvalidEvents: there are none, a column has another length than the labels, or the labels are
                not one integer per event.
        """
        columns = {
            name: values if isinstance(values, SparseColumn | ListColumn) else np.asarray(values)
            for name, values in inputs.items()
        }
        label_array = np.asarray(labels)
        if label_array.ndim != 1 or label_array.dtype.kind not in "iu" or not len(label_array):
            raise InvalidEvents(
                "labels must be one integer per event, of at least one event, "
                f"got {label_array.dtype} {label_array.shape}"
            )
        for name, values in columns.items():
            if values.shape[:1] != label_array.shape:
                raise InvalidEvents(
                    f"column '{name}' must have one row per label, {len(label_array)}, got shape {values.shape}"
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
        event_weights = None
        if weights is not None:
            of_weight = {name: np.asarray(self.inputs[name]) for name in weights.columns}
            event_weights = weights.of(self.labels, of_weight)
        return Events({name: self.inputs[name] for name in columns}, self.labels, event_weights)

    def class_sums(
        self, classes: int, column: str | None = None, *, sizes: bool = False
    ) -> npt.NDArray[np.float64]:
        """See `EventSource.class_sums`."""
        values = None if column is None else np.asarray(self.inputs[column], np.float64)
        if values is not None and sizes:
            values = np.abs(values)
        return np.bincount(self.labels, values, classes).astype(np.float64)

    def head(self, events: int) -> Events:
        """See `EventSource.head`."""
        if events >= len(self):
            return self
        weights = None if self.weights is None else self.weights[:events]
        inputs = {name: values[:events] for name, values in self.inputs.items()}
        return Events(inputs, self.labels[:events], weights)

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """(N,) items of the lists of each event, of all columns of lists together; None where there is none."""
        found = [values.lengths for values in self.inputs.values() if isinstance(values, ListColumn)]
        return np.sum(found, axis=0) if found else None

    def rows(self, request: BatchRequest) -> list[npt.NDArray[np.intp]]:
        """Return the rows of each batch; see `BatchRequest.rows`.

        Raises:
            InvalidConfig: there would be no batch.
        """
        return request.rows(len(self), self.lengths if request.shuffle else None, self.labels)

    def batches(self, request: BatchRequest) -> Iterator[Batch]:
        """See `EventSource.batches`; rank r takes every `world_size`-th event from the r-th on."""
        parts = self.rows(request)
        return prefetched((self.batch(rows, request.device) for rows in parts), request.device)

    def batch(self, rows: npt.NDArray[np.intp], device: torch.device | str) -> Batch:
        """Copy some events to a device; the tensors own their memory, so the events stay as they are."""
        return Batch(
            {name: to_tensor(values, rows, device) for name, values in self.inputs.items()},
            sent(self.labels.take(rows), device),
            None if self.weights is None else sent(self.weights.take(rows), device),
        )


def to_tensor(values: Values, rows: npt.NDArray[np.intp], device: torch.device | str) -> torch.Tensor:
    """Copy some events' values (len(rows), *shape) to a device; sparse columns are densified there.

    Lists are filled up to the longest of these events.
    """
    if isinstance(values, ListColumn):
        return sent(values.take(rows), device)
    if not isinstance(values, SparseColumn):
        return sent(values.take(rows, axis=0), device)
    places, found = values.placed(rows)
    # Torch reuses the memory of the last batch, where numpy would ask the system for new pages.
    dense = torch.zeros(len(rows) * values.size, dtype=torch_dtype(values.dtype), device=device)
    if dense.device.type == "cpu":
        dense.numpy()[places] = found
    else:
        signed(dense)[sent(places, device)] = signed(sent(found, device))
    return dense.view(len(rows), *values.row_shape)


SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types that torch does not index → those of the same size that it does."""


def signed(values: torch.Tensor) -> torch.Tensor:
    """Return a view of the same memory that torch can index."""
    return values.view(SIGNED[values.dtype]) if values.dtype in SIGNED else values


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's name of a numpy dtype."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def prefetched(items: Iterator[T], device: torch.device | str, depth: int = PREFETCHED) -> Iterator[T]:
    """Return the same items; for a GPU a thread makes up to `depth` of them (and copies them there) meanwhile."""
    return items if torch.device(device).type == "cpu" else _in_thread(items, depth)


def _in_thread(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    end = object()
    executor = ThreadPoolExecutor(1)
    try:
        futures = deque(executor.submit(next, items, end) for _ in range(depth))
        while (item := futures.popleft().result()) is not end:
            futures.append(executor.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        executor.shutdown(cancel_futures=True)
        if isinstance(items, Generator):
            items.close()
