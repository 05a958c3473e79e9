"""Compare configurations that are trained several times, with other seeds or on other folds, by their means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hep_ray.search.naming import plus_minus

if TYPE_CHECKING:
    from hep_ray.search.state import SearchState, TrialState

Training = tuple[int, float]
"""Fold whose events judged a training, 0 where there are no folds, and its value."""


@dataclass(frozen=True)
class Pooled:
    """Spread of trainings and effects of folds, as all configurations that were trained several times tell them.

    Attributes:
        spread: standard deviation of a training about the mean of its configuration, folds allowed for.
        effects: fold → what its events add to a value, over the mean of all folds.
    """

    spread: float = 0.0
    effects: Mapping[int, float] = field(default_factory=dict)


def pooled(configurations: Iterable[Sequence[Training]]) -> Pooled:
    """Fit value = configuration + fold + noise to the trainings of configurations, by least squares.

    A configuration that was trained on one fold alone is so compared with others by what those have on the same fold.

    Args:
        configurations: trainings of each; those with fewer than two tell nothing.
    """
    several = [list(one) for one in configurations if len(one) > 1]
    folds = sorted({fold for one in several for fold, _ in one if fold})
    effects = _effects(several, folds) if len(folds) > 1 else {}
    squares, degrees = 0.0, -max(len(folds) - 1, 0)
    for one in several:
        values = [value - effects.get(fold, 0.0) for fold, value in one]
        squares += statistics.variance(values) * (len(values) - 1)
        degrees += len(values) - 1
    return Pooled(math.sqrt(squares / max(degrees, 1)), effects)


def _effects(several: Sequence[Sequence[Training]], folds: Sequence[int]) -> dict[int, float]:
    """Return the effect of each fold, of mean 0: the normal equations, after the configurations are taken out."""
    matrix, sums = np.zeros((len(folds), len(folds))), np.zeros(len(folds))
    for one in several:
        places = [folds.index(fold) for fold, _ in one]
        mean = statistics.fmean(value for _, value in one)
        for place, (_, value) in zip(places, one, strict=True):
            matrix[place, place] += 1
            sums[place] += value - mean
            for other in places:
                matrix[place, other] -= 1 / len(one)
    found = np.linalg.lstsq(matrix, sums, rcond=1e-9)[0]  # of the many solutions that of mean 0
    return dict(zip(folds, (found - found.mean()).tolist(), strict=True))


def of_means(state: SearchState, trial: TrialState) -> dict[str, Any]:
    """Return what a leaderboard tells of the trainings of a trial's configuration."""
    started = state.started
    assert started is not None
    mean, error, seeds = state.mean(trial, started.metric, started.mode) if trial.history else (None, None, 0)
    fold = {"fold": trial.started.fold} if started.folds else {}
    return {"repeat_of": trial.started.repeat_of, **fold, "mean": mean, "mean_error": error, "seeds": seeds}


def differ_by(state: SearchState) -> str:
    """Return in what the trainings of a configuration differ: `folds`, or `seeds` alone."""
    return "folds" if state.started is not None and state.started.folds else "seeds"


def heading_of_means(state: SearchState) -> str:
    """Return what stands above `mean_words`."""
    return f"mean ± s.e. ({differ_by(state)})"


def mean_words(state: SearchState, trial: TrialState) -> str:
    """Return the mean over the trainings of a trial's configuration, its error and number: `0.861 ± 0.002 (3)`."""
    told = of_means(state, trial)
    return f"{plus_minus(told['mean'], told['mean_error'])} ({told['seeds']})" if told["seeds"] else "–"
