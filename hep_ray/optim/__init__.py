"""Optimizers and learning-rate schedules.

To resume a run: build the optimizer and the schedule as for a new run, then load both state dicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.registry import Registry
from hep_ray.signature import component_of

Parameters = Iterable[nn.Parameter]
OptimizerFactory = Callable[[Any, Parameters, float], Optimizer]
ScheduleFactory = Callable[[Any, Optimizer, int], LRScheduler]
F = TypeVar("F", OptimizerFactory, ScheduleFactory)


@dataclass(frozen=True)
class FactoryEntry(Generic[F]):
    """One registered optimizer or schedule.

    Attributes:
        name: what a search calls it.
        config: its configuration class.
        factory: makes it, unchecked; use `build`.
    """

    name: str
    config: type[Config]
    factory: F


class OptimizerEntry(FactoryEntry[OptimizerFactory]):
    """One registered optimizer."""

    def build(
        self,
        config: Config,
        parameters: Parameters,
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


class ScheduleEntry(FactoryEntry[ScheduleFactory]):
    """One registered schedule."""

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


M = TypeVar("M", bound=Callable[..., Any])


def optimizer(name: str, config: type[Config] | None = None) -> Callable[[M], M]:
    """Register a function (config, parameters, learning_rate) → Optimizer.

    Without a configuration class it takes (parameters, learning_rate, …), as torch's classes do, and its other
    parameters, annotated, are the keys.

    Raises:
        DuplicateName: another optimizer has the name.
        InvalidConfig: a parameter is not annotated, or not with what a space can state.
    """
    return OPTIMIZERS.decorator(
        name, lambda made: OptimizerEntry(name, *_plain(f"optimizer '{name}'", made, config))
    )


def schedule(name: str, config: type[Config] | None = None) -> Callable[[M], M]:
    """Register a function (config, optimizer, epochs) → LRScheduler.

    Without a configuration class it takes (optimizer, epochs, …), and its other parameters, annotated, are the keys.

    Raises:
        DuplicateName: another schedule has the name.
        InvalidConfig: a parameter is not annotated, or not with what a space can state.
    """
    return SCHEDULES.decorator(
        name, lambda made: ScheduleEntry(name, *_plain(f"schedule '{name}'", made, config))
    )


def _plain(what: str, made: Any, config: type[Config] | None) -> tuple[type[Config], Any]:
    """Configuration and factory; without a class for it, the keys are the parameters after the first two."""
    if config is not None:
        return config, made
    return component_of(made, what, leaving_out=2)


NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norms_and_biases(model: nn.Module) -> list[nn.Parameter]:
    """Scales and offsets of normalisation, biases, and all parameters of at most one dimension, as slopes of PReLU.

    A bias is also what is named so and has more dimensions, as those of the members of an ensemble in one network.

    They are shifts and scales of whole channels, too few to overfit by: that they are left out of the decay is the
    custom since Goyal et al. (arXiv:1706.02677, section 5.3) and He et al. (arXiv:1812.01187, section 3.1).
    """
    scales = {id(own) for one in model.modules() if isinstance(one, NORMS) for own in one.parameters(False)}
    named = model.named_parameters()
    return [own for name, own in named if own.ndim <= 1 or name.endswith("bias") or id(own) in scales]


def groups(
    parameters: Iterable[nn.Parameter], exempt: Collection[nn.Parameter]
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """Parameters as an optimizer takes them: in two groups, where some are exempt from what the config says.

    Args:
        parameters: all of them.
        exempt: from weight decay and L1 penalty.
    """
    everyone, names = list(parameters), {id(one) for one in exempt}
    free = [one for one in everyone if id(one) in names]
    if not free:
        return everyone
    held = [one for one in everyone if id(one) not in names]
    none: dict[str, Any] = {"params": free, "weight_decay": 0.0, "l1_penalty": 0.0}
    return [{"params": held}, none] if held else [none]


def add_l1(optimizer: Optimizer, penalty: float) -> None:
    """Add the gradient of penalty·Σ|w| to the gradients of a step."""
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.sign(), alpha=group.get("l1_penalty", penalty))
