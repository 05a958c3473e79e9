"""Files that are stored with a search's parent run after the search."""

from __future__ import annotations

from pathlib import Path

from hep_ray.errors import TrackingUnavailable
from hep_ray.masking import mask
from hep_ray.tracking.client import database_file, find_runs, open_client, store_file
from hep_ray.tracking.faults import cause
from hep_ray.tracking.runs import SEARCH_TAG, TRIAL_TAG


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
    file = database_file(uri)
    if file is not None and not file.exists():
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
            store_file(client, parents[0], artifact)
            return parents[0]
    except Exception as fault:
        raise TrackingUnavailable(
            f"MLflow must answer for a file to be attached; {mask(uri)} does not: {cause(fault)}"
        ) from fault
    raise TrackingUnavailable(
        f"MLflow must hold the parent run of search {search_id}; {mask(uri)} has none of {search}"
    )
