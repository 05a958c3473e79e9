"""MLflow behind the journal: one writing thread, which a slow or absent server holds up and nothing else.

`MlflowTracker` is the queue and its thread, `RunWriter` what is written: one parent run for a search, and one child for
each trial.

Records wait in a queue and leave it once they are written. While the server is away the thread tries again, ever less
often; that is said once, and once more when it is back. What a server did not take by the end is in the journal, and a
resumed search, or `hep-ray track`, hands over all of it. Runs are found again by their tags, and a metric point is the
same point when run, key, step and time are the same, so that writing a record twice changes nothing. What has gathered
is written trial by trial, since a call of MLflow, and a transaction of its database, costs the same for one point as
for a thousand.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    database_file,
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
    OfTrial,
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

BATCH_SECONDS = 0.5
"""Records that arrive within this time travel together."""
LONGEST_WAIT = 15.0
"""Between two attempts to reach a server that does not answer, s."""
FIRST_ANSWER = 30.0
"""How long a search waits for the first answer before it starts without one, s."""
PATIENCE = "HEP_RAY_TRACKING_PATIENCE"
"""Environment variable: seconds for which `close` goes on trying to reach a server that does not answer."""
DEFAULT_PATIENCE = 60.0
RECORDS_TOGETHER = 1000
"""At most this many records are written at once: they bound the memory, and how long a database is held."""
ALL = "search"
"""Stands for every trial among those whose records MLflow refuses."""

CAUSE_LENGTH = 5000
"""Characters of a failed trial's cause that MLflow's tags take."""


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
        self._writer = RunWriter(uri, experiment, artifacts, self._check_waited_for)
        self._pending: deque[Record] = deque()
        self._ahead: Counter[str] = Counter()
        """Of trials, the records at the front of the queue that MLflow has already, but not all of others."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._answered = threading.Event()
        self._given_up = threading.Event()
        """Set once nobody waits any more: who hands the records over again must not meet the thread at it."""
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
        try:
            while self._thread.is_alive() and (self._fault is None or time.monotonic() < end):
                self._thread.join(BATCH_SECONDS)
            fault = self._fault
        finally:  # also where it is interrupted
            self._given_up.set()
        if self._pending:
            why = cause(fault) if fault else "it is slow"
            raise TrackingUnavailable(
                f"every result is kept, but {len(self._pending)} records are not in {self} yet "
                f"({why}): {self._hand_over()}"
            ) from fault
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
            elif time.monotonic() > given_up or self._given_up.is_set():
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
                self._check_waited_for()
                self._writer.settle()
        except Exception as exc:  # noqa: BLE001 - any error of a server is survived; close() tells it
            self._fault = exc
            self._answered.set()
            logger.debug("MLflow did not take %d records: %s", len(self._pending), cause(exc))
            if not first and not self._closing.is_set():
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
            self._check_waited_for()
            leading = self._leading()
            if not leading:
                self._write(ALL, partial(self._writer.write, self._pending[0]))
                self._pending.popleft()
                continue
            by_trial: dict[str, list[Record]] = {}
            for trial_id, record in leading:
                by_trial.setdefault(trial_id, []).append(record)
            left = {name: records[self._ahead[name] :] for name, records in by_trial.items()}
            together = (
                set()
                if ALL in self.refused
                else self._writer.write_together(
                    {name: records for name, records in left.items() if records and name not in self.refused}
                )
            )
            self._ahead.update({name: len(left[name]) for name in together})
            for name, records in left.items():
                if records and name not in together:
                    self._write(name, partial(self._writer.write_trial, name, records))
                    self._ahead[name] += len(records)
            for _ in leading:
                self._pending.popleft()
            self._ahead.clear()

    def _check_waited_for(self) -> None:
        if self._given_up.is_set():
            raise TrackingUnavailable(f"nobody waits for {self} any more")

    def _leading(self) -> list[tuple[str, Record]]:
        """Return what is of trials at the front of the queue, which grows meanwhile, each record with its trial."""
        leading: list[tuple[str, Record]] = []
        while len(leading) < min(len(self._pending), RECORDS_TOGETHER):
            record = self._pending[len(leading)]
            if not isinstance(record, TrialStarted | OfTrial):
                break
            leading.append((record.trial_id, record))
        return leading

    def _write(self, trial_id: str, write: Callable[[], None]) -> None:
        """Write, unless MLflow refused a record of the same trial, or of the search, for good."""
        if trial_id in self.refused or ALL in self.refused:
            return
        self._check_waited_for()
        try:
            write()
        except Exception as exc:
            if not refuses_record(exc):
                raise
            self.refused[trial_id] = cause(exc)
            logger.info("MLflow refuses the records of %s: %s", trial_id, self.refused[trial_id])


class RunWriter:
    """Writes the records of one search, in their order, while somebody else waits and tries again.

    Its arguments are those of `MlflowTracker`, and `go_on`, which is asked before each call of MLflow and before a
    transaction stands: it raises once nothing is to be written any more.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifacts: Path | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self.uri = uri
        self.parent_run_id: str | None = None
        self.run_ids: dict[str, str] = {}
        self._experiment, self._artifacts = experiment, artifacts
        self._go_on = go_on
        self._opened: Any = None
        self._experiment_id = ""
        self._sqlite: SqliteRuns | None = None
        self._search: SearchStarted | None = None
        self._best: dict[str, dict[int, float]] = {}
        """Trial → epoch → best value so far of the metric that ranks."""
        self._unanswered = ""
        """Trial whose run was asked for without an answer: it may be there."""
        self._doubtful = uri.startswith(("http://", "https://"))
        """Whether a run may have been made twice: a client asks a server again that did not answer."""

    @property
    def _client(self) -> Any:
        self._go_on()
        return self._opened

    def connect(self) -> None:
        """Open a client and find, or make, the experiment; what is done already is not done again.

        Raises:
            TrackingUnavailable: the experiment was deleted; or the database is another than before, or gone.
            Exception: whatever MLflow raises while nothing answers.
        """
        self._go_on()
        if self._opened is None:
            self._opened = open_client(self.uri, self._artifacts)
        if not self._experiment_id:
            self._experiment_id = self._find_or_create()
            if (file := database_file(self.uri)) is not None:
                self._sqlite = SqliteRuns(file, self._experiment_id)
        # MLflow's client would go on writing into a file that was deleted, or into runs of another search.
        if self._sqlite and self.parent_run_id and not self._sqlite.holds(self.parent_run_id):
            raise TrackingUnavailable(
                f"{self._sqlite.file} was deleted, moved or replaced: the search's run is not in it any more"
            )

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
        written = self._sqlite.write(updates, self._go_on)
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
            store_file(self._opened, self.parent_run_id, artifact)

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
            **({"fold": str(record.fold)} if record.fold else {}),
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
        from mlflow.entities import Param

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
        pairs = [Param(key, str(value)) for key, value in params.items()]
        self._client.log_batch(self.parent_run_id, params=pairs)

    def _create_run(self, name: str, start: int, tags: dict[str, str]) -> str:
        try:
            run = self._client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=name)
        except Exception:
            self._unanswered, self._doubtful = tags.get(TRIAL_TAG, ""), True
            raise
        self._unanswered = ""
        return str(run.info.run_id)


def _points(record: EpochFinished | TrialTested) -> list[Point]:
    stamp = int(1000 * record.time)
    values = record.metrics | (record.used if isinstance(record, EpochFinished) else {})
    return [(metric_key(key), value, stamp, record.epoch) for key, value in values.items()]
