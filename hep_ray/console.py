"""Conduct of every command: exit codes (0 done, 2 wrong usage or input, 1 the rest), errors as one paragraph, a log."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from hep_ray.cluster import disconnect
from hep_ray.errors import HepRayError
from hep_ray.log import BY_COUNT, show
from hep_ray.masking import mask
from hep_ray.own_code import tell

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 160
"""Columns of a table where the output is no terminal."""


def result_console() -> Console:
    """Return the console of results: standard output, wide where it is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def print_text(console: Console, text: str) -> None:
    """Print text as it is, but for the passwords of URIs: no markup, no colours, no line broken."""
    console.print(mask(text), soft_wrap=True, highlight=False, markup=False)


def print_rows(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and what they are in two columns; a name that follows itself is printed once."""
    from rich.table import Table

    table, last = Table.grid(padding=(0, 2)), ""
    for name, text in rows:
        table.add_row("" if name == last else f"[bold]{name}[/]", text)
        last = name
    console.print(table, soft_wrap=True)


def end_dry_run(console: Console) -> None:
    """Say below the rows of a command that it was a dry run, and how to start."""
    console.print("\nNothing was run. Leave out [bold]--dry-run[/] to start.")


def run_app(app: typer.Typer, prog: str) -> None:
    """Run a Typer app and leave the process with the house's exit codes.

    A named error is printed as one paragraph on stderr; `--debug` anywhere on the command line
    shows its traceback instead. Ctrl-C ends the command; typed again, while it tidies up, it is not heard.
    """
    try:
        with _interrupted_once():
            command_line(app)(prog_name=prog)
    except HepRayError as exc:
        if "--debug" in sys.argv:
            raise
        sys.exit(tell(exc, str(exc)))
    finally:
        disconnect()


def command_line(app: typer.Typer) -> Any:
    """Return the command of a Typer app, in which it and each command below it take `--verbose` and `--debug`.

    Their help is their docstring without what it says to a caller: `Raises:`.
    """
    of_all = typer.Typer(add_completion=False)
    of_all.command()(_of_every_command)

    def add(command: Any) -> None:
        command.help, _, _ = (command.help or "").partition("\n\nRaises:")  # is for who calls it from Python
        command.params += get_command(of_all).params
        for below in getattr(command, "commands", {}).values():
            add(below)

    command = get_command(app)
    add(command)
    return command


def _show_log(count: int) -> None:
    if count:
        show(BY_COUNT[min(count, len(BY_COUNT)) - 1])


def _of_every_command(
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, callback=_show_log, expose_value=False, show_default=False,
            help="Tell on stderr what is done, -vv in detail; Ray's workers tell it too.",
        ),
    ] = 0,
    debug: Annotated[
        bool, typer.Option("--debug", expose_value=False, help="Show the traceback of an error.")
    ] = False,
) -> None:  # fmt: skip
    """Options that `command_line` gives to every command."""


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
