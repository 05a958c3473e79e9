"""Scalers of ours: mean 0 and deviation 1, the logarithm, and quantiles to those of the normal distribution."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hep_ray.loading.scalers import Scaler, scaler

QUANTILES = 256
CLIPPED = 3.0
"""|z| at most of `robust`."""
FARTHEST = 1e18
"""Times the distance of the quartiles: farther values have a square that float32 does not hold."""
LARGEST = 5.19933758
"""|z| at most, as in scikit-learn: the normal quantile of 1 − 10⁻⁷."""


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


@scaler("robust")
class Robust(Scaler):
    """z/√(1 + (z/3)²) of z = (x − median) / (distance of the quartiles) of each place: never beyond ±3.

    Holzmüller, Grinsztajn and Steinwart, arXiv:2407.04491, section 3. Where both quartiles are the same, half the
    distance of the extremes is taken; a place with one value throughout becomes 0.
    """

    median: Tensor
    factor: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.register_buffer("median", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(shape))

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        lowest, lower, median, upper, highest = np.quantile(values, (0, 0.25, 0.5, 0.75, 1), axis=0)
        distance = np.where(upper > lower, upper - lower, (highest - lowest) / 2)
        self.median.copy_(torch.as_tensor(median))
        self.factor.copy_(torch.as_tensor(np.where(distance > 0, 1 / np.where(distance > 0, distance, 1), 0)))

    def _scale(self, values: Tensor) -> Tensor:
        scaled = ((values - self.median) * self.factor).clamp(-FARTHEST, FARTHEST)
        return scaled / (1 + (scaled / CLIPPED) ** 2).sqrt()


@scaler("mean_one")
class MeanOne(Scaler):
    """x / mean |x| of each place, which takes quantities in GeV to order one and leaves zero where it is."""

    magnitude: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.register_buffer("magnitude", torch.ones(shape))

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        magnitude = np.abs(values).mean(axis=0)
        self.magnitude.copy_(torch.as_tensor(np.where(magnitude > 0, magnitude, 1.0)))

    def _scale(self, values: Tensor) -> Tensor:
        return values / self.magnitude


@scaler("log1p")
class Log1p(Scaler):
    """sgn(x) ln(1 + |x|); nothing is fitted, but it is asked for as of every scaler."""

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        pass

    def _scale(self, values: Tensor) -> Tensor:
        return values.sign() * values.abs().log1p()


@scaler("quantile_normal")
class QuantileNormal(Scaler):
    """scikit-learn's `QuantileTransformer(output_distribution="normal")`, applied in torch; feature by feature.

    Values between two of the `QUANTILES` fitted quantiles are interpolated; a repeated value gets the mean of
    its lowest and highest rank.
    """

    quantiles: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.register_buffer("quantiles", torch.zeros(int(np.prod(shape)), QUANTILES))

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        from sklearn.preprocessing import QuantileTransformer

        flat = values.reshape(len(values), -1)
        transformer = QuantileTransformer(n_quantiles=min(QUANTILES, len(flat)), subsample=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            transformer.fit(flat)
        ranks = np.linspace(0, 1, QUANTILES)
        fitted = [np.interp(ranks, transformer.references_, column) for column in transformer.quantiles_.T]
        self.quantiles.copy_(torch.as_tensor(np.array(fitted)))

    def _scale(self, values: Tensor) -> Tensor:
        columns = values.reshape(len(values), -1).T.contiguous().to(self.quantiles.dtype)
        above = torch.searchsorted(self.quantiles, columns, right=True)
        below = torch.searchsorted(self.quantiles, columns)
        ranks = (self._rank(columns, above) + self._rank(columns, below)) / 2
        ranks = torch.where(columns <= self.quantiles[:, :1], 0.0, ranks)
        ranks = torch.where(columns >= self.quantiles[:, -1:], 1.0, ranks)
        normal = torch.special.ndtri(ranks.double()).clamp(-LARGEST, LARGEST)
        # A column with one value throughout carries nothing: 0.
        constant = self.quantiles[:, :1] == self.quantiles[:, -1:]
        return torch.where(constant, 0.0, normal).T.reshape(values.shape).to(values.dtype)

    def _rank(self, columns: Tensor, upper: Tensor) -> Tensor:
        upper = upper.clamp(1, QUANTILES - 1)
        left, right = self.quantiles.gather(1, upper - 1), self.quantiles.gather(1, upper)
        width = right - left
        part = torch.where(width > 0, (columns - left) / torch.where(width > 0, width, 1.0), 0.0)
        # Where a value is repeated, its own end of the step is the rank.
        part = torch.where((width == 0) & (columns >= right), 1.0, part)
        return (upper - 1 + part.clamp(0, 1)) / (QUANTILES - 1)
