"""Optuna as Tune's search algorithm, with a study in a database and draws that a restart does not change.

Ray Tune's own OptunaSearch keeps its state in pickles that lag behind the trials, and tells a
trial that ASHA stopped as if it had been trained in full. Here the journal is the state: the
k-th draw depends on the seed, on k and on the trials told so far, and on nothing else, so a
search killed at any moment goes on as it would have.

Two studies. The one in the database has every trial, as Optuna's dashboard shows them. The one in
memory draws, since a database commits once for every parameter and is read anew for every draw; it
holds what a sampler can learn from and nothing else:

- no reference, which has no parameter of the space: TPE draws jointly over what all its trials have;
- a trial that was trained in full as its best value, a trial that was stopped as pruned, below those;
- a trial that failed of its parameters (`OF_PARAMETERS`) as one that breaks a constraint, below all:
  so it needs no value, which the first trial to fail would have none to be made from, and which with
  a second objective would have to be bad in both;
- a trial that was lost as failed, which says nothing of its parameters.
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
from optuna.trial import FixedTrial, FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from hep_ray.search.definition import Preset, Search
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.client import sqlite_uri
from hep_ray.tracking.records import OF_PARAMETERS, Record, TrialFinished, TrialStarted

TOLD_AS = {"completed": OptunaState.COMPLETE, "stopped": OptunaState.PRUNED, "failed": OptunaState.FAIL}
"""How a trial ended, in Optuna's words."""
REDRAWS = 20
"""Times that a configuration which was tried before is drawn anew."""
INSISTING = 4
"""Of them, before it is drawn at random."""
MOST_STARTUP_TRIALS = 10
"""Trials that TPE waits for at most, in however many dimensions."""
LEAST_TRAINED = 3
"""Of those it waits for, that must not have failed: of failures alone nothing good can be learnt."""

MIXED = 3
"""Where trials are stopped, one draw in so many is random, as in BOHB: a rung needs the poor to compare with, they cost
few epochs, and what TPE learns from stopped trials may mislead it."""


