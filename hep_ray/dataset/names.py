"""Names of columns in expressions: dotted ones, and odd ones in backticks."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping

_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`([^`]+)`""")
_STAND_IN = "quoted_{}_name"


def quoted(name: str) -> str:
    """A column's name as an expression has it: in backticks where it is not letters, digits and underscores."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"


def without_backticks(text: str) -> tuple[str, dict[str, str]]:
    """The text with stand-ins for the names in backticks, and those names."""
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
        """A stand-in, or a name as it is."""
        return ast.Name(self._quoted.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """A dotted name; what else has attributes stays as it is, to be refused."""
        inner = self.visit(node.value)
        if isinstance(inner, ast.Name) and not node.attr.startswith("_"):
            return ast.Name(f"{inner.id}.{node.attr}")
        return ast.Attribute(inner, node.attr)
