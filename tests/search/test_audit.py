"""The audit finds nothing where all is well, and each thing that is not."""

import json
import time

import optuna
import pytest
import torch
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.errors import AuditFailed, StorageError, TrackingUnavailable
from hep_ray.search.audit import compare, hand_over
from hep_ray.tracking.client import default_uri, find_runs, open_client
from hep_ray.tracking.journal import FILE_NAME, Journal
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG
from hep_ray.tracking.records import EpochFinished, SearchFinished, SearchStarted, TrialFinished, TrialStarted
from hep_ray.training.checkpoint import BEST, LAST, save_checkpoint
from tests.facts import raises

VALUES = {"t0000": (0.6, 0.8, 0.7), "t0001": (0.5,), "t0002": (0.9,)}
STATUS = {"t0000": "completed", "t0001": "stopped", "t0002": "failed"}


def metrics(epoch, value):
    return {"epoch": epoch, "val_accuracy": value, "epoch_seconds": 0.5}


def journal():
    yield SearchStarted(
        time=time.time(), search="toy", search_id="a1", dataset_fingerprint="f" * 64, task="toy", metric="val_accuracy",
        mode="max", epochs=3, sampler="tpe", scheduler="asha", seed=0, space={}, options={}, provenance={},
    )  # fmt: skip
    for number, (name, values) in enumerate(VALUES.items()):
        params = {"learning_rate": 0.1 * number}
        yield TrialStarted(time=time.time(), trial_id=name, number=number, params=params, seed=0)
        for epoch, value in enumerate(values, start=1):
            yield EpochFinished(time=time.time(), trial_id=name, metrics=metrics(epoch, value))
        cause = "it broke" if STATUS[name] == "failed" else ""
        yield TrialFinished(time=time.time(), trial_id=name, status=STATUS[name], cause=cause)
    yield SearchFinished(time=time.time())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "runs" / "toy"
    with Journal(folder) as written:
        for record in journal():
            written.append(record)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}", study_name="toy", direction="maximize"
    )
    study.tell(study.ask(), 0.8)
    study.tell(study.ask(), state=optuna.trial.TrialState.PRUNED)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)  # drawn, and never journalled
    for name, values in VALUES.items():
        best = max(range(len(values)), key=values.__getitem__)
        state = {"model": {"w": torch.zeros(1)}, "metrics": metrics(best + 1, values[best])}
        save_checkpoint(folder / "trials" / name / BEST, state)
    hand_over(folder)
    return folder


def found(folder):
    return [(one.kind, one.text) for one in compare(folder, default_uri(folder.parent)).findings]


def lines(folder, change):
    path = folder / FILE_NAME
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def test_all_is_well(folder):
    done = compare(folder, default_uri(folder.parent))

    assert (done.trials, done.epochs, done.failed, done.losses, done.findings) == (3, 5, 1, 0, ())
    shown = CliRunner().invoke(app, ["audit", "toy", "--storage", str(folder.parent)])
    assert shown.exit_code == 0, shown.output
    assert "3 trials (1 failed), 5 epochs" in shown.output


def test_an_epoch_that_the_journal_lacks_and_one_that_it_tells_twice(folder):
    rows = folder.joinpath(FILE_NAME).read_bytes().splitlines(keepends=True)
    assert b'"epoch":2' in rows[3]

    lines(folder, lambda rows: rows[:3] + rows[4:])
    texts = found(folder)
    assert ("lost", "t0000: epoch 2 is 0 times in the journal") in texts
    assert ("differs", "t0000: val_accuracy of epoch 2 is in MLflow, and not in the journal") in texts
    folder.joinpath(FILE_NAME).write_bytes(b"".join([*rows[:4], rows[3], *rows[4:]]))
    assert ("twice", "t0000: epoch 2 is 2 times in the journal") in found(folder)
    folder.joinpath(FILE_NAME).write_bytes(b"".join([*rows[:6], rows[5], *rows[6:]]))
    assert ("twice", "t0000: ended 2 times") in found(folder)


def test_a_trial_that_has_not_ended_is_told(folder):
    lines(folder, lambda rows: rows[:-2])

    texts = found(folder)
    assert ("lost", "the search has not ended") in texts
    assert ("lost", "t0002: ended 0 times") in texts
    assert ("differs", "t0002: FAIL in optuna.db, running in the journal") in texts
    with raises(AuditFailed, "--resume"):
        CliRunner().invoke(app, ["audit", "toy", "--storage", str(folder.parent)], catch_exceptions=False)


def test_runs_and_points_that_mlflow_lacks_or_holds_twice(folder):
    client = open_client(default_uri(folder.parent))
    experiment = client.get_experiment_by_name("toy").experiment_id
    runs = {
        tags.get(TRIAL_TAG): run_id
        for run_id, tags in find_runs(client, experiment, f"tags.`{SEARCH_TAG}` = 'a1'")
    }
    client.create_run(experiment, tags={SEARCH_TAG: "a1", TRIAL_TAG: "t0001"})
    client.delete_run(runs["t0002"])
    client.log_metric(runs["t0000"], "val/accuracy", 0.8, timestamp=1, step=2)
    client.log_metric(runs["t0000"], "val/accuracy", 0.8, step=4)

    texts = found(folder)
    assert ("twice", "t0001: 2 runs in MLflow") in texts
    assert ("lost", "t0002: 0 runs in MLflow") in texts
    assert ("twice", "t0000: val_accuracy of epoch 2 is 2 times in MLflow") in texts
    assert ("differs", "t0000: val_accuracy of epoch 4 is in MLflow, and not in the journal") in texts


def test_a_leaderboard_study_or_checkpoint_that_says_something_else_and_what_is_left_over(folder):
    board = folder / "leaderboard.json"
    told = json.loads(board.read_text())
    told["trials"][0]["seconds"] = 0
    board.write_text(json.dumps(told))
    (folder / "trials" / "t0000" / LAST).touch()
    (folder / "trials" / "t0001" / f".{LAST}.123.tmp").touch()
    (folder / ".tune").mkdir()
    torn = folder / "trials" / "t0001" / BEST
    torn.write_bytes(torn.read_bytes()[:100])
    save_checkpoint(folder / "trials" / "t0000" / BEST, {"metrics": metrics(1, 0.6)})
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{folder / 'optuna.db'}")
    study.tell(study.ask(), 0.3)

    texts = found(folder)
    assert ("differs", "leaderboard.json is not what the journal gives: other values") in texts
    assert ("left over", "t0000: last.pt of an ended trial") in texts
    assert ("left over", "toy/trials/t0001/.last.pt.123.tmp") in texts
    assert ("left over", "toy/.tune") in texts
    assert ("differs", "t0000: best.pt is not of its best epoch") in texts
    assert ("differs", "trial 4 of optuna.db is in no journal: COMPLETE") in texts
    assert [kind for kind, text in texts if text.startswith("t0001: a checkpoint is read back whole")] == [
        "lost"
    ]


def test_what_cannot_be_audited_is_refused_and_nothing_is_made(tmp_path, folder):
    with raises(StorageError, tmp_path / "nowhere", "journal.jsonl"):
        compare(tmp_path / "nowhere", default_uri(tmp_path))
    with raises(TrackingUnavailable, default_uri(tmp_path / "elsewhere")):
        compare(folder, default_uri(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()
