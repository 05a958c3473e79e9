"""`hep-ray data show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from hep_ray.dataset.splits import Split
from hep_ray.flags import typed


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder.")],
    out: Annotated[Path | None, typer.Option(help="The page. Default: DIR.html, beside the dataset.")] = None,
    split: Annotated[str, typer.Option(help="Whose events are drawn: train or val.")] = "train",
) -> None:
    """Draw a dataset on one HTML page that needs nothing beside it.

    Mean image of every class and channel, single events, the distribution of every feature by class, the
    balance of the classes in each split. Up to 20,000 events are drawn; those of the test split never.

    Example: hep-ray data show data/mbh_sph
    """
    from hep_ray.dataset.show import show as draw

    path = draw(folder, out, cast("Split", split))
    typer.echo(f"wrote {path}: open it in a browser")
    typer.echo(f"next: {typed('hep-ray', 'data', 'check', folder)}")
