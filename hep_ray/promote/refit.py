"""The model that `hep-ray refit` left, and what is asked of it before it is handed on in place of a confirmed one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from hep_ray.confirm.confirmation import Confirmation, ConfirmedRun, Contender
from hep_ray.confirm.refit_result import (
    REFIT,
    Refit,
    against_confirmed,
    best_epoch,
    load_refit,
)
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import CorruptCheckpoint, HepRayError
from hep_ray.flags import typed
from hep_ray.promote.candidate import differing
from hep_ray.promote.gate import Criterion, check_scores, same_configuration
from hep_ray.promote.package import Package
from hep_ray.promote.reference import Reference
from hep_ray.search.state import SearchState
from hep_ray.tracking.provenance import doubts
from hep_ray.training.checkpoint import load_best

LEARNT_FROM = "train + val"
"""What `origin` says under `refit` of a model that learnt from the validation events too."""


def check_refit(
    folder: Path,
    confirmation: Confirmation,
    candidate: Contender,
    single: Package,
    dataset: Dataset,
    device: str,
    level: float,
    moved: Path | None = None,
) -> tuple[Package | None, Sequence[Criterion]]:
    """Check that a refit is of the candidate that the gate judged, gives its recorded scores, and is not worse.

    Args:
        folder: of the search.
        confirmation: of the search.
        candidate: that the gate judged.
        single: its confirmed model.
        dataset: verified, of the search.
        device: where the model computes.
        moved: folder of the dataset, where it is no longer where the search found it; for what to type.
        level: one-sided, of the noise beyond which the refit may not be worse than the confirmed trainings.

    Returns:
        The model where it may be handed on, and the answers.
    """
    again = typed("hep-ray", REFIT, folder.name, "--again", storage=folder.parent, data=moved)
    try:
        found = load_refit(folder / REFIT, data=moved)
        plugins = SearchState.read(folder / REFIT).plugins
        faults = list(_differing(found, confirmation, candidate, dataset))
        ours, theirs = (
            {one.module: one.sha256 for one in several} for several in (single.description.plugins, plugins)
        )
        if ours != theirs:
            faults.append("it was trained with other code than the confirmed model")
        if faults:
            return None, (Criterion("refit", False, f"{'; '.join(faults)}: type `{again}`"),)
        package = _package(folder, found, single, again)
    except HepRayError as exc:
        return None, (Criterion("refit", False, str(exc)),)
    answers = [Criterion("refit", True, _told(found, dataset))]
    scores = check_scores(package, found.run, folder / REFIT, found.metric, dataset, device)
    answers += [dataclasses.replace(one, name=f"refit's {one.name}") for one in scores]
    answers.append(_not_worse(folder, found, candidate, dataset, confirmation, level, again))
    answers.append(
        Criterion(
            "calibration",
            True,
            "none: it would be fitted on validation events, and this model has learnt from them",
        )
    )
    return (package if all(one.passed for one in answers) else None), answers


def run_of(folder: Path, run: ConfirmedRun, refit: bool) -> str | None:
    """Return the MLflow run of the model that is handed on: of the confirmed training, or of the refit."""
    return load_refit(folder / REFIT).mlflow_run_id if refit else run.mlflow_run_id


def _told(found: Refit, dataset: Dataset) -> str:
    epochs = ", ".join(map(str, found.best_epochs))
    return (
        f"one training of '{found.trial}' on {found.events} events, {dataset.rows('train')} of training and "
        f"{dataset.rows('val')} of validation, for {found.epoch} of {found.epochs} epochs (best in the confirmed "
        f"trainings: {epochs}), seed {found.seed}; the evidence is of the configuration"
    )


def _differing(
    found: Refit, confirmation: Confirmation, candidate: Contender, dataset: Dataset
) -> Iterator[str]:
    """Yield in words why a refit is not that of a candidate, its confirmation and its dataset."""
    if not same_configuration(found.params, candidate.params):
        yield f"it is of '{found.trial}', and the candidate is '{candidate.name}'"
    if found.confirmation_id != confirmation.confirmation_id:
        yield "it is of another confirmation than the present one"
    if found.dataset_fingerprint != dataset.fingerprint:
        yield f"it is of the fingerprint {found.dataset_fingerprint[:12]}, the dataset has {dataset.fingerprint[:12]}"
    expected = best_epoch([run.epoch for run in candidate.runs])
    if (found.epoch, found.epochs) != (expected, confirmation.epochs):
        yield (
            f"it ended after epoch {found.epoch} of {found.epochs}, and the confirmed trainings say {expected} of "
            f"{confirmation.epochs}"
        )
    if found.metric != confirmation.metric:
        yield f"it was tested by {found.metric}, and the confirmation judges by {confirmation.metric}"
    if faults := doubts(found.provenance):
        yield f"it is not known how it was trained: {'; '.join(faults)}"


def _package(folder: Path, found: Refit, single: Package, again: str) -> Package:
    """Return the portable form of a refit.

    Raises:
        CorruptCheckpoint: its checkpoint cannot be read, or is of another configuration or epoch.
    """
    path = folder / REFIT / found.checkpoint
    if not path.is_file():
        raise CorruptCheckpoint(f"{path} is not there: type `{again}`")
    try:
        trained, weights = load_best(path, found.epoch)
    except HepRayError as exc:
        raise CorruptCheckpoint(f"{path} holds no model of the refit: {exc}: type `{again}`") from None
    judged = single.description
    if trained != judged.params:
        raise CorruptCheckpoint(
            f"{path} is of other parameters than were confirmed: {differing(trained, judged.params)}: type `{again}`"
        )
    origin = {key: value for key, value in judged.origin.items() if key != "confirmed_trial"}
    origin |= {"seed": str(found.seed), "epoch": str(found.epoch), REFIT: LEARNT_FROM}
    described = judged.model_copy(
        update={
            "metrics": found.metrics,
            "origin": origin,
            "provenance": found.provenance,
            "calibration": None,
        }
    )
    reference = Reference.loads(single.reference) if single.reference else None
    return Package.create(described, weights, reference)


def _not_worse(
    folder: Path,
    found: Refit,
    candidate: Contender,
    dataset: Dataset,
    confirmation: Confirmation,
    level: float,
    again: str,
) -> Criterion:
    """Check that the refit is not worse on the test split than the confirmed trainings, beyond the noise of both."""
    from scipy import stats

    name = "refit's test"
    try:
        both = against_confirmed(folder, found, candidate, dataset.schema)
    except HepRayError as exc:
        return Criterion(name, False, f"{exc}: type `{again}`")
    if both is None:
        return Criterion(
            name,
            False,
            f"{found.metric} of refit and confirmed trainings is compared event by event, which their scores "
            f"below {folder} do not allow (absent, fewer than 20 test events of a class, or one seed)",
        )
    gain = both.difference if confirmation.mode == "max" else -both.difference
    p_value = float(stats.t.cdf(gain / both.error, both.degrees)) if both.error else float(gain >= 0)
    text = (
        f"{found.metric} {both.difference:+.4f} ± {both.error:.4f} against the confirmed trainings (seeds ± "
        f"{both.seed_error:.2g}, test events ± {both.event_error:.2g}), p = {p_value:.3g} of one as good, one-sided; "
        f"below {level:.3g} it counts as worse"
    )
    if p_value < level:
        return Criterion(name, False, f"{text}: promote the confirmed model, without --refit")
    return Criterion(name, True, text)
