"""The warm actor that runs trials one after another, each from its own seed and its own checkpoint."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune

from hep_ray.data.events import EventSchema
from hep_ray.data.stream import ResidentData
from hep_ray.errors import HepRayError
from hep_ray.search.recorder import ENDED, FAILURE, METRICS
from hep_ray.training.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.fitted import FittedLoop, start_trial
from hep_ray.training.loop import TrialLoop


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search share.

    Attributes:
        trials_folder: one folder per trial, on storage that every node sees.
        schema: classes and columns.
        data: handle of the resident events.
        epochs: full length of a trial.
        metric: key that decides which epoch's model is kept.
        mode: whether more or less of it is better.
        cpus: threads of one trial.
        gpu: whether the trial holds (part of) a GPU.
    """

    trials_folder: str
    schema: EventSchema
    data: ResidentData
    epochs: int
    metric: str
    mode: Literal["max", "min"]
    cpus: int
    gpu: bool


class TrialActor(tune.Trainable):
    """One worker process: imports once, then trains trial after trial.

    Nothing of a trial outlives it: the loop (model, optimizer, random state) is built anew from
    the next trial's parameters. A trial whose folder holds a checkpoint goes on from there.
    """

    _failure: str

    def setup(self, config: dict[str, Any], job: TrialJob) -> None:  # type: ignore[override]
        """Join the data and start the first trial."""
        self._job = job
        torch.set_num_threads(job.cpus)
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in this process."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; a failure ends this trial, not the actor and not the search."""
        if not self._failure:
            try:
                return self._report()
            except Exception as fault:  # noqa: BLE001 - recorded as the trial's cause of failure
                self._failure = _cause(fault)
        return {FAILURE: self._failure, "epoch": 0, "done": True}

    def _start(self, config: dict[str, Any]) -> None:
        self._failure = ""
        self._folder = Path(self._job.trials_folder) / config["trial_id"]
        self._best: float | None = None
        self._unreported: dict[str, float] | None = None
        try:
            self._loop = self._build(config)
            if (self._folder / LAST).exists():
                self._resume(load_checkpoint(self._folder / LAST))
        except Exception as fault:  # noqa: BLE001 - reported by the first step
            self._failure = _cause(fault)

    def _build(self, config: dict[str, Any]) -> TrialLoop | FittedLoop:
        job = self._job
        return start_trial(
            TrialConfig.from_params(config["params"]),
            job.schema,
            job.data.events("train"),
            job.data.events("val"),
            epochs=job.epochs,
            seed=config["seed"],
            device="cuda" if job.gpu else "cpu",
        )

    def _resume(self, state: dict[str, Any]) -> None:
        self._loop.load_state_dict(state["loop"])
        self._best = state["best"]
        self._unreported = state["metrics"]

    def _report(self) -> dict[str, Any]:
        """An epoch's result; after a resume first that of the checkpoint, which the driver may not have seen."""
        if self._unreported is not None:
            metrics, self._unreported = self._unreported, None
        else:
            metrics = self._loop.run_epoch()
            self._save(metrics)
        return {
            METRICS: metrics,
            "epoch": int(metrics["epoch"]),
            self._job.metric: metrics[self._job.metric],
            ENDED: self._loop.finished,
            "done": self._loop.finished,
        }

    def _save(self, metrics: dict[str, float]) -> None:
        value = metrics[self._job.metric]
        sign = 1 if self._job.mode == "max" else -1
        if self._best is None or sign * value > sign * self._best:
            self._best = value
            best = {"model": self._loop.kept.state_dict(), "params": self._loop.config.resolved()}
            save_checkpoint(self._folder / BEST, {**best, "metrics": metrics})
        state = {"loop": self._loop.state_dict(), "best": self._best, "metrics": metrics}
        save_checkpoint(self._folder / LAST, state)


def _cause(fault: Exception) -> str:
    """A named error speaks for itself; anything else brings its traceback."""
    text = f"{type(fault).__name__}: {fault}"
    return text if isinstance(fault, HepRayError) else text + "\n" + traceback.format_exc()
