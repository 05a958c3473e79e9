"""How much each training event counts in the loss."""

from __future__ import annotations

import numpy as np

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidEvents
from hep_ray.loading.source import EventSource, EventWeights


def training_weights(train: EventSource, schema: EventSchema, *, balanced: bool) -> EventWeights | None:
    """Weights of the training events in the loss, with mean 1; None where all are alike.

    The schema's weight column, and with `balanced` a factor that gives every class the same sum. Metrics count
    every event once, whatever its weight.

    Raises:
        InvalidEvents: all events of a class have weight 0.
    """
    if schema.weight is None and not balanced:
        return None
    sums = train.class_sums(len(schema.classes), schema.weight)
    if not sums.all():
        raise InvalidEvents(
            f"every class has a training event of weight above 0; the sums are {sums.tolist()}"
        )
    mean = (len(sums) if balanced else sums.sum()) / len(train)
    return EventWeights((1 / sums if balanced else np.ones(len(sums))) / mean, schema.weight)
