"""The common losses, each with its formula, for logits x, p = softmax(x), true class t and C classes.

None weights the classes: the trainer's `class_weights` does.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.losses import Loss, SoftmaxLoss, loss

LOWEST_LOGARITHM = -1e30
"""ln p below which p counts as this; keeps products of logarithms within float32."""


class CrossEntropyConfig(Config):
    """Configuration of `cross_entropy`.

    Attributes:
        label_smoothing: s, the share of the label that is spread evenly over all classes.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


@loss("cross_entropy", CrossEntropyConfig)
class CrossEntropy(SoftmaxLoss):
    """Negative log-likelihood of the (smoothed) true class under the softmax of the logits.

    It is −Σⱼ qⱼ ln pⱼ of the wanted distribution q: one at the true class, or with smoothing s (1 − s) there plus s/C
    everywhere (Szegedy et al., arXiv:1512.00567, section 7).
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        return functional.cross_entropy(
            logits, target, reduction="none", label_smoothing=self.config.label_smoothing
        )


class FocalConfig(Config):
    """Configuration of `focal`.

    Attributes:
        focusing: γ ≥ 0; the paper's choice is 2.
    """

    focusing: float = Field(default=2.0, ge=0)


@loss("focal", FocalConfig)
class Focal(SoftmaxLoss):
    """Cross-entropy with the weight of easy events turned down.

    It is −(1 − pₜ)^γ ln pₜ (Lin et al., arXiv:1708.02002, eq. 4, without the class factor α): events that are already
    right weigh little; γ = 0 is cross-entropy. Evaluated from the two logarithms, so that its gradient is finite for
    every γ: the derivative of (1 − pₜ)^γ itself diverges at pₜ = 1 for γ < 1.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        true_column = target.unsqueeze(1)
        log_all = logits.log_softmax(dim=1).clamp_min(LOWEST_LOGARITHM)
        log_true = log_all.gather(1, true_column).squeeze(1)
        log_others = log_all.scatter(1, true_column, -torch.inf).logsumexp(dim=1)
        focusing: float = self.config.focusing
        return -(focusing * log_others).exp() * log_true


@loss("hinge", Config)
class Hinge(SoftmaxLoss):
    """Asks the true class to lead the best other class by a margin of one.

    It is max(0, 1 + max_{j≠t} xⱼ − xₜ) (Crammer and Singer, J. Mach. Learn. Res. 2 (2001) 265); with two classes the
    hinge of a support-vector machine on the difference of the scores. Another margin only rescales the scores. It
    defines no probability: the softmax orders events by margin, so accuracy and ROC curves mean what they always mean,
    but the calibration error measures nothing.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of scores (N, C) and true classes (N,)."""
        true_column = target.unsqueeze(1)
        true_score = logits.gather(1, true_column).squeeze(1)
        others = logits.scatter(1, true_column, -torch.inf)
        return (1 + others.amax(dim=1) - true_score).clamp_min(0)


@loss("mse", Config)
class Mse(SoftmaxLoss):
    """Squared distance of the softmax from the true class; never above 2/C.

    It is Σⱼ (pⱼ − 1[j = t])² / C: the score of Brier, Mon. Weather Rev. 78 (1950) 1, over the number of classes.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        truth = functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        return (logits.softmax(dim=1) - truth).square().mean(dim=1)


@loss("binary_cross_entropy", Config)
class BinaryCrossEntropy(Loss):
    """Mean over the classes of the negative log-likelihood of "is it this class?".

    It is −[ln σ(xₜ) + Σ_{j≠t} ln(1 − σ(xⱼ))] / C with the logistic function σ: one class against the rest.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        truth = functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)

    def log_weights(self, logits: Tensor) -> Tensor:
        """Logarithms ln σ(xⱼ), (N, C): probabilities are σ(xⱼ) divided by their sum."""
        return functional.logsigmoid(logits)
