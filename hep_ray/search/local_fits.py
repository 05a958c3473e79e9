"""Fitted models, trained by processes of this machine where there is no cluster to join: Ray is not started for them.

Ray and its workers take tens of processor seconds before the first of twenty fits, which take ten. What decides (the
searcher), what is recorded, and what a trial does are the same; only who calls whom differs. A trial whose process is
lost is left to Tune, which tries it again and tells in full what was lost.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hep_ray.cluster import alone
from hep_ray.cores import usable_cores
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.splits import SPLITS
from hep_ray.loading.stream import LOCAL_BYTES, STORE_FRACTION
from hep_ray.models import is_fitted
from hep_ray.search import fit_process

if TYPE_CHECKING:
    from hep_ray.plugins import Plugin
    from hep_ray.search.options import SearchOptions
    from hep_ray.search.recorder import Recorder
    from hep_ray.search.resources import ResourcePlan
    from hep_ray.search.sampler import JournalSearcher
    from hep_ray.search.trial import TrialJob

GOODBYE_SECONDS = 10.0
"""In which processes that have nothing left to do end by themselves."""
WAIT_SECONDS = 0.02
"""Between two looks whether a copy has ended."""
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
    process: _Copy | subprocess.Popen[bytes] = _Copy(numbers) if _may_be_copied(resources) else _new(numbers)
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
        process.kill()  # also before it has a group of its own
        process.wait()


def _may_be_copied(resources: ResourcePlan) -> bool:
    """Whether a copy of this process can fit, which spares the import of what it has.

    A copy has none of its threads: of Python's there must be no other, a GPU must not be in use, and OpenMP, which
    waits in a copy for threads that it had, is asked for one thread a fit. Arithmetic must be as an import leaves it.
    """
    torch = sys.modules.get("torch")
    return (
        sys.platform == "linux"
        and resources.cpus_per_trial == 1
        and threading.active_count() == 1
        and torch is not None
        and not torch.cuda.is_initialized()
        and (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float32, "cpu")
        and torch.is_grad_enabled()
    )


class _Copy:
    """A copy of this process that fits, with the methods of `subprocess.Popen` that are needed here."""

    def __init__(self, numbers: Sequence[int]) -> None:
        with warnings.catch_warnings():  # of native threads, which mend themselves in a copy
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                _let_go(numbers)
                fit_process.main(numbers)
                code = 0
            except BaseException:  # noqa: BLE001 - nothing of the driver's is to hear of it
                traceback.print_exc()
            finally:
                os._exit(code)
        self._ended = False

    def wait(self, seconds: float = math.inf) -> None:
        """Wait until it has ended.

        Raises:
            TimeoutExpired: it has not in so many seconds.
        """
        until = time.monotonic() + seconds
        while not self._ended:
            try:
                self._ended = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:  # where SIGCHLD is ignored there is nobody to wait for
                self._ended = True
            if not self._ended:
                if time.monotonic() > until:
                    raise subprocess.TimeoutExpired("a copy of this process", seconds)
                time.sleep(WAIT_SECONDS)

    def kill(self) -> None:
        """End it now, where it has not ended."""
        if not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _let_go(numbers: Sequence[int]) -> None:
    """Leave to the driver what a copy has of it: Ctrl-C, its files, such as the lock of the search, and its streams."""
    gc.freeze()  # a search for garbage would copy the memory of all that is there already
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for open_file in [int(one.name) for one in Path("/proc/self/fd").iterdir()]:
        if open_file not in {1, 2, nothing, *numbers}:
            os.dup2(nothing, open_file)  # still a number of somebody's, who may close it
    for stream in (1, 2):
        try:
            os.fstat(stream)
        except OSError:  # closed
            os.dup2(nothing, stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - those of the driver may be anything
    sys.stdout, sys.stderr = (open(one, "w", buffering=1, closefd=False) for one in (1, 2))  # noqa: SIM115


def _new(numbers: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-P", "-m", fit_process.__name__, *map(str, numbers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        pass_fds=numbers,
        start_new_session=True,  # Ctrl-C is the driver's
    )


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
