"""MLflow behind the journal: one parent run per search, one child per trial, one writing thread.

Records wait in a queue, so that a slow or absent server never holds up a trial. Writing a
record twice changes nothing: runs are found again by the tags below, and a metric point is the
same point when run, key, step and time are the same. A resumed search therefore hands over its
whole journal, and what the server missed arrives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking.client import artifact_location, find_runs, open_client
from hep_ray.tracking.records import (
    EpochFinished,
    Record,
    SearchFinished,
    SearchStarted,
    TrialFinished,
    TrialStarted,
    TrialTested,
)

SEARCH_TAG = "hep_ray.search_id"
TRIAL_TAG = "hep_ray.trial_id"
STATUS_TAG = "hep_ray.status"
PARENT_TAG = "mlflow.parentRunId"
RUN_STATUS = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}

BATCH_SECONDS = 0.5
"""Records that arrive within this time travel together."""
METRICS_PER_CALL = 1000
"""MLflow's limit for one log_batch."""
PATIENCE = 60.0
"""Seconds for which `close` goes on trying to reach a server that does not answer."""


class MlflowTracker:
    """Write records to an MLflow server or database from a thread of this process.

    Args:
        uri: tracking URI, such as `sqlite:////data/mlflow.db` or the address of a server.
        experiment: MLflow experiment; the search's name.
        artifacts: folder for artifacts when the URI is a database; a server has its own.

    Raises:
        TrackingUnavailable: nothing answers at the URI now, before any trial started.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self.uri = uri
        self.parent_run_id: str | None = None
        self.run_ids: dict[str, str] = {}
        self._pending: deque[Record] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._fault: Exception | None = None
        try:
            self._client = open_client(uri)
            self._experiment_id = self._find_or_create(experiment, artifacts)
        except Exception as fault:
            raise TrackingUnavailable(
                f"MLflow must answer before a search starts; {uri} does not: {fault}"
            ) from fault
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def replay(self, records: Iterable[Record]) -> None:
        """Hand over the journal of an earlier attempt; runs it already made are used again."""
        self._pending.extend(records)
        self._wake.set()

    def record(self, record: Record) -> None:
        """Hand over one record; returns at once."""
        self._pending.append(record)
        self._wake.set()

    def attach(self, artifact: Path) -> None:
        """Store a file with the parent run; after `close`."""
        if self.parent_run_id is not None:
            self._client.log_artifact(self.parent_run_id, str(artifact))

    def close(self) -> None:
        """Write what is left and end the thread.

        Raises:
            TrackingUnavailable: the server did not take everything within the patience.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join()
        if self._pending:
            raise TrackingUnavailable(
                f"{len(self._pending)} records are not in MLflow at {self.uri} yet "
                f"({self._fault}); the journal keeps them: run again (a search with --resume) to hand them over"
            ) from self._fault

    def _find_or_create(self, experiment: str, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(experiment)
        if found is not None:
            return str(found.experiment_id)
        location = artifact_location(self.uri, artifacts, experiment)
        return str(self._client.create_experiment(experiment, artifact_location=location))

    def _work(self) -> None:
        delay, given_up = BATCH_SECONDS, float("inf")
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._closing.is_set():
                time.sleep(BATCH_SECONDS)
            elif given_up == float("inf"):
                given_up = time.monotonic() + PATIENCE
            try:
                self._write_pending()
                delay = BATCH_SECONDS
                self._fault = None
            except Exception as fault:  # noqa: BLE001 - any fault of a server is survived; close() tells it
                self._fault = fault
                if time.monotonic() > given_up:
                    return
                self._closing.wait(delay)
                delay = min(2 * delay, PATIENCE / 4)
                self._wake.set()
                continue
            if self._closing.is_set() and not self._pending:
                return

    def _write_pending(self) -> None:
        """Write from the front of the queue; a record leaves the queue only once it is written."""
        while self._pending:
            epochs: list[EpochFinished] = []
            for record in list(self._pending):
                if not isinstance(record, EpochFinished):
                    break
                epochs.append(record)
            if epochs:
                self._write_epochs(epochs)
                for _ in epochs:
                    self._pending.popleft()
            else:
                self._write(self._pending[0])
                self._pending.popleft()

    def _write_epochs(self, epochs: list[EpochFinished]) -> None:
        by_trial: dict[str, list[Any]] = {}
        for record in epochs:
            by_trial.setdefault(record.trial_id, []).extend(_points(record))
        for trial_id, points in by_trial.items():
            for first in range(0, len(points), METRICS_PER_CALL):
                self._client.log_batch(
                    self.run_ids[trial_id], metrics=points[first : first + METRICS_PER_CALL]
                )

    def _write(self, record: Record) -> None:
        if isinstance(record, SearchStarted):
            self._start_search(record)
        elif isinstance(record, TrialStarted):
            self._start_trial(record)
        elif isinstance(record, TrialFinished):
            run_id = self.run_ids[record.trial_id]
            self._client.set_tag(run_id, STATUS_TAG, record.status)
            if record.cause:
                self._client.set_tag(run_id, "hep_ray.cause", record.cause[:5000])
            self._client.set_terminated(run_id, RUN_STATUS[record.status], int(1000 * record.time))
        elif isinstance(record, TrialTested):
            self._client.log_batch(self.run_ids[record.trial_id], metrics=_points(record))
        elif isinstance(record, SearchFinished) and self.parent_run_id is not None:
            self._client.set_terminated(self.parent_run_id, "FINISHED", int(1000 * record.time))

    def _start_search(self, record: SearchStarted) -> None:
        self._search = record
        existing = find_runs(self._client, self._experiment_id, f"tags.`{SEARCH_TAG}` = '{record.search_id}'")
        self.run_ids = {tags[TRIAL_TAG]: run_id for run_id, tags in existing if TRIAL_TAG in tags}
        parents = [run_id for run_id, tags in existing if TRIAL_TAG not in tags]
        if parents:
            self.parent_run_id = parents[0]
            self._client.update_run(self.parent_run_id, status="RUNNING")
        else:
            tags = {SEARCH_TAG: record.search_id, "hep_ray.search": record.search, **record.provenance}
            self.parent_run_id = self._create_run(
                record.title or record.search, record.time, tags | record.tags
            )
        params = record.model_dump(
            include={"task", "metric", "mode", "epochs", "sampler", "scheduler", "seed"}
        )
        params["dataset_fingerprint"] = record.dataset_fingerprint
        params |= {f"space.{key}": value for key, value in record.space.items()}
        self._log_params(self.parent_run_id, params)

    def _start_trial(self, record: TrialStarted) -> None:
        search = self._search
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
            self.run_ids[record.trial_id] = self._create_run(record.trial_id, record.time, tags)
        params = {**record.params, "seed": record.seed, "epochs": search.epochs}
        self._log_params(self.run_ids[record.trial_id], params)

    def _create_run(self, name: str, start: float, tags: dict[str, str]) -> str:
        run = self._client.create_run(
            self._experiment_id, start_time=int(1000 * start), tags=tags, run_name=name
        )
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


def _points(record: EpochFinished | TrialTested) -> list[Any]:
    from mlflow.entities import Metric

    stamp = int(1000 * record.time)
    return [Metric(key, value, stamp, record.epoch) for key, value in record.metrics.items()]
