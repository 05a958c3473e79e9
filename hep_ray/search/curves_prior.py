"""Where a user expects the best of some ranges, as a guess about which the model of a search varies.

The guess falls off about the stated values as a normal density does, each range by itself. As with the lessons of
earlier searches, the model varies about it in the share that what the search sees bears out: a wrong prior is
unlearnt. That a prior is to begin with, and to fade as values come in, is of Hvarfner et al., arXiv:2204.11051.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hep_ray.search.curves_gp import Array, Mean
from hep_ray.search.curves_space import Encoding
from hep_ray.search.lessons import share_borne_out

WIDTH = 0.2
"""Standard deviation of the density, of which the whole range, in its logarithm where it is drawn so, is 1."""
RISE = 2.0
"""Of the guess from far off to the stated values, in standard deviations of what a search sees."""
FADE = 50
"""Values that a search sees, from which on the guess fades, as one over their number."""
CANDIDATES = 60
FIRST = 3
"""Configurations to begin with."""


class PriorGuess:
    """A guess that rises towards the values where a user expects the best.

    Where a parameter does not exist, its prior says nothing: it counts as the mean over its range.

    Args:
        priors: parameter → value.
        encoding: of the space.

    Attributes:
        candidates: (n, genes) drawn from the density, and uniformly in parameters without a prior.
        first: (n, genes) to begin with: the stated values, as far as they can exist together, in the middle of what has
            none, then some of `candidates`.
        words: what a decision to begin with one of them says.
    """

    words = "where the best is expected"

    def __init__(self, priors: Mapping[str, float], encoding: Encoding) -> None:
        places = [encoding.place(name) for name in priors]
        stated = encoding.with_all(encoding.of(dict(priors)), priors)
        self._encoding, self._places = encoding, places
        self._columns = np.searchsorted(encoding.groups, places)  # the only one of a range
        self._codes = np.array([encoding.code_of(place, float(stated[place])) for place in places])
        range_ = np.linspace(0, 1, 101)[:, None]
        self._of_absent = _rise(range_ - self._codes).mean(0)
        rng = np.random.default_rng(0)
        genes = rng.random((CANDIDATES, encoding.genes))
        near = stated[places] + WIDTH * rng.normal(size=(CANDIDATES, len(places)))
        genes[:, places] = np.clip(near, 0, 1)
        self.candidates = genes
        self.first = np.concatenate([stated[None], genes[: FIRST - 1]])

    def __call__(self, codes: Array, times: Array | float = 1.0) -> Array:  # noqa: ARG002 - the same after any epoch
        """Return (n,) what is expected of (n, columns) codes."""
        present = self._encoding.active_by(codes)[:, self._places]
        risen = _rise(codes[:, self._columns] - self._codes)
        guess: Array = np.where(present, risen, self._of_absent).mean(1)
        return guess

    def about(self, codes: Array, times: Array, values: Array) -> Mean:
        """Return the guess in the share that what a search saw bears out, between 0 and 1, and that has not faded."""
        guessed = self(codes)
        middle = float(guessed.mean())
        share = share_borne_out(guessed, times, values) * min(1.0, FADE / len(values))
        return lambda at, when: share * (self(at, when) - middle)


def _rise(away: Array) -> Array:
    risen: Array = RISE * np.exp(-0.5 * (away / WIDTH) ** 2)
    return risen
