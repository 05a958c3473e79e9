"""Numbers that are written as text: which kind each cell is, and what a column of them can be read as."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.conversion.readers import LeftOut

MISSING = (
    *("", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "Null", "None", "none", "NONE"),
    *("-", "--", "?"),
)
"""Cells that say that there is no value. NaN is a number that is not finite."""
LOOKED_AT = 1000
"""Cells of a text field that tell what it is, in formats that have types of their own."""

_DIGITS = r"(?:\d+\.?\d*|\.\d+)"
_KINDS = {
    "missing": "(?i:na|n/a|#n/a|<na>|null|none|-|--|\\?)?",
    "bit": "[01]",
    "long": r"[+-]?\d{8,}",
    "whole": r"[+-]?\d+(?:[eE][+-]?\d+)?",
    "pointed": rf"[+-]?{_DIGITS}(?:[eE][+-]?\d+)?",
    "nan": "[+-]?(?i:nan|inf|infinity)",
    "truth": "(?i:true|false)",
    "fortran": rf"[+-]?{_DIGITS}[dD][+-]?\d+",
    "thousands": r"[+-]?[1-9]\d{0,2},\d{3}",
    "comma": r"[+-]?(?:\d+,\d*|,\d+)(?:[eEdD][+-]?\d+)?",
    "unit": rf"[+-]?{_DIGITS}(?:[eE][+-]?\d+)?(?:\s*%|\s+[A-Za-zµ]\S*)",
}
_NUMBERS = ("bit", "long", "whole", "nan", "fortran")


class CellKinds:
    """Counts of the kinds of cells in a column; the first of each kind is kept."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys((*_KINDS, "other"), 0)
        self._first: dict[str, tuple[int, str]] = {}

    @classmethod
    def of(cls, texts: Iterable[Any]) -> CellKinds:
        """Return the kinds of these texts; those that are None are missing."""
        cells = cls()
        encoded = [text.encode("utf-8", "replace") if isinstance(text, str) else text for text in texts]
        cells.add(pa.array([text or b"" for text in encoded], pa.binary()), 0)
        return cells

    def add(self, values: pa.Array, row: int) -> None:
        """Count more cells, of type binary, of which `row` is the first one's."""
        rest = np.arange(len(values))
        for kind, pattern in (*_KINDS.items(), ("other", "")):
            if not len(rest):
                return
            found = np.ones(len(rest), dtype=bool)
            if pattern:
                left = values.take(pa.array(rest))
                found = np.asarray(pc.match_substring_regex(left, f"^\\s*(?:{pattern})\\s*$"))
            places, rest = rest[found], rest[~found]
            self._counts[kind] += len(places)
            if len(places) and kind not in self._first:
                text = values[int(places[0])].as_py().decode("utf-8", "replace")
                self._first[kind] = (row + int(places[0]), text)

    def has(self, kind: str) -> bool:
        """Return whether a cell is of that kind."""
        return kind in self._first

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self._sum("bit", "long", "whole") == self._values > 0

    @property
    def narrow(self) -> bool:
        """Whether whole values are short enough for float32 to hold them exactly."""
        return not self.has("long")

    def are_numbers(self, decimal: str) -> bool:
        """Return whether all values are numbers with this decimal mark."""
        return self._sum(*self._numeric(decimal)) == self._values

    @property
    def are_truths(self) -> bool:
        """Whether all values are true or false, some of them perhaps written as 1 or 0."""
        return self.has("truth") and self._sum("truth", "bit") == self._values

    @property
    def are_data(self) -> bool:
        """Whether no cell is a word that could name something."""
        return not self.has("other")

    def are_mostly_numbers(self, decimal: str) -> bool:
        """Return whether half of the values or more are numbers with this decimal mark."""
        return 2 * self._sum(*self._numeric(decimal)) >= self._values > 0

    def left_out(self, decimal: str, place: Callable[[int], str]) -> LeftOut | None:
        """Return why no column is made of the cells; None if they are numbers or truths.

        Args:
            decimal: the mark of decimals.
            place: shows a row, such as `line 2`.
        """
        if not self._values:
            return LeftOut("empty in every row")
        if self.are_numbers(decimal) or self.are_truths:
            return None
        written = ("thousands", "comma", "pointed", "unit")
        if 2 * self._sum(*dict.fromkeys((*self._numeric(decimal), *written))) < self._values:
            row, cell = min(self._first[kind] for kind in self._first if kind != "missing")
            return LeftOut(f"text, first cell {cell!r} in {place(row)}")
        bad = self._first.keys() - {*self._numeric(decimal), "missing"}
        (row, cell), kind = min((self._first[kind], kind) for kind in bad)
        remedy = "make it a number"
        if kind in {"thousands", "comma", "pointed"}:
            other = "." if kind == "pointed" else ","
            remedy = f"if '{other}' is the decimal mark, say so: --set decimal={other}"
            remedy += ", if it divides thousands, write the numbers without it" * (kind == "thousands")
        elif kind == "unit":
            remedy = "write the numbers without it"
        return LeftOut(f"it is mostly numbers, but {place(row)} has {cell!r}", remedy, refused=True)

    def _numeric(self, decimal: str) -> tuple[str, ...]:
        return (*_NUMBERS, *(("thousands", "comma") if decimal == "," else ("pointed",)))

    def _sum(self, *kinds: str) -> int:
        return sum(self._counts[kind] for kind in kinds)

    @property
    def _values(self) -> int:
        return sum(self._counts.values()) - self._counts["missing"]


def text_left_out(texts: Iterable[Any], what: str = "text") -> LeftOut:
    """Return why no column is made of a text field, of which these are the first values.

    Numbers that were stored as text are refused rather than left out.
    """
    cells = CellKinds.of(texts)
    found = cells.left_out(".", lambda row: f"row {row}")
    if found is None:
        found = LeftOut(f"it is numbers stored as {what}", "store them as numbers", refused=True)
    return found if found.refused else LeftOut(found.reason.replace("text", what, 1))


def numbers(cells: pa.Array, decimal: str) -> pa.Array:
    """Return cells (N) of type string as float64, missing ones as null.

    Fortran's exponents and decimal commas are read.

    Raises:
        pa.ArrowInvalid: a cell is no number.
    """
    cells = _without_missing(pc.utf8_trim_whitespace(cells))
    cells = pc.replace_substring_regex(cells, "[dD]", "e")
    if decimal == ",":
        cells = pc.replace_substring(cells, ",", ".")
    return cells.cast(pa.float64())


def truths(cells: pa.Array) -> pa.Array:
    """Return cells (N) of type string, such as `true`, `False` or `1`, as booleans, missing ones as null.

    Raises:
        pa.ArrowInvalid: a cell is none of these.
    """
    return _without_missing(pc.utf8_lower(pc.utf8_trim_whitespace(cells))).cast(pa.bool_())


def _without_missing(cells: pa.Array) -> pa.Array:
    pattern = f"^(?:{_KINDS['missing']})$"
    return pc.if_else(pc.match_substring_regex(cells, pattern), pa.scalar(None, pa.string()), cells)


def is_number_text(cell: str) -> bool:
    """Return whether a cell is written as a number, NaN and infinity among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def is_fraction(cell: str) -> bool:
    """Return whether a cell is written as a number that is not whole, as no column is called."""
    return is_number_text(cell) and not cell.strip().lstrip("+-").isdigit() and cell.strip().lower() != "nan"
