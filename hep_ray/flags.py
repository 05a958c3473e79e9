"""Flags that many commands have, and how the next command is told about them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

STORAGE = Path("runs")
"""Folder of all searches, unless another is named."""

LARGEST_SEED = 2**31 - 1
"""What every library takes, and leaves room for the seeds of a confirmation, which are larger."""

Storage = Annotated[
    Path,
    typer.Option(envvar="HEP_RAY_STORAGE", help="Folder of all searches, shared by the nodes of a cluster."),
]


def tracking_uri(default: str) -> Any:
    """Return the option that names MLflow's server or database, with its default in words."""
    return typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        help=f"MLflow server or database [default: {default}].",
        show_default=False,
    )


IN_STORAGE = tracking_uri("SQLite in the storage")
TrackingUri = Annotated[str | None, tracking_uri("as recorded by the search")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Dataset folder, or its address [default: where the search found it].", show_default=False
    ),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="Module or file with components of your own: mypkg.nets, nets.py; may be given several times.",
        show_default=False,
    ),
]
ModelName = Annotated[
    str, typer.Argument(help="models:/NAME@champion, models:/NAME/VERSION, or the folder of a model.")
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run the code that a model with components of its own carries; read it first."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and print what would be done; do nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the dataset in --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting; may be given several times."),
]
Split = Annotated[
    str | None,
    typer.Option(help="Shares of train, val and test, in per cent: 64/16/20. Default: 60/15/25."),
]
Stratify = Annotated[
    bool,
    typer.Option(
        "--stratify",
        help="Give every split its share of each class to the event; for up to a million events.",
    ),
]
SEED = typer.Option(
    min=0, max=LARGEST_SEED, help="Seed of every random number: draws, weights, order of events."
)
WORKERS_PER_TRIAL = typer.Option(
    min=1, help="Processes, on one node or several, that train a trial together."
)
CPUS_PER_WORKER = typer.Option(
    "--cpus-per-worker", "--cpus-per-trial", help="Cores of each worker of a trial."
)
GPUS_PER_WORKER = typer.Option(
    "--gpus-per-worker",
    "--gpus-per-trial",
    help="GPUs of each worker of a trial; a fraction shares one among trials.",
)

SearchName = Annotated[
    str,
    typer.Argument(
        metavar="SEARCH", help="Search: its name, its folder in a storage, or the path of its script."
    ),
]


def typed(*words: object, storage: Path = STORAGE, **flags: object) -> str:
    """Return a command to type next in this folder, as a shell takes it; flags that are None are left out.

    >>> typed("hep-ray", "report", "toy", storage=Path("my runs"), data=None)
    "hep-ray report toy --storage 'my runs'"
    """
    given = {"storage": None if storage == STORAGE else storage, **flags}
    options = (
        (f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None
    )
    return shlex.join([*map(str, words), *(word for pair in options for word in pair)])


def python() -> str:
    """Return Python's name in a command to type: `python` where that is the one that runs, else its path."""
    found = shutil.which("python")
    same = found is not None and os.path.realpath(found) == os.path.realpath(sys.executable)
    return "python" if same and Path(str(found)).parent == Path(sys.executable).parent else sys.executable
