"""Files that are stored with a search's parent run after the search."""

from __future__ import annotations

from pathlib import Path

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking.client import find_runs, open_client
from hep_ray.tracking.mlflow import SEARCH_TAG, TRIAL_TAG

SQLITE = "sqlite:///"


def attach_to_search(uri: str, search: str, search_id: str, artifact: Path) -> str:
    """Store a file with the parent run of a search; one of the same name is replaced.

    Args:
        uri: tracking URI of the search.
        search: its name, which is that of its experiment.
        search_id: as in its journal.
        artifact: the file.

    Returns:
        Id of the parent run.

    Raises:
        TrackingUnavailable: nothing answers, or what answers does not know the search.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise TrackingUnavailable(f"the search's MLflow database must be there; {uri} is not")
    try:
        client = open_client(uri)
        experiment = client.get_experiment_by_name(search)
        runs = (
            find_runs(client, experiment.experiment_id, f"tags.`{SEARCH_TAG}` = '{search_id}'")
            if experiment
            else []
        )
        parents = [run_id for run_id, tags in runs if TRIAL_TAG not in tags]
        if parents:
            client.log_artifact(parents[0], str(artifact))
            return parents[0]
    except Exception as fault:
        raise TrackingUnavailable(
            f"MLflow must answer for a file to be attached; {uri} does not: {fault}"
        ) from fault
    raise TrackingUnavailable(
        f"MLflow must hold the parent run of search {search_id}; {uri} has none of {search}"
    )
