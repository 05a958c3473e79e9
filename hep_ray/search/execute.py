"""Execute a plan: let Tune train its trials, with everything told to the recorder, and rank them."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.console import Console

from hep_ray.cluster import connect
from hep_ray.conversion.folds import open_folds
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import HepRayError, StorageError, TrackingUnavailable
from hep_ray.loading.stream import open_events, open_others
from hep_ray.search.definition import Stated, stated_in
from hep_ray.search.draws import seedless
from hep_ray.search.fused import AHEAD, OFF, StackTrainer
from hep_ray.search.leaderboard import leaderboard, write_leaderboard
from hep_ray.search.local_fits import fit_processes, fit_trials
from hep_ray.search.means import differ_by
from hep_ray.search.plan import SearchPlan, TrainingPlan
from hep_ray.search.progress import Progress
from hep_ray.search.recorder import TRIES_AGAIN, Recorder
from hep_ray.search.sampler import JournalSearcher
from hep_ray.search.state import SearchState, counted, judge
from hep_ray.search.trial import TrialJob
from hep_ray.search.worker_group import trainable
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.mlflow import MlflowTracker
from hep_ray.tracking.records import SearchFinished

Publish = Callable[[SearchState, Mapping[str, str]], Path | None]
"""Writes what was found, given that and trial id → MLflow run id; returns the file, None where it is too early."""


@dataclass(frozen=True)
class SearchResult:
    """Result of an executed plan.

    Attributes:
        state: every trial with its history.
        published: the file that tells it: `leaderboard.json`, or `confirmation.json`.
        tracking_uri: where MLflow holds the same.
        parent_run_id: MLflow's parent run; None while MLflow has none.
        untracked: why MLflow does not hold all of it yet; None where it does.
        out_of_time: what was not done in the time budget; empty where everything was.
    """

    state: SearchState
    published: Path
    tracking_uri: str
    parent_run_id: str | None = None
    untracked: TrackingUnavailable | None = None
    out_of_time: str = ""

    @property
    def leaderboard(self) -> Path:
        """Path of `leaderboard.json`."""
        return self.published

    @property
    def stated(self) -> Stated | None:
        """Return what the search stated when it began; None where a journal of an earlier version does not say."""
        started = self.state.started
        return None if started is None or started.stated is None else stated_in(started)

    @property
    def few_seeds(self) -> str:
        """Say that what leads has fewer seeds than a search may train it with; empty where it has as many."""
        started = self.state.started
        if started is None or self.state.repeats == 1:
            return ""
        best = next(iter(self.state.ranked(started.metric, started.mode)), None)
        most, seeds = self.state.repeats, 0 if best is None else counted(self.state.seeds_of(best))
        if best is None or seeds >= most or (seedless(best) and not started.folds):
            return ""
        kind = differ_by(self.state)
        return f"{best.trial_id} leads with {seeds} of {most} {kind}: --resume --trials N, or confirm"


def run_search(plan: SearchPlan, *, resume: bool = False, console: Console | None = None) -> SearchResult:
    """Train every trial of a plan that has not ended yet, and rank them.

    Args:
        plan: checked by `prepare`.
        resume: go on with the search that the storage holds.
        console: where progress is shown.

    Raises:
        StorageError: the storage holds a search already and `resume` is off, or takes no more while it runs.
        CannotResume: there is none, or it is another search than this one.
        TrackingUnavailable, Interrupted, SearchFailed: see `execute`.
    """
    console = console or Console(stderr=True)
    done = execute(
        dataclasses.replace(plan, resume=resume),
        console,
        publish=lambda state, run_ids: write_leaderboard(plan.folder, leaderboard(state, run_ids)),
    )
    if done.out_of_time:
        beside(console)(done.out_of_time)
    return done


def execute(
    plan: TrainingPlan,
    console: Console,
    *,
    publish: Publish,
    when_trained: Callable[[Recorder], None] | None = None,
) -> SearchResult:
    """Train every trial of a plan that has not ended yet.

    An MLflow server that is away, at the start, in the middle or at the end, stops nothing: the result says so.

    Args:
        plan: what is trained.
        console: where progress is shown.
        publish: writes what was found, also when the trials were interrupted.
        when_trained: called once all trials have ended, before it is recorded that they have.

    Raises:
        StorageError: another process holds the journal, or the storage takes no more.
        TrackingUnavailable: MLflow refuses the trials before they start, and always will.
        Interrupted: Ctrl-C; the trials can go on.
        SearchFailed: every trial failed.
    """
    untracked: TrackingUnavailable | None = None
    with Journal(plan.folder) as journal, fit_processes(plan.resources) as lines:
        recorder = Recorder(
            journal,
            plan.metric,
            plan.mode,
            plan.epochs,
            plan.folder / "trials",
            keep=plan.keep,
            epoch_timeout=plan.epoch_timeout,
            time_budget=plan.time_budget,
        )
        state = recorder.state
        records = plan.opening(state, beside(console))
        recorder.sweep()
        tracker = MlflowTracker(
            plan.tracking_uri, plan.experiment, plan.storage / "mlartifacts", beside(console)
        )
        tracker.replay(journal)
        recorder.listeners.append(tracker.record)
        for record in records:
            recorder.write(record)
        done, out_of_time = False, ""
        try:
            try:
                done = _train(plan, recorder, console, lines)
                if done:
                    if when_trained is not None:
                        when_trained(recorder)
                    if not state.finished:
                        recorder.write(SearchFinished(time=time.time()))
                else:
                    out_of_time = recorder.out_of_time(plan.trials)
            except KeyboardInterrupt:  # a second one, while Tune was ending the first way
                judge(state, plan.trials, plan.to_go_on)
                raise
            finally:
                untracked = _untracked(tracker.close)
                published = publish(state, tracker.run_ids)
            if published is not None:
                untracked = untracked or _untracked(partial(tracker.attach, published))
            if not out_of_time:
                judge(state, len(state.trials) if done else plan.trials, plan.to_go_on)
            assert published is not None
        except BaseException:
            if untracked is not None:
                beside(console)(str(untracked))
            raise
    return SearchResult(state, published, plan.tracking_uri, tracker.parent_run_id, untracked, out_of_time)


def _train(
    plan: TrainingPlan, recorder: Recorder, console: Console, lines: Sequence[Connection] = ()
) -> bool:
    """Let Tune train what is left, as often as it gives trials up that it has to train again.

    Args:
        plan: what is trained.
        recorder: told everything.
        console: where progress is shown.
        lines: to processes of this machine that train before it; none where it trains all.

    Returns:
        Whether nothing is left.
    """
    tell = _once(beside(console))
    stacked: set[str] = set()
    """Trials that were trained together: what this attempt has left of them is trained one by one."""
    while True:
        searcher = plan.searcher(recorder.state, recorder.write)
        tell(searcher.warnings())
        with recorder.listening(searcher.record):
            searcher.settle(plan.epochs, recorder.finish)
            if not searcher.has_work():
                searcher.end()
                return True
            if recorder.budget.spent:
                return False
            together = _train_stacks(plan, recorder, searcher, console, stacked)
            stacked |= together
            lost = False
            if lines:
                job = _job(plan, recorder.state, here=True)
                with _shown(plan, recorder, console, searcher.epochs_in_all):
                    lost = fit_trials(lines, job, recorder, searcher)
                lines = ()
            elif not together:
                _tune(plan, recorder, searcher, console)
            tell(searcher.doubts())
            if together or lost or recorder.given_back():
                continue
            if recorder.state.running() or searcher.has_work():
                return False
            if not searcher.bounded:
                searcher.end()
                return True


def _once(say: Callable[[str], None]) -> Callable[[Iterable[str]], None]:
    """Return what says sentences, each once."""
    told: set[str] = set()

    def tell(sentences: Iterable[str]) -> None:
        for sentence in sentences:
            if sentence not in told:
                say(sentence)
            told.add(sentence)

    return tell


def _train_stacks(
    plan: TrainingPlan, recorder: Recorder, searcher: JournalSearcher, console: Console, stacked: set[str]
) -> set[str]:
    """Train those together that can be and were not stacked yet; whatever is left of them is trained one by one.

    Returns:
        Ids of those that were begun so.

    Raises:
        StorageError: the storage is full, or cannot be written any more.
    """
    if plan.fuse == OFF or plan.resources.here:  # what is fitted is never stacked
        return set()
    job, resources = _job(plan, recorder.state), plan.resources
    runs = [run for run in searcher.ahead(AHEAD) if run.trial_id not in stacked]
    with _shown(plan, recorder, console):
        return StackTrainer(
            job, resources, recorder, searcher.after_epoch, fuse=plan.fuse, say=beside(console)
        ).train(runs)


def _job(plan: TrainingPlan, state: SearchState, *, here: bool = False) -> TrialJob:
    """Return the settings that all trials share, with the events in this process' memory where they train `here`."""
    resources = plan.resources
    if not here:
        connect()  # where processes of this machine were lost, nothing has yet
    assert state.started is not None
    folds = tuple(open_events(one, resources.ingest, here=here) for one in _folds(plan))
    return TrialJob(
        trials_folder=str(plan.folder.resolve() / "trials"),
        schema=plan.dataset.schema,
        data=folds[0] if folds else open_events(plan.dataset, resources.ingest, here=here),
        folds=folds,
        watched=plan.watched
        if plan.watched is None
        else open_events(plan.watched, resources.ingest, ("val",), here=here),
        others=open_others(plan.others, resources.ingest, "val", here=here),
        epochs=plan.epochs,
        until=plan.until,
        deterministic=plan.deterministic,
        compiling=plan.compiling,
        metric=plan.metric,
        mode=plan.mode,
        cpus=resources.cpus_per_trial,
        gpu=resources.gpus_per_trial > 0,
        epoch_timeout=plan.epoch_timeout,
        plugins=plan.plugins,
        gpu_share=min(resources.gpus_per_trial, 1.0) or 1.0,
        unstated=state.started.unstated,
    )


