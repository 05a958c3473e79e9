"""The whole way from a confirmation to the registry, on real checkpoints and a real MLflow database."""

import dataclasses
import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
import scipy.stats
import torch
from confirmed import (
    DEEP,
    PROVENANCE,
    SHALLOW,
    confirm,
    make_folds,
    rewrite,
    schema,
    split,
    write_dataset,
    xor_events,
)
from typer.testing import CliRunner

import hep_ray
from hep_ray.cli import app
from hep_ray.confirm.confirmation import (
    Estimate,
    SplitUse,
    UnderVariation,
    load_confirmation,
    params_hash,
    record_use,
)
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.variations import Variation
from hep_ray.errors import InvalidConfig, PromotionRefused, StorageError, TrackingUnavailable, UnknownSearch
from hep_ray.loading.shards import ShardStream
from hep_ray.loading.varied import OtherEvents
from hep_ray.metrics.roc import log_odds_of
from hep_ray.promote import run as run_module
from hep_ray.promote.gate import Gate, check_gain, check_metric, check_scores
from hep_ray.promote.package import Description, Package
from hep_ray.promote.run import Wishes, promote
from hep_ray.search.find import find_search
from hep_ray.search.naming import plus_minus
from hep_ray.search.state import SearchState
from hep_ray.tracking.registry import ModelRegistry
from hep_ray.training.checkpoint import load_checkpoint
from hep_ray.training.testing import KeptScores, evaluate_once, varied_scores
from tests.facts import raises, tells

EVENTS = 312
"""Of the 1,200 in the test split."""
SCORES = ["score_background", "score_signal"]


@pytest.fixture
def wishes(tracking_uri, request):
    """A registered name of each test's own."""
    return lambda **values: Wishes(
        tracking_uri=tracking_uri, name=request.node.name[:80], device="cpu", **values
    )


def p_of_seeds_and_events(folder):
    """Two-sided p-value of finalist minus baseline by the crossed analysis of variance, written out."""
    confirmation = load_confirmation(folder)
    right = []
    for one in confirmation.contenders:
        tables = [pq.read_table(folder / "confirm" / run.scores).to_pandas() for run in one.runs]
        right.append(
            [(table[SCORES].to_numpy().argmax(1) == table["label"]).to_numpy(float) for table in tables]
        )
    values = np.array(right[0]) - np.array(right[1])
    seeds, events = values.shape
    of_seeds, of_events, mean = values.mean(1), values.mean(0), values.mean()
    square_seeds = events * ((of_seeds - mean) ** 2).sum() / (seeds - 1)
    square_events = seeds * ((of_events - mean) ** 2).sum() / (events - 1)
    rest = ((values - of_seeds[:, None] - of_events + mean) ** 2).sum() / ((seeds - 1) * (events - 1))
    seed, event = square_seeds / (seeds * events), (square_events - rest) / (seeds * events)
    share = seed / (seed + event)
    slope = 4.5 / (seeds - 1) if seeds > 2 else 12
    inverse = share**2 * (1 + slope * (1 - share)) / (seeds - 1)
    inverse += (1 - share) ** 2 * (1 + 4.5 / (events - 1) * share) / (events - 1)
    return 2 * scipy.stats.t.sf(abs(mean) / (seed + event) ** 0.5, 1 / inverse)


def aliases(wishes):
    chosen = wishes()
    return ModelRegistry(chosen.tracking_uri).aliases(chosen.name)


def test_a_real_gain_becomes_the_champion_and_loads_without_unpickling(
    storage, wishes, monkeypatch, tmp_path
):
    done = promote(storage / "deep", wishes())

    assert aliases(wishes) == {"champion": 1}
    assert done.previous is None
    registry = ModelRegistry(wishes().tracking_uri)
    version = registry.find(f"models:/{done.name}@champion")
    assert version.tags["classes"] == "background,signal"
    run = done.verdict.run
    estimate = load_confirmation(storage / "deep").finalists[0].estimates["test_accuracy"]
    assert version.tags["test_accuracy"].startswith(plus_minus(estimate.mean, estimate.sd))
    (tmp_path / "files").mkdir()
    folder = registry.download(version, tmp_path / "files")
    names = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert names == {"", ".json", ".md", ".safetensors", ".txt", ".yaml"}

    monkeypatch.setattr("pickle.Unpickler", None)
    monkeypatch.setattr("pickle.load", None)
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr(torch, "load", None)
    recorded = pq.read_table(storage / "deep" / "confirm" / run.scores).to_pandas()
    events = xor_events(1200)
    rows = [events["event_id"].index(name) for name in recorded["event_id"]]
    features = events["features"][rows]
    model = hep_ray.load_model(folder)
    assert len(rows) == EVENTS
    calibration = Package.read(folder).description.calibration
    assert calibration.method == "temperature"
    assert calibration.after["val_log_loss"] <= calibration.before["val_log_loss"]
    own = recorded[["score_background", "score_signal"]].to_numpy()[np.arange(EVENTS), recorded["label"]]
    assert calibration.before["test_log_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    hot = hep_ray.load_model(folder, calibrated=True).predict({"features": features})
    odds = scipy.special.logit(recorded["score_signal"].astype("float64")) / calibration.temperature
    np.testing.assert_allclose(hot[:, 1], scipy.special.expit(odds), atol=1e-5)
    np.testing.assert_allclose(
        model.predict({"features": features}), recorded[list(model.score_names)], rtol=0, atol=1e-5
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        # `mlflow.set_tracking_uri` would leave the variable behind for every test that follows.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", wishes().tracking_uri)
        scoring = mlflow.pyfunc.load_model(f"models:/{done.name}@champion")
        scores = scoring.predict(pd.DataFrame({"features": list(features)}))
    assert list(scores.columns) == [*SCORES, "log_odds_background", "log_odds_signal"]
    np.testing.assert_allclose(scores[SCORES], recorded[SCORES], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        scipy.special.expit(scores["log_odds_signal"]), recorded["score_signal"], atol=1e-5
    )
    assert scoring.metadata.signature.inputs.input_names() == ["features"]
    assert scoring.input_example["features"].shape == (2, 2)


def test_a_calibration_holds_a_row_group_of_validation_events(storage, wishes, monkeypatch):
    """100,000 images of 50 × 50 × 3 would be 3 GB."""
    read, whole = [], ShardStream._batches

    def batches(stream, plan, sizes, device):
        read.append((len(stream), stream.groups_per_block, sum(sizes), max(sizes)))
        return whole(stream, plan, sizes, device)

    monkeypatch.setattr(ShardStream, "_batches", batches)
    monkeypatch.setattr(ShardStream, "head", lambda *_: pytest.fail("all events at once"))
    monkeypatch.setattr(run_module, "CALIBRATED_ON", 100)
    assert promote(storage / "deep", wishes()).verdict.passed
    ((events, groups, taken, largest),) = [one for one in read if one[1] == 1]
    assert (events > 100, groups, taken, largest) == (True, 1, 100, 100)


def test_a_better_model_takes_the_alias_and_the_former_becomes_previous(storage, wishes):
    promote(storage / "shallow", wishes())
    done = promote(storage / "deep", wishes())

    assert aliases(wishes) == {"champion": 2, "previous": 1}
    assert done.previous == 1
    assert "against the champion" in done.card
    with raises(PromotionRefused, "gain", "test_accuracy", "champion"):
        promote(storage / "shallow", wishes())
    assert aliases(wishes) == {"champion": 2, "previous": 1}


def test_a_champion_of_another_strength_is_not_compared_by_the_loss_with_its_term(storage):
    confirmation = load_confirmation(storage / "deep").model_copy(
        update={"metric": "test_decorrelated_loss", "mode": "min"}
    )
    (candidate,) = confirmation.finalists
    strong = {**candidate.params, "decorrelate": "mass", "decorrelation": 10.0}
    champion = SimpleNamespace(
        dataset_fingerprint=confirmation.dataset_fingerprint,
        evidence=SimpleNamespace(
            metric=confirmation.metric, contender=candidate.model_copy(update={"params": strong})
        ),
    )
    weak = candidate.model_copy(update={"params": {**strong, "decorrelation": 1.0}})
    found = check_gain(confirmation, weak, champion, Gate(storage / "deep", schema()))
    assert not found.passed
    assert tells(found.text, "cannot be compared", "test_decorrelated_loss", "1.0, 10.0")


def judged_by_the_worst(folder, **scale):
    """A confirmation of `test_worst_accuracy` under variations whose scores are the nominal ones."""
    confirmation = load_confirmation(folder)
    nothing = Estimate(mean=0, sd=0, low=0, high=0)
    under = [
        UnderVariation(
            contender=one.name,
            variation=name,
            changes=f"features × {factor}",
            metric="test_accuracy",
            estimates={},
            difference=nothing,
        )
        for name, factor in scale.items()
        for one in confirmation.contenders
    ]
    for run in (run for one in confirmation.contenders for run in one.runs):
        for name in scale:
            nominal = folder / "confirm" / run.scores
            shutil.copy(nominal, varied_scores(nominal, name))
    metric = "test_worst_accuracy"
    comparisons = tuple(one.model_copy(update={"metric": metric}) for one in confirmation.comparisons)
    return confirmation.model_copy(
        update={"metric": metric, "variations": tuple(under), "comparisons": comparisons}
    )


def varied_schema(**scale):
    variations = {name: Variation(scale={"features": factor}) for name, factor in scale.items()}
    return schema().model_copy(update={"variations": variations})


def test_the_worst_is_that_over_the_variations_of_the_confirmation(storage):
    confirmation = judged_by_the_worst(storage / "deep", jes=1.05)
    (candidate,) = confirmation.finalists

    def judged(made, asked=confirmation):
        return check_gain(asked, candidate, None, Gate(storage / "deep", made))

    assert judged(varied_schema(jes=1.05)).passed
    for made, facts in (
        (varied_schema(jes=1.01), ("'jes'", "features × 1.05", "features × 1.01")),
        (varied_schema(), ("'jes'", "features × 1.05", "not there")),
        (varied_schema(jes=1.05, met=2.0), ("'met'", "not there", "features × 2")),
    ):
        found = judged(made)
        assert not found.passed
        assert tells(found.text, "test_worst_accuracy", "--data", *facts)
    nominal = load_confirmation(storage / "deep").model_copy(update={"variations": confirmation.variations})
    assert judged(varied_schema(), nominal).passed


def test_a_champion_under_other_variations_is_not_compared_by_the_worst(storage):
    confirmation = judged_by_the_worst(storage / "deep", jes=1.05)
    former = judged_by_the_worst(storage / "shallow", jes=1.01)
    (candidate,), (contender,) = confirmation.finalists, former.finalists

    def against(variations, asked=confirmation):
        evidence = SimpleNamespace(metric=asked.metric, contender=contender, variations=variations)
        champion = SimpleNamespace(
            dataset_fingerprint=asked.dataset_fingerprint,
            event_schema=schema(),
            evidence=evidence,
            origin={"search": "shallow"},
        )
        return check_gain(asked, candidate, champion, Gate(storage / "deep", varied_schema(jes=1.05)))

    alike = tuple(one.model_copy(update={"changes": "features × 1.05"}) for one in former.variations)
    assert against(alike).passed
    for variations, was in ((former.variations, "features × 1.01"), ((), "not there")):
        found = against(variations)
        assert not found.passed
        assert tells(found.text, "champion", "'jes'", was, "features × 1.05")
    assert against((), load_confirmation(storage / "deep")).passed


def test_the_worst_is_reckoned_anew_under_every_variation(searches, tmp_path):
    varied = {"up": Variation(shift={"x": 0.3}), "gen": Variation(data="../other")}
    for folder, seed, variations in (("data", 0, varied), ("other", 1, {})):
        made = schema().model_copy(update={"variations": variations})
        with ShardWriter(tmp_path / folder, made, source={"seed": seed}, rows_per_shard=256) as writer:
            events = xor_events(1200, seed)
            writer.write({**events, "event_id": [f"{seed}{one}" for one in events["event_id"]]})
    dataset = Dataset.open(tmp_path / "data")
    shutil.copytree(searches / "runs" / "deep" / "confirm", tmp_path / "confirm")
    (run, *_) = load_confirmation(searches / "runs" / "deep").finalists[0].runs
    trial = (tmp_path / "confirm" / run.scores).parent
    (trial / "test_scores.parquet").unlink()
    ids, test = split(dataset, "test")
    other = Dataset.open(tmp_path / "other")
    other_ids, others = split(other, "test")
    others = {"gen": OtherEvents(others, other.schema, pa.array(other_ids))}
    outcome = evaluate_once(
        trial, dataset.schema, test, pa.array(ids), "cpu", dataset.schema.variations, others
    )
    state = load_checkpoint(trial / "best.pt")
    description = Description(event_schema=schema(), params=state["params"], dataset_fingerprint="")
    package = Package.create(description, state["model"])

    def check(metric="test_worst_accuracy", **metrics):
        recorded = run.model_copy(update={"metrics": outcome.metrics | metrics})
        return check_scores(package, recorded, tmp_path / "confirm", metric, dataset, "cpu")

    passed = check()
    assert [one.passed for one in passed] == [True, True]
    assert tells(passed[0].text, "'up'", "'gen'", "1e-05")
    # The worst of the three, by hand: right answers of files that nobody but `evaluate_once` wrote.
    accuracies = [
        np.mean(np.argmax([table[one] for one in SCORES], axis=0) == table["label"])
        for table in (pq.read_table(path).to_pandas() for path in sorted(trial.glob("test_scores*")))
    ]
    assert len(set(accuracies)) == 3
    assert tells(passed[1].text, f"{min(accuracies):.6g}")
    assert not check(test_worst_accuracy=outcome.metrics["test_accuracy"])[1].passed

    path = trial / "test_scores.up.parquet"
    table = pq.read_table(path)
    shutil.copy(trial / "test_scores.parquet", path)
    (found,) = check()
    assert not found.passed
    assert tells(found.text, "'up'", "1e-05")
    assert all(one.passed for one in check("test_accuracy"))
    labels = table.column("label").to_numpy().copy()
    labels[0] = 1 - labels[0]
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(labels)), path)
    found = check()
    assert [one.passed for one in found] == [True, False]
    assert tells(found[1].text, "'up'", "labels")
    path.unlink()
    (found,) = check()
    assert not found.passed
    assert tells(found.text, path.name)


