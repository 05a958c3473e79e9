"""Runs that are written in one transaction are, row by row, those that MLflow's client writes."""

import math
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from past_search import journal
from servers import wait_until

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking import mlflow as module
from hep_ray.tracking.client import default_uri, find_runs, open_client
from hep_ray.tracking.mlflow import PATIENCE, MlflowTracker, RunWriter
from hep_ray.tracking.mlflow_writer import TRIAL_TAG
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialLost, TrialStarted, TrialTested
from hep_ray.tracking.sqlite_runs import COLUMNS, RunUpdate, SqliteRuns
from tests.facts import raises

ORDER = {"metrics": "step, key, timestamp, value"}
LONG = "x" * 7000


def odd_journal():
    """Trials that pause, are lost and tested, fail with a log after a good epoch; texts of every kind."""
    first, *_ = records = journal("odd", trials=3)[:-1]
    records[0] = first.model_copy(update={"tags": {"kind": "odd"}, "epochs": 9})
    time = first.time
    records += [
        TrialStarted(time=time, trial_id="odd", number=3, params={"loss": "hinge", "w": LONG[:400]}, seed=1),
        EpochFinished(
            time=time + 1,
            trial_id="odd",
            metrics={"epoch": 1, "val_accuracy": 0.9, "val_confusion_a_b": 7.0, "val_gain": 1e300},
            cpu_seconds=2.5,
        ),
        TrialLost(time=time + 2, trial_id="odd", epoch=1, cause="node gone " + LONG),
        EpochFinished(time=time + 3, trial_id="odd", metrics={"epoch": 2, "val_accuracy": 0.2, "val_gain": -0.0}),
        TrialTested(time=time + 4, trial_id="odd", epoch=1, metrics={"test_accuracy": 0.8}),
        TrialFinished(time=time + 5, trial_id="odd", status="failed", cause="it broke", log="the end\n"),
        # MLflow takes a name with two dots between slashes for a path, and refuses it.
        TrialStarted(time=time, trial_id="names", number=4, params={"a b/c.d-e": "é"}, seed=1, tags={"ü": "ö"}),
        EpochFinished(time=time + 1, trial_id="names", metrics={"epoch": 1, "val_accuracy": 0.1, "x/../y": 1.0}),
        TrialFinished(time=time + 2, trial_id="names", status="completed"),
    ]  # fmt: skip
    return records


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database, its client and an experiment; making the tables takes seconds, so others are copies."""
    folder = tmp_path_factory.mktemp("storage")
    client = open_client(default_uri(folder))
    return folder / "mlflow.db", client, client.create_experiment("plain", artifact_location="file:///files")


def write(folder, database, records, *, together, pieces=1):
    folder.mkdir()
    shutil.copy(database, folder)
    with pytest.MonkeyPatch.context() as patch:
        if not together:
            patch.setattr(SqliteRuns, "write", lambda _self, _updates, _go_on: {})
        size = math.ceil(len(records) / pieces)
        for start in range(0, len(records), size):
            tracker = MlflowTracker(default_uri(folder), "toy", folder / "artifacts")
            tracker.replay(records[: start + size])
            try:
                tracker.close()
            except TrackingUnavailable as exc:
                assert "names" in str(exc), exc  # noqa: PT017 - refused for good, in both ways
    return tracker


def rows(folder):
    """The tables, with the trial in place of each run's id, which is drawn."""
    client = open_client(default_uri(folder))
    experiment = client.get_experiment_by_name("toy").experiment_id
    trial = {run_id: tags.get(TRIAL_TAG, "search") for run_id, tags in find_runs(client, experiment, "")}

    def named(value):
        text = str(value).replace(str(folder), "FOLDER")
        for run_id, name in trial.items():
            text = text.replace(run_id, name)
        return text if isinstance(value, str) else value

    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return {
            table: sorted(
                tuple((column, type(value).__name__, named(value)) for column, value in zip(columns, row, strict=True))
                for columns in [sorted(names)]
                for row in database.execute(f"SELECT {', '.join(columns)} FROM {table}")
            )
            for table, names in COLUMNS.items()
        }  # fmt: skip


def test_rows_are_those_of_the_client(tmp_path, database, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.01)
    records = odd_journal()
    by_client = write(tmp_path / "client", database[0], records, together=False)
    expected = rows(tmp_path / "client")
    assert {len(expected[table]) for table in COLUMNS} & {0} == set()
    for pieces in (1, 7):  # at once, and as a search is resumed over and over
        tracker = write(tmp_path / f"{pieces}", database[0], records, together=True, pieces=pieces)
        assert tracker.refused.keys() == by_client.refused.keys() == {"names"}
        for table, found in rows(tmp_path / f"{pieces}").items():
            assert found == expected[table], table
    log = next((tmp_path / "1" / "artifacts").rglob("log.txt"))
    assert log.read_text() == "the end\n"
    assert tracker.run_ids["odd"]


