"""Compute what a confirmation says from its journal: estimates, paired differences, corrected p-values."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.confirm.confirmation import (
    Comparison,
    Confirmation,
    ConfirmedRun,
    Contender,
    Estimate,
    UnderVariation,
)
from hep_ray.confirm.ensemble import ensemble_runs
from hep_ray.confirm.finalists import ENSEMBLE
from hep_ray.confirm.plan import BASELINE, ConfirmPlan, trial_id
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import StorageError
from hep_ray.metrics import larger_is_better, nominal_key
from hep_ray.metrics.crossed import Crossed, Sampled, aligned, crossed
from hep_ray.metrics.event_values import event_values
from hep_ray.metrics.inference import Interval, Paired, holm, paired_t, t_interval
from hep_ray.search.state import SearchState, TrialState
from hep_ray.training.checkpoint import BEST
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import SCORES, KeptScores, read_scores, varied_scores

CORRECTION = "holm"


def failures(plan: ConfirmPlan, state: SearchState) -> dict[str, str]:
    """Contender → cause, for those of which a training failed; an ensemble fails with one of its members."""
    found: dict[str, str] = {}
    for name, _, _ in plan.contenders:
        for seed in plan.seeds:
            trial = state.trials.get(trial_id(name, seed))
            if trial is not None and trial.finished is not None and trial.finished.cause:
                found.setdefault(name, f"seed {seed}: {trial.finished.cause.strip()}")
    lost = next((name for name in plan.members if name in found), None)
    return found if lost is None else {**found, ENSEMBLE: f"it is not whole without {lost}, {found[lost]}"}


def summarise(plan: ConfirmPlan, state: SearchState, run_ids: Mapping[str, str]) -> Confirmation:
    """Summarise a confirmation whose trainings have all been tested.

    Args:
        plan: what was to be done.
        state: of the confirmation's journal.
        run_ids: trial id → MLflow run id.
    """
    assert state.started is not None
    dropped = failures(plan, state)
    contenders = [
        _contender(plan, state, run_ids, name, role, params)
        for name, role, params in plan.contenders
        if name not in dropped
    ]
    under = {
        trial.trial_id: trial.tested.variations for trial in state.trials.values() if trial.tested is not None
    }
    if plan.members and ENSEMBLE not in dropped:
        means = list(ensemble_runs(plan))
        under |= {run.trial_id: varied for run, varied in means}
        contenders.insert(-1, _ensemble(plan, [run for run, _ in means]))
    return Confirmation(
        search=plan.started.search,
        search_id=plan.started.search_id,
        task=plan.started.task,
        dataset_fingerprint=plan.dataset.fingerprint,
        metric=plan.test_metric,
        mode=plan.started.mode,
        level=plan.given.level,
        correction=CORRECTION,
        seeds=plan.seeds,
        epochs=plan.started.epochs,
        contenders=tuple(contenders),
        comparisons=_comparisons(plan, contenders),
        provenance=state.started.provenance,
        confirmation_id=state.started.search_id,
        baseline_origin=plan.baseline.origin,
        dropped=dropped,
        variations=tuple(_under(plan, under, one, name) for name in plan.variations for one in contenders),
        folds=plan.started.folds or 0,
    )


def _under(
    plan: ConfirmPlan,
    under: Mapping[str, Mapping[str, dict[str, float]]],
    contender: Contender,
    name: str,
) -> UnderVariation:
    """Compare the models of a contender on varied and on nominal test events.

    Args:
        plan: of the confirmation.
        under: trial → variation → metrics.
        contender: whose models they are.
        name: of the variation.
    """
    metric, level = nominal_key(plan.test_metric), plan.given.level
    found = [under[run.trial_id][name] for run in contender.runs]
    common = set.intersection(*map(set, found))
    nominal, varied = (
        values_of(plan.folder, plan.dataset.schema, contender, metric, variation)
        for variation in (None, name)
    )
    both, events, paired_events = None, None, None
    if plan.variations[name].data is not None:
        events, paired_events = plan.tested[name].rows("test"), 0
    if nominal is not None and varied is not None:
        # The models are given: one alone has the noise of the events, as a fitted one does.
        alone = len(contender.runs) == 1 or seedless(contender)
        both = crossed(*aligned(varied, nominal), paired=True, seedless=(alone, alone))
        if events is not None:
            paired_events = _paired(varied, nominal, events)
    if both is not None:
        difference = both.interval(level)
    else:
        values = [metrics[metric] for metrics in found]
        paired = paired_t(values, [run.metrics[metric] for run in contender.runs], level).difference
        difference = dataclasses.replace(paired, sd=paired.sd / len(values) ** 0.5)
    return UnderVariation(
        contender=contender.name,
        variation=name,
        changes=str(plan.variations[name]),
        metric=metric,
        estimates={
            key: _estimate(t_interval([metrics[key] for metrics in found], level))
            for key in found[0]
            if key in common
        },
        difference=_estimate(difference),
        sample_error=both.event_error if both else None,
        seed_error=both.seed_error if both and len(contender.runs) > 1 else None,
        events=events,
        paired_events=paired_events,
    )


def _paired(varied: Sampled, nominal: Sampled, events: int) -> int:
    """Return how many of the varied events the difference to nominal pairs; groups are paired as a whole or not."""
    assert varied.events is not None
    if varied.events.equals(nominal.events):
        return events
    return int(pc.sum(pc.is_in(varied.events, nominal.events)).as_py() or 0)


def confirmed_values(confirmation: Confirmation) -> dict[str, dict[str, tuple[float, float]]]:
    """Contender → metric without its `test_` → mean and s.d."""
    return {
        one.name: {
            key.removeprefix("test_"): (estimate.mean, estimate.sd)
            for key, estimate in one.estimates.items()
            if key.startswith("test_")
        }
        for one in confirmation.contenders
    }


def _metrics(plan: ConfirmPlan, trial: TrialState) -> dict[str, float]:
    """Return the metrics of the test split; anew from scores that were ranked by probabilities, which saturate."""
    assert trial.tested is not None
    path = plan.folder / "trials" / trial.trial_id / SCORES
    if path.is_file() and not (kept := read_scores(path, plan.dataset.schema)).exact:
        return {**trial.tested.metrics, **kept.metrics(plan.dataset.schema)}
    return trial.tested.metrics


def _contender(
    plan: ConfirmPlan,
    state: SearchState,
    run_ids: Mapping[str, str],
    name: str,
    role: Literal["finalist", "baseline"],
    params: dict[str, Any],
) -> Contender:
    trials = [state.trials[trial_id(name, seed)] for seed in plan.seeds]
    runs = tuple(_run(plan, trial, run_ids.get(trial.trial_id)) for trial in trials)
    return Contender(name=name, role=role, params=params, runs=runs, estimates=_estimates(plan, runs))


def _ensemble(plan: ConfirmPlan, runs: Sequence[ConfirmedRun]) -> Contender:
    members = {one.name: one.params for one in plan.finalists}
    return Contender(
        name=ENSEMBLE,
        role="finalist",
        params={},
        runs=tuple(runs),
        estimates=_estimates(plan, runs),
        members=members,
    )


def _estimates(plan: ConfirmPlan, runs: Sequence[ConfirmedRun]) -> dict[str, Estimate]:
    common = set.intersection(*(set(run.metrics) for run in runs))
    return {
        key: _estimate(t_interval([run.metrics[key] for run in runs], plan.given.level))
        for key in runs[0].metrics
        if key in common
    }


def _run(plan: ConfirmPlan, trial: TrialState, run_id: str | None) -> ConfirmedRun:
    assert trial.tested is not None
    kept = trial.history[trial.tested.epoch - 1]
    assert kept == trial.best(plan.started.metric, plan.started.mode)
    return ConfirmedRun(
        trial_id=trial.trial_id,
        seed=trial.started.seed,
        epoch=trial.tested.epoch,
        metrics={
            **_metrics(plan, trial),
            **{key: value for key, value in kept.items() if key.startswith("val_")},
        },
        checkpoint=f"trials/{trial.trial_id}/{BEST}",
        scores=f"trials/{trial.trial_id}/{SCORES}",
        mlflow_run_id=run_id,
    )


def _comparisons(plan: ConfirmPlan, contenders: Sequence[Contender]) -> tuple[Comparison, ...]:
    """Every finalist against the baseline; a finalist that failed counts in the correction all the same."""
    metric, level = plan.test_metric, plan.given.level
    values = {one.name: [run.metrics[metric] for run in one.runs] for one in contenders}
    finalists = [one for one in contenders if one.role == "finalist"]
    (baseline,) = (one for one in contenders if one.role == "baseline")
    against = (baseline, values_of(plan.folder, plan.dataset.schema, baseline, metric))
    crossed = [
        compared((one, values_of(plan.folder, plan.dataset.schema, one, metric)), against)
        for one in finalists
    ]
    paired = [
        paired_t(values[one.name], values[BASELINE], level)
        if both is None
        else Paired(both.interval(level), both.p_value)
        for one, both in zip(finalists, crossed, strict=True)
    ]
    p_values = [one.p_value for one in paired]
    asked = len(plan.finalists) + len(plan.ensemble)
    adjusted = holm([*p_values, *([None] * (asked - len(finalists)))])
    return tuple(
        Comparison(
            contender=finalist.name,
            metric=metric,
            difference=_estimate(one.difference),
            p_value=one.p_value,
            adjusted_p_value=corrected,
            sample_error=both.event_error if both else None,
            seed_error=both.seed_error if both else None,
            judged_by="crossed" if both else "seeds",
        )
        for finalist, one, both, corrected in zip(finalists, paired, crossed, adjusted, strict=False)
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(**dataclasses.asdict(interval))


def values_of(
    folder: Path, schema: EventSchema, contender: Contender, metric: str, variation: str | None = None
) -> Sampled | None:
    """Compute the values (seeds, events) of a metric, see `event_values`.

    Args:
        folder: of the confirmation.
        schema: of the dataset.
        contender: with its runs.
        metric: of the test split, such as `test_accuracy`; of a worst variation the values of each run are those under
            the one that it is worst under.
        variation: of the events; None for those as they are.

    Returns:
        None where no file of scores is there, a class has fewer than 20 events, or old files lack the loss.

    Raises:
        StorageError: scores cannot be read, or are of different events.
    """
    files = [(folder / run.scores, variation) for run in contender.runs]
    if metric != (ranked := nominal_key(metric)):
        files = [worst for path, _ in files if (worst := _worst_scores(path, schema, ranked)) is not None]
        metric = ranked
    paths = [path if name is None else varied_scores(path, name) for path, name in files]
    if len(paths) < len(contender.runs) or not all(path.is_file() for path in paths):
        return None
    of_others = {name for name, one in schema.variations.items() if one.data is not None}
    firsts: dict[str | None, KeptScores] = {}
    found, events = [], []
    for path, (_, name) in zip(paths, files, strict=True):
        kept = read_scores(path, schema)
        first = firsts.setdefault(name if name in of_others else None, kept)
        if not first.same_events(kept):
            raise StorageError(f"scores are of the same test events for every run; those of {path} are not")
        if of_others:
            kept, named = _in_order_of_names(kept)
        values = event_values(
            metric.removeprefix("test_"),
            kept.labels,
            kept.probabilities,
            kept.log_odds,
            schema.classes,
            schema.signal,
            kept.losses,
            kept.weights,
            protected=kept.protected,
            decorrelation=kept.decorrelation,
        )
        if values is None:
            return None
        found.append(values)
        if of_others:
            events.append(named if len(values) == len(named) else _names_of_groups(named, len(values)))
    return Sampled.of_runs(found, events if of_others else None)


def _in_order_of_names(kept: KeptScores) -> tuple[KeptScores, pa.Array]:
    """Return scores in the order of their events' names, class and id, and the names."""
    ids = pa.array(np.arange(len(kept.labels))) if kept.event_ids is None else kept.event_ids
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    names = pc.binary_join_element_wise(pa.array(kept.labels).cast(pa.string()), ids.cast(pa.string()), ":")
    order = pc.sort_indices(names)
    return kept.taken(order.to_numpy()), names.take(order)


