"""Systematic variations of events: what a schema names, to ask how much a trained classifier feels them.

Physical values are varied, before any scaling: a model scales what it reads by what it learnt of nominal events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer

from hep_ray.config import Config
from hep_ray.errors import InvalidSchema

NOMINAL = "nominal"
"""Name of the events as they are, which no variation has."""
_NAME = re.compile(r"[A-Za-z0-9_+-]+")


@dataclass(frozen=True)
class Change:
    """Change of one column, or of one element along its last axis: values times `factor`, plus `offset`.

    Attributes:
        column: of the events.
        place: along the last axis; None where the whole column is changed.
        factor: that multiplies.
        offset: that is added afterwards, in the column's unit.
    """

    column: str
    place: int | None
    factor: float = 1.0
    offset: float = 0.0


class Variation(Config):
    """One systematic variation: columns that are scaled and shifted, other weights, or both; or other events.

    Attributes:
        scale: column, `column.element` or element → factor.
        shift: the same → what is added, after scaling, in the column's unit.
        weight: column that takes the place of the weights, whose scale to the events expected stays the nominal one.
        data: folder of another dataset, whose events are judged in place of the nominal ones, such as those of another
            generator; relative to the folder of the dataset that names it.
        fingerprint: of that dataset; of an opened dataset the one that lies there, unless the schema states it.
    """

    scale: dict[str, FiniteFloat] = Field(default_factory=dict)
    shift: dict[str, FiniteFloat] = Field(default_factory=dict)
    weight: str | None = None
    data: str | None = None
    fingerprint: str = ""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only a variation by another dataset has: records of before had none."""
        found: dict[str, Any] = handler(self)
        return {name: value for name, value in found.items() if name not in ("data", "fingerprint") or value}

    def __str__(self) -> str:
        if self.data is not None:
            known = f" ({self.fingerprint[:12]})" if self.fingerprint else ""
            return f"events of {Path(self.data).name}{known}"
        parts = [f"{name} × {factor:g}" for name, factor in self.scale.items()]
        parts += [f"{name} {'−' if value < 0 else '+'} {abs(value):g}" for name, value in self.shift.items()]
        return ", ".join([*parts, *([f"weights by {self.weight}"] if self.weight else [])])

    def changes(self, elements: Mapping[str, tuple[str, ...]]) -> tuple[Change, ...]:
        """Return what becomes of the columns.

        Args:
            elements: column → names along its last axis; empty where they have none.

        Raises:
            InvalidSchema: there is no such column or element, several elements have the name, or one table names a
                place twice, or a column with one of its elements.
        """
        found: dict[tuple[str, int | None], Change] = {}
        for values, scaled in ((self.scale, True), (self.shift, False)):
            named: dict[tuple[str, int | None], str] = {}
            for name, value in values.items():
                place = _place_of(name, elements)
                if twice := [own for at, own in named.items() if _overlap(at, place)]:
                    raise InvalidSchema(
                        f"'{twice[0]}' and '{name}' name the same values in {'scale' if scaled else 'shift'}, each "
                        "place once: name the elements alone, each with what becomes of it in all"
                    )
                named[place] = name
                before = found.get(place, Change(*place))
                found[place] = (
                    Change(*place, value, before.offset) if scaled else Change(*place, before.factor, value)
                )
        return tuple(found.values())

    def check_data(self) -> None:
        """Check that a dataset stands alone, and a fingerprint beside one.

        Raises:
            InvalidSchema: it does not.
        """
        if self.data is None and self.fingerprint:
            raise InvalidSchema("'fingerprint' is that of a dataset: name its folder, data = ")
        if self.data is not None and (not self.data or self.scale or self.shift or self.weight):
            raise InvalidSchema(
                f"data = '{self.data}' is the folder of a dataset and stands alone: leave scale, shift and weight out, "
                "or make them a variation of their own"
            )


def _overlap(one: tuple[str, int | None], other: tuple[str, int | None]) -> bool:
    """Return whether two places, each a column and an element or None for all of it, share values."""
    return one[0] == other[0] and (one[1] == other[1] or None in (one[1], other[1]))


def _place_of(name: str, elements: Mapping[str, tuple[str, ...]]) -> tuple[str, int | None]:
    """Return the column and the element of a name.

    Raises:
        InvalidSchema: there is none, or several.
    """
    if name in elements:
        return name, None
    places = [
        (column, place)
        for column, names in elements.items()
        for place, element in enumerate(names)
        if name in (element, f"{column}.{element}")
    ]
    if len(places) == 1:
        return places[0]
    if places:
        full = " or ".join(f"'{column}.{elements[column][place]}'" for column, place in places)
        raise InvalidSchema(f"'{name}' is an element of several columns: type {full}")
    known = [*elements, *(f"{column}.{one}" for column, names in elements.items() for one in names)]
    raise InvalidSchema(f"there is no column or element '{name}', only {', '.join(known)}")


def check_name(name: str) -> None:
    """Refuse a name that no variation may have.

    Raises:
        InvalidSchema: it is `nominal`, or is not made of letters, digits, `_`, `+` and `-`.
    """
    if name == NOMINAL or not _NAME.fullmatch(name):
        raise InvalidSchema(
            f"the variation '{name}' needs a name of letters, digits, '_', '+' and '-', and none is '{NOMINAL}', which "
            "the events as they are have"
        )
