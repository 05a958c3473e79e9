"""Multi-class hinge loss: max(0, 1 + max_{j≠t} xⱼ − xₜ) for scores x and true class t.

Source: Crammer and Singer, J. Mach. Learn. Res. 2 (2001) 265. With two classes it is the hinge of a
support-vector machine acting on the difference of the two scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hep_ray.config import Config
from hep_ray.losses import Loss, loss


class HingeConfig(Config):
    """The hinge's margin is one: another margin only rescales the scores."""


@loss("hinge", HingeConfig)
class Hinge(Loss):
    """Asks the true class to lead the best other class by a margin of one."""

    def __init__(self, config: HingeConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of scores (N, C) and true classes (N,)."""
        true_column = target.unsqueeze(1)
        true_score = logits.gather(1, true_column).squeeze(1)
        others = logits.scatter(1, true_column, -torch.inf)
        return (1 + others.amax(dim=1) - true_score).clamp_min(0)

    def log_weights(self, logits: Tensor) -> Tensor:
        """The scores, (N, C): probabilities are their softmax.

        The hinge defines no probability: these order events by margin as the scores do, so accuracy and
        ROC curves mean what they always mean, but their calibration error measures nothing.
        """
        return logits
