"""Values of the fields of an input, and the classes that those of a label say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.conversion.labels import BatchOrigin
from hep_ray.conversion.readers import Opened, Part
from hep_ray.conversion.schema_file import LabelRule, SchemaFile
from hep_ray.dataset.expressions import Expression, quoted, unknown
from hep_ray.dataset.schema import legal_name
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema

MOST_CLASSES = 100
"""Values of a label that are taken as classes, at most."""
LARGEST = 2**53
"""Floating-point number from which on float64 does not hold each whole number."""
SHOWN = 5
"""Values that a message shows."""


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether a type is of numbers or booleans, or of arrays or lists of them."""
    while hasattr(kind, "value_type") and not pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def field_values(batch: pa.RecordBatch, name: str, origin: BatchOrigin) -> Any:
    """Return the values of a field as numpy or awkward; missing numbers are NaN.

    Raises:
        InvalidEvents: a text is missing, or a whole number beside one that float64 does not hold.
    """
    values = batch.column(name)
    kind = values.type
    plain = is_numeric(kind) and not isinstance(kind, pa.ExtensionType) and not pa.types.is_nested(kind)
    if values.null_count and not plain:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidEvents(
            f"field '{name}' of {origin.at(row, name)} is empty: fill it in the file, or leave such events out of it"
        )
    if isinstance(kind, pa.FixedShapeTensorType):
        flat = values.storage.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(values), *kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        import awkward

        lists = awkward.from_arrow(values)
        return awkward.fill_none(lists, np.nan, axis=-1) if values.flatten().null_count else lists
    if values.null_count:
        try:
            values = values.cast(pa.float64())
        except pa.ArrowInvalid as exc:
            raise InvalidEvents(
                f"field '{name}' of {origin.shown} has whole numbers of 2^53 or more beside missing ones: {exc}"
            ) from None
    return values.to_numpy(zero_copy_only=False)


def no_field(name: str, part: Part) -> InvalidSchema:
    """Return the error that a part lacks a field that is read, with its nearest names, or why it is not read."""
    if (why := part.left_out.get(name)) is not None:
        remedy = f": {why.remedy}" if why.remedy else ""
        return InvalidSchema(f"the field '{name}' is {why.reason}, and cannot be read{remedy}")
    return InvalidSchema(f"the input lacks a field that is read: {unknown(name, part.fields.names)}")


def found_classes(
    rules: SchemaFile, inputs: Sequence[tuple[str, Opened]]
) -> tuple[tuple[str, ...], LabelRule]:
    """Return the classes that the values of the label's field are, in their order, and the rule with these values.

    The field is read once, and the fields of the selection: events that are selected away say nothing. A class has the
    name of its value, with underscores for what no name of a class has.

    Args:
        rules: whose label is a field, of which the classes are not stated.
        inputs: how messages show them, and themselves.

    Raises:
        InvalidConfig: there are fewer than two values, more than `MOST_CLASSES`, or such as name no class.
        InvalidSchema: no input has the field.
        InvalidEvents: a value that decides the selection is missing.
    """
    parts = [part for _, one in inputs for part in one.parts]
    if parts and not any(rules.label.field in part.fields.names for part in parts):
        raise no_field(str(rules.label.field), parts[0])
    values: set[Any] = set(rules.label.values)
    for shown, one in inputs if not values else ():
        for part in one.parts:
            _collect(values, rules, shown, one, part)
    ordered = list(rules.label.values) or sorted(values, key=lambda value: (isinstance(value, str), value))
    names = tuple(re.sub("[^A-Za-z0-9_+-]+", "_", str(value)).strip("_") for value in ordered)
    told = f"the label '{rules.label.field}'"
    if len(ordered) < 2:  # noqa: PLR2004
        raise InvalidConfig(
            f"a dataset needs two classes or more, and {told} is {ordered[0]!r} in every event"
            if ordered
            else f"a dataset needs two classes or more, and {told} has no value in any event"
        )
    if not all(names) or len(set(names)) < len(names):
        listed = ",".join(map(str, ordered))
        given = f"--label-values={listed}"
        if tuple(listed.split(",")) != tuple(map(str, ordered)):  # a comma would divide a value
            given = f"and `[label] values = {ordered}` in a schema file"
        raise InvalidConfig(
            f"the values of {told} make no names of classes, {ordered}: name them in this order, --classes "
            f"NAME,NAME,… {given}"
        )
    return names, rules.label.model_copy(update={"values": tuple(ordered)})


def _collect(values: set[Any], rules: SchemaFile, shown: str, opened: Opened, part: Part) -> None:
    """Add the values of the label in a part: texts, whole numbers, and truths as `false` and `true`.

    Raises:
        InvalidConfig: there are too many, or they are others.
    """
    field = str(rules.label.field)
    if field not in part.fields.names:
        return
    kind = part.fields.field(field).type
    told = f"the label '{field}' of {shown}"
    if pa.types.is_nested(kind) or isinstance(kind, pa.ExtensionType):
        raise InvalidConfig(
            f"{told} has several values in each event: name the classes, in order, by --classes"
        )
    selection, read = _selection(rules, part)
    row = 0
    for batch in opened.read(part, 0, None, list(dict.fromkeys([field, *read.values()]))):
        column = batch.column(field)
        if selection is not None:
            origin = BatchOrigin("", shown, None, row, opened.cell)
            named = {name: field_values(batch, of, origin) for name, of in read.items()}
            column = column.filter(pa.array(selection.mask(named, batch.num_rows)))
        row += batch.num_rows
        for value in filter(_given, pc.unique(column).to_pylist()):
            if (said := _said(value)) is None:
                raise InvalidConfig(
                    f"{told} has the value {value:g}, and neither texts nor whole numbers: give the field that says "
                    "the class by --label, or an expression for each class by `[label] where` of a schema file"
                )
            values.add(said)
        if len(values) > MOST_CLASSES:
            some = sorted(values, key=str)[:SHOWN]
            alone = " or ".join(f"{quoted(field)} == {value!r}" for value in some[:2])
            raise InvalidConfig(
                f"{told} has more than {MOST_CLASSES} values, such as {', '.join(map(str, some))}, and each would be a "
                f"class: name those that are meant, --classes {some[0]},{some[1]}, and keep their events alone, "
                f'--select "{alone}"'
            )


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _said(value: Any) -> str | int | None:
    """Return what a value says as a class; None of a number with a fraction or of 2^53 or more."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and abs(value) >= LARGEST:
        return None
    return int(value) if float(value).is_integer() else None


def _selection(rules: SchemaFile, part: Part) -> tuple[Expression | None, dict[str, str]]:
    """Return the selection, None where there is none or a name is unknown, and name → field of what it reads."""
    if rules.selection is None:
        return None, {}
    selection = Expression(rules.selection)
    fields = {legal_name(name): name for name in part.fields.names}
    fields |= {
        rule.name: rule.reads[0] for rule in rules.columns if rule.expression is None and len(rule.reads) == 1
    }
    fields |= {name: name for name in part.fields.names}
    read = {name: fields[name] for name in selection.names if fields.get(name) in part.fields.names}
    return (selection, read) if len(read) == len(set(selection.names)) else (None, {})
