import json
import threading
from pathlib import Path

import pytest
from past_search import EPOCHS, journal
from servers import wait_until

from hep_ray.errors import TrackingUnavailable
from hep_ray.search.leaderboard import leaderboard
from hep_ray.search.state import SearchState
from hep_ray.tracking import mlflow as module
from hep_ray.tracking.client import artifact_location, default_uri, open_client
from hep_ray.tracking.mlflow import PATIENCE, MlflowTracker, RunWriter
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, STATUS_TAG, TRIAL_TAG, attach_to_search, log_confirmed
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialStarted
from tests.facts import raises


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One database for all tests here: making its tables takes seconds."""
    return tmp_path_factory.mktemp("storage")


def runs(storage, search_id):
    client = open_client(default_uri(storage))
    experiment = client.get_experiment_by_name("toy")
    found = client.search_runs([experiment.experiment_id], f"tags.`{SEARCH_TAG}` = '{search_id}'")
    parents = [run for run in found if TRIAL_TAG not in run.data.tags]
    return client, parents, {run.data.tags[TRIAL_TAG]: run for run in found if TRIAL_TAG in run.data.tags}


def write(storage, records):
    tracker = MlflowTracker(default_uri(storage), "toy", storage / "artifacts")
    for record in records:
        tracker.record(record)
    tracker.close()
    return tracker


def test_one_parent_and_one_child_per_trial_with_every_epoch(storage):
    tracker = write(storage, journal("a"))

    client, parents, children = runs(storage, "a")
    assert [parent.info.run_id for parent in parents] == [tracker.parent_run_id]
    assert {name: run.info.run_id for name, run in children.items()} == tracker.run_ids
    assert len(children) == 3
    for number, (_, run) in enumerate(sorted(children.items())):
        assert run.data.tags["mlflow.parentRunId"] == tracker.parent_run_id
        assert run.data.params["loss"] == "hinge"
        history = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert [(point.step, point.value) for point in history] == [
            (epoch, pytest.approx(0.5 + 0.1 * epoch + number)) for epoch in range(1, EPOCHS + 1)
        ]
    assert [children[name].info.status for name in sorted(children)] == ["FINISHED", "FINISHED", "FAILED"]
    assert children["t0002"].data.tags["hep_ray.cause"] == "it broke"
    assert children["t0000"].data.tags[STATUS_TAG] == "completed"
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.tags["git_commit"] == "c0ffee"


@pytest.mark.parametrize("cut", [1, 2, 4, 9, 14])
def test_a_journal_handed_over_again_adds_what_is_missing_and_nothing_twice(storage, cut):
    records = journal(f"cut-{cut}")
    write(storage, records[:cut])
    write(storage, records)

    client, parents, children = runs(storage, f"cut-{cut}")
    assert len(parents) == 1
    assert len(children) == 3
    for run in children.values():
        assert len(client.get_metric_history(run.info.run_id, "val/loss")) == EPOCHS


def test_nothing_is_written_once_nobody_waits_any_more(storage, monkeypatch):
    """Who hands the records over again would else meet the thread of before, and both would make runs."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.01)
    monkeypatch.setenv(PATIENCE, "0.1")
    answers, connect, attempts = threading.Event(), RunWriter.connect, []

    def slow(writer):
        attempts.append(1)
        if len(attempts) == 2:
            raise ConnectionError("away")
        if len(attempts) > 2:
            assert answers.wait(60)
        connect(writer)

    monkeypatch.setattr(RunWriter, "connect", slow)
    tracker = MlflowTracker(default_uri(storage), "toy", storage / "artifacts")
    tracker.replay(journal("given up"))
    wait_until(lambda: tracker._fault is not None, "MLflow is away")
    with raises(TrackingUnavailable, "17 records", "away"):
        tracker.close()
    answers.set()
    tracker._thread.join(60)
    assert not tracker._thread.is_alive()
    assert tracker.parent_run_id is None
    monkeypatch.undo()
    write(storage, journal("given up"))
    assert len(runs(storage, "given up")[2]) == 3


def test_a_file_is_attached_to_the_parent_and_replaced(storage, tmp_path):
    write(storage, journal("attached"))
    page = tmp_path / "report.html"
    for text in ("first", "second"):
        page.write_text(text)
        run_id = attach_to_search(default_uri(storage), "toy", "attached", page)
    client, parents, _ = runs(storage, "attached")
    assert [run.info.run_id for run in parents] == [run_id]
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.html"]
    assert Path(client.download_artifacts(run_id, "report.html")).read_text() == "second"


