"""Runs of many trials written into MLflow's SQLite database in one transaction.

MLflow's own client writes one run at a time, and waits for the disk several times for each: its parameters, metrics,
tags and end are transactions of their own. Here a transaction holds what some hundred records say of any number of
runs, in the rows that the client would have written. Whatever is out of the ordinary, a database whose tables are not
those that are known here above all, is left to the client.
"""

from __future__ import annotations

import math
import re
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from hep_ray.tracking.client import BUSY_SECONDS

COLUMNS = {
    "runs": {
        *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status"),
        *("start_time", "end_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
        "deleted_time",
    },
    "tags": {"key", "value", "run_uuid"},
    "params": {"key", "value", "run_uuid"},
    "metrics": {"key", "value", "timestamp", "run_uuid", "step", "is_nan"},
    "latest_metrics": {"key", "value", "timestamp", "run_uuid", "step", "is_nan"},
}
"""Tables that are written -> their columns, all of them: others than these are left to MLflow."""
KEY = re.compile(r"\w[\w.\- ]*(/\w[\w.\- ]*)*")
LONGEST_KEY, LONGEST_NAME, LONGEST_VALUE = 250, 250, 5000
"""Characters of what is written here; MLflow cuts or refuses what is longer, and knows how."""
NEW_RUN = (
    "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
    "source_version, lifecycle_stage, artifact_uri, experiment_id) "
    "VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', 'RUNNING', ?, '', 'active', ?, ?)"
)
TAG = (
    "INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value"
)
PARAM = "INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?) ON CONFLICT (key, run_uuid) DO NOTHING"
METRIC = (
    "INSERT INTO metrics (run_uuid, key, value, is_nan, timestamp, step) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (key, timestamp, step, run_uuid, value, is_nan) DO NOTHING"
)
LATEST = (
    "INSERT INTO latest_metrics (run_uuid, key, value, is_nan, timestamp, step) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, is_nan = excluded.is_nan, "
    "timestamp = excluded.timestamp, step = excluded.step WHERE (excluded.step, excluded.timestamp, excluded.value) > "
    "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)"
)
"""MLflow's order of what is the latest of a metric."""
ASK_SECONDS = 0.1
"""How often one who waits for a database asks whether to go on."""

Point = tuple[str, float, int, int]
"""Key of a metric, its value, time in Unix ms, and step."""


@dataclass
class RunUpdate:
    """Content of several records of one trial, as its run in MLflow is to have it.

    Attributes:
        run_id: None where the run is not there yet.
        name: of a new run.
        start: of a new run, Unix ms.
        made_with: tags of a new run.
        params: by their names.
        tags: set by these records.
        points: of metrics, in their order.
        ended: status, and Unix ms; None where the trial goes on.
        log: of a failed trial, to be stored as a file.
    """

    run_id: str | None
    name: str = ""
    start: int = 0
    made_with: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    ended: tuple[str, int] | None = None
    log: str = ""

    @property
    def ordinary(self) -> bool:
        """Return whether MLflow would take all of it as it is."""
        texts = self.params | self.tags | self.made_with
        keys = {*texts, *(key for key, *_ in self.points)}
        return (
            all(KEY.fullmatch(key) and len(key) <= LONGEST_KEY for key in keys)
            and all(len(text) <= LONGEST_VALUE for text in texts.values())
            and len(self.name) <= LONGEST_NAME
        )


class SqliteRuns:
    """The runs of one experiment in an SQLite database of MLflow's.

    Args:
        file: the database.
        experiment_id: of the experiment.
    """

    def __init__(self, file: Path, experiment_id: str) -> None:
        self.file = file.resolve()
        self._experiment_id = int(experiment_id)

    def write(
        self, updates: Mapping[str, RunUpdate], go_on: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        """Write the ordinary ones among what is to be said of several trials, all or nothing.

        Args:
            updates: trial -> its run.
            go_on: asked while another process holds the database, and before what was written is made to stand;
                raises where it is not to be written any more.

        Returns:
            Trial -> run id, of those that were written; the rest is left to MLflow.

        Raises:
            sqlite3.OperationalError: another process holds the database, or the disk is full.
        """
        try:
            with closing(self._open(ASK_SECONDS)) as database:
                _when_free(database, "BEGIN IMMEDIATE", go_on)
                try:
                    if any(_columns(database, table) != known for table, known in COLUMNS.items()):
                        database.execute("ROLLBACK")
                        return {}
                    written = self._write(database, updates)
                    _when_free(database, "COMMIT", go_on)
                except BaseException:
                    if database.in_transaction:  # SQLite ends it by itself where a disk is full or fails
                        database.execute("ROLLBACK")
                    raise
                return written
        except sqlite3.IntegrityError:  # a rule of the tables that is not known here
            return {}
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            return {}  # keys of the tables other than those that are known here

    def holds(self, run_id: str) -> bool:
        """Return whether the database is there and has this run, deleted or not."""
        if not self.file.is_file():
            return False
        try:
            with closing(self._open(BUSY_SECONDS)) as database:
                found = database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,))
                return found.fetchone() is not None
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            return False  # no such table: a new, empty file

    def _open(self, timeout: float) -> sqlite3.Connection:
        address = f"file:{quote(str(self.file))}?mode=rw"
        return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None)

    def _write(self, database: sqlite3.Connection, updates: Mapping[str, RunUpdate]) -> dict[str, str]:
        place = _artifacts(database, self._experiment_id)
        written: dict[str, str] = {}
        for trial_id, update in updates.items():
            if not update.ordinary or (update.run_id is None and place is None):
                continue
            if update.run_id is None:
                run_id = uuid.uuid4().hex
                made = (run_id, update.name, update.start, f"{place}/{run_id}/artifacts", self._experiment_id)
                database.execute(NEW_RUN, made)
                tags = {"mlflow.runName": update.name, **update.made_with, **update.tags}
            elif _takes(database, update.run_id, update.params):
                run_id, tags = update.run_id, update.tags
            else:
                continue
            database.executemany(TAG, ((run_id, *pair) for pair in tags.items()))
            database.executemany(PARAM, ((run_id, *pair) for pair in update.params.items()))
            database.executemany(METRIC, _rows(run_id, update.points))
            database.executemany(LATEST, _rows(run_id, _latest(update.points)))
            if update.ended is not None:
                database.execute(
                    "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (*update.ended, run_id)
                )
            written[trial_id] = run_id
        return written


