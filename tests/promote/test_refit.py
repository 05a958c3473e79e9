"""The refit in place of the confirmed model: what is asked of it, and what is said of it."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confirmed import DEEP, PROVENANCE, make_refit, params, rewrite, schema
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.confirm.confirmation import choose, load_confirmation
from hep_ray.confirm.refit import run_refit
from hep_ray.confirm.refit_result import REFIT, load_refit
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import CannotResume, InvalidConfig, ModelMismatch, PromotionRefused, StorageError
from hep_ray.plugins import Plugin
from hep_ray.promote.package import Description, Package
from hep_ray.promote.refit import check_refit
from hep_ray.promote.run import Wishes, promote
from hep_ray.report import tables
from hep_ray.report.answer import answer
from hep_ray.report.page import commands
from hep_ray.report.report_data import gather
from hep_ray.search.find import find_search
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, SearchFinished, TrialFinished, TrialStarted
from hep_ray.tracking.registry import ModelRegistry
from hep_ray.training.checkpoint import BEST, load_checkpoint, save_checkpoint
from hep_ray.training.config import TrialConfig
from tests.facts import raises, tells


@pytest.fixture(scope="module")
def refitted(searches, tmp_path_factory):
    """A storage with the confirmed search `deep`, whose candidate was refit."""
    storage = tmp_path_factory.mktemp("refitted") / "runs"
    shutil.copytree(searches / "runs" / "deep", storage / "deep")
    make_refit(storage / "deep", searches / "data")
    return storage


@pytest.fixture
def folder(refitted, tmp_path):
    """A copy, to be spoilt."""
    shutil.copytree(refitted / "deep", tmp_path / "runs" / "deep")
    return tmp_path / "runs" / "deep"


@pytest.fixture
def check(folder, searches):
    dataset = Dataset.open(searches / "data")

    def checked(level=0.025, plugins=(), data=dataset):
        confirmation = load_confirmation(folder)
        candidate, run = choose(confirmation)
        description = Description(
            event_schema=schema(),
            params=TrialConfig.from_params(params(**DEEP)).resolved(),
            dataset_fingerprint=dataset.fingerprint,
            origin={
                "search": "deep",
                "trial": "t0001",
                "confirmed_trial": run.trial_id,
                "seed": "1",
                "epoch": "8",
            },
            plugins=plugins,
        )
        single = Package.create(description, load_checkpoint(folder / "confirm" / run.checkpoint)["model"])
        return check_refit(folder, confirmation, candidate, single, data, "cpu", level)

    return checked


def test_what_it_leaves_tells_its_training_and_another_is_not_gone_on_with(refitted, tmp_path, searches):
    storage = tmp_path / "runs"
    shutil.copytree(searches / "runs" / "deep", storage / "deep")
    plan = make_refit(storage / "deep", searches / "data")
    state = SearchState.read(plan.folder)
    trial = state.trials["model"]
    assert (trial.status, len(trial.history)) == ("completed", 8)
    assert not [name for name in trial.history[-1] if name.startswith("val_")]
    assert "seen_accuracy" in trial.history[-1]
    plan.refuse_another(state)
    for other, told in (
        (dataclasses.replace(plan, until=5), "5"),
        (
            dataclasses.replace(
                plan, confirmation=plan.confirmation.model_copy(update={"confirmation_id": "second"})
            ),
            "second",
        ),
    ):
        with raises(CannotResume, told, "--again"):
            other.refuse_another(state)
    with raises(StorageError, BEST, "--again"):
        (plan.folder / "trials/model" / BEST).rename(tmp_path / "gone")
        run_refit(plan)
    found = load_refit(plan.folder)
    train, val = (Dataset.open(searches / "data").rows(one) for one in ("train", "val"))
    assert (found.events, found.seed, found.best_epochs) == (train + val, 9, (8, 8, 8))
    assert found.metrics == load_refit(refitted / "deep" / REFIT).metrics  # the same seed, the same model


def change(folder, **changed):
    path = folder / REFIT / "refit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_a_sound_refit_is_handed_on_with_what_it_learnt_from(folder, check, searches):
    package, answers = check()
    assert [one.name for one in answers] == [
        "refit",
        "refit's reproduction",
        "refit's recorded metric",
        "refit's test",
        "calibration",
    ]
    assert all(one.passed for one in answers)
    dataset = Dataset.open(searches / "data")
    train, val = (dataset.rows(one) for one in ("train", "val"))
    assert tells(answers[0].text, f"{train + val} events", f"{train} of training", f"{val} of validation")
    assert tells(answers[0].text, "8 of 8 epochs", "seed 9")
    assert tells(answers[-1].text, "none", "learnt")
    origin, found = package.description.origin, load_refit(folder / REFIT)
    assert (origin["refit"], origin["epoch"], origin["seed"]) == ("train + val", "8", "9")
    assert "confirmed_trial" not in origin
    assert package.description.metrics == found.metrics
    # The difference by hand: right answers of the refit less the mean of those of the three confirmed trainings.
    runs = load_confirmation(folder).finalists[0].runs
    mean = np.mean([run.metrics["test_accuracy"] for run in runs])
    assert tells(answers[3].text, f"test_accuracy {found.metrics['test_accuracy'] - mean:+.4f}")


def test_what_is_not_of_this_candidate_confirmation_dataset_or_code_is_refused(
    folder, check, searches, tmp_path
):
    again = "hep-ray refit deep --again"

    def refused(*facts, **options):
        package, answers = check(**options)
        assert package is None
        (answer,) = answers
        assert (answer.name, answer.passed) == ("refit", False)
        assert tells(answer.text, *facts)

    whole = (folder / REFIT / "refit.json").read_text()
    for changed, facts in (
        ({"params": params(hidden_layers=3), "trial": "t0007"}, ["'t0007'", "'t0001'", again]),
        ({"confirmation_id": "earlier"}, ["another confirmation", again]),
        (
            {"dataset_fingerprint": "0" * 64},
            ["0" * 12, Dataset.open(searches / "data").fingerprint[:12], again],
        ),
        ({"epoch": 3}, ["epoch 3 of 8", "8 of 8", again]),
        ({"metric": "test_auc"}, ["test_auc", "test_accuracy", again]),
        ({"provenance": {**PROVENANCE, "git_dirty": "true"}}, ["git_dirty", again]),
    ):
        change(folder, **changed)
        refused(*facts)
        (folder / REFIT / "refit.json").write_text(whole)
    refused("other code", again, plugins=(Plugin(module="mine", path="mine.py", sha256="0" * 64),))
    best = folder / REFIT / "trials/model/best.pt"
    state = load_checkpoint(best)
    for changed, facts in (
        ({"metrics": {**state["metrics"], "epoch": 7}}, ["epoch 7", again]),
        ({"params": {**state["params"], "hidden_layers": 3}}, ["parameters", again]),
    ):
        save_checkpoint(best, {**state, **changed})
        refused(*facts)
    best.write_bytes(b"no checkpoint")
    refused("best.pt", again)
    shutil.rmtree(folder / REFIT)
    refused("refit.json", "hep-ray refit deep")


def test_other_scores_than_those_of_the_model_are_refused(folder, check):
    path = folder / REFIT / "trials/model/test_scores.parquet"
    table = pq.read_table(path)
    turned = pa.array(np.arange(len(table))[::-1])
    for name in ("score_signal", "score_background"):
        table = table.set_column(table.column_names.index(name), name, table[name].take(turned))
    pq.write_table(table, path)
    package, answers = check()
    assert package is None
    (answer,) = [one for one in answers if one.name == "refit's reproduction"]
    assert not answer.passed
    assert tells(answer.text, "1e-05")


def test_one_that_is_worse_beyond_the_noise_is_refused_with_the_numbers(folder, check, searches):
    # All weights are 0, so that about half of the answers are right; scores and checkpoint agree.
    shutil.rmtree(folder / REFIT)
    make_refit(folder, searches / "data", scale=0.0)
    package, answers = check()
    assert package is None
    failed = [one for one in answers if not one.passed]
    assert [one.name for one in failed] == ["refit's test"]
    runs = load_confirmation(folder).finalists[0].runs
    mean = np.mean([run.metrics["test_accuracy"] for run in runs])
    difference = load_refit(folder / REFIT).metrics["test_accuracy"] - mean
    assert difference < -0.2
    assert tells(failed[0].text, f"test_accuracy {difference:+.4f}", "below 0.025", "without --refit")


def test_the_command_registers_it_and_says_what_it_is(folder, searches, tracking_uri, tmp_path):
    def typed(*words):
        given = [
            "promote",
            "deep",
            "--storage",
            folder.parent,
            "--tracking-uri",
            tracking_uri,
            "--device",
            "cpu",
        ]
        return CliRunner().invoke(app, list(map(str, [*given, "--name", "a_refit", *words])))

    for words, facts in (
        (["--refit", "--calibration", "platt"], ["--calibration platt", "learnt"]),
        (["--refit", "--folds", "3"], ["--refit", "--folds"]),
    ):
        refused = typed(*words)
        assert isinstance(refused.exception, InvalidConfig)
        assert tells(str(refused.exception), *facts)
    done = typed("--refit")
    assert done.exit_code == 0, done.output
    assert tells(done.output, "pass  refit:", "calibration: none", "version 1, the refit")
    registry = ModelRegistry(tracking_uri)
    version = registry.by_alias("a_refit", "champion")
    assert version.tags["hep_ray.refit"] == "train + val"
    assert version.tags["hep_ray.epoch"] == "8"
    (tmp_path / "stored").mkdir()
    stored = registry.download(version, tmp_path / "stored")
    card = next(path for path in stored.rglob("README.md")).read_text()
    found = load_refit(folder / REFIT)
    accuracy = found.metrics["test_accuracy"]
    assert tells(
        card, "train + val", "8 of 8", f"test_accuracy {accuracy:.4g}", "nothing was chosen by validation"
    )
    package = Package.read(stored)
    assert package.description.calibration is None
    with raises(ModelMismatch, "--calibrated"):
        dataclasses.replace(package, calibrated=True).build()


def test_a_refit_does_not_help_a_configuration_that_the_gate_refuses(searches, tmp_path, tracking_uri):
    storage = tmp_path / "runs"
    shutil.copytree(searches / "runs" / "linear", storage / "linear")
    make_refit(storage / "linear", searches / "data")
    rewrite(storage / "linear", provenance=PROVENANCE)
    with raises(PromotionRefused, "gain"):
        promote(storage / "linear", Wishes(tracking_uri=tracking_uri, name="never", device="cpu", refit=True))


def test_a_report_shows_it_beside_the_confirmed_trainings(folder, searches):
    epoch = {"epoch": 1, "val_accuracy": 0.8, "val_loss": 0.5, "epoch_seconds": 1.0}
    with Journal(folder) as journal:
        begun = TrialStarted(time=1.0, trial_id="t0001", number=0, params=params(**DEEP), seed=0)
        for record in (
            begun,
            EpochFinished(time=2.0, trial_id="t0001", metrics=epoch),
            TrialFinished(time=3.0, trial_id="t0001", status="completed"),
            SearchFinished(time=4.0),
        ):
            journal.append(record)
    found = find_search("deep", folder.parent)
    stated = found.stated(found.state().started)
    data = gather(stated, found.storage, searches / "data")
    refit, runs = load_refit(folder / REFIT), load_confirmation(folder).finalists[0].runs
    mean = np.mean([run.metrics["test_accuracy"] for run in runs])
    difference = f"test_accuracy {refit.metrics['test_accuracy'] - mean:+.4f}"
    told = answer(data)
    assert difference in told.facts["Refit"]
    assert told.command.startswith("hep-ray promote deep --refit --dry-run")
    # Search, confirmation and refit each state the command they were made by, here the same.
    assert commands(data, found.storage).splitlines()[1:4] == [PROVENANCE["command"]] * 3
    shown = tables.refit(data.refit, 0.95)
    assert difference in shown.notes[0]
    dataset = Dataset.open(searches / "data")
    confirmed, refitted = shown.rows
    assert tells(confirmed[0], "3 seeds", f"{dataset.rows('train')} events")
    assert tells(refitted[0], "epoch 8", f"{refit.events} events")
    values = [float(row[1].split()[0]) for row in (confirmed, refitted)]
    assert values == pytest.approx([mean, refit.metrics["test_accuracy"]], abs=5e-4)
    # Without the dataset nothing is compared; a refit of another confirmation is none of this one.
    shutil.move(searches / "data", searches / "moved")
    try:
        alone = gather(stated, found.storage)
    finally:
        shutil.move(searches / "moved", searches / "data")
    assert (alone.refit.both, alone.refit.confirmed_events) == (None, None)
    change(folder, confirmation_id="earlier")
    other = gather(stated, found.storage, searches / "data")
    assert other.refit is None
    assert any("another confirmation" in note for note in other.notes)
    assert "--refit" not in answer(other).command
    (folder / REFIT / "refit.json").write_text("{")
    damaged = gather(stated, found.storage, searches / "data")
    assert damaged.refit is None
    assert any("refit.json" in note for note in damaged.notes)
    (folder / REFIT / "refit.json").write_text(refit.model_dump_json())
    (folder / REFIT / refit.checkpoint).unlink()
    alone = gather(stated, found.storage, searches / "data")
    assert alone.refit is None
    assert any(tells(note, "is not there") for note in alone.notes)
    (folder / "confirm/confirmation.json").write_text("{")
    with raises(StorageError, "confirmation.json", "hep-ray confirm deep"):
        gather(stated, found.storage, searches / "data")
