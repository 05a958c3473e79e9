"""An ensemble of finalists from the gate to its users: chosen by validation, checked model by model, read as one."""

import json
import shutil
from types import SimpleNamespace

import confirmed
import numpy as np
import pytest
import torch

from hep_ray.bundle.write import write_bundle
from hep_ray.confirm.comparison import summarise
from hep_ray.confirm.confirmation import load_confirmation, save_confirmation
from hep_ray.confirm.ensemble import keep_means, not_validated
from hep_ray.confirm.finalists import Baseline, Configuration
from hep_ray.confirm.plan import ConfirmPlan
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CorruptModel, InvalidConfig, PromotionRefused, UnreadableInput
from hep_ray.metrics.roc import mean_of
from hep_ray.predict.onnx_export import export_onnx
from hep_ray.promote.package import Description, Package, load_model
from hep_ray.promote.run import Wishes, promote
from hep_ray.search.options import ConfirmOptions
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialStarted, TrialTested
from hep_ray.tracking.registry import ModelRegistry
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import evaluate_once, read_scores
from tests.facts import raises, tells

SCHEMA = EventSchema(
    task="toy",
    columns=(
        Column(name="image", shape=(32, 32, 1)),
        Column(name="pt", unit="GeV"),
        Column(name="eta"),
    ),
    classes=("background", "signal"),
)
TRAINING = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 8}
MODELS = {
    "scalars": {"model": "mlp", "inputs": "pt+eta", "hidden_layers": 1, "hidden_features": 4, **TRAINING},
    "image": {"model": "cnn", **TRAINING},
}


def package(params, seed):
    torch.manual_seed(seed)
    config = TrialConfig.from_params(params)
    described = Description(event_schema=SCHEMA, params=config.resolved(), dataset_fingerprint="f")
    return Package.create(described, config.build_model(SCHEMA).state_dict())


@pytest.fixture(scope="module")
def members():
    return [package(params, seed) for seed, params in enumerate(MODELS.values())]


@pytest.fixture(scope="module")
def ensemble(members):
    return Package.of_several(Description(event_schema=SCHEMA, params={}, dataset_fingerprint="f"), members)


def events(count=20):
    random = np.random.default_rng(0)
    return {
        "image": random.normal(size=(count, 32, 32, 1)).astype(np.float32),
        "pt": random.normal(size=count).astype(np.float32),
        "eta": random.normal(size=count).astype(np.float32),
        "event_id": [f"e{row}" for row in range(count)],
    }


def test_models_of_other_columns_give_their_mean(members, ensemble):
    given = events()
    several = [one.build() for one in members]
    columns = [[column.name for column in one.columns] for one in several]
    assert columns[0] != columns[1]
    built = ensemble.build()
    assert [column.name for column in built.columns] == ["image", "pt", "eta"]  # all, in the schema's order
    probabilities, log_odds = built.scores(given)
    each = [one.scores(given) for one in several]
    assert np.abs(each[0][0] - each[1][0]).max() > 0.01
    np.testing.assert_allclose(probabilities, np.mean([one for one, _ in each], axis=0), rtol=1e-6)
    mean = np.mean([one.astype(np.float64) for one, _ in each], axis=0)
    np.testing.assert_allclose(log_odds, np.log(mean / (1 - mean)), atol=1e-5)
    assert built.fold_of(given["event_id"]) is None  # so that predict writes no column `fold`
    assert not ensemble.of_folds


def test_it_comes_back_from_its_folder_as_it_was(ensemble, tmp_path):
    ensemble.write(tmp_path / "model")
    assert not (tmp_path / "model/model.safetensors").exists()
    back = Package.read(tmp_path / "model")
    assert back == ensemble
    assert back.digest == ensemble.digest
    assert np.array_equal(
        load_model(tmp_path / "model").predict(events()), ensemble.build().predict(events())
    )
    written = json.loads((tmp_path / "model/model.json").read_text())
    # Versions that know one model, or those of folds, must not take it for one of them.
    assert (written["format"], len(written["mean_of"])) == (3, 2)
    assert "folds" not in written
    (tmp_path / "model/model.json").write_text(json.dumps({**written, "format": 4}))
    with raises(UnreadableInput, "formats 1, 2 and 3"):
        Package.read(tmp_path / "model")


def test_another_member_is_noticed(ensemble, members, tmp_path):
    ensemble.write(tmp_path / "model")
    other = tmp_path / "model/members/2"
    shutil.rmtree(other)
    package(MODELS["image"], 7).write(other)
    with raises(CorruptModel, "member 2"):
        Package.read(tmp_path / "model")
    assert Package.of_several(ensemble.description, members[::-1]).digest != ensemble.digest