def update(run_id=None, **values):
    return RunUpdate(run_id, name="t", start=1, **values)


def test_what_is_out_of_the_ordinary_is_left_to_the_client(database):
    file, client, experiment = database
    runs = SqliteRuns(file, experiment)
    deleted = client.create_run(experiment).info.run_id
    client.delete_run(deleted)
    other = client.create_run(experiment).info.run_id
    client.log_param(other, "rate", "1")
    left = {
        "deleted": update(deleted), "unknown": update("0" * 32), "another value": update(other, params={"rate": "2"}),
        "a path": update(params={"../rate": "1"}), "a long text": update(tags={"cause": LONG}),
        "a long name": update(points=[("x" * 251, 0.5, 1, 1)]), "no key": update(params={"": "1"}),
    }  # fmt: skip
    written = runs.write(
        {**left, "plain": update(params={"rate": "2"}), "same": update(other, params={"rate": "1"})}
    )
    assert written.keys() == {"plain", "same"}
    assert written["same"] == other
    run = client.get_run(written["plain"])
    assert run.info.artifact_uri == f"file:///files/{written['plain']}/artifacts"
    assert run.data.params == {"rate": "2"}


def test_the_latest_value_is_that_of_the_last_step_whatever_comes_first(database):
    file, client, experiment = database
    runs = SqliteRuns(file, experiment)
    (run_id,) = runs.write(
        {"t": update(points=[("auc", 0.7, 5, 3), ("auc", 0.6, 9, 2), ("loss", math.nan, 1, 1)])}
    ).values()
    runs.write({"t": update(run_id, points=[("auc", 0.5, 99, 1), ("loss", math.inf, 1, 2)])})
    assert client.get_run(run_id).data.metrics == {"auc": 0.7, "loss": sys.float_info.max}
    history = client.get_metric_history(run_id, "auc")
    assert {(point.step, point.value) for point in history} == {(1, 0.5), (2, 0.6), (3, 0.7)}


def test_a_database_with_other_tables_is_written_by_the_client(tmp_path, database):
    uri = default_uri(tmp_path)
    shutil.copy(database[0], tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as opened:
        opened.execute("ALTER TABLE metrics ADD COLUMN unit TEXT")
    tracker = MlflowTracker(uri, "toy", tmp_path / "artifacts")
    assert SqliteRuns(tmp_path / "mlflow.db", "1").write({"t": update()}) == {}
    tracker.replay(journal("other"))
    tracker.close()
    assert len(tracker.run_ids) == 3
    history = open_client(uri).get_metric_history(tracker.run_ids["t0001"], "val/accuracy")
    assert len(history) == 3


def test_a_transaction_that_fails_leaves_nothing(database, monkeypatch):
    file, client, experiment = database
    before = len(client.search_runs([experiment]))
    wrong = update(points=[("auc", None, 1, 1)])
    with raises(TypeError):
        SqliteRuns(file, experiment).write({"good": update(), "wrong": wrong})
    assert len(client.search_runs([experiment])) == before


class GivenUp(Exception):
    """Raised by who does not want records to be written any more."""


def until(asked):
    """Goes on as often as that, then not any more."""
    answers = iter(range(asked))

    def go_on():
        if next(answers, None) is None:
            raise GivenUp

    return go_on


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (["BEGIN IMMEDIATE"], 1),
        (["BEGIN", "SELECT count(*) FROM runs"], 2),  # who reads holds up the end of a transaction alone
        ([], 1),
    ],
    ids=["while another writes", "while another reads", "at the end"],
)
def test_a_transaction_that_nobody_waits_for_leaves_nothing(tmp_path, database, held, asked):
    file = shutil.copy(database[0], tmp_path)
    runs = SqliteRuns(tmp_path / "mlflow.db", database[2])
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        before = other.execute("SELECT count(*) FROM runs").fetchall()
        for statement in held:
            other.execute(statement).fetchall()
        with pytest.raises(GivenUp):
            runs.write({"t": update(points=[("auc", 0.5, 1, 1)])}, until(asked))
        if held:
            other.execute("ROLLBACK")
        assert other.execute("SELECT count(*) FROM runs").fetchall() == before
        assert runs.write({"t": update()}).keys() == {"t"}


