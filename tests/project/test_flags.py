"""No flag is accepted and does nothing: each changes what its command does, or is refused.

Every flag of every command has an entry here. Most are tried: the command is run with and without it, and has to end
otherwise. The others name the test that shows what they do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from hep_ray import LogUniform, Preset, Search, Space
from hep_ray.cli import app
from hep_ray.confirm.confirmation import Confirmation, ConfirmedRun, Contender, save_confirmation
from hep_ray.dataset.dataset import Manifest
from hep_ray.errors import HepRayError
from hep_ray.search.cli import build_app
from hep_ray.search.definition import stated_by
from hep_ray.search.estimate import SearchCost
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, Record, SearchStarted, TrialFinished, TrialStarted
from tests.facts import raises

TESTS = Path(__file__).parents[1]
SEARCH = Search(
    name="flagged",
    task="toy",
    title="Flags.",
    space=Space(
        model="mlp", hidden_features=8, loss="cross_entropy", optimizer="adam", learning_rate=LogUniform(1e-3, 1e-2),
        batch_size=16, scalar_scaling="standardize",
    ),
    presets={"laptop": Preset(trials=4, epochs=2, scheduler="none"), "smoke": Preset(trials=1, epochs=1)},
    baseline={"learning_rate": 0.1},
)  # fmt: skip
STORAGE = (
    "tests/tracking/test_track.py::test_a_search_and_its_confirmation_are_handed_over_as_often_as_one_likes"
)
ELSEWHERE: dict[str, dict[str, str]] = {
    "search": {
        "--tracking-uri": "tests/tracking/test_server.py",
        "--dry-run": "tests/project/test_flags.py::test_each_flag_of_a_search_changes_its_plan_or_is_refused",
        "--accept-changed-code": "tests/integration/test_own_code.py",
        "--plugin": "tests/project/test_plugins.py::test_a_search_imports_what_is_named_before_its_trials_are_checked",
    },
    "confirm": {
        "--dry-run": "tests/confirm/test_confirm.py",
        "--plugin": "tests/integration/test_own_code.py",
    },
    "folds": {
        "--dry-run": "tests/project/test_flags.py::test_each_flag_of_a_confirmation_changes_its_plan_or_is_refused",
        "--plugin": "tests/integration/test_own_code.py",
    },
    "refit": {
        "--dry-run": "tests/project/test_flags.py::test_each_flag_of_a_confirmation_changes_its_plan_or_is_refused",
        "--plugin": "tests/integration/test_own_code.py",
    },
    "components": {"--plugin": "tests/project/test_plugins.py"},
    "report": {
        "--plugin": "tests/integration/test_own_code.py",
        "--storage": "tests/report/test_report.py",
        "--out": "tests/report/test_report.py",
        "--figures": "tests/report/test_report.py",
        "--data": "tests/report/test_report.py",
        "--against": "tests/report/test_divisions.py",
        "--tracking-uri": "tests/project/test_flags.py::test_other_databases_are_asked",
        "--table": "tests/report/test_study.py",
        "--markdown": "tests/report/test_study.py",
        "--importance": "tests/report/test_report.py",
    },
    "doctor": {
        "--storage": "tests/doctor/test_examine.py",
        "--data": "tests/doctor/test_examine.py",
        "--tracking-uri": "tests/doctor/test_examine.py",
        "--trials": "tests/project/test_flags.py::test_doctor_plans_for_the_search_to_come",
        "--workers-per-trial": "tests/doctor/test_examine.py",
        "--cpus-per-worker": "tests/project/test_flags.py::test_doctor_plans_for_the_search_to_come",
        "--gpus-per-worker": "tests/doctor/test_examine.py",
        "--code": "tests/doctor/test_examine.py",
        "--print-code": "tests/doctor/test_examine.py",
        "--json": "tests/doctor/test_examine.py",
    },
    "new": dict.fromkeys(("--data", "--task", "--out"), "tests/project/test_new.py"),
    "compare": dict.fromkeys(("--storage", "--json"), "tests/search/test_compare.py"),
    "audit": {"--storage": "tests/search/test_audit.py", "--tracking-uri": "tests/tracking/test_server.py"},
    "promote": {
        "--storage": "tests/promote/test_promote.py",
        "--data": "tests/promote/test_promote.py",
        "--tracking-uri": "tests/promote/test_promote.py",
        "--name": "tests/promote/test_promote.py",
        "--device": "tests/promote/test_promote.py",
        "--level": "tests/promote/test_promote.py",
        "--accept-reused-test": "tests/promote/test_promote.py",
        "--calibration": "tests/promote/test_promote.py",
        "--folds": "tests/promote/test_promote.py",
        "--refit": "tests/promote/test_refit.py",
        "--dry-run": "tests/promote/test_promote.py",
        "--plugin": "tests/integration/test_own_code.py",
    },
    "bundle": dict.fromkeys(
        ("--out", "--data", "--events", "--storage", "--tracking-uri", "--trust-code", "--plugin"),
        "tests/promote/test_bundle.py",
    ),
    "predict": {
        "--out": "tests/predict/test_predict.py",
        "--schema": "tests/predict/test_inputs.py",
        "--reader": "tests/predict/test_inputs.py",
        "--select": "tests/predict/test_inputs.py",
        "--set": "tests/project/test_flags.py::test_other_databases_are_asked",
        "--batch": "tests/predict/test_predict.py",
        "--workers": "tests/predict/test_predict.py",
        "--gpus-per-worker": "tests/predict/test_predict.py",
        "--onnx": "tests/predict/test_onnx.py",
        "--trust-code": "tests/integration/test_own_code.py",
        "--plugin": "tests/integration/test_own_code.py",
        "--storage": "tests/project/test_flags.py::test_other_databases_are_asked",
        "--tracking-uri": "tests/project/test_flags.py::test_other_databases_are_asked",
        "--calibrated": "tests/predict/test_predict.py",
        "--shift-test": "tests/predict/test_shift.py",
        "--shift-level": "tests/predict/test_shift.py",
        "--shift-class": "tests/predict/test_shift.py",
        "--friend": "tests/predict/test_friend.py",
        "--friend-name": "tests/predict/test_friend.py",
    },
    "track": {"--storage": STORAGE, "--tracking-uri": "tests/tracking/test_server.py"},
    "ui": {
        "--storage": "tests/ui/conftest.py",
        "--port": "tests/ui/conftest.py",
        "--tracking-uri": "tests/project/test_flags.py::test_a_database_that_is_none_has_no_pages",
    },
    "data convert": {
        "--out": "tests/conversion/test_data_cli.py",
        "--workers": "tests/conversion/test_convert.py",
        "--test-file": "tests/conversion/test_given_tests.py",
        "--plugin": "tests/simulate/test_own_simulation.py",
    },
    "data check": {
        "--json": "tests/conversion/test_data_cli.py",
        "--accept": "tests/dataset/test_leakage.py",
    },
    "data simulate": {
        **dict.fromkeys(
            ("--events", "--seed", "--out", "--workers", "--overwrite", "--set", "--split"),
            "tests/simulate/test_run.py",
        ),
        "--stratify": "tests/dataset/test_stratify.py::test_more_events_than_are_divided_twice_are_refused",
        "--list": "tests/project/test_flags.py::test_simulations_are_listed",
        "--plugin": "tests/simulate/test_own_simulation.py",
    },
    "data show": {"--out": "tests/dataset/test_show.py", "--split": "tests/dataset/test_show.py"},
}
"""Command -> flag -> the test (or file of tests) where it is used, under its name or as the option that it sets.

