"""Expressions over the columns of events, such as `n_objects_70 >= 5 and st >= 7000` or `abs(eta) < 0.65`.

Python's syntax for numbers, comparisons, `and or not` and a fixed list of functions; nothing else is evaluated. Dotted
names are columns; other odd names stand in backticks. Values are arrays over events: plain, of fixed size, or of
variable length (awkward); those with several values in an event are reduced by `count`, `sum`, `largest`, `smallest`,
`any` and `all`.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Mapping
from functools import reduce
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from hep_ray.errors import InvalidConfig, did_you_mean

LONGEST = 2000
"""Characters of an expression, at most."""
LARGEST_POWER = 64

_OF_TWO = ("hypot", "arctan2", "minimum", "maximum")
_OF_THREE = ("where",)
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in (
        *("abs", "sqrt", "exp", "log", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsinh"),
        *("isfinite", *_OF_TWO),
    )
}
_PER_EVENT = ("count", "sum", "largest", "smallest", "any", "all")
FUNCTIONS = (*_ELEMENTWISE, *_PER_EVENT, *_OF_THREE)

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.Not: np.logical_not,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_NODES = (ast.Name, ast.Constant, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Load, *_OPERATORS)


class Expression:
    """A parsed expression.

    Args:
        text: of the expression.

    Raises:
        InvalidConfig: it is not one that is understood here; the message shows the part that is not.

    Attributes:
        text: as given.
        names: of the columns that it reads, each once.
        functions: names of those that it calls.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > LONGEST:
            raise InvalidConfig(f"an expression has {len(text)} characters, more than {LONGEST}")
        try:
            plain, quoted = without_backticks(text.strip())
            self._tree = Names(quoted).visit(ast.parse(plain, mode="eval").body)
            self.names, self.functions = self._check()
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            raise InvalidConfig(
                f"'{text}' is no expression: {exc}: write Python arithmetic, with odd names in backticks, `jet pt`"
            ) from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, columns: Mapping[str, Any]) -> Any:
        """Return the value of every event.

        Args:
            columns: name → values, numpy (N, ...) or awkward of N lists.

        Raises:
            InvalidConfig: a column is not there (the message names the nearest), or the values do not suit.
        """
        for name in self.names:
            if name not in columns:
                raise InvalidConfig(
                    f"the expression '{self.text}' reads an absent column: {unknown(name, columns)}"
                )
        try:
            with np.errstate(all="ignore"):
                return self._value(self._tree, columns)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as exc:
            raise InvalidConfig(f"the expression '{self.text}' does not suit its columns: {exc}") from None

    def mask(self, columns: Mapping[str, Any], events: int) -> npt.NDArray[np.bool_]:
        """Return which of N events fulfil the expression.

        Raises:
            InvalidConfig: as `evaluate`, or the value is not one yes or no for each event.
        """
        try:
            value: npt.NDArray[Any] = np.asarray(self.evaluate(columns))
        except ValueError:
            raise InvalidConfig(
                f"the condition '{self.text}' gives lists, and not one yes or no for each of {events} events: all(…) "
                "or any(…) makes one of each"
            ) from None
        if value.ndim == 0:
            value = np.full(events, value)
        if value.dtype != np.bool_ or value.shape != (events,):
            raise InvalidConfig(
                f"the condition '{self.text}' gives {value.dtype} of shape {value.shape}, and not one yes or no for "
                f"each of {events} events"
                + ": all(…) or any(…) makes one yes or no of the several in an event"
                * (value.ndim > 1)
            )
        return value

    def _check(self) -> tuple[tuple[str, ...], frozenset[str]]:
        nodes = list(ast.walk(self._tree))
        functions = [node.func for node in nodes if isinstance(node, ast.Call)]
        comparisons = [node for node in nodes if isinstance(node, ast.Compare)]
        compared = [side for one in comparisons for side in (one.left, *one.comparators)]
        names: dict[str, None] = {}
        for node in nodes:
            if isinstance(node, ast.Call):
                self._check_call(node)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                self._check_power(node)
            elif isinstance(node, ast.Constant) and not isinstance(node.value, (bool, int, float, str)):
                self._refuse(node, "a constant is a number or a text")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in compared:
                self._refuse(node, "a text is only compared")
            elif isinstance(node, ast.Name) and node not in functions:
                names.setdefault(node.id)
            elif not isinstance(node, _NODES):
                self._refuse(node, "there are columns, numbers, comparisons, and/or/not and functions")
        return tuple(names), frozenset(node.id for node in functions if isinstance(node, ast.Name))

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            self._refuse(node, f"functions are {', '.join(FUNCTIONS)}")
        wanted = 3 if node.func.id in _OF_THREE else 2 if node.func.id in _OF_TWO else 1
        if len(node.args) != wanted:
            self._refuse(node, f"{node.func.id} takes {wanted} value{'s' if wanted > 1 else ''}")

    def _check_power(self, node: ast.BinOp) -> None:
        power = node.right.value if isinstance(node.right, ast.Constant) else None
        if not isinstance(power, (int, float)) or not 0 <= power <= LARGEST_POWER:
            self._refuse(node, f"a power is a number from 0 to {LARGEST_POWER}")
        of_column = any(isinstance(part, ast.Name) for part in ast.walk(node.left))
        if not of_column and not isinstance(node.left, ast.Constant):
            self._refuse(node, "a power is of a column or of a number")

    def _refuse(self, node: ast.AST, rule: str) -> NoReturn:
        shown = ast.unparse(node) or type(node).__name__
        raise InvalidConfig(f"'{shown}' in the expression '{self.text}' is not understood: {rule}")

    def _value(self, node: ast.AST, columns: Mapping[str, Any]) -> Any:
        match node:
            case ast.Name(id=name):
                return columns[name]
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=op, operand=operand):
                return _OPERATORS[type(op)](self._value(operand, columns))
            case ast.BinOp(op=op, left=left, right=right):
                return _OPERATORS[type(op)](self._value(left, columns), self._value(right, columns))
            case ast.BoolOp(op=op, values=values):
                return reduce(_OPERATORS[type(op)], (self._value(value, columns) for value in values))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                sides = [self._value(side, columns) for side in (left, *rights)]
                pairs = zip(ops, pairwise(sides), strict=True)
                return reduce(np.logical_and, (_OPERATORS[type(op)](*pair) for op, pair in pairs))
            case ast.Call(func=ast.Name(id=name), args=args):
                return _call(name, [self._value(argument, columns) for argument in args])
        raise AssertionError(ast.dump(node))


