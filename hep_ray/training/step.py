"""One optimizer step as a pure function, and the mixing of events at a hidden layer: no files, no globals, no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch
from hep_ray.losses import Loss, event_losses
from hep_ray.losses.distance_correlation import Decorrelation
from hep_ray.models import Model
from hep_ray.models.members import mean_of_members
from hep_ray.training.evaluation import logits_of


@dataclass(frozen=True)
class StepResult:
    """Sums over one batch, left on the device so that a step never waits for it.

    Attributes:
        loss_sum: scalar tensor, sum of the per-event losses.
        correct: scalar tensor, events whose most probable class is the true one, each with its weight.
        events: events in the batch.
    """

    loss_sum: torch.Tensor
    correct: torch.Tensor
    events: int


def train_step(
    model: Model,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    clip_norm: float = 0.0,
    half: bool = False,
    mixing_points: tuple[str, ...] = (),
    forward: Callable[..., Tensor] | None = None,
    draws: AbstractContextManager[None] | None = None,
    decorrelation: Decorrelation | None = None,
) -> StepResult:
    """Forward, backward and one optimizer update on one batch, in place on `model` and `optimizer`.

    The mean is over events, each with its weight, which may be negative: the sum of w l(y) is then an unbiased estimate
    of what events of positive weights alone would give, and the loss of some events is raised. A mixed event's loss is
    that of both its labels in their shares, each with the weight of the event that it comes from:
    λ w l(y) + (1 − λ) w' l(y'). So the weights of a batch have the same sum, for every class, as without mixing.

    Of a model of several members an event's loss is the mean of the members' losses; what is right, and what is
    decorrelated, is the mean of their probabilities.

    Args:
        model: in training mode.
        loss: per event.
        optimizer: of the model's parameters.
        batch: on the model's device.
        clip_norm: largest length of the gradient; 0 leaves it.
        half: run the model in bfloat16 where torch deems it safe.
        mixing_points: modules before which a batch with a permutation may be mixed.
        forward: what to call instead of the model, where several workers share the batch or steps are compiled.
        draws: around the update, for an optimizer that draws random numbers.
        decorrelation: term beside the mean loss, which the sums do not count.

    Raises:
        InvalidConfig: the batch is of one event, and the model normalises over a batch what is one number per event.
    """
    optimizer.zero_grad(set_to_none=True)
    try:
        with mixed(model, mixing_points, batch):
            logits = logits_of(model if forward is None else forward, model.columns, batch, half=half)
    except ValueError as exc:
        if len(batch) > 1 or not any(isinstance(one, _BatchNorm) for one in model.modules()):
            raise
        raise InvalidConfig(
            "batch normalisation takes more than one event where it has one number of each; a batch holds 1: choose a "
            "batch_size that leaves no single event over, or last_batch 'share' or 'drop'"
        ) from exc
    losses = _weighted(event_losses(loss, logits, batch.labels), batch.weights)
    if batch.second_labels is not None:
        weights = batch.weights if batch.second_weights is None else batch.second_weights
        second = _weighted(event_losses(loss, logits, batch.second_labels), weights)
        losses = batch.mix_ratio * losses + (1 - batch.mix_ratio) * second
    total = losses.mean()
    logits = mean_of_members(logits)
    if decorrelation is not None:
        values = batch.inputs[decorrelation.column]
        total = total + decorrelation(loss.probabilities(logits), batch.labels, values, batch.weights)
    torch.autograd.backward(total)
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    with draws or nullcontext():
        optimizer.step()
    with torch.no_grad():
        right = logits.argmax(1) == batch.labels
        correct = right.sum() if batch.weights is None else (right * batch.weights).sum()
        return StepResult(losses.detach().sum(), correct, len(batch.labels))


def _weighted(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return losses if weights is None else losses * weights


PROBED_EVENTS = 4


def mixing_points(model: Model, batch: Batch) -> tuple[str, ...]:
    """Names of the modules at whose input all that the model knows of an event has come together.

    Found by trial: with the events in another order at the module's input, the logits come in that order too. So no
    stream of a network with several, and no branch of a residual block, is mixed while another is not.

    Args:
        model: any.
        batch: some events.

    Raises:
        InvalidConfig: there is no such module, or fewer than two events.
    """
    inputs = tuple(batch.inputs[column][:PROBED_EVENTS] for column in model.columns)
    events = len(inputs[0])
    was_training = model.training
    model.eval()
    order = torch.arange(events, device=inputs[0].device).roll(1)
    with torch.no_grad():
        calls = _calls(model, inputs)
        turned = model(*inputs)[order]
        found: dict[int, str] = {}
        for name, given in calls.items():
            if len(given) != 1 or given[0] is None or id(given[0]) in found:
                continue
            if getattr(model.get_submodule(name), "takes_lists", False):
                continue  # an item of one event's list belongs to none of another's
            with _input_changed(model.get_submodule(name), lambda values: values[order]):
                if torch.allclose(model(*inputs), turned, rtol=1e-4, atol=1e-5):
                    found[id(given[0])] = name
    model.train(was_training)
    if events < 2 or not found:  # noqa: PLR2004 - one event has nothing to be mixed with
        raise InvalidConfig(
            "manifold_mixup needs at least two events, and a layer that all of an event passes; "
            f"got {events} events and {len(found)} such layers of {type(model).__name__}"
        )
    return tuple(found.values())


@contextmanager
def mixed(model: Model, points: tuple[str, ...], batch: Batch) -> Iterator[None]:
    """Within, the model mixes every event of the batch with that of the permutation at one of the points."""
    if batch.permutation is None or not points:
        yield
        return
    permutation, mix_ratio = batch.permutation, batch.mix_ratio
    module = model.get_submodule(points[batch.mixing_draw % len(points)])
    with _input_changed(module, lambda values: torch.lerp(values[permutation], values, mix_ratio)):
        yield


@contextmanager
def _input_changed(module: nn.Module, change: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _calls(model: Model, inputs: tuple[Tensor, ...]) -> dict[str, list[Tensor | None]]:
    """Module name → its input at each call; None where that is not one tensor of real numbers per event."""
    calls: dict[str, list[Tensor | None]] = {}

    def noting(name: str) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            given = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None
            fits = given is not None and given.is_floating_point() and len(given) == len(inputs[0])
            calls.setdefault(name, []).append(given if fits else None)

        return note

    handles = [
        module.register_forward_pre_hook(noting(name)) for name, module in model.named_modules() if name
    ]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls
