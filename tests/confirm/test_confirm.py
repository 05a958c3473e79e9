"""A confirmation on real Ray, MLflow and Parquet: its numbers against scipy and scikit-learn, resumed, and refused."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats
from sklearn import metrics as sklearn_metrics
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.confirm.confirmation import choose, load_confirmation, params_hash, uses
from hep_ray.confirm.finalists import configurations
from hep_ray.confirm.folds import load_folds, prepare_folds, run_folds
from hep_ray.confirm.plan import prepare_confirmation
from hep_ray.confirm.refit import prepare_refit, run_refit
from hep_ray.confirm.refit_result import best_epoch
from hep_ray.confirm.run import run_confirmation
from hep_ray.confirm.table import verdict
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.variations import Variation
from hep_ray.errors import (
    CannotConfirm,
    CannotResume,
    Infeasible,
    InvalidConfig,
    ShardMismatch,
    UnknownName,
)
from hep_ray.search.execute import run_search
from hep_ray.search.find import load_search
from hep_ray.search.options import AfterSearch, ConfirmOptions, FoldOptions, SearchOptions
from hep_ray.search.plan import prepare
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import default_uri, open_client
from hep_ray.tracking.journal import Journal, encode, read_records
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG
from tests.facts import raises, tells

pytestmark = pytest.mark.ray

SCRIPT = """
from hep_ray import Choice, Preset, Search, Space

