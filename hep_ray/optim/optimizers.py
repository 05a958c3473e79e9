"""The first-order optimizers of torch, by name.

Those that torch can run as one fused kernel do: fewer passes over the parameters, the same arithmetic.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch.optim import Optimizer

from hep_ray.config import Config
from hep_ray.optim import Parameters, optimizer


class OptimizerConfig(Config):
    """Fields common to optimizers.

    Attributes:
        weight_decay: L2 coefficient λ, per step: added to the gradient as λ·w, except by adamw, which
            shrinks the weights by learning_rate·λ instead. It is the L2 penalty λ|w|²/2 of a loss.
        l1_penalty: L1 coefficient λ: the penalty λ|w|, whose gradient λ·sgn(w) is added to that of the loss.
        decay_norms_and_biases: let both act on the scales and offsets of normalisation and on biases too, as a plain
            `weight_decay` of torch does; off, the field's custom, they act on weights alone.
    """

    weight_decay: float = Field(default=0.0, ge=0)
    l1_penalty: float = Field(default=0.0, ge=0)
    decay_norms_and_biases: bool = False


class AdamConfig(OptimizerConfig):
    """Configuration of `adam` and `adamw`; their moment decay rates are torch's (0.9, 0.999)."""


class SgdConfig(OptimizerConfig):
    """Configuration of `sgd`.

    Attributes:
        momentum: fraction of the previous step that is kept; 0 is plain gradient descent.
        nesterov: take the gradient where momentum leads; needs momentum.
    """

    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class RmspropConfig(OptimizerConfig):
    """Configuration of `rmsprop`.

    Attributes:
        momentum: fraction of the previous step that is kept.
        alpha: decay rate of the running mean of squared gradients (Keras' ρ, there 0.9).
        epsilon: added to its root, of which steps are divided (in Keras 1e-7).
    """

    momentum: float = Field(default=0.0, ge=0, lt=1)
    alpha: float = Field(default=0.99, gt=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)


class AdagradConfig(OptimizerConfig):
    """Configuration of `adagrad`.

    Attributes:
        initial_accumulator: what the sums of squared gradients start from (in Keras 0.1).
        epsilon: added to their root (in Keras 1e-7).
    """

    initial_accumulator: float = Field(default=0.0, ge=0)
    epsilon: float = Field(default=1e-10, gt=0)


class AdadeltaConfig(OptimizerConfig):
    """Configuration of `adadelta`.

    Attributes:
        rho: decay rate of both running means (in Keras 0.95).
        epsilon: added to them under the root (in Keras 1e-7).
    """

    rho: float = Field(default=0.9, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)


OF_TORCH = {"epsilon": "eps", "initial_accumulator": "initial_accumulator_value"}


def of_torch(
    kind: type[Optimizer],
    config: OptimizerConfig,
    parameters: Parameters,
    learning_rate: float,
    **options: Any,
) -> Optimizer:
    """Make an optimizer of torch, whose arguments have the names of the config's fields, or those of `OF_TORCH`."""
    fields = config.model_dump(exclude={"l1_penalty", "decay_norms_and_biases"})
    named = {OF_TORCH.get(key, key): value for key, value in fields.items()}
    return kind(parameters, lr=learning_rate, **named, **options)  # type: ignore[call-arg]


@optimizer("adam", AdamConfig)
def adam(config: AdamConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Adam (Kingma and Ba, arXiv:1412.6980)."""
    return of_torch(torch.optim.Adam, config, parameters, learning_rate, fused=True)


@optimizer("adamw", AdamConfig)
def adamw(config: AdamConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""
    return of_torch(torch.optim.AdamW, config, parameters, learning_rate, fused=True)


@optimizer("sgd", SgdConfig)
def sgd(config: SgdConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return of_torch(torch.optim.SGD, config, parameters, learning_rate, fused=True)


@optimizer("rmsprop", RmspropConfig)
def rmsprop(config: RmspropConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """RMSprop: steps divided by the running root mean square of the gradient."""
    return of_torch(torch.optim.RMSprop, config, parameters, learning_rate)


@optimizer("adagrad", AdagradConfig)
def adagrad(config: AdagradConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Adagrad (Duchi, Hazan and Singer, 2011): steps divided by the root of the summed squared gradients."""
    return of_torch(torch.optim.Adagrad, config, parameters, learning_rate)


@optimizer("adadelta", AdadeltaConfig)
def adadelta(config: AdadeltaConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Adadelta (Zeiler, arXiv:1212.5701): RMSprop whose steps have the length of those before."""
    return of_torch(torch.optim.Adadelta, config, parameters, learning_rate)
