"""Searches side by side: what may stand beside what, and what a row says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hep_ray import Choice, LogUniform, Result, Space, compare
from hep_ray.cli import app
from hep_ray.confirm.confirmation import (
    FILE_NAME,
    FOLDER,
    Comparison,
    Confirmation,
    ConfirmedRun,
    Contender,
    Estimate,
    save_confirmation,
)
from hep_ray.errors import InvalidConfig, NothingCompleted, UnknownSearch
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, SearchFinished, SearchStarted, TrialFinished, TrialStarted
from tests.facts import raises, tells

SPACE = Space(
    model="mlp", optimizer=Choice("adam", "sgd"), learning_rate=LogUniform(1e-4, 1e-1), loss="hinge"
)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, values: tuple[tuple[float, ...], ...], *, ended: bool = True, **stated: Any) -> Path:
        folder = tmp_path / "runs" / name
        facts = {
            "dataset_fingerprint": "f" * 64, "metric": "val_auc", "mode": "max", "sampler": "tpe", "seed": 1,
            "space": SPACE.to_json(), **stated,
        }  # fmt: skip
        with Journal(folder) as journal:
            journal.append(
                SearchStarted(
                    time=1.0,
                    search=name,
                    search_id=name[0] * 32,
                    task="toy",
                    epochs=3,
                    scheduler="none",
                    options={"data": "data/toy"},
                    provenance={},
                    **facts,
                )
            )
            for count, history in enumerate(values):
                trial = f"t{count:04d}"
                params = {"model": "mlp", "optimizer": "adam", "learning_rate": 0.01, "loss": "hinge"}
                journal.append(TrialStarted(time=2.0, trial_id=trial, number=count, params=params, seed=1))
                for epoch, value in enumerate(history, 1):
                    metrics = {"epoch": epoch, facts["metric"]: value, f"{facts['metric']}_error": 0.01}
                    journal.append(
                        EpochFinished(time=3.0, trial_id=trial, metrics=metrics, cpu_seconds=1800.0)
                    )
                status = "completed" if history else "failed"
                journal.append(
                    TrialFinished(time=4.0, trial_id=trial, status=status, cause="" if history else "boom")
                )
            if ended:
                journal.append(SearchFinished(time=5.0))
        return folder

    return make


def confirm(folder: Path, search_id: str) -> None:
    """A confirmation of two finalists, of which the second is better on test."""

    def contender(name: str, role: Any, mean: float) -> Contender:
        run = ConfirmedRun(trial_id=f"{name}_1", seed=1, epoch=1, metrics={}, checkpoint="a", scores="b")
        estimate = Estimate(mean=mean, sd=0.02, low=mean - 0.03, high=mean + 0.03)
        return Contender(name=name, role=role, params={}, runs=(run,) * 5, estimates={"test_auc": estimate})

    def gain(name: str, mean: float) -> Comparison:
        change = Estimate(mean=mean, sd=0.0, low=mean - 0.01, high=mean + 0.01)
        return Comparison(
            contender=name, metric="test_auc", difference=change, p_value=0.01, adjusted_p_value=0.02
        )

    save_confirmation(
        folder,
        Confirmation(
            search=folder.name, search_id=search_id, task="toy", dataset_fingerprint="f" * 64, metric="test_auc",
            mode="max", level=0.95, correction="holm", seeds=(1, 2, 3, 4, 5), epochs=3, provenance={},
            contenders=(
                contender("t0001", "finalist", 0.81), contender("t0000", "finalist", 0.84),
                contender("baseline", "baseline", 0.78),
            ),
            comparisons=(gain("t0001", 0.03), gain("t0000", 0.06)),
        ),
    )  # fmt: skip


def test_comparable_searches_stand_in_one_table(write: Write) -> None:
    first = write("alpha", ((0.5, 0.8), (0.9, 0.7), ()))
    second = write("beta", ((0.6, 0.85, 0.8),), ended=False, seed=2, sampler="random")
    found = compare(first, Result.open(second))

    (group,) = found.groups
    assert found.apart == ""
    assert [row["search"] for row in group] == ["alpha", "beta"]
    assert [row["trial"] for row in group] == ["t0001", "t0000"]
    assert [row["validation"] for row in group] == [0.9, 0.85]
    assert [row["epochs"] for row in group] == [4, 3]
    assert [row["cpu_hours"] for row in group] == [2.0, 1.5]
    assert [row["end"] for row in group] == ["ended, 1 failed", "not ended"]
    assert found.differences == {"sampler": ("tpe", "random"), "seed": ("1", "2")}
    assert list(found.table["validation_error"]) == [0.01, 0.01]


def test_what_differs_in_the_space_is_told(write: Write) -> None:
    other = SPACE.replace(learning_rate=LogUniform(1e-3, 1e-1), batch_size=Choice(32, 64))
    found = compare(write("alpha", ((0.5,),)), write("beta", ((0.5,),), space=other.to_json()))
    assert found.differences == {
        "space: learning_rate": ("0.0001 … 0.1 (log)", "0.001 … 0.1 (log)"),
        "space: batch_size": ("–", "32 | 64"),
    }


def test_numbers_of_other_events_or_another_metric_stand_apart(write: Write) -> None:
    alpha, gamma = write("alpha", ((0.5,),)), write("gamma", ((0.6,),))
    others = (
        write("events", ((0.7,),), dataset_fingerprint="e" * 64),
        write("metric", ((2.0,),), metric="val_loss"),
    )
    found = compare(alpha, others[0], gamma, others[1])
    assert [[row["search"] for row in group] for group in found.groups] == [
        ["alpha", "gamma"], ["events"], ["metric"],
    ]  # fmt: skip
    assert tells(found.apart, "differ in the dataset and the metric", "alpha, gamma; events; metric")
    assert list(found.table["group"]) == [1, 1, 2, 3]
    assert tells(compare(alpha, others[0]).apart, "differ in the dataset")
    page = found._repr_html_()
    assert tells(page, "val_loss on events ffffffffffff", "val_auc on events eeeeeeeeeeee", found.apart)


def test_the_first_finalist_is_told_and_not_the_best_on_test(write: Write) -> None:
    alpha, beta = write("alpha", ((0.5,), (0.9,))), write("beta", ((0.8,),))
    confirm(alpha, "a" * 32)
    confirm(beta, "of another search")
    confirmed, not_confirmed = compare(alpha, beta).groups[0]
    assert (confirmed["confirmed_trial"], confirmed["confirmed"], confirmed["confirmed_seeds"]) == (
        "t0001",
        0.81,
        5,
    )
    assert (confirmed["gain"], confirmed["adjusted_p_value"]) == (0.03, 0.02)
    assert "confirmed" not in not_confirmed
    assert tells(compare(alpha, beta)._repr_html_(), "0.81 [0.78, 0.84] (t0001, 5 seeds)", "p = 0.02", "–")


def test_a_confirmation_that_cannot_be_read_is_told_and_the_rest_compared(write: Write) -> None:
    alpha, beta = write("alpha", ((0.5,), (0.9,))), write("beta", ((0.8,),))
    confirm(alpha, "a" * 32)
    confirm(beta, "b" * 32)
    path = beta / FOLDER / FILE_NAME
    path.write_bytes(path.read_bytes()[:100])
    found = compare(alpha, beta)
    good, damaged = found.groups[0]
    assert good["confirmed"] == 0.81
    assert "confirmed" not in damaged
    assert tells(damaged["confirmation_fault"], path, "hep-ray confirm")
    assert tells(found._repr_html_(), "cannot be read", path.name)


def test_the_command_prints_the_table(write: Write, tmp_path: Path) -> None:
    write("alpha", ((0.5, 0.8),))
    write("beta", ((0.6,),), seed=2, dataset_fingerprint="e" * 64)
    words = ["compare", "alpha", "beta", "--storage", str(tmp_path / "runs")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert tells(told.output, "0.800 ± 0.010", "0.600 ± 0.010", "differ in the dataset", "seed")
    given = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert [group[0]["validation"] for group in given["groups"]] == [0.8, 0.6]
    assert given["differences"]["seed"] == {"alpha": "1", "beta": "2"}


def test_searches_of_one_name_are_named_by_their_folders(write: Write) -> None:
    alpha = write("alpha", ((0.5,),))
    with raises(InvalidConfig, 1):
        compare(alpha)
    with raises(InvalidConfig, alpha):
        compare(alpha, alpha)
    copied = alpha.parent.parent / "copied"
    copied.mkdir()
    (copied / "alpha").mkdir()
    (copied / "alpha" / "journal.jsonl").write_bytes((alpha / "journal.jsonl").read_bytes())
    found = compare(alpha, copied / "alpha")
    assert found.names == (str(alpha), str(copied / "alpha"))


def test_a_search_that_is_not_there_or_has_nothing_is_refused(write: Write, tmp_path: Path) -> None:
    alpha = write("alpha", ((0.5,),))
    with raises(UnknownSearch, "'omega'", "alpha"):
        compare(alpha, "omega", storage=tmp_path / "runs")
    with raises(NothingCompleted, "beta"):
        compare(alpha, write("beta", ((),)))
