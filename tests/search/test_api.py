"""Searches from Python: options as keywords, what a result holds, and how both look in a notebook."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import hep_ray
from hep_ray import Choice, LogUniform, Result, Space, Uniform, run
from hep_ray.drawing.html_table import html_table
from hep_ray.errors import (
    InvalidConfig,
    NothingCompleted,
    NotRun,
    UnknownName,
    UnknownSearch,
)
from hep_ray.search.notebook import progress_html
from hep_ray.search.options import SearchOptions, checked, keywords
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, Record, SearchStarted, TrialFinished, TrialStarted
from tests.facts import raises, tells

SPACE = Space(
    model="mlp",
    optimizer=Choice("adam", "sgd"),
    momentum=Uniform(0.5, 0.99).when(optimizer="sgd"),
    learning_rate=LogUniform(1e-4, 1e-1),
    loss="cross_entropy",
)
BESIDE = {"source", "grace_epochs", "sampler", "scheduler"}
"""Fields that no flag sets: the script, and what a resumed search was given."""
DRAWN = [
    ({"optimizer": "adam", "learning_rate": 1e-3}, (0.5, 0.7, 0.6), "completed"),
    ({"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-2}, (0.4,), "stopped"),
    ({"optimizer": "adam", "learning_rate": 0.05}, (), "failed"),
    ({"optimizer": "adam", "learning_rate": 2e-3}, (0.5, 0.8), None),
]
"""What was drawn, the metric of each epoch, and how the trial ended."""


def records() -> list[Record]:
    found: list[Record] = [
        SearchStarted(
            time=1.0, search="toy", search_id="a" * 32, dataset_fingerprint="f" * 64, task="toy",
            metric="val_accuracy", mode="max", epochs=3, sampler="tpe", scheduler="asha", seed=5,
            space=SPACE.to_json(), options={"data": "nowhere"}, provenance={}, stated=None,
        )
    ]  # fmt: skip
    for number, (params, values, status) in enumerate(DRAWN):
        name = f"t{number:04d}"
        whole = {"model": "mlp", "loss": "cross_entropy", **params}
        found.append(TrialStarted(time=10.0 * number, trial_id=name, number=number, params=whole, seed=5))
        found += [
            EpochFinished(
                time=10.0 * number + epoch,
                trial_id=name,
                metrics={"epoch": epoch, "val_accuracy": value, "val_loss": 1 - value, "epoch_seconds": 2.0},
            )
            for epoch, value in enumerate(values, 1)
        ]
        cause = "NonFiniteLoss: <NaN>" if status == "failed" else ""
        if status:
            found.append(
                TrialFinished(time=10.0 * number + 5, trial_id=name, status=status, cause=cause)  # type: ignore[arg-type]
            )
    return found


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    with Journal(tmp_path / "runs" / "toy") as journal:
        for record in records():
            journal.append(record)
    return tmp_path / "runs"


def test_a_result_is_read_by_folder_or_name(storage: Path) -> None:
    by_folder, by_name = Result.open(storage / "toy"), Result.open("toy", storage)
    assert by_folder.folder == by_name.folder == storage / "toy"
    assert (by_folder.name, by_folder.finished) == ("toy", False)
    with raises(UnknownSearch, "'tyo'", "toy"):
        Result.open("tyo", storage)
    (storage / "toy" / "journal.jsonl").write_text("")
    with raises(NotRun, storage / "toy"):
        Result.open("toy", storage)


def test_trials_are_a_table_best_first(storage: Path) -> None:
    trials = Result.open(storage / "toy").trials
    assert list(trials["trial_id"]) == ["t0003", "t0000", "t0001", "t0002"]
    assert list(trials["status"]) == ["running", "completed", "stopped", "failed"]
    assert list(trials["epochs"]) == [2, 3, 1, 0]
    assert list(trials["best_epoch"][:3]) == [2, 2, 1]
    assert list(trials["val_accuracy"][:3]) == [0.8, 0.7, 0.4]
    assert list(trials["params_learning_rate"]) == [2e-3, 1e-3, 1e-2, 0.05]
    assert list(trials["params_momentum"].notna()) == [False, False, True, False]
    assert list(trials["seconds"]) == [4.0, 6.0, 2.0, 0.0]
    assert trials["cause"].iloc[3] == "NonFiniteLoss: <NaN>"


def test_the_best_trial_is_at_its_best_epoch(storage: Path) -> None:
    result = Result.open(storage / "toy")
    assert result.best.trial_id == "t0003"
    trial = result.trial("t0000")
    assert trial.params == {
        "model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3,
    }  # fmt: skip
    assert (trial.seed, trial.status, trial.metrics["val_accuracy"]) == (5, "completed", 0.7)
    assert list(trial.history.index) == [1, 2, 3]
    assert trial.history.loc[3, "val_accuracy"] == 0.6
    assert result.trial("t0002").history.empty
    assert result.trial("t0002").metrics == {}
    with raises(UnknownName, "'t0009'", "t0003"):
        result.trial("t0009")
    with raises(NothingCompleted, "t0000"):
        trial.model()


def test_a_search_without_an_epoch_has_no_best(tmp_path: Path) -> None:
    state = SearchState.fold([one for one in records() if not isinstance(one, EpochFinished)])
    with raises(NothingCompleted, tmp_path):
        _ = Result(tmp_path, state).best
    with raises(NothingCompleted, tmp_path):
        _ = Result(tmp_path, SearchState.fold(records()[:1])).best
    assert Result(tmp_path, SearchState.fold(records()[:1])).trials.empty


def test_the_study_holds_what_optuna_needs(storage: Path) -> None:
    study = Result.open(storage / "toy").study
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.metric_names == ["val_accuracy"]
    first, second, third, fourth = study.trials
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert first.value == 0.7
    assert first.params == {"optimizer": "adam", "learning_rate": 1e-3}
    assert first.intermediate_values == {1: 0.5, 2: 0.7, 3: 0.6}
    assert first.user_attrs == {"trial_id": "t0000", "model": "mlp", "loss": "cross_entropy", "seed": 5}
    assert second.params["momentum"] == 0.9
    assert third.value is None
    assert (fourth.value, fourth.datetime_complete) == (None, None)
    assert first.duration is not None
    assert first.duration.total_seconds() == 5.0
    assert study.best_trial.number == 0
    assert study.trials_dataframe()["params_momentum"].count() == 1


def test_a_reference_outside_the_space_stays_beside_it(tmp_path: Path) -> None:
    told = records()
    reference = {"model": "gradient_boosting", "optimizer": "lion", "learning_rate": 5.0}
    told[1] = TrialStarted(time=0.0, trial_id="t0000", number=0, params=reference, seed=5)
    first = Result(tmp_path, SearchState.fold(told)).study.trials[0]
    assert first.params == {}
    assert first.user_attrs["optimizer"] == "lion"


def test_journals_of_before_are_read(tmp_path: Path) -> None:
    (tmp_path / "interrupted").mkdir()
    before = Path(__file__).parent / "journals/interrupted_2026_11_28.jsonl"
    shutil.copy(before, tmp_path / "interrupted/journal.jsonl")
    result = Result.open(tmp_path / "interrupted")
    assert len(result.study.trials) == len(result.trials) == len(result.state.trials) > 0
    assert result.best.metrics[result.started.metric] == result.trials[result.started.metric].max()


def test_every_option_of_a_search_is_a_keyword() -> None:
    fields = {name for name in SearchOptions.__dataclass_fields__ if name not in BESIDE}
    assert set(keywords()) == fields
    for function in (run, hep_ray.plan):
        parameters = inspect.signature(function).parameters
        assert fields < set(parameters)
        assert parameters["preset"].default == "laptop"
        assert next(iter(parameters)) == "search"


def test_keywords_are_converted_as_flags_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEP_RAY_STORAGE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert checked({"data": "data/x", "trials": 3, "preset": None}) == {"data": Path("data/x"), "trials": 3}
    monkeypatch.setenv("HEP_RAY_STORAGE", "/elsewhere")
    assert checked({}) == {"storage": Path("/elsewhere")}
    assert checked({"storage": "mine"}) == {"storage": Path("mine")}
    assert (
        checked({"time_budget": "1h30m"})["time_budget"]
        == checked({"time_budget": 5400})["time_budget"]
        == 5400.0
    )


@pytest.mark.parametrize(
    ("given", "error", "facts"),
    [
        ({"trails": 3}, UnknownName, ["'trails'", "'trials'"]),
        ({"trials": 0}, InvalidConfig, ["trials", 1, 0]),
        ({"trials": "many"}, InvalidConfig, ["trials", "'many'"]),
        ({"trials": 2.5}, InvalidConfig, ["trials", "2.5"]),
        ({"seed": -1}, InvalidConfig, ["seed", "-1", 2**31 - 1]),
        ({"time_budget": "soon"}, InvalidConfig, ["'soon'", "2h"]),
        ({"cache": "disk"}, InvalidConfig, ["cache", "'disk'", "'resident'"]),
        ({"trials": True}, InvalidConfig, ["trials", "True"]),
        ({"time_budget": True}, InvalidConfig, ["time_budget", "True"]),
        ({"plugin": 3}, InvalidConfig, ["plugin", "3"]),
    ],
)
def test_a_wrong_keyword_is_refused(
    given: dict[str, object], error: type[Exception], facts: list[object]
) -> None:
    with raises(error, *facts):
        checked(given)


def test_a_result_and_a_trial_are_shown(storage: Path) -> None:
    result = Result.open(storage / "toy")
    assert tells(repr(result), "toy", "4 trials", "1 completed", "1 failed", "6 epochs", "not ended")
    page = result._repr_html_()
    assert page.index("t0003") < page.index("t0000") < page.index("t0002")
    assert tells(page, "0.8", "2/3", "learning_rate", "optimizer")
    assert ">model<" not in page  # it does not vary
    assert tells(repr(result.best), "t0003", "running", "0.8")
    assert tells(result.best._repr_html_(), "learning_rate: 0.002", "val_loss: 0.2")


def test_texts_are_escaped() -> None:
    assert "<td" in html_table(["a"], [["<script>"]])
    assert "&lt;script&gt;" in html_table(["<b>"], [["<script>"]])
    assert "<script>" not in html_table(["<b>"], [["<script>"]])


def test_the_last_text_of_a_short_row_spans_the_columns_that_are_left() -> None:
    page = html_table(["a", "b", "c"], [["1", "2", "3"], ["1", "the rest"]])
    assert page.count("colspan") == 1
    assert re.search(r'<td colspan="2"[^>]*>the rest</td></tr>', page)


def test_a_space_is_shown_with_its_conditions() -> None:
    titles, *rows = SPACE._repr_html_().split("<tr>")[1:]
    assert tells(titles, "parameter", "values", "when")
    assert [tells(row, "optimizer=sgd") for row in rows] == [name == "momentum" for name in SPACE]
    assert any(tells(row, "learning_rate", "0.0001 … 0.1 (log)") for row in rows)


def test_progress_shows_all_trials_and_those_that_run() -> None:
    page = progress_html(SearchState.fold(records()), 8, 3, "val_accuracy", "max", "0:12")
    assert tells(page, "3/8, 0:12", "epoch 2/3, val_accuracy 0.8000")
    assert page.count("epoch ") == 1
    assert "width:75px" in page  # 3 of 8 trials, of 200 px
    assert "width:133px" in page  # 2 of 3 epochs
    empty = progress_html(SearchState.fold(records()[:1]), 8, 3, "val_accuracy", "max", "0:00")
    assert tells(empty, "0/8")
