"""A storage that was copied or moved, and databases at places whose names mean something in a URI."""

import json
import shutil
import sqlite3

import pytest
from past_search import journal

from hep_ray.errors import TrackingUnavailable
from hep_ray.search.audit import hand_over
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import ADDRESSES, database_file, default_uri, open_client, recorded_uri
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.mlflow_writer import attach_to_search
from tests.facts import raises


def searched(storage, **options):
    with Journal(storage / "toy") as written:
        for record in journal("past", **options):
            written.append(record)
    hand_over(storage / "toy")
    return storage


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A storage with a search in MLflow, to be copied."""
    return searched(tmp_path_factory.mktemp("made") / "first")


@pytest.fixture
def first(made, tmp_path):
    """The same at a place of its own; its former place is not there any more."""
    shutil.copytree(made, tmp_path / "first")
    (made / "mlflow.db").rename(made / "hidden.db")
    made.rename(made.with_name("hidden"))
    open_client(default_uri(tmp_path / "first"))
    yield tmp_path / "first"
    made.with_name("hidden").rename(made)
    (made / "hidden.db").rename(made / "mlflow.db")


def addresses(storage):
    """Every address of files in the database."""
    with sqlite3.connect(storage / "mlflow.db") as database:
        return [
            address
            for table, columns in ADDRESSES.items()
            for column in columns
            for (address,) in database.execute(
                f"SELECT {column} FROM {table} WHERE {column} LIKE '%mlartifacts%'"
            )
        ]


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_writes_into_itself_and_its_original_stays_as_it_is(first, tmp_path):
    copy = tmp_path / "a copy"
    shutil.copytree(first, copy)
    before = files(first)
    page = tmp_path / "report.html"
    page.write_text("of the copy")

    attach_to_search(default_uri(copy), "toy", "past", page)

    assert files(first) == before
    assert [path.read_text() for path in copy.glob("mlartifacts/toy/*/artifacts/report.html")] == [
        "of the copy"
    ]
    assert {address.partition("/mlartifacts/")[0] for address in addresses(copy)} == {copy.as_uri()}
    # One experiment, one parent run and three trials.
    assert len(addresses(copy)) == len(addresses(first)) == 5


def test_a_moved_storage_does_not_come_back_where_it_was(first, tmp_path):
    moved = first.rename(tmp_path / "moved")
    page = tmp_path / "report.html"
    page.write_text("moved")

    attach_to_search(default_uri(moved), "toy", "past", page)

    assert not first.exists()
    assert len(list(moved.glob("mlartifacts/toy/*/artifacts/report.html"))) == 1


def test_a_copy_without_files_yet_knows_its_original_by_the_database(first, tmp_path):
    shutil.rmtree(first / "mlartifacts")
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    open_client(default_uri(copy))
    assert all(address.startswith(copy.as_uri()) for address in addresses(copy))


def test_another_storage_that_uses_the_same_database_keeps_its_files(first, tmp_path):
    """As with `--tracking-uri sqlite:///first/mlflow.db --storage other`."""
    other = tmp_path / "other"
    with Journal(other / "elsewhere") as written:
        for record in journal("second", search="elsewhere"):
            written.append(record)
    hand_over(other / "elsewhere", default_uri(first))
    before = addresses(first)

    open_client(default_uri(first))

    assert addresses(first) == before
    assert sum(address.startswith(other.as_uri()) for address in before) == 5
    assert (other / "mlartifacts/elsewhere").is_dir()


def test_a_database_that_cannot_be_corrected_is_refused(first, tmp_path):
    moved = first.rename(tmp_path / "moved")
    blocked = sqlite3.connect(moved / "mlflow.db")
    blocked.execute(
        "CREATE TRIGGER no BEFORE UPDATE ON experiments BEGIN SELECT RAISE(ABORT, 'not today'); END"
    )
    blocked.commit()
    blocked.close()
    with raises(TrackingUnavailable, moved / "mlflow.db", "not today"):
        open_client(default_uri(moved))


def test_the_recorded_database_of_a_copy_is_its_own(first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    started = SearchState.read(copy / "toy").started
    of_original = started.model_copy(update={"options": {"tracking_uri": default_uri(first)}})
    elsewhere = started.model_copy(update={"options": {"tracking_uri": "sqlite:////data/all.db"}})

    assert recorded_uri(copy / "toy", of_original) == default_uri(copy)
    assert recorded_uri(copy / "toy", elsewhere) == "sqlite:////data/all.db"
    assert recorded_uri(first / "toy", of_original) == default_uri(first)


@pytest.mark.parametrize("name", ["plain", "a b", "wh?t", "My%20Drive", "ma#rk", "mä data"])
def test_a_database_lies_in_its_folder_whatever_its_name(tmp_path, name):
    uri = default_uri(tmp_path / name)
    assert database_file(uri) == tmp_path / name / "mlflow.db"
    if name in {"plain", "a b", "mä data"}:  # recorded so by earlier versions
        assert uri == f"sqlite:///{tmp_path / name}/mlflow.db"


def test_a_storage_with_a_question_mark_holds_all_of_its_search(first, tmp_path):
    storage = tmp_path / "wh?t 20%" / "runs"
    shutil.copytree(first, storage)
    shutil.rmtree(storage / "mlartifacts")
    hand_over(storage / "toy")

    client = open_client(default_uri(storage))
    (run,) = client.search_runs(
        [client.get_experiment_by_name("toy").experiment_id], "tags.`hep_ray.trial_id` = 't0001'"
    )
    assert run.data.metrics["val/accuracy"] == pytest.approx(0.5 + 0.1 * 3 + 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["first", "wh?t 20%"]
    (board,) = storage.glob("mlartifacts/toy/*/artifacts/leaderboard.json")
    assert len(json.loads(board.read_text())["trials"]) == 3
