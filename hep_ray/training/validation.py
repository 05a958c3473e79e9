"""Metrics of a model on the validation split."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import NonFiniteLoss
from hep_ray.loading.batches import BatchRequest, EventSource
from hep_ray.losses import Loss
from hep_ray.metrics import classification_metrics
from hep_ray.models import Model
from hep_ray.training.distributed import ALONE, Communicator
from hep_ray.training.step import Evaluation, evaluate

BATCH = 512
"""Events per forward pass; changes speed and memory, never the result's meaning."""
UNRANKED = (
    "log-odds, which rank events, are not: logits too large for their precision, or log_weights of ln 0,"
)
"""Of a loss that is bounded, such as `mse` and `hinge`, or of one's own."""


def validate(
    model: Model,
    loss: Loss,
    events: EventSource,
    schema: EventSchema,
    where: Callable[[str], str],
    *,
    half: bool = False,
    device: torch.device | str = "cpu",
    communicator: Communicator = ALONE,
) -> dict[str, float]:
    """`val_loss` and every metric of `classification_metrics` with `val_` before its name.

    Args:
        model: on the device.
        loss: gives the losses and the probabilities.
        events: of the validation split.
        schema: its classes and its signal.
        where: completes the message of an error.
        half: run the model in bfloat16.
        device: of the model.
        communicator: of the workers that share the events; each has the metrics of all of them.

    Raises:
        NonFiniteLoss: the loss, a probability, or a log-odds is NaN or infinite.
    """
    request = BatchRequest(
        BATCH, rank=communicator.rank, world_size=communicator.world_size, sharded=True, device=device
    )
    rows = request.counted_rows(len(events))
    result = evaluate(
        model,
        loss,
        events.batches(request),
        half=half,
        whole=lambda values: communicator.in_order(values, rows, len(events)),
    )
    return validation_metrics(result, schema, where)


def validation_metrics(
    result: Evaluation, schema: EventSchema, where: Callable[[str], str]
) -> dict[str, float]:
    """The same of losses and probabilities that are known already.

    Raises:
        NonFiniteLoss: the loss, a probability, or a log-odds is NaN or infinite.
    """
    if not math.isfinite(result.loss) or not np.isfinite(result.probabilities).all():
        raise NonFiniteLoss(where(f"validation loss is {result.loss}"))
    if not np.isfinite(result.log_odds).all():
        raise NonFiniteLoss(where(UNRANKED))
    metrics = classification_metrics(
        result.probabilities, result.labels, schema.classes, schema.signal, result.log_odds
    )
    return {"val_loss": result.loss} | {f"val_{key}": value for key, value in metrics.items()}


def validation_keys(schema: EventSchema) -> tuple[str, ...]:
    """Names of all that `validate` reports of events with these classes."""
    classes = len(schema.classes)
    undecided = np.full((2 * classes, classes), 1 / classes, np.float32)
    labels = np.arange(2 * classes) % classes
    nothing = Evaluation(0.0, undecided, np.zeros(undecided.shape), np.zeros(len(labels)), labels)
    return tuple(validation_metrics(nothing, schema, str))