def test_what_holds_one_model_refuses_it_by_name(ensemble, tmp_path):
    with raises(InvalidConfig, "the mean of 2 models"):
        export_onnx(ensemble.build(), tmp_path / "model.onnx")
    with raises(InvalidConfig, "models:/toy/1", "the mean of 2 models"):
        write_bundle(ensemble, "models:/toy/1", SimpleNamespace(), tmp_path / "bundle", events=5)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def of_two(searches, tmp_path_factory):
    """The finalists of the searches `deep` and `shallow` as those of one, whose mean is a third contender."""
    storage = tmp_path_factory.mktemp("ensemble") / "runs"
    shutil.copytree(searches / "runs/deep", storage / "deep")
    folder, dataset = storage / "deep", Dataset.open(searches / "data")
    deep, shallow = (load_confirmation(searches / "runs" / name) for name in ("deep", "shallow"))
    named = {"t0001": (deep, deep.finalists[0]), "t0002": (shallow, shallow.finalists[0])}
    named["baseline"] = deep, deep.baseline
    started = SearchState.read(folder).started
    finalists = []
    for number, name in enumerate(("t0001", "t0002"), 1):
        of = TrialStarted(time=0, trial_id=name, number=number, params=named[name][1].params, seed=0)
        finalists.append(Configuration((TrialState(of, [{"epoch": 1, "val_accuracy": 0.5}]),), 0.5))
    plan = ConfirmPlan(
        experiment="deep", storage=storage, folder=folder / "confirm", tracking_uri="", epochs=deep.epochs,
        metric="val_accuracy", mode="max", started=started, finalists=tuple(finalists), ranked=3,
        baseline=Baseline(deep.baseline.params, "asked", None), seeds=deep.seeds, dataset=dataset,
        resources=ResourcePlan(12, 2, 1, 0, 2, 0), source=folder,
        given=ConfirmOptions("deep", storage=storage, ensemble=True),
    )  # fmt: skip
    state = SearchState()
    state.apply(started.model_copy(update={"search_id": "confirmation", "provenance": confirmed.PROVENANCE}))
    ids, validation = confirmed.split(dataset, "val")
    for run in plan.runs:
        found, contender = named[run.tags["contender"]]
        own = next(one for one in contender.runs if one.seed == run.seed)
        place = plan.folder / "trials" / run.trial_id
        shutil.copytree(searches / "runs" / found.search / "confirm/trials" / own.trial_id, place)
        if run.tags["contender"] != "baseline":
            evaluate_once(place, dataset.schema, validation, ids, split="val")
        state.apply(run)
        metrics = {key: value for key, value in own.metrics.items() if key.startswith("val_")}
        for epoch in range(1, own.epoch + 1):
            at = metrics if epoch == own.epoch else {**metrics, "val_accuracy": 0.0}
            state.apply(EpochFinished(time=1, trial_id=run.trial_id, metrics={"epoch": epoch, **at}))
        state.apply(TrialFinished(time=1, trial_id=run.trial_id, status="completed"))
        tested = {key: value for key, value in own.metrics.items() if key.startswith("test_")}
        state.apply(TrialTested(time=2, trial_id=run.trial_id, epoch=own.epoch, metrics=tested))
    assert not_validated(plan) == []
    keep_means(plan)
    found = summarise(plan, state, {})
    # Whichever is better by validation here: the mean is to be the candidate.
    behind = []
    for one in found.contenders:
        lower = (run.model_copy(update={"metrics": {**run.metrics, "val_accuracy": 0.1}}) for run in one.runs)
        behind.append(one if one.members else one.model_copy(update={"runs": tuple(lower)}))
    save_confirmation(folder, found.model_copy(update={"contenders": tuple(behind)}))
    return storage


