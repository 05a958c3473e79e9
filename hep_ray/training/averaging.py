"""SWA and other weight averages: which model a trial validates and keeps, and its running statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel

from hep_ray.loading.batches import Batch
from hep_ray.models import Model
from hep_ray.optim.wide_minima import CentredOptimizer
from hep_ray.training.distributed import ALONE, Communicator


class KeptModel:
    """Follows a model through its training.

    With an optimizer that has a centre, that centre; after `swa_start` of the epochs, the mean of what each epoch
    ended with (stochastic weight averaging, Izmailov et al., arXiv:1803.05407). Running statistics of batch
    normalisation that training moves are then taken anew from the training events, in one more pass over them per
    epoch.

    Args:
        model: the one that is trained.
        optimizer: of its parameters.
        epochs: full length of the trial.
        swa_start: fraction of the epochs before averaging starts; 1 never averages.
    """

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer, epochs: int, swa_start: float) -> None:
        self._trained = model
        self._optimizer = optimizer
        self._centred = copy.deepcopy(model) if isinstance(optimizer, CentredOptimizer) else model
        self._first = math.floor(epochs * swa_start) + 1 if swa_start < 1 else None
        self._averaged = AveragedModel(self._centred) if self._first is not None else None

    @property
    def model(self) -> Model:
        """The model to validate and keep."""
        if self._averaged is not None and int(self._averaged.n_averaged) > 0:
            return cast("Model", self._averaged.module)
        return self._centred

    def update(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], communicator: Communicator = ALONE
    ) -> None:
        """Take in the end of a training epoch.

        Args:
            epoch: from 1.
            batches: gives those of the training events, without augmentation; asked only where they are needed.
            communicator: of the workers, each of which has other batches.
        """
        if isinstance(self._optimizer, CentredOptimizer):
            self._centred.load_state_dict(self._trained.state_dict())
            with torch.no_grad():
                for own, trained in zip(self._centred.parameters(), self._trained.parameters(), strict=True):
                    if trained.requires_grad:
                        own.copy_(self._optimizer.so_far(trained))
        if self._averaged is not None and self._first is not None and epoch >= self._first:
            self._averaged.update_parameters(self._centred)
        if self.model is not self._trained:
            take_anew(self.model, batches, communicator)

    def state_dict(self) -> dict[str, Any]:
        """Return what the trained model and its optimizer do not hold."""
        kept: dict[str, Any] = {}
        if self._centred is not self._trained:
            kept["centred"] = self._centred.state_dict()
        if self._averaged is not None:
            kept["averaged"] = self._averaged.state_dict()
        return kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        if self._centred is not self._trained:
            self._centred.load_state_dict(state["centred"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])


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
        weights = communicator.all_reduce(
            torch.tensor([self._weight], dtype=torch.float64, device=mean.device)
        )
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
            own.copy_(communicator.all_reduce(share) / weights)
        if count is not None:
            count.copy_(communicator.all_reduce(count if self._weight else torch.zeros_like(count)))
