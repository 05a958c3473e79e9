"""Candidates of a search by learning curves that keep the limits of its models.

Which do is exact, and costs milliseconds, since each model is built. So a regression on configurations at random says
first which may: the logarithm of a model's size or cost is a smooth function of its widths and depths. It may err, so
some models are built of those that it refuses too: no configuration is left out for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidConfig
from hep_ray.search.curves_gp import Array
from hep_ray.search.curves_space import Encoding
from hep_ray.search.parameters import Value

Margin = Callable[[Mapping[str, Value]], float]
"""Logarithm of how far a configuration is beyond its limits; 0 or less where it keeps them."""
DESIGN = 100
"""Configurations that the regression is fitted to."""
CLIP = 3.0
"""Margin, up or down, beyond which it does not matter how far."""
RIDGE = 1e-3
LOOKED = 40
"""Models that are built in one stage of a decision, at most, of those that are likely to keep the limits."""
UNLIKELY = 4
"""Of the others one in so many is a candidate as well, and as many times fewer models are built."""
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
        codes, margins = encoding.codes(genes), np.clip([self.of(row) for row in genes], -CLIP, CLIP)
        linear, _ = _ridge(_features(codes, np.zeros(0, np.intp)), margins)
        self._crossed = np.argsort(-np.abs(linear[1:]), kind="stable")[: _most_products(encoding.columns)]
        self._weights, hat = _ridge(_features(codes, self._crossed), margins)
        left_out = (hat @ margins - margins) / (1 - np.diag(hat))  # each predicted from all others
        self._error = float(np.sqrt(np.mean(left_out**2)))

    def of(self, genes: Array) -> float:
        """Return the margin of (genes,)."""
        return self._margin(self._encoding.params(genes))

    def _may(self, genes: Array) -> NDArray[np.bool_]:
        features = _features(self._encoding.codes(genes), self._crossed)
        may: NDArray[np.bool_] = features @ self._weights <= 2 * self._error
        return may if may.any() else ~may

    def likely(self, genes: Array) -> Array:
        """Return those of (n, genes) that may keep the limits; all where none may."""
        kept: Array = genes[self._may(genes)]
        return kept

    def parts(self, genes: Array) -> list[tuple[Array, int]]:
        """Return those of (n, genes) that may keep the limits, and some of the others, each with models to build.

        They are apart since a score may rise with size: then the best of the others, too large, would hide the rest.
        """
        may = self._may(genes)
        others = genes[~may][::UNLIKELY]
        return [(genes[may], LOOKED), *([(others, LOOKED // UNLIKELY)] if len(others) else [])]

    def first(self, genes: Array, order: NDArray[Any], count: int, looks: int = LOOKED) -> NDArray[np.intp]:
        """Return places of the first of (n, genes), in this order, that keep the limits; so many are looked at."""
        kept: list[int] = []
        for place in order[:looks]:
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
            genes = rng.random((TOGETHER, self._encoding.genes))
            may = self._may(genes)
            may[::UNLIKELY] = True
            genes = genes[may]
            if len(kept := self.first(genes, np.arange(len(genes)), 1)):
                found: Array = genes[kept[0]]
                return found
        raise InvalidConfig(
            f"no configuration of {ROUNDS * TOGETHER} at random keeps the constraints: allow more, or state smaller "
            "models"
        )


def _most_products(columns: int) -> int:
    """Return how many columns can have all their products where a regression has half a feature per design point."""
    return max(
        (count for count in range(columns + 1) if columns + count * (count + 1) // 2 < DESIGN // 2), default=0
    )


def _features(codes: Array, crossed: NDArray[np.intp]) -> Array:
    """A constant, each column, and each product of two of some columns."""
    first, second = np.triu_indices(len(crossed))
    products = codes[:, crossed[first]] * codes[:, crossed[second]]
    return np.concatenate([np.ones((len(codes), 1)), codes, products], axis=1)


def _ridge(features: Array, values: Array) -> tuple[Array, Array]:
    """Return the weights of a ridge regression, and the matrix that makes predictions of the values."""
    left = features.T @ features + RIDGE * np.eye(features.shape[1])
    hat = features @ np.linalg.solve(left, features.T)
    return np.asarray(np.linalg.solve(left, features.T @ values), np.float64), np.asarray(hat, np.float64)
