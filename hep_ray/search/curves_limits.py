"""Candidates of a search by learning curves that keep the limits of its models.

Which do is exact, and costs milliseconds, since each model is built. So a regression on configurations at random says
first which may: the logarithm of a model's size or cost is a smooth function of its widths and depths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidConfig
from hep_ray.search.curves_gp import Array
from hep_ray.search.curves_space import Encoding
from hep_ray.search.space import Value

Margin = Callable[[Mapping[str, Value]], float]
"""Logarithm of how far a configuration is beyond its limits; 0 or less where it keeps them."""
DESIGN = 100
"""Configurations that the regression is fitted to."""
CLIP = 3.0
"""Margin, up or down, beyond which it does not matter how far."""
RIDGE = 1e-3
LOOKED = 40
"""Models that are built in one stage of a decision, at most."""
ROUNDS, TOGETHER = 200, 64
"""Of configurations at random, until one keeps the limits."""


class WithinLimits:
    """Candidates that keep limits; the same whatever was searched before.

    Args:
        margin: of a configuration.
        encoding: of the space.
    """

    def __init__(self, margin: Margin, encoding: Encoding) -> None:
        self._margin, self._encoding = margin, encoding
        genes = encoding.scattered(np.random.default_rng(0), DESIGN)
        features = _features(encoding.codes(genes))
        margins = np.clip([self.of(row) for row in genes], -CLIP, CLIP)
        left = features.T @ features + RIDGE * np.eye(features.shape[1])
        self._weights = np.linalg.solve(left, features.T @ margins)
        self._error = float(np.sqrt(np.mean((features @ self._weights - margins) ** 2)))

    def of(self, genes: Array) -> float:
        """Return the margin of (genes,)."""
        return self._margin(self._encoding.params(genes))

    def likely(self, genes: Array) -> Array:
        """Return those of (n, genes) that may keep the limits; all where none may."""
        predicted = _features(self._encoding.codes(genes)) @ self._weights
        may = predicted <= 2 * self._error
        return genes[may] if may.any() else genes

    def first(self, genes: Array, order: NDArray[Any], count: int) -> NDArray[np.intp]:
        """Return places of the first of (n, genes), in this order, that keep the limits."""
        kept: list[int] = []
        for place in order[:LOOKED]:
            if self.of(genes[place]) <= 0:
                kept.append(int(place))
            if len(kept) == count:
                break
        return np.array(kept, np.intp)

    def drawn(self, rng: np.random.Generator) -> Array:
        """Return (genes,) at random that keep the limits.

        Raises:
            InvalidConfig: none was found, though one was before the search.
        """
        for _ in range(ROUNDS):
            genes = self.likely(rng.random((TOGETHER, self._encoding.genes)))
            if len(kept := self.first(genes, np.arange(len(genes)), 1)):
                found: Array = genes[kept[0]]
                return found
        raise InvalidConfig(
            f"no configuration of {ROUNDS * TOGETHER} at random keeps the constraints: allow more, or state smaller "
            "models"
        )


def _features(codes: Array) -> Array:
    """A constant, each column, and each product of two."""
    upper = np.triu_indices(codes.shape[1])
    products = codes[:, upper[0]] * codes[:, upper[1]]
    return np.concatenate([np.ones((len(codes), 1)), codes, products], axis=1)
