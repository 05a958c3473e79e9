"""The models that `hep-ray folds` left as one package, and what is asked of them before they are handed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hep_ray.config import FORMERLY
from hep_ray.confirm.confirmation import Contender
from hep_ray.confirm.folds import FILE_NAME, CrossValidation, load_folds
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.dataset.splits import SPLITS
from hep_ray.errors import CorruptCheckpoint, CorruptModel, HepRayError, StorageError
from hep_ray.flags import typed
from hep_ray.promote.classifier import Membership
from hep_ray.promote.gate import TOLERANCE, Criterion, same_configuration
from hep_ray.promote.package import Description, Package
from hep_ray.search.state import SearchState
from hep_ray.training.checkpoint import load_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import read_scores


def read_folds(folder: Path | str) -> Package:
    """Read the models of a configuration's folds, as `hep-ray folds` left them.

    Args:
        folder: such as `runs/susy/folds5`.

    Raises:
        StorageError: the folds have not ended, or something of them is not there.
        CorruptModel: a model cannot be read, or is not the one that was tested.
        UnreadableInput: the dataset of a fold is not there.
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


def check_folds(
    folder: Path, candidate: Contender, dataset: Dataset, device: str
) -> tuple[Package | None, Criterion]:
    """Check that models of folds are of the candidate's configuration, and give every event its recorded score.

    Args:
        folder: of the folds.
        candidate: that the gate judged.
        dataset: verified, whose events were divided into the folds.
        device: where the models compute.

    Returns:
        The models where they may be handed on, and the answer.
    """

    def failed(text: str) -> tuple[None, Criterion]:
        return None, Criterion("folds", False, text)

    try:
        found = load_folds(folder)
        again = typed(
            *(
                "hep-ray",
                "folds",
                found.search,
                "--folds",
                len(found.folds),
                "--trial",
                candidate.name,
                "--again",
            ),
            storage=folder.parent.parent,
        )
        if not same_configuration(found.params, candidate.params):
            return failed(
                f"they are of {found.trial}, and the candidate is '{candidate.name}': type `{again}`"
            )
        if found.dataset_fingerprint != dataset.fingerprint:
            return failed(
                f"they are of the fingerprint {found.dataset_fingerprint[:12]}, the dataset has "
                f"{dataset.fingerprint[:12]}: type `{again}`"
            )
        package = read_folds(folder)
        kept, classifier = read_scores(folder / found.scores, dataset.schema), package.build(device)
        if kept.event_ids is None:
            return failed(f"{folder / found.scores} tells no event_id")
        names, events, greatest = kept.event_ids.combine_chunks(), 0, 0.0
        for path in (path for split in SPLITS for path in dataset.paths(split, purpose="promote")):
            for batch in pq.read_table(path).combine_chunks().to_batches():
                scores, _ = classifier.scores(dataset.schema.decode(batch))
                rows = pc.index_in(batch.column(EVENT_ID), names)
                if rows.null_count:
                    return failed(
                        f"{rows.null_count} events of {path.name} have no score in {folder / found.scores}"
                    )
                difference = np.abs(scores - kept.probabilities[rows.to_numpy()])
                events, greatest = events + len(scores), max(greatest, float(difference.max(initial=0)))
    except HepRayError as exc:
        return failed(str(exc))
    if events != len(names):
        return failed(
            f"{folder / found.scores} has scores of {len(names)} events, and the dataset {events} events"
        )
    text = (
        f"the {len(package.members)} models on {device} and the recorded scores of all {events} events, each by the "
        f"model that never saw it, differ by {greatest:.1e} at most ({TOLERANCE:.0e} is allowed)"
    )
    passed = greatest <= TOLERANCE
    return package if passed else None, Criterion("folds", passed, text)


def _member(folder: Path, found: CrossValidation, number: int) -> Package:
    """Return the model of a fold, whose test is recorded.

    Raises:
        CorruptModel: its checkpoint cannot be read, or is of another configuration or epoch.
        UnreadableInput: its dataset is not there.
    """
    fold, path = found.folds[number], folder / found.folds[number].checkpoint
    try:
        state = load_checkpoint(path)
        params, epoch = state["params"], int(state["metrics"]["epoch"])
    except (CorruptCheckpoint, KeyError, TypeError) as exc:
        raise CorruptModel(
            f"fold {number + 1} of {folder} has no model: {exc}: type `hep-ray folds` again"
        ) from None
    trained = TrialConfig.completed(params, FORMERLY).resolved()
    if epoch != fold.epoch:
        raise CorruptModel(
            f"the model {path} is of epoch {epoch}, and {FILE_NAME} tells the scores of {fold.epoch}"
        )
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
        plugins=tuple(of_fold.plugins),
    )
    return Package.create(description, state["model"])
