"""Hand a search's journal over to MLflow, after the search: to a server that was away, or to another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.search.leaderboard import leaderboard, write_leaderboard
from hep_ray.search.state import SearchState, recorded_uri
from hep_ray.tracking.journal import FILE_NAME, Journal
from hep_ray.tracking.mlflow import MlflowTracker


@dataclass(frozen=True)
class HandedOver:
    """What MLflow holds now.

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
        raise StorageError(f"a search keeps {FILE_NAME} in its folder; {folder} has none")
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