class JournalSearcher(Searcher):
    """Hands out trials; whoever derives from it writes `suggest`, and learns from records, not from Tune."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher to restore it, and here the journal restores."""
        return {}

    def record(self, record: Record) -> None:
        """Listen to the recorder: nothing to learn, unless whoever derives from it does."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to do: what a trial reports is recorded first."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: how a trial ends is recorded first."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal holds everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class OptunaSearcher(JournalSearcher):
    """Hands trials that an earlier attempt left unfinished to Tune first, then draws new ones.

    Args:
        search: what is optimised.
        preset: sampler, seeds and number of trials.
        space: what may vary.
        seed: of the draws, and of the first training of each configuration.
        database: SQLite file of the Optuna study; None keeps it in memory, for simulations.
        state: the search so far.
        write: records a new trial before it runs.
    """

    def __init__(
        self,
        search: Search,
        preset: Preset,
        space: Space,
        seed: int,
        database: Path | None,
        state: SearchState,
        write: Callable[[Record], None],
    ) -> None:
        super().__init__(metric=search.metric, mode=search.mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._preset, self._space, self._seed = search, preset, space, seed
        self._state, self._write = state, write
        self._points = space.grid() if preset.sampler == "grid" else []
        self._references = search.points_to_evaluate
        self.total = total_trials(search, preset, space)
        self._n_startup_trials = n_startup_trials(preset, space)
        self._pending = state.unfinished()
        self._stored = StoredStudy(search, space, database, state)
        self._drawing = optuna.create_study(directions=directions(search))
        self._drawn_as: dict[str, int] = {}
        """Trial → its number in the study that draws; references have none."""
        for trial in list(state.trials.values())[len(self._references) :]:
            self._drawing.add_trial(frozen_trial(trial.started.params, space))
            self._drawn_as[trial.trial_id] = len(self._drawn_as)
            if trial.finished is not None:
                self._tell(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # noqa: ARG002 - Tune names it
        """Return the next trial's id, parameters and seed, or that there is none."""
        if self._pending:
            trial = self._pending.pop(0).started
        elif len(self._state.trials) < self.total:
            trial = self._ask(len(self._state.trials))
        else:
            finished: str = self.FINISHED
            return finished
        return {"trial_id": trial.trial_id, "params": trial.params, "seed": trial.seed}

    def record(self, record: Record) -> None:
        """Listen to the recorder: tell the study each trial's end."""
        if isinstance(record, TrialFinished):
            self.tell(self._state.trials[record.trial_id])

    def tell(self, trial: TrialState) -> None:
        """Tell how a trial ended; a trial whose end is known is left as it is."""
        self._stored.tell(trial)
        self._tell(trial)

    def _tell(self, trial: TrialState) -> None:
        """Tell the study that draws, if it has the trial; a failure of the parameters is worse than any value."""
        assert trial.finished is not None
        number = self._drawn_as.get(trial.trial_id)
        if number is None:
            return
        if trial.finished.failure not in OF_PARAMETERS:
            tell(self._drawing, number, trial, self._search)
        elif not self._drawing.get_trials(deepcopy=False)[number].state.is_finished():
            running_trial(self._drawing, number).set_constraint("fails", 1.0)
            self._drawing.tell(number, state=OptunaState.PRUNED)

    def _ask(self, count: int) -> TrialStarted:
        repeat, name = 0, f"t{count:04d}"
        if count < len(self._references):
            params = dict(self._references[count])
            number = self._stored.add(frozen_trial({}, self._space))
        else:
            if self._points:
                repeat, index = divmod(count - len(self._references), len(self._points))
                params = self._points[index]
                self._drawing.add_trial(frozen_trial(params, self._space))
            else:
                params, repeat = self._ask_anew(count)
            drawn = self._drawing.get_trials(deepcopy=False)[-1]
            self._drawn_as[name] = drawn.number
            number = self._stored.add(drawn)
        record = TrialStarted(
            time=time.time(), trial_id=name, number=number, params=params, seed=self._seed + repeat
        )
        self._write(record)
        return record

    def _ask_anew(self, count: int) -> tuple[dict[str, Any], int]:
        """Draw a configuration that no trial has had: with the same seed it would only give the same numbers again.

        What was drawn again stays open meanwhile, for TPE keeps away from what still runs, and is then given up. Where
        TPE insists, chance decides; where that does not help (all has been tried, say) the configuration is trained
        from another seed.

        Returns:
            The parameters, which the last trial of the study has, and how many trials have had them.
        """
        self._drawing.sampler = self._sampler(count)
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
        return params, tried.count(params)

    def _seed_of(self, count: int) -> int:
        """Return the seed of the k-th draw; references are no draws: a search with them draws as one without."""
        return (self._seed * 1_000_003 + count - len(self._references)) % 2**32

    def _sampler(self, count: int) -> BaseSampler:
        """Return the sampler of the k-th draw: random until TPE knows enough, and in every third draw of ASHA."""
        seed = self._seed_of(count)
        mixed = stops(self._preset) and (count - len(self._references)) % MIXED == MIXED - 1
        if self._preset.sampler != "tpe" or mixed or not self._knows_enough():
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                seed=seed, n_startup_trials=0, multivariate=True, group=True, constant_liar=True
            )

    def _knows_enough(self) -> bool:
        ends = [trial.finished for name, trial in self._state.trials.items() if name in self._drawn_as]
        trained = sum(end is not None and end.status != "failed" for end in ends)
        failed = sum(end is not None and end.failure in OF_PARAMETERS for end in ends)
        return trained + failed >= self._n_startup_trials and trained >= min(
            LEAST_TRAINED, self._n_startup_trials
        )


