"""Study tables against hand-made searches; the Pareto front against its definition."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hep_ray.errors import InvalidConfig, StorageError, UnknownName
from hep_ray.report.study import cells, in_order, left_out, read_state, rendered, written
from hep_ray.search.definition import Preset, Search
from hep_ray.search.find import load_search
from hep_ray.search.leaderboard import leaderboard
from hep_ray.search.parameters import LogUniform
from hep_ray.search.published import StudyTable
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, pareto_front
from hep_ray.tracking.records import EpochFinished, SearchStarted, Status, TrialFinished, TrialStarted
from tests.facts import raises

SCRIPTS = Path(__file__).parents[2] / "searches"


def state(*trials: tuple[Mapping[str, Any], list[float], Status], cost: str | None = None) -> SearchState:
    """A search of these trials: parameters, validation accuracy after each epoch of 1 s, how it ended."""
    made = SearchState()
    made.apply(
        SearchStarted(
            time=0, search="s", search_id="i", dataset_fingerprint="f", task="t", metric="val_accuracy", mode="max",
            second_objective=cost,
            epochs=3, sampler="tpe", scheduler="none", seed=0, space={}, options={}, provenance={},
        )
    )  # fmt: skip
    for number, (params, accuracies, status) in enumerate(trials):
        name = f"t{number:04d}"
        made.apply(TrialStarted(time=0, trial_id=name, number=number, params=dict(params), seed=number))
        for epoch, accuracy in enumerate(accuracies, 1):
            metrics = {"epoch": epoch, "val_accuracy": accuracy, "epoch_seconds": 1.0}
            made.apply(EpochFinished(time=0, trial_id=name, metrics=metrics))
        if status != "running":
            made.apply(TrialFinished(time=0, trial_id=name, status=status))
    return made


SEEDS = state(
    ({"root_index": 1}, [0.5, 0.8], "completed"),
    ({"root_index": 3}, [0.6, 0.9], "completed"),
    ({"root_index": 1}, [0.7, 0.6], "completed"),
    ({"root_index": 1}, [0.1, 0.1], "failed"),
)


def test_trials_that_differ_in_seed_only_are_one_row() -> None:
    table = StudyTable("t", rows=("root_index",))
    found = cells(table, list(SEEDS.trials.values()), "val_accuracy", "max")
    assert {row: cell["accuracy"].values for row, cell in found.items()} == {
        "root_index=1": (0.8, 0.7),
        "root_index=3": (0.9,),
    }
    spread = statistics.stdev([0.8, 0.7])
    assert str(found["root_index=1"]["accuracy"]) == f"0.7500 ± {spread:.4f} (2)"


def test_a_row_is_its_best_configuration_over_seeds_of_completed_trials() -> None:
    """Of root index 1 two configurations: means (0.8 + 0.6)/2 = 0.7 and 0.65; stopped and failed have no part."""
    of = state(
        ({"root_index": 1, "rate": 0.1}, [0.5, 0.8], "completed"),
        ({"root_index": 1, "rate": 0.2}, [0.65, 0.6], "completed"),
        ({"root_index": 1, "rate": 0.1}, [0.6, 0.6], "completed"),
        ({"root_index": 1, "rate": 0.1}, [0.99], "stopped"),
        ({"root_index": 1, "rate": 0.1}, [0.01], "failed"),
        ({"root_index": 3, "rate": 0.1}, [0.95], "stopped"),
        ({"root_index": 5, "rate": 0.1}, [0.2], "failed"),
    )
    table = StudyTable("t", rows=("root_index",))
    found = cells(table, list(of.trials.values()), "val_accuracy", "max")
    assert {row: cell["accuracy"].values for row, cell in found.items()} == {
        "root_index=1": (0.8, 0.6),
        "root_index=3": (),
    }
    (line,) = left_out(table, of)
    assert line.startswith(
        "Each row is its best configuration over seeds, completed trials alone; left out: "
    )
    assert set(line.rpartition(": ")[2].removesuffix(".").split(", ")) == {
        "2 stopped", "1 failed", "1 of other parameters",
    }  # fmt: skip
    # Where less is better it is the same one, by (0.5 + 0.6)/2 against 0.6.
    less = cells(table, list(of.trials.values()), "val_accuracy", "min")["root_index=1"]["accuracy"].values
    assert less == (0.5, 0.6)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"published_task": "other"}, "of the task other, not t"),
        ({"published_classes": 6}, "of 6 classes, not 2"),
        ({"published_inputs": "towers", "inputs": "objects"}, "from towers, not objects"),
    ],
)
def test_published_numbers_of_another_kind_are_not_shown_and_it_is_said_why(kind, words) -> None:
    of = state(({"root_index": 1}, [0.8], "completed"))
    (trial,) = of.trials.values()
    for name in ("a_a", "a_b", "b_a", "b_b"):
        trial.history[0][f"val_confusion_{name}"] = 1.0
    same = {"published_task": "t", "published_classes": 2, "published_inputs": "x", "inputs": "x"}
    table = StudyTable(
        "t", ("root_index",), published={"root_index=1": "0.99"}, published_on="data", **(same | kind)
    )
    head, rows = written(table, of)
    assert (head, rows) == (["root_index", "accuracy"], [["root_index=1", "0.8000 (1)"]])
    assert left_out(table, of) == [f"Published numbers are not shown: they are {words}."]
    alike = StudyTable("t", ("root_index",), published={"root_index=1": "0.99"}, published_on="data", **same)
    assert written(alike, of)[1] == [["root_index=1", "0.8000 (1)", "0.99"]]
    assert left_out(alike, of) == []


def test_every_shipped_search_states_of_what_kind_its_published_numbers_are() -> None:
    for script in sorted(SCRIPTS.glob("[a-z]*.py")):
        search = load_search(script.stem, SCRIPTS)
        for table in search.tables:
            if table.published:
                assert table.published_task == search.task
                assert table.published_classes >= 2
                assert table.published_inputs
                assert table.inputs


def test_an_epoch_after_the_last_has_no_column_and_a_published_row_stays() -> None:
    table = StudyTable(
        "t", ("root_index",), epochs=(2, 40), published={"root_index=9": "0.99"}, published_on="other events"
    )
    console = Console(width=150, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(rendered(table, SEEDS, markdown=True))
    lines = capture.get().splitlines()
    assert "other events" in lines[0] or "other events" in lines[1]
    row = next(line for line in lines if "root_index=3" in line)
    assert [word.strip() for word in row.strip("| ").split("|")] == ["root_index=3", "0.9000 (1)"]
    assert "epoch 40" not in lines[0] + lines[1]
    assert any("root_index=9" in line and "0.99" in line and "–" in line for line in lines)


def test_where_no_epoch_of_the_table_is_reached_the_best_one_is_shown() -> None:
    head, rows = written(StudyTable("t", ("root_index",), epochs=(20, 40)), SEEDS)

    assert head == ["root_index", "accuracy"]
    assert rows[1] == ["root_index=3", "0.9000 (1)"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            ["root_index=9", "root_index=1", "root_index=10"],
            ["root_index=1", "root_index=9", "root_index=10"],
        ),
        (["rate=1e-2, depth=3", "rate=0.001, depth=20", "rate=0.001, depth=3"], [2, 1, 0]),
        (["model=resnet34", "model=cnn", "model=resnet18"], [0, 1, 2]),  # the search's own order
        (["loss=hinge", "root_index=3", "loss=hinge"], [0, 1]),
    ],
)
def test_rows_that_differ_in_numbers_stand_in_their_order(rows, expected) -> None:
    assert in_order(rows) == [row if isinstance(row, str) else rows[row] for row in expected]


def test_refusals() -> None:
    with raises(InvalidConfig, "'t'", "published"):
        StudyTable("t", ("a",), published={"a=1": "0.5"})
    with raises(InvalidConfig, "rows", "metrics"):
        StudyTable("t", ())
    with raises(InvalidConfig, "'val_nothing'", "val_accuracy"):
        cells(
            StudyTable("t", ("root_index",), ("val_nothing",)),
            list(SEEDS.trials.values()),
            "val_accuracy",
            "max",
        )
    with raises(UnknownName, "cnn_loss"):
        load_search("nothing", SCRIPTS)


def test_a_search_that_never_ran_is_refused(tmp_path: Path) -> None:
    with raises(StorageError, tmp_path / "cnn_loss"):
        read_state(load_search("cnn_loss", SCRIPTS), tmp_path)


def test_the_front_of_five_trials() -> None:
    """Costs are the numbers of epochs. (0.9, 2 s) and (0.7, 1 s) are beaten by none; the others are, or failed."""
    made = state(
        ({}, [0.5, 0.9], "completed"),
        ({}, [0.7], "completed"),
        ({}, [0.1, 0.1, 0.9], "completed"),
        ({}, [0.6], "completed"),
        ({}, [1.0], "failed"),
        cost="epoch_seconds",
    )
    assert pareto_front(made) == {"t0000", "t0001"}
    board = leaderboard(made, {})
    assert board["cost"] == "epoch_seconds"
    assert {trial["trial_id"]: trial["pareto"] for trial in board["trials"]}["t0002"] is False
    assert pareto_front(SEEDS) == set()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=8))
def test_every_trial_off_the_front_is_beaten_by_one_on_it(points: list[tuple[int, int]]) -> None:
    made = state(*(({}, [value / 4] * cost, "completed") for value, cost in points), cost="epoch_seconds")
    front = [points[int(name[1:])] for name in pareto_front(made)]
    for value, cost in points:
        beaten = [one for one in front if one != (value, cost) and one[0] >= value and one[1] <= cost]
        assert bool(beaten) != ((value, cost) in front)


def test_a_cost_of_the_model_is_not_summed_over_epochs() -> None:
    made = state(
        ({}, [0.5] * 3, "completed"), ({}, [0.6], "completed"), ({}, [0.4], "completed"), cost="flops"
    )
    for trial, flops in zip(made.trials.values(), (100.0, 300.0, 200.0), strict=True):
        trial.history = [{**metrics, "flops": flops, "parameters": flops / 2} for metrics in trial.history]
    # 100 FLOPs for 0.5 and 300 for 0.6 are beaten by none; 200 for 0.4 is.
    assert [trial.total("flops") for trial in made.trials.values()] == [100, 300, 200]
    first, second, _ = made.trials
    assert pareto_front(made) == {first, second}
    assert [trial.figures["parameters"] for trial in made.trials.values()] == [50, 150, 100]


def test_optuna_is_told_metric_and_cost(tmp_path: Path) -> None:
    space = Space(model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2))
    preset = Preset(epochs=2, trials=2, scheduler="none")
    search = Search("s", "t", "t", space, {"smoke": preset}, second_objective="epoch_seconds")
    known = SearchState()
    searcher = OptunaSearcher(search, preset, space, 0, tmp_path / "optuna.db", known, known.apply)
    for accuracies in ([0.5, 0.8], [0.6]):
        drawn = searcher.suggest("x")
        assert isinstance(drawn, dict)
        name = drawn["trial_id"]
        for epoch, accuracy in enumerate(accuracies, 1):
            metrics = {"epoch": epoch, "val_accuracy": accuracy, "epoch_seconds": 1.5}
            known.apply(EpochFinished(time=0, trial_id=name, metrics=metrics))
        end = TrialFinished(time=0, trial_id=name, status="completed")
        known.apply(end)
        searcher.record(end)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert [trial.values for trial in study.trials] == [[0.8, 3.0], [0.6, 1.5]]
    assert len(study.best_trials) == 2
