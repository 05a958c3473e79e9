"""Configurations that a search by learning curves may open: near its best ones, at random, or all of a small space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hep_ray.search.curves_gp import Array
from hep_ray.search.curves_limits import Margin, WithinLimits
from hep_ray.search.curves_space import Encoding
from hep_ray.search.curves_trials import CurveTable

ALIKE = 2
"""Decimals in which the codes of two configurations agree that count as one."""
ENUMERATED = 4096
"""Configurations of a space, up to which all are candidates."""
AT_RANDOM = 64
"""Of which the one that is farthest from all trials is begun with."""
OPEN = 300
"""That stand for all that a search might still open."""


class Candidates:
    """Configurations, none of which was tried, that keep the limits where there are some.

    Args:
        encoding: of the space; it is told how many configurations a small one has.
        trials: of the search.
        margin: of a configuration, beyond the limits of its model; None where there are none.
    """

    def __init__(self, encoding: Encoding, trials: CurveTable, margin: Margin | None) -> None:
        self._encoding, self._trials = encoding, trials
        self._tried: dict[bytes, int] = {}
        self._limits = WithinLimits(margin, encoding) if margin else None
        self._left: set[bytes] = set()
        """Of a small space, what was not tried."""
        self._all = self._enumerate() if encoding.finite <= ENUMERATED else None

    @property
    def left(self) -> bool:
        """Whether there are any that were not tried."""
        return bool(self._left) if self._all is not None else len(self._tried) < self._encoding.finite

    def enter(self, code: Array) -> None:
        """Note that a configuration is tried."""
        key = self._keys(code[None])[0]
        self._tried[key] = self._tried.get(key, 0) + 1
        self._left.discard(key)

    def first_fresh(self, genes: Sequence[Array]) -> int | None:
        """Return the place of the first that was not tried and keeps the limits; None where none is."""
        keys = self._keys(self._encoding.codes(np.array(genes)))
        for place, (row, key) in enumerate(zip(genes, keys, strict=True)):
            if key not in self._tried and (self._limits is None or self._limits.of(row) <= 0):
                return place
        return None

    def drawn(self, rng: np.random.Generator) -> Array:
        """Return (genes,) at random, away from those that there are."""
        genes = self.untried(rng.random((AT_RANDOM, self._encoding.genes)))
        if self._all is not None:  # in the order of the space, which every seed would begin with
            genes = genes[rng.permutation(len(genes))[:AT_RANDOM]]
        if self._limits is not None and self._all is None:
            return self._limits.drawn(rng)
        place = 0
        if len(self._trials):
            codes = self._encoding.codes(genes)
            place = int(((codes[:, None] - self._trials.codes[None]) ** 2).sum(-1).min(1).argmax())
        found: Array = genes[place]
        return found

    def climb(
        self,
        rng: np.random.Generator,
        genes: Array,
        score: Callable[[Array, int], Array],
        scales: Sequence[tuple[float, ...]],
    ) -> tuple[Array, float]:
        """Return the best of these candidates by a score, and of those drawn ever closer around the best."""
        limits = self._limits if self._all is None else None
        best, value = genes[0] if limits is None else limits.drawn(rng), -math.inf
        for scale in [*scales, None]:
            genes = self.untried(genes)
            kept: list[tuple[Array, Array]] = []
            for part, looks in [(genes, 40)] if limits is None else limits.parts(genes):
                scores = score(self._encoding.codes(part), looks)
                order = np.argsort(-scores)
                order = order[:4] if limits is None else limits.first(part, order, 4, looks)
                kept.append((part[order], scores[order]))
            genes, scores = np.concatenate([one[0] for one in kept]), np.concatenate([one[1] for one in kept])
            if len(scores) and scores.max() > value:
                best, value = genes[scores.argmax()], float(scores.max())
            if scale is None or self._all is not None:
                break
            genes = self._encoding.around(rng, np.concatenate([genes, best[None]]), 60, scale)
        return best, value

    def still_open(self, rng: np.random.Generator, others: Sequence[Array]) -> Array:
        """Return (n, genes) that stand for all that might still be opened."""
        start = [self._encoding.scattered(rng, OPEN), self._encoding.around(rng, self.tops(), OPEN), *others]
        genes = self.untried(np.concatenate(start))
        if self._limits is not None and self._all is None:
            genes = self._limits.likely(genes)
        chosen: Array = genes[rng.permutation(len(genes))[:OPEN]]
        return chosen

    def tops(self) -> Array:
        """Return (n, genes) of the best trials; none that failed, unless all did."""
        seen = np.nonzero(self._trials.lasting)[0]
        best: Array = self._trials.genes[seen[np.argsort(-self._trials.bests[seen], kind="stable")[:6]]]
        return best

    def untried(self, genes: Array) -> Array:
        """Return those of which no trial has the configuration, or nearly; of a small space, all that there are."""
        genes = genes if self._all is None else self._all
        fresh = [key not in self._tried for key in self._keys(self._encoding.codes(genes))]
        return genes[fresh] if any(fresh) else genes

    def _keys(self, codes: Array) -> list[bytes]:
        """Equal where two configurations are, or nearly in a space that is not small."""
        return [
            code.tobytes() for code in np.round(codes, 9 if self._encoding.finite <= ENUMERATED else ALIKE)
        ]

    def _enumerate(self) -> Array:
        """Genes of every configuration of a small space that keeps the limits, each once."""
        genes = self._encoding.every()
        if self._limits is not None:
            genes = genes[[self._limits.of(row) <= 0 for row in genes]]
        keys = self._keys(self._encoding.codes(genes))
        _, first = np.unique(keys, return_index=True)
        self._encoding.finite, self._left = len(first), set(keys)
        return genes[np.sort(first)]
