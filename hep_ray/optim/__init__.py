"""Optimizers and learning-rate schedules.

To resume a run: build the optimizer and the schedule as for a new run, then load both state dicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.registry import Registry


def _add_l1(optimizer: Optimizer, penalty: float) -> None:
    """Add the gradient of penalty·Σ|w| to the gradients of a step."""
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.sign(), alpha=penalty)


OptimizerFactory = Callable[[Any, Iterable[nn.Parameter], float], Optimizer]
ScheduleFactory = Callable[[Any, Optimizer, int], LRScheduler]


@dataclass(frozen=True)
class OptimizerEntry:
    """One registered optimizer.

    Attributes:
        name: what a search calls it.
        config: its configuration class.
        factory: makes it, unchecked; use `build`.
    """

    name: str
    config: type[Config]
    factory: OptimizerFactory

    def build(self, config: Config, parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
        """Make the optimizer.

        Raises:
            InvalidConfig: the learning rate is not a positive finite number.
        """
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise InvalidConfig(f"learning_rate must be positive and finite; got {learning_rate!r}")
        built = self.factory(config, parameters, learning_rate)
        l1_penalty = getattr(config, "l1_penalty", 0.0)
        if l1_penalty:
            built.register_step_pre_hook(lambda stepping, *_: _add_l1(stepping, l1_penalty))
        return built


@dataclass(frozen=True)
class ScheduleEntry:
    """One registered schedule.

    Attributes:
        name: what a search calls it.
        config: its configuration class.
        factory: makes it, unchecked; use `build`.
    """

    name: str
    config: type[Config]
    factory: ScheduleFactory

    def build(self, config: Config, optimizer: Optimizer, epochs: int) -> LRScheduler:
        """Make the schedule, to be stepped once at the end of every epoch.

        Args:
            config: the entry's configuration.
            optimizer: whose learning rate it moves.
            epochs: length of the whole run.

        Raises:
            InvalidConfig: there is not at least one epoch.
        """
        if epochs < 1:
            raise InvalidConfig(f"epochs must be at least 1; got {epochs!r}")
        return self.factory(config, optimizer, epochs)


# Both registries discover the same folder, which imports each module once.
OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer", __name__)
SCHEDULES: Registry[ScheduleEntry] = Registry("schedule", __name__)


def optimizer(name: str, config: type[Config]) -> Callable[[OptimizerFactory], OptimizerFactory]:
    """Register a function (config, parameters, learning_rate) → Optimizer.

    Raises:
        DuplicateName: another optimizer has the name.
    """

    def register(factory: OptimizerFactory) -> OptimizerFactory:
        OPTIMIZERS.add(name, OptimizerEntry(name, config, factory))
        return factory

    return register


def schedule(name: str, config: type[Config]) -> Callable[[ScheduleFactory], ScheduleFactory]:
    """Register a function (config, optimizer, epochs) → LRScheduler.

    Raises:
        DuplicateName: another schedule has the name.
    """

    def register(factory: ScheduleFactory) -> ScheduleFactory:
        SCHEDULES.add(name, ScheduleEntry(name, config, factory))
        return factory

    return register
