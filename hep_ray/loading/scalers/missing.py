"""Fill values that are missing by what the training events have, within a network and saved with it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hep_ray.dataset.values import Values
from hep_ray.errors import InvalidEvents, NotFitted

Imputation = Literal["median", "mean", "zero"]


class Imputer(nn.Module):
    """Replaces NaN by one number for each place of a column.

    Args:
        shape: of one event's value.
        kind: median or mean of the training events that have a value, or 0.

    Attributes:
        filling: (*shape) float32; part of the state.
        fitted: scalar bool tensor; part of the state.
    """

    filling: Tensor
    fitted: Tensor

    def __init__(self, shape: tuple[int, ...], kind: Imputation) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("filling", torch.zeros(shape))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, values: Values) -> Values:
        """Fit to training values (N, *shape), and return them filled.

        Raises:
            InvalidEvents: a place has no value in any of them.
        """
        found = np.asarray(values, dtype=np.float64)
        if np.isnan(found).all(axis=0).any():
            raise InvalidEvents(
                f"no one of {len(found)} training events has a value where one is to be imputed: convert without "
                "the column"
            )
        filling = np.zeros(found.shape[1:])
        if self.kind != "zero":
            filling = (np.nanmedian if self.kind == "median" else np.nanmean)(found, axis=0)
        self.filling.copy_(torch.from_numpy(np.asarray(filling)))
        self.fitted.fill_(True)
        return np.where(np.isnan(found), filling, found)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values (N, *shape), none of them missing.

        Raises:
            NotFitted: neither `fit` was called nor a fitted state loaded.
        """
        if not torch.compiler.is_compiling() and not bool(self.fitted):
            raise NotFitted("an imputer is fitted before it is used; this one is not")
        return torch.where(torch.isnan(values), self.filling.to(values.dtype), values)