class StoredStudy:
    """Follows a search; nothing is drawn from it.

    Args:
        search: what is optimised.
        space: what may vary.
        database: SQLite file; None keeps the study in memory, for simulations.
        state: the search so far, with which the study is brought in line: they part in a crash between the two, and
            the file may be lost.
    """

    def __init__(self, search: Search, space: Space, database: Path | None, state: SearchState) -> None:
        self._search, self._space = search, space
        self._references = len(search.points_to_evaluate)
        self._study = optuna.create_study(
            storage=sqlite_uri(database) if database else None,
            study_name=search.name,
            directions=directions(search),
            sampler=RandomSampler(seed=0),
            load_if_exists=True,
        )
        self._settle(state)
        self._held = len(self._study.get_trials(deepcopy=False))

    def add(self, trial: FrozenTrial) -> int:
        """Enter a trial that starts; return its number."""
        self._study.add_trial(trial)
        self._held += 1
        return self._held - 1

    def tell(self, trial: TrialState) -> None:
        """Tell how a trial ended; a trial whose end is known is left as it is."""
        tell(self._study, trial.started.number, trial, self._search)

    def _settle(self, state: SearchState) -> None:
        self._drop_enqueued()
        known = {trial.started.number for trial in state.trials.values()}
        self._rebuild(state, len(self._study.get_trials(deepcopy=False)))
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.number not in known and not frozen.state.is_finished():
                self._study.tell(frozen.number, state=OptunaState.FAIL)
        for trial in state.trials.values():
            if trial.finished is not None:
                self.tell(trial)

    def _drop_enqueued(self) -> None:
        """Fail points that were enqueued but not asked for: they would be handed out in place of others."""
        while self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            self._study.tell(self._study.ask(), state=OptunaState.FAIL)

    def _rebuild(self, state: SearchState, held: int) -> None:
        """Enter the trials of the journal that the study does not hold.

        The first trials are the references, whatever their parameters: one that was drawn may have the same.
        """
        for place, trial in enumerate(state.trials.values()):
            if trial.started.number < held:
                continue
            while len(self._study.get_trials(deepcopy=False)) < trial.started.number:
                self._study.tell(self._study.ask(), state=OptunaState.FAIL)
            reference = place < self._references
            self._study.add_trial(frozen_trial({} if reference else trial.started.params, self._space))


def stops(preset: Preset) -> bool:
    """Return whether any trial may be stopped."""
    return preset.grace < preset.epochs


def n_startup_trials(preset: Preset, space: Space) -> int:
    """Return how many trials have to end before TPE draws: one more than there are parameters to draw.

    At least three and at most ten, but no more than half of what is drawn: eight trials leave four to TPE. It is d + 1
    in BOHB too (Falkner et al., arXiv:1807.01774), the least for a density in d dimensions.
    """
    assert preset.trials is not None or preset.sampler == "grid"
    most = min(MOST_STARTUP_TRIALS, max(1, (preset.trials or 0) // 2))
    return min(most, max(LEAST_TRAINED, len(space.drawn()) + 1))


def total_trials(search: Search, preset: Preset, space: Space) -> int:
    """Return how many trials a preset runs: the search's references, and those that are drawn.

    Raises:
        InvalidSpace: a grid over a range.
    """
    if preset.sampler != "grid":
        assert preset.trials is not None
        return len(search.points_to_evaluate) + preset.trials
    whole = len(space.grid()) * preset.seeds
    return len(search.points_to_evaluate) + (whole if preset.trials is None else min(preset.trials, whole))


def directions(search: Search) -> list[StudyDirection]:
    """Return the directions of the metric, and of the second objective where there is one."""
    metric = StudyDirection.MAXIMIZE if search.mode == "max" else StudyDirection.MINIMIZE
    return [metric, *([StudyDirection.MINIMIZE] if search.second_objective else [])]


def frozen_trial(params: dict[str, Any], space: Space) -> FrozenTrial:
    """Return a trial that starts with these parameters, as if they had been drawn; a reference has none."""
    drawn: Any = FixedTrial(params)
    if params:
        space.suggest(drawn)
    return create_trial(state=OptunaState.RUNNING, params=drawn.params, distributions=drawn.distributions)


def tell(study: optuna.Study, number: int, trial: TrialState, search: Search) -> None:
    """Tell a study how a trial ended, if it does not know: in full with its best value, stopped with all its values."""
    assert trial.finished is not None
    known = study.get_trials(deepcopy=False)[number]
    if known.state.is_finished():
        return
    told = TOLD_AS[trial.finished.status]
    if told == OptunaState.PRUNED:
        for metrics in trial.history:
            running_trial(study, number).report(metrics[search.metric], int(metrics["epoch"]))
    best = trial.best(search.metric, search.mode)
    values = None
    if best and told == OptunaState.COMPLETE:
        values = [
            best[search.metric],
            *([trial.total(search.second_objective)] if search.second_objective else []),
        ]
    study.tell(number, values, state=told)


def running_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a trial that runs, to report to."""
    known = study.get_trials(deepcopy=False)[number]
    return optuna.Trial(study, known._trial_id)  # noqa: SLF001 - there is no public way
