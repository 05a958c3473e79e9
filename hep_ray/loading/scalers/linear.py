"""Mean 0 and standard deviation 1: of every feature, or of every channel of an image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hep_ray.loading.scalers import Scaler, scaler


@scaler("standardize")
class Standardize(Scaler):
    """(x − mean) / standard deviation of each place; a place with one value throughout becomes 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.register_buffer("mean", torch.zeros(self._numbers))
        self.register_buffer("deviation", torch.ones(self._numbers))

    @property
    def _numbers(self) -> tuple[int, ...]:
        return self.shape

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        axes = tuple(range(values.ndim - len(self._numbers)))
        deviation = values.std(axis=axes)
        self.mean.copy_(torch.as_tensor(values.mean(axis=axes)))
        self.deviation.copy_(torch.as_tensor(np.where(deviation > 0, deviation, 1.0)))

    def _scale(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation


@scaler("per_channel")
class PerChannel(Standardize):
    """`standardize` with one mean and deviation for each place of the last axis, over all pixels."""

    @property
    def _numbers(self) -> tuple[int, ...]:
        return self.shape[-1:]
