"""Choose the configurations of a search that are worth confirming, and the one that they are to beat."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hep_ray.confirm.confirmation import params_hash
from hep_ray.errors import CannotConfirm, HepRayError
from hep_ray.metrics import nominal_key
from hep_ray.search.constraints import words_of
from hep_ray.search.state import CROSS_ENTROPY, SearchState, TrialState, has_parameters
from hep_ray.tracking.records import SearchStarted
from hep_ray.training.config import REGISTRIES, TrialConfig, keys_read

ENSEMBLE = "ensemble"
"""Name of the contender that is the mean of all finalists."""
FEWEST_MEMBERS = 2
LOSSES_OF_TRAINING = ("loss", "decorrelated_loss")
"""Metrics of a model's own loss, without the split."""


@dataclass(frozen=True)
class Configuration:
    """Trials of a search that differ in their seed only.

    Attributes:
        trials: at least one, by number.
        value: mean over the trials of the search's metric, each at its best epoch; of folds see `SearchState.offset`.
            Where a search trains again what would lead, those that completed are in it alone, as in its ranking.
        breaks: whether the model of one of them breaks a constraint of the search.
    """

    trials: tuple[TrialState, ...]
    value: float
    breaks: bool = False

    @property
    def name(self) -> str:
        """Id of its first trial."""
        return self.trials[0].trial_id

    @property
    def params(self) -> dict[str, Any]:
        """Without the seed."""
        return self.trials[0].started.params


@dataclass(frozen=True)
class Baseline:
    """Configuration that the finalists are to beat.

    Attributes:
        params: without the seed.
        origin: in words, where they come from.
        drawn: the configuration of the search that it is; None for one that the search did not draw.
    """

    params: dict[str, Any]
    origin: str
    drawn: Configuration | None


def configurations(state: SearchState) -> list[Configuration]:
    """Return the distinct configurations, best first by mean validation metric; failed and running trials apart.

    Those whose model breaks a constraint of the search come last: they are there to be compared with, as a baseline.
    Where a search trains again what would lead, a standard error is taken off the mean, as in its ranking, and those
    of which a seed failed, or that were not trained on all folds, are behind the others.
    """
    started = state.started
    assert started is not None
    groups: dict[str, list[TrialState]] = {}
    for trial in sorted(state.trials.values(), key=lambda one: one.started.number):
        if trial.status in {"completed", "stopped"} and trial.history:
            groups.setdefault(params_hash(trial.started.params), []).append(trial)
    sign = -1 if started.mode == "max" else 1
    made = []
    for trials in groups.values():
        scored = (state.seeds_of(trials[0]) if state.repeats > 1 else []) or trials
        best = [trial.best(started.metric, started.mode) for trial in scored]
        value = statistics.fmean(metrics[started.metric] for metrics in best if metrics is not None)
        value -= state.offset(scored)
        made.append(Configuration(tuple(trials), value, any(map(state.breaks, trials))))

    def place(one: Configuration) -> tuple[bool, bool, bool, float, int]:
        first = one.trials[0]
        score = sign * one.value + state.penalty(first)
        return one.breaks, state.fell(first), state.partial(first), score, first.started.number

    return sorted(made, key=place)


def finalists_of(
    ranked: Sequence[Configuration], baseline: Baseline, limits: Mapping[str, float], most: int
) -> tuple[Configuration, ...]:
    """Return the best configurations beside the baseline; none that breaks a constraint of the search.

    Args:
        ranked: `configurations`, at least one.
        baseline: which may break one, since it is there to be beaten.
        limits: figure → largest value, of the search.
        most: finalists.

    Raises:
        CannotConfirm: there is none.
    """
    others = [one for one in ranked if one is not baseline.drawn]
    finalists = tuple(one for one in others if not one.breaks)[:most]
    if finalists:
        return finalists
    if others:
        raise CannotConfirm(
            f"a finalist keeps the constraints of the search, {words_of(limits)}, and all configurations beside the "
            f"baseline break one ({others[0].name} is the best of them): draw more of those that keep them"
        )
    raise CannotConfirm(
        f"a finalist is another configuration than the baseline; there is only {ranked[0].name}, {baseline.origin}"
    )


