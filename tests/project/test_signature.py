"""Keys from annotated signatures: kinds, bounds, meanings, and what is refused."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from torch import nn

from hep_ray.components import keys
from hep_ray.config import parse
from hep_ray.errors import InvalidConfig
from hep_ray.signature import Range, config_of
from tests.facts import raises, tells


def network(
    schema,
    hidden: int = 64,
    dropout: Annotated[float, Range(0, 0.9)] = 0.1,
    activation: Literal["relu", "tanh"] = "relu",
    *,
    depth: Annotated[int, Range(low=1)],
):
    """A network.

    Args:
        schema: of the events.
        hidden: width of
            every layer.
        depth: number of layers.
    """


def test_keys_kinds_bounds_and_meanings_come_from_the_signature_and_its_docstring() -> None:
    made = keys(config_of(network, "model 'mine'", leaving_out=1))
    assert [(one.name, one.default, one.values, one.meaning) for one in made] == [
        ("hidden", "64", "integer", "width of every layer."),
        ("dropout", "0.1", "number, ≥ 0, ≤ 0.9", ""),
        ("activation", "relu", "relu | tanh", ""),
        ("depth", "", "integer, ≥ 1", "number of layers."),
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "'depth' is required"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"depth": 1, "dropout": 0.95}, "less than or equal to 0.9"),
        ({"depth": 1, "activation": "gelu"}, "'relu' or 'tanh'"),
        ({"depth": 1, "width": 3}, "unknown key 'width'; known: hidden, dropout, activation, depth"),
    ],
)
def test_values_are_checked_as_those_of_any_configuration(values: dict[str, object], words: str) -> None:
    with raises(InvalidConfig, words):
        parse(config_of(network, "model 'mine'", leaving_out=1), values, "model 'mine'")


class Network(nn.Module):
    """A network.

    Args:
        hidden: width.
    """

    def __init__(self, schema, hidden: int = 4) -> None:
        super().__init__()


def test_a_class_says_in_its_own_docstring_what_the_keys_of_its_init_mean() -> None:
    (key,) = keys(config_of(Network, "model 'mine'", leaving_out=1))
    assert (key.name, key.meaning) == ("hidden", "width.")


def unannotated(schema, hidden=64): ...
def unannotated_text(schema, activation="relu"): ...
def of_another_kind(schema, sizes: list[int]): ...
def any_number(schema, *hidden: int): ...
def any_name(schema, **hidden: int): ...
def refuses_itself(schema, dropout: Annotated[float, Range(0, 0.5)] = 0.9): ...
def nowhere(schema, hidden: NoSuchName = 1): ...  # type: ignore[name-defined]  # noqa: F821
def nothing(): ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unannotated, ("'hidden'", "no annotation", "write hidden: int = 64")),
        (unannotated_text, ("write activation: str = 'relu'",)),
        (of_another_kind, ("'sizes'", "list[int]", "bool, int, float, str or a Literal")),
        (any_number, ("'*hidden", "name every parameter")),
        (any_name, ("'**hidden", "name every parameter")),
        (refuses_itself, ("default 0.9", "less than or equal to 0.5")),
        (nowhere, ("cannot be read", "NoSuchName")),
        (nothing, ("takes nothing", "1 arguments before its keys")),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_the_user_s_own_line_first(function, words) -> None:
    with pytest.raises(InvalidConfig) as caught:
        config_of(function, "model 'mine'", leaving_out=1)
    line = function.__code__.co_firstlineno
    assert str(caught.value).startswith(f"{__file__}, line {line}: ")
    assert tells(str(caught.value), "model 'mine'", *words)
