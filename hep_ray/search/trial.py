"""The warm actor that runs trials one after another, each from its own seed and its own checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from ray import tune

from hep_ray.files import storing
from hep_ray.search import trial_log
from hep_ray.search.trial_run import TrialJob, TrialRun, cause_of, failure_of

__all__ = ["TrialActor", "TrialJob"]


class TrialActor(tune.Trainable):
    """One worker process: imports once, then trains trial after trial.

    Nothing of a trial outlives it: the loop (model, optimizer, random state) is built anew from
    the next trial's parameters. A trial whose folder holds a checkpoint goes on from there.
    """

    _failure: dict[str, Any]
    _run: TrialRun | None

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
        if self._run is not None:
            try:
                with trial_log.time_limit(self._job.epoch_timeout):
                    return self._run.report()
            except Exception as fault:  # noqa: BLE001 - recorded as the trial's cause of failure
                self._fail(fault)
        return self._failure

    def _start(self, config: dict[str, Any]) -> None:
        self._run, self._failure = None, {}
        try:
            with storing(self._job.folder(config["trial_id"])):
                trial_log.begin(self._job.folder(config["trial_id"]), config["trial_id"])
            with trial_log.time_limit(self._job.epoch_timeout):
                self._run = TrialRun(self._job, config, "cuda" if self._job.gpu else "cpu")
        except Exception as fault:  # noqa: BLE001 - reported by the first step
            self._fail(fault)

    def _fail(self, fault: Exception) -> None:
        """Keep the cause, and let go of everything that the trial held: its memory may be what it failed of."""
        self._run, self._failure = None, failure_of(fault)
        with suppress(OSError):  # of a full storage, which the result tells
            trial_log.write(cause_of(fault))
