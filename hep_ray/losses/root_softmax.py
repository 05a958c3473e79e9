"""Root softmax, the loss of the HVL thesis: cross-entropy of root-compressed logits.

For logits x, true class t and root index r > 0,

    zⱼ = sgn(xⱼ)·|xⱼ|^(1/r),        p = softmax(z),        loss = −ln pₜ = ln Σⱼ exp(zⱼ) − zₜ,

evaluated by log-sum-exp. r = 1 is cross-entropy. The root flattens confident logits: to gain a factor e
in odds, a logit of size x must grow by about r·x^(1 − 1/r) instead of 1. An r below 1 is a power 1/r above 1, which
sharpens instead; the thesis tried such exponents and could not train with them: steps grow with the logits, until the
loss is not finite.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.losses import Loss, loss

SMALLEST_SLOPE_ARGUMENT = 1e-3
"""|x| below which the slope of the root stays at its value here (dimensionless, as logits are).

dz/dx = |x|^(1/r − 1)/r diverges at x = 0. Its mean over logits around zero is finite, its variance is not
for r > 2, so that rare events would dominate a step. Held at 1e-3 the slope is at most 53.3 (at r = ln 1000),
and only the gradient of logits within ±1e-3 is changed; values are exact everywhere.
"""


class RootSoftmaxConfig(Config):
    """Configuration of `root_softmax`.

    Attributes:
        root_index: r, any real number above 0; the thesis uses 1 and 3 to 9, and tried those between 0 and 1 in vain.
    """

    root_index: float = Field(gt=0)


class _SignedRoot(torch.autograd.Function):
    """sgn(x)·|x|^(1/r), with the slope bounded around x = 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, root_index: float) -> Tensor:
        return logits.sign() * logits.abs().pow(1 / root_index)  # copysign has no like in ONNX

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004
        logits, ctx.root_index = inputs
        ctx.save_for_backward(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        distance = logits.abs().clamp_min(SMALLEST_SLOPE_ARGUMENT)
        slope = distance.pow(1 / ctx.root_index - 1) / ctx.root_index
        return gradients[0] * slope, None


def signed_root(logits: Tensor, root_index: float) -> Tensor:
    """sgn(x)·|x|^(1/r) for each logit, any shape; its gradient is finite for every finite logit.

    Args:
        logits: x, any shape.
        root_index: r > 0; at exactly 1 the logits come back untouched.
    """
    if root_index == 1:
        return logits
    root: Tensor = _SignedRoot.apply(logits, root_index)
    return root


@loss("root_softmax", RootSoftmaxConfig)
class RootSoftmax(Loss):
    """Cross-entropy of the signed r-th root of the logits."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,)."""
        return functional.cross_entropy(self.log_weights(logits), target, reduction="none")

    def log_weights(self, logits: Tensor) -> Tensor:
        """The signed roots of the logits, (N, C): probabilities are their softmax."""
        return signed_root(logits, self.config.root_index)
