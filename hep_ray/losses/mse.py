"""Mean squared error of the probabilities: Σⱼ (softmax(x)ⱼ − 1[j = t])² / C.

This is the score of Brier, Mon. Weather Rev. 78 (1950) 1, divided by the number of classes C.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.losses import Loss, loss


class MseConfig(Config):
    """The squared error has nothing to configure."""


@loss("mse", MseConfig)
class Mse(Loss):
    """Squared distance of the softmax from the true class; never above 2/C."""

    def __init__(self, config: MseConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        truth = functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        return (logits.softmax(dim=1) - truth).square().mean(dim=1)

    def log_weights(self, logits: Tensor) -> Tensor:
        """The logits, (N, C): probabilities are their softmax."""
        return logits
