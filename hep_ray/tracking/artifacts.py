"""Files that are stored with a search's parent run after the search."""

from __future__ import annotations

from pathlib import Path

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking.client import open_client
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
        runs = []
        if experiment is not None:
            of_search = f"tags.`{SEARCH_TAG}` = '{search_id}'"
            # The parent started before its trials, so it is on the first page.
            runs = client.search_runs(
                [experiment.experiment_id], of_search, order_by=["attributes.start_time ASC"]
            )
        parents = [run.info.run_id for run in runs if TRIAL_TAG not in run.data.tags]
        if parents:
            client.log_artifact(parents[0], str(artifact))
            return str(parents[0])
    except Exception as fault:
        raise TrackingUnavailable(
            f"MLflow must answer for a file to be attached; {uri} does not: {fault}"
        ) from fault
    raise TrackingUnavailable(
        f"MLflow must hold the parent run of search {search_id}; {uri} has none of {search}"
    )
