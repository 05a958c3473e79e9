"""Learning-rate schedules, stepped once per epoch."""

from __future__ import annotations

import math

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, StepLR

from hep_ray.config import Config
from hep_ray.optim import schedule


class StepConfig(Config):
    """Configuration of `step`; the defaults are the HVL thesis' protocol.

    Attributes:
        step_size: epochs between reductions.
        gamma: factor of each reduction.
    """

    step_size: int = Field(default=10, ge=1)
    gamma: float = Field(default=0.9, gt=0, le=1)


class CosineConfig(Config):
    """Configuration of `cosine`.

    Attributes:
        minimum_fraction: learning rate at the end, as a fraction of that at the start.
    """

    minimum_fraction: float = Field(default=0.0, ge=0, le=1)


class ExponentialConfig(Config):
    """Configuration of `exponential`.

    Attributes:
        gamma: factor of each reduction.
    """

    gamma: float = Field(default=0.95, gt=0, le=1)


class InverseTimeConfig(Config):
    """Configuration of `inverse_time`.

    Attributes:
        decay_rate: d, per epoch; Keras' former argument `decay` is d over the steps of an epoch.
    """

    decay_rate: float = Field(default=0.01, ge=0)


class CyclicConfig(Config):
    """Configuration of `cyclic`.

    Attributes:
        cycle_epochs: length of a cycle, from the highest rate down and up again.
        lowest_fraction: learning rate in the middle of a cycle, as a fraction of the highest.
    """

    cycle_epochs: int = Field(default=10, ge=2)
    lowest_fraction: float = Field(default=0.1, ge=0, le=1)


@schedule("none", Config)
def none(config: Config, optimizer: Optimizer, epochs: int) -> LRScheduler:  # noqa: ARG001
    """The learning rate stays as it is."""
    return LambdaLR(optimizer, lambda _: 1.0)


@schedule("step", StepConfig)
def step(config: StepConfig, optimizer: Optimizer, epochs: int) -> LRScheduler:  # noqa: ARG001
    """Multiply the learning rate by gamma after every `step_size` epochs."""
    return StepLR(optimizer, config.step_size, config.gamma)


@schedule("cosine", CosineConfig)
def cosine(config: CosineConfig, optimizer: Optimizer, epochs: int) -> LRScheduler:
    """Half a cosine from 1 to `minimum_fraction` over the run.

    Source: Loshchilov and Hutter, arXiv:1608.03983, eq. 5, without restarts. It is a function of the epoch
    alone, so a resumed run follows the same rates bit for bit; after the last epoch the minimum stays.
    """

    def fraction(epoch: int) -> float:
        progress = min(epoch / epochs, 1.0)
        remaining = (1 + math.cos(math.pi * progress)) / 2
        return config.minimum_fraction + (1 - config.minimum_fraction) * remaining

    return LambdaLR(optimizer, fraction)


@schedule("exponential", ExponentialConfig)
def exponential(config: ExponentialConfig, optimizer: Optimizer, epochs: int) -> LRScheduler:  # noqa: ARG001
    """Multiply the learning rate by gamma after every epoch."""
    return ExponentialLR(optimizer, config.gamma)


@schedule("inverse_time", InverseTimeConfig)
def inverse_time(config: InverseTimeConfig, optimizer: Optimizer, epochs: int) -> LRScheduler:  # noqa: ARG001
    """Divide the learning rate by 1 + d·(epochs done): Keras' former `decay`, by epochs instead of steps."""
    return LambdaLR(optimizer, lambda epoch: 1 / (1 + config.decay_rate * epoch))


@schedule("cyclic", CyclicConfig)
def cyclic(config: CyclicConfig, optimizer: Optimizer, epochs: int) -> LRScheduler:  # noqa: ARG001
    """Triangles between the given rate, where each cycle starts, and `lowest_fraction` of it.

    Source: Smith, arXiv:1506.01186, the policy `triangular`, begun at its top.
    """

    def fraction(epoch: int) -> float:
        height = abs(1 - 2 * (epoch % config.cycle_epochs) / config.cycle_epochs)
        return config.lowest_fraction + (1 - config.lowest_fraction) * height

    return LambdaLR(optimizer, fraction)
