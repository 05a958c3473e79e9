"""Fitted models, trained by processes of this machine where there is no cluster to join: Ray is not started for them.

Ray and its workers take tens of processor seconds before the first of twenty fits, which take ten. What decides (the
searcher), what is recorded, and what a trial does are the same; only who calls whom differs. A trial whose process is
lost is left to Tune, which tries it again and tells in full what was lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from hep_ray.cluster import alone
from hep_ray.cores import usable_cores
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.splits import SPLITS
from hep_ray.loading.stream import LOCAL_BYTES, STORE_FRACTION
from hep_ray.models import is_fitted

if TYPE_CHECKING:
    from hep_ray.plugins import Plugin
    from hep_ray.search.options import SearchOptions
    from hep_ray.search.recorder import Recorder
    from hep_ray.search.resources import ResourcePlan
    from hep_ray.search.sampler import JournalSearcher
    from hep_ray.search.trial import TrialJob

GOODBYE_SECONDS = 10.0
"""In which processes that have nothing left to do end by themselves."""
LOST = "the process of a fit ended before it answered"


def fit_here(
    configurations: Iterable[Mapping[str, Any]],
    manifests: Sequence[Manifest],
    options: SearchOptions,
    plugins: Sequence[Plugin],
) -> bool:
    """Return whether trials are fitted by processes of this machine: no network, no cluster, no GPU, few events.

    Args:
        configurations: parameters of trials, between them every model.
        manifests: of the datasets that trials read.
        options: of the search.
        plugins: of the user's own, which are tried on every node first, so by Ray.
    """
    asked = (options.memory_budget, options.readers, options.gpus_per_trial or None)
    return (
        all(is_fitted(params.get("model")) for params in configurations)
        and not plugins
        and options.workers_per_trial == 1
        and options.cpus_per_trial <= usable_cores()
        and asked == (None, None, None)
        and options.cache != "streaming"
        and sum(sum(one.rows(split) for split in SPLITS) * one.event_bytes for one in manifests)
        <= LOCAL_BYTES
        and alone()
    )


def this_machine() -> dict[str, float]:
    """Return what fits may use of this machine, as Ray tells it of a node; of memory, twice the most events."""
    return {"CPU": float(usable_cores()), "object_store_memory": LOCAL_BYTES / STORE_FRACTION}


@contextmanager
def fit_processes(resources: ResourcePlan) -> Iterator[list[Connection]]:
    """Start the processes of this machine that fit, which import while the block begins; none where Ray trains.

    Where the block raises, as when it is interrupted, they are ended in the midst of their fits.
    """
    if not resources.here:
        yield []
        return
    pairs = [Pipe() for _ in range(resources.concurrent)]
    numbers = [far.fileno() for _, far in pairs]
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [
            sys.executable,
            "-P",
            "-W",
            "ignore::DeprecationWarning",
            "-m",
            "hep_ray.search.fit_process",
            *map(str, numbers),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        pass_fds=numbers,
        start_new_session=True,  # Ctrl-C is the driver's
    )
    lines = [near for near, _ in pairs]
    for _, far in pairs:
        far.close()
    try:
        yield lines
        for line in lines:
            line.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GOODBYE_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fit_trials(
    lines: Sequence[Connection], job: TrialJob, recorder: Recorder, searcher: JournalSearcher
) -> bool:
    """Let the processes fit trials until the searcher has none left, or the time is over.

    Args:
        lines: to the processes.
        job: what all trials share.
        recorder: told everything, as by Tune.
        searcher: hands out trials.

    Returns:
        Whether the process of a trial was lost, so that something is left to be trained.

    Raises:
        StorageError: the storage takes no more.
    """
    free, lost = list(lines), False
    running: dict[Connection, str] = {}
    for line in lines:
        with suppress(OSError):  # its process is gone, which the first trial meets
            line.send(job)
    while True:
        while free and not recorder.budget.spent and isinstance(config := searcher.suggest(""), dict):
            line = free.pop(0)
            running[line] = config["trial_id"]
            with suppress(OSError):
                line.send(config)
        if not running:
            return lost or not free
        answered = wait(list(running))
        for line in [one for one in running if one in answered]:
            trial_id = running.pop(line)
            try:
                result = line.recv()
            except (EOFError, OSError):
                recorder.lose([trial_id], LOST)
                lost = True
                continue
            recorder.hear(trial_id, result)
            recorder.end(trial_id, result)
            free.append(line)
