"""Lessons of earlier searches: how good each configuration is after each epoch, as a guess for a new task.

Values of every earlier search are put on one scale (0 its middle, 1 its deviation, those next to its best pulled
apart), and a smooth function of configuration and epoch is fitted to all of them: random Fourier features (Rahimi and
Recht, Random features for large-scale kernel machines, 2007) with the lengths that a Gaussian process of each finds.
It is only a mean about which the model of a new search varies, and its share there is fitted to what that search has
seen itself, so that an unlike task unlearns it. The configurations to begin with are chosen one after the other: each
is the one that lifts the best of those before it most, on the mean of the earlier tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hep_ray.errors import InvalidConfig
from hep_ray.search.curves_gp import Array, Kernel, Mean, Warp, fit
from hep_ray.search.curves_space import Encoding
from hep_ray.search.definition import Preset
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import Lesson

FEATURES = 400
"""Random features."""
RIDGE = 3.0
"""Variance of a value about the smooth function, in units of its features' variance: tasks differ."""
FITTED = 100
"""Values of a search to which its lengths are fitted."""
WEIGHT = 300.0
"""Values that each search counts as."""
LEAST = 3
"""Trials that a search must have to be learnt from."""
MOST = 300
"""Trials of a search that are learnt from: the best half of as many, and of the others some of every quality."""
RATIO = 1.6
"""Of an epoch that is kept of a curve to the one before."""
OF_EACH = 3
"""Best configurations of each search that are candidates of the new one."""
TRUST = 5.0
"""Values of unit variance that trust in earlier searches begins with."""
FIRST = 5
"""Configurations to begin with."""


def lessons_of(folders: Sequence[str], preset: Preset, space: Space) -> tuple[Lesson, ...]:
    """Read what earlier searches saw.

    Args:
        folders: of the searches, such as `runs/other`.
        preset: of the search that learns.
        space: of the search that learns.

    Raises:
        InvalidConfig: the sampler does not learn from other searches; or one has no parameter of this space, or fewer
            than `LEAST` trials with a value that did not fail; or a folder holds no search.
    """
    if folders and preset.sampler != "curves":
        raise InvalidConfig(
            f"sampler '{preset.sampler_name}' does not learn from other searches: leave --learn-from out, or take "
            "sampler 'curves'"
        )
    return tuple(_lesson(Path(one), space) for one in folders)


