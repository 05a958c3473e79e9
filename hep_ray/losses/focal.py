"""Focal loss: −(1 − pₜ)^γ ln pₜ with p = softmax(x) and true class t.

Source: Lin et al., arXiv:1708.02002, eq. 4, without the class factor α (the trainer's `class_weights` does that).
Events that are already right weigh little; γ = 0 is cross-entropy. Evaluated from the two logarithms, so that its
gradient is finite for every γ: the derivative of (1 − pₜ)^γ itself diverges at pₜ = 1 for γ < 1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hep_ray.config import Config
from hep_ray.losses import Loss, loss

LOWEST_LOGARITHM = -1e30
"""ln p below which p counts as this; keeps products of logarithms within float32."""


class FocalConfig(Config):
    """Configuration of `focal`.

    Attributes:
        focusing: γ ≥ 0; the paper's choice is 2.
    """

    focusing: float = Field(default=2.0, ge=0)


@loss("focal", FocalConfig)
class Focal(Loss):
    """Cross-entropy with the weight of easy events turned down."""

    def __init__(self, config: FocalConfig) -> None:
        super().__init__()
        self.focusing = config.focusing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        true_column = target.unsqueeze(1)
        log_all = logits.log_softmax(dim=1).clamp_min(LOWEST_LOGARITHM)
        log_true = log_all.gather(1, true_column).squeeze(1)
        log_others = log_all.scatter(1, true_column, -torch.inf).logsumexp(dim=1)
        return -(self.focusing * log_others).exp() * log_true

    def log_weights(self, logits: Tensor) -> Tensor:
        """The logits, (N, C): probabilities are their softmax."""
        return logits
