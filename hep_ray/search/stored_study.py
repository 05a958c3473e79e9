"""The Optuna study in a search's folder, with every trial, for Optuna's dashboard; nothing is drawn from it."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hep_ray.search.definition import Search
from hep_ray.search.draws import directions, frozen_trial, tell
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.client import sqlite_uri


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
