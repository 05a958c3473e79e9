"""`hep-ray track`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hep_ray.masking import mask


def track(
    name: Annotated[str, typer.Argument(help="Name of the search, which is that of its folder.")],
    storage: Annotated[Path, typer.Option(envvar="HEP_RAY_STORAGE", help="Folder of all searches.")] = Path(
        "runs"
    ),
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow server or database [default: as recorded].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Hand a search over to MLflow, from its journal: what a server that was away has missed, or all of it to another.

    What MLflow holds already stays as it is, so it can be typed as often as one likes. A search that is running does
    it by itself.

    Raises:
        StorageError: there is no such search, or it is running.
        TrackingUnavailable: MLflow did not take everything.
    """
    from hep_ray.search.state import search_folder
    from hep_ray.search.track import hand_over

    done = hand_over(search_folder(storage, name), tracking_uri, lambda text: typer.echo(text, err=True))
    typer.echo(f"{done.records} records of {name} are in MLflow at {mask(done.uri)}: {done.trials} trials")
    where = "" if storage == Path("runs") else f" --storage {storage}"
    typer.echo(
        f"next: hep-ray ui{where}" if done.uri.startswith("sqlite") else f"next: open {mask(done.uri)}"
    )
