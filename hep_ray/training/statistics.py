"""Running statistics of normalisation, taken anew from the training events for a model whose weights were averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from hep_ray.loading.batches import Batch
from hep_ray.models import Model
from hep_ray.training.distributed import ALONE, Communicator


@torch.no_grad()
def take_anew(
    model: Model, batches: Callable[[], Iterable[Batch]], communicator: Communicator = ALONE
) -> None:
    """Replace the running statistics that training moves by those of the weights that the model has now.

    Each becomes the mean over the batches, every batch with as much weight as it has values. What training leaves
    alone stays as it is, bit for bit: a module that the model keeps in evaluation mode (a frozen backbone's), one of
    momentum 0, one that no event reaches.

    Args:
        model: on the device of the batches; its mode is put back after.
        batches: gives those of training events, with several workers this one's, perhaps none; asked where they are
            needed.
        communicator: of the workers whose batches count together; all of them hold the same statistics after.
    """
    was_training = model.training
    model.train()
    moved = [_Running(module) for module in model.modules() if _is_moved(module)]
    try:
        for batch in batches() if moved else ():
            model(*(batch.inputs[column] for column in model.columns))
    finally:
        for running in moved:
            running.close()
        model.train(was_training)
    for running in moved:
        running.settle(communicator)


def _is_moved(module: nn.Module) -> bool:
    return (
        isinstance(module, _NormBase)
        and module.training
        and module.running_mean is not None
        and module.momentum != 0
    )


class _Running:
    """The statistics of one module while they are taken anew."""

    def __init__(self, module: nn.Module) -> None:
        assert isinstance(module, _NormBase)
        self._module, self._momentum = module, module.momentum
        self._before = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
        self._weight = 0
        self._hook = module.register_forward_pre_hook(self._make_room, with_kwargs=True)

    def _make_room(self, module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        """Let the coming values count by their number."""
        assert isinstance(module, _NormBase)
        if not self._weight:
            module.reset_running_stats()
        values = (args[0] if args else named["input"]).numel() // module.num_features
        self._weight += values
        module.momentum = values / self._weight

    def close(self) -> None:
        """Let go of the module."""
        self._hook.remove()
        self._module.momentum = self._momentum

    def settle(self, communicator: Communicator) -> None:
        """Join what the workers found."""
        module = self._module
        mean, variance, count = module.running_mean, module.running_var, module.num_batches_tracked
        assert mean is not None
        assert variance is not None
        weights = communicator.total(torch.tensor([self._weight], dtype=torch.float64, device=mean.device))
        if not weights.item():
            for name, buffer in module.named_buffers(recurse=False):
                buffer.copy_(self._before[name])
            return
        if communicator.alone:
            return
        for own in (mean, variance):
            share = (
                own.double() * self._weight if self._weight else torch.zeros_like(own, dtype=torch.float64)
            )
            own.copy_(communicator.total(share) / weights)
        if count is not None:
            count.copy_(communicator.total(count if self._weight else torch.zeros_like(count)))