Those of every command, `--verbose` and `--debug`, are tried in `test_log.py` and below.
"""

SEARCH_FLAGS: dict[str, list[str]] = {
    "--data": ["nowhere"],
    "--preset": ["smoke"],
    "--trials": ["3"],
    "--epochs": ["5"],
    "--time-budget": ["45m"],
    "--storage": ["elsewhere"],
    "--seed": ["7"],
    "--resume": [],
    "--workers-per-trial": ["2"],
    "--min-workers-per-trial": ["1"],
    "--cpus-per-worker": ["2"],
    "--gpus-per-worker": ["1"],
    "--epoch-timeout": ["60"],
    "--weights": ["off"],
    "--cache": ["streaming"],
    "--memory-budget": ["3"],
    "--precision": ["bfloat16"],
    "--readers": ["2"],
    "--fuse": ["2"],
    "--deterministic": [],
    "--compile": ["on"],
    "--watch": ["d"],
    "--learn-from": ["elsewhere"],
    "--constraint": ["parameters<=50"],
    "--until-no-gain": [],
    "--repeats": ["3"],
    "--folds": ["3"],
    "--gain-per": ["second"],
    "--tracking-uri": ["sqlite:///other.db"],
    "--accept-changed-code": [],
}
CONFIRM_FLAGS: dict[str, list[str]] = {
    "--top": ["1"],
    "--seeds": ["3"],
    "--baseline": ["trial=t0002"],
    "--storage": ["elsewhere"],
    "--data": ["nowhere"],
    "--level": ["0.9"],
    "--ensemble": [],
    "--fuse": ["off"],
    "--tracking-uri": ["sqlite:///other.db"],
    "--cpus-per-worker": ["2"],
    "--gpus-per-worker": ["1"],
    "--epoch-timeout": ["60"],
    "--cache": ["streaming"],
    "--memory-budget": ["3"],
    "--readers": ["2"],
    "--deterministic": [],
    "--compile": ["on"],
    "--allow-unfinished": [],
    "--again": [],
}
OF_CONFIRM_ALONE = {"--top", "--seeds", "--baseline", "--level", "--ensemble", "--fuse"}
FOLDS_FLAGS: dict[str, list[str]] = {
    "--folds": ["3"],
    "--trial": ["t0001"],
    **{flag: words for flag, words in CONFIRM_FLAGS.items() if flag not in OF_CONFIRM_ALONE},
}
REFIT_FLAGS = {flag: words for flag, words in CONFIRM_FLAGS.items() if flag not in OF_CONFIRM_ALONE}
CONVERT_FLAGS: dict[str, list[str]] = {
    "--reader": ["npz"],
    "--schema": ["uci_susy"],
    "--classes": ["low,high"],
    "--columns": ["x"],
    "--label": ["y"],
    "--label-values": ["1,0"],
    "--weight": ["y"],
    "--split-by": ["y"],
    "--missing": ["0"],
    "--select": ["x > 0.5"],
    "--train-where": ["x > 0.2"],
    "--split": ["50/25/25"],
    "--stratify": [],
    "--drop-duplicates": [],
    "--balance": [],
    "--set": ["separator=;"],
    "--task": ["other"],
    "--signal": ["bg"],
    "--overwrite": [],
}
NUMBERS = ("nan", "inf", "-inf", "-1", "1e400")


def commands() -> Iterator[tuple[str, click.Command]]:
    def walk(command: Any, name: str = "") -> Iterator[tuple[str, click.Command]]:
        for word, one in getattr(command, "commands", {}).items():
            yield from walk(one, f"{name} {word}".strip())
        if not hasattr(command, "commands"):
            yield name, command

    yield from walk(typer.main.get_command(app))
    yield "search", typer.main.get_command(build_app(SEARCH))


def flags(command: click.Command) -> list[click.Parameter]:
    return [one for one in command.params if one.param_type_name == "option" and one.name != "help"]


def ending(invoked: Any) -> tuple[Any, str]:
    """How a command ended, without what differs from one time to the next."""
    assert invoked.exception is None or isinstance(invoked.exception, HepRayError | SystemExit), (
        invoked.exception
    )
    return invoked.exit_code, re.sub(r"session_\S+|:\d{4,5}\b", "", invoked.output) + str(invoked.exception)


TRIED = {
    "search": SEARCH_FLAGS,
    "confirm": CONFIRM_FLAGS,
    "folds": FOLDS_FLAGS,
    "refit": REFIT_FLAGS,
    "data convert": CONVERT_FLAGS,
}


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value)[:20])
def test_every_flag_has_an_entry(name: str, command: click.Command) -> None:
    known = TRIED.get(name, {}).keys() | ELSEWHERE.get(name, {}).keys()
    assert {one.opts[0] for one in flags(command)} == known


def used(place: str) -> str:
    """Text of a test, or of a file of tests."""
    path, _, name = place.partition("::")
    text = (TESTS.parent / path).read_text(encoding="utf-8")
    if not name:
        return text
    found = [node for node in ast.parse(text).body if getattr(node, "name", "") == name]
    return ast.get_source_segment(text, found[0]) or ""


@pytest.mark.parametrize("name", list(ELSEWHERE))
def test_what_is_shown_elsewhere_is_used_there(name: str) -> None:
    by_flag = {one.opts[0]: one for _, command in commands() if _ == name for one in flags(command)}
    for flag, place in ELSEWHERE[name].items():
        names = {*by_flag[flag].opts, str(by_flag[flag].name)}
        assert any(word in used(place) for word in names), (name, flag, place)


def test_whole_numbers_are_whole_and_in_range() -> None:
    """Of the other numbers each command says itself what it takes, below."""
    for _, command in commands():
        for one in flags(command):
            if getattr(one, "bare_type", None) is int:
                for word in ("nan", "inf", "1e400"):
                    with raises(click.BadParameter, word):
                        one.process_value(command.make_context("x", [], resilient_parsing=True), word)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def differ(run: Callable[..., Any], entries: dict[str, list[str]], bases: dict[str, list[str]]) -> None:
    """Each flag, on top of the base that it needs, ends the command otherwise than the base alone."""
    plain = ending(run())
    for flag, words in entries.items():
        base = bases.get(flag, [])
        before = ending(run(*base)) if base else plain
        assert ending(run(*base, flag, *words)) != before, f"{flag} is accepted and does nothing"


def finished_search(place: Path, fingerprint: str) -> list[Record]:
    """Records of five trials; the last one tells the end of the last trial."""
    records: list[Record] = [
        SearchStarted(
            time=1.0, search="flagged", search_id="a" * 32, dataset_fingerprint=fingerprint, task="toy",
            metric="val_accuracy", mode="max", epochs=2, sampler="tpe", scheduler="none", seed=0, space={},
            options={"data": str(place / "d")}, provenance={}, stated=stated_by(SEARCH),
        )
    ]  # fmt: skip
    for number in range(5):
        params = {**SEARCH.space.samples()[0], "learning_rate": 0.1 / (number + 1)}
        trial = f"t{number:04d}"
        metrics = {"epoch": 1, "val_accuracy": 0.5 + 0.1 * number, "val_loss": 1.0, "epoch_seconds": 1.0}
        records += [
            TrialStarted(time=1.0, trial_id=trial, number=number, params=params, seed=0),
            EpochFinished(time=1.0, trial_id=trial, metrics=metrics),
            TrialFinished(time=1.0, trial_id=trial, status="completed"),
        ]
    return records


@pytest.mark.ray
def test_each_flag_of_a_search_changes_its_plan_or_is_refused(
    ray_session: None, place: Path, make_features: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_features()
    untimed = SearchCost(
        (), (0.0, 0.0, 0.0), 0, 0
    )  # times differ from one time to the next, whatever the flags
    monkeypatch.setattr("hep_ray.search.estimate.estimate", lambda plan: untimed)
    program = build_app(SEARCH)

    def run(*words: str) -> Any:
        given = words if "--data" in words else ("--data", "d", *words)
        return CliRunner().invoke(program, [*given, "--dry-run"])

    assert run().exit_code == 0, run().output
    streaming = ["--cache", "streaming"]
    differ(
        run, SEARCH_FLAGS, {"--min-workers-per-trial": ["--workers-per-trial", "2"], "--readers": streaming}
    )
    for flag in ("--epoch-timeout", "--gpus-per-worker", "--memory-budget"):
        for word in NUMBERS:
            assert run(flag, word).exit_code != 0, (flag, word)


@pytest.mark.ray
@pytest.mark.parametrize("command", ["confirm", "folds", "refit"])
def test_each_flag_of_a_confirmation_changes_its_plan_or_is_refused(
    ray_session: None, place: Path, make_features: Callable[..., Path], command: str
) -> None:
    fingerprint = make_features()
    with Journal(place / "runs/flagged") as journal:
        for record in finished_search(place, fingerprint)[:-1]:
            journal.append(record)
    if command == "refit":
        save_confirmation(place / "runs/flagged", confirmation_of_flagged(fingerprint))

    def run(*words: str) -> Any:
        name = "--allow-unfinished"
        unfinished = words if "strict" in words else (name, *words)
        return CliRunner().invoke(
            app, [command, "flagged", *(w for w in unfinished if w != "strict"), "--dry-run"]
        )

    assert run().exit_code == 0, run().exception
    differ(run, TRIED[command], {"--allow-unfinished": ["strict"], "--readers": ["--cache", "streaming"]})
    for flag in ("--epoch-timeout", "--gpus-per-trial", "--memory-budget", "--level"):
        for word in NUMBERS:
            assert run(flag, word).exit_code != 0, (flag, word)
    assert command == "confirm" or run("--folds", "2").exit_code != 0


def confirmation_of_flagged(fingerprint: str) -> Confirmation:
    """What a confirmation of `finished_search` says, as far as the plan of a refit asks."""

    def contender(name: str, role: Any) -> Contender:
        run = ConfirmedRun(
            trial_id=name,
            seed=1,
            epoch=2,
            metrics={"val_accuracy": 0.6, "test_accuracy": 0.6},
            checkpoint="trials/a/best.pt",
            scores="trials/a/test_scores.parquet",
        )
        params = {**SEARCH.space.samples()[0], "learning_rate": 0.05}
        return Contender(name=name, role=role, params=params, runs=(run,), estimates={})

    return Confirmation(
        search="flagged",
        search_id="a" * 32,
        task="toy",
        dataset_fingerprint=fingerprint,
        metric="test_accuracy",
        mode="max",
        level=0.95,
        correction="holm",
        seeds=(1,),
        epochs=2,
        contenders=(contender("t0001", "finalist"), contender("baseline", "baseline")),
        comparisons=(),
        provenance={},
    )


@pytest.fixture
def make_features(place: Path) -> Callable[..., str]:
    """A dataset in the folder `d`; returns its fingerprint."""

    def make() -> str:
        rows = [f"{(7 * row % 10) / 10},{row % 3},{row % 2}" for row in range(240)]
        (place / "e.csv").write_text("\n".join(["x,y,label", *rows]) + "\n")
        words = [
            "e.csv",
            "--reader",
            "text",
            "--label",
            "label",
            "--classes",
            "bg,sig",
            "--task",
            "toy",
            "--out",
            "d",
        ]
        done = CliRunner().invoke(app, ["data", "convert", *words])
        assert done.exit_code == 0, done.exception
        return Manifest.load(place / "d").fingerprint

    return make


def converted(place: Path, source: list[str], words: tuple[str, ...]) -> Any:
    """Exit code, error and manifest of a conversion into a folder of its own."""
    if (place / "made/manifest.json").exists() and "--overwrite" not in words:
        for file in (place / "made").iterdir():
            file.unlink()
    done = CliRunner().invoke(app, ["data", "convert", *source, *words, "--out", "made"])
    made = Manifest.load(place / "made").model_dump(exclude={"created_by"}) if done.exit_code == 0 else None
    assert done.exception is None or isinstance(done.exception, HepRayError | SystemExit), done.exception
    return done.exit_code, str(done.exception), made


@pytest.mark.parametrize("source", ["files", "dataset"])
def test_each_flag_of_a_conversion_changes_the_dataset_or_is_refused(
    source: str, place: Path, make_features: Callable[..., str]
) -> None:
    make_features()
    words = {
        "files": ["e.csv", "--reader", "text", "--label", "label", "--classes", "bg,sig"],
        "dataset": ["d", "--reader", "parquet"],
    }[source]
    plain = converted(place, words, ())
    assert plain[0] == 0, plain[1]
    for flag, given in CONVERT_FLAGS.items():
        if flag == "--overwrite":
            blocked = CliRunner().invoke(app, ["data", "convert", *words, "--out", "made"])
            assert blocked.exit_code != 0
            assert converted(place, words, (flag,))[0] == 0
            continue
        base, before = words, plain
        if flag == "--missing" and source == "files":
            (place / "gaps.csv").write_text((place / "e.csv").read_text() + "0.5,,1\n")
            base = ["gaps.csv", *words[1:]]
            before = converted(place, base, ())
        if flag in words:  # stated anew
            at = words.index(flag)
            base = [*words[:at], *words[at + 2 :]]
        assert converted(place, base, (flag, *given)) != before, f"{flag} is accepted and does nothing"


def test_simulations_are_listed() -> None:
    listed = CliRunner().invoke(app, ["data", "simulate", "--list"])
    assert "mbh_sph" in listed.output
    assert CliRunner().invoke(app, ["data", "simulate"]).exception is not None


@pytest.mark.slow
@pytest.mark.ci
def test_other_databases_are_asked(place: Path, make_features: Callable[..., str]) -> None:
    make_features()

    def refused(*words: str) -> str:
        done = CliRunner().invoke(app, [*words])
        assert isinstance(done.exception, HepRayError)
        return str(done.exception)

    score = ["predict", "models:/mine@champion", "d", "--out", "scores"]
    assert "runs has none" in refused(*score)
    assert "elsewhere has none" in refused(*score, "--storage", "elsewhere")
    assert "127.0.0.1:9" in refused(*score, "--tracking-uri", "http://127.0.0.1:9")
    assert "KEY=VALUE" in refused(*score, "--set", "nothing")
    with Journal(place / "runs/flagged") as journal:
        for record in finished_search(place, Manifest.load(place / "d").fingerprint):
            journal.append(record)
    assert "nothing.db" in refused("report", "flagged", "--tracking-uri", "sqlite:///nothing.db")
    assert "leave it out" in refused("report", "flagged", "--table", "--out", "page.html")


@pytest.mark.ray
def test_doctor_plans_for_the_search_to_come(ray_session: None, place: Path) -> None:
    def told(*words: str) -> str:
        return CliRunner().invoke(app, ["doctor", *words]).output

    assert "3 trials" in told("--trials", "3")
    assert "64 CPU" in told("--cpus-per-worker", "64")


def test_a_database_that_is_none_has_no_pages(place: Path) -> None:
    for uri in ("sqlite:///nothing.db", "http://127.0.0.1:9"):
        assert isinstance(CliRunner().invoke(app, ["ui", "--tracking-uri", uri]).exception, HepRayError)


@pytest.mark.slow
@pytest.mark.ci
def test_debug_shows_where_an_error_comes_from(place: Path) -> None:
    """`--debug` of a search, and `hep-ray --debug`."""
    import subprocess
    import sys

    words = [sys.executable, "-c", "from hep_ray.cli import main; main()"]
    quiet = subprocess.run([*words, "audit", "nothing"], capture_output=True, text=True, check=False)
    loud = subprocess.run(
        [*words, "--debug", "audit", "nothing"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in quiet.stderr
    assert quiet.returncode == 2
    assert "Traceback" in loud.stderr
