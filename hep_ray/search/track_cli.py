"""`hep-ray track`."""

from __future__ import annotations

from typing import Annotated

import typer

from hep_ray.flags import STORAGE, Storage, TrackingUri, with_storage
from hep_ray.masking import mask


def track(
    name: Annotated[str, typer.Argument(help="Name of the search, which is that of its folder.")],
    storage: Storage = STORAGE,
    tracking_uri: TrackingUri = None,
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
    local = done.uri.startswith("sqlite")
    typer.echo(f"next: {with_storage('hep-ray ui', storage) if local else f'open {mask(done.uri)}'}")
