"""Expressions: values worked out by hand, and nothing evaluated but arithmetic."""

import contextlib

import awkward
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.dataset.expressions import Expression
from hep_ray.errors import InvalidConfig
from tests.facts import raises

COLUMNS = {
    "eta": np.array([-1.0, 0.5, 0.7]),
    "pt": np.array([10.0, 20.0, 30.0]),
    "n": np.array([1, 2, 3]),
    "kind": np.array(["a", "b", "a"]),
    "jets": awkward.Array([[1.0, 5.0], [], [2.0]]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abs(eta) < 0.65", [False, True, False]),
        ("0 < eta <= 0.7 and pt > 15", [False, True, True]),
        ("not n == 2 or pt == 20", [True, True, True]),
        ("kind == 'a'", [True, False, True]),
        ("count(jets) >= 1 and largest(jets) < 4", [False, False, True]),
        ("sum(jets) == 6", [True, False, False]),
        ("sqrt(pt ** 2) - 10 * n == 0", [True, True, True]),
        ("True", [True, True, True]),
    ],
)
def test_conditions(text: str, expected: list[bool]) -> None:
    assert Expression(text).mask(COLUMNS, 3).tolist() == expected


def test_values() -> None:
    assert Expression("hypot(3 * n, 4 * n)").evaluate(COLUMNS).tolist() == [5, 10, 15]
    assert Expression("smallest(jets)").evaluate(COLUMNS).tolist() == [1, np.inf, 2]
    assert set(Expression("pt + abs(eta) * n").names) == {"pt", "eta", "n"}


@pytest.mark.parametrize(
    "text",
    [
        *("__import__('os').system('true')", "eta.__class__", "[x for x in eta]", "lambda: 1", "eta[0]"),
        *("open('x')", "9**9**9", "2 ** -pt", "eta if pt else n", "abs(eta, out=pt)", "eta := 1", "", "a b"),
        *("(" * 300 + ")" * 300, "1" * 2001, "None", "b'x' == eta", "eta @ pt", "eta and", "sqrt", "\0"),
    ],
)
def test_only_arithmetic_is_understood(text: str) -> None:
    with pytest.raises(InvalidConfig):
        Expression(text).mask(COLUMNS, 3)


def test_an_unknown_column_names_the_nearest() -> None:
    with raises(InvalidConfig, "'etta'", "'eta'"):
        Expression("etta > 1").mask(COLUMNS, 3)


def test_a_condition_is_one_answer_for_each_event() -> None:
    with raises(InvalidConfig, "'pt + 1'", "float64", "3 events"):
        Expression("pt + 1").mask(COLUMNS, 3)


@given(st.text(max_size=40) | st.from_regex(r"[a-z()+*<>= 0-9.'-]{0,30}", fullmatch=True))
def test_any_text_is_a_condition_or_a_named_error(text: str) -> None:
    with contextlib.suppress(InvalidConfig):
        mask = Expression(text).mask(COLUMNS, 3)
        assert (mask.dtype, mask.shape) == (np.bool_, (3,))