def check_ensemble(finalists: Sequence[Configuration], started: SearchStarted) -> None:
    """Check that the mean of finalists can be judged as one more contender.

    Args:
        finalists: of a confirmation.
        started: first record of the search.

    Raises:
        CannotConfirm: there is one finalist only, the search's metric is a loss, or together they break a constraint.
    """
    if len(finalists) < FEWEST_MEMBERS:
        raise CannotConfirm(
            f"an ensemble is the mean of {FEWEST_MEMBERS} finalists or more; there is one, {finalists[0].name}: leave "
            "out --ensemble"
        )
    if nominal_key(started.metric).partition("_")[2] in LOSSES_OF_TRAINING:
        raise CannotConfirm(
            f"the mean of models has no loss of its own, by which {started.search} is judged ({started.metric}): leave "
            "out --ensemble, or search by a metric of the probabilities, such as val_auc or val_accuracy"
        )
    several = summed([one.trials[0].figures for one in finalists])
    beyond = {name: limit for name, limit in started.constraints.items() if several.get(name, 0.0) > limit}
    if beyond:
        told = ", ".join(f"{name} {several[name]:g} of at most {limit:g}" for name, limit in beyond.items())
        raise CannotConfirm(
            f"an ensemble keeps the constraints of the search, and {len(finalists)} finalists together have {told}: "
            "take fewer with --top, or leave out --ensemble"
        )


def summed(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of models that are all evaluated: the sum of each figure that all of them have."""
    common = [name for name in several[0] if all(name in one for one in several)]
    return {name: math.fsum(one[name] for one in several) for name in common}


def parse_baseline(expression: str) -> dict[str, Any]:
    """Parse `loss=root_softmax,root_index=1` to a dict of typed values.

    Raises:
        CannotConfirm: a part is not KEY=VALUE.
    """
    wanted = {}
    for part in expression.split(","):
        key, sign, value = part.strip().partition("=")
        if not (key and sign and value):
            raise CannotConfirm(
                f"a baseline is KEY=VALUE,… or trial=ID, such as loss=cross_entropy; got '{expression}'"
            )
        wanted[key.strip()] = _typed(value.strip())
    return wanted


def choose_baseline(ranked: Sequence[Configuration], wanted: Mapping[str, Any]) -> Baseline:
    """Choose the best configuration of the search that has these parameters, else its best one with them put in.

    Args:
        ranked: `configurations`, at least one.
        wanted: parameters and values, or `trial` and its id; empty is cross-entropy.

    Raises:
        CannotConfirm: no such trial, or no configuration with these parameters that the trainer takes.
    """
    if "trial" in wanted:
        return _named_trial(ranked, wanted)
    wanted = wanted or CROSS_ENTROPY
    text = ", ".join(f"{key}={value}" for key, value in wanted.items())
    for one in ranked:
        if has_parameters(one.params, wanted):
            return Baseline(one.params, f"{one.name}, the best by validation with {text}", one)
    best = ranked[0]
    merged = {**best.params, **wanted}
    try:
        readers = keys_read(_components(merged))
        params = {key: value for key, value in merged.items() if key in readers or key in wanted}
        TrialConfig.from_params(params)
    except HepRayError as exc:
        raise CannotConfirm(
            f"a baseline is a configuration that the search drew or the trainer takes; none drawn has {text}, and "
            f"{best.name} with it is refused: {exc}"
        ) from exc
    return Baseline(
        params, f"{best.name}, the best by validation, with {text} put in: none drawn has it", None
    )


def _named_trial(ranked: Sequence[Configuration], wanted: Mapping[str, Any]) -> Baseline:
    for one in ranked:
        if wanted["trial"] in {trial.trial_id for trial in one.trials} and len(wanted) == 1:
            return Baseline(one.params, f"{wanted['trial']}, as asked", one)
    known = ", ".join(one.name for one in ranked)
    given = ",".join(f"{key}={value}" for key, value in wanted.items())
    raise CannotConfirm(f"trial=ID names a trial that ended without failure; got '{given}', known: {known}")


def _components(params: Mapping[str, Any]) -> dict[str, str]:
    """Kind → name; of a fitted model, which reads no loss, the model alone."""
    alone = {"model": str(params["model"])}
    if "loss" not in keys_read(alone):
        return alone
    return {kind: str(params[kind]) for kind in REGISTRIES if kind in params}


def _typed(text: str) -> str | int | float | bool:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
