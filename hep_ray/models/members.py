"""Join what the members of a network answer: each is trained for itself, and all are asked together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PER_MEMBER = 3
"""Axes of logits of several members: events, members, classes."""


def mean_of_members(logits: Tensor) -> Tensor:
    """Return logits (N, C) whose softmax is the mean of the members' softmax, of logits (N, k, C).

    They are ln (1/k) Σᵢ softmax(xᵢ), in float32 at least, and never formed from the probabilities themselves, so that
    log-odds keep their digits where these are 1. Logits (N, C) of an ordinary model come back as they are.
    """
    if logits.ndim != PER_MEMBER:
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])
