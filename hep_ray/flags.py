"""Flags that many commands have, and how the next command is told about them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

STORAGE = Path("runs")
"""Folder of all searches, unless another is named."""

Storage = Annotated[
    Path,
    typer.Option(envvar="HEP_RAY_STORAGE", help="Folder of all searches, shared by the nodes of a cluster."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow server or database [default: as recorded by the search].",
        show_default=False,
    ),
]


def with_storage(command: str, storage: Path) -> str:
    """A command to type next, which finds the same storage in this folder."""
    return command if storage == STORAGE else f"{command} --storage {shlex.quote(str(storage))}"
