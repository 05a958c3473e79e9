"""Hostile bytes from well-formed ones: flipped, cut, repeated, spliced, with numbers and words that break parsers."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

from hep_ray.dataset.expressions import FUNCTIONS

NASTY = (
    b"\x00", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"-1", b"0", b"1e999", b"-1e999", b"9" * 30,
    b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}", b'"', b"'", b"[" * 2000, b'{"a":' * 2000, b"../",
    b"\n", b"\r\n", b"\xc3\x28", b"\xed\xa0\x80", b"%s%n", b"(" * 300, b"**", b"9**64", b"'%999999999d' % 5",
    b"lambda: 0", b"__import__('os')", b"\xf0\x9f\x98\x80", b"trial_id", b"t0000", b"'a'*999999999",
)  # fmt: skip
"""What is put among the bytes."""
VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, "", "a", "../x", "/etc/passwd", "x" * 10_000, "none",
    [], [[]], [0] * 100, ["a"], {}, {"a": 1}, "\ud800", "cnn", "hinge", "adam", ["choice"], ["choice", 1, "a", None],
    ["uniform", 1, 0], ["log", 0, 1], ["int", -5, 10**20], ["uniform", "a", "b"], ["log", 1e-300, 1e300],
]  # fmt: skip
"""What a value of a document becomes."""


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:  # noqa: C901 - one case per change
    """A seed with one to six changes."""

    @st.composite
    def make(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(1, 6))):
            here = draw(st.integers(0, max(len(content) - 1, 0)))
            match draw(
                st.sampled_from(["flip", "set", "cut", "drop", "repeat", "insert", "number", "splice"])
            ):
                case "flip" if content:
                    content[here] ^= 1 << draw(st.integers(0, 7))
                case "set" if content:
                    content[here] = draw(st.integers(0, 255))
                case "cut":
                    del content[here:]
                case "drop":
                    del content[here : here + draw(st.integers(1, 64))]
                case "repeat":
                    content[here:here] = content[here : here + draw(st.integers(1, 64))]
                case "insert":
                    content[here:here] = draw(st.sampled_from(NASTY))
                case "number":
                    width = draw(st.sampled_from([1, 2, 4, 8]))
                    number = draw(st.sampled_from([0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1]))
                    content[here : here + width] = number.to_bytes(
                        width, draw(st.sampled_from(["little", "big"]))
                    )
                case "splice":
                    other = draw(st.sampled_from(seeds))
                    there = draw(st.integers(0, len(other)))
                    content[here:] = other[there:]
        return bytes(content)

    return make()


def reshaped(documents: list[Any]) -> st.SearchStrategy[bytes]:
    """A JSON document of which one to three values are something else, or gone."""

    @st.composite
    def make(draw: st.DrawFn) -> bytes:
        document = [copy.deepcopy(draw(st.sampled_from(documents)))]
        for _ in range(draw(st.integers(1, 3))):
            place: Any = document
            key: Any = 0
            while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 4)):
                place = place[key]
                key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            if draw(st.integers(0, 5)) or place is document:
                place[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            else:
                del place[key]
        return json.dumps(document[0]).encode()

    return make()


def sentences() -> st.SearchStrategy[bytes]:
    """Expressions that are well-formed for the most part."""
    atoms = st.sampled_from(
        ["x", "n", "flag", "vector", "y", "1", "0.5", "9", "64", "-1", "1e308", "'a'", "True", "9" * 40]
    )
    binary = st.sampled_from(
        ["+", "-", "*", "/", "%", "**", "<", ">=", "==", "!=", "and", "or", "//", "@", "<<", "in", "is"]
    )
    called = st.sampled_from([*FUNCTIONS, "eval", "open", "x.mean", "abs.__class__"])

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, binary, inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
            st.tuples(st.sampled_from(["not ", "-", "+", "~"]), inner).map(
                lambda parts: f"({parts[0]}{parts[1]})"
            ),
            st.tuples(called, st.lists(inner, max_size=3)).map(
                lambda parts: f"{parts[0]}({', '.join(parts[1])})"
            ),
        )

    return st.recursive(atoms, larger, max_leaves=25).map(str.encode)


def inputs(name: str, seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """What a target is given: changed seeds for the most part, its own grammar where there is one, and anything."""
    anything = [st.binary(max_size=200), st.text().map(_encoded)]
    return st.one_of(*_kinds(name, seeds), mutated(seeds), mutated(seeds), *anything)


def _kinds(name: str, seeds: list[bytes]) -> list[st.SearchStrategy[bytes]]:
    if name == "expressions":
        return [sentences(), sentences(), sentences()]
    documents = []
    for content in seeds:
        with suppress(ValueError):
            documents.append(json.loads(content))
    return [reshaped(documents)] * 3 if documents else [mutated(seeds)] * 2


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
