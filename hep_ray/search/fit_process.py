"""Fit models in processes of this machine without Ray: one imports what all need, then divides into those that fit.

Its arguments are the numbers of inherited sockets, one for each process. Over its socket a process is told what all
trials share, then trial after trial, and answers each with the result that an actor of Tune would have reported. It
ends when the driver closes the socket, or is gone.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from hep_ray.files import storing
from hep_ray.models import MODELS
from hep_ray.search.failures import begin_log, time_limit, write_log
from hep_ray.search.trial import TrialJob, TrialRun, cause_of, failure_of

IMPORTED = "sklearn.ensemble"
"""Package that most fits import; once here, instead of in each process."""
LOOK_SECONDS = 1.0
"""Between two looks whether the driver is there."""


def main(numbers: Sequence[int]) -> None:
    """Import, divide, and wait until every process has ended; where the driver is gone, end them as they fit."""
    driver = os.getppid()
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads of BLAS
    list(MODELS)
    importlib.import_module(IMPORTED)
    faulthandler.enable(2)
    for number in numbers:
        if os.fork() == 0:
            for other in numbers:
                if other != number:
                    os.close(other)
            serve(Connection(number))
            os._exit(0)
    for number in numbers:
        os.close(number)
    threading.Thread(target=_end_without, args=(driver,), daemon=True).start()
    for _ in numbers:
        os.wait()


def _end_without(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(LOOK_SECONDS)
    os.killpg(0, signal.SIGKILL)


def serve(line: Connection) -> None:
    """Fit the trials that come over a line, until it is closed."""
    with suppress(EOFError, ConnectionError):
        job: TrialJob = line.recv()
        job.begin()
        while True:
            line.send(fitted(job, line.recv()))


def fitted(job: TrialJob, config: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a trial of one fit; a failure ends it, not the process.

    Args:
        job: what all trials share.
        config: `trial_id`, `params` and `seed`.
    """
    folder = job.folder(config["trial_id"])
    try:
        with storing(folder):
            begin_log(folder, config["trial_id"])
        with time_limit(job.epoch_timeout):
            return TrialRun(job, config, "cpu").report()
    except Exception as exc:  # noqa: BLE001 - recorded as the trial's cause of failure
        with suppress(OSError):  # of a full storage, which the result tells
            write_log(cause_of(exc))
        return failure_of(exc)


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]])
