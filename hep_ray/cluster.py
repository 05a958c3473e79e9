"""Join a Ray cluster, or start one on this machine, without the noise; see first whether a head answers; run tasks.

Ray itself would wait for minutes for a head that is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hep_ray.cores import usable_cores
from hep_ray.errors import ClusterUnavailable, HepRayError, Infeasible, InvalidConfig, WorkersLost
from hep_ray.log import LEVEL
from hep_ray.masking import close_token, ray_token

if TYPE_CHECKING:
    from hep_ray.plugins import Plugin

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

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
PROBE_SECONDS = 10.0
"""For which a head that does not answer is asked again."""
LOOK_SECONDS = 0.5
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC client begins (RFC 9113, section 3.4): the preface, and a frame of settings without any."""
SETTINGS_FRAME = 4
"""Type of the frame with which every server answers; it is in the fourth byte."""
ADDRESS = "RAY_ADDRESS"
SCHEME = "ray://"
STARTS = 3
"""Times that Ray is started here where it takes longer than the 30 s that it allows itself."""
LATE = "timed out during startup"
"""What Ray says then."""
_tried = threading.Event()
"""Whether this process itself has begun to join, or to start, a cluster."""


@dataclass(frozen=True)
class Head:
    """The head of a cluster that is to be joined.

    Attributes:
        host: name or address.
        port: of its control store, or of Ray's client server.
        noted: file in which `ray start` noted it; None where RAY_ADDRESS names it.
    """

    host: str
    port: int
    noted: Path | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def ray_temp_dir() -> Path:
    """Return where Ray keeps sessions, sockets and the note of the cluster that was last started on this machine."""
    return Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))) / "ray"  # noqa: S108 - Ray's own


def head_to_join() -> Head | None:
    """Return the head that RAY_ADDRESS or the note of a local `ray start` names; None where a cluster is started here.

    Raises:
        InvalidConfig: RAY_ADDRESS is no address.
    """
    named = os.environ.get(ADDRESS, "").strip()
    if named == "local":
        return None
    if named and named != "auto":
        host, _, port = named.removeprefix(SCHEME).rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidConfig(
                f"{ADDRESS} is HOST:PORT, {SCHEME}HOST:PORT, auto or local; got '{named}': type {ADDRESS}=local to "
                "start Ray on this machine"
            )
        return Head(host.strip("[]"), int(port))
    note = ray_temp_dir() / "ray_current_cluster"
    try:
        host, _, port = note.read_text(encoding="utf-8").strip().rpartition(":")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ClusterUnavailable(
            f"`ray start` notes its cluster in {note}; it cannot be read: {exc.strerror}: type RAY_TMPDIR=FOLDER for "
            f"a folder of yours, or {ADDRESS}=local to start Ray on this machine"
        ) from exc
    return Head(host.strip("[]"), int(port), note) if host and port.isdecimal() else None


def alone() -> bool:
    """Return whether no cluster is joined, or is there to join: Ray, where it is needed, is started on this machine.

    Raises:
        InvalidConfig, ClusterUnavailable: see `head_to_join`.
    """
    ray = sys.modules.get("ray")
    joined = ray is not None and ray.is_initialized()
    return not joined and os.environ.get(ADDRESS) != "auto" and head_to_join() is None


def check_head(head: Head) -> None:
    """See that a head answers, as Ray does.

    Raises:
        ClusterUnavailable: it does not, for `PROBE_SECONDS`; the message says who named it and what to type.
    """
    until = time.monotonic() + PROBE_SECONDS
    while fault := _silence(head, max(until - time.monotonic(), LOOK_SECONDS)):
        if time.monotonic() + LOOK_SECONDS > until:
            raise ClusterUnavailable(_unanswered(head, fault))
        logger.debug("no Ray at %s yet: %s", head, fault)
        time.sleep(LOOK_SECONDS)


def _unanswered(head: Head, fault: str) -> str:
    tried = f"{fault}, tried for {PROBE_SECONDS:g} s"
    if head.noted is None:
        return (
            f"{ADDRESS} names a running Ray cluster to join; none answers at {head} ({tried}): start it there, mend "
            f"{ADDRESS} (`ray status --address {head}` asks it), or type {ADDRESS}=local to start Ray on this machine"
        )
    return (
        f"a search joins the Ray cluster that was last started on this machine; {head.noted} notes one at {head}, "
        f"which is gone ({tried}): remove the note, `rm {head.noted}`, or start the cluster again; "
        f"{ADDRESS}=local passes it by"
    )


