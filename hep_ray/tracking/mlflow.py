"""MLflow behind the journal: one writing thread, which a slow or absent server holds up and nothing else.

Records wait in a queue and leave it once they are written. While the server is away the thread tries again, ever less
often; that is said once, and once more when it is back. What a server did not take by the end is in the journal, and a
resumed search, or `hep-ray track`, hands over all of it: writing a record twice changes nothing. What has gathered is
written trial by trial, since a call of MLflow, and a transaction of its database, costs the same for one point as for
a thousand.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from hep_ray.errors import TrackingUnavailable
from hep_ray.flags import STORAGE, typed
from hep_ray.masking import mask
from hep_ray.tracking.client import cause, client_class, refuses_client, refuses_record
from hep_ray.tracking.records import OfTrial, Record, TrialStarted
from hep_ray.tracking.run_writer import RunWriter

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
        while self._thread.is_alive() and (self._fault is None or time.monotonic() < end):
            self._thread.join(BATCH_SECONDS)
        self._given_up.set()
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
