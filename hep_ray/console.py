"""How every command ends: 0 done, 2 wrong usage or input, 1 everything else, and errors as one paragraph."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hep_ray.cluster import disconnect
from hep_ray.errors import HepRayError
from hep_ray.masking import mask

if TYPE_CHECKING:
    import typer
    from rich.console import Console

LOG_WIDTH = 160
"""Columns of a table where the output is no terminal."""


def result_console() -> Console:
    """Where results are printed: standard output, wide where it is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def run_app(app: typer.Typer, prog: str) -> None:
    """Run a Typer app and leave the process with the house's exit codes.

    A named error is printed as one paragraph on stderr; `--debug` anywhere on the command line
    shows its traceback instead. Ctrl-C ends the command; typed again, while it tidies up, it is not heard.
    """
    try:
        with _interrupted_once():
            app(prog_name=prog)
    except HepRayError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {mask(str(error))}", file=sys.stderr)  # noqa: T201 - this is the place that prints errors
        sys.exit(error.exit_code)
    finally:
        disconnect()


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Within, the first Ctrl-C that nobody else takes raises `KeyboardInterrupt`, and no other does."""
    former = signal.getsignal(signal.SIGINT)
    if former is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def once(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is once:
            signal.signal(signal.SIGINT, former)
