"""Joining a Ray cluster, or starting one on this machine, without the noise."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hep_ray.cores import usable_cores
from hep_ray.errors import ClusterUnavailable, HepRayError, WorkersLost
from hep_ray.head import Head, check, meant, ray_temp_dir
from hep_ray.log import LEVEL
from hep_ray.masking import close_token, ray_token

logger = logging.getLogger(__name__)

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_free_objects_period_milliseconds": "100",  # in Ray's second, a stream leaves behind as much as its budget
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal and MLflow replace Tune's three log files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial's last result has no metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the journal tells of a lost process, in one line
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the journal is what a search resumes from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment of the driver, and of the nodes of a cluster that it starts; a value the user set stands."""
SOCKET_BYTES = 107
"""That the path of a Unix socket may have."""
PATIENCE = 3.0
"""Seconds that Ray has to come back from its own code after a signal, before the process is ended."""
_tried = threading.Event()
"""Whether this process itself has begun to join, or to start, a cluster."""


def connect() -> None:
    """Join the cluster that RAY_ADDRESS or a local `ray start` names, else start one on this machine.

    RAY_ADDRESS=local always starts one, with the cores that this process may use. A driver that is already connected
    stays as it is.

    Raises:
        InvalidConfig: RAY_ADDRESS is no address.
        ClusterUnavailable: the named cluster does not answer, or refuses this driver, or none can be started here.
    """
    import ray

    close_token(ray_token())
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    for name in ("ray", "ray.tune", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune counts failed trials after we have told of them.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=ResourceWarning, module="ray")
    if ray.is_initialized():
        return
    head = meant()
    here = head is None and os.environ.get("RAY_ADDRESS") != "auto"
    if head is not None:
        check(head)
    _tried.set()
    logger.info(
        "joining Ray at %s" if head else "starting Ray on this machine, on %s cores", head or usable_cores()
    )
    try:
        with _ended_by_signals(head):
            ray.init(
                "local" if here else None,
                num_cpus=usable_cores() if here else None,
                include_dashboard=False,
                log_to_driver=LEVEL in os.environ,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {LEVEL: os.environ[LEVEL]}} if LEVEL in os.environ else None,
            )
    except Exception as exc:  # where a node takes too long to start, Ray raises no other class
        cause = str(exc).strip() or type(exc).__name__
        if here:
            raise ClusterUnavailable(_not_started(exc, cause)) from exc
        raise ClusterUnavailable(
            f"a search joins the Ray cluster that runs; {head or 'RAY_ADDRESS=auto'} did not take it ({cause}): the "
            "Ray and Python versions and RAY_AUTH_MODE must be those of the cluster; RAY_ADDRESS=local starts one on "
            "this machine"
        ) from exc
    logger.info("Ray's logs are in %s", ray_temp_dir() / "session_latest" / "logs")


def disconnect() -> None:
    """At the end of a command: leave the cluster that `connect` joined, or end the one that it started here.

    From here on Ctrl-C is not heard: interrupted while it shuts down, Ray prints a traceback and may take the
    interpreter with it. SIGTERM ends the process at once; Ray's own watcher then ends what was started.
    """
    if not _tried.is_set() or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import ray

    ray.shutdown()


def describe() -> str:
    """The cluster at hand in words, such as `3 nodes, head 10.0.0.5:6379`."""
    import ray

    count = len(nodes())
    return f"{count} node{'s' if count > 1 else ''}, head {ray.get_runtime_context().gcs_address}"


def nodes() -> list[dict[str, float]]:
    """Resources of every living node, such as `{"CPU": 16.0, "GPU": 1.0}`."""
    import ray

    return [
        dict(node["Resources"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def result(task: Any) -> Any:
    """Return what a task of Ray gives.

    Raises:
        HepRayError: the named error that it raised, in its own words.
        WorkersLost: its process or its node was lost more often than Ray tries a task again.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as exc:
        if isinstance(exc.cause, HepRayError):
            raise exc.cause from None
        raise
    except RayError as exc:
        told = str(exc).strip().replace("\n", " ")
        raise WorkersLost(
            f"a task is tried again when its process or node is lost; one was lost too often: {told}"
        ) from exc


def _not_started(exc: Exception, cause: str) -> str:
    """Say what to type where Ray could not be started on this machine, by what was in its way."""
    temp, token = ray_temp_dir(), ray_token()
    at = Path(str(getattr(exc, "filename", None) or ""))
    why = getattr(exc, "strerror", None) or cause
    if "AF_UNIX path length" in cause:
        name = next((key for key in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(key)), "TMPDIR")
        return (
            f"the path of a socket has at most {SOCKET_BYTES} bytes; those of Ray's below {name}={temp.parent} have "
            "more: type RAY_TMPDIR=/tmp, or another short folder of this machine"
        )
    if isinstance(exc, OSError) and at.is_relative_to(temp):
        return (
            f"Ray keeps its sockets and logs in {temp}; it cannot ({why}): type RAY_TMPDIR=FOLDER for a folder of "
            "this machine that you can write to, with a short path"
        )
    if isinstance(exc, OSError) and at.is_relative_to(token.parent):
        return (
            f"Ray keeps the token of its cluster in {token}; it cannot ({why}): type HOME=FOLDER for a folder that you "
            "can write to, or RAY_AUTH_TOKEN=SECRET, with which no file is needed"
        )
    if "RAY_AUTH_TOKEN" in cause:
        return (
            f"Ray reads the token of its cluster; it cannot ({cause.partition('. ')[0]}): put one there, or unset "
            "RAY_AUTH_TOKEN_PATH and RAY_AUTH_TOKEN, and Ray makes one"
        )
    return (
        f"a search starts Ray on this machine where there is none to join; that failed ({cause}): its logs are in "
        f"{temp / 'session_latest' / 'logs'}; RAY_ADDRESS=HOST:PORT joins a cluster instead"
    )


@contextmanager
def _ended_by_signals(head: Head | None) -> Iterator[None]:
    """Within, SIGTERM and Ctrl-C end the process also where Ray, in code that is not Python's, does not hear them.

    Args:
        head: that is being joined; None where Ray starts here, which hears them.
    """
    if head is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    over = threading.Event()

    def watch() -> None:
        while number := os.read(told, 1):
            if number[0] in {signal.SIGINT, signal.SIGTERM} and not over.wait(PATIENCE):
                with suppress(OSError):
                    os.write(2, f"error: {signal.Signals(number[0]).name} while joining {head}\n".encode())
                os._exit(128 + number[0])
        os.close(told)

    former = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(former)
        os.close(tell)
