"""Of one statement of an option come its flag, its default, what is recorded, and what a resumed search takes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from hep_ray.errors import CannotConfirm, InvalidConfig
from hep_ray.search.options import (
    LONGEST_EPOCH,
    ConfirmOptions,
    Resume,
    SearchOptions,
    duration,
    in_words,
    with_flags,
)
from hep_ray.tracking.records import SearchStarted
from tests.facts import raises

RECORDED = {
    "data", "preset", "trials", "epochs", "seed", "tracking_uri", "cpus_per_trial", "gpus_per_trial",
    "workers_per_trial", "min_workers_per_trial", "epoch_timeout", "cache", "memory_budget",
    "plugin", "precision", "readers", "watch", "until_no_gain", "fuse", "repeats", "folds",
}  # fmt: skip
"""What journals record: those of 2026-11-28 all but the last five; a search of then has to find them."""


def command(options: type) -> click.Command:
    app = typer.Typer(add_completion=False)
    app.command()(with_flags(options)(lambda **_: None))
    return typer.main.get_command(app)


def test_the_journal_records_what_it_did() -> None:
    given = SearchOptions(data=Path("d"), tracking_uri="postgresql://me:secret@host/db")
    recorded = given.record()
    assert recorded.keys() == RECORDED | {"weights", "deterministic", "compile"}
    assert recorded["data"] == str(Path("d").resolve())
    assert "secret" not in str(recorded)
    kept = {"seed": 0, "workers_per_trial": 1, "weights": "on", "deterministic": False}
    assert given.record(Resume.MUST_MATCH) == kept


@pytest.mark.parametrize("options", [SearchOptions, ConfirmOptions])
def test_every_option_but_what_the_command_knows_is_a_flag_of_its_name(options: type) -> None:
    flags = {one.name: one for one in command(options).params}
    names = {one.name for one in dataclasses.fields(options)}
    assert names - flags.keys() <= {"source", "grace_epochs", "sampler", "scheduler", "scripts"}
    for one in dataclasses.fields(options):
        help_text = getattr(flags.get(one.name), "help", "")
        if one.name in RECORDED - {"data"} and options is SearchOptions:
            assert flags[one.name].default is None
            if one.default is not None:
                assert f"[default: {one.default}".removesuffix(".0") in help_text


def test_what_is_typed_comes_before_what_was_recorded_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEP_RAY_DATA", "events")
    new = SearchOptions.from_flags({"seed": None, "trials": 7}, {}, "toy")
    assert new == SearchOptions(data=Path("events/toy"), trials=7)
    recorded = {"data": "/d", "seed": 3, "trials": 9, "cpus_per_trial": 2, "tracking_uri": None, "of_old": 1}
    resumed = SearchOptions.from_flags({"trials": 12, "cpus_per_trial": None}, recorded, "toy")
    assert resumed == SearchOptions(data=Path("/d"), seed=3, trials=12, cpus_per_trial=2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"cpus_per_trial": 4, "epoch_timeout": 77.0, "cache": "streaming"}),
        (
            {"cpus_per_trial": 1, "cache": "auto"},
            {"cpus_per_trial": 1, "epoch_timeout": 77.0, "cache": "auto"},
        ),
    ],
)
def test_a_confirmation_trains_as_the_search_did(given: dict[str, Any], expected: dict[str, Any]) -> None:
    started = SearchStarted(
        time=0.0, search="toy", search_id="a", dataset_fingerprint="f", task="toy", metric="val_auc", mode="max",
        epochs=1, sampler="random", scheduler="none", seed=5, workers_per_trial=3, provenance={},
        options={"data": "/d", "cpus_per_trial": 4, "epoch_timeout": 77.0, "cache": "streaming"},
    )  # fmt: skip
    made = ConfirmOptions("toy", storage=Path("s"), **given).as_in_search(started)
    assert {name: getattr(made, name) for name in expected} == expected
    assert (made.data, made.storage, made.workers_per_trial) == (Path("/d"), Path("s"), 3)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 2 * LONGEST_EPOCH])
def test_a_time_that_no_epoch_has_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(f"{seconds:g}")):
        SearchOptions(data=Path("d"), epoch_timeout=seconds)


@pytest.mark.parametrize("given", [{"top": 0}, {"seeds": 0}, {"level": 1.0}, {"level": float("nan")}])
def test_a_confirmation_of_nothing_is_refused(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(CannotConfirm, match=f"--{name}"):
        ConfirmOptions("toy", **given)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h1m1s", 3661),
        (" 5m ", 300),
    ],
)
def test_a_time_is_read_as_it_is_typed(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "soon", "2 hours", "-5m", "30m1h", "1h 30m", "nan", "infs", "m", "1d"]
)
def test_what_is_no_time_is_refused(text):
    with raises(InvalidConfig, f"'{text}'", "2h", "1h30m"):
        duration(text)


@pytest.mark.parametrize("seconds", [1, 59, 300, 2700, 3600, 5400, 36000])
def test_a_time_is_told_as_it_is_typed(seconds):
    assert duration(in_words(seconds)) == seconds


def test_a_time_budget_is_of_one_attempt_and_not_recorded():
    options = SearchOptions(data=Path("data"), time_budget=60.0)
    assert "time_budget" not in options.record()
    with raises(InvalidConfig, "--time-budget", "0 s"):
        SearchOptions(data=Path("data"), time_budget=0.0)
