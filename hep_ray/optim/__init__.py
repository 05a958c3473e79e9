"""Optimizers and learning-rate schedules.

To resume a run: build the optimizer and the schedule as for a new run, then load both state dicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.optim.penalties import add_l1, groups
from hep_ray.registry import Registry

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

    def build(
        self,
        config: Config,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        exempt: Collection[nn.Parameter] = (),
    ) -> Optimizer:
        """Make the optimizer.

        Args:
            config: the entry's configuration.
            parameters: that it moves.
            learning_rate: of the first step.
            exempt: those of them that weight decay and L1 penalty leave alone, unless the config has
                `decay_norms_and_biases`.

        Raises:
            InvalidConfig: the learning rate is not a positive finite number.
        """
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise InvalidConfig(f"learning_rate must be positive and finite; got {learning_rate!r}")
        l1_penalty = getattr(config, "l1_penalty", 0.0)
        penalised = l1_penalty or getattr(config, "weight_decay", 0.0)
        if penalised and not getattr(config, "decay_norms_and_biases", True):
            parameters = groups(parameters, exempt)  # type: ignore[assignment]  # torch takes groups too
        built = self.factory(config, parameters, learning_rate)
        if l1_penalty:
            built.register_step_pre_hook(lambda stepping, *_: add_l1(stepping, l1_penalty))
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
