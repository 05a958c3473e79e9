"""A search and a confirmation from their plans to their ends by one `execute`, with trials that are made up: no Ray."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hep_ray.confirm.plan import prepare_confirmation
from hep_ray.confirm.run import run_confirmation
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.variations import Variation
from hep_ray.errors import CannotResume, InvalidSpace, StorageError, UnknownName
from hep_ray.own_code import OWN_CODE
from hep_ray.search.cli import build_app
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import run_search
from hep_ray.search.options import ConfirmOptions, SearchOptions
from hep_ray.search.parameters import Integer, LogUniform
from hep_ray.search.plan import planned, prepare
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, SearchStarted
from tests.conftest import toy_events, toy_schema
from tests.facts import raises, tells

SEARCH = Search(
    name="toy_search",
    task="toy",
    title="",
    space=Space(
        model="mlp",
        inputs="image",
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(1e-4, 1e-2),
        batch_size=16,
    ),
    presets={"smoke": Preset(trials=2, epochs=2, scheduler="none")},
)
QUIET = Console(quiet=True)
NODE = [{"CPU": 2.0, "GPU": 0.0, "object_store_memory": 1e9}]


def train(plan, recorder, searcher, console):
    """Stand in for Tune."""
    while isinstance(trial := searcher.suggest(""), dict):
        name = trial["trial_id"]
        for epoch in range(len(recorder.state.trials[name].history) + 1, plan.epochs + 1):
            value = trial["params"]["learning_rate"]
            metrics = {"epoch": epoch, "val_accuracy": value, "epoch_seconds": 1.0}
            recorder.write(EpochFinished(time=0, trial_id=name, metrics=metrics))
        recorder.finish(name)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """One database of MLflow for the module: to make one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def options(make_dataset, tmp_path, monkeypatch, database) -> SearchOptions:
    for module in list(OWN_CODE):  # what other tests registered is no code of this search
        monkeypatch.delitem(OWN_CODE, module)
    monkeypatch.setattr("hep_ray.search.preflight.connect", lambda: None)
    monkeypatch.setattr("hep_ray.search.preflight.nodes", lambda: NODE)
    monkeypatch.setattr("hep_ray.search.preflight.expected_nodes", lambda: NODE)
    monkeypatch.setattr("hep_ray.search.preflight.check_every_node", lambda *_: None)
    monkeypatch.setattr("hep_ray.search.resources.describe", lambda: "none")
    monkeypatch.setattr("hep_ray.search.execute._tune", train)
    return SearchOptions(
        data=make_dataset(events=96),
        storage=tmp_path / "runs",
        preset="smoke",
        seed=3,
        tracking_uri=database,
    )


@pytest.mark.slow
@pytest.mark.ci
def test_one_execute_runs_a_search_resumes_it_and_confirms_it(options: SearchOptions, monkeypatch) -> None:
    with raises(CannotResume, "toy_search", "--resume"):
        run_search(prepare(SEARCH, options), resume=True, console=QUIET)
    done = run_search(prepare(SEARCH, options), console=QUIET)
    assert done.leaderboard == options.storage / "toy_search" / "leaderboard.json"
    assert (len(done.state.trials), done.untracked) == (2, None)
    assert done.parent_run_id
    with raises(StorageError, "2 trials", "--resume"):
        run_search(prepare(SEARCH, options), console=QUIET)
    more = prepare(SEARCH, dataclasses.replace(options, trials=3))
    assert [len(run_search(more, resume=True, console=QUIET).state.trials) for _ in range(2)] == [3, 3]

    seen: list[Path] = []
    monkeypatch.setattr("hep_ray.confirm.run._open_test_split", lambda plan, recorder, console: None)
    monkeypatch.setattr("hep_ray.confirm.run._publish", lambda plan, state, _: seen.append(plan.folder))
    chosen = ConfirmOptions("toy_search", storage=options.storage, seeds=2, top=1, baseline="trial=t0001")
    plan = prepare_confirmation(chosen)
    with pytest.raises(AssertionError):  # nothing is published here
        run_confirmation(plan, console=QUIET)
    trained = SearchState.read(plan.folder)
    assert seen == [plan.folder]
    assert sorted(trained.trials) == sorted(
        run.trial_id for run in plan.runs
    )  # what is stacked begins together
    assert all(len(trial.history) == 2 for trial in trained.trials.values())
    assert trained.finished


def test_the_command_line_shows_the_plan_and_the_board(options: SearchOptions) -> None:
    words = ["--data", str(options.data), "--storage", str(options.storage), "--preset", "smoke"]
    first = CliRunner().invoke(build_app(SEARCH), [*words, "--tracking-uri", str(options.tracking_uri)])
    assert first.exit_code == 0, first.exception
    assert tells(first.output, "2 trials × 2 epochs", "t0000", "t0001", "--resume", "--trials 4")
    again = CliRunner().invoke(
        build_app(SEARCH), ["--resume", "--trials", "3", "--storage", str(options.storage)]
    )
    assert again.exit_code == 0, again.exception
    assert tells(again.output, "t0002")


