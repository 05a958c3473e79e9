"""Binary cross-entropy, one class against the rest: every class answers yes or no on its own.

For logits x, true class t, σ the logistic function and C classes,

    loss = −[ln σ(xₜ) + Σ_{j≠t} ln(1 − σ(xⱼ))] / C.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.losses import Loss, loss


class BinaryCrossEntropyConfig(Config):
    """Binary cross-entropy has nothing to configure."""


@loss("binary_cross_entropy", BinaryCrossEntropyConfig)
class BinaryCrossEntropy(Loss):
    """Mean over the classes of the negative log-likelihood of "is it this class?"."""

    def __init__(self, config: BinaryCrossEntropyConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        truth = functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)

    def log_weights(self, logits: Tensor) -> Tensor:
        """Logarithms ln σ(xⱼ), (N, C): probabilities are σ(xⱼ) divided by their sum."""
        return functional.logsigmoid(logits)