def _silence(head: Head, seconds: float) -> str:
    """Why a head does not answer; nothing where it does."""
    try:
        with socket.create_connection((head.host, head.port), timeout=seconds) as line:
            if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
                return ""  # it greets nobody before the handshake
            line.sendall(HELLO)
            answer = b""
            while len(answer) <= 3:  # noqa: PLR2004 - the type is the fourth byte
                if not (more := line.recv(9)):
                    return "it is no Ray head: it hung up"
                answer += more
    except socket.gaierror as exc:
        return f"no host of that name: {exc.strerror}"
    except TimeoutError:
        return "no answer"
    except OSError as exc:
        return exc.strerror or str(exc)
    return "" if answer[3] == SETTINGS_FRAME else "it is no Ray head: it does not speak gRPC"


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
    head = head_to_join()
    here = head is None and os.environ.get("RAY_ADDRESS") != "auto"
    if head is not None:
        check_head(head)
    _tried.set()
    logger.info(
        "joining Ray at %s" if head else "starting Ray on this machine, on %s cores", head or usable_cores()
    )
    try:
        with _ended_by_signals(head):
            _start(STARTS if here else 1, here=here)
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


def _start(tries: int, *, here: bool) -> None:
    """Join the cluster or start one here, which is tried again where Ray's own time ran out."""
    import ray

    level = os.environ.get(LEVEL)
    try:
        ray.init(
            "local" if here else None,
            num_cpus=usable_cores() if here else None,
            include_dashboard=False,
            log_to_driver=level is not None,
            logging_level=logging.ERROR,
            runtime_env=None if level is None else {"env_vars": {LEVEL: level}},
        )
    except Exception as exc:
        if tries == 1 or LATE not in str(exc):
            raise
        logger.warning("Ray did not start within its 30 s, on a busy machine; starting it again")
        _start(tries - 1, here=here)


def disconnect() -> None:
    """Leave the cluster that `connect` joined, or end the one that it started here, at the end of a command.

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
    """Return the cluster at hand in words, such as `3 nodes, head 10.0.0.5:6379`."""
    import ray

    count = len(nodes())
    return f"{count} node{'s' if count > 1 else ''}, head {ray.get_runtime_context().gcs_address}"


def nodes() -> list[dict[str, float]]:
    """Return the resources of every living node, such as `{"CPU": 16.0, "GPU": 1.0}`."""
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


def in_tasks(
    work: Callable[[T], R], pieces: Iterable[T], workers: int | None = None
) -> Iterator[tuple[T, R]]:
    """Do every piece of work as a Ray task; pieces and results in the order in which the tasks end.

    Args:
        work: an importable function of one piece.
        pieces: taken one by one as workers get free.
        workers: tasks at a time; the CPUs of the cluster unless given.

    Raises:
        InvalidConfig: `workers` is below 1.
        Infeasible: the cluster has fewer CPUs than `workers`.
        HepRayError: whatever named error a task raises.
        WorkersLost: a task's process was lost too often.
    """
    if workers is not None and workers < 1:
        raise InvalidConfig(f"work is done by 1 worker or more; got {workers}")
    import ray
    from ray import cloudpickle

    from hep_ray.plugins import registered

    with connected():
        cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if workers is not None and workers > cpus:
            raise Infeasible(f"each worker takes 1 CPU; asked for {workers} of the {cpus} in the cluster")
        own = registered(set())
        task = ray.remote(num_cpus=1)(_work_with_own_code)
        waiting = iter(pieces)
        running: dict[Any, T] = {}
        try:
            while True:
                while len(running) < (workers or cpus) and (piece := next(waiting, None)) is not None:
                    pickled = cloudpickle.dumps((work, piece))  # type: ignore[no-untyped-call]
                    running[task.remote(own, pickled)] = piece
                if not running:
                    return
                (done,), _ = ray.wait(list(running))
                yield running.pop(done), result(done)
        finally:
            for reference in running:
                ray.cancel(reference)


def _work_with_own_code(own: tuple[Plugin, ...], pickled: bytes) -> Any:
    """Import the user's own components, which the piece of work may be made of, then do it."""
    from ray import cloudpickle

    from hep_ray.plugins import load

    load(own)
    work, piece = cloudpickle.loads(pickled)
    return work(piece)


@contextmanager
def connected() -> Iterator[None]:
    """Hold the Ray cluster at hand, or one of this machine for as long as the block runs."""
    import ray

    if ray.is_initialized():
        yield
        return
    connect()
    try:
        yield
    finally:
        ray.shutdown()


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
