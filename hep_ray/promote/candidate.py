"""The candidate of a promotion in its portable form: each of its models must be the one that was confirmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hep_ray.config import FORMERLY
from hep_ray.confirm.confirmation import Confirmation, ConfirmedRun, Contender
from hep_ray.confirm.finalists import summed
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import CorruptCheckpoint, HepRayError
from hep_ray.models import MODELS
from hep_ray.plugins import Plugin
from hep_ray.promote.gate import Criterion, check_constraints, comparison_of, without_seed
from hep_ray.promote.package import Description, Evidence, Package
from hep_ray.promote.reference import reference_of
from hep_ray.search.state import SearchState
from hep_ray.training.checkpoint import load_best
from hep_ray.training.config import TrialConfig


def origin_of(confirmation: Confirmation, candidate: Contender, run: ConfirmedRun) -> dict[str, str]:
    """Return where a model comes from; an ensemble names its members, whose epochs differ."""
    found = {
        "search": confirmation.search,
        "search_id": confirmation.search_id,
        "trial": candidate.name,
        "confirmed_trial": run.trial_id,
        "seed": str(run.seed),
    }
    if candidate.members:
        return {**found, "members": ", ".join(candidate.members)}
    return {**found, "epoch": str(run.epoch)}


def constraints(
    searched: SearchState,
    retrained: SearchState,
    confirmation: Confirmation,
    candidate: Contender,
    run: ConfirmedRun,
) -> Iterator[Criterion]:
    """Yield whether a candidate keeps the constraints of its search, where that has any; figures of members add up."""
    if searched.started is None or not (limits := searched.started.constraints):
        return
    several = []
    for one, own in confirmation.trained(candidate, run):
        known = [searched.trials.get(one.name), retrained.trials.get(own.trial_id)]
        several.append({name: value for trial in known if trial for name, value in trial.figures.items()})
    yield check_constraints(limits, summed(several))


def package_of(
    folder: Path,
    confirmation: Confirmation,
    candidate: Contender,
    run: ConfirmedRun,
    dataset: Dataset | None,
    plugins: tuple[Plugin, ...],
    answered: Callable[..., None],
) -> Package | None:
    """Return the portable form of a candidate's checkpoints; None, and a failed check, where one is not the confirmed.

    Args:
        folder: of the confirmation.
        confirmation: of the search.
        candidate: one of its finalists.
        run: the one of its runs whose model is handed on, or whose members' models.
        dataset: verified; None where it is not.
        plugins: code of its own.
        answered: is given the answers.
    """
    kept, told = [], []
    for one, own in confirmation.trained(candidate, run):
        path = folder / str(own.checkpoint)
        try:
            kept.append(_checked(path, one, own))
        except HepRayError as exc:
            answered(Criterion("checkpoint", False, f"{path.name} of {own.trial_id}: {exc}"))
            return None
        told.append(f"{own.trial_id}, seed {own.seed}, epoch {own.epoch}")
    answered(Criterion("checkpoint", True, "; ".join(told)))
    if dataset is None:
        return None
    evidence = Evidence(
        metric=confirmation.metric,
        mode=confirmation.mode,
        level=confirmation.level,
        epochs=confirmation.epochs,
        contender=candidate,
        baseline=confirmation.baseline,
        comparison=comparison_of(confirmation, candidate),
        variations=tuple(
            one
            for one in confirmation.variations
            if one.contender in (candidate.name, confirmation.baseline.name)
        ),
    )
    described = Description(
        event_schema=dataset.schema.model_copy(update={"variations": {}}),
        params={},
        dataset_fingerprint=confirmation.dataset_fingerprint,
        metrics=run.metrics,
        origin=origin_of(confirmation, candidate, run),
        provenance=confirmation.provenance,
        plugins=plugins,
        evidence=evidence,
    )
    columns = [column for params, _ in kept for column in _columns(params, dataset)]
    reference = reference_of(dataset, tuple(dict.fromkeys(columns)))
    if not candidate.members:
        ((params, weights),) = kept
        return Package.create(described.model_copy(update={"params": params}), weights, reference)
    members = [
        Package.create(
            described.model_copy(
                update={
                    "params": params,
                    "metrics": own.metrics,
                    "origin": origin_of(confirmation, one, own),
                    "evidence": None,
                }
            ),
            weights,
        )
        for (one, own), (params, weights) in zip(confirmation.trained(candidate, run), kept, strict=True)
    ]
    return Package.of_several(described, members, reference=reference)


def _checked(path: Path, candidate: Contender, run: ConfirmedRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters and weights of a checkpoint, if it is the confirmed one.

    Raises:
        CorruptCheckpoint: it is not there, or is another.
    """
    if not path.is_file():
        raise CorruptCheckpoint(f"{path} is not there")
    trained, weights = load_best(path, run.epoch)
    as_trained = {key: trained[key] for key in FORMERLY if key in trained}
    judged = TrialConfig.completed(without_seed(candidate.params), as_trained).resolved()
    if trained != judged:
        raise CorruptCheckpoint(
            f"it is of other parameters than were confirmed: {differing(trained, judged)}"
        )
    return trained, weights


def differing(trained: Mapping[str, Any], judged: Mapping[str, Any]) -> str:
    """Return in words the parameters of a checkpoint that are not those of the confirmation."""
    return ", ".join(
        f"{name} is {trained.get(name, 'absent')!r} and not {judged.get(name, 'absent')!r}"
        for name in {**judged, **trained}
        if trained.get(name, "absent") != judged.get(name, "absent")
    )


def _columns(params: dict[str, Any], dataset: Dataset) -> tuple[str, ...]:
    # Weights are at hand: no pretrained file is needed.
    config = TrialConfig.from_params({**params, **MODELS[params["model"]].example})
    return config.build_model(dataset.schema).columns
