"""Promotion: ask the gate, then register, check what was stored, and set the aliases last."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hep_ray.config import FORMERLY
from hep_ray.confirm.confirmation import (
    FOLDER,
    Confirmation,
    ConfirmedRun,
    Contender,
    earlier_uses,
    load_confirmation,
    uses_of_others,
)
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import CorruptCheckpoint, HepRayError, InvalidConfig, PromotionRefused
from hep_ray.plugins import restore
from hep_ray.promote import gate
from hep_ray.promote.card import model_card
from hep_ray.promote.gain import LEVEL, Gate, check_gain, comparison_of, without_seed
from hep_ray.promote.package import Description, Evidence, Package
from hep_ray.promote.scores import check_scores
from hep_ray.promote.store import store
from hep_ray.promote.turn import one_at_a_time
from hep_ray.search.state import SearchState, recorded_uri
from hep_ray.tracking.registry import CHAMPION, ModelRegistry, Version
from hep_ray.training.checkpoint import load_checkpoint
from hep_ray.training.config import TrialConfig

Report = Callable[[gate.Check], None]
LARGEST_LEVEL = 0.5
TURNS = 3
"""Times that a candidate is judged, where each time another model was made the champion meanwhile."""


@dataclass(frozen=True)
class Promotion:
    """What came of it.

    Attributes:
        name: of the registered model.
        verdict: of the gate.
        version: that was registered and made the champion; None after a dry run.
        previous: number of the former champion, if there was one.
        card: the model card.
        tracking_uri: of the registry.
        data: folder of the dataset.
    """

    name: str
    verdict: gate.Verdict
    version: Version | None
    previous: int | None
    card: str
    tracking_uri: str
    data: Path


@dataclass(frozen=True)
class Wishes:
    """What the command line chooses.

    Attributes:
        data: the dataset, where it is no longer where the search found it.
        tracking_uri: MLflow server or database; that of the search by default.
        name: of the registered model; the dataset's task by default.
        accept_reused_test: promote although the test split was read before.
        device: where the model's scores are computed: `cpu`, `cuda`; a GPU where there is one by default.
        dry_run: ask the gate only.
        level: rate, one-sided, at which a candidate that is no better may pass.
    """

    data: Path | None = None
    tracking_uri: str | None = None
    name: str | None = None
    accept_reused_test: bool = False
    device: str | None = None
    dry_run: bool = False
    level: float = LEVEL


def promote(folder: Path, wishes: Wishes | None = None, report: Report | None = None) -> Promotion:
    """Make the best finalist of a confirmed search the champion, if the gate lets it pass.

    Args:
        folder: of the search.
        wishes: of the user.
        report: called with every check of the gate as soon as it is answered.

    Raises:
        StorageError: the search is not confirmed, or the registry does not take the model.
        TrackingUnavailable: MLflow does not answer.
        PromotionRefused: a check failed and this is no dry run, or what was stored is not what was judged.
    """
    wishes = wishes or Wishes()
    if not 0 < wishes.level <= LARGEST_LEVEL:
        raise InvalidConfig(
            f"the gate's level is the one-sided rate of false alarms, above 0 and at most {LARGEST_LEVEL}; got "
            f"{wishes.level}"
        )
    confirmation = load_confirmation(folder)
    started = SearchState.read(folder).started
    registry = ModelRegistry(wishes.tracking_uri or recorded_uri(folder, started))
    name = wishes.name or confirmation.task
    with one_at_a_time(registry.uri, name, folder.parent):
        for _ in range(TURNS):
            done = _promote(folder, wishes, report, confirmation, registry, name)
            if done is not None:
                return done
    raise PromotionRefused(
        f"a candidate is judged against the present champion; that of '{name}' was replaced {TURNS} times meanwhile: "
        "promote again"
    )


def _promote(
    folder: Path,
    wishes: Wishes,
    report: Report | None,
    confirmation: Confirmation,
    registry: ModelRegistry,
    name: str,
) -> Promotion | None:
    """Judge and register once; None where another one was made the champion meanwhile."""
    uri, started = registry.uri, SearchState.read(folder).started
    options = {} if started is None else started.options
    plugins = restore(SearchState.read(folder / FOLDER).plugins)
    candidate, run = gate.choose(confirmation)
    looks = _looks(folder, confirmation)
    checks: list[gate.Check] = []

    def answered(*answers: gate.Check) -> None:
        for answer in answers:
            checks.append(answer)
            if report:
                report(answer)

    answered(gate.check_provenance(confirmation.provenance, _origin(confirmation, candidate, run)))
    data = wishes.data or Path(options.get("data", ""))
    dataset = _dataset(data, confirmation, answered)
    answered(gate.check_test_split(looks, len(confirmation.finalists), accepted=wishes.accept_reused_test))
    with tempfile.TemporaryDirectory(prefix="hep_ray-promote-") as scratch:
        judged, champion = _champion(registry, name, Path(scratch))
        against = Gate(folder, dataset.schema, wishes.level, looks.finalists) if dataset else None
        answered(check_gain(confirmation, candidate, champion, against))
        package = _package(folder / FOLDER, confirmation, candidate, run, dataset, answered)
        if package is not None:
            package = _with(package, plugins=plugins)
        if package is not None and dataset is not None:
            device = wishes.device or _device()
            answered(*check_scores(package, run, folder / FOLDER, confirmation.metric, dataset, device))
        verdict = gate.Verdict(candidate, run, tuple(checks))
        if not wishes.dry_run:
            verdict.enforce()
        if package is None or dataset is None or not verdict.passed:
            return Promotion(name, verdict, None, None, "", uri, data)
        package = _with_verdict(package, verdict)
        card = model_card(name, package.description)
        if wishes.dry_run:
            return Promotion(name, verdict, None, None, card, uri, data)
        version = store(
            registry, name, package, dataset, card, folder.parent, Path(scratch), run.mlflow_run_id
        )
        if registry.aliases(name).get(CHAMPION) != judged:
            return None
        return Promotion(name, verdict, version, registry.crown(version), card, uri, data)


def _looks(folder: Path, confirmation: Confirmation) -> gate.Looks:
    fingerprint = confirmation.dataset_fingerprint
    earlier = earlier_uses(folder, fingerprint, confirmation.confirmation_id)
    return gate.Looks(
        earlier=len(earlier),
        finalists=sum(max(1, len(use.contenders) - 1) for use in earlier),
        by_others=uses_of_others(folder.parent, folder.name, fingerprint),
    )


def _origin(confirmation: Confirmation, candidate: Contender, run: ConfirmedRun) -> dict[str, str]:
    return {
        "search": confirmation.search,
        "search_id": confirmation.search_id,
        "trial": candidate.name,
        "confirmed_trial": run.trial_id,
        "seed": str(run.seed),
        "epoch": str(run.epoch),
    }


def _dataset(data: Path, confirmation: Confirmation, answered: Callable[..., None]) -> Dataset | None:
    try:
        dataset = Dataset.open(data)
    except HepRayError as fault:
        answered(gate.Check("dataset", False, str(fault)))
        return None
    check = gate.check_dataset(confirmation.dataset_fingerprint, dataset.fingerprint)
    answered(check)
    return dataset if check.passed else None


def _champion(registry: ModelRegistry, name: str, scratch: Path) -> tuple[int | None, Description | None]:
    """The present champion's number and description."""
    version = registry.by_alias(name, CHAMPION)
    if version is None:
        return None, None
    (scratch / "champion").mkdir()
    package = Package.read(registry.download(version, scratch / "champion"))
    return version.number, package.description


