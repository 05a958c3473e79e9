"""Runs of a search in MLflow: one parent, and one child for each trial.

Runs are found again by their tags, and a metric point is the same point when run, key, step and time are the same, so
that writing a record twice changes nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking.client import artifact_location, database_file, find_runs, open_client, store_file
from hep_ray.tracking.mlflow_writer import (
    CAUSE_TAG,
    LOG_ARTIFACT,
    LOST_TAG,
    PARENT_TAG,
    RUN_STATUS,
    SEARCH_TAG,
    STATUS_TAG,
    TRIAL_TAG,
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
from hep_ray.tracking.sqlite_runs import Point, RunUpdate, SqliteRuns
from hep_ray.tracking.views import NOTE_TAG, best_key, experiment_tags, metric_key, note, run_name

logger = logging.getLogger(__name__)

CAUSE_LENGTH = 5000
"""Characters of a failed trial's cause that MLflow's tags take."""


class RunWriter:
    """Writes the records of one search, in their order, while somebody else waits and tries again.

    Its arguments are those of `MlflowTracker`.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self.uri = uri
        self.parent_run_id: str | None = None
        self.run_ids: dict[str, str] = {}
        self._experiment, self._artifacts = experiment, artifacts
        self._client: Any = None
        self._experiment_id = ""
        self._sqlite: SqliteRuns | None = None
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
            if (file := database_file(self.uri)) is not None:
                self._sqlite = SqliteRuns(file, self._experiment_id)

    def write(self, record: Record) -> None:
        """Write a record that is of no trial."""
        if isinstance(record, SearchStarted):
            self._start_search(record)
        elif isinstance(record, SearchFinished) and self.parent_run_id is not None:
            self._client.set_terminated(self.parent_run_id, "FINISHED", int(1000 * record.time))

    def write_together(self, by_trial: Mapping[str, Sequence[Record]]) -> set[str]:
        """Write the records of several trials at once, where that can be.

        Returns:
            The trials of which all was written; the others are left to `write_trial`.

        Raises:
            sqlite3.OperationalError: another process holds the database, or the disk is full.
        """
        if self._sqlite is None:
            return set()
        updates = {trial_id: self._update(trial_id, records) for trial_id, records in by_trial.items()}
        written = self._sqlite.write(updates)
        self.run_ids.update(written)
        for trial_id, run_id in written.items():
            self._store_log(run_id, updates[trial_id].log)
        return set(written)

    def write_trial(self, trial_id: str, records: Sequence[Record]) -> None:
        """Write records of one trial in as few calls as MLflow allows.

        Raises:
            Exception: whatever MLflow raises.
        """
        from mlflow.entities import Metric, Param, RunTag

        if self._unanswered == trial_id and self._search is not None:
            self._find_existing(self._search.search_id)
        update = self._update(trial_id, records)
        if update.run_id is None:
            update.run_id = self._create_run(update.name, update.start, update.made_with)
            self.run_ids[trial_id] = update.run_id
        self._client.log_batch(
            update.run_id,
            metrics=[Metric(*point) for point in update.points],
            params=[Param(*pair) for pair in update.params.items()],
            tags=[RunTag(*pair) for pair in update.tags.items()],
        )
        self._store_log(update.run_id, update.log)
        if update.ended is not None:
            self._client.set_terminated(update.run_id, *update.ended)

    def attach(self, artifact: Path) -> None:
        """Store a file with the parent run, if there is one."""
        if self.parent_run_id is not None:
            store_file(self._client, self.parent_run_id, artifact)

    def settle(self) -> None:
        """Delete the runs that a lost answer left beside those in use."""
        if self._doubtful and self._search is not None:
            self._find_existing(self._search.search_id)

    def _update(self, trial_id: str, records: Sequence[Record]) -> RunUpdate:
        """Return what records of one trial say of its run."""
        search = self._search
        assert search is not None
        update = RunUpdate(self.run_ids.get(trial_id))
        for record in records:
            if isinstance(record, TrialStarted):
                update.name = run_name(trial_id, record.params, search.space)
                update.start = int(1000 * record.time)
                update.made_with = self._tags(search, record)
                params = {**record.params, "seed": record.seed, "epochs": search.epochs}
                update.params = {key: str(value) for key, value in params.items()}
            elif isinstance(record, EpochFinished):
                update.points += [*_points(record), *self._best_so_far(record)]
            elif isinstance(record, TrialLost):
                update.tags[LOST_TAG] = record.cause[:CAUSE_LENGTH]
            elif isinstance(record, TrialTested):
                update.points += _points(record)
            elif isinstance(record, TrialFinished):
                self._end(update, record)
        return update

    def _tags(self, search: SearchStarted, record: TrialStarted) -> dict[str, str]:
        return {
            SEARCH_TAG: search.search_id,
            TRIAL_TAG: record.trial_id,
            PARENT_TAG: str(self.parent_run_id),
            "hep_ray.search": search.search,
            "dataset_fingerprint": search.dataset_fingerprint,
            **search.provenance,
            **search.tags,
            **record.tags,
        }

    def _end(self, update: RunUpdate, record: TrialFinished) -> None:
        update.tags[STATUS_TAG] = record.status
        if record.cause:
            update.tags[CAUSE_TAG] = record.cause[:CAUSE_LENGTH]
        update.log = record.log
        stamp = int(1000 * record.time)
        so_far = self._best.get(record.trial_id)
        if record.status == "failed" and so_far and self._search is not None:
            # Below all that did not fail, whatever it had reached: MLflow puts what is no number there.
            update.points.append((best_key(self._search.metric), float("nan"), stamp, max(so_far)))
        update.ended = RUN_STATUS[record.status], stamp

    def _best_so_far(self, record: EpochFinished) -> Iterator[Point]:
        """The figure by which the leaderboard ranks, after this epoch."""
        search = self._search
        assert search is not None
        value = record.metrics.get(search.metric)
        if value is not None:
            better = max if search.mode == "max" else min
            so_far = self._best.setdefault(record.trial_id, {})
            best = so_far[record.epoch] = better(value, so_far.get(record.epoch - 1, value))
            yield best_key(search.metric), best, int(1000 * record.time), record.epoch

    def _store_log(self, run_id: str, log: str) -> None:
        if log:
            with tempfile.TemporaryDirectory(prefix="hep_ray-log-") as scratch:
                file = Path(scratch) / LOG_ARTIFACT
                file.write_text(log, encoding="utf-8")
                store_file(self._client, run_id, file)

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
                record.title or record.search, int(1000 * record.time), tags | record.tags
            )
        for key, value in experiment_tags(record, self._experiment_id).items():
            self._client.set_experiment_tag(self._experiment_id, key, value)
        params = record.model_dump(include={"task", "metric", "mode", "epochs", "sampler", "seed"})
        params["scheduler"] = record.stopping
        params["dataset_fingerprint"] = record.dataset_fingerprint
        params |= {f"space.{key}": value for key, value in (record.space | record.contenders).items()}
        self._log_params(self.parent_run_id, params)

    def _create_run(self, name: str, start: int, tags: dict[str, str]) -> str:
        try:
            run = self._client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=name)
        except Exception:
            self._unanswered, self._doubtful = tags.get(TRIAL_TAG, ""), True
            raise
        self._unanswered = ""
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


def _points(record: EpochFinished | TrialTested) -> list[Point]:
    stamp = int(1000 * record.time)
    values = record.metrics | (record.used if isinstance(record, EpochFinished) else {})
    return [(metric_key(key), value, stamp, record.epoch) for key, value in values.items()]
