"""A whole search on real Ray, Optuna, MLflow and Parquet, small enough to take seconds."""

import dataclasses
import json
import shutil
import signal

import pytest
from rich.console import Console

from hep_ray.conversion.shards import ShardWriter
from hep_ray.errors import (
    CannotResume,
    Infeasible,
    InvalidConfig,
    InvalidSpace,
    SearchFailed,
    ShardMismatch,
    StorageError,
    UnknownName,
    UnreadableInput,
)
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import run_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice, LogUniform
from hep_ray.search.plan import prepare
from hep_ray.search.space import Space
from hep_ray.tracking.client import default_uri, open_client
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG
from hep_ray.tracking.views import metric_key
from tests.conftest import toy_events, toy_schema
from tests.facts import raises, tells

pytestmark = pytest.mark.ray
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}

SPACE = Space(
    model="cnn",
    loss=Choice("cross_entropy", "root_softmax"),
    root_index=Choice(3, 5).when(loss="root_softmax"),
    optimizer=Choice("adam", "rmsprop"),
    learning_rate=LogUniform(1e-4, 1e-2),
    batch_size=16,
)
SEARCH = Search(
    name="toy_search",
    task="toy",
    title="A toy.",
    space=SPACE,
    presets={
        "smoke": Preset(trials=4, epochs=2),
        "diverges": Preset(trials=2, epochs=1, space=SPACE.replace(learning_rate=1e30)),
    },
)
QUIET = Console(quiet=True)
BASELINE = {"model": "logistic_regression", "inputs": "image"}
WITH_BASELINE = dataclasses.replace(
    SEARCH,
    points_to_evaluate=(BASELINE,),
    presets={"smoke": Preset(trials=1, epochs=2, scheduler="none")},
    second_objective="epoch_seconds",
)


@pytest.fixture
def options(ray_session, make_dataset, tmp_path):
    return SearchOptions(
        data=make_dataset(events=96, size=28), storage=tmp_path / "runs", preset="smoke", seed=3
    )


def run_once(search, folder):
    with ShardWriter(folder / "toy", toy_schema(28), source={"seed": 0}) as writer:
        writer.write(toy_events(96, 28, 0))
    options = SearchOptions(data=folder / "toy", storage=folder / "runs", preset="smoke", seed=3)
    return options, run_search(prepare(search, options), console=QUIET)


def copied(options, folder):
    """The same search in a copy of its storage, to be gone on with."""
    shutil.copytree(options.storage, folder)
    return dataclasses.replace(options, storage=folder)


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory):
    """Options and result of a search that has ended; read only."""
    return run_once(SEARCH, tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def with_baseline(ray_session, tmp_path_factory):
    """Options and result of a search with a baseline and a cost; read only."""
    return run_once(WITH_BASELINE, tmp_path_factory.mktemp("with_baseline"))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (
            {"metric": "val_acuracy"},
            ["'val_acuracy'", "val_accuracy"],
        ),
        ({"metric": "val_accuracy_class2"}, ["'val_accuracy_class2'", "background, signal", "val_auc"]),
        (
            {
                "second_objective": "seconds",
                "presets": {"smoke": Preset(trials=1, epochs=1, scheduler="none")},
            },
            ["'seconds'", "epoch_seconds"],
        ),
    ],
)
def test_a_metric_that_no_trial_reports_is_refused_before_anything_starts(options, change, facts):
    with raises(InvalidConfig, *facts):
        prepare(dataclasses.replace(SEARCH, **change), options)


def test_a_baseline_is_a_trial_like_any_other(with_baseline):
    options, result = with_baseline
    assert len(result.state.trials) == 2

    board = json.loads(result.leaderboard.read_text())
    baseline = next(one for one in board["trials"] if one["params"]["model"] == "logistic_regression")
    assert (baseline["trial_id"], baseline["status"], baseline["epochs"]) == ("t0000", "completed", 1)
    assert baseline["metrics"]["val_accuracy"] > 0.9  # each class glows in another half of the image
    assert baseline["mlflow_run_id"]
    assert {one["params"]["model"] for one in board["trials"]} == {"logistic_regression", "cnn"}
    with raises(InvalidSpace, "'likelihood'", "image (28, 28, 3)"):
        prepare(dataclasses.replace(WITH_BASELINE, points_to_evaluate=({"model": "likelihood"},)), options)
    without = prepare(dataclasses.replace(WITH_BASELINE, points_to_evaluate=()), options)
    with raises(CannotResume, "points_to_evaluate"):
        run_search(without, resume=True, console=QUIET)


