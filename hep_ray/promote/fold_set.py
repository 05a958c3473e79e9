"""The models of all folds of a configuration as one classifier, whose scores are honest on the events of the folds too.

An event that was divided into the folds is known by its id, and scored by the one model that never saw it. All others
are scored by the mean probability of the models.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hep_ray.config import FORMERLY
from hep_ray.confirm.folds import FILE_NAME, CrossValidation, load_folds
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID, EventSchema
from hep_ray.dataset.splits import event_hashes
from hep_ray.errors import CorruptCheckpoint, CorruptModel, InvalidConfig, StorageError
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.package import Description, Package
from hep_ray.search.state import SearchState
from hep_ray.training.checkpoint import load_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import BATCH

Scores = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Membership:
    """Which fold's model never saw which event.

    Attributes:
        keys: (N,) uint64, rising hashes of the events' ids.
        folds: (N,) whose test split has the event, from 0.
    """

    keys: npt.NDArray[np.uint64]
    folds: npt.NDArray[np.int8]

    @classmethod
    def of(cls, event_ids: pa.Array, folds: npt.NDArray[np.integer]) -> Membership:
        """Remember events.

        Args:
            event_ids: (N,).
            folds: (N,) of them, from 0.
        """
        keys = _keys(event_ids)
        order = np.argsort(keys)
        return cls(keys[order], folds[order].astype(np.int8))

    def __call__(self, event_ids: Any) -> npt.NDArray[np.int8]:
        """Return the fold of each event (M,); -1 of those that are in none."""
        keys = _keys(event_ids)
        if not len(self.keys):
            return np.full(len(keys), -1, np.int8)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.folds[at], -1).astype(np.int8)


def _keys(event_ids: Any) -> npt.NDArray[np.uint64]:
    if isinstance(event_ids, pa.ChunkedArray):
        event_ids = event_ids.combine_chunks()
    return event_hashes(event_ids, "folds")[:, 0]


class FoldClassifier(Classifier):
    """The models of the folds as one.

    Args:
        members: of the folds, in their order.
        schema: of the events that they were trained on.
        membership: which events each never saw.
    """

    def __init__(self, members: Sequence[Classifier], schema: EventSchema, membership: Membership) -> None:
        first = members[0]
        self.members, self.membership = tuple(members), membership
        self.schema, self.device, self.columns, self.half = schema, first.device, first.columns, first.half
        self.model, self.loss = first.model, first.loss

    def eval(self) -> None:
        """Put every model into evaluation mode."""
        for one in self.members:
            one.eval()

    def fold_of(self, event_ids: Any) -> npt.NDArray[np.int32]:
        """Return which model scores each event: from 1 that of the fold whose test split has it, 0 where all do."""
        return self.membership(event_ids).astype(np.int32) + 1

    def scores(self, events: Any, *, batch: int = BATCH, half: bool | None = None) -> Scores:
        """Return class probabilities and log-odds, see `Classifier.scores`.

        Events whose ids, `event_id`, are those of a fold's test split have those of its model; all others the mean
        probability of all models, and its log-odds.
        """
        inputs = {name: events[name] for name in events if name != EVENT_ID}
        folds = self.membership(events[EVENT_ID]) if EVENT_ID in events else None
        if folds is None or (folds < 0).all():
            return mean_of([one.scores(inputs, batch=batch, half=half) for one in self.members])
        probabilities = np.empty((len(folds), len(self.classes)), np.float32)
        log_odds = np.empty((len(folds), len(self.classes)), np.float64)
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            some = {name: np.asarray(inputs[name])[rows] for name in inputs}
            members = self.members if fold < 0 else self.members[fold : fold + 1]
            found = [one.scores(some, batch=batch, half=half) for one in members]
            probabilities[rows], log_odds[rows] = found[0] if len(found) == 1 else mean_of(found)
        return probabilities, log_odds


def mean_of(several: Sequence[Scores]) -> Scores:
    """Return the mean probabilities (N, C) of several models, and ln p − ln(1 − p) of them.

    The log-odds are worked out of those of the models, ln Σ p − ln Σ (1 − p), so that they tell events apart where
    single precision has probabilities of 1.
    """
    odds = np.stack([one for _, one in several])
    # ln p and ln (1 − p) of log-odds x are −ln(1 + e^∓x).
    up, down = (np.logaddexp.reduce(-np.logaddexp(0, sign * odds), axis=0) for sign in (-1, 1))
    probabilities = np.mean([one for one, _ in several], axis=0, dtype=np.float64)
    return np.asarray(probabilities, np.float32), np.asarray(up - down, np.float64)


@dataclass(frozen=True)
class FoldSet(Package):
    """The models of all folds, small enough to be sent to every worker.

    Attributes:
        members: of the folds, in their order.
        membership: which events each never saw.
    """

    members: tuple[Package, ...] = ()
    membership: Membership = dataclasses.field(
        default_factory=lambda: Membership(np.empty(0, np.uint64), np.empty(0, np.int8))
    )

    @classmethod
    def read(cls, folder: Path | str) -> FoldSet:
        """Read the folds of a configuration, as `hep-ray folds` left them.

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
        origin = {**first.origin, "folds": str(len(members))}
        description = first.model_copy(
            update={"dataset_fingerprint": found.dataset_fingerprint, "origin": origin, "weights_sha256": ""}
        )
        return cls(description, b"", members=members, membership=membership)

    @property
    def of_folds(self) -> bool:
        """Return that it is."""
        return True

    @property
    def digest(self) -> str:
        """SHA-256 of the models, and of which events each never saw."""
        content = hashlib.sha256(super().digest.encode())
        for one in self.members:
            content.update(one.digest.encode())
        content.update(self.membership.keys.tobytes())
        content.update(self.membership.folds.tobytes())
        return content.hexdigest()

    def build(self, device: torch.device | str = "cpu") -> Classifier:
        """Build the classifier; see `Package.build`.

        Raises:
            InvalidConfig: it is to be calibrated.
        """
        if self.calibrated:
            raise InvalidConfig(
                "--calibrated needs the calibration of a promoted model, and those of folds have none: leave it out"
            )
        members = [dataclasses.replace(one, trust_code=self.trust_code).build(device) for one in self.members]
        return FoldClassifier(members, self.description.event_schema, self.membership)


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
