"""One trial, from its own seed and its own checkpoint, and what its process tells of it. Without Ray Tune."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import HepRayError, NonFiniteLoss, StorageError
from hep_ray.files import storing
from hep_ray.loading.stream import EventData, OtherData
from hep_ray.masking import mask
from hep_ray.metrics import metric_of
from hep_ray.own_code import defined_at, own_line
from hep_ray.plugins import Plugin, load
from hep_ray.search.failures import kind_of
from hep_ray.search.options import EPOCH_TIMEOUT
from hep_ray.tracking.records import Failure
from hep_ray.training.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint, seen_by_all
from hep_ray.training.compiled import Compile
from hep_ray.training.config import TrialConfig
from hep_ray.training.cost import Meter
from hep_ray.training.determinism import refusals_named, set_determinism
from hep_ray.training.distributed import ALONE, Communicator
from hep_ray.training.loop import VAL_LOSS, Goal, start_trial

FAILURE = "failure"
"""Key of a trial's last result that tells why it failed."""
FAILURE_KIND = "failure_kind"
"""Key beside it: of what kind."""
METRICS = "metrics"
"""Key of a trial's result that holds the epoch's metrics, as pairs."""
USED = "used"
"""Key of a trial's result that holds the seconds of processors and GPUs that the epoch used, as pairs."""
UNSTORED = "unstored"
"""Key of a result: what the storage did not take, which is no fault of the trial and ends the search."""
SEEN = "seen_"
"""Before the names of metrics, in place of `val_`, where the validation events are learnt from."""
ENDED = "ended"
"""Key of a result: the trial has done all that it had to."""


@dataclass(frozen=True)
class TrialJob:
    """Settings that all trials of a search share.

    Attributes:
        trials_folder: one folder per trial, on storage that every node sees.
        schema: classes and columns.
        data: handle of the events; those of the first fold where there are any.
        folds: handles of those of each; empty where there are none.
        epochs: full length of a trial.
        metric: key that decides which epoch's model is kept.
        mode: whether more or less of it is better.
        cpus: threads of one worker.
        gpu: whether a worker holds (part of) a GPU.
        epoch_timeout: seconds that an epoch, or the start of a trial, may take before its process is ended.
        gpu_share: of the GPU's memory that is the worker's.
        plugins: files of the user's own whose components the trials need.
        unstated: what a parameter is that a trial leaves out, where it is not today's default.
        watched: handle of the events that are evaluated after each epoch and rank nothing.
        others: of the variations that name another dataset, handle of its events.
        until: epoch after which a trial ends, whose model is kept whatever its metrics: the validation events are
            learnt from, and what is measured on them is reported under `SEEN`. None where the best epoch's is kept.
        deterministic: whether operations without a deterministic form are refused.
        compiling: whether steps are compiled where they can be.
    """

    trials_folder: str
    schema: EventSchema
    data: EventData
    epochs: int
    metric: str
    mode: Literal["max", "min"]
    cpus: int
    gpu: bool
    epoch_timeout: float = EPOCH_TIMEOUT
    gpu_share: float = 1.0
    plugins: tuple[Plugin, ...] = ()
    unstated: Mapping[str, Any] = field(default_factory=dict)
    watched: EventData | None = None
    others: Mapping[str, OtherData] = field(default_factory=dict)
    until: int | None = None
    folds: tuple[EventData, ...] = ()
    deterministic: bool = False
    compiling: Compile = "off"

    def events_of(self, fold: int) -> EventData:
        """Return the events of a fold, from 1; of 0, where there are no folds, those of all trials."""
        return self.folds[fold - 1] if fold else self.data

    def begin(self) -> None:
        """Let this process train as the job says: with so many threads, by operations of that kind."""
        torch.set_num_threads(self.cpus)
        set_determinism(self.deterministic)

    def folder(self, trial_id: str) -> Path:
        """Return the folder of a trial, with its checkpoints and its log."""
        return Path(self.trials_folder) / trial_id


