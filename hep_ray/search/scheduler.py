"""Schedulers: which trial trains on, which pauses, which stops; Ray-free, and replayable.

A `Scheduler` is told everything that happens to trials in the order of the journal, and its answers depend on that
alone: no clock, no state from elsewhere, no random number that is not seeded by `SearchGoal.seed`. So a search that is
resumed decides as it would have: the journal is told to a new scheduler, and the next answer is the one that was due.
Whoever writes one derives from `Scheduler`, overrides `report`, and gives an instance to `Preset(scheduler=…)`.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from hep_ray.tracking.records import Status

Decision = Literal["go on", "pause", "stop"]

LEAST_PAIRS = 8
"""Trials that have gone on from a rung to the next, before its ranking is judged by them."""
LEAST_AGREEMENT = 0.3
"""Rank correlation of their values at both, below which the first rung stops none."""
LEAST_BESIDE = 5
"""Other trials at an epoch, below which the median stops none: as many as Optuna's waits for."""


@dataclass(frozen=True)
class SearchGoal:
    """Goal by which a scheduler compares trials, and how long they are.

    Attributes:
        metric: key of the per-epoch report that ranks trials.
        mode: whether more (`max`) or less (`min`) of it is better.
        epochs: full length of a trial.
        grace: epochs before any trial is stopped or paused: the first rung.
        reduction_factor: of the trials at a rung, the best one in so many go on; the next rung is as many times later.
        second_objective: what is minimised beside the metric, summed over the epochs unless it is the model's; None of
            one objective.
        seed: of the search.
    """

    metric: str
    mode: Literal["max", "min"]
    epochs: int
    grace: int
    reduction_factor: int = 3
    second_objective: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class TakeUp:
    """A paused trial that goes on.

    Attributes:
        trial_id: which one.
        until: epoch after which it pauses again, unless it is told to go on.
        reason: in words, as the progress shows and the journal keeps it.
    """

    trial_id: str
    until: int
    reason: str


class Scheduler:
    """Base of all schedulers: lets every trial train to its end.

    Its instances are copied for each attempt of a search, before `start`. Trials whose model is fitted in one go are
    not told: their only epoch is their last. Nor are configurations of `points_to_evaluate` that break a constraint:
    they cannot win, and others are not to be stopped by them.

    Attributes:
        pauses: whether it pauses trials. Then the budget of a search is in epochs, trials × length of a trial, and
            `take_up` is asked whenever a worker is free.
    """

    pauses: ClassVar[bool] = False
    goal: SearchGoal

    def start(self, goal: SearchGoal) -> None:
        """Begin, before anything else is told."""
        self.goal = goal

    def begin(self, trial_id: str, params: Mapping[str, Any]) -> int | None:  # noqa: ARG002 - for who derives
        """Enter a trial; return the epoch after which it pauses at the latest, None where it need not."""
        return None

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> Decision:  # noqa: ARG002
        """Take in an epoch (from 1) and decide; the last epoch of a trial is told too, and its answer not asked."""
        return "go on"

    def end(self, trial_id: str, status: Status) -> None:
        """Take in that a trial ended, however it did; nothing follows under its id."""

    def take_up(self) -> TakeUp | None:
        """Return the paused trial that goes on now; None where a new one is worth more."""
        return None

    def went_on(self, trial_id: str, until: int) -> None:
        """Take in that a paused trial goes on, to this epoch; also where `take_up` has just said so."""

    def doubts(self) -> list[str]:
        """Return what a user should know when the search has ended, a sentence each."""
        return []