def _folds(plan: TrainingPlan) -> tuple[Dataset, ...]:
    """Return the folds of a plan, made where they are not there; none where no parts of the events take turns."""
    if plan.folds is None:
        return ()
    weighted = plan.dataset.schema.weight is not None
    return open_folds(plan.dataset, plan.folds, plan.folder, weights=weighted)


@contextmanager
def _shown(
    plan: TrainingPlan, recorder: Recorder, console: Console, epochs_in_all: int | None = None
) -> Iterator[None]:
    """Within, the progress is shown, and the head and the storage are watched."""
    total = max(plan.trials, len(recorder.state.trials))
    with (
        named_when_full(plan.folder),
        head_watchdog(console, plan.to_go_on) if ray.is_initialized() else nullcontext(),
        Progress(
            recorder.state, total, plan.epochs, plan.metric, plan.mode, console, epochs_in_all
        ) as progress,
        recorder.listening(progress.record),
    ):
        yield


@contextmanager
def signals_restored() -> Iterator[None]:
    """Let SIGINT and SIGUSR1 do afterwards what they did before.

    Tune leaves its own handlers, which would take the next Ctrl-C, as of an evaluation that follows, and end nothing.
    """
    numbers = (signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # None: not set by Python
                    signal.signal(number, handler)


def _tune(
    plan: TrainingPlan,
    recorder: Recorder,
    searcher: JournalSearcher,
    console: Console,
) -> None:
    """Let Tune train trials on the training split until the searcher has none left.

    Raises:
        StorageError: the storage is full, or cannot be written any more.
    """
    state, resources = recorder.state, plan.resources
    job = _job(plan, state)
    scratch = plan.folder.resolve() / ".tune"
    tune_config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=FollowsSearcher(searcher, recorder.take),
        num_samples=-1 if searcher.pauses or plan.folds else state.to_run(plan.trials),
        max_concurrent_trials=resources.concurrent,
        reuse_actors=True,
    )
    run_config = tune.RunConfig(
        name=plan.folder.name,
        storage_path=str(scratch),
        callbacks=[recorder],
        stop=recorder.budget.closing(searcher.close),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        failure_config=tune.FailureConfig(max_failures=TRIES_AGAIN),
        verbose=0,
    )
    try:
        with (
            signals_restored(),
            _shown(plan, recorder, console, searcher.epochs_in_all),
            memory_kills_are_losses(),
            trainable(job, resources, scratch) as actor,
        ):
            tune.Tuner(actor, tune_config=tune_config, run_config=run_config).fit()
    except Exception as exc:
        if recorder.storage_error is not None:
            raise recorder.storage_error from None
        # A named error, as of a scheduler of the user's own, that Tune wrapped into its own.
        if (fault := next((one for one in _chain(exc) if isinstance(one, HepRayError)), None)) is not None:
            raise fault from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class FollowsSearcher(FIFOScheduler):
    """Scheduler that Tune sees: it asks the searcher, once an epoch is recorded.

    Args:
        searcher: decides.
        take: records the result of a trial, if it is new.
    """

    def __init__(self, searcher: JournalSearcher, take: Callable[[Any, dict[str, Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher, self._take = searcher, take

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None that would have to run next: Tune starts trials in their order, each on a worker that is free.

        A trial named here would take the first free worker, and Tune would kill the one that is starting for it:
        where trials are shorter than the start of a worker, no second one would ever come up.
        """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Decide after an epoch whether the trial goes on."""
        self._take(trial, result)
        decision = self._searcher.after_epoch(trial.config["trial_id"])
        return str(TrialScheduler.CONTINUE if decision == "go on" else TrialScheduler.STOP)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, then the one that it came of, and so on."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def beside(console: Console) -> Callable[[str], None]:
    """Tell something beside the progress display."""
    return partial(console.print, highlight=False, soft_wrap=True, markup=False)


def _untracked(work: Callable[[], None]) -> TrackingUnavailable | None:
    """Do a tracker's last work; what MLflow does not take is told when everything else is done."""
    try:
        work()
    except TrackingUnavailable as exc:
        return exc
    return None


LOOK_SECONDS = 3.0
"""Between two looks for the head."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable for how long a process looks for the head before it aborts; we speak before that."""
RECONNECT_SECONDS = 60.0
SHARE = 0.75
"""Of that time that passes before the driver ends itself."""


@contextmanager
def head_watchdog(console: Console, to_go_on: str) -> Iterator[None]:
    """Abort with exit code 1 when the Ray head stops responding for most of a minute.

    Ray itself aborts after a minute, with a line about its own logs. Everything that was finished is in the journal, so
    nothing is to be saved first. A head that comes back in time, as one with a Redis behind it does, is found again.
    The time follows Ray's own, `RAY_gcs_rpc_server_reconnect_timeout_s`.

    Args:
        console: told why.
        to_go_on: what to type then.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    over = threading.Event()
    patience = SHARE * float(os.environ.get(RECONNECT) or RECONNECT_SECONDS)
    told = (host.strip("[]"), int(port), patience, over, console, to_go_on)
    watcher = threading.Thread(target=_watch, args=told, name="head-watchdog", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(
    host: str, port: int, patience: float, over: threading.Event, console: Console, to_go_on: str
) -> None:
    answered = time.monotonic()
    while not over.wait(LOOK_SECONDS):
        if _answers(host, port):
            answered = time.monotonic()
        elif time.monotonic() - answered > patience:
            text = (
                f"error: the Ray head at {host}:{port} has not answered for {patience:.0f} s; every finished epoch is "
                f"kept: start the cluster again, then {to_go_on}"
            )
            console.show_cursor()
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=LOOK_SECONDS).close()
    except OSError:
        return False
    return True


HOOK = "_actor_task_failed"
"""Tune's method that is given each error of an actor; there is no public place to tell it apart."""


@contextmanager
def memory_kills_are_losses() -> Iterator[None]:
    """Let Tune take a process that was ended for its node's memory as it takes any that died.

    Ray raises `OutOfMemoryError` for it, which is no `RayActorError`; Tune (2.60) knows no other error of an actor, and
    ends the whole search with a `RuntimeError`.
    """
    failed = getattr(RayActorManager, HOOK)

    def as_loss(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    setattr(RayActorManager, HOOK, as_loss)
    try:
        yield
    finally:
        setattr(RayActorManager, HOOK, failed)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}


@contextmanager
def named_when_full(folder: Path) -> Iterator[None]:
    """Name a full or read-only storage, however deep in Ray or SQLite it was met.

    Where the error of a library, or of another process, has no number that says so, the storage is tried.

    Raises:
        StorageError: the block failed for want of room.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as exc:
        full = next((one for one in _chain(exc) if _is_full(one)), None) or _refusal(folder)
        if full is None:
            raise
        raise StorageError(
            f"cannot write to {folder} any more: {full}; every finished epoch is kept: make room, then resume"
        ) from exc


def _is_full(exc: BaseException) -> bool:
    code = getattr(exc, "sqlite_errorcode", None) if isinstance(exc, sqlite3.Error) else None
    return code in _SQLITE_FULL or (isinstance(exc, OSError) and exc.errno in _FULL)


def _refusal(folder: Path) -> OSError | None:
    """Return why a little cannot be written to a folder; None where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return exc if _is_full(exc) else None
    return None
