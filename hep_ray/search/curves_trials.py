"""Trials of a search by learning curves, as records and, beside them, as the arrays that its model reads.

A decision looks at every trial many times; arrays that grow with each report keep its cost from growing with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hep_ray.models import is_fitted
from hep_ray.search.parameters import Value

Array = npt.NDArray[np.float64]
ROOM = 64
"""Trials that the arrays have room for at first; it doubles when it is full."""
FIRST = 17
"""Of the epochs, the first milestone is one part in so many."""
RATIO = 1.6
"""Of a milestone to the one before, about."""


@dataclass(frozen=True)
class Step:
    """Decision to train a trial.

    Attributes:
        trial: its number, in the order in which trials were opened.
        params: whole configuration.
        start: epochs that it has been trained for; 0 for a new one.
        until: epoch after which it pauses, or ends if it is the last.
        why: in words.
        repeat: how many trials with the same configuration were opened before.
    """

    trial: int
    params: dict[str, Value]
    start: int
    until: int
    why: str = ""
    repeat: int = 0


class Ending(NamedTuple):
    """Prediction of where a trial ends, in units of the metric.

    Attributes:
        low: a standard deviation below.
        mean: its best value, as the model expects it (the median).
        high: a standard deviation above.
    """

    low: float
    mean: float
    high: float


def milestones(epochs: int) -> list[int]:
    """Return the epochs after which trials pause; of 52: 3, 5, 8, 12, 20, 32 and 52."""
    first = max(1, round(epochs / FIRST))
    steps = round(math.log(epochs / first) / math.log(RATIO))
    return sorted(
        {round(first * (epochs / first) ** (step / max(steps, 1))) for step in range(steps + 1)} | {epochs}
    )


@dataclass
class CurveTrial:
    """A trial that was opened.

    Attributes:
        number: its place in the order of opening.
        params: whole configuration.
        values: best value after each epoch, larger is better.
        until: epoch that it is being trained to; 0 while it is not.
        over: whether it will not be continued.
        failed: whether its parameters made it fail.
    """

    number: int
    params: dict[str, Value]
    values: list[float] = field(default_factory=list)
    until: int = 0
    over: bool = False
    failed: bool = False

    @property
    def epoch(self) -> int:
        """Epochs that it has been trained for."""
        return len(self.values)

    @property
    def best(self) -> float:
        """Its best value; minus infinity before the first."""
        return self.values[-1] if self.values else -math.inf


class CurveTable:
    """All trials of a search.

    Args:
        genes: of a configuration.
        columns: of its code.
        grid: epochs at which curves are kept for the model, rising.
    """

    def __init__(self, genes: int, columns: int, grid: npt.NDArray[np.int_]) -> None:
        self._trials: list[CurveTrial] = []
        self._grid = grid
        self._genes, self._codes = np.zeros((ROOM, genes)), np.zeros((ROOM, columns))
        self._curves = np.zeros((ROOM, len(grid)))
        self._epochs, self._until = np.zeros(ROOM, int), np.zeros(ROOM, int)
        self._bests = np.full(ROOM, -np.inf)
        self._over, self._failed = np.zeros(ROOM, bool), np.zeros(ROOM, bool)
        self._seconds, self._timed = np.zeros(ROOM), np.zeros(ROOM, int)
        self._fits = np.zeros(ROOM, bool)

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[CurveTrial]:
        return iter(self._trials)

    def __getitem__(self, number: int) -> CurveTrial:
        return self._trials[number]

    @property
    def genes(self) -> Array:
        """(trials, genes)."""
        return self._genes[: len(self._trials)]

    @property
    def codes(self) -> Array:
        """(trials, columns)."""
        return self._codes[: len(self._trials)]

    @property
    def curves(self) -> Array:
        """(trials, grid) best value until each epoch of the grid; beyond its last, the last."""
        return self._curves[: len(self._trials)]

    @property
    def epochs(self) -> npt.NDArray[np.int_]:
        """(trials,) epochs trained."""
        return self._epochs[: len(self._trials)]

    @property
    def bests(self) -> Array:
        """(trials,) best values."""
        return self._bests[: len(self._trials)]

    @property
    def until(self) -> npt.NDArray[np.int_]:
        """(trials,) epoch that each is trained to; 0 for those that are not."""
        return self._until[: len(self._trials)]

    @property
    def paused(self) -> npt.NDArray[np.int_]:
        """Numbers of the trials that can go on."""
        over = self._over[: len(self._trials)]
        return np.nonzero((self.epochs > 0) & (self.until == 0) & ~over)[0]

    @property
    def best(self) -> int:
        """Number of the best trial among those that did not fail; 0 before the first value."""
        return int(np.where(self._failed[: len(self._trials)], -np.inf, self.bests).argmax())

    @property
    def lasting(self) -> npt.NDArray[np.int_]:
        """(trials,) epochs trained, 0 of the trials that failed; where all did, as they are."""
        failed = self._failed[: len(self._trials)] & (self.epochs > 0)
        return self.epochs if failed.sum() == (self.epochs > 0).sum() else np.where(failed, 0, self.epochs)

    @property
    def top(self) -> float:
        """The best value of the trials that did not fail; of all where each did."""
        return float(self.bests[self.lasting > 0].max())

    @property
    def timed(self) -> npt.NDArray[np.int_]:
        """Numbers of the trials that have told how long an epoch takes them."""
        return np.nonzero(self._timed[: len(self._trials)])[0]

    @property
    def seconds(self) -> Array:
        """(trials,) mean seconds of an epoch; 0 before the first."""
        mean: Array = self._seconds[: len(self._trials)] / np.maximum(self._timed[: len(self._trials)], 1)
        return mean

    @property
    def usual_seconds(self) -> float:
        """Median over the trials of the seconds of an epoch; of a fit in one go where there are no others, else 1."""
        timed = self._timed[: len(self._trials)] > 0
        trained = timed & ~self.fits
        seconds = self.seconds[trained if trained.any() else timed]
        return float(np.median(seconds)) if len(seconds) else 1.0

    @property
    def fits(self) -> npt.NDArray[np.bool_]:
        """(trials,) whether the model of each is fitted in one go."""
        return self._fits[: len(self._trials)]

    @property
    def costs(self) -> npt.NDArray[np.int_]:
        """(trials,) epochs that were paid for, or are to be by the end of a leg; a fit in one go is one."""
        epochs = np.maximum(self.epochs, self.until)
        return np.where(self.fits, np.minimum(epochs, 1), epochs)

    @property
    def failures(self) -> npt.NDArray[np.bool_]:
        """(trials,) whether each failed before its first value."""
        early: npt.NDArray[np.bool_] = self._failed[: len(self._trials)] & (self.epochs == 0)
        return early

    def add(self, params: dict[str, Value], genes: Array, code: Array) -> CurveTrial:
        """Open a trial."""
        number = len(self._trials)
        if number == len(self._epochs):
            for name, stored in vars(self).items():
                if name != "_grid" and isinstance(stored, np.ndarray):
                    room = np.full_like(stored, -np.inf if name == "_bests" else 0)
                    setattr(self, name, np.concatenate([stored, room]))
        one = CurveTrial(number, params)
        self._trials.append(one)
        self._genes[number], self._codes[number] = genes, code
        self._fits[number] = is_fitted(params.get("model"))
        return one

    def train(self, number: int, until: int) -> None:
        """Note to which epoch a trial is being trained; 0 where it is not."""
        self._trials[number].until = self._until[number] = until

    def saw(self, number: int, epoch: int, best: float) -> None:
        """Take in the best value until an epoch; epochs between that are missing had the last."""
        one = self._trials[number]
        if epoch <= one.epoch:
            return
        first = not one.values
        one.values.extend([best if first else one.best] * (epoch - 1 - one.epoch))
        one.values.append(best)
        self._curves[number, slice(None) if first else self._grid >= epoch] = best
        self._epochs[number], self._bests[number] = epoch, best

    def took(self, number: int, seconds: float) -> None:
        """Take in the seconds of an epoch."""
        self._seconds[number] += seconds
        self._timed[number] += 1

    def end(self, number: int, *, failed: bool = False) -> None:
        """Note that a trial will not be continued."""
        one = self._trials[number]
        one.over = self._over[number] = True
        one.failed = self._failed[number] = failed
