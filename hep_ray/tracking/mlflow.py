"""MLflow behind the journal: one writing thread, which a slow or absent server holds up and nothing else.

Records wait in a queue and leave it once they are written. While the server is away the thread tries again, ever less
often; that is said once, and once more when it is back. What a server did not take by the end is in the journal, and a
resumed search, or `hep-ray track`, hands over all of it: writing a record twice changes nothing. There is one parent
run per search and one child per trial; runs are found again by their tags, and a metric point is the same point when
run, key, step and time are the same.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.flags import STORAGE, typed
from hep_ray.masking import mask
from hep_ray.tracking.client import (
    artifact_location,
    cause,
    client_class,
    find_runs,
    open_client,
    refuses_client,
    refuses_record,
    store_file,
)
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
from hep_ray.tracking.views import NOTE_TAG, best_key, experiment_tags, metric_key, note, run_name

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.5
"""Records that arrive within this time travel together."""
LONGEST_WAIT = 15.0
"""Between two attempts to reach a server that does not answer, s."""
FIRST_ANSWER = 30.0
"""How long a search waits for the first answer before it starts without one, s."""
PATIENCE = "HEP_RAY_TRACKING_PATIENCE"
"""Environment variable: seconds for which `close` goes on trying to reach a server that does not answer."""
DEFAULT_PATIENCE = 60.0
METRICS_PER_CALL = 1000
"""MLflow's limit for one log_batch."""
CAUSE_LENGTH = 5000
"""Characters of a failed trial's cause that MLflow's tags take."""
ALL = "search"
"""Stands for every trial among those whose records MLflow refuses."""


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
            with tempfile.TemporaryDirectory(prefix="hep_ray-log-") as scratch:
                file = Path(scratch) / LOG_ARTIFACT
                file.write_text(record.log, encoding="utf-8")
                store_file(self._client, run_id, file)
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


def _nothing(_: str) -> None:
    pass


class MlflowTracker:
    """Write records to an MLflow server or database from a thread of this process.

    Args:
        uri: tracking URI, such as `sqlite:////data/mlflow.db` or the address of a server.
        experiment: MLflow experiment; the search's name.
        artifacts: folder for artifacts when the URI is a database; a server has its own.
        say: told, once each, that the server is away and that it is back; called from the thread.

    Raises:
        TrackingUnavailable: what is at the URI will never take records, however long one waits: wrong credentials,
            a deleted experiment, an unknown scheme, a missing driver. A server that is away is no error.
    """

    def __init__(
        self, uri: str, experiment: str, artifacts: Path | None = None, say: Callable[[str], None] = _nothing
    ) -> None:
        self.uri = uri
        self.refused: dict[str, str] = {}
        """Trial (`search` stands for all) → why MLflow does not take its records."""
        self._experiment = experiment
        self._patience = float(os.environ.get(PATIENCE) or DEFAULT_PATIENCE)
        self._say = say
        self._artifacts = artifacts
        self._writer = RunWriter(uri, experiment, artifacts)
        self._pending: deque[Record] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._answered = threading.Event()
        self._fault: Exception | None = None
        self._told_away = False
        client_class()  # the wait for the first answer is not for Python's imports
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()
        self._await_first_answer()

    def __str__(self) -> str:
        return f"MLflow at {mask(self.uri)}"

    @property
    def parent_run_id(self) -> str | None:
        """Run of the search; None until MLflow has it."""
        return self._writer.parent_run_id

    @property
    def run_ids(self) -> dict[str, str]:
        """Trial id → run id, of the trials that MLflow has."""
        return self._writer.run_ids

    def replay(self, records: Iterable[Record]) -> None:
        """Hand over the journal of an earlier attempt; runs it already made are used again."""
        self._pending.extend(records)
        self._wake.set()

    def record(self, record: Record) -> None:
        """Hand over one record; returns at once."""
        self._pending.append(record)
        self._wake.set()

    def attach(self, artifact: Path) -> None:
        """Store a file with the parent run; after `close`.

        Raises:
            TrackingUnavailable: MLflow does not take it.
        """
        try:
            self._writer.attach(artifact)
        except Exception as exc:
            raise TrackingUnavailable(
                f"{self} did not take {artifact.name}: {cause(exc)}; it is kept: {self._hand_over()}"
            ) from exc

    def close(self) -> None:
        """Write what is left and end the thread.

        Raises:
            TrackingUnavailable: the server did not take everything within the patience.
        """
        self._closing.set()
        self._wake.set()
        if self._fault is not None:
            self._say(f"waiting up to {self._patience:.0f} s for {self}")
        end = time.monotonic() + self._patience + BATCH_SECONDS
        while self._thread.is_alive() and (self._fault is None or time.monotonic() < end):
            self._thread.join(BATCH_SECONDS)
        if self._pending:
            why = cause(self._fault) if self._fault else "it is slow"
            raise TrackingUnavailable(
                f"every result is kept, but {len(self._pending)} records are not in {self} yet "
                f"({why}): {self._hand_over()}"
            ) from self._fault
        if self.refused:
            name, why = next(iter(self.refused.items()))
            raise TrackingUnavailable(
                f"every result is kept, but {self} refuses the records of {len(self.refused)} "
                f"trial{'s' if len(self.refused) > 1 else ''}, {name} for one ({why}): {self._hand_over()}"
            )

    def _hand_over(self) -> str:
        storage = STORAGE if self._artifacts is None else self._artifacts.parent
        words = typed("hep-ray", "track", self._experiment, storage=storage)
        return f"`{words}` (--help) hands over what is missing, whenever MLflow answers"

    def _await_first_answer(self) -> None:
        """Wait until MLflow answered or failed to, so that what waiting cannot mend is told before a trial starts."""
        self._wake.set()
        if not self._answered.wait(FIRST_ANSWER):
            self._tell_away(f"not within {FIRST_ANSWER:.0f} s")
        fault = self._fault
        if fault is not None and (isinstance(fault, TrackingUnavailable) or refuses_client(fault)):
            self._patience = 0
            self._closing.set()
            self._wake.set()
            raise TrackingUnavailable(
                f"{self} will not take the records of a search: {cause(fault)}"
            ) from fault
        if fault is not None:
            self._tell_away(cause(fault))

    def _tell_away(self, why: str) -> None:
        if not self._told_away:
            self._told_away = True
            self._say(
                f"{self} does not answer ({why}): training goes on, the journal keeps every record, "
                "and MLflow gets them when it answers"
            )

    def _work(self) -> None:
        delay, given_up = BATCH_SECONDS, float("inf")
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._answered.is_set():
                self._closing.wait(BATCH_SECONDS)
            closing = self._closing.is_set()
            if closing:
                given_up = min(given_up, time.monotonic() + self._patience)
            if self._attempt(closing=closing):
                delay = BATCH_SECONDS
                if closing and not self._pending:
                    return
            elif time.monotonic() > given_up:
                return
            else:
                wait = delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads clients, hides nothing
                delay = min(2 * delay, LONGEST_WAIT)
                if not closing:
                    self._closing.wait(wait)
                self._wake.set()

    def _attempt(self, *, closing: bool) -> bool:
        """Write what waits; False where MLflow did not take it."""
        first = not self._answered.is_set()
        try:
            self._writer.connect()
            self._answered.set()
            self._write_pending()
            if closing:
                self._writer.settle()
        except Exception as exc:  # noqa: BLE001 - any error of a server is survived; close() tells it
            self._fault = exc
            self._answered.set()
            logger.debug("MLflow did not take %d records: %s", len(self._pending), cause(exc))
            if not first and not closing:
                self._tell_away(cause(exc))
            return False
        self._fault = None
        if self._told_away:
            self._told_away = False
            self._say(f"{self} answers again and has every record so far")
        return True

    def _write_pending(self) -> None:
        """Write from the front of the queue; a record leaves the queue only once it is written, or refused for good."""
        while self._pending:
            epochs = self._leading_epochs()
            by_trial: dict[str, list[EpochFinished]] = {}
            for epoch in epochs:
                by_trial.setdefault(epoch.trial_id, []).append(epoch)
            for trial_id, of_trial in by_trial.items():
                self._write(trial_id, partial(self._writer.write_epochs, of_trial))
            if not epochs:
                first = self._pending[0]
                self._write(getattr(first, "trial_id", ALL), partial(self._writer.write, first))
            for _ in range(max(len(epochs), 1)):
                self._pending.popleft()

    def _leading_epochs(self) -> list[EpochFinished]:
        """Those at the front of the queue, which grows meanwhile."""
        epochs: list[EpochFinished] = []
        while len(epochs) < len(self._pending):
            record = self._pending[len(epochs)]
            if not isinstance(record, EpochFinished):
                break
            epochs.append(record)
        return epochs

    def _write(self, trial_id: str, write: Callable[[], None]) -> None:
        """Write, unless MLflow refused a record of the same trial, or of the search, for good."""
        if trial_id in self.refused or ALL in self.refused:
            return
        try:
            write()
        except Exception as exc:
            if not refuses_record(exc):
                raise
            self.refused[trial_id] = cause(exc)
            logger.info("MLflow refuses the records of %s: %s", trial_id, self.refused[trial_id])