def test_a_file_is_not_attached_to_what_mlflow_does_not_hold(storage, tmp_path):
    write(storage, journal("known"))
    (tmp_path / "page").touch()
    with raises(TrackingUnavailable, "unknown", "toy"):
        attach_to_search(default_uri(storage), "toy", "unknown", tmp_path / "page")
    with raises(TrackingUnavailable, default_uri(tmp_path)):
        attach_to_search(default_uri(tmp_path), "toy", "known", tmp_path / "page")
    assert not (tmp_path / "mlflow.db").exists()


def test_files_lie_beside_a_database_and_with_a_server(tmp_path):
    assert artifact_location("sqlite:///x.db", tmp_path, "toy") == f"{tmp_path.as_uri()}/toy"
    assert artifact_location("https://mlflow.example", tmp_path, "toy") is None
    assert artifact_location("sqlite:///x.db", None, "toy") is None


def test_confirmed_values_are_written_without_counts_and_errors(storage):
    write(storage, journal("confirmed"))
    values = {
        "t0001": {
            "accuracy": (0.8, 0.01), "accuracy_error": (0.02, 0.001), "confusion_signal_background": (7.0, 1.0),
            "background_rejection_at_50": (40.0, 3.0), "background_rejection_at_50_error": (4.0, 0.3),
        }
    }  # fmt: skip
    log_confirmed(
        default_uri(storage), "toy", "confirmed", None, main="accuracy", values=values, trials={"t0001": ["t0001"]},
        stamp=1.0,
    )  # fmt: skip

    _, (parent,), children = runs(storage, "confirmed")
    found = {
        key: value for key, value in children["t0001"].data.metrics.items() if key.startswith("confirmed/")
    }
    assert found == {
        "confirmed/accuracy": 0.8, "confirmed/accuracy_sd": 0.01, "confirmed/background_rejection/at_50": 40.0,
        "confirmed/background_rejection/at_50_sd": 3.0,
    }  # fmt: skip
    assert children["t0001"].data.tags["confirmed"] == "finalist"
    assert parent.data.metrics["confirmed/accuracy_t0001"] == 0.8


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_view_of_trials_stands_in_the_order_of_the_leaderboard(storage, mode):
    sign = 1 if mode == "max" else -1
    # Values of each trial's epochs, how it ended, and its start in s: the last epoch is not the best; two tie; of two
    # failed ones one had been the best; one failed and one runs before its first epoch.
    trials = [
        ([0.6, 0.9, 0.2], "completed", 1), ([0.7, 0.8, 0.8], "completed", 2), ([0.5, 0.7], "stopped", 3),
        ([0.99], "failed", 4), ([], "failed", 5), ([0.8], "completed", 6), ([0.95, 0.1], None, 7),
        ([0.3, 0.4], "failed", 8), ([], None, 9),
    ]  # fmt: skip
    first, *_ = journal(f"order-{mode}")
    records = [first.model_copy(update={"mode": mode})]
    for number, (values, status, start) in enumerate(trials):
        name = f"t{number:04d}"
        records.append(TrialStarted(time=start, trial_id=name, number=number, params={}, seed=0))
        for epoch, value in enumerate(values, start=1):
            metrics = {"epoch": epoch, "val_accuracy": sign * value, "val_loss": 1.0, "epoch_seconds": 1.0}
            records.append(EpochFinished(time=start + epoch, trial_id=name, metrics=metrics))
        if status:
            records.append(TrialFinished(time=start + 5, trial_id=name, status=status))
    tracker = write(storage, records)
    write(storage, records)  # again, as when a server was away

    client, _, children = runs(storage, f"order-{mode}")
    experiment = client.get_experiment_by_name("toy")
    tags = [tag for key, tag in experiment.tags.items() if key.endswith("hep_ray-trials")]
    state = json.loads(json.loads(tags[0])["state"])
    direction = "ASC" if state["orderByAsc"] else "DESC"
    order = [f"{state['orderByKey']} {direction}"]
    found = client.search_runs([experiment.experiment_id], state["searchFilter"], order_by=order)
    shown = [run.data.tags[TRIAL_TAG] for run in found]
    board = leaderboard(SearchState.fold(records), tracker.run_ids)
    assert shown == [trial["trial_id"] for trial in board["trials"]]
    assert shown == ["t0006", "t0000", "t0005", "t0001", "t0002", "t0007", "t0003", "t0008", "t0004"]
    history = client.get_metric_history(children["t0000"].info.run_id, "best/accuracy")
    assert [(point.step, point.value) for point in history] == [
        (1, sign * 0.6),
        (2, sign * 0.9),
        (3, sign * 0.9),
    ]