class TrialRun:
    """A trial in this process, alone or as one of its workers; only the first of those writes.

    A trial whose folder holds a checkpoint goes on from there.

    Args:
        job: what all trials share.
        config: `trial_id`, `params`, `seed` and `fold`.
        device: where the model lives.
        communicator: of the trial's workers.
        heard: last epoch whose result is known to have been heard.

    Attributes:
        loop: of the trial.

    Raises:
        InvalidConfig: the parameters cannot be trained.
        NotDeterministic: the job takes deterministic operations alone, and the network has another.
        CorruptCheckpoint: the folder's checkpoint cannot be read, or is another trial's.
    """

    def __init__(
        self,
        job: TrialJob,
        config: dict[str, Any],
        device: torch.device | str,
        communicator: Communicator = ALONE,
        heard: int = 0,
    ) -> None:
        load(job.plugins)
        self._job = job
        self._folder = job.folder(config["trial_id"])
        self._writes = communicator.rank == 0
        self._best: float | None = None
        self._unreported: dict[str, float] | None = None
        self._used: dict[str, float] = {}
        self._communicator = communicator
        data = job.events_of(config.get("fold", 0))
        with refusals_named():
            self.loop = start_trial(
                TrialConfig.completed(config["params"], job.unstated),
                job.schema,
                data.events("train"),
                data.events("val"),
                epochs=job.epochs,
                seed=config["seed"],
                device=device,
                gpu_fraction=job.gpu_share,
                communicator=communicator,
                goal=Goal(job.metric, job.mode) if job.until is None else VAL_LOSS,
                until=job.until,
                compiling=job.compiling,
                watched=None if job.watched is None else job.watched.events("val"),
                others={name: one.events("val") for name, one in job.others.items()},
            )
        # Of a fitted model rank 0 alone is here.
        together = ALONE if self.loop.config.fitted else communicator
        if seen_by_all(self._folder / LAST, together):
            state = load_checkpoint(self._folder / LAST)
            self.loop.load_state_dict(state["loop"])
            self._best = state["best"]
            self._used = state.get("used", {})
            self._unreported = state["metrics"] if state["metrics"]["epoch"] > heard else None

    def report(self) -> dict[str, Any]:
        """Train an epoch and return its result; after a resume first that of the checkpoint, which may be unheard.

        Raises:
            NonFiniteLoss: the loss, or another metric, is NaN or infinite.
            NotDeterministic: see the class.
            StorageError: the checkpoint cannot be written; the former one is whole.
        """
        if (unheard := self.unheard()) is not None:
            return unheard
        with Meter(self._job.gpu_share if self._job.gpu else 0) as meter, refusals_named():
            metrics = self.loop.run_epoch()
        return self.keep(metrics, self._of_all_workers(meter))

    def unheard(self) -> dict[str, Any] | None:
        """Return the result of the checkpoint that the trial goes on from where it may be unheard, once."""
        metrics, self._unreported = self._unreported, None
        return None if metrics is None else self._result(metrics)

    def keep(self, metrics: dict[str, float], used: dict[str, float]) -> dict[str, Any]:
        """Write the checkpoints after an epoch, and return its result.

        Args:
            metrics: of the epoch.
            used: seconds of processors and GPUs that it took.

        Raises:
            NonFiniteLoss, StorageError: see `report`.
        """
        _check_finite(metrics)
        if self._job.until is not None:
            metrics = {_seen(name): value for name, value in metrics.items()}
        self._used = used
        self._save(metrics)
        return self._result(metrics)

    def _result(self, metrics: dict[str, float]) -> dict[str, Any]:
        return {
            METRICS: tuple(metrics.items()),  # Tune keeps 2 KiB of statistics of each number in a dict
            "epoch": int(metrics["epoch"]),
            self._job.metric: metrics[self._job.metric],
            USED: tuple(self._used.items()),
            ENDED: self.loop.finished,
            "done": self.loop.finished,
        }

    def _of_all_workers(self, meter: Meter) -> dict[str, float]:
        """Seconds of processors, and of GPUs where there are any, of all workers of the trial together."""
        used = {"cpu_seconds": meter.cpu_seconds, "gpu_seconds": meter.gpu_seconds}
        if not self._communicator.alone and not self.loop.config.fitted:
            parts = self._communicator.all_gather(used)
            used = {name: sum(part[name] for part in parts) for name in used}
        return {name: seconds for name, seconds in used.items() if name == "cpu_seconds" or self._job.gpu}

    def _save(self, metrics: dict[str, float]) -> None:
        value = metrics[self._job.metric]
        if self._job.until is None:
            sign = 1 if self._job.mode == "max" else -1
            improved = self._best is None or sign * value > sign * self._best
        else:
            improved = int(metrics["epoch"]) == self._job.until
        self._best = value if improved else self._best
        # Every worker gives its random state to the checkpoint, so all of them ask for it.
        state = {"loop": self.loop.state_dict(), "best": self._best, "metrics": metrics, "used": self._used}
        if not self._writes:
            return
        with storing(self._folder):
            if improved:
                best = {"model": self.loop.kept.state_dict(), "params": self.loop.config.resolved()}
                save_checkpoint(self._folder / BEST, {**best, "metrics": metrics})
            save_checkpoint(self._folder / LAST, state)


def _seen(name: str) -> str:
    """Return the name of a metric of events that are learnt from."""
    return SEEN + name.removeprefix("val_") if name.startswith("val_") else name


def _check_finite(metrics: dict[str, float]) -> None:
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        own = [
            metric_of(name.removeprefix("val_"))
            for name, value in metrics.items()
            if not math.isfinite(value)
        ]
        where = next((line for one in own if one is not None and (line := defined_at(one.compute))), "")
        raise NonFiniteLoss(
            f"{where}every metric of an epoch is finite; after epoch {metrics['epoch']:g} {', '.join(bad)}"
        )


def failure(cause: str, kind: Failure) -> dict[str, Any]:
    """Return the result of a trial that failed."""
    return {FAILURE: cause, FAILURE_KIND: kind, "epoch": 0, "done": True}


def failure_of(exc: Exception) -> dict[str, Any]:
    """Return the result of a trial that raised; a full storage is the search's fault, not the trial's."""
    unstored = {UNSTORED: str(exc)} if isinstance(exc, StorageError) else {}
    return failure(cause_of(exc), kind_of(exc)) | unstored


def cause_of(exc: Exception) -> str:
    """Return the text of an exception; of one that is no named error, the user's own line first, the traceback last."""
    text = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, HepRayError):
        return mask(text)
    line = own_line(exc)
    return mask(f"{line}: {text}" if line else text) + "\n" + mask("".join(traceback.format_exception(exc)))
