"""Evaluate a model on the events of a split, and report its metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidConfig, NonFiniteLoss
from hep_ray.loading.batches import Batch, BatchRequest, EventSource
from hep_ray.losses import Loss
from hep_ray.metrics import classification_metrics, is_worst, larger_is_better, nominal_key, worst_of
from hep_ray.models import Model
from hep_ray.training.distributed import ALONE, Communicator

logger = logging.getLogger(__name__)

BATCH = 512
"""Events per forward pass; changes speed and memory, never the result's meaning."""
UNRANKED = (
    "log-odds, which rank events, are not: logits too large for their precision, or log_weights of ln 0,"
)
"""Of a loss that is bounded, such as `mse` and `hinge`, or of one's own."""


@dataclass(frozen=True)
class Evaluation:
    """A model's answer on a whole split.

    Attributes:
        loss: mean loss per event; of weighted events the weighted mean.
        probabilities: (events, classes) float32; rows sum to one.
        log_odds: (events, classes) float64, ln p − ln(1 − p) of each class, by which events are ranked.
        losses: (events,) float32.
        labels: (events,) int64.
        weights: (events,) float64 of the events, in events expected; None where they are counted.
        protected: (events,) float64 of the column that the trial is decorrelated from; None where there is none.
    """

    loss: float
    probabilities: np.ndarray
    log_odds: np.ndarray
    losses: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None
    protected: np.ndarray | None = None


def evaluate(
    model: Model,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    half: bool = False,
    whole: Callable[[torch.Tensor], torch.Tensor] | None = None,
    protected: str = "",
) -> Evaluation:
    """Losses, class probabilities and log-odds of a model in evaluation mode; the model's mode is put back after.

    Args:
        model: on the device of the batches.
        loss: gives them.
        batches: of the split, or this worker's part of it; all of them have weights, or none has.
        half: run the model in bfloat16.
        whole: makes the rows of the whole split out of those of the workers' parts.
        protected: scalar column of the batches that is handed on beside; none unless given.
    """
    was_training = model.training
    model.eval()
    losses, probabilities, log_odds, labels, weights, beside = [], [], [], [], [], []
    with torch.inference_mode():
        for batch in batches:
            logits = logits_of(model, model.columns, batch, half=half)
            losses.append(loss(logits, batch.labels))
            probabilities.append(loss.probabilities(logits))
            log_odds.append(loss.log_odds(logits).double())
            labels.append(batch.labels)
            weights += [] if batch.weights is None else [batch.weights.double()]
            beside += [batch.inputs[protected].double()] if protected else []
    model.train(was_training)

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        return whole(torch.cat(parts)) if whole else torch.cat(parts)

    all_losses, all_probabilities, all_log_odds, all_labels = map(
        joined, (losses, probabilities, log_odds, labels)
    )
    all_weights = joined(weights) if weights else None
    all_beside = joined(beside) if beside else None
    mean = all_losses.double().mean()
    if all_weights is not None:
        mean = (all_losses.double() * all_weights).sum() / all_weights.sum()
    return Evaluation(
        loss=float(mean),
        probabilities=all_probabilities.float().cpu().numpy(),
        log_odds=all_log_odds.cpu().numpy(),
        losses=all_losses.float().cpu().numpy(),
        labels=all_labels.cpu().numpy(),
        weights=None if all_weights is None else all_weights.cpu().numpy(),
        protected=None if all_beside is None else all_beside.cpu().numpy(),
    )


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
    protected: str = "",
    decorrelation: float = 0.0,
) -> dict[str, float]:
    """`val_loss` and every metric of `classification_metrics` with `val_` before its name.

    Args:
        model: on the device.
        loss: gives the losses and the probabilities.
        events: of the validation split, with their weights in metrics if they have some.
        schema: its classes and its signal.
        where: completes the message of an error.
        half: run the model in bfloat16.
        device: of the model.
        communicator: of the workers that share the events; each has the metrics of all of them.
        protected: column of the events that the trial is decorrelated from.
        decorrelation: λ of the term in its loss.

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
        whole=lambda values: communicator.gather_rows(values, rows, len(events)),
        protected=protected,
    )
    return validation_metrics(result, schema, where, decorrelation)


def validation_metrics(
    result: Evaluation, schema: EventSchema, where: Callable[[str], str], decorrelation: float = 0.0
) -> dict[str, float]:
    """The same of losses and probabilities that are known already.

    Of a trial that is decorrelated from a column also `val_decorrelated_loss`, `val_loss` + λ·dCor² of the background.

    Raises:
        NonFiniteLoss: the loss, a probability, or a log-odds is NaN or infinite.
    """
    if not math.isfinite(result.loss) or not np.isfinite(result.probabilities).all():
        raise NonFiniteLoss(where(f"validation loss is {result.loss}"))
    if not np.isfinite(result.log_odds).all():
        raise NonFiniteLoss(where(UNRANKED))
    metrics = classification_metrics(
        result.probabilities,
        result.labels,
        schema.classes,
        schema.signal,
        result.log_odds,
        result.weights,
        protected=result.protected,
    )
    losses = with_decorrelation(result.loss, metrics, decorrelation)
    return {f"val_{key}": value for key, value in (losses | metrics).items()}


def under_variations(
    key: str, nominal: Mapping[str, float], under: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Return the worst value of a metric, as `val_worst_auc`, and that under each variation, as `val_auc_under_NAME`.

    Args:
        key: of the metric, such as `val_auc`.
        nominal: metrics of the events as they are.
        under: name of a variation → metrics of the same events under it.
    """
    each = {f"{key}_under_{name}": found[key] for name, found in under.items()}
    return worst_of(key, [nominal, *under.values()]) | each