def test_what_is_wrong_in_itself_is_refused_before_the_dataset_is_opened(tmp_path: Path) -> None:
    nowhere = SearchOptions(data=tmp_path / "none", storage=tmp_path / "runs", preset="smoke")
    with raises(UnknownName, "'rate'", "learning_rate"):
        prepare(dataclasses.replace(SEARCH, baseline={"rate": 0.1}), nowhere)
    grid = {"smoke": Preset(epochs=2, sampler="grid")}
    with raises(InvalidSpace, "'learning_rate'", "Choice"):
        prepare(dataclasses.replace(SEARCH, presets=grid), nowhere)
    with raises(InvalidSpace, "'hidden'"):
        prepare(dataclasses.replace(SEARCH, space=SEARCH.space.replace(hidden=3)), nowhere)
    assert not nowhere.storage.exists()


def test_a_search_of_weighted_events_from_when_metrics_counted_them_is_not_resumed(
    options: SearchOptions, tmp_path: Path
) -> None:
    schema = EventSchema(
        task="toy",
        columns=(*toy_schema().columns, Column(name="w")),
        classes=("background", "signal"),
        weight="w",
    )
    with ShardWriter(tmp_path / "weighted", schema, source={}) as writer:
        writer.write({**toy_events(96), "w": np.ones(96, np.float32)})
    options = dataclasses.replace(options, data=tmp_path / "weighted")
    (started,) = prepare(SEARCH, options).opening(SearchState(), print)
    resumed = dataclasses.replace(prepare(SEARCH, options), resume=True)
    assert resumed.opening(SearchState.fold([started]), print) == []
    of_before = type(started).model_validate(started.model_dump(exclude={"weights"}))
    with raises(CannotResume, "'w'", "--storage"):
        resumed.opening(SearchState.fold([of_before]), print)


def test_a_search_by_the_worst_variation_goes_on_under_the_same_ones(
    options: SearchOptions, tmp_path: Path
) -> None:
    def under(folder: str, **scale: float) -> SearchOptions:
        variations = {name: Variation(scale={"image": factor}) for name, factor in scale.items()}
        made = toy_schema().model_copy(update={"variations": variations})
        with ShardWriter(tmp_path / folder, made, source={}) as writer:
            writer.write(toy_events(96))
        return dataclasses.replace(options, data=tmp_path / folder)

    def resumed(search: Search, asked: SearchOptions, started: SearchStarted) -> list[Any]:
        plan = dataclasses.replace(prepare(search, asked), resume=True)
        return plan.opening(SearchState.fold([started]), print)

    one, other, more = (
        under("one", jes=1.01), under("other", jes=1.05), under("more", jes=1.01, jer=2.0)
    )  # fmt: skip
    by_worst = dataclasses.replace(SEARCH, metric="val_worst_auc", mode="max")
    (started,) = prepare(by_worst, one).opening(SearchState(), print)
    assert isinstance(started, SearchStarted)
    started = SearchStarted.model_validate_json(started.model_dump_json())
    assert not [record for record in resumed(by_worst, one, started) if record.kind != "options_changed"]
    with raises(CannotResume, "variation 'jes'", "1.01", "1.05"):
        resumed(by_worst, other, started)
    with raises(CannotResume, "variation 'jer'", "2.0") as told:
        resumed(by_worst, more, started)
    assert "'jes'" not in str(told.value)
    of_before = SearchStarted.model_validate(started.model_dump(exclude={"variations"}))
    resumed(by_worst, other, of_before)
    (nominal,) = prepare(SEARCH, one).opening(SearchState(), print)
    assert isinstance(nominal, SearchStarted)
    assert nominal.variations == {}
    resumed(SEARCH, other, nominal)


def test_limits_seconds_and_an_early_end_are_of_the_search_and_kept_when_it_is_resumed(
    options: SearchOptions,
) -> None:
    space = SEARCH.space.replace(hidden_layers=1, hidden_features=Integer(8, 256, log=True))
    made = {"smoke": Preset(trials=12, epochs=9, sampler="curves")}
    search = dataclasses.replace(SEARCH, space=space, presets=made, constraints=("parameters<=9000",))
    asked = dataclasses.replace(options, constraint=["flops<=1e6"], time_budget=60.0, until_no_gain=True)
    plan = prepare(search, asked)
    rows = dict(plan.rows())
    assert tells(rows["constraints"], "flops<=1000000", "parameters<=9000", "100")
    assert tells(rows["budget"], "gain per second", "noise")
    (begun,) = plan.opening(SearchState(), print)
    assert begun.constraints == {"flops": 1e6, "parameters": 9000.0}
    assert (begun.gain_per, begun.options["until_no_gain"]) == ("second", True)
    with Journal(plan.folder) as journal:
        journal.append(begun)
        state = SearchState.fold([begun])
        drawn = plan.searcher(state, state.apply).leg()
    assert drawn is not None
    assert drawn.figures["parameters"] <= 9000
    given = {"storage": options.storage, "data": options.data, "tracking_uri": options.tracking_uri}
    resumed = dataclasses.replace(planned(search, given, resume=True), resume=True)
    assert resumed.opening(SearchState.read(plan.folder), print) == []
    with raises(CannotResume, "parameters<=9000", "parameters<=5"):
        planned(
            dataclasses.replace(search, constraints=()),
            {**given, "constraint": ["parameters<=5"]},
            resume=True,
        )
    other = dataclasses.replace(planned(search, {**given, "gain_per": "epoch"}, resume=True), resume=True)
    with raises(CannotResume, "gain_per", "'second'", "'epoch'"):
        other.opening(SearchState.read(plan.folder), print)
