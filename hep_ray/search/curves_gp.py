"""Gaussian processes over configurations and epochs.

Covariance of two points (x, u), x a configuration and u the logarithm of the epoch from 0 to 1:

    k = m(x, x') (a + b s(u, u')) + c s(u, u') + noise where both are the same

with m and s Matérn of 5/2, m with a length for every parameter. A column of the code is bent first, to
1 − (1 − x^p)^q, so that a parameter may matter near one bound and hardly elsewhere, as a weight decay does on a linear
scale (input warping, Snoek et al., arXiv:1402.0929; Cowen-Rivers et al., arXiv:2012.03826). Lengths, variances and
bends are those of the highest posterior density under log-normal priors, found by L-BFGS from the gradient in closed
form (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 5.4.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.optimize import minimize
from scipy.special import ndtr

Array = npt.NDArray[np.float64]
Mean = Callable[[Array, Array | float], Array]
ROOT5 = math.sqrt(5)
JITTER = 1e-6
STRETCH = 1.0
"""Of the warp: the smaller, the more the values next to the best are pulled apart."""
FLAT = 1e-9
"""Variance below which curves are taken to be flat."""
STEPS = 20
"""Of L-BFGS, at most."""
BENT = 0.75
"""Width of the prior of the logarithm of a bend, about no bend."""
EDGE = 1e-6
"""Nearest that a code comes to a bound before it is bent: the slope there may be infinite."""


@dataclass(frozen=True)
class Kernel:
    """Hyperparameters, all positive.

    Attributes:
        lengths: (parameters,) of the configuration.
        time: length in the logarithm of the epoch.
        level: variance that all epochs share, a.
        shape: variance of the configuration's curve, b.
        trend: variance of the curve that all configurations share, c.
        noise: variance of a value.
        groups: (columns,) parameter of each column of the code.
        bends: (2, parameters) exponents p and q; 1 and 1 leave a column as it is.
    """

    lengths: Array
    time: float
    level: float
    shape: float
    trend: float
    noise: float
    groups: npt.NDArray[np.int_]
    bends: Array

    @classmethod
    def start(cls, groups: npt.NDArray[np.int_]) -> Kernel:
        """Return the middle of the priors."""
        return cls.of(_prior(groups)[0], groups)

    @classmethod
    def of(cls, logs: Array, groups: npt.NDArray[np.int_], bends: Array | None = None) -> Kernel:
        """Return the kernel of the logarithms in the order of the attributes; None bends nothing."""
        values = np.exp(logs)
        time, level, shape, trend, noise = (float(value) for value in values[-5:])
        bends = np.ones((2, len(values) - 5)) if bends is None else bends
        return cls(values[:-5], time, level, shape, trend, noise, groups, bends)

    def logs(self) -> Array:
        """Return the logarithms in the order of the attributes, without the bends."""
        rest = [self.time, self.level, self.shape, self.trend, self.noise]
        logs: Array = np.log(np.concatenate([self.lengths, rest]))
        return logs

    def bent(self, codes: Array) -> Array:
        """Return codes with their columns bent."""
        low, high = self.bends[:, self.groups]
        return _bent(codes, low, high)[0] if np.any(self.bends != 1) else codes

    def variance(self) -> float:
        """Return the variance of a point, without noise."""
        return self.level + self.shape + self.trend


def _bent(codes: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """1 − (1 − x^p)^q of codes, and its derivatives by the logarithms of p and q."""
    logs = np.log(np.clip(codes, EDGE, 1 - EDGE)) * low
    rest = -np.expm1(logs)
    log_rest = np.log(rest) * high
    left = np.exp(log_rest)
    return 1 - left, high * left / rest * np.exp(logs) * logs, -left * log_rest


def _matern(square: Array) -> tuple[Array, Array]:
    """Matérn 5/2 of squared distances, and minus twice its derivative by them."""
    root = ROOT5 * np.sqrt(square)
    fade = np.exp(-root)
    slope = (5 / 3) * (1 + root) * fade
    return (1 + root + (5 / 3) * square) * fade, slope


def _near(square: Array, ours: Array, theirs: Array) -> Array:
    """(n, m) Matérn 5/2, in place, from minus twice the products of what has these squares."""
    square += ours[:, None]
    square += theirs
    np.maximum(square, 0, out=square)
    root = np.sqrt(square)
    square /= 3
    square += root
    square += 1
    np.negative(root, out=root)
    np.exp(root, out=root)
    square *= root
    return square


def _prior(groups: npt.NDArray[np.int_]) -> tuple[Array, Array]:
    count = int(groups.max()) + 1 if len(groups) else 0
    lengths = np.full(count, math.log(0.5 * math.sqrt(max(count, 1))))
    middle = np.concatenate([lengths, np.log([0.7, 0.6, 0.3, 0.2, 1e-3])])
    width = np.concatenate([np.full(count, 1.0), [0.7, 0.8, 1.0, 1.0, 1.2]])
    return middle, width


def fit(
    codes: Array, times: Array, values: Array, start: Kernel, *, flat: bool = False, bend: Any = True
) -> Kernel:
    """Return the hyperparameters of the highest posterior density.

    Args:
        codes: (n, columns) of configurations.
        times: (n,) logarithm of the epoch, from 0 to 1.
        values: (n,) about zero, of about unit variance.
        start: of the descent.
        flat: all values are of one epoch: no curve is fitted.
        bend: whether columns are bent, of all parameters or (parameters,) of each; a choice with several never is.
    """
    groups = start.groups
    middle, width = _prior(groups)
    count = len(middle) - 5
    middle, width = np.append(middle, np.zeros(2 * count)), np.append(width, np.full(2 * count, BENT))
    apart = (times[:, None] - times[None]) ** 2
    free = np.ones(len(middle), bool)
    free[count + 5 :] = np.tile(bend & (np.bincount(groups, minlength=count) == 1), 2)
    base = np.append(start.logs(), np.log(start.bends).ravel())
    if flat:
        free[[count, count + 2, count + 3]] = False
        base[[count, count + 2, count + 3]] = -30.0
    eye = np.eye(len(codes))

    def loss(given: npt.NDArray[np.float64]) -> tuple[float, Array]:
        logs = base.copy()
        logs[free] = given
        values_of = np.exp(logs)
        lengths, (time, level, shape, trend, noise) = values_of[:count], values_of[count : count + 5]
        low, high = values_of[count + 5 :].reshape(2, count)[:, groups]
        bent, by_low, by_high = _bent(codes, low, high)
        scaled = bent / lengths[groups]
        squares = (scaled**2).sum(1)
        near, slope = _matern(np.maximum(squares[:, None] + squares[None] - 2 * scaled @ scaled.T, 0))
        gap = apart / time**2
        when, curved = _matern(gap)
        mix = level + shape * when
        covariance = near * mix + trend * when + (noise + JITTER) * eye
        try:
            lower = cholesky(covariance, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(given)
        weights = cho_solve((lower, True), values, check_finite=False)
        inverse = cho_solve((lower, True), eye, check_finite=False)
        inner = inverse - np.outer(weights, weights)
        away = (logs - middle)[free] / width[free]
        value = 0.5 * values @ weights + np.log(np.diag(lower)).sum() + 0.5 * (away**2).sum()
        gradient = np.empty(len(logs))
        pull = inner * slope * mix
        # the sum over pairs of pull (x - x') (y - y') is 2 y (sum of pull · x - pull x)
        toward = (pull.sum(1)[:, None] * bent - pull @ bent) / lengths[groups] ** 2
        gradient[:count] = np.bincount(groups, (toward * bent).sum(0), count)
        gradient[count] = 0.5 * np.vdot(inner, (shape * near + trend) * curved * gap)
        gradient[count + 1] = 0.5 * level * np.vdot(inner, near)
        gradient[count + 2] = 0.5 * shape * np.vdot(inner, near * when)
        gradient[count + 3] = 0.5 * trend * np.vdot(inner, when)
        gradient[count + 4] = 0.5 * noise * np.trace(inner)
        for place, by in ((count + 5, by_low), (2 * count + 5, by_high)):
            gradient[place : place + count] = -np.bincount(groups, (toward * by).sum(0), count)
        return float(value), gradient[free] + away / width[free]

    bounds = [(m - 4 * w, m + 4 * w) for m, w in zip(middle[free], width[free], strict=True)]
    found = minimize(loss, base[free], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    logs = base.copy()
    logs[free] = found.x
    return Kernel.of(logs[: count + 5], groups, np.exp(logs[count + 5 :]).reshape(2, count))


class Warp:
    """Values as the model sees them: those below the median drawn together, those next to the best pulled apart.

    Args:
        bests: best value of every trial.
    """

    def __init__(self, bests: Array) -> None:
        self._top, self._middle = float(bests.max()), float(np.median(bests))
        self._scale = self._top - self._middle or float(np.ptp(bests)) or 1.0
        self.mean, self.deviation = 0.0, 1.0

    def standardise(self, values: Array) -> Array:
        """Warp these, and let their mean be 0 and their deviation 1 from now on."""
        raw = self._raw(values)
        self.mean, self.deviation = float(raw.mean()), float(raw.std()) or 1.0
        return (raw - self.mean) / self.deviation

    def __call__(self, values: Any) -> Array:
        """Warp values."""
        return (self._raw(np.asarray(values, float)) - self.mean) / self.deviation

    def _raw(self, values: Array) -> Array:
        unit = (values - self._middle) / self._scale
        unit = np.where(unit < 0, unit / (1 - np.minimum(unit, 0) / 2), unit)
        warped: Array = -np.log(np.maximum(1 + STRETCH - unit, 1e-3))
        return warped

    def back(self, warped: float) -> float:
        """Return the value that a warped one stands for."""
        unit = 1 + STRETCH - math.exp(min(-(warped * self.deviation + self.mean), 50.0))
        unit = max(unit, -1.98)
        unit = unit / (1 + unit / 2) if unit < 0 else unit
        return self._middle + self._scale * unit


class Process:
    """A Gaussian process that has seen values; those that are only awaited are taken to be as it predicts them.

    Args:
        kernel: its hyperparameters.
        codes: (n, columns) of configurations.
        times: (n,) logarithm of the epoch.
        values: (m,) of the first m, m ≤ n; the others are awaited.
        about: (codes, times) → (n,) what it varies about; None is zero.
    """

    def __init__(
        self, kernel: Kernel, codes: Array, times: Array, values: Array, about: Mean | None = None
    ) -> None:
        self._kernel, self._about = kernel, about
        if about is not None:
            values = values - about(codes[: len(values)], times[: len(values)])
        self._scale = ROOT5 / kernel.lengths[kernel.groups]
        scaled = kernel.bent(codes) * self._scale
        self._points = np.ascontiguousarray(-2 * scaled.T)
        self._squares = (scaled**2).sum(1)
        self._flat = kernel.shape + kernel.trend < FLAT
        self._times, self._place = np.unique(times, return_inverse=True)
        covariance = self.between(codes, times)
        covariance[np.diag_indices(len(codes))] += kernel.noise + JITTER
        self._lower, fault = dpotrf(covariance.T, lower=1, clean=0, overwrite_a=1)
        if fault:
            raise np.linalg.LinAlgError("the covariance of a Gaussian process is not positive definite")
        seen = len(values)
        half = np.zeros(len(codes))
        half[:seen] = dtrtrs(self._lower[:seen, :seen], values, lower=1)[0]
        # that what is awaited is as predicted leaves its whitened residual at zero
        self._weights = dtrtrs(self._lower, half, lower=1, trans=1)[0]

    def between(self, codes: Array, times: Array | float) -> Array:
        """Return (k, n) covariances with what was seen, without noise; one time stands for all."""
        kernel = self._kernel
        scaled = kernel.bent(codes) * self._scale
        near = _near(scaled @ self._points, (scaled**2).sum(1), self._squares)
        if self._flat:
            near *= kernel.level
            return near
        here = np.atleast_1d(times)
        row: Any = None
        if len(here) > 1:
            here, row = np.unique(here, return_inverse=True)
        when, _ = _matern(((here[:, None] - self._times[None]) / kernel.time) ** 2)
        share, trend = (kernel.level + kernel.shape * when), kernel.trend * when
        share, trend = share[:, self._place], trend[:, self._place]
        near *= share if row is None else share[row]
        near += trend if row is None else trend[row]
        return near

    def mean(self, codes: Array, times: Array | float) -> Array:
        """Return (k,) expected values."""
        return self._expected(self.between(codes, times), codes, times)

    def _expected(self, across: Array, codes: Array, times: Array | float) -> Array:
        expected: Array = across @ self._weights
        return expected if self._about is None else expected + self._about(codes, times)

    def spread(self, codes: Array, times: Array | float) -> tuple[Array, Array]:
        """Return (k,) expected values and their standard deviations, without noise."""
        across = self.between(codes, times)
        half = dtrtrs(self._lower, across.T, lower=1)[0]
        variance = self._kernel.variance() - np.einsum("ij,ij->j", half, half)
        return self._expected(across, codes, times), np.sqrt(np.maximum(variance, 1e-10))

    def joint(self, codes: Array, times: Array) -> tuple[Array, Array]:
        """Return (k,) expected values, and their (k, k) covariances, without noise."""
        kernel = self._kernel
        across = self.between(codes, times)
        half = dtrtrs(self._lower, across.T, lower=1)[0]
        scaled = kernel.bent(codes) * self._scale
        squares = (scaled**2).sum(1)
        covariance = _near(-2 * scaled @ scaled.T, squares, squares)
        when, _ = _matern(((times[:, None] - times[None]) / kernel.time) ** 2)
        covariance *= kernel.level + kernel.shape * when
        covariance += kernel.trend * when - half.T @ half
        return self._expected(across, codes, times), covariance

    @property
    def noise(self) -> float:
        """Return the standard deviation of a value about what it would be without noise."""
        return math.sqrt(self._kernel.noise)


def log_expected_gain(mean: Array, spread: Array, best: float) -> Array:
    """Return the logarithm of the expected improvement of normal values on the best, also far below it."""
    away = (mean - best) / spread
    density = np.exp(-0.5 * away**2) / math.sqrt(2 * math.pi)
    near = np.log(np.maximum(density + away * ndtr(away), 1e-300))
    # far below, E = φ(z) / z² (Ament et al., arXiv:2310.20708)
    far = -0.5 * away**2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(np.maximum(-away, 1.0))
    gain: Array = np.where(away < -6, far, near) + np.log(spread)  # noqa: PLR2004
    return gain
