"""Events of a split under a systematic variation: the same events in the same order, with other values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.dataset.variations import Change, Variation
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import (
    Batch,
    BatchRequest,
    Events,
    EventSource,
    EventWeights,
    metric_weights,
)


@dataclass(frozen=True)
class OtherEvents:
    """Events of another dataset that a variation names, which are judged in place of the nominal ones.

    Attributes:
        source: of the same split.
        schema: its own, with the events that it expects of each class.
        event_ids: of the events in their order, where they are told apart.
    """

    source: EventSource
    schema: EventSchema
    event_ids: pa.Array | None = None


@dataclass(frozen=True)
class VariedEvents:
    """A source whose values are changed as they are handed out; an `EventSource`.

    Values that stand for a missing one stay: NaN, and the number that a column was filled with.

    Attributes:
        source: of the events as they are.
        changes: of their columns.
        fills: column → the number that took the place of missing values.
    """

    source: EventSource
    changes: tuple[Change, ...]
    fills: Mapping[str, float]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """See `EventSource.labels`."""
        return self.source.labels

    @property
    def memory(self) -> int | None:
        """See `EventSource.memory`."""
        return self.source.memory

    def __len__(self) -> int:
        return len(self.source)

    def select(self, columns: Sequence[str], weights: EventWeights | None = None) -> VariedEvents:
        """See `EventSource.select`; weights are of the events as they are."""
        return dataclasses.replace(self, source=self.source.select(columns, weights))

    def class_sums(
        self, classes: int, column: str | None = None, *, sizes: bool = False
    ) -> npt.NDArray[np.float64]:
        """See `EventSource.class_sums`; of the events as they are."""
        return self.source.class_sums(classes, column, sizes=sizes)

    def head(self, events: int) -> Events:
        """See `EventSource.head`; lists are filled up to the longest."""
        found = self.source.head(events)
        whole = self._changed(found.batch(np.arange(len(found)), "cpu"))
        return dataclasses.replace(found, inputs={name: one.numpy() for name, one in whole.inputs.items()})

    def batches(self, request: BatchRequest) -> Iterator[Batch]:
        """See `EventSource.batches`."""
        return map(self._changed, self.source.batches(request))

    def _changed(self, batch: Batch) -> Batch:
        inputs = dict(batch.inputs)
        for one in self.changes:
            if one.column in inputs:
                inputs[one.column] = changed(inputs[one.column], one, self.fills.get(one.column))
        return dataclasses.replace(batch, inputs=inputs)


def varied(source: EventSource, schema: EventSchema, variation: Variation) -> EventSource:
    """Return the events of a source under a variation of its schema; weights are as `judged_under` has them."""
    changes = variation.changes({column.name: column.elements for column in schema.columns})
    if not changes:
        return source
    fills = {column.name: column.fill for column in schema.columns if column.fill is not None}
    return VariedEvents(source, changes, fills)


def judged_under(
    source: EventSource,
    schema: EventSchema,
    columns: Sequence[str],
    variation: Variation | None,
    other: OtherEvents | None = None,
) -> EventSource:
    """Return columns of a split's events under a variation, if any, with the weights that they have in metrics.

    Other weights keep the scale of the nominal ones to the events expected, so that a yield may rise or fall; those of
    other events are scaled to what their own dataset expects.

    Args:
        source: of the nominal events.
        schema: of these.
        columns: that are read.
        variation: None leaves the events as they are.
        other: the events that the variation names, if it names some.

    Raises:
        InvalidEvents: the weights of a class sum to 0 or less.
        InvalidConfig: the variation names events, and none are given.
    """
    if variation is not None and variation.data is not None:
        if other is None:
            raise InvalidConfig(f"the variation by the {variation} is of other events, and none were opened")
        return other.source.select(columns, metric_weights(other.source, other.schema))
    weights = metric_weights(source, schema)
    if variation is None:
        return source.select(columns, weights)
    if variation.weight is not None and weights is not None:
        weights = dataclasses.replace(weights, column=variation.weight)
    return varied(source, schema, variation).select(columns, weights)


def changed(values: torch.Tensor, change: Change, fill: float | None = None) -> torch.Tensor:
    """Return values (B, *shape) times a factor plus an offset, in their dtype; those that are `fill` stay."""
    old = values if change.place is None else values[..., change.place]
    new = (old.double() * change.factor + change.offset).to(values.dtype)
    if fill is not None:
        new = torch.where(old == torch.tensor(fill, dtype=values.dtype, device=values.device), old, new)
    if change.place is None:
        return new
    made = values.clone()
    made[..., change.place] = new
    return made
