"""Hand a search's journal over to MLflow after the search, to a server that was away or another: `hep-ray track`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from hep_ray.errors import StorageError
from hep_ray.flags import STORAGE, SearchName, Storage, TrackingUri
from hep_ray.masking import mask
from hep_ray.search.state import SearchState, leaderboard, write_leaderboard
from hep_ray.tracking.client import look, recorded_uri
from hep_ray.tracking.journal import FILE_NAME, Journal
from hep_ray.tracking.mlflow import MlflowTracker


@dataclass(frozen=True)
class HandedOver:
    """Count of what MLflow holds now.

    Attributes:
        uri: where.
        records: of the search's journal, and of its confirmation's.
        trials: with a run of their own.
    """

    uri: str
    records: int
    trials: int


def hand_over(folder: Path, uri: str | None = None, say: Callable[[str], None] | None = None) -> HandedOver:
    """Write every record of a search and of its confirmations into MLflow; what is there already stays as it is.

    Args:
        folder: of the search.
        uri: MLflow server or database; that of the search unless given.
        say: told while MLflow does not answer.

    Raises:
        StorageError: no search was run there, or a process is running it.
        TrackingUnavailable: MLflow did not take everything; typed again, it goes on.
    """
    if not (folder / FILE_NAME).exists():
        raise StorageError(f"no search in {folder}: it has no {FILE_NAME}")
    records = trials = 0
    uri = uri or recorded_uri(folder, SearchState.read(folder).started)
    confirmations = sorted(journal.parent for journal in folder.glob(f"*/{FILE_NAME}"))
    for part in (folder, *confirmations):
        with Journal(part) as journal:
            state = SearchState.fold(journal)
            tracker = MlflowTracker(uri, folder.name, folder.parent / "mlartifacts", *((say,) if say else ()))
            tracker.replay(journal)
            tracker.close()
            if part == folder and state.started is not None:
                tracker.attach(write_leaderboard(folder, leaderboard(state, tracker.run_ids)))
            records += len(journal)
            trials += len(tracker.run_ids)
    return HandedOver(uri, records, trials)


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

    folder = find_search(name, storage).folder
    done = hand_over(folder, tracking_uri, lambda text: typer.echo(text, err=True))
    typer.echo(
        f"{done.records} records of {folder.name} are in MLflow at {mask(done.uri)}: {done.trials} trials"
    )
    typer.echo(f"next: {look(done.uri, folder.parent)}")