search = Search(
    name="toy_confirmed",
    task="toy",
    title="A toy.",
    space=Space(
        model="mlp",
        hidden_features=8,
        loss="root_softmax",
        root_index=Choice(1, 3, 5),
        optimizer="adam",
        learning_rate=1e-2,
        batch_size=16,
    ),
    metric="val_loss",
    mode="min",
    presets={"smoke": Preset(sampler="grid", scheduler="none", epochs=2, seeds=2)},
    baseline={"root_index": 1},
)
"""
QUIET = Console(quiet=True)
SEEDS = (9, 10)
"""The search used 7 and 8."""


@pytest.fixture(scope="module")
def options(ray_session, tmp_path_factory):
    """A finished search of three configurations with two seeds each, on two overlapping Gaussians."""
    folder = tmp_path_factory.mktemp("confirm")
    (folder / "searches").mkdir()
    (folder / "searches/toy_confirmed.py").write_text(SCRIPT)
    random = np.random.default_rng(4)
    labels = np.arange(300) % 2
    schema = EventSchema(
        task="toy",
        columns=(Column(name="x", shape=(3,), unit="GeV"),),
        classes=("background", "signal"),
        variations={"tripled": Variation(scale={"x": 3.0}), "generator": Variation(data="../generator")},
    )
    # A third of the events of the other generator are the nominal ones, by their ids.
    for name, first, mean in (("data", 0, 1.0), ("generator", 200, 0.5)):
        with ShardWriter(folder / name, schema, source={}, rows_per_shard=16) as writer:
            writer.write(
                {
                    "event_id": [f"event-{row}" for row in range(first, first + 300)],
                    "label": labels,
                    "x": (random.normal(size=(300, 3)) + mean * labels[:, None]).astype(np.float32),
                }
            )
    search = load_search("toy_confirmed", folder / "searches")
    given = SearchOptions(data=folder / "data", storage=folder / "runs", preset="smoke", seed=7, fuse="off")
    run_search(prepare(search, given), console=QUIET)
    return ConfirmOptions(
        "toy_confirmed", top=2, seeds=2, storage=folder / "runs", scripts=folder / "searches", fuse="off"
    )


@pytest.fixture(scope="module")
def confirmed(options):
    return run_confirmation(prepare_confirmation(options), console=QUIET)


def folder_of(options):
    return options.storage / "toy_confirmed"


def records(folder, kind):
    return [record for record in read_records(folder) if record.kind == kind]


def test_the_finalists_are_distinct_configurations_by_the_mean_over_seeds(options):
    plan = prepare_confirmation(options)
    losses = {}
    board = json.loads((folder_of(options) / "leaderboard.json").read_text())
    for trial in board["trials"]:
        params = {key: value for key, value in trial["params"].items() if key != "seed"}
        losses.setdefault(params_hash(params), []).append(trial["metrics"]["val_loss"])
    assert len(losses) == plan.ranked == 3
    order = sorted(losses, key=lambda key: np.mean(losses[key]))
    baseline = params_hash(plan.baseline.params)
    assert plan.baseline.params["root_index"] == 1
    assert [params_hash(one.params) for one in plan.finalists] == [key for key in order if key != baseline]
    assert plan.seeds == SEEDS


def test_every_number_is_that_of_scipy_and_scikit_learn_on_the_scores(options, confirmed):
    found = load_confirmation(folder_of(options))
    assert found == confirmed.confirmation
    assert (found.metric, found.mode, found.seeds) == ("test_loss", "min", SEEDS)
    assert [one.role for one in found.contenders] == ["finalist", "finalist", "baseline"]
    losses = {}
    for contender in found.contenders:
        assert [run.seed for run in contender.runs] == list(SEEDS)
        for run in contender.runs:
            scores = pq.read_table(folder_of(options) / "confirm" / run.scores).to_pandas()
            probabilities = scores[["score_background", "score_signal"]].to_numpy()
            assert probabilities.dtype == np.float32
            assert run.metrics["test_accuracy"] == sklearn_metrics.accuracy_score(
                scores.label, probabilities.argmax(1)
            )
            assert run.metrics["test_auc"] == pytest.approx(
                sklearn_metrics.roc_auc_score(scores.label, scores.score_signal)
            )
            # The loss of every root index is −log of the probability that it gives the true class.
            assert run.metrics["test_loss"] == pytest.approx(
                sklearn_metrics.log_loss(scores.label, probabilities), rel=1e-4
            )
        values = np.array([run.metrics["test_loss"] for run in contender.runs])
        losses[contender.name] = values
        estimate = contender.estimates["test_loss"]
        low, high = stats.t.interval(0.95, 1, loc=values.mean(), scale=stats.sem(values))
        assert (estimate.mean, estimate.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
        assert (estimate.low, estimate.high) == pytest.approx((low, high))

    def per_event(name):
        runs = next(one for one in found.contenders if one.name == name).runs
        return np.array(
            [
                pq.read_table(folder_of(options) / "confirm" / run.scores)["loss"].to_numpy().astype(float)
                for run in runs
            ]
        )

    p_values = []
    for comparison in found.comparisons:
        difference = losses[comparison.contender] - losses["baseline"]
        # Two seeds: their spread as of a paired t-test, and beside it the events, less what the seeds' spread holds.
        assert comparison.judged_by == "crossed"
        assert comparison.difference.mean == pytest.approx(difference.mean(), rel=1e-4)
        assert comparison.seed_error == pytest.approx(stats.sem(difference), rel=1e-3)
        values = per_event(comparison.contender) - per_event("baseline")
        rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        events = values.shape[1]
        shared = values.mean(axis=0).var(ddof=1) - (rest**2).sum() / (events - 1) / 2
        assert comparison.sample_error == pytest.approx(max(shared, 0) ** 0.5 / events**0.5, rel=1e-3)
        error = np.hypot(comparison.seed_error, comparison.sample_error)
        share = (comparison.seed_error / error) ** 2
        inverse = share**2 * (1 + 12 * (1 - share))
        inverse += (1 - share) ** 2 * (1 + 4.5 / (events - 1) * share) / (events - 1)
        assert comparison.p_value == pytest.approx(
            2 * stats.t.sf(abs(comparison.difference.mean) / error, 1 / inverse), rel=1e-3
        )
        half = stats.t.ppf(0.975, 1 / inverse) * error
        assert comparison.difference.high - comparison.difference.low == pytest.approx(2 * half, rel=1e-3)
        p_values.append(comparison.p_value)
    # Holm by hand: the smaller p-value twice, the larger once but not below the other.
    smaller, larger = sorted(p_values)
    expected = {smaller: min(1, 2 * smaller), larger: max(min(1, 2 * smaller), larger)}
    assert [one.adjusted_p_value for one in found.comparisons] == pytest.approx(
        [expected[value] for value in p_values]
    )


def test_every_contender_is_told_under_each_variation_of_the_dataset(options, confirmed):
    found = confirmed.confirmation
    assert [(one.variation, one.contender) for one in found.variations] == [
        (name, one.name) for name in ("tripled", "generator") for one in found.contenders
    ]
    for contender, under in zip(found.contenders, found.variations, strict=False):
        losses = [], []
        for run in contender.runs:
            nominal = folder_of(options) / "confirm" / run.scores
            for kept, path in zip(losses, (nominal, nominal.with_stem("test_scores.tripled")), strict=True):
                kept.append(pq.read_table(path)["loss"].to_numpy().astype(float))
        # The mean loss of the same models, paired event by event: by the models' own scores, without our estimates.
        differences = np.array(losses[1]) - np.array(losses[0])
        assert under.difference.mean == pytest.approx(differences.mean(), rel=1e-4)
        assert under.estimates["test_loss"].mean == pytest.approx(np.mean(losses[1]), rel=1e-4)
        assert under.seed_error == pytest.approx(stats.sem(differences.mean(axis=1)), rel=1e-2)
        assert 0 < under.sample_error < np.std(differences) / differences.shape[1] ** 0.5 * 1.1
        assert under.changes == "x × 3"
    (started,) = records(folder_of(options) / "confirm", "search_started")
    assert started.variations["tripled"]["scale"] == {"x": 3.0}
    assert all("tripled" in one.variations for one in records(folder_of(options) / "confirm", "trial_tested"))


def test_a_variation_by_another_dataset_is_judged_on_its_events_and_pairs_those_that_both_have(
    options, confirmed
):
    found = confirmed.confirmation
    other = Dataset.open(options.storage.parent / "generator")
    ids = [
        one.values("event_id", "test", purpose="check").to_pylist()
        for one in (Dataset.open(options.storage.parent / "data"), other)
    ]
    shared = set(ids[0]) & set(ids[1])
    assert 0 < len(shared) < len(ids[1])
    under = {one.contender: one for one in found.variations if one.variation == "generator"}
    for contender in found.contenders:
        one = under[contender.name]
        assert (one.events, one.paired_events) == (len(ids[1]), len(shared))
        assert one.changes == f"events of generator ({other.fingerprint[:12]})"
        losses = []
        for run in contender.runs:
            nominal = folder_of(options) / "confirm" / run.scores
            tables = [pq.read_table(path) for path in (nominal, nominal.with_stem("test_scores.generator"))]
            assert [table["event_id"].to_pylist() for table in tables] == ids
            losses.append([table["loss"].to_numpy().astype(float) for table in tables])
        means = np.array([[values.mean() for values in pair] for pair in losses])
        differences = means[:, 1] - means[:, 0]
        assert one.difference.mean == pytest.approx(differences.mean(), rel=1e-4)
        assert one.seed_error == pytest.approx(stats.sem(differences), rel=1e-2)
        # The mean over seeds of each event: parts of the shared ones are subtracted, all others add up. What seeds
        # and events make together is in this bound, and not in the error of the events.
        parts = {}
        for sign, place in ((-1, 0), (1, 1)):
            values = np.mean([pair[place] for pair in losses], axis=0)
            for name, part in zip(ids[place], (values - values.mean()) / len(values), strict=True):
                parts[name] = parts.get(name, 0.0) + sign * part
        bound = sum(part**2 for part in parts.values()) ** 0.5
        assert bound / 2 < one.sample_error < 1.1 * bound
    (started,) = records(folder_of(options) / "confirm", "search_started")
    assert started.variations["generator"]["fingerprint"] == other.fingerprint


def test_scores_are_of_the_test_split_event_by_event_and_the_look_is_recorded(options, confirmed):
    dataset = Dataset.open(options.storage.parent / "data")
    paths = dataset.paths("test", purpose="check")
    events = [pq.read_table(path, columns=["event_id", "label"]) for path in paths]
    assert len(events) > 1
    for contender in confirmed.confirmation.contenders:
        scores = pq.read_table(folder_of(options) / "confirm" / contender.runs[0].scores)
        assert scores["event_id"].to_pylist() == [
            name for part in events for name in part["event_id"].to_pylist()
        ]
        assert scores["label"].to_pylist() == [name for part in events for name in part["label"].to_pylist()]
    (use,) = uses(folder_of(options))
    assert (use.purpose, use.dataset_fingerprint, use.seeds) == ("confirm", dataset.fingerprint, SEEDS)
    assert use.confirmation_id == confirmed.confirmation.confirmation_id
    assert use.contenders == tuple(
        sorted(params_hash(one.params) for one in confirmed.confirmation.contenders)
    )
    told = records(folder_of(options) / "confirm", "trial_finished")
    tests = records(folder_of(options) / "confirm", "trial_tested")
    assert len(tests) == len({test.trial_id for test in tests}) == 6
    assert max(end.time for end in told) < use.time < min(test.time for test in tests)


def test_mlflow_has_the_trainings_and_the_confirmed_values_of_the_search(options, confirmed):
    client = open_client(default_uri(options.storage))
    experiment = client.get_experiment_by_name("toy_confirmed")
    found = confirmed.confirmation
    runs = client.search_runs([experiment.experiment_id], "tags.`hep_ray.kind` = 'confirmation'")
    children = {run.info.run_id: run for run in runs if TRIAL_TAG in run.data.tags}
    (parent,) = [run for run in runs if TRIAL_TAG not in run.data.tags]
    assert parent.info.run_name == "toy_confirmed (confirmation)"
    assert "confirmation.json" in [one.path for one in client.list_artifacts(parent.info.run_id)]
    for contender in found.contenders:
        for run in contender.runs:
            logged = children[run.mlflow_run_id].data
            assert (logged.tags["role"], logged.tags["contender"]) == (contender.role, contender.name)
            assert logged.tags["seed"] == logged.params["seed"] == str(run.seed)
            assert logged.metrics["test/auc"] == run.metrics["test_auc"]
    searched = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{SEARCH_TAG}` = '{found.search_id}'",
        order_by=["metrics.`confirmed/loss` ASC"],
    )
    sorted_runs = [
        run for run in searched if "confirmed/loss" in run.data.metrics and TRIAL_TAG in run.data.tags
    ]
    means = sorted(one.estimates["test_loss"].mean for one in found.contenders)
    # Each contender is a configuration that the search trained twice.
    assert [run.data.metrics["confirmed/loss"] for run in sorted_runs] == [
        mean for mean in means for _ in "12"
    ]
    (of_search,) = [run for run in searched if TRIAL_TAG not in run.data.tags]
    assert of_search.data.metrics["confirmed/loss_baseline"] == found.baseline.estimates["test_loss"].mean


def test_typed_again_nothing_is_trained_or_tested(options, confirmed):
    folder = folder_of(options) / "confirm"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.p*") if path.is_file()}
    journal = (folder / "journal.jsonl").read_bytes()
    assert len([path for path in before if path.name == "test_scores.parquet"]) == 6

    again = run_confirmation(prepare_confirmation(options), console=QUIET)

    assert again == confirmed
    assert (folder / "journal.jsonl").read_bytes() == journal
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.ci
def test_killed_in_a_training_or_in_the_tests_it_goes_on_to_the_same_result(options, confirmed, tmp_path):
    storage = tmp_path / "runs"
    shutil.copytree(options.storage, storage)
    folder = storage / "toy_confirmed/confirm"
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    moved = dataclasses.replace(options, storage=storage)

    def go_on(kept):
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + b'{"kind": "epo')
        result = run_confirmation(prepare_confirmation(moved), console=QUIET).confirmation
        for one, other in zip(result.contenders, confirmed.confirmation.contenders, strict=True):
            assert one.estimates == other.estimates
        assert result.comparisons == confirmed.confirmation.comparisons
        assert len(uses(storage / "toy_confirmed")) == 1

    # In the tests, after the second one: the scores of all are on disk, so that no model is asked again.
    scores = {path: path.stat().st_mtime_ns for path in folder.rglob("test_scores.parquet")}
    go_on([index for index, kind in enumerate(kinds) if kind == "trial_tested"][2])
    assert {path: path.stat().st_mtime_ns for path in scores} == scores
    # In a training, long before the tests: as it was then, nothing had been tested.
    for path in scores:
        path.unlink()
    shutil.rmtree(folder / "trials" / f"baseline_seed{SEEDS[-1]}")
    (storage / "toy_confirmed/test_uses.jsonl").unlink()
    go_on([index for index, kind in enumerate(kinds) if kind == "trial_finished"][2])
    assert len(records(folder, "epoch_finished")) == 6 * 2


@pytest.mark.slow
@pytest.mark.ci
def test_trained_as_one_stack_and_killed_it_has_the_numbers_of_trainings_one_by_one(
    options, confirmed, tmp_path
):
    storage = tmp_path / "runs"
    shutil.copytree(options.storage, storage)
    folder = storage / "toy_confirmed/confirm"
    shutil.rmtree(folder)
    (storage / "toy_confirmed/test_uses.jsonl").unlink()
    stacked = dataclasses.replace(options, storage=storage, fuse="4")

    whole = run_confirmation(prepare_confirmation(stacked), console=QUIET).confirmation

    one_by_one = read_records(folder_of(options) / "confirm")
    wanted = {(one.trial_id, one.epoch): one.metrics for one in one_by_one if one.kind == "epoch_finished"}
    fused = records(folder, "trials_fused")
    assert sorted(len(one.trial_ids) for one in fused) == [3, 3]
    assert all(one.fused and one.gain is None for one in fused)

    def check(result):
        epochs = records(folder, "epoch_finished")
        assert len(epochs) == len(wanted) == 6 * 2
        assert all(one.cpu_seconds > 0 for one in epochs)
        for one in epochs:
            expected = wanted[one.trial_id, one.epoch]
            own = {key: one.metrics[key] for key in ("epoch_seconds", "train_loss", "train_accuracy")}
            assert one.metrics == {**expected, **own}
            assert own["train_loss"] == pytest.approx(expected["train_loss"], rel=0, abs=1e-6)
        for one, other in zip(result.contenders, confirmed.confirmation.contenders, strict=True):
            assert one.estimates == other.estimates

    check(whole)
    # Killed after the first epochs: one training has a checkpoint that is ahead of the journal, one has none left.
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    kept = [place for place, kind in enumerate(kinds) if kind == "epoch_finished"][1]
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:kept]))
    (storage / "toy_confirmed/test_uses.jsonl").unlink()
    for path in folder.rglob("*.p*"):
        if path.is_file():
            path.unlink()
    check(run_confirmation(prepare_confirmation(stacked), console=QUIET).confirmation)


@pytest.mark.slow
@pytest.mark.ci
def test_another_confirmation_is_refused_and_again_sets_the_first_aside(options, confirmed, tmp_path):
    for change, word in (({"top": 1}, "--top"), ({"seeds": 3}, "--seeds")):
        with raises(CannotResume, word, "--again"):
            run_confirmation(prepare_confirmation(dataclasses.replace(options, **change)), console=QUIET)
    storage = tmp_path / "runs"
    shutil.copytree(options.storage, storage)
    once = dataclasses.replace(options, storage=storage, top=1, seeds=1, baseline="model=logistic_regression")

    result = run_confirmation(prepare_confirmation(once), again=True, console=QUIET)

    assert (storage / "toy_confirmed/confirm_1/confirmation.json").exists()
    assert [use.confirmation_id for use in uses(storage / "toy_confirmed")] == [
        confirmed.confirmation.confirmation_id,
        result.confirmation.confirmation_id,
    ]
    assert result.earlier_uses == 1
    # A baseline that the search did not draw is its best configuration with these values put in; this one is fitted.
    assert result.confirmation.baseline.params == {"model": "logistic_regression"}
    assert result.confirmation.baseline.estimates["test_auc"].mean > 0.7
    assert "none drawn has it" in result.confirmation.baseline_origin
    (comparison,) = result.confirmation.comparisons
    assert comparison.p_value is comparison.adjusted_p_value is None
    assert "nothing can be said" in verdict(result.confirmation)


def test_the_command_shows_what_it_will_do_and_then_what_was_found(options, confirmed):
    words = ["confirm", str(options.scripts / "toy_confirmed.py"), "--storage", str(options.storage)]
    words += ["--top", "2", "--seeds", "2", "--fuse", "off"]

    dry = CliRunner().invoke(app, [*words, "--dry-run"])
    told = CliRunner().invoke(app, words)

    assert dry.exit_code == told.exit_code == 0, told.output
    for one in confirmed.confirmation.finalists:
        assert f"{one.name}: val_loss" in dry.output
    assert f"seeds {SEEDS[0]} to {SEEDS[1]}" in dry.output
    assert "Nothing was run" in dry.output
    assert "tripled: x × 3" in dry.output
    assert "minus nominal" in told.output
    for one in confirmed.confirmation.contenders:
        assert f"{one.name:9} root_index={one.params['root_index']}\n" in told.output
    assert verdict(confirmed.confirmation) in told.output
    assert str(confirmed.path) in told.output
    assert f"hep-ray promote toy_confirmed --dry-run --storage {options.storage}" in told.output
    assert "Caution" not in told.output


def test_trainings_run_as_the_search_did_unless_asked_otherwise(options, tmp_path, monkeypatch):
    storage = tmp_path / "runs"
    shutil.copytree(options.storage, storage)
    moved = dataclasses.replace(options, storage=storage)
    first, *rest = read_records(folder_of(moved))
    recorded = {**first.options, "epoch_timeout": 77.0, "cache": "streaming", "memory_budget": 0.5}
    lines = [first.model_copy(update={"options": recorded}), *rest]
    (folder_of(moved) / "journal.jsonl").write_bytes(b"".join(map(encode, lines)))
    # The nodes that a cluster may still start count too, as for a search: two more of three cores.
    monkeypatch.setenv("HEP_RAY_AUTOSCALE", "2 x CPU=3")

    plan = prepare_confirmation(moved)
    other = prepare_confirmation(
        dataclasses.replace(moved, epoch_timeout=8.0, cache="resident", memory_budget=2)
    )

    assert plan.epoch_timeout == 77
    assert (plan.resources.ingest.cache, plan.resources.ingest.budget) == ("streaming", 5 * 10**8)
    assert plan.resources.cpus == other.resources.cpus == 2 + 2 * 3
    assert other.epoch_timeout == 8
    assert (other.resources.ingest.cache, other.resources.ingest.budget) == ("resident", 2 * 10**9)


def test_numbers_that_no_training_can_have_are_refused(options):
    for change, error, facts in (
        ({"epoch_timeout": float("inf")}, InvalidConfig, ["--epoch-timeout inf"]),
        ({"memory_budget": float("nan")}, InvalidConfig, ["--memory-budget", "nan"]),
        ({"gpus_per_trial": float("nan")}, Infeasible, ["--gpus-per-trial nan"]),
        ({"cache": "both"}, InvalidConfig, ["--cache", "'both'"]),
    ):
        with raises(error, *facts):
            prepare_confirmation(dataclasses.replace(options, **change))


@pytest.mark.parametrize(
    ("change", "error", "facts"),
    [
        ({"search": "nothing"}, UnknownName, ["'nothing'", "toy_confirmed"]),
        ({"baseline": "loss"}, CannotConfirm, ["KEY=VALUE", "'loss'"]),
        ({"baseline": "trial=t9999"}, CannotConfirm, ["trial=t9999", "t0001, t0002, t0000"]),
        ({"baseline": "root_indx=1"}, CannotConfirm, ["'root_indx'"]),
        ({"baseline": "loss=focal,root_index=3"}, CannotConfirm, ["'root_index'"]),
        ({"seeds": 0}, CannotConfirm, ["--seeds", 0]),
        ({"top": 0}, CannotConfirm, ["--top", 0]),
        ({"level": 95}, CannotConfirm, ["--level", 95, 0.95]),
        ({"fuse": "1"}, CannotConfirm, ["--fuse", "auto", "off", 1]),
        ({"fuse": "4", "cache": "streaming"}, CannotConfirm, ["--fuse 4", "--cache streaming", "--fuse off"]),
    ],
)
def test_what_cannot_be_confirmed_is_refused_with_the_reason(options, change, error, facts):
    with raises(error, *facts):
        prepare_confirmation(dataclasses.replace(options, **change))


def test_a_search_that_runs_or_has_not_ended_or_never_ran_is_refused(options, tmp_path):
    with Journal(folder_of(options)), raises(CannotConfirm, "toy_confirmed"):
        prepare_confirmation(options)
    storage = tmp_path / "runs"
    moved = dataclasses.replace(options, storage=storage)
    with raises(CannotConfirm, "toy_confirmed", "--storage"):
        prepare_confirmation(moved)
    journal = folder_of(moved) / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    lines = (folder_of(options) / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    journal.write_bytes(b"".join(lines[: kinds.index("epoch_finished")]))
    with raises(CannotConfirm, "t0000, t0001", "--allow-unfinished"):
        prepare_confirmation(moved)
    with raises(CannotConfirm, "toy_confirmed", "2 trials"):
        prepare_confirmation(dataclasses.replace(moved, allow_unfinished=True))


def test_another_dataset_is_refused(options, tmp_path, make_dataset):
    other = dataclasses.replace(options, data=make_dataset(events=96))
    with raises(CannotConfirm, other.data, "--data"):
        prepare_confirmation(other)
    copy = tmp_path / "copy"
    shutil.copytree(options.storage.parent / "data", copy)
    shard = next(copy.glob("*test*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with raises(ShardMismatch, shard.name):
        prepare_confirmation(dataclasses.replace(options, data=copy))


def test_folds_are_those_of_the_candidate_of_the_confirmation(options, confirmed, tmp_path):
    given = FoldOptions("toy_confirmed", folds=3, storage=options.storage, scripts=options.scripts)
    candidate = choose(confirmed.confirmation)[0].name
    plan = prepare_folds(given)
    assert (plan.configuration.name, plan.candidate) == (candidate, candidate)
    words = ["folds", "toy_confirmed", "--storage", str(options.storage), "--dry-run"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert tells(told.output, "candidate of the confirmation")
    ranked = [one.name for one in configurations(SearchState.read(folder_of(options)))]
    for other in ranked:
        plan = prepare_folds(dataclasses.replace(given, trial=other))
        assert (plan.configuration.name, plan.candidate) == (other, candidate)

    storage = tmp_path / "runs"
    shutil.copytree(folder_of(options), storage / "toy_confirmed", ignore=shutil.ignore_patterns("confirm"))
    plan = prepare_folds(dataclasses.replace(given, storage=storage))
    assert (plan.configuration.name, plan.candidate) == (ranked[0], "")


@pytest.mark.slow
@pytest.mark.ci
def test_folds_score_each_event_by_a_model_that_never_saw_it(options):
    given = FoldOptions("toy_confirmed", folds=3, storage=options.storage, scripts=options.scripts)
    plan = prepare_folds(given)
    found = run_folds(plan, console=QUIET)
    scores = pq.read_table(plan.folder / found.scores).to_pandas()
    every = {id_ for split in ("train", "val", "test") for id_ in ids_of(plan.dataset, split)}
    assert sorted(scores["event_id"]) == sorted(every)
    for number in (1, 2, 3):
        fold = Dataset.open(plan.folder / f"data/fold_{number}")
        of_model = set(scores["event_id"][scores["fold"] == number])
        assert of_model == ids_of(fold, "test")
        assert not of_model & (ids_of(fold, "train") | ids_of(fold, "val"))
    signal = scores["label"] == 1
    assert found.metrics["test_auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(signal, scores["log_odds_signal"]), abs=1e-12
    )
    assert found.metrics["test_loss"] == pytest.approx(scores["loss"].mean(), abs=1e-12)
    own = scores[scores["event_id"].isin(ids_of(plan.dataset, "test"))]
    assert found.held_out["test_auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(own["label"], own["log_odds_signal"]), abs=1e-12
    )
    assert found.trial == plan.configuration.name
    assert [fold.events for fold in found.folds] == scores.groupby("fold").size().tolist()

    client = open_client(default_uri(options.storage))
    experiment = client.get_experiment_by_name("toy_confirmed")
    runs = client.search_runs([experiment.experiment_id], "tags.`hep_ray.kind` = 'fold'")
    assert len(runs) == 6  # a parent and a training for each
    logged = {run.data.metrics["test/auc"] for run in runs if TRIAL_TAG in run.data.tags}
    assert logged == {fold.metrics["test_auc"] for fold in found.folds}
    looks = [use.confirmation_id for use in uses(folder_of(options))]
    (first,) = records(plan.folder / "fold_1", "search_started")
    assert looks.count(first.search_id) == 1

    began = records(plan.folder / "fold_1", "trial_started")
    assert run_folds(prepare_folds(given), console=QUIET) == load_folds(
        plan.folder
    )  # goes on: nothing is left
    assert records(plan.folder / "fold_1", "trial_started") == began
    other = next(trial for trial in ("t0000", "t0002", "t0004") if trial != found.trial)
    with raises(CannotResume, "contenders", "--again"):
        run_folds(prepare_folds(dataclasses.replace(given, trial=other)), console=QUIET)
    prepare_folds(given).refuse_another()
    with raises(CannotResume, "contenders", "--again"):
        prepare_folds(dataclasses.replace(given, trial=other)).refuse_another()
    with raises(CannotConfirm, "t9999"):
        prepare_folds(dataclasses.replace(given, trial="t9999"))


@pytest.mark.slow
@pytest.mark.ci
def test_a_refit_learns_from_validation_events_too_for_the_epochs_that_were_best(options, confirmed):
    given = AfterSearch("toy_confirmed", storage=options.storage, scripts=options.scripts)
    plan = prepare_refit(given)
    found = run_refit(plan, console=QUIET)
    candidate, _ = choose(confirmed.confirmation)
    best = [run.epoch for run in candidate.runs]
    assert (found.trial, found.best_epochs) == (candidate.name, tuple(best))
    assert found.epoch == best_epoch(best)
    assert found.seed == max(SEEDS) + 1
    dataset, made = Dataset.open(options.storage.parent / "data"), Dataset.open(plan.folder / "data")
    assert ids_of(made, "train") == ids_of(dataset, "train") | ids_of(dataset, "val")
    assert found.events == len(ids_of(made, "train"))
    (started,) = records(plan.folder, "search_started")
    epochs = records(plan.folder, "epoch_finished")
    assert [int(one.metrics["epoch"]) for one in epochs] == list(range(1, found.epoch + 1))
    # Under the schedule of the full length, and with no value that could be taken for one by validation.
    of_confirmed = [
        one.metrics["learning_rate"]
        for one in records(folder_of(options) / "confirm", "epoch_finished")
        if one.trial_id == candidate.runs[0].trial_id
    ]
    assert [one.metrics["learning_rate"] for one in epochs] == of_confirmed[: found.epoch]
    assert not [name for one in epochs for name in one.metrics if name.startswith("val_")]
    assert records(plan.folder, "trial_finished")[0].status == "completed"
    scores = pq.read_table(plan.folder / found.scores).to_pandas()
    assert set(scores["event_id"]) == ids_of(dataset, "test")
    assert found.metrics["test_loss"] == pytest.approx(scores["loss"].mean(), rel=1e-6)
    looks = [use for use in uses(folder_of(options)) if use.confirmation_id == started.search_id]
    assert [use.purpose for use in looks] == ["refit"]

    client = open_client(default_uri(options.storage))
    experiment = client.get_experiment_by_name("toy_confirmed")
    (run,) = [
        one
        for one in client.search_runs([experiment.experiment_id], "tags.`hep_ray.kind` = 'refit'")
        if TRIAL_TAG in one.data.tags
    ]
    assert run.info.run_id == found.mlflow_run_id
    assert run.data.metrics["test/loss"] == found.metrics["test_loss"]
    assert "seen/loss" in run.data.metrics
    assert not [name for name in run.data.metrics if name.startswith(("val/", "val_"))]

    assert run_refit(prepare_refit(given), console=QUIET) == found  # nothing is left to do
    assert records(plan.folder, "epoch_finished") == epochs
    words = ["refit", "toy_confirmed", "--storage", str(options.storage)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert tells(
        told.output, f"{found.events} events", "Refit minus confirmed: test_loss", "--refit --dry-run"
    )
    other = dataclasses.replace(plan, until=found.epoch + 1)
    with raises(CannotResume, str(found.epoch + 1), "--again"):
        run_refit(other, console=QUIET)


def ids_of(dataset, split):
    paths = dataset.paths(split, purpose="confirm")
    return {
        id_ for path in paths for id_ in pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    }


@pytest.mark.slow  # a minute goes by until the tracker gives up
def test_what_mlflow_did_not_take_is_told_although_training_fails_too(options, tmp_path):
    copy = tmp_path / "data"
    for name in ("data", "generator"):
        shutil.copytree(options.storage.parent / name, tmp_path / name)
    storage = tmp_path / "runs"
    shutil.copytree(options.storage, storage)
    nobody = "http://127.0.0.1:9"
    moved = dataclasses.replace(options, storage=storage, data=copy, tracking_uri=nobody)
    plan = prepare_confirmation(moved)
    for shard in copy.glob("train-*.parquet"):
        shard.unlink()
    told = io.StringIO()
    with raises(ShardMismatch, copy):
        run_confirmation(plan, again=True, console=Console(file=told))
    assert nobody in told.getvalue()


@pytest.mark.slow
@pytest.mark.ci
def test_an_ensemble_is_validated_and_judged_under_variations_and_goes_on_after_a_crash(
    options, confirmed, tmp_path
):
    """A search by the worst AUC: models are validated under each variation too, of another dataset's events as well."""
    storage = tmp_path / "runs"
    shutil.copytree(options.storage, storage, ignore=shutil.ignore_patterns("confirm", "test_uses.jsonl"))
    moved = dataclasses.replace(options, storage=storage, ensemble=True)
    journal = folder_of(moved) / "journal.jsonl"

    def by_the_worst(record):
        if record.kind == "search_started":
            return record.model_copy(update={"metric": "val_worst_auc", "mode": "max"})
        if record.kind == "epoch_finished":
            metrics = {**record.metrics, "val_worst_auc": record.metrics["val_auc"]}
            return record.model_copy(update={"metrics": metrics})
        return record

    lines = [by_the_worst(one) for one in read_records(folder_of(moved))]
    journal.write_bytes(b"".join(map(encode, lines)))

    done = run_confirmation(prepare_confirmation(moved), console=QUIET)

    found, folder = done.confirmation, folder_of(moved) / "confirm"
    first, second, ensemble, _ = found.contenders
    assert (ensemble.name, list(ensemble.members)) == ("ensemble", [first.name, second.name])
    for place, run in enumerate(ensemble.runs):
        worst = {}
        for split in ("val", "test"):
            aucs = []
            for name in ("", ".tripled", ".generator"):
                files = [
                    folder / "trials" / one.runs[place].trial_id / f"{split}_scores{name}.parquet"
                    for one in (first, second, ensemble)
                ]
                one, other, mean = (pq.read_table(path).to_pandas() for path in files)
                assert list(mean.event_id) == list(one.event_id)
                expected = (one.score_signal.to_numpy() + other.score_signal.to_numpy()) / 2
                np.testing.assert_allclose(mean.score_signal, expected, rtol=1e-6)
                aucs.append(sklearn_metrics.roc_auc_score(mean.label, expected))
            worst[split] = min(aucs)
        assert run.metrics["test_worst_auc"] == pytest.approx(worst["test"], abs=2e-3)
        assert run.metrics["val_worst_auc"] == pytest.approx(worst["val"], abs=2e-3)
    assert {one.contender for one in found.variations} == {one.name for one in found.contenders}
    (use,) = uses(folder_of(moved))
    assert len(use.contenders) == 4
    client = open_client(default_uri(storage))
    experiment = client.get_experiment_by_name("toy_confirmed")
    parents = client.search_runs([experiment.experiment_id], "tags.`hep_ray.kind` = 'confirmation'")
    told = [one.data.metrics for one in parents if "confirmed/worst_auc_ensemble" in one.data.metrics]
    assert [one["confirmed/worst_auc_ensemble"] for one in told] == [
        ensemble.estimates["test_worst_auc"].mean
    ]

    # What a crash may leave: a model that was not validated yet, and no mean. No model is tested a second time.
    tested = {
        path: path.stat().st_mtime_ns for path in folder.rglob("test_scores*") if "ensemble" not in str(path)
    }
    (folder / "trials" / first.runs[0].trial_id / "val_scores.generator.parquet").unlink()
    shutil.rmtree(folder / "trials" / ensemble.runs[0].trial_id)
    again = run_confirmation(prepare_confirmation(moved), console=QUIET)
    assert again == done
    assert {path: path.stat().st_mtime_ns for path in tested} == tested
    with raises(CannotResume, "--ensemble", "--again"):
        run_confirmation(prepare_confirmation(dataclasses.replace(moved, ensemble=False)), console=QUIET)
    with raises(CannotConfirm, "--ensemble", "val_loss"):
        prepare_confirmation(dataclasses.replace(options, ensemble=True))
    assert "ensemble" not in {one.name for one in confirmed.confirmation.contenders}
