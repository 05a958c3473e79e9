"""Which model a trial validates and keeps: the trained one, or one whose weights are an average along its road."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from hep_ray.loading.batches import Batch
from hep_ray.models import Model
from hep_ray.optim.wide_minima import CentredOptimizer
from hep_ray.training.distributed import ALONE, Communicator
from hep_ray.training.statistics import take_anew


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
        """What the trained model and its optimizer do not hold."""
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