def _when_free(database: sqlite3.Connection, statement: str, go_on: Callable[[], None]) -> None:
    """Execute what waits for others that hold the database, and ask before each try whether to go on."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        go_on()
        try:
            database.execute(statement)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        else:
            return


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def _artifacts(database: sqlite3.Connection, experiment_id: int) -> str | None:
    """Return the address below which runs have their files; None where it is no plain one, or the experiment gone."""
    found = database.execute(
        "SELECT artifact_location FROM experiments WHERE experiment_id = ? AND lifecycle_stage = 'active'",
        (experiment_id,),
    ).fetchone()
    place = (found[0] or "") if found else ""
    return None if not place or {"?", "#"} & set(place) else place.rstrip("/")


def _takes(database: sqlite3.Connection, run_id: str, params: Mapping[str, str]) -> bool:
    """Return whether a run is there, is not deleted, and has no other value of one of these parameters."""
    query = "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
    if database.execute(query, (run_id,)).fetchone() is None:
        return False
    if not params:
        return True
    there = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)))
    return all(there.get(key, value) == value for key, value in params.items())


def _rows(run_id: str, points: Sequence[Point]) -> Iterator[tuple[str, str, float, bool, int, int]]:
    """Yield points as rows; what SQL has no number for as MLflow writes it."""
    for key, value, stamp, step in points:
        yield run_id, key, _number(value), math.isnan(value), stamp, step


def _number(value: float) -> float:
    if math.isnan(value):
        return 0.0
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else float(value)


def _latest(points: Sequence[Point]) -> list[Point]:
    """Return the latest point of each metric."""
    latest: dict[str, Point] = {}
    for point in points:
        key, value, stamp, step = point
        former = latest.get(key)
        if former is None or (step, stamp, _number(value)) > (former[3], former[2], _number(former[1])):
            latest[key] = point
    return list(latest.values())