def test_the_models_of_folds_are_handed_on_in_place_of_one(searches, storage, tracking_uri, tmp_path):
    def typed(*words):
        words = (
            "promote",
            "deep",
            "--storage",
            storage,
            "--tracking-uri",
            tracking_uri,
            "--name",
            "of_folds",
            *words,
        )
        return CliRunner().invoke(app, list(map(str, words)))

    assert isinstance(typed("--folds", 3, "--calibration", "platt").exception, InvalidConfig | SystemExit)
    absent = typed("--folds", 3, "--dry-run")
    assert absent.exit_code == 1
    assert tells(absent.output, "FAIL", "folds.json")
    dataset = Dataset.open(searches / "data")
    candidate = load_confirmation(storage / "deep").finalists[0]
    make_folds(storage / "deep" / "folds3", dataset, dict(candidate.params), 3, search="deep", trial="t0001")
    done = typed("--folds", 3, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert tells(done.output, "version 1", "3 folds", "all 1200 events")
    registry = ModelRegistry(tracking_uri)
    version = registry.by_alias("of_folds", "champion")
    assert version.tags["hep_ray.folds"] == "3"
    stored = registry.download(version, tmp_path)
    card = next(path for path in stored.rglob("README.md")).read_text()
    assert tells(card, "the models of 3 folds", "event_id", "test split included")
    # By their ids: the part of an event decides whose score it has.
    out = tmp_path / "scores"
    words = ["predict", version.uri, searches / "data", "--out", out, "--tracking-uri", tracking_uri]
    told = CliRunner().invoke(app, list(map(str, words)))
    assert told.exit_code == 0, told.output
    assert tells(told.output, "1200 events", "0 by the mean")
    found = pq.read_table(out).to_pandas().set_index("event_id")
    kept = (
        pq.read_table(storage / "deep/folds3/scores.parquet")
        .to_pandas()
        .set_index("event_id")
        .loc[found.index]
    )
    assert found["fold"].tolist() == kept["fold"].tolist()
    assert found["score_signal"].to_numpy() == pytest.approx(kept["score_signal"].to_numpy(), abs=1e-5)
    # MLflow hands no ids on, which the card says: every event has the mean.
    events = {"features": xor_events(20)["features"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        scores = mlflow.pyfunc.load_model(str(stored)).predict(events)
    assert scores["score_signal"].to_numpy() == pytest.approx(
        Package.read(stored).build().predict(events)[:, 1], abs=1e-6
    )


def test_a_champion_that_is_made_meanwhile_is_the_one_to_beat(storage, wishes, monkeypatch):
    """Another machine, which holds no lock of ours, sets the alias while the candidate is being stored."""
    promote(storage / "deep", wishes())
    registry = ModelRegistry(wishes().tracking_uri)
    (best,) = registry.aliases(wishes().name).values()
    registry._client.delete_registered_model_alias(wishes().name, "champion")
    stored = run_module.store

    def meanwhile(*args):
        version = stored(*args)
        registry._client.set_registered_model_alias(wishes().name, "champion", str(best))
        return version

    monkeypatch.setattr(run_module, "store", meanwhile)
    with raises(PromotionRefused, "gain", "test_accuracy", "champion"):
        promote(storage / "shallow", wishes())
    assert aliases(wishes) == {"champion": best}


def test_promotions_of_one_model_take_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "PATIENCE", 0.1)
    with run_module.one_at_a_time("http://registry", "toy", tmp_path):
        with run_module.one_at_a_time("http://registry", "another", tmp_path):
            pass
        with (
            raises(StorageError, "'toy'", tmp_path),
            run_module.one_at_a_time("http://registry", "toy", tmp_path),
        ):
            raise AssertionError("two hold one turn")
    with run_module.one_at_a_time("http://registry", "toy", tmp_path):
        pass


def test_the_gate_has_a_level_of_its_own(storage, wishes):
    """A confirmation that was shown at 50 % is judged at 2.5 % one-sided all the same, unless --level says else."""
    shown = storage / "deep" / "confirm" / "confirmation.json"
    values = json.loads(shown.read_text())
    shown.write_text(json.dumps(values | {"level": 0.5}))
    lines = promote(storage / "deep", wishes(dry_run=True)).verdict.lines
    assert tells(next(line for line in lines if "gain" in line), 0.05, "2.5 % one-sided")
    lines = promote(storage / "deep", wishes(dry_run=True, level=1e-40)).verdict.lines
    assert any(line.startswith("FAIL  gain") and tells(line, "2e-40") for line in lines)
    with raises(InvalidConfig, "level", 0.6):
        promote(storage / "deep", wishes(level=0.6))


def test_the_champion_of_the_same_confirmation_is_not_promoted_again(storage, wishes):
    promote(storage / "deep", wishes())

    with raises(PromotionRefused, "gain", "is the champion already", "--name"):
        promote(storage / "deep", wishes())


def test_a_finalist_within_the_noise_of_the_baseline_is_refused(storage, wishes):
    with raises(PromotionRefused, "gain", "test_accuracy", "baseline"):
        promote(storage / "linear", wishes())

    assert aliases(wishes) == {}
    assert wishes().name not in ModelRegistry(wishes().tracking_uri).names()


def test_one_seed_tells_nothing(searches, tmp_path, wishes):
    folder = confirm(tmp_path / "runs", searches / "data", "lonely", DEEP, seeds=(1,), epochs=1)

    with raises(PromotionRefused, "gain", "2 seeds"):
        promote(folder, wishes())


@pytest.mark.parametrize(
    ("changed", "facts"),
    [
        ({"git_commit": "unknown: not a git checkout"}, ["git_commit", "unknown: not a git checkout"]),
        ({"git_dirty": "true"}, ["git_dirty", "confirm again"]),
        ({"version_torch": "absent"}, ["version_torch", "'absent'"]),
        ({"command": ""}, ["command"]),
    ],
)
def test_incomplete_provenance_is_refused(storage, wishes, changed, facts):
    rewrite(storage / "deep", provenance={**PROVENANCE, **changed})

    with raises(PromotionRefused, "provenance", *facts):
        promote(storage / "deep", wishes())
    assert aliases(wishes) == {}


def tamper(path):
    state = torch.load(path, weights_only=True)
    name = next(key for key in state["model"] if key.endswith("weight"))
    state["model"][name] += 0.01
    torch.save(state, path)


def exchange(path):
    other = path.parents[1] / "baseline-s1" / "best.pt"
    shutil.copy(other, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (tamper, ["reproduction"]),
        (exchange, ["checkpoint", "t0001-s2", "parameters"]),
        (truncate, ["checkpoint", "t0001-s2", "not a zip file"]),
        (lambda path: path.unlink(), ["checkpoint", "t0001-s2/best.pt"]),
    ],
)
def test_a_tampered_checkpoint_is_refused(storage, wishes, damage, facts):
    run = promote(storage / "deep", wishes(dry_run=True)).verdict.run
    damage(storage / "deep" / "confirm" / run.checkpoint)

    with raises(PromotionRefused, *facts):
        promote(storage / "deep", wishes())
    assert aliases(wishes) == {}


def test_a_metric_that_is_not_that_of_the_scores_is_refused(storage, wishes):
    confirmation = json.loads((storage / "deep" / "confirm" / "confirmation.json").read_text())
    for run in confirmation["contenders"][0]["runs"]:
        run["metrics"]["test_accuracy"] = 0.999
    rewrite(storage / "deep", contenders=confirmation["contenders"])

    with raises(PromotionRefused, "test_accuracy", 0.999):
        promote(storage / "deep", wishes())


def test_a_metric_of_saturated_probabilities_says_how_to_reckon_it_anew(tmp_path):
    # Four signal events with log-odds 25 … 22, background 21, −1, −2, −3: all 16 pairs are in order. As float32 the
    # five probabilities of at least 21 are 1: four pairs of 16 tie, 1 − 4/2/16 = 0.875.
    odds = np.array([25, 24, 23, 22, 21, -1, -2, -3], dtype=float)
    probabilities = scipy.special.expit(np.stack([-odds, odds], axis=1)).astype(np.float32)
    labels = np.repeat([1, 0], 4)
    kept = KeptScores(None, labels, probabilities, log_odds_of(probabilities), None, {}, exact=False)

    def check(recorded, scores=kept):
        found = scores.metrics(schema())
        return check_metric(
            scores, found, {"test_auc": recorded}, "test_auc", schema(), tmp_path / "old" / "confirm"
        )

    assert check(1.0).passed
    assert not check(0.875).passed
    assert f"type `hep-ray confirm old --storage {tmp_path}`" in check(0.875).text
    assert not check(0.9).passed
    assert "type `hep-ray" not in check(0.9).text
    assert "type `hep-ray" not in check(0.875, dataclasses.replace(kept, exact=True)).text


def test_a_changed_dataset_is_refused(storage, wishes, searches, tmp_path):
    other = write_dataset(tmp_path / "other", seed=5)
    with raises(PromotionRefused, "dataset", "fingerprint"):
        promote(storage / "deep", wishes(data=other))

    copy = shutil.copytree(searches / "data", tmp_path / "copy")
    shard = next(copy.glob("test-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with raises(PromotionRefused, "dataset", shard.name, "truncated"):
        promote(storage / "deep", wishes(data=copy))
    with raises(PromotionRefused, "dataset", tmp_path / "absent"):
        promote(storage / "deep", wishes(data=tmp_path / "absent"))
    assert aliases(wishes) == {}


def use_of(folder, confirmation_id, **changed):
    confirmation = load_confirmation(folder)
    values = {
        "time": 1.0,
        "purpose": "confirm",
        "dataset_fingerprint": confirmation.dataset_fingerprint,
        "contenders": tuple(sorted(params_hash(one.params) for one in confirmation.contenders)),
        "confirmation_id": confirmation_id,
        "seeds": confirmation.seeds,
    }
    record_use(folder, SplitUse(**{**values, **changed}))


def test_a_test_split_that_has_served_a_choice_is_refused_unless_accepted(storage, wishes):
    folder = storage / "deep"
    use_of(folder, "another", contenders=("a", "b", "c"))
    use_of(folder, "confirmation-of-deep")

    with raises(PromotionRefused, "test split", "1 time", "2 finalists", "--accept-reused-test"):
        promote(folder, wishes())
    done = promote(folder, wishes(accept_reused_test=True))

    assert tells(done.card, "accepted", "corrected for all 3")
    p_value = p_of_seeds_and_events(folder)
    assert f"p = {3 * p_value:.3g}" in next(line for line in done.verdict.lines if "gain" in line)


def test_a_test_split_of_another_dataset_or_of_this_confirmation_was_not_used(storage, wishes):
    use_of(storage / "deep", "older", dataset_fingerprint="0" * 64)
    use_of(storage / "deep", "confirmation-of-deep")
    use_of(storage / "shallow", "elsewhere")

    verdict = promote(storage / "deep", wishes(dry_run=True)).verdict

    assert verdict.passed
    assert any(tells(line, "other searches", "'shallow' 1") for line in verdict.lines)


def test_a_champion_of_another_dataset_must_be_the_baseline(storage, wishes, tmp_path):
    promote(storage / "shallow", wishes())
    data = write_dataset(tmp_path / "new", seed=9)
    beside = confirm(tmp_path / "new_runs", data, "against_linear", DEEP)
    with raises(PromotionRefused, "champion's configuration", "baseline"):
        promote(beside, wishes())

    seeds = tuple(range(6))
    better = confirm(tmp_path / "new_runs", data, "against_champion", DEEP, SHALLOW, seeds=seeds)
    done = promote(better, wishes())

    assert aliases(wishes) == {"champion": 2, "previous": 1}
    assert tells(done.card, "champion's configuration", "retrained")


def test_dry_run_explains_line_by_line_and_registers_nothing(storage, tracking_uri):
    def run(search):
        words = [
            "promote",
            search,
            "--storage",
            str(storage),
            "--tracking-uri",
            tracking_uri,
            "--name",
            "dry",
        ]
        return CliRunner().invoke(app, [*words, "--dry-run"])

    good, bad = run("deep"), run("linear")

    assert good.exit_code == 0, good.output
    for name in ("provenance", "dataset", "test split", "gain", "checkpoint", "reproduction"):
        assert f"pass  {name}: " in good.output
    assert "'t0001' would be promoted" in good.output
    assert bad.exit_code == 1
    assert "FAIL  gain: " in bad.output
    assert "would be refused" in bad.output
    assert "dry" not in ModelRegistry(tracking_uri).names()


def test_the_command_line_promotes_and_says_what_to_type_next(storage, tracking_uri):
    words = ["promote", "deep", "--storage", str(storage), "--tracking-uri", tracking_uri, "--name", "typed"]
    words += ["--calibration", "platt"]
    done = CliRunner().invoke(app, words)

    assert done.exit_code == 0, done.output
    assert "models:/typed@champion is version 1" in done.output
    assert "pass  calibration: platt (slope" in done.output
    data = SearchState.read(storage / "deep").started.options["data"]
    assert (
        f"hep-ray predict models:/typed@champion {data} --out scores --tracking-uri {tracking_uri}"
        in done.output
    )


def test_a_crash_before_the_aliases_leaves_none_and_its_version_is_used_again(storage, wishes, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "crown", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(storage / "deep", wishes())
    assert aliases(wishes) == {}

    done = promote(storage / "deep", wishes())

    assert done.version.number == 1
    assert aliases(wishes) == {"champion": 1}


def test_what_is_stored_must_be_what_was_judged(storage, wishes, monkeypatch):
    download = ModelRegistry.download

    def spoil(self, version, into):
        folder = download(self, version, into)
        description = next(folder.rglob("model.json"))
        description.write_text(description.read_text().replace('"epochs": 8', '"epochs": 9'))
        return folder

    monkeypatch.setattr(ModelRegistry, "download", spoil)
    with raises(PromotionRefused, "digest"):
        promote(storage / "deep", wishes())
    assert aliases(wishes) == {}


def test_errors_name_what_is_missing(storage, tmp_path):
    with raises(UnknownSearch, "'nothing'", "deep, linear, shallow"):
        find_search("nothing", storage, tmp_path)
    shutil.rmtree(storage / "deep" / "confirm")
    with raises(StorageError, "hep-ray confirm deep"):
        promote(storage / "deep")
    with raises(TrackingUnavailable, "127.0.0.1:9"):
        promote(storage / "shallow", Wishes(tracking_uri="http://127.0.0.1:9"))
