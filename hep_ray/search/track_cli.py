"""`hep-ray track`."""

from __future__ import annotations

import typer

from hep_ray.flags import STORAGE, SearchName, Storage, TrackingUri
from hep_ray.masking import mask


def track(
    name: SearchName,
    storage: Storage = STORAGE,
    tracking_uri: TrackingUri = None,
) -> None:
    """Hand a search over to MLflow, from its journal: what a server that was away has missed, or all of it to another.

    What MLflow holds already stays as it is, so it can be typed as often as one likes. A search that is running does
    it by itself.

    Raises:
        UnknownSearch: there is no such search.
        StorageError: it is running.
        TrackingUnavailable: MLflow did not take everything.
    """
    from hep_ray.search.find import find_search
    from hep_ray.search.track import hand_over
    from hep_ray.tracking.client import look

    folder = find_search(name, storage).folder
    done = hand_over(folder, tracking_uri, lambda text: typer.echo(text, err=True))
    typer.echo(
        f"{done.records} records of {folder.name} are in MLflow at {mask(done.uri)}: {done.trials} trials"
    )
    typer.echo(f"next: {look(done.uri, folder.parent)}")
