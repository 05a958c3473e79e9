"""Optimizers that look for wide minima: what they find is the centre of where the weights have been.

Both hand the network weights to take a gradient at, and both have a `centre`; what is validated and kept is `so_far`.
Each `step` takes one gradient, so that an epoch costs what it costs with any other optimizer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from hep_ray.optim import Parameters, optimizer
from hep_ray.optim.optimizers import OptimizerConfig


class CentredOptimizer(Optimizer):
    """Moves the parameters around a centre."""

    def __init__(self, parameters: Parameters, learning_rate: float, config: OptimizerConfig) -> None:
        super().__init__(parameters, {"lr": learning_rate, **config.model_dump()})

    def parameters(self) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
        """Every parameter with its group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                yield parameter, group

    @abstractmethod
    def centre(self, parameter: nn.Parameter) -> Tensor:
        """Return the centre that the parameter moves around, of its shape."""

    def so_far(self, parameter: nn.Parameter) -> Tensor:
        """Return the value that all steps so far have found for this parameter, which is validated and kept."""
        return self.centre(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Raises:
            TypeError: a closure is given; gradients are taken before the call.
        """
        if closure is not None:
            raise TypeError(f"{type(self).__name__} steps with gradients taken before; got a closure")
        for parameter, group in self.parameters():
            if parameter.grad is not None:
                gradient = parameter.grad + group["weight_decay"] * parameter
                self._update(parameter, gradient, self.state[parameter], group)
        return None

    @abstractmethod
    def _update(
        self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None: ...


def nesterov(gradient: Tensor, velocity: Tensor, momentum: float) -> Tensor:
    """Direction of a Nesterov step; the velocity is moved on in place."""
    velocity.mul_(momentum).add_(gradient)
    return gradient + momentum * velocity


class EntropySgdConfig(OptimizerConfig):
    """Configuration of `entropy_sgd`; the defaults are those of the paper's section 5.

    Attributes:
        momentum: Nesterov's, of the inner loop.
        inner_steps: L, gradients between two moves of the centre.
        scope: γ, how strongly the inner loop is held to the centre.
        scope_growth: γ is multiplied by one plus this at each move of the centre.
        thermal_noise: ε, of the Langevin dynamics.
        newest_share: α, of the newest weights in the running mean µ.
        outer_rate: fraction of the way to µ that the centre moves (ηγ of algorithm 1).
    """

    momentum: float = Field(default=0.9, ge=0, lt=1)
    inner_steps: int = Field(default=20, ge=1)
    scope: float = Field(default=0.03, ge=0)
    scope_growth: float = Field(default=1e-3, ge=0)
    thermal_noise: float = Field(default=1e-4, ge=0)
    newest_share: float = Field(default=0.75, gt=0, le=1)
    outer_rate: float = Field(default=1.0, gt=0, le=1)


class EntropySgd(CentredOptimizer):
    """Stochastic gradient Langevin dynamics x' around x, whose running mean µ is where x goes next.

        x' ← x' − η′[∇f(x') − γ(x − x')] + √η′ ε N(0, 1);   µ ← (1 − α)µ + αx';   every L steps x ← x − ηγ(x − µ)

    Source: Chaudhari et al., arXiv:1611.01838, algorithm 1.
    """

    def centre(self, parameter: nn.Parameter) -> Tensor:
        """Return x."""
        state = self.state.get(parameter)
        return state["centre"] if state else parameter.detach()

    def so_far(self, parameter: nn.Parameter) -> Tensor:
        """Where x would go if the inner loop ended now: an epoch may be shorter than the loop, or end in its middle."""
        state = self.state.get(parameter)
        if not state or not state["inner"]:
            return self.centre(parameter)
        moved: Tensor = state["centre"].lerp(state["mean"], self.defaults["outer_rate"])
        return moved

    def _update(
        self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state.update(
                centre=parameter.detach().clone(),
                mean=parameter.detach().clone(),
                velocity=torch.zeros_like(parameter),
                inner=0,
                moves=0,
            )
        scope = group["scope"] * (1 + group["scope_growth"]) ** state["moves"]
        pulled = gradient - scope * (state["centre"] - parameter)
        parameter.add_(nesterov(pulled, state["velocity"], group["momentum"]), alpha=-group["lr"])
        if group["thermal_noise"]:
            spread = group["lr"] ** 0.5 * group["thermal_noise"]
            parameter.add_(torch.randn_like(parameter), alpha=spread)
        state["mean"].lerp_(parameter, group["newest_share"])
        state["inner"] += 1
        if state["inner"] == group["inner_steps"]:
            state["centre"].lerp_(state["mean"], group["outer_rate"])
            parameter.copy_(state["centre"])
            state["mean"].copy_(state["centre"])
            state["velocity"].zero_()
            state["inner"] = 0
            state["moves"] += 1


class ReplicatedSgdConfig(OptimizerConfig):
    """Configuration of `replicated_sgd`.

    Attributes:
        momentum: Nesterov's, of each replica.
        replicas: y, copies of the weights; they take the batches in turn.
        attraction: γ, how strongly each is drawn to their mean.
        attraction_growth: γ is multiplied by one plus this each time that all have stepped.
    """

    momentum: float = Field(default=0.9, ge=0, lt=1)
    replicas: int = Field(default=3, ge=2)
    attraction: float = Field(default=0.01, ge=0)
    attraction_growth: float = Field(default=1e-3, ge=0)


class ReplicatedSgd(CentredOptimizer):
    """Replicas wᵃ, each descending on batches of its own, drawn to their mean w̄.

        wᵃ ← wᵃ − η[∇f(wᵃ) + γ(wᵃ − w̄)]

    Source: Pittorino et al., arXiv:2006.07897, section 2 (replicated SGD); replicas start alike and part by their
    batches.
    """

    def centre(self, parameter: nn.Parameter) -> Tensor:
        """Return w̄."""
        state = self.state.get(parameter)
        return state["weights"].mean(0) if state else parameter.detach()

    def _update(
        self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            weights = torch.stack([parameter.detach()] * group["replicas"])
            state.update(weights=weights, velocities=torch.zeros_like(weights), steps=0)
        rounds, turn = divmod(state["steps"], group["replicas"])
        attraction = group["attraction"] * (1 + group["attraction_growth"]) ** rounds
        mean = state["weights"].mean(0)
        pulled = gradient + attraction * (parameter - mean)
        direction = nesterov(pulled, state["velocities"][turn], group["momentum"])
        state["weights"][turn] = parameter - group["lr"] * direction
        state["steps"] += 1
        parameter.copy_(state["weights"][(turn + 1) % group["replicas"]])


@optimizer("entropy_sgd", EntropySgdConfig)
def entropy_sgd(config: EntropySgdConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Entropy-SGD: descent on the local entropy, by a Langevin inner loop (Chaudhari et al., arXiv:1611.01838)."""
    return EntropySgd(parameters, learning_rate, config)


@optimizer("replicated_sgd", ReplicatedSgdConfig)
def replicated_sgd(config: ReplicatedSgdConfig, parameters: Parameters, learning_rate: float) -> Optimizer:
    """Replicated SGD: coupled copies of the weights (Pittorino et al., arXiv:2006.07897)."""
    return ReplicatedSgd(parameters, learning_rate, config)
