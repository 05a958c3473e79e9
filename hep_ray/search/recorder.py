"""The driver's one hand that writes: journal first, then whoever listens (MLflow, the progress display)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback

from hep_ray.search.definition import Search
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, Record, SearchStarted, Status, TrialFinished
from hep_ray.training.checkpoint import BEST, LAST

KEEP_BEST = 10
"""Trials whose best model stays on disk."""
FAILURE = "failure"
"""Key of a trial's last result that tells why it failed."""
METRICS = "metrics"
"""Key of a trial's result that holds the epoch's metrics."""
ENDED = "ended"
"""Key of a result: the trial has done all that it had to."""


class Recorder(Callback):
    """Turns what Tune reports into records.

    Args:
        journal: open journal; its records are folded into `state` first.
        goal: metric and mode of the ranking that decides which models are kept.
        epochs: full length of a trial.
        trials_folder: one folder per trial, with its checkpoints.
        listeners: called with every new record, after it is on disk.
        keep: trials, best first, whose best model stays on disk.
    """

    def __init__(
        self,
        journal: Journal,
        goal: Search | SearchStarted,
        epochs: int,
        trials_folder: Path,
        listeners: Sequence[Callable[[Record], None]] = (),
        keep: int = KEEP_BEST,
    ) -> None:
        self.state = SearchState.fold(journal)
        self._journal = journal
        self._goal = goal
        self._keep = keep
        self._epochs = epochs
        self._trials_folder = trials_folder
        self.listeners = list(listeners)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to restore them, and here the journal restores."""
        return {}

    def write(self, record: Record) -> None:
        """Journal a record, then tell everyone."""
        self._journal.append(record)
        self.state.apply(record)
        for listener in self.listeners:
            listener(record)

    @contextmanager
    def listening(self, listener: Callable[[Record], None]) -> Iterator[None]:
        """Within, a listener more."""
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    def finish(self, trial_id: str, cause: str = "", *, ended: bool = False) -> None:
        """Record the end of a trial: failed when there is a cause, stopped when it had epochs left to do.

        Args:
            trial_id: which one.
            cause: of its failure.
            ended: it ended by itself, its patience being at its end before its last epoch.
        """
        trial = self.state.trials[trial_id]
        if trial.finished is not None:
            return
        whole = ended or len(trial.history) >= self._epochs
        status: Status = "failed" if cause else "completed" if whole else "stopped"
        self.write(TrialFinished(time=time.time(), trial_id=trial_id, status=status, cause=cause))
        self._tidy(trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Record an epoch; one that a resumed trial repeats is already there."""
        trial_id = trial.config["trial_id"]
        metrics = result.get(METRICS)
        if metrics and metrics["epoch"] > len(self.state.trials[trial_id].history):
            self.write(EpochFinished(time=time.time(), trial_id=trial_id, metrics=metrics))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the end of a trial that Tune let end."""
        result = trial.last_result
        self.finish(trial.config["trial_id"], result.get(FAILURE, ""), ended=result.get(ENDED, False))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the end of a trial whose worker died more often than Tune tries again."""
        error = trial.get_pickled_error() or trial.get_error()
        self.finish(trial.config["trial_id"], f"worker lost: {error or 'no cause given'}")

    def _tidy(self, ended: str) -> None:
        (self._trials_folder / ended / LAST).unlink(missing_ok=True)
        ranked = self.state.ranked(self._goal.metric, self._goal.mode)
        for trial in [trial for trial in ranked if trial.finished][self._keep :]:
            (self._trials_folder / trial.trial_id / BEST).unlink(missing_ok=True)
