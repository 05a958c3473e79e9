"""A search by learning curves as its journal has it: its decisions as records, and records told to what decides."""

from __future__ import annotations

import time

from hep_ray.search.curves import CurveSearcher
from hep_ray.search.curves_trials import Step
from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import frozen_trial, next_fold
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.tracking.records import (
    OF_PARAMETERS,
    EpochFinished,
    NoGainLeft,
    Record,
    TrialFinished,
    TrialGoesOn,
    TrialStarted,
)


class CurveTrials(OptunaSearcher):
    """Trains next what the model of learning curves says, a paused trial or a new one: see `curves.py`."""

    def _prepare(self) -> None:
        self._curves = CurveSearcher(
            self._space,
            self._preset.epochs,
            mode=self._search.mode,
            seed=self._seed,
            budget=self.epochs_in_all,
            points=self._search.points_to_evaluate,
            lessons=self._state.started.lessons if self._state.started else (),
            margin=self._limits.margin if self._limits else None,
            per_second=self._state.started is not None and self._state.started.gain_per == "second",
        )
        self._numbers: dict[str, int] = {}
        """Trial → its number for the model, in the order in which they were opened."""
        self._mine: Record | None = None

    def _ending(self, trial_id: str) -> tuple[float, float, float] | None:
        return self._curves.prediction(self._numbers[trial_id])

    def _begin(self) -> TrialStarted | None:
        return None

    def _going_on(self) -> TrialGoesOn | TrialStarted | None:
        """Return what the model says is to be trained next, a new trial among it."""
        if self._closed:
            return None
        step = self._curves.best_in_full() if self._no_gain_left() else self._curves.next()
        if step is None:
            return None
        name = f"t{step.trial:04d}"
        reason = step.why.removeprefix(f"{name} ")
        if step.start > 0 or name in self._numbers:
            reason = reason.partition(": ")[2]
            self._mine = TrialGoesOn(time=time.time(), trial_id=name, until=step.until, reason=reason)
            return self._mine
        reference = step.trial < self._references
        self._numbers[name] = step.trial
        tried = [trial.started.params for trial in self._state.drawn()]
        self._mine = TrialStarted(
            time=time.time(),
            trial_id=name,
            number=self._stored.add(frozen_trial({} if reference else step.params, self._space)),
            params=step.params,
            seed=self._seed + (0 if reference else tried[self._references :].count(step.params)),
            fold=next_fold(step.params, self._preset.folds, self._state),
            until=step.until,
            reason=reason,
            figures=self._limits.figures(step.params) if self._limits else {},
        )
        return self._mine

    def _no_gain_left(self) -> bool:
        """Return whether the search is over before its epochs are spent, and record it when it becomes so."""
        state = self._state
        if state.started is None or not state.started.options.get("until_no_gain"):
            return False
        if state.no_gain is None and (left := self._curves.gain_left()) is not None:
            metric, mode = self._search.metric, self._search.mode
            best = state.ranked(metric, mode)[0]
            gain, noise = left[0], (best.best(metric, mode) or {}).get(f"{metric}_error", left[1])
            if gain < noise or gain == 0:
                self._note(NoGainLeft(time=time.time(), gain=gain, noise=noise, trial_id=best.trial_id))
        return state.no_gain is not None

    def _tell_scheduler(self, record: Record) -> None:
        if record is self._mine or isinstance(record, NoGainLeft):
            return
        name = getattr(record, "trial_id", "")
        if name in self._state.trials and self._state.trials[name].started.repeat_of:
            trial, epochs = self._state.trials[name], self._preset.epochs
            if isinstance(record, TrialStarted):
                self._curves.grant(-epochs)
            elif isinstance(record, TrialFinished):
                self._curves.grant(epochs - len(trial.history))
            return
        if isinstance(record, TrialStarted | TrialGoesOn):
            number = self._numbers.setdefault(name, len(self._numbers))
            trial = self._state.trials[name]
            until = record.until or self._preset.epochs
            self._curves.took(Step(number, dict(trial.started.params), len(trial.history), until))
        elif isinstance(record, EpochFinished):
            if not self._broken(name):
                value, seconds = record.metrics[self._search.metric], record.metrics.get("epoch_seconds")
                self._curves.report(self._numbers[name], record.epoch, value, seconds)
        elif isinstance(record, TrialFinished):
            broken = self._broken(name)
            wasted = len(self._state.trials[name].history) if broken else 0
            reference = self._numbers[name] < self._references  # says nothing of what may be drawn
            failed = record.failure in OF_PARAMETERS or (broken and not reference)
            self._curves.ended(self._numbers[name], failed=failed, wasted=wasted)

    def _broken(self, name: str) -> bool:
        """Return whether a trial breaks a limit, a reference or one that was fitted: its values are none to reach."""
        return self._limits is not None and self._state.trials[name].breaks(self._limits.limits)


def searcher_of(search: Search, preset: Preset) -> type[OptunaSearcher]:
    """Return the class that hands out the trials of a preset."""
    return CurveTrials if preset.resolved(search).sampler == "curves" else OptunaSearcher
