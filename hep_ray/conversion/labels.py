"""Which class an event belongs to: the rule settled before anything is read, and then the labels of events."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.conversion.readers import Part
from hep_ray.conversion.schema_file import LabelRule
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidEvents, InvalidSchema

_WHOLE = re.compile(r"[+-]?[0-9]+")
_TRUTHS = {"false": 0, "true": 1}

Labels = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""Labels of N events, and which of the events have one."""


@dataclass(frozen=True)
class BatchOrigin:
    """Where a batch comes from.

    Attributes:
        stem: file name without its endings, of which ids are made.
        shown: path and part, for messages.
        label: the class, where the file or the part decides it.
        start: number of the first row within the part.
        cell: shows a value of a row as it is written, if the format has a way to.
        prefix: of the ids, in messages.
        fills: how missing values are filled, in messages.
    """

    stem: str
    shown: str
    label: int | None
    start: int
    cell: Callable[[int, str], str] | None = None
    prefix: str = ""
    fills: str = "--missing VALUE, or missing = VALUE of the column in a schema file,"

    def at(self, row: int, name: str = "") -> str:
        """Return a value of a row of the batch, or the row where no field is named, as messages show it."""
        row = self.start + int(row)
        return self.cell(row, name) if self.cell and name else f"{self.shown}, row {row}"


def settled(rule: LabelRule, classes: Sequence[str], tables: Mapping[str, Part]) -> LabelRule:
    """Return the rule with the values that the label's field has in the order of the classes.

    Unless they are stated, a field of text has the classes' names; a field of numbers or truths has 0, 1, …, or the
    classes' names where these are whole numbers such as -1 and +1, or true and false. A field of one number for each
    class is one-hot.

    Args:
        rule: as stated.
        classes: names, in order.
        tables: of the inputs, by their names for messages.

    Raises:
        InvalidSchema: the field is no label: a vector or list, its values are of another kind, or tables differ.
    """
    found = {shown: _settled(rule, classes, part, shown) for shown, part in tables.items()}
    first = next(iter(found), "")
    if other := next((shown for shown in found if found[shown] != found[first]), None):
        raise InvalidSchema(
            f"the label '{rule.field}' is text in some inputs and numbers in others: {other} differs from {first}"
        )
    return found.get(first, rule)


def _settled(rule: LabelRule, classes: Sequence[str], part: Part, shown: str) -> LabelRule:
    if rule.from_ != "field" or rule.field not in part.fields.names:
        return rule
    kind = part.fields.field(rule.field).type
    label = f"the label '{rule.field}' of {shown}"
    places = int(np.prod(kind.shape)) if isinstance(kind, pa.FixedShapeTensorType) else 1
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if lists or places not in (1, len(classes)):
        shape = "lists of variable length" if lists else f"{places} values in each event"
        raise InvalidSchema(
            f"{label} has {shape}, and neither one number or text per event nor, one-hot, a place for each of the "
            f"{len(classes)} classes"
        )
    if places > 1:
        if rule.values:
            raise InvalidSchema(f"{label} is one-hot, which has no values; it is given {rule.values}")
        return rule
    text, truths = pa.types.is_string(kind), pa.types.is_boolean(kind)
    values: tuple[float | str, ...] = rule.values
    if not values:
        written = all(_WHOLE.fullmatch(name) or (truths and name.lower() in _TRUTHS) for name in classes)
        values = tuple(classes) if text or written else ()
    if not text:
        values = tuple(_number(value, truths=truths) for value in values)
    if strangers := [value for value in values if isinstance(value, str) != text]:
        own, given = ("text", "numbers") if text else ("numbers", "texts")
        raise InvalidSchema(f"{label} is of {own}, its values are {given}: {strangers}")
    if values and len(values) != len(classes):
        raise InvalidSchema(f"{label} has the values {list(values)} for the classes {', '.join(classes)}")
    if len(set(values)) < len(values):
        raise InvalidSchema(f"{label} has one value for several classes: {list(values)}")
    return rule.model_copy(update={"values": values})


def _number(value: float | str, *, truths: bool) -> float | str:
    """Return a value that is written as a number, or of `truths` as true or false, as a number."""
    if not isinstance(value, str):
        return value
    if truths and value.lower() in _TRUTHS:
        return _TRUTHS[value.lower()]
    try:
        return int(value) if _WHOLE.fullmatch(value) else float(value)
    except ValueError:
        return value


def labels_of(
    raw: Mapping[str, Any],
    origin: BatchOrigin,
    rule: LabelRule,
    schema: EventSchema,
    keep: npt.NDArray[np.bool_],
) -> Labels:
    """Return the labels of N events, and which of them have one.

    Args:
        raw: the fields.
        origin: of the events.
        rule: settled.
        schema: of the dataset.
        keep: (N,) events that are not selected away; the labels of others are not looked at.

    Raises:
        InvalidEvents: an event belongs to none of the classes, or to several.
    """
    events = np.ones(len(keep), dtype=bool)
    if rule.from_ in {"file", "part"}:
        return np.full(len(keep), origin.label, dtype=np.int64), events
    if rule.from_ == "where":
        fulfilled = np.array([Expression(text).mask(raw, len(keep)) for text in rule.where])
        if (several := (fulfilled.sum(axis=0) > 1) & keep).any():
            row = int(several.argmax())
            both = ", ".join(schema.classes[index] for index in np.flatnonzero(fulfilled[:, row]))
            raise InvalidEvents(f"{origin.at(row)} fulfils the expressions of several classes, {both}")
        return fulfilled.argmax(axis=0).astype(np.int64), np.asarray(fulfilled.any(axis=0))
    values: npt.NDArray[Any] = np.asarray(raw[str(rule.field)]).reshape(len(keep), -1)
    if values.shape[1] > 1:
        hot = ((values == 0) | (values == 1)).all(axis=1) & ((values == 1).sum(axis=1) == 1)
        if (stray := ~hot & keep).any():
            row = int(stray.argmax())
            raise InvalidEvents(
                f"the one-hot label '{rule.field}' in {origin.at(row)} is "
                f"{values[row].tolist()}, and not 1 in one place and 0 in the others"
            )
        return values.argmax(axis=1).astype(np.int64), events
    values = values[:, 0]
    if values.dtype == object:
        values = np.char.strip(values.astype(str))
    wanted = rule.values or tuple(range(len(schema.classes)))
    matches = np.array([values == value for value in wanted])
    if (stray := ~matches.any(axis=0) & keep).any():
        row = int(stray.argmax())
        raise InvalidEvents(
            f"the label '{rule.field}' in {origin.at(row)} is {_plain(values[row])!r}, and "
            f"none of {list(wanted)}: {_remedy(values[keep], schema.classes)}"
        )
    return matches.argmax(axis=0).astype(np.int64), events


def _remedy(values: npt.NDArray[Any], classes: Sequence[str]) -> str:
    found = [_plain(value) for value in np.unique(values)]
    how = "by --label-values or by `[label] values` in a schema file; --select leaves events of other values out"
    if len(found) == len(classes):
        how = f"--label-values={','.join(map(str, found))} or `[label] values = {found}` in a schema file"
    return f"name its values in the order of the classes {', '.join(classes)}, {how}"


def _plain(value: Any) -> Any:
    """Return a value as a person would write it: -1 for np.float64(-1.0)."""
    plain = value.item() if isinstance(value, np.generic) else value
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain
