"""Write records to MLflow: one parent run per search, one child per trial; a record written twice changes nothing.

Runs are found again by the tags below, and a metric point is the same point when run, key, step and time are the same.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.masking import mask
from hep_ray.tracking.client import (
    artifact_location,
    cause,
    database_file,
    find_runs,
    open_client,
    store_file,
)
from hep_ray.tracking.records import (
    EpochFinished,
    Record,
    SearchFinished,
    SearchStarted,
    TrialFinished,
    TrialLost,
    TrialStarted,
    TrialTested,
)
from hep_ray.tracking.views import NOTE_TAG, best_key, experiment_tags, metric_key, note, run_name

logger = logging.getLogger(__name__)

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
METRICS_PER_CALL = 1000
"""MLflow's limit for one log_batch."""
CAUSE_LENGTH = 5000
"""Characters of a failed trial's cause that MLflow's tags take."""
Values = Mapping[str, Mapping[str, tuple[float, float]]]
"""Contender → metric without its `test_` → mean and s.d. over seeds."""


class RunWriter:
    """Writes the records of one search, in their order, while somebody else waits and tries again.

    Args:
        uri: tracking URI, such as `sqlite:////data/mlflow.db` or the address of a server.
        experiment: MLflow experiment; the search's name.
        artifacts: folder for artifacts when the URI is a database; a server has its own.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self.uri = uri
        self.parent_run_id: str | None = None
        self.run_ids: dict[str, str] = {}
        self._experiment, self._artifacts = experiment, artifacts
        self._client: Any = None
        self._experiment_id = ""
        self._search: SearchStarted | None = None
        self._best: dict[str, dict[int, float]] = {}
        """Trial → epoch → best value so far of the metric that ranks."""
        self._unanswered = ""
        """Trial whose run was asked for without an answer: it may be there."""
        self._doubtful = uri.startswith(("http://", "https://"))
        """Whether a run may have been made twice: a client asks a server again that did not answer."""

    def connect(self) -> None:
        """Open a client and find, or make, the experiment; what is done already is not done again.

        Raises:
            TrackingUnavailable: the experiment was deleted.
            Exception: whatever MLflow raises while nothing answers.
        """
        if self._client is None:
            self._client = open_client(self.uri, self._artifacts)
        if not self._experiment_id:
            self._experiment_id = self._find_or_create()

    def write_epochs(self, records: Sequence[EpochFinished]) -> None:
        """Log the metrics of epochs of one trial together, with the best value so far of the one that ranks."""
        points = [point for record in records for point in (*_points(record), *self._best_so_far(record))]
        run_id = self.run_ids[records[0].trial_id]
        for first in range(0, len(points), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=points[first : first + METRICS_PER_CALL])

    def write(self, record: Record) -> None:
        """Write one record."""
        if isinstance(record, SearchStarted):
            self._start_search(record)
        elif isinstance(record, TrialStarted):
            self._start_trial(record)
        elif isinstance(record, EpochFinished):
            self.write_epochs([record])
        elif isinstance(record, TrialFinished):
            self._finish_trial(record)
        elif isinstance(record, TrialLost):
            self._client.set_tag(self.run_ids[record.trial_id], LOST_TAG, record.cause[:CAUSE_LENGTH])
        elif isinstance(record, TrialTested):
            self._client.log_batch(self.run_ids[record.trial_id], metrics=_points(record))
        elif isinstance(record, SearchFinished) and self.parent_run_id is not None:
            self._client.set_terminated(self.parent_run_id, "FINISHED", int(1000 * record.time))

    def _finish_trial(self, record: TrialFinished) -> None:
        run_id = self.run_ids[record.trial_id]
        self._client.set_tag(run_id, STATUS_TAG, record.status)
        if record.cause:
            self._client.set_tag(run_id, CAUSE_TAG, record.cause[:CAUSE_LENGTH])
        if record.log:
            self._store_log(run_id, record.log)
        if record.status == "failed":
            self._rank_below(record)
        self._client.set_terminated(run_id, RUN_STATUS[record.status], int(1000 * record.time))

    def _best_so_far(self, record: EpochFinished) -> list[Any]:
        """The figure by which the leaderboard ranks, after this epoch."""
        from mlflow.entities import Metric

        search = self._search
        assert search is not None
        value = record.metrics.get(search.metric)
        if value is None:
            return []
        better = max if search.mode == "max" else min
        so_far = self._best.setdefault(record.trial_id, {})
        so_far[record.epoch] = better(value, so_far.get(record.epoch - 1, value))
        return [Metric(best_key(search.metric), so_far[record.epoch], int(1000 * record.time), record.epoch)]

    def _rank_below(self, record: TrialFinished) -> None:
        """Below all that did not fail, whatever it had reached: MLflow puts what is no number there."""
        so_far = self._best.get(record.trial_id)
        if so_far and self._search is not None:
            key, stamp = best_key(self._search.metric), int(1000 * record.time)
            self._client.log_metric(self.run_ids[record.trial_id], key, float("nan"), stamp, max(so_far))

    def attach(self, artifact: Path) -> None:
        """Store a file with the parent run, if there is one."""
        if self.parent_run_id is not None:
            store_file(self._client, self.parent_run_id, artifact)

    def _store_log(self, run_id: str, text: str) -> None:
        with tempfile.TemporaryDirectory(prefix="hep_ray-log-") as scratch:
            file = Path(scratch) / LOG_ARTIFACT
            file.write_text(text, encoding="utf-8")
            store_file(self._client, run_id, file)

    def settle(self) -> None:
        """Delete the runs that a lost answer left beside those in use."""
        if self._doubtful and self._search is not None:
            self._find_existing(self._search.search_id)

    def _find_or_create(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            location = artifact_location(self.uri, self._artifacts, self._experiment)
            try:
                return str(self._client.create_experiment(self._experiment, artifact_location=location))
            except Exception as exc:
                if getattr(exc, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(self._experiment)
        if found.lifecycle_stage == "deleted":
            raise TrackingUnavailable(
                f"MLflow's experiment '{self._experiment}', into which the search writes, was deleted: bring it back "
                f"with `mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        return str(found.experiment_id)

    def _find_existing(self, search_id: str) -> None:
        """Take the runs that are there; of several for one trial the one in use, or the first; the rest is deleted."""
        existing = find_runs(self._client, self._experiment_id, f"tags.`{SEARCH_TAG}` = '{search_id}'")
        by_trial: dict[str | None, list[str]] = {}
        for run_id, tags in sorted(existing, key=lambda found: found[0]):
            by_trial.setdefault(tags.get(TRIAL_TAG), []).append(run_id)
        for trial_id, runs in by_trial.items():
            used = self.parent_run_id if trial_id is None else self.run_ids.get(trial_id)
            kept = used if used in runs else runs[0]
            for run_id in runs:
                if run_id != kept:
                    logger.info(
                        "deleting MLflow's run %s, made twice for %s", run_id, trial_id or "the search"
                    )
                    self._client.delete_run(run_id)
            if trial_id is None:
                self.parent_run_id = kept
            else:
                self.run_ids[trial_id] = kept

    def _start_search(self, record: SearchStarted) -> None:
        self._search = record
        self._find_existing(record.search_id)
        if self.parent_run_id is not None:
            self._client.update_run(self.parent_run_id, status="RUNNING")
        else:
            tags = {SEARCH_TAG: record.search_id, "hep_ray.search": record.search, **record.provenance}
            tags[NOTE_TAG] = note(record, self._experiment_id)
            self.parent_run_id = self._create_run(
                record.title or record.search, record.time, tags | record.tags
            )
        for key, value in experiment_tags(record, self._experiment_id).items():
            self._client.set_experiment_tag(self._experiment_id, key, value)
        params = record.model_dump(include={"task", "metric", "mode", "epochs", "sampler", "seed"})
        params["scheduler"] = record.stopping
        params["dataset_fingerprint"] = record.dataset_fingerprint
        params |= {f"space.{key}": value for key, value in (record.space | record.contenders).items()}
        self._log_params(self.parent_run_id, params)

    def _start_trial(self, record: TrialStarted) -> None:
        search = self._search
        assert search is not None
        if self._unanswered == record.trial_id:
            self._find_existing(search.search_id)
        if record.trial_id not in self.run_ids:
            tags = {
                SEARCH_TAG: search.search_id,
                TRIAL_TAG: record.trial_id,
                PARENT_TAG: str(self.parent_run_id),
                "hep_ray.search": search.search,
                "dataset_fingerprint": search.dataset_fingerprint,
                **search.provenance,
                **search.tags,
                **record.tags,
            }
            name = run_name(record.trial_id, record.params, search.space)
            self.run_ids[record.trial_id] = self._create_run(name, record.time, tags)
        params = {**record.params, "seed": record.seed, "epochs": search.epochs}
        self._log_params(self.run_ids[record.trial_id], params)

    def _create_run(self, name: str, start: float, tags: dict[str, str]) -> str:
        try:
            run = self._client.create_run(
                self._experiment_id, start_time=int(1000 * start), tags=tags, run_name=name
            )
        except Exception:
            self._unanswered, self._doubtful = tags.get(TRIAL_TAG, ""), True
            raise
        self._unanswered = ""
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


def _points(record: EpochFinished | TrialTested) -> list[Any]:
    from mlflow.entities import Metric

    stamp = int(1000 * record.time)
    values = record.metrics | (record.used if isinstance(record, EpochFinished) else {})
    return [Metric(metric_key(key), value, stamp, record.epoch) for key, value in values.items()]


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
