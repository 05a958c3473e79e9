"""Optuna as Tune's searcher, with a study in a database and draws that a restart does not change.

Ray Tune's own OptunaSearch keeps its state in pickles that lag behind the trials, and tells a
trial that ASHA stopped as if it had been trained in full. Here the journal is the state: the
k-th draw depends on the seed, on k and on the trials told so far, and on nothing else, so a
search killed at any moment goes on as it would have. Stopped trials are told as pruned.

A copy of the study in memory draws: a database commits once for every parameter, and is read
anew for every draw. What it drew is put into the database at once.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState

from hep_ray.search.definition import Preset, Search
from hep_ray.search.searcher import JournalSearcher
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.client import sqlite_uri
from hep_ray.tracking.records import Record, TrialFinished, TrialStarted

TOLD_AS = {"completed": OptunaState.COMPLETE, "stopped": OptunaState.PRUNED, "failed": OptunaState.FAIL}
REDRAWS = 20
"""Times that a configuration which was tried before is drawn anew."""
INSISTING = 4
"""Of them, before it is drawn at random."""


class OptunaSearcher(JournalSearcher):
    """Hands trials that an earlier attempt left unfinished to Tune first, then draws new ones.

    Args:
        search: what is optimised.
        preset: sampler, seeds and number of trials.
        space: what may vary.
        seed: of the draws, and of the first training of each configuration.
        database: SQLite file of the Optuna study.
        state: the search so far.
        write: records a new trial before it runs.
    """

    def __init__(
        self,
        search: Search,
        preset: Preset,
        space: Space,
        seed: int,
        database: Path,
        state: SearchState,
        write: Callable[[Record], None],
    ) -> None:
        super().__init__(metric=search.metric, mode=search.mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._preset, self._space, self._seed, self._cost = preset, space, seed, search.cost
        self._state, self._write = state, write
        self._points = space.grid() if preset.sampler == "grid" else []
        self._references = search.references
        self.total = total_trials(search, preset, space)
        self._pending = state.unfinished()
        self._study = optuna.create_study(
            storage=sqlite_uri(database),
            study_name=search.name,
            directions=[
                StudyDirection.MAXIMIZE if search.mode == "max" else StudyDirection.MINIMIZE,
                *([StudyDirection.MINIMIZE] if search.cost else []),
            ],
            sampler=RandomSampler(seed=seed),
            load_if_exists=True,
        )
        self._settle()
        held = self._study.get_trials(deepcopy=False)
        self._drawing = optuna.create_study(directions=self._study.directions)
        self._drawing.add_trials(held)
        self._drawn_as = {trial.number: trial.number for trial in held}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # noqa: ARG002 - Tune names it
        """The next trial's id, parameters and seed, or that there is none."""
        if self._pending:
            trial = self._pending.pop(0).started
        elif len(self._state.trials) < self.total:
            trial = self._draw(len(self._state.trials))
        else:
            finished: str = self.FINISHED
            return finished
        return {"trial_id": trial.trial_id, "params": trial.params, "seed": trial.seed}

    def record(self, record: Record) -> None:
        """Listen to the recorder: tell the study each trial's end."""
        if isinstance(record, TrialFinished):
            self.tell(self._state.trials[record.trial_id])

    def tell(self, trial: TrialState) -> None:
        """Tell the study how a trial ended; a trial it knows the end of is left as it is."""
        self._tell(self._study, trial.started.number, trial)
        self._tell(self._drawing, self._drawn_as[trial.started.number], trial)

    def _tell(self, study: optuna.Study, number: int, trial: TrialState) -> None:
        assert trial.finished is not None
        frozen = study.get_trials(deepcopy=False)[number]
        if frozen.state.is_finished():
            return
        told = TOLD_AS[trial.finished.status]
        if told == OptunaState.PRUNED:
            handle = optuna.trial.Trial(study, frozen._trial_id)  # noqa: SLF001 - no public way to reopen one
            for metrics in trial.history:
                handle.report(metrics[self.metric], int(metrics["epoch"]))
        best = trial.best(self.metric, self.mode)
        values = None
        if best and told == OptunaState.COMPLETE:
            values = [best[self.metric], *([trial.total(self._cost)] if self._cost else [])]
        study.tell(number, values, state=told)

    def _draw(self, count: int) -> TrialStarted:
        self._drawing.sampler = self._sampler(count)
        repeat = 0
        if count < len(self._references):
            drawn, params = self._drawing.ask(), dict(self._references[count])
        elif self._points:
            repeat, index = divmod(count - len(self._references), len(self._points))
            self._drawing.enqueue_trial(self._points[index])
            drawn = self._drawing.ask()
            params = self._space.suggest(drawn)
        else:
            drawn, params, repeat = self._draw_anew(count)
        number = len(self._drawn_as)
        self._study.add_trial(self._drawing.get_trials(deepcopy=False)[drawn.number])
        self._drawn_as[number] = drawn.number
        record = TrialStarted(
            time=time.time(),
            trial_id=f"t{count:04d}",
            number=number,
            params=params,
            seed=self._seed + repeat,
        )
        self._write(record)
        return record

    def _draw_anew(self, count: int) -> tuple[optuna.Trial, dict[str, Any], int]:
        """A configuration that no trial has had: with the same seed it would only give the same numbers again.

        What was drawn again stays open meanwhile, for TPE keeps away from what still runs, and is then given up. Where
        TPE insists, chance decides; where that does not help (all has been tried, say) the configuration is trained
        from another seed.

        Returns:
            What the sampler drew, its parameters, and how many trials have had them.
        """
        tried = [trial.started.params for trial in self._state.trials.values()]
        again: list[optuna.Trial] = []
        drawn = self._drawing.ask()
        params = self._space.suggest(drawn)
        while params in tried and len(again) < REDRAWS:
            again.append(drawn)
            if len(again) == INSISTING:
                self._drawing.sampler = RandomSampler(seed=self._seed_of(count))
            drawn = self._drawing.ask()
            params = self._space.suggest(drawn)
        for one in again:
            self._drawing.tell(one, state=OptunaState.FAIL)
        return drawn, params, tried.count(params)

    def _seed_of(self, count: int) -> int:
        return (self._seed * 1_000_003 + count) % 2**32

    def _sampler(self, count: int) -> BaseSampler:
        seed = self._seed_of(count)
        if self._preset.sampler != "tpe":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, constant_liar=True)

    def _settle(self) -> None:
        """Bring the study in line with the journal after a crash between the two, or the loss of the study."""
        self._drop_enqueued()
        known = {trial.started.number for trial in self._state.trials.values()}
        self._rebuild(len(self._study.get_trials(deepcopy=False)))
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.number not in known and not frozen.state.is_finished():
                self._study.tell(frozen.number, state=OptunaState.FAIL)
        for trial in self._state.trials.values():
            if trial.finished is not None:
                self._tell(self._study, trial.started.number, trial)

    def _drop_enqueued(self) -> None:
        """Fail points that were enqueued but not asked for: they would be handed out in place of others."""
        while self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            self._study.tell(self._study.ask(), state=OptunaState.FAIL)

    def _rebuild(self, held: int) -> None:
        """Give the study the trials of the journal that it does not hold: its database was lost."""
        for trial in sorted(self._state.trials.values(), key=lambda trial: trial.started.number):
            if trial.started.number < held:
                continue
            while len(self._study.get_trials(deepcopy=False)) < trial.started.number:
                self._study.tell(self._study.ask(), state=OptunaState.FAIL)
            if trial.started.params in self._references:
                self._study.ask()
                continue
            self._study.enqueue_trial(trial.started.params)
            self._space.suggest(self._study.ask())


def total_trials(search: Search, preset: Preset, space: Space) -> int:
    """Trials that a preset runs: the search's references, and those that are drawn.

    Raises:
        InvalidSpace: a grid over a range.
    """
    if preset.sampler != "grid":
        assert preset.trials is not None
        return len(search.references) + preset.trials
    whole = len(space.grid()) * preset.seeds
    return len(search.references) + (whole if preset.trials is None else min(preset.trials, whole))
