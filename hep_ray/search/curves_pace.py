"""Seconds that an epoch of each configuration takes, learnt from the trials of a search.

A Gaussian process of the logarithm of the mean seconds per epoch: what trains a hundred times as long as another is as
far above the middle as that is below it. It is told seconds of the journal alone, so a resumed search decides alike.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hep_ray.search.curves_gp import Array, Kernel, Process, fit

LEAST = 3
"""Trials whose seconds are known, below which all are taken to be as fast as those in the mean."""
MOST = 120
"""Trials that the process sees, the latest."""
REFIT = 1.25
"""Growth of their number after which its hyperparameters are fitted anew."""
SHORTEST = 1e-6
"""Seconds that an epoch takes at least."""


class Pace:
    """Seconds per epoch of configurations.

    Args:
        groups: (columns,) number of the parameter that each column of a code belongs to.
        ranges: (parameters,) whether each is a number between two bounds.
    """

    def __init__(self, groups: NDArray[np.int_], ranges: NDArray[np.bool_]) -> None:
        self._kernel, self._ranges, self._fitted = Kernel.start(groups), ranges, 0
        self._process: Process | None = None
        self._middle, self._deviation = 0.0, 1.0

    def learn(self, codes: Array, seconds: Array) -> None:
        """Take in what is known of all trials by now.

        Args:
            codes: (n, columns) of their configurations.
            seconds: (n,) per epoch.
        """
        codes, logs = codes[-MOST:], np.log(np.maximum(seconds[-MOST:], SHORTEST))
        count = len(seconds)
        self._process = None
        if not count:
            return
        self._middle, self._deviation = float(logs.mean()), float(logs.std()) or 1.0
        if count < LEAST:
            return
        values, times = (logs - self._middle) / self._deviation, np.ones(len(logs))
        if count > REFIT * self._fitted:
            self._fitted = count
            self._kernel = fit(codes, times, values, self._kernel, flat=True, bend=self._ranges)
        self._process = Process(self._kernel, codes, times, values)

    def of(self, codes: Array) -> Array:
        """Return (n,) seconds per epoch that (n, columns) codes are expected to take."""
        if self._process is None:
            return np.full(len(codes), math.exp(self._middle))
        expected: Array = np.exp(self._middle + self._deviation * self._process.mean(codes, 1.0))
        return expected