def _lesson(folder: Path, space: Space) -> Lesson:
    state = SearchState.read(folder)
    started = state.started
    if started is None:
        raise InvalidConfig(
            f"no search to learn from in {folder}: --learn-from takes the folder of one search, such as runs/other"
        )
    every = state.ranked(started.metric, started.mode)
    ranked = [trial for trial in every if trial.history and trial.status != "failed"]
    if len(ranked) < LEAST:
        raise InvalidConfig(
            f"too little to learn from in {folder}: {len(ranked)} of its trials have a value and did not fail; at "
            f"least {LEAST} must"
        )
    ours, theirs = space.drawn(), {name for trial in ranked for name in trial.started.params}
    if not theirs & set(ours):
        raise InvalidConfig(
            f"nothing to learn from {folder}: none of the parameters that this search draws ({', '.join(ours)}) is one "
            f"of its own ({', '.join(sorted(theirs))})"
        )
    best_half, others = ranked[: MOST // 2], ranked[MOST // 2 :]
    chosen = best_half + others[:: max(1, -(-len(others) // (MOST // 2)))]
    return Lesson(
        search=started.search,
        search_id=started.search_id,
        metric=started.metric,
        mode=started.mode,
        epochs=started.epochs,
        trials=tuple(
            (trial.started.params, _curve([one[started.metric] for one in trial.history], started.mode))
            for trial in chosen
        ),
    )


def _curve(values: Sequence[float], mode: str) -> dict[int, float]:
    """Best value until some epochs, each about 1.6 times the one before."""
    bests = (np.maximum if mode == "max" else np.minimum).accumulate(values)
    epochs = {round(RATIO**step) for step in range(40)}
    return {
        epoch: float(best)
        for epoch, best in enumerate(bests, start=1)
        if epoch in epochs or epoch == len(bests)
    }


@dataclass(frozen=True)
class _Task:
    tops: Array
    codes: Array
    times: Array
    values: Array


class Guess:
    """A smooth function of configuration and epoch that earlier searches agree on.

    Args:
        lessons: what they saw.
        encoding: of the new search's space; a parameter that an earlier one lacked is in the middle of its range.

    Attributes:
        candidates: (n, genes) of the best of each.
        first: (n, genes) to begin with, in their order.
        words: what a decision to begin with one of them says.
    """

    words = "good in earlier searches"

    def __init__(self, lessons: Sequence[Lesson], encoding: Encoding) -> None:
        rng = np.random.default_rng(0)
        tasks = [_task(one, encoding) for one in lessons]
        kernels = [_kernel(one, encoding, rng) for one in tasks]
        logs = np.mean([one.logs() for one in kernels], axis=0)
        lengths = np.append(np.exp(logs[:-5])[encoding.groups], math.exp(logs[-5]))
        # the spectrum of a Matérn of 5/2 is Student's t of 5 degrees of freedom
        normal = rng.normal(size=(len(lengths), FEATURES))
        self._frequencies = normal / np.sqrt(rng.chisquare(5, FEATURES) / 5) / lengths[:, None]
        self._phases = rng.uniform(0, 2 * math.pi, FEATURES)
        self._weights = np.zeros(FEATURES + 1)
        ridge = np.diag(np.append(np.full(FEATURES, RIDGE), 1e-6))
        every = np.concatenate([one.tops for one in tasks])
        self.candidates = every[_first_of_each(encoding.codes(every))]
        codes = encoding.codes(self.candidates)
        square, pull = np.zeros_like(ridge), np.zeros(FEATURES + 1)
        at_end = np.empty((len(tasks), len(codes)))
        for place, one in enumerate(tasks):
            features = self._features(one.codes, one.times)
            share = WEIGHT / len(one.values)  # no task counts more for having been searched longer
            own, own_pull = share * features.T @ features, share * features.T @ one.values
            self._weights = cho_solve(cho_factor(own + ridge), own_pull)
            at_end[place] = self(codes, 1.0)
            square, pull = square + own, pull + own_pull
        self._weights = cho_solve(cho_factor(square + len(tasks) * ridge), pull)
        self.first = self.candidates[_one_after_the_other(at_end)]

    def __call__(self, codes: Array, times: Array | float) -> Array:
        """Return (n,) what is expected of (n, columns) codes after these epochs (logarithm from 0 to 1)."""
        guess: Array = self._features(codes, np.broadcast_to(times, len(codes))) @ self._weights
        return guess

    def about(self, codes: Array, times: Array, values: Array) -> Mean:
        """Return the guess in the share that what a new search saw bears out, between 0 and 1."""
        guessed = self(codes, times)
        middle = float(guessed.mean())
        share = share_borne_out(guessed, times, values)
        return lambda at, when: share * (self(at, when) - middle)

    def _features(self, codes: Array, times: Array) -> Array:
        inner = np.column_stack([codes, times]) @ self._frequencies + self._phases
        np.cos(inner, out=inner)
        inner *= math.sqrt(2 / FEATURES)
        return np.column_stack([inner, np.ones(len(codes))])


def share_borne_out(guessed: Array, times: Array, values: Array) -> float:
    """Return the share of a guess that values bear out, between 0 and 1.

    It is that of a regression on values after the same epoch, with a prior at 1 of so many values as `TRUST`.
    """
    _, group = np.unique(times, return_inverse=True)
    count = np.bincount(group)
    ours, theirs = (one - (np.bincount(group, one) / count)[group] for one in (values, guessed))
    share = (float(theirs @ ours) + TRUST) / (float(theirs @ theirs) + TRUST)
    return min(max(share, 0.0), 1.0)


def _task(lesson: Lesson, encoding: Encoding) -> _Task:
    genes = np.stack([encoding.of(params) for params, _ in lesson.trials])
    codes = encoding.codes(genes)
    sign = 1.0 if lesson.mode == "max" else -1.0
    curves = [{int(epoch): sign * value for epoch, value in curve.items()} for _, curve in lesson.trials]
    bests = np.array([max(curve.values()) for curve in curves])
    row = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
    epochs = np.array([epoch for curve in curves for epoch in curve], float)
    values = np.array([value for curve in curves for value in curve.values()])
    times = np.log(epochs) / max(math.log(lesson.epochs), 1e-9)
    ranked = np.argsort(-bests, kind="stable")
    tops = genes[ranked[_first_of_each(codes[ranked])[:OF_EACH]]]
    return _Task(tops, codes[row], times, Warp(bests).standardise(values))


def _first_of_each(codes: Array) -> NDArray[np.intp]:
    """Return the rows that differ from all before them: trials may differ in their seed alone."""
    return np.sort(np.unique(codes, axis=0, return_index=True)[1])


def _kernel(task: _Task, encoding: Encoding, rng: np.random.Generator) -> Kernel:
    pick = np.arange(len(task.values))
    if len(pick) > FITTED:
        pick = np.sort(rng.choice(len(pick), FITTED, replace=False))
    start = Kernel.start(encoding.groups)
    return fit(task.codes[pick], task.times[pick], task.values[pick], start, bend=False)


def _one_after_the_other(values: Array) -> list[int]:
    """Columns, of which each lifts the best of those before it most, on the mean of the rows."""
    reached = np.full(len(values), values.min() - 1.0)
    chosen: list[int] = []
    while len(chosen) < min(FIRST, values.shape[1]):
        lifted = np.maximum(values, reached[:, None]).mean(0)
        lifted[chosen] = -np.inf
        chosen.append(int(lifted.argmax()))
        reached = np.maximum(reached, values[:, chosen[-1]])
    return chosen
