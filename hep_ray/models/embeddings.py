"""Embeddings of numbers: each feature becomes several before a fully connected network reads it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Embedding = Literal["none", "periodic"]
FREQUENCIES = 16
SIZE = 4
"""Numbers that a feature becomes, itself among them."""
SPREAD = 0.1
"""Of the first frequencies, in periods per unit of a scaled feature."""


class PeriodicEmbedding(nn.Module):
    """Takes every feature x to x itself and three sums of waves of it, each feature with weights of its own.

    The PBLD embedding of Holzmüller, Grinsztajn and Steinwart, arXiv:2407.04491: (x, W₂ cos(2π w₁ x + b₁) + b₂) of
    16 frequencies. It wants scaled features: frequencies begin as N(0, 0.1²), phases within ±π.

    Args:
        features: F.
        slower: factor of the learning rate of frequencies and phases, under Adam and its kin.

    Attributes:
        size: numbers of an event after it, 4 F.
    """

    def __init__(self, features: int, slower: float = 1.0) -> None:
        super().__init__()
        self.slower = slower
        self.size = SIZE * features
        self.frequency = nn.Parameter(SPREAD / slower * torch.randn(features, FREQUENCIES))
        self.frequency_bias = nn.Parameter(math.pi / slower * uniform(features, FREQUENCIES))
        self.weight = nn.Parameter(uniform(features, FREQUENCIES, SIZE - 1) / math.sqrt(FREQUENCIES))
        self.bias = nn.Parameter(uniform(features, SIZE - 1) / math.sqrt(FREQUENCIES))

    def forward(self, features: Tensor) -> Tensor:
        """Embedded features (N, 4 F) of features (N, F)."""
        own = features[..., None]
        waves = torch.cos(self.slower * (2 * math.pi * own * self.frequency + self.frequency_bias))
        sums = torch.einsum("nfw,fws->nfs", waves, self.weight) + self.bias
        return torch.cat([own, sums], dim=2).flatten(1)


def uniform(*shape: int) -> Tensor:
    """Return numbers drawn evenly between −1 and 1."""
    return 2 * torch.rand(shape) - 1
