"""One optimizer step and one evaluation pass as pure functions: no files, no globals, no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch
from hep_ray.losses import Loss
from hep_ray.models import Model
from hep_ray.training.manifold import mixed


@dataclass(frozen=True)
class StepResult:
    """Sums over one batch, left on the device so that a step never waits for it.

    Attributes:
        loss_sum: scalar tensor, sum of the per-event losses.
        correct: scalar tensor, events whose most probable class is the true one.
        events: events in the batch.
    """

    loss_sum: torch.Tensor
    correct: torch.Tensor
    events: int


@dataclass(frozen=True)
class Evaluation:
    """A model's answer on a whole split.

    Attributes:
        loss: mean loss per event.
        probabilities: (events, classes) float32; rows sum to one.
        log_odds: (events, classes) float64, ln p − ln(1 − p) of each class, by which events are ranked.
        losses: (events,) float32.
        labels: (events,) int64.
    """

    loss: float
    probabilities: np.ndarray
    log_odds: np.ndarray
    losses: np.ndarray
    labels: np.ndarray


def train_step(
    model: Model,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    clip_norm: float = 0.0,
    half: bool = False,
    mixing_points: tuple[str, ...] = (),
    forward: nn.Module | None = None,
    draws: AbstractContextManager[None] | None = None,
) -> StepResult:
    """Forward, backward and one optimizer update on one batch, in place on `model` and `optimizer`.

    The mean is over events, each with its weight; a mixed event's loss is that of both its labels in their shares, each
    with the weight of the event that it comes from: λ w l(y) + (1 − λ) w' l(y'). So the weights of a batch have the
    same sum, for every class, as without mixing.

    Args:
        model: in training mode.
        loss: per event.
        optimizer: of the model's parameters.
        batch: on the model's device.
        clip_norm: largest length of the gradient; 0 leaves it.
        half: run the model in bfloat16 where torch deems it safe.
        mixing_points: modules before which a batch with a permutation may be mixed.
        forward: what to call instead of the model, where several workers share the batch.
        draws: around the update, for an optimizer that draws random numbers.

    Raises:
        InvalidConfig: the batch is of one event, and the model normalises over a batch what is one number per event.
    """
    optimizer.zero_grad(set_to_none=True)
    try:
        with mixed(model, mixing_points, batch):
            logits = _logits(model if forward is None else forward, model.columns, batch, half=half)
    except ValueError as fault:
        if len(batch) > 1 or "per channel" not in str(fault):
            raise
        raise InvalidConfig(
            "batch normalisation takes more than one event where it has one number of each; a batch holds 1: choose a "
            "batch_size that leaves no single event over, or last_batch 'share' or 'drop'"
        ) from fault
    losses = _weighted(loss(logits, batch.labels), batch.weights)
    if batch.second_labels is not None:
        weights = batch.weights if batch.second_weights is None else batch.second_weights
        second = _weighted(loss(logits, batch.second_labels), weights)
        losses = batch.mix_ratio * losses + (1 - batch.mix_ratio) * second
    torch.autograd.backward(losses.mean())
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    with draws or nullcontext():
        optimizer.step()
    with torch.no_grad():
        return StepResult(losses.detach().sum(), (logits.argmax(1) == batch.labels).sum(), len(batch.labels))


def evaluate(
    model: Model,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    half: bool = False,
    whole: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Evaluation:
    """Losses, class probabilities and log-odds of a model in evaluation mode; the model's mode is put back after.

    Args:
        model: on the device of the batches.
        loss: gives them.
        batches: of the split, or this worker's part of it.
        half: run the model in bfloat16.
        whole: makes the rows of the whole split out of those of the workers' parts.
    """
    was_training = model.training
    model.eval()
    losses, probabilities, log_odds, labels = [], [], [], []
    with torch.inference_mode():
        for batch in batches:
            logits = _logits(model, model.columns, batch, half=half)
            losses.append(loss(logits, batch.labels))
            probabilities.append(loss.probabilities(logits))
            log_odds.append(loss.log_odds(logits).double())
            labels.append(batch.labels)
    model.train(was_training)
    rows = [torch.cat(values) for values in (losses, probabilities, log_odds, labels)]
    all_losses, all_probabilities, all_log_odds, all_labels = map(whole, rows) if whole else rows
    return Evaluation(
        loss=float(all_losses.double().mean()),
        probabilities=all_probabilities.float().cpu().numpy(),
        log_odds=all_log_odds.cpu().numpy(),
        losses=all_losses.float().cpu().numpy(),
        labels=all_labels.cpu().numpy(),
    )


def _weighted(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return losses if weights is None else losses * weights


def _logits(model: nn.Module, columns: tuple[str, ...], batch: Batch, *, half: bool) -> torch.Tensor:
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=half):
        logits: torch.Tensor = model(*(batch.inputs[column] for column in columns))
    return logits.float() if half else logits
