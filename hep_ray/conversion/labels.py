"""Which class an event belongs to: the rule settled before anything is read, and then the labels of events."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Origin:
    """Where a batch comes from.

    Attributes:
        stem: file name without its endings, of which ids are made.
        shown: path and part, for messages.
        part: name of the part.
        label: the class, where the file or the part decides it.
        start: number of the first row within the part.
        cell: shows a value of a row as it is written, if the format has a way to.
        prefix: of the ids, in messages.
        fills: how missing values are filled, in messages.
    """

    stem: str
    shown: str
    part: str
    label: int | None
    start: int
    cell: Callable[[int, str], str] | None = None
    prefix: str = ""
    fills: str = "--missing VALUE, or missing = VALUE of the column in a schema file,"

    def at(self, row: int, name: str) -> str:
        """A value of a row of the part, or the row where no field is named, for messages."""
        return self.cell(int(row), name) if self.cell and name else f"{self.shown}, row {row}"


class Table(Protocol):
    """A table of an input, and its name for messages."""

    @property
    def part(self) -> Part:
        """What the reader says of it."""

    @property
    def shown(self) -> str:
        """Path and part."""


def settled(rule: LabelRule, classes: Sequence[str], tables: Sequence[Table]) -> LabelRule:
    """The rule with the values that the label's field has in the order of the classes.

    Unless they are stated, a field of text has the classes' names; a field of numbers or truths has 0, 1, …, or the
    classes' names where these are whole numbers such as -1 and +1, or true and false. A field of one number for each
    class is one-hot.

    Raises:
        InvalidSchema: the field is no label: a vector or list, its values are of another kind, or tables differ.
    """
    found = [_settled(rule, classes, one.part, one.shown) for one in tables]
    for one, other in zip(tables, found, strict=True):
        if other != found[0]:
            raise InvalidSchema(
                f"a label is of numbers in every input, or of text in every one; '{rule.field}' of {one.shown} differs "
                f"from that of {tables[0].shown}"
            )
    return found[0] if found else rule


def _settled(rule: LabelRule, classes: Sequence[str], part: Part, shown: str) -> LabelRule:
    if rule.from_ != "field" or rule.field not in part.fields.names:
        return rule
    kind = part.fields.field(rule.field).type
    places = _places(kind)
    if places is None or places not in (1, len(classes)):
        shape = "lists of variable length" if places is None else f"{places} values in each event"
        raise InvalidSchema(
            f"a label is one number or text per event, or one-hot with a place for each of the {len(classes)} classes; "
            f"'{rule.field}' of {shown} has {shape}"
        )
    if places > 1:
        if rule.values:
            raise InvalidSchema(
                f"a one-hot label has no values; '{rule.field}' of {shown} is given {rule.values}"
            )
        return rule
    text = pa.types.is_string(kind)
    values = rule.values or (tuple(classes) if text else _numbers_in(classes, kind))
    if not text:
        values = tuple(_number(value, truths=pa.types.is_boolean(kind)) for value in values)
    strangers = [value for value in values if isinstance(value, str) != text]
    if strangers:
        found, given = ("text", "numbers") if text else ("numbers", "texts")
        raise InvalidSchema(
            f"values of a label are of its kind; '{rule.field}' of {shown} is of {found}, its values are {given}: "
            f"{list(strangers)}"
        )
    if values and len(values) != len(classes):
        raise InvalidSchema(
            f"a label has one value for each of the classes {', '.join(classes)}; its values are {list(values)}"
        )
    if len(set(values)) < len(values):
        raise InvalidSchema(f"the values of a label differ from class to class; they are {list(values)}")
    return rule.model_copy(update={"values": values})


def _places(kind: pa.DataType) -> int | None:
    """Numbers of one event's value; None for lists."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return int(np.prod(kind.shape))
    return None if pa.types.is_list(kind) or pa.types.is_large_list(kind) else 1


