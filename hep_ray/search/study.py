"""The Optuna study of a search, made from its journal: with every epoch, for `optuna.visualization`."""

from __future__ import annotations

import datetime as dt
import json
import math
import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from hep_ray.search.draws import TOLD_AS, directions, objectives
from hep_ray.search.state import SearchState, TrialState


def study_of(state: SearchState) -> optuna.Study:
    """Return a study in memory with the trials of a search, in the order in which they were drawn.

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
