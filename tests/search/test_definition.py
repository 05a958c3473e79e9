"""A search and a preset take what they state and nothing else; former names are taken with a warning."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from hep_ray.config import parse
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError, InvalidConfig, InvalidSchema, InvalidSpace, UnknownName
from hep_ray.search.definition import Preset, Search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice, Integer, LogUniform, Mapped, Uniform
from hep_ray.search.plan import planned, prepare
from hep_ray.search.published import Published, StudyTable
from hep_ray.search.space import Space
from hep_ray.signature import Range
from tests.facts import raises

BOOSTED = ({"model": "gradient_boosting"},)
PRESETS = {"smoke": Preset(epochs=1, trials=1, scheduler="none")}
SEARCH = Search("toy", "toy", "Toy.", Space(model="cnn"), PRESETS, "val_auc")


def test_former_names_are_taken() -> None:
    with pytest.warns(DeprecationWarning, match="second_objective"):
        costly = Search("toy", "toy", "Toy.", SEARCH.space, PRESETS, "val_auc", cost="flops")  # type: ignore[call-arg]
    assert costly == dataclasses.replace(SEARCH, second_objective="flops")
    with pytest.warns(DeprecationWarning, match="points_to_evaluate"):
        boosted = dataclasses.replace(costly, references=BOOSTED)  # type: ignore[call-arg]
    assert (boosted.points_to_evaluate, boosted.second_objective) == (BOOSTED, "flops")
    with pytest.warns(DeprecationWarning, match="second_objective"):
        assert boosted.cost == "flops"
    with pytest.warns(DeprecationWarning, match="points_to_evaluate"):
        assert boosted.references == BOOSTED


def test_a_search_is_still_a_frozen_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEARCH.name = "other"  # type: ignore[misc]
    copied = pickle.loads(pickle.dumps(dataclasses.replace(SEARCH, points_to_evaluate=BOOSTED)))
    assert (copied.name, copied.points_to_evaluate) == ("toy", BOOSTED)


@pytest.mark.parametrize(
    ("made", "error", "facts"),
    [
        (lambda: dataclasses.replace(SEARCH, spce=SEARCH.space), InvalidConfig, ["'spce'", "did you mean 'space'?"]),
        (lambda: Search("toy", task="toy"), InvalidConfig, ["Search", "title, space, presets", "title=…"]),
        (lambda: Preset(trial=3), InvalidConfig, ["'trial'", "did you mean 'trials'?", "epochs"]),
        (lambda: Preset(trials=3), InvalidConfig, ["Preset(epochs=…)"]),
        (lambda: Published("a paper"), InvalidConfig, ["Published lacks follows"]),
        (lambda: StudyTable("a table", row=("loss",)), InvalidConfig, ["'row'", "did you mean 'rows'?"]),
        (lambda: LogUniform(1e-4, 1e-1, pior=1e-3), InvalidConfig, ["'pior'", "did you mean 'prior'?"]),
        (lambda: Integer(1), InvalidConfig, ["Integer lacks high"]),
        (lambda: Uniform(0, 1, 0.1, 3), InvalidConfig, ["low, high, step", "(0, 1, 0.1, 3)"]),
        (lambda: Uniform("low", 1), InvalidSpace, ["low='low'", "high=1"]),
        (lambda: Choice(values=(3, 4)), InvalidConfig, ["'values'", "Choice(3, 4)"]),
        (lambda: Mapped("optimizer"), InvalidConfig, ["Mapped lacks values"]),
        (lambda: Range(lowest=0), InvalidConfig, ["'lowest'", "low, high"]),
        (lambda: Preset(1, epochs=3), InvalidConfig, ["epochs twice"]),
        (lambda: Preset(epochs=1, trails=2, seds=3), InvalidConfig, ["'trails'", "did you mean 'trials'?"]),
        (lambda: Preset(epochs=1, published="a paper"), InvalidConfig, ["published", "'a paper'"]),
        (lambda: Uniform(0, 1, step="a"), InvalidSpace, ["step='a'"]),
        (lambda: Uniform(0, 1, step=float("inf")), InvalidSpace, ["step=inf"]),
        (lambda: Uniform(0, 10**400), InvalidSpace, ["low=0"]),
        (lambda: Integer(8, 64, 8), InvalidSpace, ["(8, 64, 8, 1)"]),
        (lambda: Mapped("optimizer", [1, 2]), InvalidSpace, ["'optimizer'", "[1, 2]"]),
        (lambda: StudyTable("a table", rows="loss"), InvalidConfig, ["rows", "('loss',)"]),
        (lambda: SearchOptions(data="d", trails=3), InvalidConfig, ["'trails'", "did you mean 'trials'?"]),
        (lambda: Space(model="mlp").replace(3), InvalidSpace, ["no name for 3"]),
        (lambda: Column(name="x", shap=(2,)), InvalidConfig, ["'shap'", "did you mean 'shape'?"]),
        (lambda: Column("x"), InvalidConfig, ["Column(name=…)"]),
        (lambda: EventSchema(task="toy"), InvalidConfig, ["'columns', 'classes'"]),
    ],
)  # fmt: skip
def test_what_a_script_states_names_the_field_that_is_none_or_lacks(
    made: Any, error: type[Exception], facts: list[object]
) -> None:
    with raises(error, *facts):
        made()


def test_a_list_of_values_is_as_good_as_a_tuple_where_a_parameter_exists() -> None:
    one, other = (LogUniform(1, 2).when(model=given) for given in (["a", "b"], ("a", "b")))  # type: ignore[arg-type]
    assert one == other


def test_an_unknown_key_of_a_table_in_a_schema_is_compared_with_what_that_table_has() -> None:
    column = {"name": "x", "shap": [2]}
    with raises(InvalidSchema, "'columns.0.shap'", "did you mean 'shape'?", "element_units") as told:
        parse(
            EventSchema, {"task": "toy", "classes": ["a", "b"], "columns": [column]}, "schema", InvalidSchema
        )
    assert "did you mean 'columns'" not in str(told.value)


def test_named_fields_leave_signature_and_values_as_they_were() -> None:
    assert list(inspect.signature(Preset).parameters)[:2] == ["epochs", "trials"]
    assert Uniform(0, high=1) == Uniform(0, 1)
    assert dataclasses.replace(Uniform(0, 1), high=2) == Uniform(0, 2)


@pytest.mark.parametrize(
    ("field", "value", "facts"),
    [
        ("name", 3, ["name", "int"]),
        ("title", None, ["title", "NoneType"]),
        ("space", {"model": "mlp"}, ["space", "dict", "Space(model='mlp', …)"]),
        ("presets", [PRESETS["smoke"]], ["presets", "list"]),
        ("presets", {"smoke": {"epochs": 3}}, ["'smoke'", "presets", "dict"]),
        ("points_to_evaluate", BOOSTED[0], ["points_to_evaluate", "dict"]),
        ("points_to_evaluate", ("gradient_boosting",), ["points_to_evaluate", "str"]),
        ("baseline", ("model", "cnn"), ["baseline", "tuple"]),
        ("baseline", {"model": ["cnn"]}, ["'model'", "baseline", "list"]),
        ("plugins", (3,), ["plugins", "int"]),
    ],
)
def test_a_field_of_another_kind_is_named_where_it_is_stated(
    field: str, value: Any, facts: list[object]
) -> None:
    with raises(InvalidConfig, *facts):
        dataclasses.replace(SEARCH, **{field: value})


def test_one_module_and_a_list_of_configurations_are_as_good_as_tuples() -> None:
    with raises(HepRayError, "no_such_module"):
        dataclasses.replace(SEARCH, plugins="no_such_module")  # type: ignore[arg-type]
    listed: Any = list(BOOSTED)
    assert dataclasses.replace(SEARCH, points_to_evaluate=listed).points_to_evaluate == BOOSTED


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": "3"},
        {"epochs": 2.5},
        {"epochs": None},
        {"trials": 2.0},
        {"trials": True},
        {"seeds": None},
        {"grace_epochs": "one"},
        {"reduction_factor": 2.5},
    ],
)
def test_the_numbers_of_a_preset_are_whole(wrong: dict[str, Any]) -> None:
    (name, value), *_ = wrong.items()
    with raises(InvalidConfig, name, repr(value)):
        Preset(**{"epochs": 1, "trials": 1, **wrong})
    assert type(Preset(epochs=np.int64(3), trials=1).epochs) is int


@pytest.mark.parametrize("wrong", ["toy.py", None, Search, [SEARCH]])
def test_what_is_no_search_is_not_run(wrong: Any) -> None:
    with raises(InvalidConfig, "Search"):
        planned(wrong, {})
    with raises(InvalidConfig, "resume", "'yes'"):
        planned(SEARCH, {}, resume="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[8, 16], None, {"a": 1}, (1, 2)])
def test_several_values_are_stated_as_a_choice(values: Any) -> None:
    with raises(InvalidSpace, "'hidden_features'", repr(values), "Choice(8, 16)"):
        Space(model="mlp", hidden_features=values)


def test_a_baseline_of_a_parameter_that_no_trial_has_is_refused_before_any(tmp_path) -> None:
    space = Space(
        model="mlp",
        hidden_features=Choice(8, 16),
        hidden_layers=Mapped("hidden_features", {8: 1, 16: 2}),
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(1e-4, 1e-2),
    )
    search = Search("toy", "toy", "Toy.", space, PRESETS, points_to_evaluate=BOOSTED)

    def attempt(**baseline: Any) -> None:
        options = SearchOptions(data=tmp_path / "nowhere", storage=tmp_path / "runs", preset="smoke")
        prepare(dataclasses.replace(search, baseline=baseline), options)

    with raises(UnknownName, "'hiden_features'", "'hidden_features'"):
        attempt(hiden_features=8)
    # Also one outside the space, which only a confirmation trains.
    for takes in (
        {"model": "gradient_boosting"},
        {"hidden_layers": 2},
        {"learning_rate": 1e-3},
        {"hidden_features": 32},
    ):
        with raises(HepRayError, "nowhere"):
            attempt(**takes)


@pytest.mark.parametrize(
    ("start", "epochs", "least"),
    # Epochs from floor(epochs × start) + 1 on are averaged: of 2 from 0.5 the second, of 12 from 0.95 the twelfth.
    # A range is looked at as a whole, one with a step value by value.
    [
        *(
            (0.5, 2, 3),
            (0.0, 1, 2),
            (Choice(1.0, 0.95), 12, 21),
            (0.5, 3, None),
            (1.0, 1, None),
            (0.0, 2, None),
        ),
        *(
            (Uniform(0.5, 0.9, 0.1), 10, 11),
            (Uniform(0.3, 0.9), 10, None),
            (Uniform(0.3, 0.8, 0.1), 10, None),
        ),
    ],
)
def test_an_average_of_one_epoch_is_none_and_is_refused(
    start: Any, epochs: int, least: int | None, tmp_path: Any
) -> None:
    space = Space(model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=0.01, swa_start=start)
    search = Search("toy", "toy", "Toy.", space, {"smoke": Preset(epochs=epochs, trials=1, scheduler="none")})
    options = SearchOptions(data=tmp_path / "nowhere", storage=tmp_path / "runs", preset="smoke")
    if least is None:
        with pytest.raises(HepRayError, match="nowhere"):  # it goes on to open the dataset
            prepare(search, options)
        return
    with raises(InvalidSpace, "swa_start", epochs, f"--epochs {least}"):
        prepare(search, options)
    with pytest.raises(HepRayError, match="nowhere"):  # what was begun so goes on
        prepare(search, dataclasses.replace(options, sampler="tpe"))


def test_a_range_in_which_some_values_average_one_epoch_is_refused(tmp_path: Any) -> None:
    start = Uniform(0.5, 1.0)
    space = Space(model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=0.01, swa_start=start)
    search = Search("toy", "toy", "Toy.", space, {"smoke": Preset(epochs=10, trials=1, scheduler="none")})
    with raises(InvalidSpace, "swa_start is 0.5 … 1", "from 0.9 on", "of 10"):
        prepare(search, SearchOptions(data=tmp_path / "nowhere", storage=tmp_path / "runs", preset="smoke"))
