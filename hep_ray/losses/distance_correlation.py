"""Distance correlation as a term beside any loss: what makes a score independent of a mass.

Source: Kasieczka and Shih, Robust jet classifiers through distance correlation, arXiv:2001.05310; the distance
correlation is that of Székely, Rizzo and Bakirov, Ann. Statist. 35 (2007) 2769.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-20
"""Of the product of both distance variances: below it a variable is constant, and the correlation 0."""

ROUNDING = 1e-9
"""Of a number of epochs, so that 0.55 of 100 is 55."""

LEAST_SPREAD = 1e-6
"""Of values of size 1: smaller ones are rounding."""


@dataclass(frozen=True)
class Decorrelation:
    """A term of the loss by which the score of background events comes to know nothing of a column.

    Attributes:
        column: scalar one, which batches have beside what the model reads.
        strength: λ.
        signal: label of the signal; all others are background.
        warmup: fraction of the epochs, rounded up to whole ones but never to all, over which λ rises in equal steps
            from 0, where it stands in the first.
    """

    column: str
    strength: float
    signal: int
    warmup: float = 0.0

    def of_epoch(self, epoch: int, epochs: int) -> Decorrelation | None:
        """Return the term of an epoch, counted from 0, of so many; None where it is not in the loss yet."""
        rising = min(math.ceil(epochs * self.warmup - ROUNDING), epochs - 1)
        if epoch >= rising:
            return self
        return replace(self, strength=self.strength * epoch / rising) if epoch else None

    def __call__(
        self, probabilities: Tensor, labels: Tensor, values: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return λ·dCor² of the signal's probability and the column on the background of a batch, a scalar.

        Args:
            probabilities: (N, C) of the classes.
            labels: (N,), the true class.
            values: (N,) of the column.
            weights: (N,) of the events in the loss, negative ones counting by their sizes; None counts each once.
        """
        chosen = labels != self.signal
        own = None if weights is None else weights[chosen]
        return self.strength * squared_distance_correlation(
            probabilities[chosen, self.signal], values[chosen], own
        )


def squared_distance_correlation(first: Tensor, second: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return dCor² of two variables as a scalar that can be derived by both; 0 of fewer than two events.

    dCov²(x, y) / √(dCov²(x, x) dCov²(y, y)) with dCov²(x, y) = Σ_ij w_i w_j A_ij B_ij, where A_ij is |x_i − x_j| with
    its weighted means over i and over j taken off, and B_ij that of y. It takes N² numbers of memory.

    Args:
        first: (N,).
        second: (N,).
        weights: (N,), of any sum, of which the sizes count; None counts each event once.
    """
    if len(first) < 2:  # noqa: PLR2004 - there is no distance
        return first.sum() * 0
    own = torch.ones_like(first) if weights is None else weights.abs().to(first.dtype)
    total = own.sum()
    own = own / total.clamp_min(torch.finfo(own.dtype).tiny)
    x, y = _centred(first, own), _centred(second.to(first.dtype), own)
    pairs = own[:, None] * own[None, :]
    product, of_x, of_y = ((pairs * one).sum() for one in (x * y, x * x, y * y))
    return product / (of_x * of_y).clamp_min(SMALLEST_SPREAD).sqrt()


def _centred(values: Tensor, weights: Tensor) -> Tensor:
    """Return the distances of all pairs, (N, N), with their weighted means over rows and columns taken off.

    Distances are in units of the values' spread, which changes no correlation, and keeps a mass in MeV within float32.
    """
    known = values.detach()
    spread = torch.maximum(known.std(), LEAST_SPREAD * known.abs().max())
    values = values / spread.clamp_min(torch.finfo(values.dtype).tiny)
    distances = (values[:, None] - values[None, :]).abs()
    means = distances @ weights
    centred: Tensor = distances - means[:, None] - means[None, :] + torch.dot(weights, means)
    return centred