def with_decorrelation(loss: float, metrics: Mapping[str, float], strength: float) -> dict[str, float]:
    """Return `loss`, and `decorrelated_loss` where the metrics have a distance correlation."""
    correlation = metrics.get("background_distance_correlation")
    if correlation is None:
        return {"loss": loss}
    return {"loss": loss, "decorrelated_loss": loss + strength * correlation**2}


def watched_metrics(evaluated: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """Return what is reported of watched events; nothing after an epoch where their loss is not finite.

    Args:
        evaluated: returns their metrics under the names of the validation split.
    """
    try:
        metrics = evaluated()
    except NonFiniteLoss as exc:  # which ranks nothing, so that it ends no trial
        logger.warning("watched events are left out of an epoch: %s", exc)
        return {}
    return {f"watched_{name}": metrics[f"val_{name}"] for name in ("loss", "accuracy", "auc")}


def validation_keys(schema: EventSchema, *, protected: bool = False) -> tuple[str, ...]:
    """Names of all that `validate` reports of events with these classes.

    Args:
        schema: of the events.
        protected: whether trials are decorrelated from a column.
    """
    classes = len(schema.classes)
    undecided = np.full((2 * classes, classes), 1 / classes, np.float32)
    labels = np.arange(2 * classes) % classes
    weights = None if schema.weight is None else np.ones(len(labels))
    beside = np.arange(len(labels), dtype=np.float64) if protected else None
    ranks = np.zeros(undecided.shape)
    nothing = Evaluation(0.0, undecided, ranks, np.zeros(len(labels)), labels, weights, beside)
    return tuple(validation_metrics(nothing, schema, str))


def worst_keys(metric: str, schema: EventSchema) -> tuple[str, ...]:
    """Return the key of a worst variation that trials report where a search ranks by it; none for any other metric.

    Raises:
        InvalidConfig: the events have no variations, or the metric no direction.
    """
    ranked = nominal_key(metric)
    if ranked == metric:
        return ()
    if not schema.variations:
        raise InvalidConfig(
            f"metric '{metric}' is the worst over systematic variations, and the events have none: state "
            f"[variations.NAME] in the schema file of the dataset, or rank by '{ranked}'"
        )
    if larger_is_better(ranked) is None:
        raise InvalidConfig(
            f"metric '{metric}' has no worst value: neither more nor less of '{ranked}' is better"
        )
    return (metric,) if ranked in validation_keys(schema) else ()


def ranking_variations(keys: Iterable[str | None], schema: EventSchema) -> dict[str, dict[str, Any]]:
    """Return the variations that a search ranks under, by name; none where no key is the worst over them."""
    worst = any(key and is_worst(key) for key in keys)
    return {name: one.model_dump(mode="json") for name, one in schema.variations.items() if worst}


def logits_of(
    model: Callable[..., torch.Tensor], columns: tuple[str, ...], batch: Batch, *, half: bool
) -> torch.Tensor:
    """Return the logits of a batch as float32, of a model that runs in bfloat16 where `half` asks for it."""
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=half):
        logits: torch.Tensor = model(*(batch.inputs[column] for column in columns))
    return logits.float() if half else logits
