"""The models that `hep-ray folds` left as one package, and what is asked of them before they are handed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hep_ray.confirm.confirmation import Contender
from hep_ray.confirm.folds import FILE_NAME, CrossValidation, load_folds
from hep_ray.dataset.dataset import BEGINNINGS, Dataset, Manifest
from hep_ray.dataset.schema import EVENT_ID, LABEL
from hep_ray.dataset.shard_file import read_shard
from hep_ray.dataset.splits import SPLITS
from hep_ray.errors import CorruptCheckpoint, CorruptModel, HepRayError, StorageError
from hep_ray.flags import typed
from hep_ray.plugins import with_recorded_source
from hep_ray.promote.classifier import Membership
from hep_ray.promote.gate import TOLERANCE, Criterion, same_configuration
from hep_ray.promote.package import Description, Package
from hep_ray.search.state import SearchState
from hep_ray.tracking.provenance import doubts
from hep_ray.training.checkpoint import load_best
from hep_ray.training.testing import KeptScores, read_scores


def read_folds(folder: Path | str) -> Package:
    """Read the models of a configuration's folds, as `hep-ray folds` left them.

    Args:
        folder: such as `runs/susy/folds5`.

    Raises:
        StorageError: the folds have not ended, or something of them is not there.
        CorruptModel: a model cannot be read, or is not the one that was tested.
        UnreadableInput: the dataset of a fold is not there.
        PluginFailed: a file of its own components has gone or changed.
    """
    folder = Path(folder)
    found = load_folds(folder)
    members = tuple(_member(folder, found, number) for number in range(len(found.folds)))
    path = folder / found.scores
    try:
        table = pq.read_table(path, columns=[EVENT_ID, "fold"])
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(
            f"which model never saw an event is told by {path}, which cannot be read: {exc}"
        ) from None
    membership = Membership.of(table[EVENT_ID], table["fold"].to_numpy() - 1)
    first = members[0].description
    description = first.model_copy(
        update={
            "dataset_fingerprint": found.dataset_fingerprint,
            "metrics": found.metrics,
            "origin": {**first.origin, "folds": str(len(members))},
        }
    )
    return Package.of_several(description, members, membership)


@dataclass(frozen=True)
class Training:
    """Facts of the training of folds, by which its events are known among others.

    Attributes:
        digests: SHA-256 of the files that the dataset was made of.
        by_file: whether a file's events are all of one class.
        events: folder of a dataset that has all events; None where there is none.
        ids: SHA-256 of a file → what may stand before the numbers of its events in their ids, as far as it is known.
    """

    digests: frozenset[str]
    by_file: bool
    events: Path | None
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def training_of(folder: Path, description: Description | None = None) -> Training | None:
    """Return what the folder of folds and that of its search's dataset tell, or models that were promoted.

    None where these are gone, or were promoted by an earlier version.

    Args:
        folder: such as `runs/susy/folds5`.
        description: of the models.
    """
    if description is not None and description.files:
        return Training(frozenset(description.files), False, None, description.ids)
    try:
        started = SearchState.read(folder.parent).started
        manifest = Manifest.read(started.options["data"]) if started else None
        if manifest is None or manifest.fingerprint != load_folds(folder).dataset_fingerprint:
            return None
        digests, ids = _files(manifest)
        by_file = manifest.source["schema"]["label"]["from"] == "file"  # type: ignore[index, call-overload]
    except (HepRayError, KeyError, TypeError):
        return None
    return Training(digests, by_file, folder / "data" / "fold_1", ids)


def _files(manifest: Manifest) -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
    """Return the SHA-256 of the files of a dataset, and what may stand before the numbers of events in their ids.

    Raises:
        KeyError, TypeError: it is not made of files.
    """
    source: Any = manifest.source
    ids = {digest: tuple(own) for digest, own in source.get(BEGINNINGS, {}).items()}
    files = (one["sha256"] for one in (*source["files"], *source.get("test_files", ())))
    return frozenset((*files, *ids)), ids


def check_folds(
    folder: Path,
    candidate: Contender,
    single: Package,
    dataset: Dataset,
    device: str,
    moved: Path | None = None,
) -> tuple[Package | None, Criterion]:
    """Check that models of folds are of the candidate's configuration, and give every event its recorded score.

    Args:
        folder: of the folds.
        candidate: that the gate judged.
        single: its confirmed model.
        dataset: verified, whose events were divided into the folds.
        device: where the models compute.
        moved: folder of the dataset, where it is no longer where the search found it; for what to type.

    Returns:
        The models where they may be handed on, and the answer.
    """
    words, storage = ("hep-ray", "folds", folder.parent.name, "--folds"), folder.parent.parent
    of_candidate = ("--trial", candidate.name)
    if not (path := folder / FILE_NAME).is_file():
        count = folder.name.removeprefix("folds")
        first = typed(*words, count, *of_candidate, storage=storage, data=moved)
        return None, Criterion(
            "folds", False, f"there are no such folds, {path} is not there: type `{first}`"
        )
    try:
        found = load_folds(folder)
        again = typed(*words, len(found.folds), *of_candidate, "--again", storage=storage, data=moved)
        package = None
        fault = _differing(found, candidate, dataset)
        if not fault:
            # The search's own code has run already, for the confirmed model.
            package = dataclasses.replace(read_folds(folder), trust_code=True)
            ours, theirs = (
                {one.module: one.sha256 for one in made.description.plugins} for made in (single, package)
            )
            fault = "" if ours == theirs else "they were trained with other code than the confirmed model"
        if package is None or fault:
            return None, Criterion("folds", False, f"{fault}: type `{again}`")
        kept = read_scores(folder / found.scores, dataset.schema)
        passed, text = _reproduced(package, kept, folder / found.scores, dataset, device)
        if not passed:
            return None, Criterion("folds", False, text)
        facts: dict[str, Any] = {"metrics": kept.metrics(dataset.schema)}
        with suppress(KeyError, TypeError):  # simulated events are of no file
            digests, ids = _files(dataset.manifest)
            facts |= {"files": tuple(sorted(digests)), "ids": ids}
        described = package.description.model_copy(update=facts)
    except HepRayError as exc:
        return None, Criterion("folds", False, str(exc))
    return dataclasses.replace(package, description=described), Criterion("folds", True, text)


def _differing(found: CrossValidation, candidate: Contender, dataset: Dataset) -> str:
    """Say in words why folds are not those of a candidate and its dataset; nothing where they are."""
    if not same_configuration(found.params, candidate.params):
        return f"they are of {found.trial}, and the candidate is '{candidate.name}'"
    if found.dataset_fingerprint != dataset.fingerprint:
        theirs, ours = found.dataset_fingerprint[:12], dataset.fingerprint[:12]
        return f"they are of the fingerprint {theirs}, the dataset has {ours}"
    faults = doubts(found.provenance)
    return f"it is not known how they were trained: {'; '.join(faults)}" if faults else ""


def _reproduced(
    package: Package, kept: KeptScores, path: Path, dataset: Dataset, device: str
) -> tuple[bool, str]:
    """Return whether the models give every event of a dataset its recorded score and label, and a sentence.

    Args:
        package: of the folds.
        kept: recorded scores.
        path: of these.
        dataset: verified.
        device: where the models compute.
    """
    classifier, events, greatest = package.build(device), 0, 0.0
    if kept.event_ids is None:
        return False, f"{path} tells no event_id"
    names = kept.event_ids.combine_chunks()
    for shard in (one for split in SPLITS for one in dataset.paths(split, purpose="promote")):
        for batch in read_shard(shard).combine_chunks().to_batches():
            decoded = dataset.schema.decode(batch)
            rows = pc.index_in(batch.column(EVENT_ID), names)
            if rows.null_count:
                return False, f"{rows.null_count} events of {shard.name} have no score in {path}"
            if not np.array_equal(decoded[LABEL], kept.labels[rows.to_numpy()]):
                return False, f"labels in {path} are not those of {shard.name}"
            difference = np.abs(classifier.scores(decoded)[0] - kept.probabilities[rows.to_numpy()])
            events, greatest = events + len(difference), max(greatest, float(difference.max(initial=0)))
    if events != len(names):
        return False, f"{path} has scores of {len(names)} events, and the dataset {events} events"
    text = (
        f"the {len(package.members)} models on {device} and the recorded scores of all {events} events, each by the "
        f"model that never saw it, differ by {greatest:.1e} at most ({TOLERANCE:.0e} is allowed)"
    )
    if not greatest <= TOLERANCE:
        return (
            False,
            f"{text}: other checkpoints than those that were tested, or another kind of device (--device)",
        )
    return True, text


def _member(folder: Path, found: CrossValidation, number: int) -> Package:
    """Return the model of a fold, whose test is recorded.

    Raises:
        CorruptModel: its checkpoint cannot be read, or is of another configuration or epoch.
        PluginFailed: a file of its own components has gone or changed.
        UnreadableInput: its dataset is not there.
    """
    fold = found.folds[number]
    try:
        trained, weights = load_best(folder / fold.checkpoint, fold.epoch)
    except CorruptCheckpoint as exc:
        raise CorruptModel(
            f"fold {number + 1} of {folder} has no model: {exc}: type `hep-ray folds` again"
        ) from None
    of_fold = SearchState.read(folder / f"fold_{number + 1}")
    weighted = of_fold.started is None or of_fold.started.weights == "on"
    dataset = Dataset.open(folder / "data" / f"fold_{number + 1}", verify=False, weights=weighted)
    description = Description(
        event_schema=dataset.schema.model_copy(update={"variations": {}}),
        params=trained,
        dataset_fingerprint=fold.dataset_fingerprint,
        metrics=fold.metrics,
        origin={
            "search": found.search,
            "search_id": found.search_id,
            "trial": found.trial,
            "seed": str(found.seed),
        },
        provenance=found.provenance,
        plugins=with_recorded_source(of_fold.plugins),
    )
    return Package.create(description, weights)
