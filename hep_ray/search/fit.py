"""Let Tune train trials, with everything told to the recorder; what draws them and what ends them is given."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from hep_ray.dataset.dataset import Dataset
from hep_ray.loading.stream import open_events
from hep_ray.plugins import Plugin
from hep_ray.search.lifeline import lifeline
from hep_ray.search.memory_monitor import memory_kills_are_losses
from hep_ray.search.options import EPOCH_TIMEOUT
from hep_ray.search.progress import Progress
from hep_ray.search.recorder import TRIES_AGAIN, Recorder
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.room import stopped_by_storage
from hep_ray.search.trial_run import TrialJob
from hep_ray.search.workers import trainable


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
