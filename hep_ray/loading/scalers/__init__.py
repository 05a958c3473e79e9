"""Scalers of a column's values, fitted on the training split only and saved with the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hep_ray.dataset.values import Values
from hep_ray.errors import InvalidEvents, NotFitted
from hep_ray.registry import Registry

FIT_EVENTS = 100_000
"""Training events a scaler is fitted on, at most: the first ones, which stand in random order."""
FIT_BYTES = 256 * 2**20
"""Memory of those events in float64, at most: of 50×50×3 images it holds 4,473."""


class Scaler(nn.Module):
    """A map of a column's values, whose fitted numbers are buffers and so part of a model's state.

    Args:
        shape: of one event's value.

    Attributes:
        fitted: scalar bool tensor; part of the state.
    """

    fitted: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def sample(self) -> int:
        """Events that count in a fit: `FIT_EVENTS`, or as many as `FIT_BYTES` hold."""
        return max(1, min(FIT_EVENTS, FIT_BYTES // (8 * int(np.prod(self.shape)))))

    def fit(self, values: Values) -> None:
        """Fit to training values (N, *shape), of which the first `sample` count.

        Raises:
            InvalidEvents: there are none, their shape is another, or one is NaN or infinite.
        """
        if not len(values) or values.shape[1:] != self.shape:
            raise InvalidEvents(f"a scaler is fitted to values (N, {self.shape}); got {values.shape}")
        used = np.asarray(values[: self.sample], dtype=np.float64)
        if not np.isfinite(used).all():
            raise InvalidEvents("a scaler is fitted to finite values; got NaN or infinity")
        self._fit(used)
        self.fitted.fill_(True)

    def forward(self, values: Tensor) -> Tensor:
        """Return scaled values, (N, *shape) like the input, in floating point.

        Raises:
            NotFitted: neither `fit` was called nor a fitted state loaded.
        """
        if not torch.compiler.is_compiling() and not bool(self.fitted):
            raise NotFitted(f"a scaler is fitted before it is used; this {type(self).__name__} is not")
        return self._scale(values if values.is_floating_point() else values.float())

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        raise NotImplementedError

    def _scale(self, values: Tensor) -> Tensor:
        raise NotImplementedError


SCALERS: Registry[type[Scaler]] = Registry("scaler", __name__)

S = TypeVar("S", bound=type[Scaler])


def scaler(name: str) -> Callable[[S], S]:
    """Register a class whose `__init__` takes the shape of one event's value."""
    return SCALERS.decorator(name, lambda cls: cls)
