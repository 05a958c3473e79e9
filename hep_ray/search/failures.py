"""Tell why a trial failed: keep what its process writes, name lost workers, sort exceptions by kind."""

from __future__ import annotations

import datetime as dt
import faulthandler
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from ray.exceptions import RayError

from hep_ray.errors import (
    CorruptCheckpoint,
    InvalidEvents,
    NonFiniteLoss,
    ShardMismatch,
    StorageError,
    UnreadableInput,
    WorkersLost,
)
from hep_ray.masking import mask
from hep_ray.search.state import LOG, first_line
from hep_ray.tracking.records import Failure

_HEADING = re.compile(r"\A\d+ \(occurred at [^\n]*\)")
_KINDS = (
    ("OutOfMemory", re.compile(r"([^\n]*the node running low on memory[^\n]*)")),
    ("NodeLost", re.compile(r"because (its node has died[^\n]*)")),
    ("ProcessLost", re.compile(r"Worker exit detail: ([^\n]*?)(?: Some common causes|\n|$)")),
    ("ProcessLost", re.compile(r"The actor (?:is dead|died) because ([^\n]*)")),
    ("ProcessLost", re.compile(r"The actor \w+ is unavailable: ([^\n]*?)(?: The task may|\n|$)")),
)
"""How Ray words the loss of a trial's process; tried in this order."""

_CPU_MEMORY = "DefaultCPUAllocator: "
"""Begins torch's complaint, a RuntimeError, when the node has no memory for a tensor."""
_PEER_GONE = re.compile("gloo/transport|Connection closed by peer")
"""What gloo says, in a RuntimeError, to a worker whose peer is gone."""
SURROUNDINGS = (
    *(OSError, RayError, torch.distributed.DistError),
    *(StorageError, CorruptCheckpoint, WorkersLost, ShardMismatch, UnreadableInput, InvalidEvents),
)
"""Exceptions within a trial that another configuration would have met as well."""


def loss(told: str, log: str, epoch_timeout: float) -> str:
    """Return in words why the process of a trial is gone.

    Args:
        told: what Ray says of it.
        log: what the process wrote.
        epoch_timeout: of the trials, s.
    """
    if hung(log):
        return f"EpochTimeout: an epoch takes at most {epoch_timeout:g} s; one took longer, and was ended"
    for kind, words in _KINDS:
        if match := words.search(told):
            return f"{kind}: {match[1].strip()}"
    return f"ProcessLost: {first_line(_HEADING.sub('', told))}"


def loss_kind(told: str, log: str) -> Failure:
    """Return of what kind a lost worker is: an epoch too long, a node out of memory, else none of the trial's doing.

    Args:
        told: what Ray says of it, which is all that it tells.
        log: what the process wrote.
    """
    if hung(log):
        return "timeout"
    kind = next((kind for kind, words in _KINDS if words.search(told)), "")
    return "out_of_memory" if kind == "OutOfMemory" else "lost"


def kind_of(exc: BaseException) -> Failure:
    """Return of what kind an exception within a trial is."""
    if isinstance(exc, NonFiniteLoss):
        return "diverged"
    if isinstance(exc, MemoryError | torch.OutOfMemoryError) or _CPU_MEMORY in str(exc):
        return "out_of_memory"
    return "lost" if isinstance(exc, SURROUNDINGS) or _PEER_GONE.search(str(exc)) else "error"


TAIL = 4000
"""Characters of a log that are recorded with a failure."""
_BEGIN = "[hep_ray]"
_HUNG = re.compile(r"^Timeout \((?:\d+ days?, )?\d+:\d\d:\d\d(?:\.\d+)?\)!$", re.MULTILINE)
"""What Python's faulthandler writes above the stacks of a process that it ends."""
_NOISE = "Extension modules:"
"""Thousands of characters that Python writes below the stack of a crash."""
_STDOUT, _STDERR = 1, 2


def begin_log(folder: Path, trial_id: str) -> None:
    """Send all that this process writes from now on, C code and crashes included, to the trial's log.

    Args:
        folder: of the trial.
        trial_id: names it in the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    line = f"{_BEGIN} {now} {trial_id} in process {os.getpid()} on {socket.gethostname()}\n"
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
        os.dup2(file, _STDOUT)
        os.dup2(file, _STDERR)
    finally:
        os.close(file)


def write_log(text: str) -> None:
    """Add to the log of the trial that this process trains."""
    os.write(_STDERR, (text.rstrip() + "\n").encode())


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process when what is inside takes longer, with the stacks of all threads in its log.

    A thread of C does it, so that code that hangs without giving way to Python's threads is ended too.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def last_attempt(folder: Path) -> str:
    """Return what the last process of a trial wrote; empty where there was none."""
    path = folder / LOG
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 16 * TAIL, 0))
        text = file.read().decode(errors="replace")
    start = text.rfind(f"\n{_BEGIN}") + 1
    return text[start:]


def tail(text: str) -> str:
    """Return the end of a log, in whole lines; its first line stays, which tells process and machine."""
    text = "".join(mask(line) for line in text.splitlines(keepends=True) if not line.startswith(_NOISE))
    if len(text) <= TAIL:
        return text
    first, _, rest = text.partition("\n")
    return "\n".join([first, "…", *rest[-TAIL:].split("\n")[1:]])


def hung(text: str) -> bool:
    """Return whether the process that wrote this was ended by `time_limit`."""
    return _HUNG.search(text) is not None
