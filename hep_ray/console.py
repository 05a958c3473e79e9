"""How every command ends: 0 done, 2 wrong usage or input, 1 everything else, and errors as one paragraph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

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
    shows its traceback instead.
    """
    try:
        app(prog_name=prog)
    except HepRayError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {mask(str(error))}", file=sys.stderr)  # noqa: T201 - this is the place that prints errors
        sys.exit(error.exit_code)
