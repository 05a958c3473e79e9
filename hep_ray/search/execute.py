"""Let Tune train trials, with everything told to the recorder; what draws them and what ends them is given."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import StorageError, TrackingUnavailable
from hep_ray.loading.stream import open_events
from hep_ray.plugins import Plugin
from hep_ray.search.options import EPOCH_TIMEOUT
from hep_ray.search.progress import Progress
from hep_ray.search.recorder import TRIES_AGAIN, Recorder
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.trial import TrialJob
from hep_ray.search.worker_group import trainable
from hep_ray.tracking.mlflow import MlflowTracker


def fit(
    dataset: Dataset,
    resources: ResourcePlan,
    folder: Path,
    *,
    epochs: int,
    metric: str,
    mode: Literal["max", "min"],
    searcher: Searcher,
    scheduler: TrialScheduler | None,
    recorder: Recorder,
    to_run: int,
    total: int,
    console: Console,
    epoch_timeout: float = EPOCH_TIMEOUT,
    plugins: tuple[Plugin, ...] = (),
    unstated: Mapping[str, Any],
) -> None:
    """Let Tune train trials on the training split until the searcher has none left.

    Args:
        dataset: training and validation split are loaded, or streamed, as the resources say.
        resources: of one trial, and how many run side by side.
        folder: of the journal; the trials' folders lie in it.
        epochs: full length of a trial.
        metric: key of the per-epoch report that decides which epoch's model is kept.
        mode: whether more or less of it is better.
        searcher: hands out each trial's id, parameters and seed.
        scheduler: ends trials early; None trains each in full.
        recorder: is told everything.
        to_run: number of trials.
        total: trials in all, with those that ended before.
        console: where progress is shown.
        epoch_timeout: seconds that an epoch may take.
        plugins: files of the user's own whose components the trials need.
        unstated: what a parameter is that a trial leaves out, where it is not today's default.

    Raises:
        StorageError: the storage is full, or cannot be written any more.
    """
    recorder.epoch_timeout = epoch_timeout
    job = TrialJob(
        trials_folder=str(folder.resolve() / "trials"),
        schema=dataset.schema,
        data=open_events(dataset, resources.ingest),
        epochs=epochs,
        metric=metric,
        mode=mode,
        cpus=resources.cpus_per_trial,
        gpu=resources.gpus_per_trial > 0,
        epoch_timeout=epoch_timeout,
        plugins=plugins,
        gpu_share=min(resources.gpus_per_trial, 1.0) or 1.0,
        unstated=unstated,
    )
    scratch = folder.resolve() / ".tune"
    tune_config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=to_run,
        max_concurrent_trials=resources.concurrent,
        reuse_actors=True,
    )
    run_config = tune.RunConfig(
        name=folder.name,
        storage_path=str(scratch),
        callbacks=[recorder],
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        failure_config=tune.FailureConfig(max_failures=TRIES_AGAIN),
        verbose=0,
    )
    try:
        with (
            stopped_by_storage(folder),
            Progress(recorder.state, total, epochs, metric, mode, console) as progress,
            recorder.listening(progress.record),
            lifeline(console),
            memory_kills_are_losses(),
            trainable(job, resources, scratch) as actor,
        ):
            tune.Tuner(actor, tune_config=tune_config, run_config=run_config).fit()
    except Exception:
        if recorder.fault is not None:
            raise recorder.fault from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def aside(console: Console) -> Callable[[str], None]:
    """A way to tell something beside the progress display."""
    return partial(console.print, highlight=False, soft_wrap=True, markup=False)


def close(tracker: MlflowTracker) -> TrackingUnavailable | None:
    """Flush the tracker; its fault is told only after the leaderboard is written."""
    try:
        tracker.close()
    except TrackingUnavailable as fault:
        return fault
    return None


def attach(tracker: MlflowTracker, artifact: Path) -> TrackingUnavailable | None:
    """Store a file with the tracker's parent run; its fault is told later."""
    try:
        tracker.attach(artifact)
    except TrackingUnavailable as fault:
        return fault
    return None


LOOK_SECONDS = 3.0
"""Between two looks for the head."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable for how long a process looks for the head before it aborts; we speak before that."""
RECONNECT_SECONDS = 60.0
SHARE = 0.75
"""Of that time that passes before the driver ends itself."""


@contextmanager
def lifeline(console: Console) -> Iterator[None]:
    """End this process, with exit code 1, where the head of its cluster does not answer for most of a minute.

    A head that comes back in time, as one with a Redis behind it does, is found again. The time follows Ray's own,
    `RAY_gcs_rpc_server_reconnect_timeout_s`.

    Args:
        console: told why.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    over = threading.Event()
    patience = SHARE * float(os.environ.get(RECONNECT) or RECONNECT_SECONDS)
    words = (host.strip("[]"), int(port), patience, over, console)
    watcher = threading.Thread(target=_watch, args=words, name="lifeline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(host: str, port: int, patience: float, over: threading.Event, console: Console) -> None:
    answered = time.monotonic()
    while not over.wait(LOOK_SECONDS):
        if _answers(host, port):
            answered = time.monotonic()
        elif time.monotonic() - answered > patience:
            text = (
                f"error: a search needs its Ray cluster; the head at {host}:{port} has not answered for "
                f"{patience:.0f} s; every finished epoch is kept: start the cluster again, then run the same "
                "command again, a search with --resume"
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
_WORDS = (
    "No space left on device",
    "database or disk is full",
    "Disk quota exceeded",
    "Read-only file system",
)
"""How libraries that hide the error's number word it."""


@contextmanager
def stopped_by_storage(folder: Path) -> Iterator[None]:
    """Name a full or read-only disk, however deep in Ray or SQLite it was met.

    Raises:
        StorageError: the block failed for want of room.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as fault:
        if not _is_full(fault):
            raise
        raise StorageError(
            f"the storage must be writable; {folder} is not any more: {_line(fault)}; every finished epoch is kept: "
            "make room, then resume"
        ) from fault


def _is_full(fault: BaseException | None) -> bool:
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in _FULL:
            return True
        if any(words in str(fault) for words in _WORDS):
            return True
        fault = fault.__cause__ or fault.__context__
    return False


def _line(fault: BaseException) -> str:
    lines = str(fault).splitlines()
    return next((line.strip() for line in lines if any(words in line for words in _WORDS)), str(fault)[:200])
