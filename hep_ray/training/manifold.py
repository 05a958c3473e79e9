"""Manifold MixUp: events are mixed at a hidden layer instead of at the input (Verma et al., arXiv:1806.05236)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch
from hep_ray.models import Model

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
