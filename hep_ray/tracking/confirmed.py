"""Confirmed values in MLflow, where one sorts by them: at the search's trials and at both parent runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.masking import mask
from hep_ray.tracking.client import find_runs, open_client
from hep_ray.tracking.faults import cause
from hep_ray.tracking.names import metric_key
from hep_ray.tracking.runs import SEARCH_TAG, TRIAL_TAG

Values = Mapping[str, Mapping[str, tuple[float, float]]]
"""Contender → metric without its `test_` → mean and s.d. over seeds."""


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
    except Exception as fault:
        raise TrackingUnavailable(
            f"confirmed values are written to MLflow; {mask(uri)} did not take them: {cause(fault)}; all is in "
            "confirmation.json: type the same command again to hand them over"
        ) from fault


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
