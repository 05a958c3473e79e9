"""How much each training event counts in the loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hep_ray.data.batches import Events
from hep_ray.data.events import EventSchema
from hep_ray.errors import InvalidEvents


def training_weights(train: Events, schema: EventSchema, *, balanced: bool) -> npt.NDArray[np.float32] | None:
    """Weights of the training events in the loss, with mean 1; None where all are alike.

    The schema's weight column, and with `balanced` a factor that gives every class the same sum. Metrics count
    every event once, whatever its weight.

    Raises:
        InvalidEvents: all events of a class have weight 0.
    """
    if schema.weight is None and not balanced:
        return None
    weights = np.ones(len(train)) if schema.weight is None else train.inputs[schema.weight].astype(np.float64)
    sums = np.bincount(train.labels, weights, minlength=len(schema.classes))
    if not sums.all():
        raise InvalidEvents(
            f"every class has a training event of weight above 0; the sums are {sums.tolist()}"
        )
    if balanced:
        weights = weights / sums[train.labels]
    normalised: npt.NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return normalised
