"""A new database of MLflow: its tables are those of the first one that this host made, and nothing else of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hep_ray.tracking import tables
from hep_ray.tracking.client import open_client


def structure(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as database:
        return {sql for (sql,) in database.execute("SELECT sql FROM sqlite_master") if sql}


def test_the_tables_of_a_second_database_are_those_that_mlflow_made_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEP_RAY_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "first" / "mlflow.db", tmp_path / "second" / "mlflow.db"
    ids = []
    for file in (first, second):
        file.parent.mkdir()
        client = open_client(f"sqlite:///{file}", file.parent / "mlartifacts")
        assert [one.name for one in client.search_experiments()] == ["Default"]
        ids.append(client.create_experiment(f"of_{file.parent.name}"))
    (kept,) = (tmp_path / "cache").iterdir()
    assert structure(first) == structure(second) == structure(kept)
    assert ids == ["1", "1"]
    with closing(sqlite3.connect(second)) as database:
        assert not database.execute("SELECT * FROM experiments WHERE name = 'of_first'").fetchall()
        assert database.execute("SELECT version_num FROM alembic_version").fetchall()
    with closing(sqlite3.connect(kept)) as database:
        assert not database.execute("SELECT * FROM experiments").fetchall()

    whole = kept.read_bytes()
    for damaged in (b"", whole[:5000], b"none" * 1000, first.read_bytes()):
        kept.write_bytes(damaged)
        assert not tables.lay_tables(tmp_path / "third.db")
        assert not (tmp_path / "third.db").exists()


def test_without_a_place_to_keep_them_mlflow_makes_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("HEP_RAY_CACHE", str(tmp_path / "cache"))
    with closing(sqlite3.connect(tmp_path / "made.db")) as database:
        database.execute("CREATE TABLE experiments (name)")
    tables.keep_tables(tmp_path / "made.db")
    assert not tables.lay_tables(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