def _numbers_in(classes: Sequence[str], kind: pa.DataType) -> tuple[float | str, ...]:
    """The classes' names as values of a label of that kind, where all of them are."""
    truths = pa.types.is_boolean(kind)
    written = all(_WHOLE.fullmatch(name) or (truths and name.lower() in _TRUTHS) for name in classes)
    return tuple(_number(name, truths=truths) for name in classes) if written else ()


def _number(value: float | str, *, truths: bool = False) -> float | str:
    """A value that is written as a number, or of `truths` as true or false, as a number."""
    if isinstance(value, str):
        if truths and value.lower() in _TRUTHS:
            return _TRUTHS[value.lower()]
        try:
            return int(value) if _WHOLE.fullmatch(value) else float(value)
        except ValueError:
            return value
    return value


def labels_of(
    raw: Mapping[str, Any], origin: Origin, rule: LabelRule, schema: EventSchema, keep: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Labels of N events, and which of them have one.

    Args:
        raw: the fields.
        origin: of the events.
        rule: settled.
        schema: of the dataset.
        keep: (N,) events that are not selected away; the labels of others are not looked at.

    Raises:
        InvalidEvents: an event belongs to none of the classes, or to several.
    """
    events = len(keep)
    if rule.from_ in {"file", "part"}:
        return np.full(events, origin.label, dtype=np.int64), np.ones(events, dtype=bool)
    if rule.from_ == "where":
        return _fulfilled(raw, origin, rule, schema, keep)
    values: npt.NDArray[Any] = np.asarray(raw[str(rule.field)]).reshape(events, -1)
    if values.shape[1] > 1:
        hot = ((values == 0) | (values == 1)).all(axis=1) & ((values == 1).sum(axis=1) == 1)
        if (stray := ~hot & keep).any():
            row = int(stray.argmax())
            raise InvalidEvents(
                f"a one-hot label is 1 in one place and 0 in the others; '{rule.field}' in {origin.shown}, row "
                f"{origin.start + row} is {values[row].tolist()}"
            )
        return values.argmax(axis=1).astype(np.int64), np.ones(events, dtype=bool)
    values = values[:, 0]
    if values.dtype == object:
        values = np.char.strip(values.astype(str))
    wanted = rule.values or tuple(range(len(schema.classes)))
    matches = np.array([values == value for value in wanted])
    stray = ~matches.any(axis=0) & keep
    if stray.any():
        row = int(stray.argmax())
        raise InvalidEvents(
            f"the field '{rule.field}' is one of {list(wanted)}; in {origin.shown}, row {origin.start + row} "
            f"it is {_shown(values[row])!r}: {_remedy(values[keep], schema.classes)}"
        )
    return matches.argmax(axis=0).astype(np.int64), np.ones(events, dtype=bool)


def _fulfilled(
    raw: Mapping[str, Any], origin: Origin, rule: LabelRule, schema: EventSchema, keep: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    fulfilled = np.array([Expression(text).mask(raw, len(keep)) for text in rule.where])
    several = (fulfilled.sum(axis=0) > 1) & keep
    if several.any():
        row = int(several.argmax())
        both = [schema.classes[index] for index in np.flatnonzero(fulfilled[:, row])]
        raise InvalidEvents(
            f"an event fulfils the expression of one class; {origin.shown}, row {origin.start + row} "
            f"fulfils those of {', '.join(both)}"
        )
    return fulfilled.argmax(axis=0).astype(np.int64), np.asarray(fulfilled.any(axis=0))


def _remedy(values: npt.NDArray[Any], classes: Sequence[str]) -> str:
    found = [_shown(value) for value in np.unique(values)]
    order = f"in the order of the classes {', '.join(classes)}"
    if len(found) == len(classes):
        typed = ",".join(map(str, found))
        return (
            f"name its values {order}, --label-values={typed} or `[label] values = {found}` in a schema file"
        )
    return (
        f"name its values {order} by --label-values or by `[label] values` in a schema file; events of other "
        "values are left out by --select"
    )


def _shown(value: Any) -> Any:
    """A value as a person would write it: -1 for np.float64(-1.0)."""
    plain = value.item() if isinstance(value, np.generic) else value
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain
