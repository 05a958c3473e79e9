"""The two Optuna studies of a search: one in its folder, for the dashboard; one from its journal, for pictures."""

from __future__ import annotations

import datetime as dt
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from hep_ray.search.definition import Search
from hep_ray.search.draws import TOLD_AS, directions, frozen_trial, objectives, tell
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.client import sqlite_uri


class StoredStudy:
    """The study in a search's folder, with every trial, for Optuna's dashboard; nothing is drawn from it.

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
        # Points that were enqueued but not asked for would be handed out in place of others.
        while self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            self._study.tell(self._study.ask(), state=OptunaState.FAIL)
        known = {trial.started.number for trial in state.trials.values()}
        self._rebuild(state, len(self._study.get_trials(deepcopy=False)))
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.number not in known and not frozen.state.is_finished():
                self._study.tell(frozen.number, state=OptunaState.FAIL)
        for trial in state.trials.values():
            if trial.finished is not None:
                self.tell(trial)

    def _rebuild(self, state: SearchState, held: int) -> None:
        """Enter the trials of the journal that the study does not hold.

        The first trials are the references, whatever their parameters: one that was drawn may have the same.
        """
        references = list(state.trials)[: self._references]
        for name, trial in state.trials.items():
            if trial.started.number < held:
                continue
            while len(self._study.get_trials(deepcopy=False)) < trial.started.number:
                self._study.tell(self._study.ask(), state=OptunaState.FAIL)
            reference = (trial.started.repeat_of or name) in references
            self._study.add_trial(frozen_trial({} if reference else trial.started.params, self._space))


def study_of(state: SearchState) -> optuna.Study:
    """Return a study in memory, for `optuna.visualization`, with the trials of a search in the order of their drawing.

    A trial trained in full is complete, with its best value (and its cost), one stopped early is pruned, one that
    failed has failed. The values of all epochs are the intermediate ones. The parameters are those that were drawn;
    what else a trial has, constants and seed, is in its user attributes.

    Args:
        state: the search, with its first record.
    """
    started = state.started
    assert started is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=started.search, directions=directions(started))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([name for name in (started.metric, started.second_objective) if name])
    space = {
        name: json_to_distribution(json.dumps(parameter.distribution))
        for name, parameter in started.space.items()
        if parameter.distribution is not None
    }
    drawn = {name: one for name, one in space.items() if not one.single()}
    for number, trial in enumerate(state.drawn()):
        study.add_trial(_frozen(number, trial, state, drawn))
    return study


def _frozen(
    number: int, trial: TrialState, state: SearchState, space: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    started, params = state.started, trial.started.params
    assert started is not None
    own = {name: space[name] for name in params if name in space and _takes(space[name], params[name])}
    told = OptunaState.RUNNING if trial.finished is None else TOLD_AS[trial.finished.status]
    values = objectives(trial, started) if trial.history and told == OptunaState.COMPLETE else None
    beside = {name: value for name, value in params.items() if name not in own}
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=told,
        value=None,
        values=values,
        datetime_start=_time(trial.started.time),
        datetime_complete=None if trial.finished is None else _time(trial.finished.time),
        params={name: params[name] for name in own},
        distributions=own,
        user_attrs={"trial_id": trial.trial_id, **beside, "seed": trial.started.seed},
        system_attrs={},
        intermediate_values={
            int(metrics["epoch"]): metrics[started.metric]
            for metrics in trial.history
            if math.isfinite(metrics[started.metric])
        },
    )


def _takes(distribution: BaseDistribution, value: object) -> bool:
    """Return whether a parameter may have been drawn: that of a reference may be none of the space's."""
    try:
        create_trial(value=0.0, params={"x": value}, distributions={"x": distribution})
    except (TypeError, ValueError):
        return False
    return True


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds)  # noqa: DTZ006 - Optuna's own times have no zone
