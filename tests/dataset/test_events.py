"""The schema refuses what contradicts it and loses nothing on the way through Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidEvents, InvalidSchema
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="image", shape=(2, 3, 1), unit="GeV"), Column(name="tracks", dtype="int16")),
    classes=("qcd", "H-+bb"),
)


def events(rows: int) -> dict[str, Any]:
    return {
        "event_id": [f"e{row}" for row in range(rows)],
        "label": np.arange(rows) % 2,
        "image": np.arange(rows * 6, dtype=np.float32).reshape(rows, 2, 3, 1),
        "tracks": np.arange(rows, dtype=np.int16),
    }


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"classes": ("a",)}, ["classes", "['a']"]),
        ({"classes": ("a", "a")}, ["classes", "['a', 'a']"]),
        ({"classes": ("a", "b c")}, ["'b c'"]),
        ({"columns": ()}, ["columns", "[]"]),
        ({"columns": (Column(name="x"), Column(name="x"))}, ["columns", "['x', 'x']"]),
        ({"signal": "top"}, ["signal", "'top'"]),
        ({"class_meaning": {"top": "a quark"}}, ["class_meaning", "'top'"]),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(changes: dict[str, Any], facts: list[object]) -> None:
    values = {"task": "toy", "columns": (Column(name="x"),), "classes": ("a", "b")}
    with raises(InvalidSchema, *facts):
        EventSchema(**{**values, **changes})


@pytest.mark.parametrize(
    "values",
    [{"name": "label"}, {"name": "p T"}, {"name": "x", "shape": (3, 0)}, {"name": "x", "dtype": "object"}],
)
def test_a_column_that_cannot_be_stored_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema):
        Column(**values)


def test_the_signal_is_the_last_class_unless_given() -> None:
    assert SCHEMA.signal == "H-+bb"
    assert SCHEMA.signal_index == 1
    assert (
        EventSchema(task="t", columns=(Column(name="x"),), classes=("s", "b"), signal="s").signal_index == 0
    )


@given(rows=st.integers(0, 9), start=st.integers(0, 9))
def test_arrow_gives_back_what_numpy_gave(rows: int, start: int) -> None:
    arrays = SCHEMA.checked(events(rows))
    decoded = SCHEMA.decode(SCHEMA.encode(arrays).slice(start))
    for name, values in arrays.items():
        np.testing.assert_array_equal(decoded[name], values[start:])
        assert decoded[name].dtype == values.dtype


def test_units_travel_with_the_arrow_schema() -> None:
    assert SCHEMA.arrow().field("image").metadata == {b"unit": b"GeV"}


def wrong(name: str, values: Any) -> dict[str, Any]:
    return {**events(4), name: values}


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [
        (
            wrong("image", np.zeros((4, 3, 2, 1), np.float32)),
            ["'image'", "(4, 2, 3, 1)", "(4, 3, 2, 1)"],
        ),
        (wrong("image", np.zeros((4, 2, 3, 1))), ["'image'", "float32", "float64"]),
        (wrong("tracks", np.zeros(3, np.int16)), ["'tracks'", "(4,)", "(3,)"]),
        (wrong("label", np.array([0, 1, 2, 0])), ["'e2'", 2]),
        (wrong("label", np.array([0, -1, 1, 0])), ["'e1'", -1]),
        (wrong("label", np.array([0.0, 1.0, 1.0, 0.0])), ["labels", "float64"]),
        (wrong("event_id", ["a", "", "b", "c"]), ["row 1", "''"]),
        (wrong("colour", np.zeros(4)), ["'colour'"]),
        ({"event_id": ["a"], "label": [0]}, ["'image'", "'tracks'"]),
    ],
)
def test_events_that_break_the_schema_are_refused(arrays: dict[str, Any], facts: list[object]) -> None:
    with raises(InvalidEvents, *facts):
        SCHEMA.checked(arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_by_column_and_event(value: float) -> None:
    arrays = events(4)
    arrays["image"][2, 1, 1, 0] = value
    with raises(InvalidEvents, "'image'", "'e2'"):
        SCHEMA.checked(arrays)


def test_axes_belong_to_images() -> None:
    assert Column(name="x", shape=(5, 4), axes=("eta", "phi")).metadata["axes"] == "eta,phi"
    with raises(InvalidSchema, "'x'", "(5,)", "['eta', 'phi']"):
        Column(name="x", shape=(5,), axes=("eta", "phi"))
