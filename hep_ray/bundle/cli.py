"""`hep-ray bundle`: a promoted model for those who have no hep_ray."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hep_ray.console import result_console
from hep_ray.errors import InvalidConfig
from hep_ray.flags import IN_STORAGE, STORAGE, ModelName, Plugins, Storage, TrustCode, typed

if TYPE_CHECKING:
    from hep_ray.promote.package import Package
    from hep_ray.search.find import Found
    from hep_ray.tracking.records import SearchStarted


def bundle(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder that is handed on; absent.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Dataset that it was trained on [default: where the search found it].", show_default=False
        ),
    ] = None,
    events: Annotated[
        int, typer.Option(min=1, help="Validation events that are handed on with their scores, at most.")
    ] = 1000,
    trust_code: TrustCode = False,
    plugin: Plugins = None,
    storage: Storage = STORAGE,
    tracking_uri: Annotated[str | None, IN_STORAGE] = None,
) -> None:
    """Write a folder that hands a model on to those who have no hep_ray.

    It holds the model as ONNX with metadata, validation events with their scores, `check.py`, which compares them with
    onnxruntime and numpy alone, a C++ program, the model card, figures, and tables in HEPData's format. Figures and
    tables of scores are of the confirmation's test split, whose kept scores are read; no event of it is handed on.

    Example: `hep-ray bundle models:/susy@champion --out susy_bundle`, then there `python check.py`.

    Raises:
        InvalidConfig: it is the models of several folds.
        UnknownName: there is no such model, version or alias.
        ModelMismatch: the dataset is not that which it was trained on.
        StorageError: something is at --out.
        MissingPackage: the extra `onnx` is not installed.
        ExportFailed: ONNX has no like of a part of the model.
        UntrustedCode: the model carries code of its own, and neither --trust-code nor --plugin is given.
    """
    from hep_ray.dataset.dataset import Dataset
    from hep_ray.predict.cli import find_model, with_own_code

    package, origin = find_model(model, storage, tracking_uri)
    from hep_ray.bundle.write import write_bundle

    package = with_own_code(package, plugin, trust=trust_code)
    search, started = _search_of(package, storage) or (None, None)
    folder = data or _where_the_search_found_it(started)
    schema = package.description.event_schema
    dataset = Dataset.open(folder, weights=schema.weight is not None)
    name = origin if origin.startswith("models:/") else schema.task
    made = write_bundle(package, name, dataset, out, events=events, search=search)
    say = partial(result_console().print, soft_wrap=True, highlight=False, markup=False)
    say(
        f"{made.folder} holds {origin} in {len(made.files) + 1} files, with {made.events} validation events; ONNX "
        f"Runtime and torch differ by {made.difference:.1e} at most"
    )
    for note in made.notes:
        say(f"note: {note}")
    say(f"next, wherever onnxruntime and numpy are: {typed('python', made.folder / 'check.py')}")


def _search_of(package: Package, storage: Path) -> tuple[Found, SearchStarted] | None:
    """Return the search that a model came of, and how it began; None where it is not in this storage."""
    from hep_ray.search.find import Found, searches_in

    origin = package.description.origin
    name = origin.get("search", "")
    if name not in searches_in(storage):
        return None
    found = Found(storage / name, None)
    started = found.state().started
    if started is None or started.search_id != origin.get("search_id"):
        return None
    return found, started


def _where_the_search_found_it(started: SearchStarted | None) -> Path:
    """Return the folder of the dataset of a search.

    Raises:
        InvalidConfig: it is not known.
    """
    folder = "" if started is None else str(started.options.get("data", ""))
    if not folder:
        raise InvalidConfig(
            "a model is handed on with validation events of the dataset that it was trained on, and the search that "
            "would tell where it lies is not in this storage: name it with --data"
        )
    return Path(folder)
