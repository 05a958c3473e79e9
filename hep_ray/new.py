"""`hep-ray new`: a small project of the user's own, with a search, a network and its test."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.flags import python, typed

if TYPE_CHECKING:
    from hep_ray.dataset.schema import Column, EventSchema

TEMPLATES = Path(__file__).with_name("templates")
TASK = "susy"
"""Simulated unless another is named: its 4,000 events take seconds."""
EVENTS = 4000
SEQUENCE_RANK, IMAGE_RANK = 2, 3
MOST_CONVOLUTIONS = 4
GITIGNORE = "__pycache__/\n.pytest_cache/\ndata/\nruns/\n"


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the search and its folder: lower case, digits and _.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder; the network reads its columns.", show_default=False)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"Simulation whose events are classified [default: {TASK}].", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write [default: ./NAME].", show_default=False)
    ] = None,
) -> None:
    """Write a project of your own: a search with a network, its test, and a README with three commands.

    Example: `hep-ray new my_search`, or `hep-ray new my_search --data data/mine`.

    Raises:
        InvalidConfig: the name is no name of a module, or that of one; or both data and task are given.
        UnknownName: there is no such simulation.
        UnreadableInput, ShardMismatch: the data are no dataset.
        StorageError: the folder is there already, or cannot be written.
    """
    from hep_ray.console import print_text, result_console

    folder = write_project(name, data=data, task=task, out=out)
    files = ", ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    commands = "\n".join(f"  {one}" for one in (typed("cd", folder), *_commands(folder / "README.md")))
    print_text(result_console(), f"{folder}: {files}\nNext:\n{commands}")


def write_project(
    name: str, *, data: Path | None = None, task: str | None = None, out: Path | None = None
) -> Path:
    """Write the project and return its folder; see `new`."""
    from hep_ray.files import replacing
    from hep_ray.search.definition import check_search_name

    check_search_name(name)
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise InvalidConfig(
            f"'{name}' is the name of a Python module, which {name}.py would hide: choose another, such as "
            f"'{name}_search'"
        )
    folder = Path(name) if out is None else out
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StorageError(f"{folder} is there already: choose another NAME, or another --out")
    texts = _texts(name, *_events(data, task))
    with replacing(folder) as filling:
        for file, text in texts.items():
            (filling / file).write_text(text, encoding="utf-8")
    return folder


def _events(data: Path | None, task: str | None) -> tuple[EventSchema, dict[str, Any]]:
    """Return the schema of the events, and what the README says of them."""
    if data is None:
        from hep_ray.simulate import SIMULATIONS

        task = task or TASK
        words = (
            "hep-ray",
            "data",
            "simulate",
            task,
            "--events",
            EVENTS,
            "--seed",
            1,
            "--out",
            f"data/{task}",
        )
        return SIMULATIONS[task].schema, {"events": typed(*words), "simulated": True, "with_data": ""}
    if task is not None:
        raise InvalidConfig(f"--data {data} and --task {task} both say which events: leave one of them out")
    from hep_ray.dataset.dataset import Dataset

    dataset = Dataset.open(data)
    schema, place = dataset.schema, dataset.folder.resolve()
    check = typed("hep-ray", "data", "check", place)
    return schema, {"events": check, "simulated": False, "with_data": f" {typed('--data', place)}"}


def _texts(name: str, schema: EventSchema, told: Mapping[str, Any]) -> dict[str, str]:
    """Return each file's text by its name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    images = [column for column in schema.inputs if len(column.shape) == IMAGE_RANK]
    image = max(images, key=lambda column: column.nbytes, default=None)
    flat = [column for column in schema.inputs if not column.lists] if image is None else []
    reference, ranks = _to_beat(schema, image), {len(column.shape) for column in flat}
    shared = {
        "name": name,
        "task": schema.task,
        "classes": schema.classes,
        "told_apart": f"{', '.join(schema.classes[:-1])} and {schema.classes[-1]}",
        "model": f"{name}_network",
        "image": image,
        "flat": flat,
        "read": [image] if image else flat,
        "features": sum(math.prod(column.shape) for column in flat),
        "scalings": ["scalar_scaling"] * bool(ranks & {0, 1})
        + ["sequence_scaling"] * (SEQUENCE_RANK in ranks),
        "deepest": _deepest(image),
        "largest": {"hidden_layers": 4, "hidden_features": 128}
        if image is None
        else {"channels": 16, "convolutions": _deepest(image)},
        "reference": reference,
        "baseline": reference["model"],
        "metric": "val_auc" if len(schema.classes) == 2 else "val_accuracy",  # noqa: PLR2004 - of two there is one
        **told,
    }
    environment = Environment(  # noqa: S701 - Python and Markdown, not HTML
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    files = {f"{name}.py": "search.py", f"test_{name}.py": "test.py", "README.md": "README.md"}
    texts = {file: environment.get_template(f"{of}.jinja").render(shared) for file, of in files.items()}
    return texts | {".gitignore": GITIGNORE}


def _deepest(image: Column | None) -> int:
    """Return how often a pooling may halve an image, at most four times."""
    return 0 if image is None else max(1, min(MOST_CONVOLUTIONS, int(math.log2(min(image.shape[:2])))))


def _to_beat(schema: EventSchema, image: Column | None) -> dict[str, Any]:
    """Return the configuration that the network has to beat."""
    import torch

    from hep_ray.errors import HepRayError
    from hep_ray.models import build_model

    if image is None:
        inputs = "+".join(column.name for column in schema.inputs)
        return {"model": "gradient_boosting", "inputs": inputs}
    try:
        with torch.device("meta"):
            build_model("cnn", {}, schema)
    except HepRayError:
        return {"model": "logistic_regression", "inputs": image.name}
    trained = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    return {"model": "cnn", "input_transform": "log1p", **trained}


def _commands(readme: Path) -> list[str]:
    """Return the commands of the README's first block, with this environment's Python."""
    block = readme.read_text(encoding="utf-8").split("```")[1]
    return [re.sub("^python ", f"{python()} ", line) for line in block.strip().splitlines()]
