"""Checkpoints on a (shared) file system: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hep_ray.config import FORMERLY
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import CorruptCheckpoint, InvalidConfig, UnknownName
from hep_ray.files import whole
from hep_ray.losses import LOSSES, Loss, build_loss
from hep_ray.models import Model
from hep_ray.training.config import TrialConfig
from hep_ray.training.distributed import Communicator

LAST = "last.pt"
"""State from which a trial goes on: model, optimizer, schedule, epoch, random state, last metrics."""
BEST = "best.pt"
"""Model of the epoch with the best validation metric so far."""
KEEP_BEST = 10
"""Trials of a search whose best model stays on disk."""
MOST_PAUSED = 100
"""Trials that wait with a checkpoint on disk; of more, the worst are given up, which no decision would take up soon."""
VISIBLE_AFTER = 60.0
"""Seconds that a network file system may take to show a new file, or another one of the same name, on other nodes."""
LOOK_SECONDS = 0.5


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state so that a crash at any moment leaves the former file or the new one, never a torn one.

    Raises:
        OSError: the disk is full, say; the former file stays.
    """
    with whole(path) as filling, filling.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as exc:
            # Closing the file that it could not write, torch hides why.
            if isinstance(exc.__context__, OSError):
                raise exc.__context__ from None
            raise


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state back (tensors, numbers, strings, lists and dicts only: nothing is executed).

    Raises:
        CorruptCheckpoint: the file is not a whole checkpoint, or not as it was written.
    """
    try:
        _verify(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as exc:  # broken bytes make the unpickler raise anything
        raise CorruptCheckpoint(f"a checkpoint is read back whole; {path} is not: {exc}") from exc
    if not isinstance(state, dict):
        raise CorruptCheckpoint(f"a checkpoint holds a dict; {path} holds {type(state).__name__}")
    return state


def _verify(path: Path) -> None:
    """Compare every member of the file with its checksum, which torch writes and does not read.

    Raises:
        zipfile.BadZipFile: one differs, or is compressed, as torch never does: it could unpack to any size.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("its members are compressed")
        if broken := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {broken} is another")


def seen_by_all(path: Path, communicator: Communicator, patience: float = VISIBLE_AFTER) -> bool:
    """Whether there is a checkpoint, which is then the same one for every rank that is about to load it.

    Each rank reads it by itself, and a network file system may show one rank a former file, or none yet. Then the rank
    waits for what rank 0 sees.

    Args:
        path: of the checkpoint.
        communicator: of the ranks, all of which call this.
        patience: seconds that a rank waits.

    Raises:
        CorruptCheckpoint: a rank still sees another file, or none; on every rank alike.
    """
    seen = _sums(path)
    wanted = communicator.all_gather(seen)[0]
    until = time.monotonic() + patience
    while seen != wanted and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        seen = _sums(path)
    others = [rank for rank, one in enumerate(communicator.all_gather(seen)) if one != wanted]
    if others:
        raise CorruptCheckpoint(
            f"all workers of a trial go on from one checkpoint; {path} is another file, or none, for rank "
            f"{', '.join(map(str, others))} than for rank 0, since {patience:g} s: is the storage the same everywhere?"
        )
    return bool(wanted)


def _sums(path: Path) -> str:
    """Name, size and checksum of every member; nothing where there is no file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return ";".join(f"{one.filename} {one.file_size} {one.CRC:08x}" for one in archive.infolist())
    except FileNotFoundError:
        return ""
    except (OSError, zipfile.BadZipFile) as exc:
        return f"cannot be read: {exc}"


def check_own(state: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Refuse the state of a trial with other parameters; one older than a parameter has what was done before it.

    That is today's default, unless `FORMERLY` has another.

    Raises:
        CorruptCheckpoint: it is one.
    """
    try:
        own = TrialConfig.completed(state["params"], FORMERLY).resolved()
    except (InvalidConfig, UnknownName):  # a parameter that nothing reads any more
        own = state["params"]
    if own != params:
        raise CorruptCheckpoint(
            f"a trial resumes its own checkpoint; this one holds {state['params']}, the trial is {params}"
        )


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that turns events into class probabilities.

    Attributes:
        model: in evaluation mode, with its weights and the statistics of its scalers.
        loss: gives the probabilities.
        config: the parameters it was trained with.
        metrics: of the epoch that it is of.
    """

    model: Model
    loss: Loss
    config: TrialConfig
    metrics: dict[str, float]

    @property
    def half(self) -> bool:
        """Whether it was validated in bfloat16."""
        return not self.config.fitted and self.config.training.precision == "bfloat16"


def restore_model(path: Path, schema: EventSchema, device: torch.device | str = "cpu") -> TrainedModel:
    """Build the model that a `best.pt` describes, and give it its weights.

    Args:
        path: of the checkpoint.
        schema: of the dataset that it was trained on.
        device: where the model is to live.

    Raises:
        CorruptCheckpoint: the file is not a whole checkpoint, or its weights do not fit the schema.
        InvalidConfig: its parameters are not those of this version's components.
    """
    params, weights, metrics = _parts(path, device)
    config = TrialConfig.completed(params, FORMERLY)
    model = config.build_model(schema)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as exc:
        raise CorruptCheckpoint(
            f"weights fit the model of their parameters; those of {path} do not: {exc}"
        ) from exc
    return TrainedModel(model.to(device).eval(), _loss(config).to(device), config, metrics)


def load_best(path: Path, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the weights of a `best.pt` whose scores are on record, without building the model.

    Args:
        path: of the checkpoint.
        epoch: after which it was tested, as the record has it.

    Returns:
        Parameters that it was trained with, all of them, and weights.

    Raises:
        CorruptCheckpoint: the file is not a whole checkpoint, or of another epoch.
        InvalidConfig: its parameters are not those of this version's components.
    """
    params, weights, metrics = _parts(path, "cpu")
    if metrics.get("epoch") != epoch:
        raise CorruptCheckpoint(
            f"{path} is of epoch {metrics.get('epoch')}, and the scores on record are of epoch {epoch}"
        )
    return TrialConfig.completed(params, FORMERLY).resolved(), weights


def _parts(path: Path, device: torch.device | str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read parameters, weights and metrics of a `best.pt`.

    Raises:
        CorruptCheckpoint: it does not hold them.
    """
    state = load_checkpoint(path, device)
    try:
        params, weights, metrics = state["params"], state["model"], state["metrics"]
    except KeyError as exc:
        raise CorruptCheckpoint(
            f"a best checkpoint holds params, model and metrics; {path} lacks {exc}"
        ) from exc
    if not (isinstance(params, dict) and isinstance(weights, dict) and isinstance(metrics, dict)):
        raise CorruptCheckpoint(
            f"params, model and metrics of a checkpoint are dicts; those of {path} are not"
        )
    return params, weights, metrics


def _loss(config: TrialConfig) -> Loss:
    """The trial's own; a fitted model, which has none, is judged by its cross-entropy."""
    if config.fitted:
        return build_loss("cross_entropy", {})
    loss: Loss = LOSSES[config.training.loss].build(config.components["loss"])
    return loss