def _call(name: str, arguments: list[Any]) -> Any:
    if name in _ELEMENTWISE:
        return _ELEMENTWISE[name](*arguments)
    if name in _OF_THREE:
        return _where(*arguments)
    import awkward

    values = awkward.Array(arguments[0])
    if values.ndim < 2:  # noqa: PLR2004
        raise TypeError(f"{name} takes a column with several values in an event")
    if name == "count":
        return awkward.to_numpy(awkward.num(values, axis=1))
    if name in {"sum", "any", "all"}:
        return awkward.to_numpy(getattr(awkward, name)(values, axis=-1))
    reduced, nothing = {"largest": (awkward.max, -np.inf), "smallest": (awkward.min, np.inf)}[name]
    return awkward.to_numpy(reduced(values, axis=-1, initial=nothing, mask_identity=False))


def _where(condition: Any, chosen: Any, otherwise: Any) -> Any:
    import awkward

    lists = any(isinstance(one, awkward.Array) for one in (condition, chosen, otherwise))
    if np.asarray(awkward.flatten(condition, axis=None) if lists else condition).dtype.kind not in "biu":
        raise TypeError("where takes a condition, such as isfinite(x) or x > 0, and two values")
    if not lists:
        return np.where(condition, chosen, otherwise)
    return awkward.where(awkward.values_astype(condition, bool), chosen, otherwise)


def unknown(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return such as `there is no 'etaa' (did you mean 'eta'?); there are: eta, phi`."""
    odd = next((other for other in known if quoted(other) != other), None)
    marks = f" (in expressions, odd names stand in backticks: `{odd}`)" if odd else ""
    return f"there is no '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}{marks}"


_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`([^`]+)`""")
_STAND_IN = "quoted_{}_name"


def quoted(name: str) -> str:
    """Return a column's name as an expression has it: in backticks where it is not letters, digits and underscores."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"


def without_backticks(text: str) -> tuple[str, dict[str, str]]:
    """Return the text with stand-ins for the names in backticks, and those names."""
    names: dict[str, str] = {}

    def stand_in(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        names[_STAND_IN.format(len(names))] = found[1]
        return next(reversed(names))

    return _QUOTED.sub(stand_in, text), names


class Names(ast.NodeTransformer):
    """Puts the names of columns for their stand-ins, and dotted names for chains of attributes."""

    def __init__(self, quoted: Mapping[str, str]) -> None:
        self._quoted = quoted

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Return a stand-in, or a name as it is."""
        return ast.Name(self._quoted.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Return a dotted name; what else has attributes stays as it is, to be refused."""
        inner = self.visit(node.value)
        if isinstance(inner, ast.Name) and not node.attr.startswith("_"):
            return ast.Name(f"{inner.id}.{node.attr}")
        return ast.Attribute(inner, node.attr)
