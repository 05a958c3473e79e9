"""Cross-entropy: −ln softmax(x)ₜ for logits x and true class t."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.losses import Loss, loss


class CrossEntropyConfig(Config):
    """Cross-entropy has nothing to configure."""


@loss("cross_entropy", CrossEntropyConfig)
class CrossEntropy(Loss):
    """Negative log-likelihood of the true class under the softmax of the logits."""

    def __init__(self, config: CrossEntropyConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        return functional.cross_entropy(logits, target, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the logits, (N, C)."""
        return logits.softmax(dim=1)
