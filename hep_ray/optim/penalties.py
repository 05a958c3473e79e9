"""Which parameters weight decay and the L1 penalty act on."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norms_and_biases(model: nn.Module) -> list[nn.Parameter]:
    """Scales and offsets of normalisation, and all parameters of at most one dimension: biases, slopes of PReLU.

    They are shifts and scales of whole channels, too few to overfit by: that they are left out of the decay is the
    custom since Goyal et al. (arXiv:1706.02677, section 5.3) and He et al. (arXiv:1812.01187, section 3.1).
    """
    scales = {id(own) for one in model.modules() if isinstance(one, NORMS) for own in one.parameters(False)}
    return [own for own in model.parameters() if own.ndim <= 1 or id(own) in scales]


def groups(
    parameters: Iterable[nn.Parameter], exempt: Collection[nn.Parameter]
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """Parameters as an optimizer takes them: in two groups, where some are exempt from what the config says.

    Args:
        parameters: all of them.
        exempt: from weight decay and L1 penalty.
    """
    everyone, names = list(parameters), {id(one) for one in exempt}
    free = [one for one in everyone if id(one) in names]
    if not free:
        return everyone
    held = [one for one in everyone if id(one) not in names]
    none: dict[str, Any] = {"params": free, "weight_decay": 0.0, "l1_penalty": 0.0}
    return [{"params": held}, none] if held else [none]


def add_l1(optimizer: Optimizer, penalty: float) -> None:
    """Add the gradient of penalty·Σ|w| to the gradients of a step."""
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.sign(), alpha=group.get("l1_penalty", penalty))
