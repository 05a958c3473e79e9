"""Cross-entropy: −Σⱼ qⱼ ln softmax(x)ⱼ for logits x and the wanted distribution q.

Without smoothing q is one at the true class. With smoothing s it is (1 − s) there plus s/C everywhere
(Szegedy et al., arXiv:1512.00567, section 7). Classes are weighted by the trainer's `class_weights`.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.losses import Loss, loss


class CrossEntropyConfig(Config):
    """Configuration of `cross_entropy`.

    Attributes:
        label_smoothing: s, the share of the label that is spread evenly over all classes.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


@loss("cross_entropy", CrossEntropyConfig)
class CrossEntropy(Loss):
    """Negative log-likelihood of the (smoothed) true class under the softmax of the logits."""

    def __init__(self, config: CrossEntropyConfig) -> None:
        super().__init__()
        self.label_smoothing = config.label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        return functional.cross_entropy(
            logits, target, reduction="none", label_smoothing=self.label_smoothing
        )

    def log_weights(self, logits: Tensor) -> Tensor:
        """The logits, (N, C): probabilities are their softmax."""
        return logits
