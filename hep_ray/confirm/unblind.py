"""The test split, opened: every kept model is evaluated on it by a Ray task, and each answer recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from hep_ray.cluster import result
from hep_ray.dataset.columns import EVENT_ID
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.events import EventSchema
from hep_ray.loading.stream import EventData, open_events
from hep_ray.plugins import Plugin, load
from hep_ray.search.resources import ResourcePlan
from hep_ray.tracking.records import Record, TrialTested
from hep_ray.training.testing import Outcome, evaluate_once

RESTARTS = 3
"""Times an evaluation is tried again when its worker or node dies."""


@dataclass(frozen=True)
class Opened:
    """What all evaluations share.

    Attributes:
        trials_folder: one folder per trial, on storage that every node sees.
        schema: classes and columns.
        data: handle of the test split.
        event_ids: of its events, in their order.
        cpus: threads of one evaluation.
        gpu: whether it holds (part of) a GPU.
        plugins: files of the user's own whose components the models need.
    """

    trials_folder: str
    schema: EventSchema
    data: EventData
    event_ids: pa.Array
    cpus: int
    gpu: bool
    plugins: tuple[Plugin, ...] = ()


def evaluate_all(
    dataset: Dataset,
    resources: ResourcePlan,
    trials_folder: Path,
    trial_ids: Sequence[str],
    write: Callable[[Record], None],
    plugins: tuple[Plugin, ...] = (),
) -> None:
    """Evaluate the kept model of each trial on the test split, side by side, and record each as it is done.

    Args:
        dataset: whose test split is read, with purpose `confirm`.
        resources: of one trial, which one evaluation holds too.
        trials_folder: of the trials.
        trial_ids: to evaluate; a trial whose scores are on disk is not evaluated a second time.
        write: is given a `TrialTested` for each.
        plugins: files of the user's own whose components the models need.

    Raises:
        CorruptCheckpoint, NonFiniteLoss, StorageError: see `evaluate_once`.
        WorkersLost: an evaluation's process was lost too often.
    """
    opened = ray.put(
        Opened(
            str(trials_folder.resolve()),
            dataset.schema,
            open_events(dataset, resources.ingest, ["test"], purpose="confirm"),
            _event_ids(dataset),
            resources.cpus_per_trial,
            resources.gpus_per_trial > 0,
            plugins,
        )
    )
    task = ray.remote(
        num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=RESTARTS
    )(_evaluate)
    pending = list(trial_ids)
    waiting: dict[Any, str] = {}
    while pending or waiting:
        # No more at once than were planned: evaluations that stream leave Ray Data its cores.
        while pending and len(waiting) < resources.concurrent * resources.workers_per_trial:
            trial_id = pending.pop(0)
            waiting[task.remote(opened, trial_id)] = trial_id
        (done, *_), _ = ray.wait(list(waiting))
        outcome: Outcome = result(done)
        write(
            TrialTested(
                time=time.time(),
                trial_id=waiting.pop(done),
                epoch=outcome.epoch,
                metrics=outcome.metrics,
            )
        )


def _evaluate(opened: Opened, trial_id: str) -> Outcome:
    load(opened.plugins)
    torch.set_num_threads(opened.cpus)
    return evaluate_once(
        Path(opened.trials_folder) / trial_id,
        opened.schema,
        opened.data.events("test"),
        opened.event_ids,
        "cuda" if opened.gpu else "cpu",
    )


def _event_ids(dataset: Dataset) -> pa.Array:
    shards = [pq.read_table(path, columns=[EVENT_ID]) for path in dataset.paths("test", purpose="confirm")]
    return pa.concat_tables(shards).column(EVENT_ID).combine_chunks()
