"""A page of pictures of a dataset, `hep-ray data show`: one HTML file that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from hep_ray.addresses import Address, located
from hep_ray.dataset.dataset import verify_shards
from hep_ray.dataset.splits import Split
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.files import storing, write_whole
from hep_ray.flags import typed

EVENTS = 20_000
"""Events that are drawn, at most."""


def show(folder: Path | str, out: Path | str | None = None, split: Split = "train") -> Path:
    """Draw a dataset: mean images, single events, distributions by class, class balance.

    Args:
        folder: of the dataset.
        out: the page; the dataset's folder name with `.html` beside it unless given. `.html` is added.
        split: whose events are drawn, `train` or `val`. Of the test split only the counts in the manifest are
            shown: its events are kept for the final confirmation.

    Returns:
        The page's path.

    Raises:
        InvalidConfig: the split is not one of these two, or the page of an address has no place.
        UnreadableInput: there is no readable manifest.
        ShardMismatch: the shards are not those of the manifest.
        InvalidEvents: the split is empty.
        StorageError: the page cannot be written.
    """
    folder = located(folder)
    if out is None and isinstance(folder, Address):
        raise InvalidConfig(f"no page can be written beside {folder}: say where with --out")

    from hep_ray.dataset.show.page import page
    from hep_ray.dataset.show.sample import draw_sample

    if split not in {"train", "val"}:
        raise InvalidConfig(
            f"the split '{split}' is not drawn, train and val are: the events of test are kept for the end"
        )
    manifest = verify_shards(folder)
    if not manifest.rows(split):
        raise InvalidEvents(f"the split '{split}' of {folder} has no events to draw")
    path = Path(out) if out else folder.absolute().with_name(folder.absolute().name)
    if path.suffix not in {".html", ".htm"}:
        path = path.with_name(f"{path.name}.html")
    with storing(path):
        write_whole(path, page(draw_sample(folder, manifest, split, EVENTS)))
    return path


def show_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder.")],
    out: Annotated[Path | None, typer.Option(help="The page. Default: DIR.html, beside the dataset.")] = None,
    split: Annotated[str, typer.Option(help="Whose events are drawn: train or val.")] = "train",
) -> None:
    """Draw a dataset on one HTML page that needs nothing beside it.

    Mean image of every class and channel, single events, the distribution of every feature by class, the
    balance of the classes in each split. Up to 20,000 events are drawn; those of the test split never.

    Example: hep-ray data show data/mbh_sph
    """
    path = show(folder, out, cast("Split", split))
    typer.echo(f"wrote {path}: open it in a browser")
    typer.echo(f"next: {typed('hep-ray', 'data', 'check', folder)}")