@pytest.mark.slow
@pytest.mark.ci
def test_costs_are_told_everywhere_and_a_search_that_began_with_seconds_goes_on_with_them(
    with_baseline, tmp_path
):
    options = copied(with_baseline[0], tmp_path / "runs")
    journal = options.storage / "toy_search" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    # As it was before anything but seconds was told.
    new = ("parameters", "flops")
    old = [json.loads(line) for line in lines]
    for record in old:
        record.pop("crc32", None)
        if record["kind"] == "epoch_finished":
            assert record["cpu_seconds"] > 0
            assert record["gpu_seconds"] is None
            record["metrics"] = {key: value for key, value in record["metrics"].items() if key not in new}
            del record["cpu_seconds"], record["gpu_seconds"]
    journal.write_text("".join(json.dumps(record) + "\n" for record in old))

    longer = dataclasses.replace(WITH_BASELINE.presets["smoke"], trials=2)
    now = dataclasses.replace(WITH_BASELINE, second_objective="flops", presets={"smoke": longer})
    said = Console(record=True, width=200)
    result = run_search(prepare(now, options), resume=True, console=said)

    assert tells(said.export_text(), "cost", "epoch_seconds")
    board = json.loads(result.leaderboard.read_text())
    assert board["cost"] == "epoch_seconds"
    by_id = {trial["trial_id"]: trial for trial in board["trials"]}
    assert len(by_id) == 3
    assert any(trial["pareto"] for trial in board["trials"])
    assert not {*new, "cpu_seconds"} & by_id["t0000"].keys()
    last = by_id["t0002"]
    assert last["flops"] > last["parameters"] > 0
    assert last["cpu_seconds"] > 0
    run = open_client(default_uri(options.storage)).get_run(last["mlflow_run_id"])
    assert run.data.metrics["flops"] == last["flops"]
    assert 0 < run.data.metrics["cpu_seconds"] <= last["cpu_seconds"]


@pytest.mark.usefixtures("finished")
def test_what_follows_a_search_hears_ctrl_c_at_once():
    """Tune sets handlers that would take the first one and end nothing."""
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS


def test_a_search_leaves_a_leaderboard_and_the_same_in_mlflow(finished):
    options, result = finished

    board = json.loads(result.leaderboard.read_text())
    assert result.leaderboard == options.storage / "toy_search" / "leaderboard.json"
    assert board["search"] == "toy_search"
    assert len(board["trials"]) == 4
    best = [trial["metrics"]["val_accuracy"] for trial in board["trials"]]
    assert best == sorted(best, reverse=True)
    for trial in board["trials"]:
        assert trial["status"] in {"completed", "stopped"}
        assert [metrics["epoch"] for metrics in trial["history"]] == list(range(1, trial["epochs"] + 1))
        assert trial["metrics"] in trial["history"]
        assert (trial["status"] == "completed") == (trial["epochs"] == 2)

    client = open_client(default_uri(options.storage))
    experiment = client.get_experiment_by_name("toy_search")
    runs = client.search_runs([experiment.experiment_id], f"tags.`{SEARCH_TAG}` != ''")
    children = {run.data.tags[TRIAL_TAG]: run for run in runs if TRIAL_TAG in run.data.tags}
    parents = [run for run in runs if TRIAL_TAG not in run.data.tags]
    assert len(parents) == 1
    assert parents[0].data.tags["git_commit"]
    assert [artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)] == [
        "leaderboard.json"
    ]
    assert len(children) == 4
    for trial in board["trials"]:
        run = children[trial["trial_id"]]
        assert run.info.run_id == trial["mlflow_run_id"]
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert run.data.params["learning_rate"] == str(trial["params"]["learning_rate"])
        for key in trial["history"][0]:
            points = client.get_metric_history(run.info.run_id, metric_key(key))
            assert [point.value for point in points] == [metrics[key] for metrics in trial["history"]]


@pytest.mark.slow
@pytest.mark.ci
def test_a_finished_search_is_not_overwritten_and_can_be_extended(finished, tmp_path):
    first, options = finished[1], copied(finished[0], tmp_path / "runs")
    before = {name: trial.history for name, trial in first.state.trials.items()}
    with raises(StorageError, options.storage / "toy_search", "--resume"):
        run_search(prepare(SEARCH, options), console=QUIET)

    more = dataclasses.replace(options, trials=6)
    second = run_search(prepare(SEARCH, more), resume=True, console=QUIET)

    assert len(second.state.trials) == 6
    assert before.items() <= {name: trial.history for name, trial in second.state.trials.items()}.items()
    assert read_records(options.storage / "toy_search")[0].options["trials"] is None
    assert second.state.started.options["trials"] == 6
    for change in ({"seed": 4}, {"epochs": 3}, {"trials": 5}):
        with raises(CannotResume, *change):
            run_search(prepare(SEARCH, dataclasses.replace(more, **change)), resume=True, console=QUIET)


