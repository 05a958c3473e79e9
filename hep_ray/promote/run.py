"""Promotion: ask the gate, then register, check what was stored, and set the aliases last."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from hep_ray.addresses import located
from hep_ray.confirm.confirmation import (
    FOLDER,
    Confirmation,
    ConfirmedRun,
    Contender,
    choose,
    earlier_uses,
    load_confirmation,
    uses_of_others,
)
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.shard_file import open_shard
from hep_ray.errors import (
    HepRayError,
    InvalidConfig,
    InvalidEvents,
    PromotionRefused,
    StorageHeld,
)
from hep_ray.files import storing
from hep_ray.loading.batches import BatchRequest, metric_weights
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.metrics.labels import OF_BACKGROUND
from hep_ray.metrics.roc import mean_of
from hep_ray.plugins import restore, with_source
from hep_ray.promote import gate
from hep_ray.promote.candidate import constraints, origin_of, package_of
from hep_ray.promote.classifier import MeanClassifier
from hep_ray.promote.fold_set import check_folds
from hep_ray.promote.gate import (
    LEVEL,
    TOLERANCE,
    Criterion,
    Gate,
    check_gain,
    check_scores,
)
from hep_ray.promote.package import Description, Package, model_card
from hep_ray.promote.reference import Reference
from hep_ray.promote.refit import check_refit, run_of
from hep_ray.search.naming import estimated
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import recorded_uri
from hep_ray.tracking.registry import CHAMPION, Candidate, ModelRegistry, Version
from hep_ray.training.calibration import Method, fit_calibration
from hep_ray.training.evaluation import BATCH, evaluate
from hep_ray.training.testing import read_scores

Report = Callable[[Criterion], None]
LARGEST_LEVEL = 0.5
PATIENCE = 600.0
"""Seconds that a promotion waits for another one to end."""
TURNS = 3
"""Times that a candidate is judged, where each time another model was made the champion meanwhile."""


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion.

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
    """Options of a promotion.

    Attributes:
        data: the dataset, where it is no longer where the search found it.
        tracking_uri: MLflow server or database; that of the search by default.
        name: of the registered model; the dataset's task by default.
        accept_reused_test: promote although the test split was read before.
        device: where the model's scores are computed: `cpu`, `cuda`; a GPU where there is one by default.
        dry_run: ask the gate only.
        level: rate, one-sided, at which a candidate that is no better may pass.
        calibration: map from scores to probabilities that is fitted on validation events and stored; None stores none.
        folds: hand on the models of so many folds of the configuration, in place of the one model.
        refit: hand on the model that was refit on training and validation events, in place of the confirmed one.
    """

    data: Path | None = None
    tracking_uri: str | None = None
    name: str | None = None
    accept_reused_test: bool = False
    device: str | None = None
    dry_run: bool = False
    level: float = LEVEL
    calibration: Method | None = "temperature"
    folds: int | None = None
    refit: bool = False


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
        InvalidConfig: the level is none, or a refit or models of folds are asked for where the candidate is an
            ensemble.
    """
    wishes = wishes or Wishes()
    if not 0 < wishes.level <= LARGEST_LEVEL:
        raise InvalidConfig(
            f"the gate's level is the one-sided rate of false alarms, above 0 and at most {LARGEST_LEVEL}; got "
            f"{wishes.level}"
        )
    if wishes.refit and wishes.folds is not None:
        raise InvalidConfig("one model or those of folds are handed on: type --refit or --folds, not both")
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
    searched, retrained = SearchState.read(folder), SearchState.read(folder / FOLDER)
    uri, started = registry.uri, searched.started
    options = {} if started is None else started.options
    plugins = with_source(restore(retrained.plugins))
    candidate, run = choose(confirmation)
    if candidate.members and (wishes.refit or wishes.folds is not None):
        flag, what = ("--refit", "the refit") if wishes.refit else ("--folds", "the models")
        raise InvalidConfig(
            f"{flag} hands on {what} of one configuration; the best of '{confirmation.search}' by validation is "
            f"{candidate.name}, the {candidate.words}: leave out {flag}, or confirm with --again and without "
            "--ensemble, which reads the test split once more"
        )
    fingerprint = confirmation.dataset_fingerprint
    earlier = earlier_uses(folder, fingerprint, confirmation.confirmation_id)
    looks = gate.Looks(
        earlier=len(earlier),
        finalists=sum(max(1, len(use.contenders) - 1) for use in earlier),
        by_others=uses_of_others(folder.parent, folder.name, fingerprint),
    )
    checks: list[Criterion] = []

    def answered(*answers: Criterion) -> None:
        for answer in answers:
            checks.append(answer)
            if report:
                report(answer)

    answered(gate.check_provenance(confirmation.provenance, origin_of(confirmation, candidate, run)))
    answered(*constraints(searched, retrained, confirmation, candidate, run))
    data = located(wishes.data or options.get("data", ""))
    weighted = started is None or started.weights == "on"
    dataset = _dataset(data, confirmation, answered, weights=weighted)
    answered(gate.check_test_split(looks, len(confirmation.finalists), accepted=wishes.accept_reused_test))
    with tempfile.TemporaryDirectory(prefix="hep_ray-promote-") as temporary:
        scratch = Path(temporary)
        former, champion = _champion(registry, name, scratch)
        against = Gate(folder, dataset.schema, wishes.level, looks.finalists) if dataset else None
        answered(check_gain(confirmation, candidate, champion, against))
        package = package_of(folder / FOLDER, confirmation, candidate, run, dataset, plugins, answered)
        if package is not None and dataset is not None:
            device = wishes.device or ("cuda" if torch.cuda.is_available() else "cpu")
            answered(*check_scores(package, run, folder / FOLDER, confirmation.metric, dataset, device))
            sound = all(check.passed for check in checks)
            package, answers = _handed_on(
                folder, wishes, package, confirmation, candidate, run, dataset, device, sound=sound
            )
            answered(*answers)
        verdict = gate.Verdict(candidate, run, tuple(checks))
        if not wishes.dry_run:
            verdict.enforce(told=report is not None)
        if package is None or dataset is None or not verdict.passed:
            return Promotion(name, verdict, None, None, "", uri, data)
        evidence = package.description.evidence
        assert evidence is not None
        evidence = evidence.model_copy(update={"verdict": verdict.lines})
        described = package.description.model_copy(update={"evidence": evidence})
        package = dataclasses.replace(package, description=described)
        card = model_card(name, package.description)
        if wishes.dry_run:
            return Promotion(name, verdict, None, None, card, uri, data)
        storage, run_id = folder.parent, run_of(folder, run, wishes.refit)
        version = store(registry, name, package, dataset, card, storage, scratch, run_id)
        if registry.aliases(name).get(CHAMPION) != former:
            return None
        return Promotion(name, verdict, version, registry.crown(version), card, uri, data)


