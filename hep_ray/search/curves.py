"""Search by learning curves: which trial to train next, and how far, so that the best value rises soonest.

Trials are trained to a milestone and pause. One Gaussian process over configurations and epochs sees all curves; a
worker that gets free takes the trial, paused or new, that most probably rises above a threshold within a horizon, both
drawn anew for every decision, so that near and far, sure and daring gains have their turns (MFPI-random of Rakotoarison
et al., arXiv:2404.16795; freezing and thawing after Swersky et al., arXiv:1406.3896). The more has been trained, the
more often a new configuration is trained in full at once, chosen by a second process that sees full trainings alone:
what shows late is not learnt from early epochs.

Pure arithmetic on what it is told: the same calls in the same order make the same searcher, so a journal restores it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr
from threadpoolctl import ThreadpoolController

from hep_ray.models import is_fitted
from hep_ray.search.curves_candidates import Candidates
from hep_ray.search.curves_gain import gain_left, noise_of
from hep_ray.search.curves_gp import Array, Kernel, Mean, Process, Warp, fit, log_expected_gain
from hep_ray.search.curves_limits import Margin
from hep_ray.search.curves_pace import Pace
from hep_ray.search.curves_prior import PriorGuess
from hep_ray.search.curves_space import Encoding
from hep_ray.search.curves_trials import CurveTable, CurveTrial, Ending, Step, milestones
from hep_ray.search.lessons import Guess
from hep_ray.search.parameters import Value
from hep_ray.search.space import Space
from hep_ray.tracking.records import Lesson

DRAWN = 6
"""Configurations that are drawn at random before the model is asked."""
LEAST = 3
"""Of them, that must have reached the first milestone."""
MOST_NEW = 0.5
"""Share of new trials in the last 20 decisions above which paused ones go first."""
RECENT = 20
THRESHOLD = (-2.0, 0.3)
"""Decimal exponents of the least and the largest rise that is asked for, in standard deviations of what was seen."""
ACTIVE = 250
"""Values that the model sees, at most."""
FITTED = 120
"""Values that its hyperparameters are fitted to, at most."""
MOST_FAILED = 0.1
"""Share of trials that failed at once, from which on parameters are not bent: a cliff is no bend."""
REFIT = 1.25
"""Growth of the number of values after which they are fitted anew."""
FULL_SHARE, FULL_MOST = 1.0, 0.4
"""Share of epochs for new configurations that are trained in full: after as many as 100 such trainings, and at most."""
FULL = 0.7
"""Of its epochs, from which a training counts as a full one."""
LEAST_FULL = 5
SHORTLIST = 60
"""Paused trials that are looked at in one decision: the best 40, and others by chance."""
BEST = 40
LEAST_OPENED = 20
"""Trials, below which nothing is said of the gain that is left."""


@dataclass(frozen=True)
class _View:
    """Process, scale and record at one moment.

    Attributes:
        process: over configurations and epochs.
        warp: of values.
        best: the best value so far, warped.
    """

    process: Process
    warp: Warp
    best: float


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> Any:
    """Have linear algebra use one core: for such small matrices more only wait, 40 times as long where trials train."""
    return _libraries().limit(limits=1)


class CurveSearcher:
    """Decides which trial is trained next, and how far.

    Args:
        space: what may vary.
        epochs: full length of a trial.
        mode: whether more or less of the metric is better.
        seed: of the draws.
        trials: most that are opened, references aside; None is no limit.
        budget: most epochs that are handed out; None is no limit.
        points: references, which are trained in full before anything else.
        lessons: of earlier searches.
        margin: of a configuration, beyond the limits of its model; None where there are none.
        per_second: weigh a gain against the seconds that it takes, not against the epochs.
    """

    def __init__(
        self,
        space: Space,
        epochs: int,
        *,
        mode: Literal["max", "min"] = "max",
        seed: int = 0,
        trials: int | None = None,
        budget: int | None = None,
        points: Sequence[Mapping[str, Value]] = (),
        lessons: Sequence[Lesson] = (),
        margin: Margin | None = None,
        per_second: bool = False,
    ) -> None:
        self._space, self._epochs, self._seed = space, epochs, seed
        self._sign = 1 if mode == "max" else -1
        self._most, self._budget, self._points = trials, budget, [dict(point) for point in points]
        self._encoding = Encoding(space)
        self._marks = milestones(epochs)
        self._grid = np.array(sorted({1, *self._marks}))
        self._later = np.array(self._marks)
        self._trials = CurveTable(self._encoding.genes, self._encoding.columns, self._grid)
        self._lost: list[tuple[int, int]] = []
        self._opened: list[bool] = []
        self._handed = self._handed_in_full = 0
        self._in_full: list[int] = []
        self._kernel = self._full_kernel = Kernel.start(self._encoding.groups)
        self._fitted = self._full_fitted = 0
        self._view: _View | None = None
        self._guesses: list[Guess | PriorGuess] = []
        if priors := space.priors():
            self._guesses.append(PriorGuess(priors, self._encoding))
        if lessons:
            with one_thread():
                self._guesses.append(Guess(lessons, self._encoding))
        self._pace = Pace(self._encoding.groups, self._encoding.ranges) if per_second else None
        self._candidates = Candidates(self._encoding, self._trials, margin)

    # what it is told

    def next(self) -> Step | None:
        """Return the next decision; None while there is nothing to do."""
        rng = np.random.default_rng([self._seed, len(self._opened)])
        with one_thread():
            step = self._decide(rng)
        if step is not None:
            self._enter(step)
        return step

    def took(self, step: Step) -> None:
        """Take in a decision of an earlier attempt, in place of `next`."""
        with one_thread():
            self._refit()
        self._enter(step)

    def report(self, trial: int, epoch: int, value: float, seconds: float | None = None) -> None:
        """Take in the value after an epoch, which took so long; one that is not finite ends the trial as failed."""
        one = self._trials[trial]
        if seconds is not None:
            self._trials.took(trial, seconds)
        self._view = None
        if not math.isfinite(value):
            self.ended(trial, failed=True)
            return
        self._trials.saw(trial, epoch, max(self._sign * value, one.best))
        if epoch >= self._epochs:
            self._trials.end(trial)
        if epoch >= min(one.until, self._epochs):
            self._trials.train(trial, 0)

    def released(self, trial: int) -> None:
        """Take in that a trial's worker was lost: it will be handed out again."""
        one = self._trials[trial]
        if one.until:
            self._lost.append((trial, one.until))
            self._handed -= one.until - one.epoch
            self._trials.train(trial, 0)

    def ended(self, trial: int, *, failed: bool = False, wasted: int = 0) -> None:
        """Take in that a trial will not be continued; a model that is fitted in one go is then as good as it gets.

        Args:
            trial: its number.
            failed: of its parameters, so that others like it are avoided.
            wasted: epochs that were trained and not reported, since no value of it counts.
        """
        one = self._trials[trial]
        self._view = None
        self._handed -= max(0, one.until - one.epoch - wasted)
        self._lost = [lost for lost in self._lost if lost[0] != trial]
        self._trials.train(trial, 0)
        self._trials.end(trial, failed=failed)
        if one.values and is_fitted(one.params.get("model")):
            self._trials.saw(trial, self._epochs, one.best)

    def grant(self, epochs: int) -> None:
        """Take in that it has so many epochs more to hand out, or fewer: others than its own decisions use some."""
        self._budget = None if self._budget is None else self._budget + epochs

    @property
    def finished(self) -> bool:
        """Whether nothing will be handed out any more, unless a running trial is released."""
        if self._lost or self._trials.until.any():
            return False
        return self._spent_out() or not (
            self._may_open() or len(self._trials.paused) or self._references_left()
        )

    def prediction(self, trial: int) -> Ending | None:
        """Return where a trial ends; None before there is a model."""
        one = self._trials[trial]
        if not self._modelled() or one.failed:
            return None
        with one_thread():
            view = self._seen()
            mean, spread = view.process.spread(self._trials.codes[trial][None], 1.0)
        low, middle, high = (
            max(view.warp.back(float(mean[0] + by * spread[0])), one.best) * self._sign for by in (-1, 0, 1)
        )
        return Ending(min(low, high), middle, max(low, high))

    def gain_left(self) -> tuple[float, float] | None:
        """Return how much the best value is expected to rise at most, and by how much one as good is off by chance.

        The first is of a search that goes on for ever; None before enough is known to say.
        """
        trained = int((self._trials.epochs >= FULL * self._epochs).sum())
        if not self._modelled() or trained < LEAST_FULL or len(self._trials) < LEAST_OPENED:
            return None
        rng = np.random.default_rng([self._seed, len(self._opened), 2])
        with one_thread():
            kept, view = self._view, self._seen()
            self._view = kept  # a decision fits its hyperparameters before it looks
            fresh = self._candidates.still_open(rng, [guess.candidates for guess in self._guesses])
            fresh = fresh if self._may_open() else fresh[:0]
            paused = self._trials.paused
            paused = paused[np.argsort(-self._trials.bests[paused], kind="stable")[:BEST]]
            running = np.nonzero(self._trials.until)[0]
            seen = self._trials.codes[np.union1d(paused, running)]
            best = self._trials.best
            codes = np.concatenate([self._encoding.codes(fresh), seen, self._trials.codes[[best]]])
            top, times = float(view.warp(self._trials.bests[best])), np.ones(len(codes))
            times[-1] = float(self._log(self._trials.epochs[best]))
            back = view.warp.back
            by_curves = gain_left(view.process, codes, times, lambda rise: back(top + rise), rng)
            process, _, deviation = self._full_process(view)
            in_full = gain_left(
                process, codes, np.ones(len(codes)), lambda rise: back(top + deviation * rise), rng
            )
            noise = noise_of(view.process, view.warp, float(self._trials.bests[best]))
            return max(by_curves, in_full), noise

    def best_in_full(self) -> Step | None:
        """Return the decision to train the best trial to its end; None where it is not paused, or epochs are spent."""
        paused = self._trials.paused
        best = self._trials.best
        if best not in paused or self._spent_out():
            return None
        one = self._trials[best]
        until = self._epochs if self._budget is None else one.epoch + self._budget - self._handed
        until = min(until, self._epochs)
        why = f"{_name(best)} goes on to epoch {until}: it is the best"
        step = Step(best, one.params, one.epoch, until, why)
        self._enter(step)
        return step

    # decisions

    def _enter(self, step: Step) -> None:
        if step.trial == len(self._trials):
            genes = self._encoding.of(step.params)
            code = self._encoding.codes(genes[None])[0]
            self._trials.add(dict(step.params), genes, code)
            drawn = step.trial >= len(self._points)
            if drawn or self._encoding.params(genes) == dict(
                step.params
            ):  # a reference that could be drawn as well
                self._candidates.enter(code)
            if drawn and step.until == self._epochs:
                self._handed_in_full += step.until
                self._in_full.append(step.trial)
        one = self._trials[step.trial]
        self._trials.train(step.trial, step.until)
        self._lost = [lost for lost in self._lost if lost[0] != step.trial]
        self._handed += step.until - one.epoch
        self._opened.append(step.start == 0)
        self._view = None

    def _decide(self, rng: np.random.Generator) -> Step | None:
        if self._lost:
            number, until = self._lost[0]
            one = self._trials[number]
            why = f"{_name(number)} is taken up again, to epoch {until}"
            return Step(number, one.params, one.epoch, until, why)
        if self._references_left():
            number = len(self._trials)
            why = f"{_name(number)} is a reference, trained in full"
            return Step(number, self._points[number], 0, self._epochs, why)
        if self._spent_out():
            return None
        if not self._modelled():
            return self._begin(rng) if self._may_open() else self._longest()
        if not (self._may_open() or len(self._trials.paused)):
            return None
        self._refit()
        step = self._choose(rng)
        if self._budget is None:
            return step
        left = self._budget - self._handed
        return Step(step.trial, step.params, step.start, min(step.until, step.start + left), step.why)

    def _references_left(self) -> bool:
        return len(self._trials) < len(self._points)

    def _spent_out(self) -> bool:
        return self._budget is not None and self._handed >= self._budget and not self._references_left()

    def _may_open(self) -> bool:
        drawn = len(self._trials) - len(self._points)
        return (self._most is None or drawn < self._most) and self._candidates.left

    def _modelled(self) -> bool:
        reached = int((self._trials.epochs >= self._marks[0]).sum())
        drawn = len(self._trials) - len(self._points)
        return (drawn >= DRAWN or not self._may_open()) and reached >= LEAST

    def _longest(self) -> Step | None:
        """The paused trial that is best, while there are too few for a model."""
        paused = self._trials.paused
        if not len(paused):
            return None
        best = self._trials[int(paused[self._trials.bests[paused].argmax()])]
        return self._go_on(best, "there is nothing else to do")

    def _begin(self, rng: np.random.Generator) -> Step:
        """A configuration that is thought good, or one drawn at random, away from those that there are."""
        first = [(row, guess.words) for guess in self._guesses for row in guess.first]
        if len(self._trials) - len(self._points) < len(first):
            place = self._candidates.first_fresh([row for row, _ in first])
            if place is not None:
                return self._open(first[place][0], self._marks[0], first[place][1])
        return self._open(self._candidates.drawn(rng), self._marks[0], "drawn at random")

    def _open(self, genes: Array, until: int, reason: str) -> Step:
        number = len(self._trials)
        return Step(
            number,
            self._encoding.params(genes),
            0,
            until,
            f"{_name(number)} begins, to epoch {until}: {reason}",
        )

    def _go_on(self, one: CurveTrial, reason: str) -> Step:
        until = next(mark for mark in self._marks if mark > one.epoch)
        return Step(
            one.number,
            one.params,
            one.epoch,
            until,
            f"{_name(one.number)} goes on to epoch {until}: {reason}",
        )

    def _choose(self, rng: np.random.Generator) -> Step:
        view = self._seen()
        threshold = view.best + 10 ** rng.uniform(*THRESHOLD)
        horizon = math.exp(rng.uniform(0, math.log(self._epochs)))
        share = min(FULL_MOST, FULL_SHARE * self._handed / (100 * self._epochs))
        in_full = self._handed_in_full < share * self._handed
        if self._pace is not None:
            spent = self._trials.costs * self._seconds(slice(None))
            horizon *= self._trials.usual_seconds
            in_full = float(spent[self._in_full].sum()) < share * float(spent.sum())
        paused = self._trials.paused
        may_open = self._may_open()
        if in_full and may_open:
            return self._full(rng, view)
        if may_open and len(paused):
            may_open = float(np.mean(self._opened[-RECENT:])) <= MOST_NEW
        best: tuple[float, float, Step] | None = None
        if len(paused):
            best = self._best_paused(rng, view, paused, threshold, horizon)
        if may_open:
            found = self._best_new(rng, view, threshold, horizon)
            if best is None or found[0] > best[0]:
                best = found
        assert best is not None
        return best[2]

    def _best_paused(
        self,
        rng: np.random.Generator,
        view: _View,
        paused: npt.NDArray[np.int_],
        threshold: float,
        horizon: float,
    ) -> tuple[float, float, Step]:
        if len(paused) > SHORTLIST:
            order = paused[np.argsort(-self._trials.bests[paused], kind="stable")]
            others = rng.choice(len(order) - BEST, SHORTLIST - BEST, replace=False)
            paused = np.concatenate([order[:BEST], order[BEST + others]])
        reached = self._trials.epochs[paused]
        following = self._later[np.searchsorted(self._later, reached, side="right")]
        seconds = 1.0 if self._pace is None else self._seconds(paused)
        epochs = np.minimum(np.maximum(reached + horizon / seconds, following), self._epochs)
        mean, spread = view.process.spread(self._trials.codes[paused], self._log(epochs))
        score = self._worth((mean - threshold) / spread, (following - reached) * seconds / horizon)
        place = int(score.argmax())
        chance = float(ndtr((mean[place] - view.best) / spread[place]))
        one = self._trials[int(paused[place])]
        return float(score[place]), chance, self._go_on(one, self._percent(chance))

    def _best_new(
        self, rng: np.random.Generator, view: _View, threshold: float, horizon: float
    ) -> tuple[float, float, Step]:
        def when(codes: Array) -> tuple[Any, Any]:
            """When they are compared, and how much longer than the horizon they take to their first milestone."""
            if self._pace is None:
                return self._log(np.clip(horizon, self._marks[0], self._epochs)), self._marks[0] / horizon
            seconds, fits = self._pace.of(codes), self._encoding.fits(codes)  # a fit in one go is one epoch
            epochs = np.where(fits, self._epochs, np.clip(horizon / seconds, self._marks[0], self._epochs))
            return self._log(epochs), np.where(fits, 1, self._marks[0]) * seconds / horizon

        def score(codes: Array, few: int) -> Array:
            scores = np.full(len(codes), -np.inf)
            times, longer = when(codes)
            mean = view.process.mean(codes, times)
            keep = np.argsort(-mean)[:few]
            keep = np.union1d(keep, rng.integers(len(codes), size=few // 2))
            times, longer = when(codes[keep])
            expected, spread = view.process.spread(codes[keep], times)
            scores[keep] = self._worth((expected - threshold) / spread, longer)
            return scores

        start = np.concatenate(
            [
                self._encoding.scattered(rng, 150),
                self._encoding.around(rng, self._candidates.tops(), 150),
                *(guess.candidates for guess in self._guesses),
            ]
        )
        genes, value = self._candidates.climb(rng, start, score, [(0.02, 0.06, 0.15), (0.005, 0.02, 0.05)])
        codes = self._encoding.codes(genes[None])
        mean, spread = view.process.spread(codes, when(codes)[0])
        chance = float(ndtr((mean[0] - view.best) / spread[0]))
        return value, chance, self._open(genes, self._marks[0], self._percent(chance))

    def _worth(self, away: Array, longer: Any) -> Array:
        """Return what rises with the chance to reach a threshold, per second where those count.

        Args:
            away: (n,) of the expected value above the threshold, in standard deviations.
            longer: (n,) times the horizon that it takes at least; a chance that takes twice as long is worth half.
        """
        if self._pace is None:
            return away
        worth: Array = log_ndtr(away) - np.log(np.maximum(longer, 1.0))
        return worth

    def _seconds(self, numbers: Any) -> Array:
        """Seconds of an epoch of some trials, expected of those that have told none."""
        assert self._pace is not None
        seconds: Array = self._trials.seconds[numbers].copy()
        if (unknown := seconds == 0).any():
            seconds[unknown] = self._pace.of(self._trials.codes[numbers][unknown])
        return seconds

    def _full_process(self, view: _View) -> tuple[Process, float, float]:
        """Process of full trainings alone, the best of them in its units, and its unit in warped values."""
        codes, values = self._full_data(view.warp)
        middle, deviation = float(values.mean()), float(values.std()) or 1.0
        running = self._trials.codes[self._trials.until >= FULL * self._epochs]
        all_codes, top = np.concatenate([codes, running]), (float(values.max()) - middle) / deviation
        scaled = (values - middle) / deviation
        return Process(self._full_kernel, all_codes, np.ones(len(all_codes)), scaled), top, deviation

    def _full(self, rng: np.random.Generator, view: _View) -> Step:
        process, top, _ = self._full_process(view)

        def score(codes: Array, few: int) -> Array:  # noqa: ARG001 - full trainings are few
            gain = log_expected_gain(*process.spread(codes, 1.0), top)
            if self._pace is None:
                return gain
            share = np.where(self._encoding.fits(codes), 1 / self._epochs, 1.0)
            return gain - np.log(share * self._pace.of(codes))

        start = np.concatenate(
            [self._encoding.scattered(rng, 400), self._encoding.around(rng, self._candidates.tops(), 300)]
        )
        scales = [(0.05, 0.15), (0.03, 0.1), (0.01, 0.03), (0.003, 0.01)]
        genes, _ = self._candidates.climb(rng, start, score, scales)
        return self._open(genes, self._epochs, f"in full, to improve on {self._best_words()}")

    # the model

    def _log(self, epochs: Any) -> Array:
        logs: Array = np.log(np.asarray(epochs, float)) / max(math.log(self._epochs), 1e-9)
        return logs

    def _data(self) -> tuple[Array, Array, Array, Warp]:
        """Codes, times and warped values that the model sees: the last of every curve, more of those of the best."""
        seen = np.nonzero(self._trials.epochs)[0]
        best = self._trials.bests[seen]
        warp = Warp(best)
        rank = np.empty(len(seen))
        rank[np.argsort(-best, kind="stable")] = np.arange(len(seen)) / len(seen)
        epoch = self._trials.epochs[seen]
        grid = np.minimum(self._grid[None], epoch[:, None])
        use = np.concatenate([np.ones((len(seen), 1), bool), grid[:, 1:] > grid[:, :-1]], axis=1)
        back = use.sum(1)[:, None] - np.cumsum(use, axis=1)
        order = np.where(back == 0, rank[:, None], 3 + back + 6 * rank[:, None])
        row, column = np.nonzero(use)
        if len(row) > ACTIVE:
            keep = np.sort(np.argsort(order[row, column], kind="stable")[:ACTIVE])
            row, column = row[keep], column[keep]
        codes = self._trials.codes[seen[row]]
        times = self._log(grid[row, column])
        values = warp.standardise(self._trials.curves[seen[row], column])
        failed = self._trials.codes[self._trials.failures]
        if len(failed):
            codes = np.concatenate([codes, failed, failed])
            times = np.concatenate([times, np.repeat(self._log([self._marks[0], self._epochs]), len(failed))])
            values = np.concatenate([values, np.full(2 * len(failed), values.min())])
        return codes, times, values, warp

    def _full_data(self, warp: Warp) -> tuple[Array, Array]:
        epochs, bests = self._trials.lasting, self._trials.bests
        long = np.nonzero(epochs >= FULL * self._epochs)[0]
        if len(long) < LEAST_FULL:
            seen = np.nonzero(epochs)[0]
            long = seen[np.lexsort((-bests[seen], -epochs[seen]))[: 2 * LEAST_FULL]]
        return self._trials.codes[long], warp(bests[long])

    def _refit(self) -> None:
        """Fit the hyperparameters where there is so much more to fit them to."""
        if not self._modelled() or self._references_left() or self._lost or self._spent_out():
            return  # as where nothing is asked of the model: a decision that is taken over must leave the same state
        if self._pace is not None:
            timed = self._trials.timed
            timed = timed[self._trials.fits[timed] == self._encoding.fits(self._trials.codes[timed])]
            self._pace.learn(self._trials.codes[timed], self._trials.seconds[timed])
        points = int((self._trials.epochs > 0).sum() + self._trials.epochs.sum() // 10)
        if points > REFIT * self._fitted:
            codes, times, values, _ = self._data()
            self._fitted = points
            rng = np.random.default_rng([self._seed, len(self._opened), 1])
            pick = np.arange(len(values))
            if len(values) > FITTED:
                pick = np.sort(rng.choice(len(values), FITTED, replace=False))
            about = self._about(codes, times, values)
            left = values if about is None else values - about(codes, times)
            bend = self._encoding.ranges & (self._trials.failures.mean() < MOST_FAILED)
            self._kernel = fit(codes[pick], times[pick], left[pick], self._kernel, bend=bend)
        full = int((self._trials.epochs >= FULL * self._epochs).sum())
        if full >= LEAST_FULL and full > 1.15 * self._full_fitted:
            self._full_fitted = full
            codes, values = self._full_data(self._data()[3])
            values = (values - values.mean()) / (values.std() or 1.0)
            start, times = Kernel.start(self._encoding.groups), np.ones(len(values))
            self._full_kernel = fit(codes, times, values, start, flat=True, bend=self._encoding.ranges)

    def _about(self, codes: Array, times: Array, values: Array) -> Mean | None:
        """Sum of the guesses, each in the share that bears out what those before it leave."""
        means: list[Mean] = []
        for guess in self._guesses:
            means.append(guess.about(codes, times, values))
            values = values - means[-1](codes, times)
        return (lambda at, when: np.sum([one(at, when) for one in means], axis=0)) if means else None

    def _seen(self) -> _View:
        if self._view is None:
            codes, times, values, warp = self._data()
            about = self._about(codes, times, values)
            running = self._trials.until > 0
            codes = np.concatenate([codes, self._trials.codes[running]])
            times = np.concatenate([times, self._log(self._trials.until[running])])
            best = self._trials.top
            self._view = _View(Process(self._kernel, codes, times, values, about), warp, float(warp(best)))
        return self._view

    def _best_words(self) -> str:
        return f"{self._sign * self._trials.top:.4g}"

    def _percent(self, chance: float) -> str:
        return f"{100 * chance:.0f} % to beat {self._best_words()}"


def _name(number: int) -> str:
    return f"t{number:04d}"