@pytest.mark.slow
@pytest.mark.ci
def test_a_search_in_which_every_trial_fails_says_why(options):
    with raises(SearchFailed, "all 2", "NonFiniteLoss", "t0000"):
        run_search(prepare(SEARCH, dataclasses.replace(options, preset="diverges")), console=QUIET)

    board = json.loads((options.storage / "toy_search" / "leaderboard.json").read_text())
    assert [trial["status"] for trial in board["trials"]] == ["failed", "failed"]


def test_there_is_nothing_to_resume_in_an_empty_storage(options):
    with raises(CannotResume, options.storage / "toy_search", "--resume"):
        run_search(prepare(SEARCH, options), resume=True, console=QUIET)


def test_dry_preparation_writes_nothing(options):
    plan = prepare(SEARCH, options)

    assert plan.resources.concurrent == 2
    assert not list(options.storage.glob("*"))


def truncate(data):
    shard = next(data.glob("*train*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-10])


def empty(data):
    next(data.glob("*train*.parquet")).write_bytes(b"")


def lose(data):
    next(data.glob("*val*.parquet")).unlink()


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (truncate, ["train-00000.parquet", "truncated"]),
        (empty, ["train-00000.parquet", "empty"]),
        (lose, ["val-00000.parquet", "missing"]),
    ],
)
def test_a_damaged_dataset_is_refused_before_anything_starts(options, damage, facts):
    damage(options.data)

    with raises(ShardMismatch, *facts):
        prepare(SEARCH, options)
    assert not list(options.storage.glob("*"))


def test_a_manifest_that_does_not_match_is_refused(options):
    manifest = options.data / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"signal": "signal"', '"signal": "background"'))

    with raises((ShardMismatch, UnreadableInput), manifest, "fingerprint"):
        prepare(SEARCH, options)


def test_images_that_no_model_takes_are_refused(options, make_dataset):
    small = dataclasses.replace(options, data=make_dataset(events=96, size=8, name="small"))

    with raises(InvalidSpace, "'cnn'", "'image'", "8x8"):
        prepare(SEARCH, small)


@pytest.mark.parametrize(
    ("change", "error", "facts"),
    [
        ({"cpus_per_trial": 64}, Infeasible, ["64 CPU", "2 CPU"]),
        ({"gpus_per_trial": 1}, Infeasible, ["1 GPU", "0 GPU"]),
        ({"preset": "huge"}, UnknownName, ["'huge'", "smoke"]),
        ({"trials": 0}, InvalidConfig, ["trials", 0]),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(options, change, error, facts):
    with raises(error, *facts):
        prepare(SEARCH, dataclasses.replace(options, **change))


def test_a_storage_that_cannot_be_written_is_refused(options, tmp_path):
    (tmp_path / "file").touch()

    with raises(StorageError, tmp_path / "file" / "runs", "Not a directory"):
        prepare(SEARCH, dataclasses.replace(options, storage=tmp_path / "file" / "runs"))


def test_the_journal_holds_no_epoch_twice(finished):
    epochs = [
        (record.trial_id, record.epoch)
        for record in read_records(finished[0].storage / "toy_search")
        if record.kind == "epoch_finished"
    ]
    assert len(epochs) == len(set(epochs))


@pytest.mark.slow
@pytest.mark.ci
def test_a_search_that_streams_is_as_good_as_one_in_memory(options, make_dataset):
    """One trial at a time, since one of two cores is Ray Data's."""
    options = dataclasses.replace(
        options,
        data=make_dataset(events=1200, size=28, name="larger"),
        cache="streaming",
        memory_budget=0.1,
        trials=1,
    )
    space = Space(model="cnn", loss="cross_entropy", optimizer="adam", learning_rate=1e-3, batch_size=16)
    search = dataclasses.replace(SEARCH, space=space, points_to_evaluate=(BASELINE,))
    plan = prepare(search, options)
    assert tells(str(plan.resources), "1 CPU + Ray Data 1 CPU = 2 CPU", "cluster with 2 CPU")
    assert "streaming (asked for)" in str(plan.resources.ingest)
    result = run_search(plan, console=QUIET)

    board = json.loads(result.leaderboard.read_text())
    assert {trial["status"] for trial in board["trials"]} == {"completed"}
    assert all(trial["metrics"]["val_accuracy"] > 0.9 for trial in board["trials"])
    assert result.state.started.options["cache"] == "streaming"
