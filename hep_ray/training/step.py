"""One optimizer step and one evaluation pass as pure functions: no files, no globals, no Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hep_ray.data.batches import Batch
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
        labels: (events,) int64.
    """

    loss: float
    probabilities: np.ndarray
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
) -> StepResult:
    """Forward, backward and one optimizer update on one batch, in place on `model` and `optimizer`.

    The mean is over events, each with its weight; a mixed event's loss is that of both its labels in their shares.

    Args:
        model: in training mode.
        loss: per event.
        optimizer: of the model's parameters.
        batch: on the model's device.
        clip_norm: largest length of the gradient; 0 leaves it.
        half: run the model in bfloat16 where torch deems it safe.
        mixing_points: modules before which a batch with partners may be mixed.
    """
    optimizer.zero_grad(set_to_none=True)
    with mixed(model, mixing_points, batch):
        logits = _logits(model, batch, half=half)
    losses = loss(logits, batch.labels)
    if batch.other_labels is not None:
        losses = batch.share * losses + (1 - batch.share) * loss(logits, batch.other_labels)
    if batch.weights is not None:
        losses = losses * batch.weights
    losses.mean().backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    with torch.no_grad():
        return StepResult(losses.detach().sum(), (logits.argmax(1) == batch.labels).sum(), len(batch.labels))


def evaluate(model: Model, loss: Loss, batches: Iterable[Batch], *, half: bool = False) -> Evaluation:
    """Losses and class probabilities of a model in evaluation mode; the model's mode is put back after."""
    was_training = model.training
    model.eval()
    losses, probabilities, labels = [], [], []
    with torch.inference_mode():
        for batch in batches:
            logits = _logits(model, batch, half=half)
            losses.append(loss(logits, batch.labels))
            probabilities.append(loss.probabilities(logits))
            labels.append(batch.labels)
    model.train(was_training)
    return Evaluation(
        loss=float(torch.cat(losses).double().mean()),
        probabilities=torch.cat(probabilities).float().cpu().numpy(),
        labels=torch.cat(labels).cpu().numpy(),
    )


def _logits(model: Model, batch: Batch, *, half: bool) -> torch.Tensor:
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=half):
        logits: torch.Tensor = model(*(batch.inputs[column] for column in model.columns))
    return logits.float() if half else logits