@pytest.fixture
def own(of_two, tmp_path):
    shutil.copytree(of_two, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def wishes(tracking_uri, request):
    return lambda **values: Wishes(
        tracking_uri=tracking_uri, name=request.node.name[:80], device="cpu", **values
    )


def test_it_is_registered_as_one_model_and_is_the_champion_to_beat(own, searches, wishes, tmp_path):
    folder, dataset = own / "deep", Dataset.open(searches / "data")
    done = promote(folder, wishes())
    assert (done.verdict.candidate.name, done.version.number) == ("ensemble", 1)
    answers = {check.name: check.text for check in done.verdict.checks}
    run = done.verdict.run
    assert tells(answers["checkpoint"], f"t0001_seed{run.seed}", f"t0002_seed{run.seed}")
    assert "calibration error" in answers["calibration"]
    assert tells(
        done.card, "the mean of 2 models", "t0001", "t0002", "hidden_features=16", "hidden_features=64"
    )
    assert "None" not in done.card
    stored = ModelRegistry(wishes().tracking_uri).download(done.version, tmp_path)
    mean, calibrated = load_model(stored), load_model(stored, calibrated=True)
    given = dataset.arrays("test", purpose="check")
    kept = [
        read_scores(
            folder / f"confirm/trials/t000{number}_seed{run.seed}/test_scores.parquet", dataset.schema
        )
        for number in (1, 2)
    ]
    by_hand, _ = mean_of([(one.probabilities, one.log_odds) for one in kept])
    assert kept[0].event_ids.to_pylist() == list(given["event_id"])
    np.testing.assert_allclose(mean.predict(given), by_hand, atol=1e-5)
    # A temperature keeps the order of events and changes probabilities.
    before, after = mean.predict(given)[:, 1], calibrated.predict(given)[:, 1]
    assert np.abs(before - after).max() > 1e-4
    assert np.array_equal(
        np.argsort(mean.scores(given)[1][:, 1]), np.argsort(calibrated.scores(given)[1][:, 1])
    )
    assert np.all(np.diff(after[np.argsort(before)]) >= -1e-6)
    with raises(PromotionRefused, "gain", "'ensemble'", "champion already"):
        promote(folder, wishes())
    # The same trainings in another confirmation are no better, and are compared event by event.
    shutil.copytree(folder / "confirm", folder / "confirm_1")
    confirmation = load_confirmation(folder)
    another = [
        one.model_copy(
            update={"runs": tuple(run.model_copy(update={"mlflow_run_id": "another"}) for run in one.runs)}
        )
        for one in confirmation.contenders
    ]
    save_confirmation(folder, confirmation.model_copy(update={"contenders": tuple(another)}))
    with raises(PromotionRefused, "against the champion", "gain"):
        promote(folder, wishes())


def test_a_member_that_is_not_the_confirmed_one_is_refused(own, wishes):
    run = promote(own / "deep", wishes(dry_run=True)).verdict.run
    path = own / f"deep/confirm/trials/t0002_seed{run.seed}/best.pt"
    shutil.copy(own / f"deep/confirm/trials/t0001_seed{run.seed}/best.pt", path)
    with raises(PromotionRefused, "checkpoint", f"t0002_seed{run.seed}"):
        promote(own / "deep", wishes())
    path.unlink()
    with raises(PromotionRefused, f"t0002_seed{run.seed}", "not there"):
        promote(own / "deep", wishes())


def test_scores_that_the_mean_does_not_give_are_refused(own, wishes):
    run = promote(own / "deep", wishes(dry_run=True)).verdict.run
    trials = own / "deep/confirm/trials"
    one, other = (trials / f"{name}_seed{run.seed}/test_scores.parquet" for name in ("t0001", "ensemble"))
    shutil.copy(one, other)
    with raises(PromotionRefused, "reproduction"):
        promote(own / "deep", wishes())


def test_folds_and_the_refit_of_a_mean_are_refused_by_name(own, wishes):
    for asked, flag in (({"folds": 5}, "--folds"), ({"refit": True}, "--refit")):
        with raises(InvalidConfig, flag, "ensemble", "t0001, t0002"):
            promote(own / "deep", wishes(**asked))


def test_figures_of_members_add_up_against_a_constraint(own):
    from hep_ray.promote.candidate import constraints

    found = load_confirmation(own / "deep")
    candidate = next(one for one in found.finalists if one.members)

    def asked(limit):
        searched, retrained = SearchState.read(own / "deep"), SearchState()
        searched.started = searched.started.model_copy(update={"constraints": {"parameters": limit}})
        for name, number in (("t0001", 600.0), ("t0002", 800.0)):
            of = TrialStarted(
                time=0, trial_id=name, number=1, params={}, seed=0, figures={"parameters": number}
            )
            searched.trials[name] = TrialState(of, [])
        return list(constraints(searched, retrained, found, candidate, candidate.runs[0]))

    (kept,), (broken,) = asked(1400.0), asked(1399.0)
    assert kept.passed
    assert not broken.passed
    assert tells(broken.text, "1400", "1399")
