"""What the process of a trial writes, kept in the trial's folder, so that the end of it outlives process and node."""

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

from hep_ray.masking import mask

LOG = "log.txt"
TAIL = 4000
"""Characters of a log that are recorded with a failure."""
_BEGIN = "[hep_ray]"
_HUNG = re.compile(r"^Timeout \((?:\d+ days?, )?\d+:\d\d:\d\d(?:\.\d+)?\)!$", re.MULTILINE)
"""What Python's faulthandler writes above the stacks of a process that it ends."""
_NOISE = "Extension modules:"
"""Thousands of characters that Python writes below the stack of a crash."""
_STDOUT, _STDERR = 1, 2


def begin(folder: Path, trial_id: str) -> None:
    """From now on all that this process writes, that of C code and of a crash too, goes to the trial's log.

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


def write(text: str) -> None:
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
    """What the last process of a trial wrote; empty where there was none."""
    path = folder / LOG
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 16 * TAIL, 0))
        text = file.read().decode(errors="replace")
    start = text.rfind(f"\n{_BEGIN}") + 1
    return text[start:]


def tail(text: str) -> str:
    """The end of a log, in whole lines; its first line stays, which tells process and machine."""
    text = "".join(mask(line) for line in text.splitlines(keepends=True) if not line.startswith(_NOISE))
    if len(text) <= TAIL:
        return text
    first, _, rest = text.partition("\n")
    return "\n".join([first, "…", *rest[-TAIL:].split("\n")[1:]])


def hung(text: str) -> bool:
    """Whether the process that wrote this was ended by `time_limit`."""
    return _HUNG.search(text) is not None
