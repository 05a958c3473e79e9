"""Single writer of a search: the journal first, then its listeners (MLflow, the progress display)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper

from hep_ray.errors import StorageError
from hep_ray.files import UNFINISHED, remove_abandoned
from hep_ray.search.failures import hung, last_attempt, loss, loss_kind, tail
from hep_ray.search.options import in_words
from hep_ray.search.state import ENDLESS, SearchState
from hep_ray.search.trial import ENDED, FAILURE, FAILURE_KIND, METRICS, UNSTORED, USED
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import (
    EpochFinished,
    Failure,
    Record,
    Status,
    TimeBudgetSpent,
    TrialFinished,
    TrialLost,
)
from hep_ray.training.checkpoint import BEST, KEEP_BEST, LAST

TRIES_AGAIN = 3
"""Times in a row, with no epoch between them, that a trial is tried again after the loss of its process or node."""
TRIES_AGAIN_HUNG = 1
"""The same after an epoch that took too long: what hangs twice at the same place costs no third wait."""


NAMED = 5
"""Trials that are named beside a spent time budget."""


class TimeBudget(Stopper):
    """Clock of one attempt at a search, which Tune asks after every epoch whether the trial is to stop.

    Args:
        seconds: from now on; None is no limit.

    Attributes:
        seconds: the same.
        stopped: trials that were stopped for it; in the journal they have not ended.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._close: Callable[[], None] = lambda: None
        self.stopped: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles what stops it to restore it, and here the journal restores."""
        return {}

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._deadline

    def closing(self, close: Callable[[], None]) -> TimeBudget:
        """Return this clock, which calls `close` once the time is over, before another trial is asked for."""
        self._close = close
        return self

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Tell Tune whether a trial stops after this epoch."""
        if self.spent:
            self._close()
        return self.spent

    def stop_all(self) -> bool:
        """Tell Tune to stop nothing in the midst of an epoch."""
        return False