def _package(
    folder: Path,
    confirmation: Confirmation,
    candidate: Contender,
    run: ConfirmedRun,
    dataset: Dataset | None,
    answered: Callable[..., None],
) -> Package | None:
    """The portable form of a checkpoint; None, and a failed check, where it is not the confirmed one."""
    path = folder / run.checkpoint
    try:
        if not path.is_file():
            raise CorruptCheckpoint(f"{path} is not there")
        state = load_checkpoint(path)
        trained = TrialConfig.completed(state["params"], FORMERLY).resolved()
        as_trained = {key: trained[key] for key in FORMERLY if key in trained}
        judged = TrialConfig.completed(without_seed(candidate.params), as_trained).resolved()
        if trained != judged:
            raise CorruptCheckpoint(f"it holds the parameters {trained}, confirmed were {judged}")
        if int(state["metrics"]["epoch"]) != run.epoch:
            raise CorruptCheckpoint(f"it is of epoch {state['metrics']['epoch']}, confirmed was {run.epoch}")
    except (HepRayError, KeyError, TypeError) as fault:
        answered(gate.Check("checkpoint", False, f"{path.name} of {run.trial_id}: {fault}"))
        return None
    answered(gate.Check("checkpoint", True, f"{run.trial_id}, seed {run.seed}, epoch {run.epoch}"))
    if dataset is None:
        return None
    description = Description(
        event_schema=dataset.schema,
        params=trained,
        dataset_fingerprint=confirmation.dataset_fingerprint,
        metrics=run.metrics,
        origin=_origin(confirmation, candidate, run),
        provenance=confirmation.provenance,
        evidence=Evidence(
            metric=confirmation.metric,
            mode=confirmation.mode,
            level=confirmation.level,
            epochs=confirmation.epochs,
            contender=candidate,
            baseline=confirmation.baseline,
            comparison=comparison_of(confirmation, candidate),
        ),
    )
    return Package.create(description, state["model"])


def _with_verdict(package: Package, verdict: gate.Verdict) -> Package:
    evidence = package.description.evidence
    assert evidence is not None
    judged = evidence.model_copy(update={"verdict": verdict.lines})
    return _with(package, evidence=judged)


def _with(package: Package, **facts: Any) -> Package:
    return dataclasses.replace(package, description=package.description.model_copy(update=facts))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
