"""One optimizer step and one evaluation pass as pure functions: no files, no globals, no Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from hep_ray.data.batches import Batch
from hep_ray.losses import Loss
from hep_ray.models import Model


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


def train_step(model: Model, loss: Loss, optimizer: torch.optim.Optimizer, batch: Batch) -> StepResult:
    """Forward, backward and one optimizer update on one batch, in place on `model` and `optimizer`.

    The mean is over events, each with its weight; a mixed event's loss is that of both its labels in their shares.
    """
    optimizer.zero_grad(set_to_none=True)
    logits = model(*(batch.inputs[column] for column in model.columns))
    losses = loss(logits, batch.labels)
    if batch.other_labels is not None:
        losses = batch.share * losses + (1 - batch.share) * loss(logits, batch.other_labels)
    if batch.weights is not None:
        losses = losses * batch.weights
    losses.mean().backward()
    optimizer.step()
    with torch.no_grad():
        return StepResult(losses.detach().sum(), (logits.argmax(1) == batch.labels).sum(), len(batch.labels))


def evaluate(model: Model, loss: Loss, batches: Iterable[Batch]) -> Evaluation:
    """Losses and class probabilities of a model in evaluation mode; the model's mode is put back after."""
    was_training = model.training
    model.eval()
    losses, probabilities, labels = [], [], []
    with torch.inference_mode():
        for batch in batches:
            logits = model(*(batch.inputs[column] for column in model.columns))
            losses.append(loss(logits, batch.labels))
            probabilities.append(loss.probabilities(logits))
            labels.append(batch.labels)
    model.train(was_training)
    return Evaluation(
        loss=float(torch.cat(losses).double().mean()),
        probabilities=torch.cat(probabilities).float().cpu().numpy(),
        labels=torch.cat(labels).cpu().numpy(),
    )