def _dataset(
    data: Path, confirmation: Confirmation, answered: Callable[..., None], *, weights: bool
) -> Dataset | None:
    try:
        dataset = Dataset.open(data, hashes="all", weights=weights)
    except HepRayError as exc:
        answered(Criterion("dataset", False, str(exc)))
        return None
    recorded, now = confirmation.dataset_fingerprint, dataset.fingerprint
    if recorded != now:
        text = f"it was confirmed on the fingerprint {recorded}; the dataset has {now}"
        answered(Criterion("dataset", False, text))
        return None
    answered(Criterion("dataset", True, f"fingerprint {now[:12]}, every shard as its manifest says"))
    return dataset


def _champion(registry: ModelRegistry, name: str, scratch: Path) -> tuple[int | None, Description | None]:
    version = registry.by_alias(name, CHAMPION)
    if version is None:
        return None, None
    (scratch / "champion").mkdir()
    return version.number, Package.read(registry.download(version, scratch / "champion")).description


def _handed_on(
    folder: Path,
    wishes: Wishes,
    package: Package,
    confirmation: Confirmation,
    candidate: Contender,
    run: ConfirmedRun,
    dataset: Dataset,
    device: str,
    *,
    sound: bool,
) -> tuple[Package | None, Sequence[Criterion]]:
    """Return what is handed on of a confirmed model, and answers: it with a calibration, a refit, or models of folds.

    Args:
        folder: of the search.
        wishes: of the user.
        package: of the confirmed model.
        confirmation: of the search.
        candidate: its configuration.
        run: that it was made from.
        dataset: verified.
        device: where models compute.
        sound: whether every check has passed; else no calibration is fitted.
    """
    if wishes.refit:
        return check_refit(
            folder, confirmation, candidate, package, dataset, device, wishes.level, wishes.data
        )
    if wishes.folds is None:
        if wishes.calibration is None or not sound:
            return package, ()
        scores = folder / FOLDER / run.scores
        package, told = calibrated(package, wishes.calibration, dataset, scores, device)
        return package, (Criterion("calibration", True, told),)
    several, answer = check_folds(
        folder / f"folds{wishes.folds}", candidate, package, dataset, device, wishes.data
    )
    if several is None or several.membership is None:
        return None, (answer,)
    own, single = several.description, package.description
    of_one = ("confirmed_trial", "epoch")  # each fold has its own
    origin = {key: value for key, value in single.origin.items() if key not in of_one}
    origin |= {"seed": own.origin["seed"], "folds": str(wishes.folds)}
    described = single.model_copy(update={"metrics": own.metrics, "origin": origin})
    reference = Reference.loads(package.reference) if package.reference else None
    return Package.of_several(described, several.members, several.membership, reference), (answer,)


