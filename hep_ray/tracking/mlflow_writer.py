"""Tags by which the runs of a search are found again in MLflow, and what is written to them when it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.masking import mask
from hep_ray.tracking.client import cause, database_file, find_runs, open_client, store_file
from hep_ray.tracking.views import metric_key

SEARCH_TAG = "hep_ray.search_id"
TRIAL_TAG = "hep_ray.trial_id"
STATUS_TAG = "hep_ray.status"
CAUSE_TAG = "hep_ray.cause"
LOST_TAG = "hep_ray.last_loss"
"""Why the trial's process was lost the last time; the trial went on."""
LOG_ARTIFACT = "log.txt"
"""End of what a failed trial wrote."""
PARENT_TAG = "mlflow.parentRunId"
RUN_STATUS = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
Values = Mapping[str, Mapping[str, tuple[float, float]]]
"""Contender → metric without its `test_` → mean and s.d. over seeds."""


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
        raise TrackingUnavailable(f"there is no MLflow database of the search at {uri}")
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
    except Exception as exc:
        raise TrackingUnavailable(
            f"cannot attach {artifact.name}: MLflow at {mask(uri)} does not answer: {cause(exc)}"
        ) from exc
    raise TrackingUnavailable(f"MLflow at {mask(uri)} has no parent run of the search {search} ({search_id})")


def log_confirmed(
    uri: str,
    experiment: str,
    search_id: str,
    confirmation_run: str | None,
    *,
    main: str,
    values: Values,
    trials: Mapping[str, Sequence[str]],
    stamp: float,
) -> None:
    """Write `confirmed/<metric>` and `confirmed/<metric>_sd`; written twice, nothing changes.

    - Each trial of the search that a contender is gets its metrics, without counts and errors, and the tag `confirmed`
      (`finalist` or `baseline`): the column `confirmed/accuracy` sorts the table of runs.
    - The parent run of the search, and that of the confirmation, get the main metric of every contender as
      `confirmed/<metric>_<contender>`.

    Args:
        uri: MLflow server or database.
        experiment: name of the search.
        search_id: of the search.
        confirmation_run: parent run of the confirmation.
        main: metric by which the finalists are compared, without its `test_`.
        values: what was found.
        trials: contender → its trials in the search; the baseline may have none.
        stamp: time of the points, Unix, s.

    Raises:
        TrackingUnavailable: MLflow did not take them.
    """
    try:
        client = open_client(uri)
        found = client.get_experiment_by_name(experiment)
        runs = find_runs(client, found.experiment_id, f"tags.`{SEARCH_TAG}` = '{search_id}'")
        for run_id, tags in runs:
            for contender, metrics in values.items():
                if tags.get(TRIAL_TAG) in trials.get(contender, ()):
                    client.set_tag(run_id, "confirmed", "baseline" if contender == "baseline" else "finalist")
                    _log(client, run_id, _shown(metrics), stamp)
        parents = [run_id for run_id, tags in runs if TRIAL_TAG not in tags]
        of_all = {f"confirmed/{main}_{contender}": metrics[main] for contender, metrics in values.items()}
        for run_id in [*parents, *([confirmation_run] if confirmation_run else [])]:
            _log(client, run_id, of_all, stamp)
    except Exception as exc:
        raise TrackingUnavailable(
            f"MLflow at {mask(uri)} did not take the confirmed values: {cause(exc)}; all is in "
            "confirmation.json: type the same command again to hand them over"
        ) from exc


def _shown(metrics: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """All but the counts of the confusion matrix and the errors that come with a metric."""
    return {
        metric_key(f"confirmed_{key}"): pair
        for key, pair in metrics.items()
        if not (key.startswith("confusion_") or key.endswith("_error"))
    }


def _log(client: Any, run_id: str, values: Mapping[str, tuple[float, float]], stamp: float) -> None:
    from mlflow.entities import Metric

    milliseconds = int(1000 * stamp)
    points = [
        Metric(key + suffix, value, milliseconds, 0)
        for key, pair in values.items()
        for suffix, value in zip(("", "_sd"), pair, strict=True)
    ]
    client.log_batch(run_id, metrics=points)