@pytest.fixture
def begun(tmp_path, database, monkeypatch):
    """A tracker that wrote the start of a search into a database of its own, and the records that come next."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.01)
    monkeypatch.setenv(PATIENCE, "0.1")
    shutil.copy(database[0], tmp_path)
    first, *rest = journal("begun")
    tracker = MlflowTracker(default_uri(tmp_path), "toy", tmp_path / "artifacts")
    tracker.record(first)
    wait_until(lambda: tracker.parent_run_id is not None and not tracker._pending, "the search has begun")
    return tracker, rest


def count(file, table):
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


@pytest.mark.parametrize(("owner", "step"), [(SqliteRuns, "_write"), (RunWriter, "_create_run")])
def test_a_tracker_that_gives_up_meanwhile_writes_no_more(tmp_path, begun, monkeypatch, owner, step):
    tracker, rest = begun
    before, write = count(tmp_path / "mlflow.db", "metrics"), getattr(owner, step)

    def slow(*args):
        written = write(*args)
        tracker._given_up.set()
        return written

    if owner is RunWriter:
        monkeypatch.setattr(SqliteRuns, "write", lambda _self, _updates, _go_on: {})
    monkeypatch.setattr(owner, step, slow)
    tracker.replay(rest)
    tracker._thread.join(60)
    assert not tracker._thread.is_alive()
    assert count(tmp_path / "mlflow.db", "metrics") == before
    with raises(TrackingUnavailable, f"{len(rest)} records are not in MLflow"):
        tracker.close()


def test_an_interrupted_end_writes_no_more(tmp_path, begun, monkeypatch):
    tracker, rest = begun
    runs = count(tmp_path / "mlflow.db", "runs")

    def interrupted(_seconds):
        raise KeyboardInterrupt

    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tracker.replay(rest)
        with monkeypatch.context() as patch:
            patch.setattr(tracker._thread, "join", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tracker.close()
    tracker._thread.join(60)
    assert not tracker._thread.is_alive()
    assert count(tmp_path / "mlflow.db", "runs") == runs


@pytest.mark.parametrize("now", ["deleted", "empty", "another"])
def test_a_database_that_is_deleted_or_replaced_is_told_and_not_written(tmp_path, database, begun, now):
    tracker, rest = begun
    file = tmp_path / "mlflow.db"
    file.unlink()
    if now == "another":  # with an experiment of the same number, of another search
        shutil.copy(database[0], tmp_path)
        with closing(sqlite3.connect(file)) as opened, opened:
            opened.execute(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
                "VALUES (?, 'other', 'file:///other', 'active')",
                (tracker._writer._experiment_id,),
            )
        runs = count(file, "runs")
    elif now == "empty":
        file.touch()
    tracker.replay(rest)
    with raises(TrackingUnavailable, f"{len(rest)} records", "deleted, moved or replaced"):
        tracker.close()
    assert now != "another" or count(file, "runs") == runs
    assert now != "deleted" or not file.exists()


def test_tables_with_other_keys_are_left_to_the_client(tmp_path, database):
    file = shutil.copy(database[0], tmp_path)
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("CREATE TABLE keyless AS SELECT * FROM latest_metrics")
        opened.execute("DROP TABLE latest_metrics")
        opened.execute("ALTER TABLE keyless RENAME TO latest_metrics")
    runs = SqliteRuns(tmp_path / "mlflow.db", database[2])
    assert runs.write({"t": update(points=[("auc", 0.5, 1, 1)])}) == {}
    assert count(file, "tags") == count(database[0], "tags")


FULL = """
import resource, signal, sys
from pathlib import Path
from hep_ray.tracking.sqlite_runs import RunUpdate, SqliteRuns

file = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20_000, resource.RLIM_INFINITY))
points = [(f"m{key}", 0.1 * key, 1, step) for key in range(20) for step in range(100)]
SqliteRuns(file, sys.argv[2]).write({"t": RunUpdate(None, name="t", start=1, points=points)})
"""


def test_a_full_disk_is_told_as_such(tmp_path, database):
    file = shutil.copy(database[0], tmp_path)
    command = [sys.executable, "-c", FULL, file, database[2]]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.stderr.strip().splitlines()[-1] == "sqlite3.OperationalError: disk I/O error"
    assert "cannot rollback" not in child.stderr
    assert count(file, "runs") == count(database[0], "runs")
    assert SqliteRuns(tmp_path / "mlflow.db", database[2]).write({"t": update()})