def _names_of_groups(names: pa.Array, groups: int) -> pa.Array:
    """Return names of the groups of a jackknife, which are those of other scores only where all events are."""
    digest = hashlib.sha256("\n".join(names.to_pylist()).encode()).hexdigest()
    return pa.array([f"{digest}:{number}" for number in range(groups)])


def _worst_scores(path: Path, schema: EventSchema, metric: str) -> tuple[Path, str | None] | None:
    """Return a run's file of scores, and the variation that it is worst under by a metric; None where a file lacks."""
    names = [None, *schema.variations]
    paths = [path if name is None else varied_scores(path, name) for name in names]
    if not all(one.is_file() for one in paths):
        return None
    values = [read_scores(one, schema).metrics(schema)[metric] for one in paths]
    return path, names[int(np.argmax(values) if larger_is_better(metric) is False else np.argmin(values))]


def compared(
    left: tuple[Contender, Sampled | None], right: tuple[Contender, Sampled | None], *, paired: bool = True
) -> Crossed | None:
    """Compare left with right, both noises counted; None where values are missing or one seed tells nothing."""
    (one, values), (other, against) = left, right
    if values is None or against is None:
        return None
    return crossed(*aligned(values, against), paired=paired, seedless=(seedless(one), seedless(other)))


def seedless(contender: Contender) -> bool:
    """Return whether no seed changes its model: it is fitted, and draws nothing; of an ensemble, none of its models."""
    return all(
        TrialConfig.from_params({key: value for key, value in params.items() if key != "seed"}).seedless
        for params in contender.configurations
    )