class _Rungs(Scheduler):
    """Epochs at which trials are compared: the grace, and as many times later as the reduction factor says."""

    def start(self, goal: SearchGoal) -> None:
        super().start(goal)
        self._rungs = rungs(goal.grace, goal.reduction_factor, goal.epochs)
        self._best: dict[str, tuple[float, ...]] = {}
        self._costs: dict[str, float] = defaultdict(float)

    def _objectives(self, trial_id: str, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Return what is maximised, after this epoch: the metric, and the cost so far with a minus."""
        goal = self.goal
        sign = 1 if goal.mode == "max" else -1
        if goal.second_objective is None:
            return (sign * metrics[goal.metric],)
        cost = metrics[goal.second_objective]
        whole = goal.second_objective in ("parameters", "flops")
        self._costs[trial_id] = cost if whole else self._costs[trial_id] + cost
        return (sign * metrics[goal.metric], -self._costs[trial_id])

    def _leave(self, trial_id: str, reached: Iterable[dict[str, Any]], status: Status) -> None:
        """Compare nothing with a trial that failed: it cannot win, and had a place among those that may."""
        if status == "failed":
            for values in reached:
                values.pop(trial_id, None)


class StoppingASHA(_Rungs):
    """ASHA (Li et al., arXiv:1810.05934) in the form that stops: a trial below the best of a rung ends there.

    A trial goes on where it is not below the quantile 1 - 1/factor of those that were at the rung before it, as in Ray
    Tune. With two objectives it goes on where fewer than one in `factor` of them are of a better non-dominated rank.

    A rung stops trials only as long as its ranking means something: as long as the trials that went on from it are
    ranked by the next rung (or the last epoch) much as they were by it. Where they are not, trials go on, which widens
    what is compared, so that a rung comes back that was only unlucky.
    """

    def start(self, goal: SearchGoal) -> None:
        """Begin with empty rungs."""
        super().start(goal)
        self._values: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
        """Rung, or the last epoch → trial → its objectives there."""

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Decide at a rung; between two of them every trial goes on."""
        value = self._objectives(trial_id, metrics)
        if epoch not in self._rungs or trial_id in self._values[epoch]:
            return "go on"
        before = list(self._values[epoch].values())
        self._values[epoch][trial_id] = value
        if epoch == self.goal.epochs or not _below(value, before, self.goal.reduction_factor):
            return "go on"
        return "stop" if self._ranks(epoch) else "go on"

    def agreement(self, rung: int) -> tuple[float, int]:
        """Return Spearman's correlation of a rung with the next, or the last epoch, over the trials that reached that.

        Returns:
            Correlation (0 where all values are equal, NaN for fewer than two trials), and number of trials.
        """
        later = self._values[self._rungs[self._rungs.index(rung) + 1]]
        pairs = [(self._values[rung][name][0], value[0]) for name, value in later.items()]
        if len(pairs) < 2:  # noqa: PLR2004 - of one trial there is no ranking
            return math.nan, len(pairs)
        from scipy.stats import rankdata  # which takes a second

        ranks = rankdata(pairs, axis=0)
        equal = bool((ranks == ranks[0]).all(axis=0).any())
        return 0.0 if equal else float(np.corrcoef(ranks.T)[0, 1]), len(pairs)

    def doubts(self) -> list[str]:
        """Return the rungs that stop no trial for now, since their ranking means too little."""
        return [
            f"ASHA stops no trial at epoch {rung}: the {trials} that went on are ranked otherwise at epoch {later} "
            f"(rank correlation {value:.2f}; at least {LEAST_AGREEMENT} is asked for). A longer grace saves its epochs"
            for rung, later in zip(self._rungs[:-1], self._rungs[1:], strict=True)
            for value, trials in [self.agreement(rung)]
            if not self._ranks(rung)
        ]

    def end(self, trial_id: str, status: Status) -> None:
        """Let a trial that failed leave all rungs."""
        self._leave(trial_id, self._values.values(), status)

    def _ranks(self, rung: int) -> bool:
        value, trials = self.agreement(rung)
        return trials < LEAST_PAIRS or value >= LEAST_AGREEMENT


class Hyperband(Scheduler):
    """Asynchronous Hyperband: brackets of stopping ASHA with ever longer graces (arXiv:1810.05934, section 3.3).

    Hyperband (Li et al., arXiv:1603.06560) hedges against a first rung that misleads. Of the brackets s = 0 … S, the
    one with s halvings has the grace epochs · factor^-s and gets ⌈(S + 1) / (s + 1) · factor^s⌉ of the trials, in turn.
    """

    def start(self, goal: SearchGoal) -> None:
        """Begin with one scheduler for each bracket."""
        super().start(goal)
        graces = rungs(goal.grace, goal.reduction_factor, goal.epochs)[::-1]
        most = len(graces)
        sizes = [math.ceil(most / (s + 1) * goal.reduction_factor**s) for s in range(most)]
        self._order = [s for s in range(most - 1, -1, -1) for _ in range(sizes[s])]
        self._brackets: list[StoppingASHA] = []
        for grace in graces:
            bracket = StoppingASHA()
            bracket.start(SearchGoal(**{**vars(goal), "grace": grace}))
            self._brackets.append(bracket)
        self._own: dict[str, StoppingASHA] = {}

    def begin(self, trial_id: str, params: Mapping[str, Any]) -> int | None:
        """Put a trial into the bracket whose turn it is."""
        self._own[trial_id] = self._brackets[self._order[len(self._own) % len(self._order)]]
        return self._own[trial_id].begin(trial_id, params)

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Decide as the trial's bracket does."""
        return self._own[trial_id].report(trial_id, epoch, metrics)

    def end(self, trial_id: str, status: Status) -> None:
        """Tell the trial's bracket."""
        self._own[trial_id].end(trial_id, status)

    def doubts(self) -> list[str]:
        """Return those of all brackets, each once."""
        return list(dict.fromkeys(doubt for bracket in self._brackets for doubt in bracket.doubts()))


class MedianStopping(_Rungs):
    """Vizier's median rule (Golovin et al., KDD 2017): a trial stops whose best is below the median of the others.

    After each epoch from the grace on, the best value of the trial so far is compared with the means over the same
    epochs of all trials that got as far; of fewer than five others none is stopped. With two objectives the rule
    follows the metric alone: the costs after the same epoch do not say which training is worth less.
    """

    def start(self, goal: SearchGoal) -> None:
        """Begin without a curve."""
        super().start(goal)
        self._curves: dict[str, list[float]] = defaultdict(list)
        self._means: dict[int, list[float]] = defaultdict(list)
        """Epoch → means over the epochs up to it, of each trial that got as far, the least first."""

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Compare with the means of the others."""
        curve = self._curves[trial_id]
        if epoch <= len(curve):
            return "go on"
        curve.append(self._objectives(trial_id, metrics)[0])
        means, own = self._means[epoch], sum(curve) / epoch
        place = bisect_left(means, own)
        means.insert(place, own)
        others = len(means) - 1
        if epoch < self.goal.grace or others < LEAST_BESIDE:
            return "go on"
        middle = [means[at + (at >= place)] for at in ((others - 1) // 2, others // 2)]
        return "stop" if max(curve) < sum(middle) / 2 else "go on"

    def end(self, trial_id: str, status: Status) -> None:
        """Let a trial that failed leave the curves."""
        curve = self._curves.get(trial_id, []) if status == "failed" else []
        for epoch in range(1, len(curve) + 1):
            means = self._means[epoch]
            del means[bisect_left(means, sum(curve[:epoch]) / epoch)]
        self._leave(trial_id, [self._curves], status)


class PromotingASHA(_Rungs):
    """ASHA in its published form (arXiv:1810.05934, algorithm 2): a trial pauses at each rung until it is promoted.

    A free worker takes up the best trial that is among the best one in `factor` of its rung, of the highest rung that
    has one; where none is, a new configuration begins. Nothing is given up for good before the budget is spent: a trial
    that was unlucky early goes on when later ones turn out worse. With two objectives the best are those of the lowest
    non-dominated rank, of equals the better in the metric.
    """

    pauses: ClassVar[bool] = True

    def start(self, goal: SearchGoal) -> None:
        """Begin with empty rungs."""
        super().start(goal)
        self._values: dict[int, dict[str, tuple[float, ...]]] = {rung: {} for rung in self._rungs}
        self._promoted: dict[int, set[str]] = {rung: set() for rung in self._rungs}
        self._gone: set[str] = set()
        self._order: dict[int, list[tuple[float, int, str]]] = {rung: [] for rung in self._rungs}
        """Rung → its trials, best first: value with a minus, place of their arrival, name; of one objective alone."""
        self._waiting: dict[int, list[tuple[float, int, str]]] = {rung: [] for rung in self._rungs}
        """Of these, who may still be promoted."""
        self._keys: dict[tuple[int, str], tuple[float, int, str]] = {}

    def begin(self, trial_id: str, params: Mapping[str, Any]) -> int | None:  # noqa: ARG002
        """Train a new trial to the first rung."""
        return self._rungs[0]

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Pause at each rung but the last."""
        value = self._objectives(trial_id, metrics)
        if epoch not in self._values or trial_id in self._values[epoch]:
            return "go on"
        self._values[epoch][trial_id] = value
        key = self._keys[epoch, trial_id] = -value[0], len(self._keys), trial_id
        insort(self._order[epoch], key)
        insort(self._waiting[epoch], key)
        return "pause" if epoch < self.goal.epochs else "go on"

    def end(self, trial_id: str, status: Status) -> None:
        """Promote it no more; unless it failed, what it reached still counts where others are compared."""
        self._gone.add(trial_id)
        for rung in self._rungs:
            if (key := self._keys.get((rung, trial_id))) is not None:
                _take_out(self._waiting[rung], key)
                if status == "failed":
                    _take_out(self._order[rung], key)
        self._leave(trial_id, self._values.values(), status)

    def take_up(self) -> TakeUp | None:
        """Return the best that may be promoted, from the highest rung down."""
        for rung, until in reversed(list(pairwise(self._rungs))):
            reached = len(self._values[rung])
            found = self._first(rung)
            if found is not None and found[0] <= reached // self.goal.reduction_factor:
                return TakeUp(found[1], until, f"number {found[0]} of {reached} after epoch {rung}")
        return None

    def _first(self, rung: int) -> tuple[int, str] | None:
        """Return place and name of the best at a rung that was neither promoted nor ended; None where there is none."""
        if self.goal.second_objective is None:
            waiting = self._waiting[rung]
            return (bisect_left(self._order[rung], waiting[0]) + 1, waiting[0][2]) if waiting else None
        left = self._promoted[rung] | self._gone
        ordered = enumerate(_best_first(self._values[rung]), start=1)
        return next(((place, name) for place, name in ordered if name not in left), None)

    def went_on(self, trial_id: str, until: int) -> None:  # noqa: ARG002
        """Note that it was promoted from the highest rung that it has reached."""
        rung = max(rung for rung in self._rungs if trial_id in self._values[rung])
        self._promoted[rung].add(trial_id)
        _take_out(self._waiting[rung], self._keys[rung, trial_id])


class LearningCurves(Scheduler):
    """Stands for `curves`, which chooses the configurations too: see `curves.py` and `curves_searcher.CurveTrials`."""

    pauses: ClassVar[bool] = True


NAMED: dict[str, type[Scheduler]] = {
    "asha": StoppingASHA,
    "asha_pausing": PromotingASHA,
    "hyperband": Hyperband,
    "median": MedianStopping,
    "none": Scheduler,
    "curves": LearningCurves,
}
"""Name in a preset → scheduler."""


def scheduler_for(scheduler: str | Scheduler, goal: SearchGoal) -> Scheduler:
    """Return a scheduler that has begun: one of a name, or a copy of an object that has been told nothing."""
    made = NAMED[scheduler]() if isinstance(scheduler, str) else copy.deepcopy(scheduler)
    made.start(goal)
    return made


def _take_out(ordered: list[Any], one: Any) -> None:
    """Remove one from an ordered list, if it is there."""
    place = bisect_left(ordered, one)
    if place < len(ordered) and ordered[place] == one:
        del ordered[place]


def rungs(grace: int, reduction_factor: int, epochs: int) -> list[int]:
    """Return the epochs at which trials are compared, the last epoch among them."""
    found = [min(grace, epochs)]
    while found[-1] < epochs:
        found.append(min(found[-1] * reduction_factor, epochs))
    return found


def _below(value: tuple[float, ...], before: list[tuple[float, ...]], reduction_factor: int) -> bool:
    """Return whether a value is below the best of those before it."""
    if not before:
        return False
    if len(value) == 1:
        cutoff = np.nanpercentile([one[0] for one in before], (1 - 1 / reduction_factor) * 100)
        return bool(value[0] < cutoff)
    fronts = non_dominated_ranks([*before, value])
    return sum(rank < fronts[-1] for rank in fronts) * reduction_factor >= len(fronts)


def _best_first(values: Mapping[str, tuple[float, ...]]) -> list[str]:
    """Return names by non-dominated rank, of equals by the first objective; of one objective by that."""
    names = list(values)
    ranks = non_dominated_ranks([values[name] for name in names])
    order = sorted(range(len(names)), key=lambda at: (ranks[at], -values[names[at]][0]))
    return [names[at] for at in order]


def non_dominated_ranks(values: list[tuple[float, ...]]) -> list[int]:
    """Return the rank of each, 0 for those that none dominates (Deb et al., IEEE TEC 6 (2002) 182); all are maximised.

    One value dominates another that it equals or beats in all objectives and beats in one.
    """
    if not values:
        return []
    if len(values[0]) == 1:
        order = sorted({value[0] for value in values}, reverse=True)
        places = {value: place for place, value in enumerate(order)}
        return [places[value[0]] for value in values]
    points = np.array(values, dtype=float).reshape(len(values), -1)
    at_least: np.ndarray = np.all(points[:, None] >= points[None], axis=2)
    dominates: np.ndarray = at_least & np.any(points[:, None] > points[None], axis=2)
    ranks, rank, left = np.full(len(points), -1), 0, np.ones(len(points), dtype=bool)
    while left.any():
        front = left & ~dominates[left].any(axis=0)
        front = front if front.any() else left
        ranks[front], left = rank, left & ~front
        rank += 1
    return [int(one) for one in ranks]