CALIBRATED_ON = 100_000
"""Validation events, the first ones by a hash of their ids, that a calibration is fitted to at most."""


def calibrated(
    package: Package, method: Method, dataset: Dataset, scores: Path, device: str
) -> tuple[Package, str]:
    """Return a package with a calibration fitted to the validation split and judged on the test split, and a sentence.

    The kept scores of the test split are read, and set nothing. A model whose calibration cannot be fitted stays
    without one, which the sentence says.

    Args:
        package: of the model, or of an ensemble, whose mean is calibrated.
        method: of the map.
        dataset: verified.
        scores: file of its scores on the test split.
        device: where the model computes.
    """
    classifier, schema = package.build(device), dataset.schema
    names = tuple(column.name for column in classifier.columns)
    groups, sums = RowGroups.of(dataset, "val"), class_sums(dataset, "val")
    stream = ShardStream(schema, groups, names, sums, groups_per_block=1)
    events = stream.select(names, metric_weights(stream, schema))
    several = [
        evaluate(
            one.model,
            one.loss,
            events.head_batches(CALIBRATED_ON, BatchRequest(BATCH, device=device)),
            half=one.half,
        )
        for one in (classifier.members if isinstance(classifier, MeanClassifier) else (classifier,))
    ]
    found = several[0]
    if len(several) > 1:
        probabilities, log_odds = mean_of([(one.probabilities, one.log_odds) for one in several])
        found = dataclasses.replace(found, probabilities=probabilities, log_odds=log_odds)
    try:
        fitted = fit_calibration(method, found.log_odds, found.labels, found.weights)
    except (InvalidEvents, InvalidConfig) as exc:
        return package, f"none: {exc}"
    kept = read_scores(scores, schema)
    fitted = fitted.judged("val", found.probabilities, found.log_odds, found.labels, found.weights)
    fitted = fitted.judged("test", kept.probabilities, kept.log_odds, kept.labels, kept.weights)
    description = package.description.model_copy(update={"calibration": fitted})
    error, loss = (
        f"{fitted.before[key]:.3g} → {fitted.after[key]:.3g}"
        for key in ("test_calibration_error", "test_log_loss")
    )
    return (
        dataclasses.replace(package, description=description),
        f"{fitted}; calibration error {error}, log loss {loss} on the test split",
    )


EXAMPLES = 2
"""Events in the input example."""
RUN_WITH = ("hep-ray", "torch", "numpy")
"""Packages that the requirements of a registered model name."""
LEFT_OUT = (
    "test_confusion",
    *(f"test_background_rejection_at_{percent}" for percent in (30, 70, 80, 88, 90, 93)),
    *(f"test_{name}_b" for name in OF_BACKGROUND),
)
"""Metrics that would crowd a version's tags; `model.json` has them all."""


