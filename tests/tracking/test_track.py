"""`hep-ray track`: the journal is handed over whenever one likes, to whichever MLflow."""

import json

import pytest
from past_search import audit, journal
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.errors import StorageError, TrackingUnavailable
from hep_ray.search.audit import hand_over
from hep_ray.tracking.client import default_uri
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.mlflow import PATIENCE
from tests.facts import raises, tells


@pytest.fixture
def storage(tmp_path):
    with Journal(tmp_path / "runs" / "toy") as written:
        for record in journal("past", tracking_uri=None):
            written.append(record)
    with Journal(tmp_path / "runs" / "toy" / "confirm") as written:
        for record in journal("confirmation", trials=2):
            written.append(record)
    return tmp_path / "runs"


def test_a_search_and_its_confirmation_are_handed_over_as_often_as_one_likes(storage):
    for _ in range(2):
        done = CliRunner().invoke(app, ["track", "toy", "--storage", str(storage)])
        assert done.exit_code == 0, done.output
        assert tells(done.output, "29 records", "toy")
        assert f"next: hep-ray ui --storage {storage}" in done.output
    children = audit(default_uri(storage), "past")
    audit(default_uri(storage), "confirmation", trials=2)
    board = json.loads((storage / "toy" / "leaderboard.json").read_text())
    assert {trial["trial_id"]: trial["mlflow_run_id"] for trial in board["trials"]} == children


def test_another_mlflow_gets_all_of_it(storage, tmp_path):
    other = f"sqlite:///{tmp_path / 'other.db'}"
    hand_over(storage / "toy", other)
    audit(other, "past")
    assert not (storage / "mlflow.db").exists()


def test_a_search_that_is_running_hands_over_by_itself(storage):
    with Journal(storage / "toy"), raises(StorageError, storage / "toy"):
        hand_over(storage / "toy")


def test_a_server_that_is_still_away_is_an_error(storage, monkeypatch):
    monkeypatch.setenv(PATIENCE, "0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = []
    with raises(TrackingUnavailable, "17 records", "hep-ray track toy"):
        hand_over(storage / "toy", "http://127.0.0.1:9", said.append)
    assert "does not answer" in said[0]


def test_a_search_that_is_not_there_is_an_error(storage):
    done = CliRunner().invoke(app, ["track", "../toy", "--storage", str(storage)])
    assert isinstance(done.exception, StorageError)
    assert "holds searches: toy" in str(done.exception)