class Recorder(Callback):
    """Callback of Tune that turns what it reports into records.

    Args:
        journal: open journal; its records are folded into `state` first.
        metric: of the ranking that decides which models are kept.
        mode: whether more or less of it is better.
        epochs: full length of a trial.
        trials_folder: one folder per trial, with its checkpoints.
        listeners: called with every new record, after it is on disk.
        keep: trials, best first, whose best model stays on disk.
        epoch_timeout: of the trials, s, for the words in which one is recorded that took longer.
        time_budget: seconds from now on after which trials stop; None is no limit.

    Attributes:
        budget: clock of this attempt.
        storage_error: why the storage takes no more records; Tune tells only its text.
    """

    def __init__(
        self,
        journal: Journal,
        metric: str,
        mode: str,
        epochs: int,
        trials_folder: Path,
        listeners: Sequence[Callable[[Record], None]] = (),
        keep: int = KEEP_BEST,
        epoch_timeout: float = math.inf,
        *,
        time_budget: float | None = None,
    ) -> None:
        self.state = SearchState.fold(journal)
        self._epoch_timeout = epoch_timeout
        self.budget = TimeBudget(time_budget)
        self.storage_error: StorageError | None = None
        self._given_back: Counter[str] = Counter()
        self._to_run_again: set[str] = set()
        self._told: set[str] = set()
        """Trials whose last loss, since which no epoch ended, is recorded."""
        self._journal = journal
        self._metric, self._mode = metric, mode
        self._keep = keep
        self._kept: list[str] = []
        """Ended trials whose best model stays on disk, best first."""
        self._epochs = epochs
        self._trials_folder = trials_folder
        self.listeners = list(listeners)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks to restore them, and here the journal restores."""
        return {}

    def write(self, record: Record) -> None:
        """Journal a record, then tell everyone.

        Raises:
            StorageError: the storage does not take it; nobody is told.
        """
        try:
            self._journal.append(record)
        except StorageError as exc:
            self.storage_error = exc
            raise
        self.state.apply(record)
        for listener in self.listeners:
            listener(record)
        if isinstance(record, TrialFinished):
            self._tidy(self._trials_folder / record.trial_id, record.trial_id)

    @contextmanager
    def listening(self, listener: Callable[[Record], None]) -> Iterator[None]:
        """Add a listener for as long as the block runs."""
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    def finish(
        self, trial_id: str, cause: str = "", *, failure: Failure | None = None, ended: bool = False
    ) -> None:
        """Record the end of a trial: failed when there is a cause, stopped when it had epochs left to do.

        Args:
            trial_id: which one.
            cause: of its failure.
            failure: of what kind it was.
            ended: it ended by itself, its patience being at its end before its last epoch.
        """
        trial = self.state.trials[trial_id]
        if trial.finished is not None:
            return
        whole = ended or len(trial.history) >= self._epochs
        status: Status = "failed" if cause else "completed" if whole else "stopped"
        log = tail(self._log(trial_id)) if cause else ""
        self.write(
            TrialFinished(
                time=time.time(), trial_id=trial_id, status=status, cause=cause, log=log, failure=failure
            )
        )

    def sweep(self) -> None:
        """Remove what processes that were killed left half-written, and checkpoints of trials that had ended."""
        ended = [trial.trial_id for trial in self.state.trials.values() if trial.finished is not None]
        self._tidy(self._trials_folder.parent, *ended)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Record an epoch, unless the scheduler has had it recorded."""
        self.take(trial, result)

    def take(self, trial: Any, result: dict[str, Any]) -> None:
        """Record an epoch; one that a resumed trial repeats is already there."""
        if self.hear(trial.config["trial_id"], result):
            trial.run_metadata.num_failures = 0  # Tune counts losses over a trial's whole life, days long

    def hear(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record the epoch of a result; return whether it is a new one."""
        metrics = dict(result.get(METRICS, ()))
        if not metrics or metrics["epoch"] <= len(self.state.trials[trial_id].history):
            return False
        used = dict(result.get(USED, ()))
        self.write(EpochFinished(time=time.time(), trial_id=trial_id, metrics=metrics, **used))
        self._told.discard(trial_id)
        return True

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the end of a trial that Tune let end; one that pauses goes on later.

        Raises:
            StorageError: it ended because the storage is full: it is not recorded as failed, and goes on later.
        """
        self.end(trial.config["trial_id"], trial.last_result)

    def end(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the end of a trial, given its last result.

        Raises:
            StorageError: see `on_trial_complete`.
        """
        if unstored := result.get(UNSTORED):
            self.storage_error = StorageError(
                f"{unstored}; every finished epoch is kept: make room, then resume"
            )
            raise self.storage_error
        if self.state.trials[trial_id].paused:
            return
        whole = result.get(ENDED, False) or result.get("epoch", 0) >= self._epochs
        if self.budget.spent and not whole and FAILURE not in result:
            self.budget.stopped.add(trial_id)
            return
        self.finish(
            trial_id,
            result.get(FAILURE, ""),
            failure=result.get(FAILURE_KIND),
            ended=result.get(ENDED, False),
        )

    def lose(self, trial_ids: Sequence[str], told: str) -> str:
        """Record that the process of several trials was lost, and return why.

        Args:
            trial_ids: those that had not ended; what the process wrote is in the log of one of them.
            told: what Ray says of it.
        """
        logs = {trial_id: self._log(trial_id) for trial_id in trial_ids}
        log = next((one for one in logs.values() if hung(one)), logs[trial_ids[0]])
        cause = loss(told, log, self._epoch_timeout)
        for trial_id in trial_ids:
            epoch = len(self.state.trials[trial_id].history)
            self.write(
                TrialLost(time=time.time(), trial_id=trial_id, epoch=epoch, cause=cause, log=tail(log))
            )
        return cause

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record that a trial's process or node was lost and that Tune tries it again."""
        if hung(self._tell_loss(trial)):
            trial.run_metadata.num_failures += TRIES_AGAIN - TRIES_AGAIN_HUNG

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the end of a trial whose process was lost more often than it is tried again.

        Tune gives up a trial at once whose process died while it waited for work, between the trial before and this
        one: it hears of that twice, and takes the second time for an error while the trial is not running. Such a
        trial is given back, for another Tune run.
        """
        trial_id = trial.config["trial_id"]
        if trial.run_metadata.num_failures <= TRIES_AGAIN and self._given_back[trial_id] < TRIES_AGAIN:
            self._given_back[trial_id] += 1
            self._to_run_again.add(trial_id)
            if trial_id not in self._told:
                self._tell_loss(trial)
            return
        state = self.state.trials[trial_id]
        epoch = len(state.history)
        times = 1 + sum(loss.epoch == epoch for loss in state.losses)
        log = self._log(trial_id)
        self.finish(
            trial_id,
            f"{self._cause(trial, log)} ({times} times in a row in epoch {epoch + 1})",
            failure=loss_kind(_told(trial), log),
        )

    def out_of_time(self, trials: int) -> str:
        """Record that the time budget is spent, and return in words what was not done; empty while it is not.

        Args:
            trials: that were to be trained.
        """
        if not self.budget.spent:
            return ""
        names, seconds = sorted(self.budget.stopped), self.budget.seconds or 0.0
        self.write(TimeBudgetSpent(time=time.time(), seconds=seconds, stopped=tuple(names)))
        ended = sum(trial.finished is not None for trial in self.state.drawn())
        listing = ", ".join(names[:NAMED] + ["…"] * (len(names) > NAMED))
        stopped = f"; {len(names)} stopped at the budget after an epoch ({listing})" if names else ""
        of = "" if trials >= ENDLESS else f" of {trials}"
        return (
            f"the time budget of {in_words(seconds)} is spent: {ended}{of} trials have ended{stopped}: go on "
            f"with --resume, and --time-budget {in_words(seconds)} for as long again"
        )

    def given_back(self) -> bool:
        """Return whether Tune gave up trials that another Tune run is to train; asked once per run."""
        again = {trial.trial_id for trial in self.state.unfinished()} & self._to_run_again
        self._to_run_again.clear()
        return bool(again)

    def _tell_loss(self, trial: Any) -> str:
        """Record a loss; returns what the process wrote."""
        trial_id = trial.config["trial_id"]
        log = self._log(trial_id)
        epoch = len(self.state.trials[trial_id].history)
        cause = self._cause(trial, log)
        self._told.add(trial_id)
        self.write(TrialLost(time=time.time(), trial_id=trial_id, epoch=epoch, cause=cause, log=tail(log)))
        return log

    def _log(self, trial_id: str) -> str:
        return last_attempt(self._trials_folder / trial_id)

    def _cause(self, trial: Any, log: str) -> str:
        return loss(_told(trial), log, self._epoch_timeout)

    def _tidy(self, folder: Path, *ended: str) -> None:
        """Remove what lies half-written in a folder, what ended trials went on from, and models no longer the best."""
        remove_abandoned(folder.rglob(UNFINISHED))
        for trial_id in ended:
            (self._trials_folder / trial_id / LAST).unlink(missing_ok=True)
        ranked = sorted(
            {*self._kept, *ended},
            key=lambda trial_id: self.state.place(self.state.trials[trial_id], self._metric, self._mode),
        )
        self._kept = ranked[: self._keep]
        for trial_id in ranked[self._keep :]:
            (self._trials_folder / trial_id / BEST).unlink(missing_ok=True)


def _told(trial: Any) -> str:
    """Return what Ray said when it lost a trial the last time."""
    told = Path(trial.error_file) if trial.error_file else None
    text = told.read_text(encoding="utf-8") if told and told.exists() else ""
    return text.rpartition("Failure # ")[2]