def store(
    registry: ModelRegistry,
    name: str,
    package: Package,
    dataset: Dataset,
    card: str,
    storage: Path,
    scratch: Path,
    run_id: str | None,
) -> Version:
    """Register a package that passed the gate as a new version, without an alias, and read it back.

    Raises:
        StorageError: the registry did not take it.
        PromotionRefused: what is stored is not what was judged.
    """
    package.write(scratch / "package", card)
    classifier = package.build()
    arrays = dataset.schema.decode(next(open_shard(dataset.paths("val")[0]).iter_batches(EXAMPLES)))
    example = {column.name: arrays[column.name] for column in classifier.columns}
    description = package.description
    candidate = Candidate(
        folder=scratch / "package",
        inputs={column.name: (column.dtype, (-1, *column.shape)) for column in classifier.columns},
        outputs={
            **dict.fromkeys(classifier.score_names, "float32"),
            **dict.fromkeys(classifier.rank_names, "float64"),
        },
        example=example,
        digest=package.digest,
        run_id=run_id,
        params={key: str(value) for key, value in description.params.items()}
        or {"members": description.origin["members"]},
        metrics=description.metrics,
        tags=_tags(package),
        card=card,
        requirements=tuple(f"{one}=={importlib.metadata.version(one).split('+')[0]}" for one in RUN_WITH),
    )
    experiment = description.origin["search"]
    version = registry.register(name, experiment, candidate, scratch, storage / "mlartifacts")
    (scratch / "stored").mkdir()
    stored = Package.read(registry.download(version, scratch / "stored"))
    same = stored.digest == package.digest and np.allclose(
        stored.build().predict(example), classifier.predict(example), rtol=0, atol=TOLERANCE
    )
    if not same:
        raise PromotionRefused(
            f"what is stored is what was judged; {version.uri} is not, and got no alias: its digest is "
            f"{stored.digest}, judged was {package.digest}"
        )
    return version


def _tags(package: Package) -> dict[str, str]:
    """Return tags of a version: its task, where it comes from, and its confirmed metrics with errors."""
    description = package.description
    schema = description.event_schema
    estimates = description.evidence.contender.estimates if description.evidence else {}
    judged = description.evidence.metric if description.evidence else ""
    return {
        "task": schema.task,
        "classes": ",".join(schema.classes),
        "signal": schema.signal,
        "dataset_fingerprint": description.dataset_fingerprint,
        **{f"hep_ray.{key}": value for key, value in description.origin.items()},
        **{
            key: estimated(one.mean, one.sd, one.low, one.high)
            for key, one in estimates.items()
            if key == judged
            or (key.startswith("test_") and not (key.startswith(LEFT_OUT) or key.endswith("_error")))
        },
    }


@contextmanager
def one_at_a_time(uri: str, name: str, storage: Path) -> Iterator[None]:
    """Hold the lock of one model in one registry, so that a second promotion is judged against the first.

    The lock lies beside a registry that is a SQLite file, else in the storage. Promotions that share neither see
    each other by the alias alone, which is read again right before it is set.

    Args:
        uri: of the registry.
        name: of the registered model.
        storage: of all searches.

    Raises:
        StorageHeld: another promotion holds it for ten minutes.
        StorageError: the lock cannot be written.
    """
    beside = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else storage
    digest = hashlib.sha256(f"{uri}\n{name}".encode()).hexdigest()[:16]
    path = (beside if beside.is_dir() else storage) / f".promote-{digest}.lock"
    lock = FileLock(path, timeout=PATIENCE, mode=0o666)
    with storing(path):
        try:
            lock.acquire(poll_interval=0.2)
        except Timeout:  # an OSError
            raise StorageHeld(
                f"another promotion of '{name}' still holds {path} after {PATIENCE:.0f} s: wait for it to end"
            ) from None
    try:
        yield
    finally:
        lock.release()
