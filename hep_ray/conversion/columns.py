"""Columns that a dataset gets from the fields of an input, before any event is read.

A schema file lists them, or every numeric field becomes one; what is set aside then is told with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hep_ray.config import parse
from hep_ray.conversion.field_values import is_numeric, no_field
from hep_ray.conversion.images import image_column
from hep_ray.conversion.inputs import InputTable
from hep_ray.conversion.paths import listed
from hep_ray.conversion.readers import LeftOut, Part
from hep_ray.conversion.readers.fields import ROW_INDEX
from hep_ray.conversion.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.expressions import Expression, unknown
from hep_ray.dataset.leakage import identifier_like, row_like, weight_like
from hep_ray.dataset.schema import DTYPES, EVENT_ID, RESERVED, Column, EventSchema, legal_name
from hep_ray.errors import InvalidEvents, InvalidSchema

MOST_LISTED = 10
"""Fields or files that a message lists, at most."""


def set_aside(part: Part, rules: SchemaFile, only: Sequence[str] = ()) -> dict[str, LeftOut]:
    """Return the fields of a part that become no column and are not used otherwise, with the reason."""
    if only:
        return {}
    used = _used(rules)
    aside = {name: why for name, why in part.left_out.items() if name not in used}
    for field in part.fields:
        name = field.name
        if name in used or name in aside:
            continue
        if name in RESERVED:
            reason = f"the names {', '.join(RESERVED)} are reserved"
            aside[name] = LeftOut(reason, f"--label {name} if it tells the class")
        elif not is_numeric(field.type):
            aside[name] = LeftOut("text")
        elif shape_of(field.type, None) == () and (why := _no_feature(name, field.type, part)):
            aside[name] = why
    return aside


def _no_feature(name: str, kind: pa.DataType, part: Part) -> LeftOut | None:
    whole = bool(pa.types.is_integer(kind) or name in part.whole)
    if whole and row_like(name):
        return ROW_INDEX
    if identifier_like(name, whole=whole):
        use = f'[event_id] fields = ["{name}"] of a schema file makes ids of it'
        together = f"--split-by {name} keeps its events together in one split"
        return LeftOut("an identifier by its name", f"{together}, {use}, --columns keeps it as a feature")
    if weight_like(name):
        use = f"--weight {name} weights the events by it"
        return LeftOut("a weight by its name", f"{use}, --columns keeps it as a feature")
    return None


def _used(rules: SchemaFile) -> set[str]:
    """Return fields that are label, id, weight, group or split_by, or decide the class."""
    roles = [rules.label.field, rules.weight, rules.group, rules.split_by]
    where = [name for text in rules.label.where for name in Expression(text).names]
    return {EVENT_ID, *(name for name in roles if name), *rules.event_id.fields, *where}


def infer_columns(
    tables: Sequence[InputTable],
    rules: SchemaFile,
    only: Sequence[str] = (),
    missing: float | Literal["nan"] | None = None,
) -> tuple[ColumnRule, ...]:
    """Return one column for every numeric field (of those named in `only`) that is not the label or the id.

    Row numbers, identifiers and weights are no features unless they are named. Floating-point fields become float32,
    but for whole numbers that it does not hold.

    Args:
        tables: of the inputs; all have the same fields.
        rules: of the conversion.
        only: names of fields.
        missing: takes the place of missing values; `nan` keeps them in floating-point columns, but of weight, group and
            split_by, which every event needs.

    Raises:
        InvalidSchema: a field cannot become a column as it stands, or inputs lack fields that others have.
        InvalidEvents: a field is mostly numbers, and the others of its values cannot be read.
    """
    _refuse_roles(tables, rules)
    if only:
        only = [
            *only,
            *(name for name in (rules.weight, rules.group, rules.split_by) if name and name not in only),
        ]
    found = [_numeric_fields(one, rules, only) for one in tables]
    _refuse_different(tables, found)
    columns: list[ColumnRule] = []
    needed = {rules.weight, rules.group, rules.split_by}
    for name, field in found[0].items():
        kinds = [_natural_dtype(fields[name].type) for fields in found]
        if (
            "int64" in kinds or "uint64" in kinds
        ):  # text is of integers in the files alone in which it has to be
            pairs = zip(tables, kinds, strict=True)
            kinds = ["int64" if name in one.part.whole and kind == "float64" else kind for one, kind in pairs]
        dtype = str(np.result_type(*set(kinds)))
        if dtype == "float64" and not any(name in one.part.wide for one in tables):
            dtype = "float32"
        unit = (field.metadata or {}).get(b"unit", b"").decode()
        absent = name not in needed and np.dtype(dtype).kind == "f"
        own = None if missing == "nan" and not absent else missing
        columns.append(ColumnRule(**_named_for(name, columns), unit=unit, dtype=dtype, missing=own))
    if not columns:
        part = tables[0].part
        reasons = "; ".join(f"'{name}' is {why.reason}" for name, why in set_aside(part, rules, only).items())
        fields = (", ".join(part.fields.names) or "none") + f" ({reasons})" * bool(reasons)
        raise InvalidSchema(f"{tables[0].shown} has no numeric fields, only {fields}")
    return tuple(columns)


def _numeric_fields(one: InputTable, rules: SchemaFile, only: Sequence[str]) -> dict[str, pa.Field]:
    part = one.part
    for name in only:
        why = part.left_out.get(name)
        if why is not None and (why.refused or name not in part.fields.names):
            raise refusal(name, one.shown, why)
        if name not in part.fields.names:
            raise InvalidSchema(
                f"--columns names no field of {one.shown}: {unknown(name, part.fields.names)}"
            )
        if not is_numeric(part.fields.field(name).type):
            raise InvalidSchema(f"'{name}' of {one.shown} is {why.reason if why else 'text'} and no numbers")
    aside = set_aside(part, rules, only)
    for name, why in aside.items():
        if why.refused:
            raise refusal(name, one.shown, why)
    taken = {*RESERVED, *aside, *(_used(rules) - {rules.weight, rules.group, rules.split_by})}
    fields = {
        field.name: field
        for field in part.fields
        if field.name not in taken and is_numeric(field.type) and (not only or field.name in only)
    }
    for name, field in fields.items():
        if shape_of(field.type, None) is None:
            raise InvalidSchema(
                f"'{name}' of {one.shown} is a list of variable length, {field.type}: a schema file makes it a column "
                "of lists by max_length, of arrays by pad_to, or an image of several; --columns leaves it out"
            )
    return fields


def roles_of(rules: SchemaFile) -> list[tuple[str, str]]:
    """Return what a schema file calls columns that are no features, and their names."""
    roles = (("weight", rules.weight), ("group", rules.group), ("split_by", rules.split_by))
    return [(role, name) for role, name in roles if name]


def _refuse_roles(tables: Sequence[InputTable], rules: SchemaFile) -> None:
    """Refuse fields of weights and groups that are not there, or are no numbers."""
    for role, name in roles_of(rules):
        for one in tables:
            why, known = one.part.left_out.get(name), one.part.fields.names
            if name not in known and why is None:
                raise InvalidSchema(f"'{role}' names no field of {one.shown}: {unknown(name, known)}")
            if name not in known or not is_numeric(one.part.fields.field(name).type):
                kind = why.reason if why else "text"
                raise InvalidSchema(f"'{role}' names '{name}' of {one.shown}, which is {kind}, and no number")


def refusal(name: str, shown: str, why: LeftOut) -> InvalidEvents:
    """Return the error that says why a field is not read."""
    remedy = f"{why.remedy}; " if why.remedy else ""
    return InvalidEvents(
        f"'{name}' of {shown} cannot be read: {why.reason}: {remedy}or take other fields only: --columns"
    )


def _refuse_different(tables: Sequence[InputTable], found: Sequence[dict[str, pa.Field]]) -> None:
    """Refuse inputs of which some lack fields that others have."""
    everywhere = [name for name in found[0] if all(name in fields for fields in found)]
    lacking = []
    for name in sorted({name for fields in found for name in fields} - set(everywhere)):
        without = [one for one, fields in zip(tables, found, strict=True) if name not in fields]
        why = without[0].part.left_out.get(name)
        places = listed([one.shown for one in without], MOST_LISTED)
        lacking.append(f"'{name}' is {why.reason if why else 'absent'} in {places}")
    if lacking:
        remedy = (
            f"the common ones: --columns {','.join(everywhere)}" if everywhere else "none is common to all"
        )
        raise InvalidSchema(
            f"the inputs have different fields; {listed(lacking, MOST_LISTED, '; ')}: {remedy}"
        )


def _natural_dtype(kind: pa.DataType) -> str:
    value = kind.value_type if hasattr(kind, "value_type") else kind
    name = str(np.dtype(value.to_pandas_dtype()))
    return name if name in DTYPES else "uint8"


def shape_of(kind: pa.DataType, pad_to: int | None) -> tuple[int, ...] | None:
    """Return the shape of one event's value; None for lists of variable length that are not padded."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size,)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return None if pad_to is None else (pad_to,)
    return ()


def columns_of(part: Part, rules: Sequence[ColumnRule], shown: str) -> tuple[Column, ...]:
    """Return the columns that the rules make of a part's fields.

    Args:
        part: of an input.
        rules: of the columns.
        shown: name of the part, for messages.

    Raises:
        InvalidSchema: a field is absent (the message names the nearest) or does not suit.
    """
    columns: list[Column] = []
    for rule in rules:
        columns.append(column := _column_of(part, rule, shown))
        if rule.indicator is not None:
            elements = tuple(f"{element}_missing" for element in column.elements)
            own = {"name": rule.indicator, "dtype": "uint8", "elements": elements, "axes": column.axes}
            said = f"column '{rule.indicator}'"
            columns.append(parse(Column, {"shape": column.shape, **own}, said, InvalidSchema))
    return tuple(columns)


def _fields_of(part: Part, rule: ColumnRule, shown: str) -> list[pa.Field]:
    """Return the fields that a column is made of; refuse one that is absent, or no numbers."""
    fields = []
    for name in rule.reads:
        why = part.left_out.get(name)
        if name not in part.fields.names:
            if why is not None:
                raise refusal(name, shown, why)
            raise InvalidSchema(
                f"column '{rule.name}' is made of a field that {shown} lacks: {unknown(name, part.fields.names)}"
            )
        fields.append(part.fields.field(name))
        if rule.expression is None and not is_numeric(fields[-1].type):
            raise InvalidSchema(
                f"column '{rule.name}' cannot be made of '{name}', which is {why.reason if why else 'text'}"
            )
    if rule.count is not None and rule.count not in part.fields.names:
        raise InvalidSchema(
            f"the items of column '{rule.name}' are counted by a field that {shown} lacks: "
            f"{unknown(rule.count, part.fields.names)}"
        )
    return fields


def _column_of(part: Part, rule: ColumnRule, shown: str) -> Column:
    fields = _fields_of(part, rule, shown)
    if rule.image is not None:
        return image_column(rule, rule.image, fields, shown)
    if rule.max_length is not None:
        return _list_column(rule, fields)
    if rule.expression is not None:
        shape = _expression_shape(rule.expression, fields)
    else:
        shapes = {shape_of(field.type, rule.pad_to) for field in fields}
        if None in shapes:
            raise InvalidSchema(
                f"'{rule.name}' has lists of variable length, and its rule neither max_length (a column of lists) nor "
                "pad_to (of arrays)"
            )
        if len(shapes) > 1:
            raise InvalidSchema(
                f"the fields of '{rule.name}' cannot be stacked: their shapes are {sorted(map(str, shapes))}"
            )
        (inner,) = shapes
        shape = (*(inner or ()), len(fields)) if len(fields) > 1 else inner or ()
    if rule.shape is not None and int(np.prod(rule.shape)) != int(np.prod(shape)):
        raise InvalidSchema(f"column '{rule.name}' of shape {shape} cannot be given the shape {rule.shape}")
    own = tuple(map(legal_name, rule.reads)) if len(fields) > 1 and not rule.expression else ()
    return Column(
        name=rule.name,
        shape=shape if rule.shape is None else rule.shape,
        dtype=rule.dtype,
        unit=rule.unit,
        elements=rule.elements or own,
        element_units=rule.element_units,
        axes=rule.axes,
        missing=rule.missing == "nan",
        sentinels=rule.sentinels,
        fill=None if rule.missing == "nan" else rule.missing,
        padding=rule.pad_value if rule.pad_to is not None and rule.expression is None else None,
    )


def _list_column(rule: ColumnRule, fields: Sequence[pa.Field]) -> Column:
    """Return a column of lists: of lists of variable length, or of arrays of which a field counts the items."""
    widths = {item_size(field.type, counted=rule.count is not None) for field in fields}
    if None in widths or (len(fields) > 1 and widths != {1}):
        kinds = ", ".join(f"{field.name} {field.type}" for field in fields)
        raise InvalidSchema(
            f"column '{rule.name}' cannot be made of {kinds}: each source must be lists of numbers, or one source "
            "lists of arrays; arrays of fixed length need `count`, the field that says how many items are there"
        )
    size = len(fields) if len(fields) > 1 else widths.pop()
    assert size is not None
    return Column(
        name=rule.name,
        shape=(rule.max_length or 0, size),
        dtype=rule.dtype,
        unit=rule.unit,
        elements=rule.elements or (tuple(map(legal_name, rule.reads)) if len(fields) > 1 else ()),
        element_units=rule.element_units,
        lists=True,
        sentinels=rule.sentinels,
        fill=None if rule.missing == "nan" else rule.missing,
    )


def item_size(kind: pa.DataType, *, counted: bool) -> int | None:
    """Return the values of an item of lists, None where a field has none.

    Args:
        kind: of the field.
        counted: it is of arrays of fixed length, of which another field counts the items.
    """
    if counted:
        shape = shape_of(kind, None)
        return {1: 1, 2: shape[-1]}.get(len(shape)) if shape else None
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return None
    inner = kind.value_type
    if pa.types.is_fixed_size_list(inner):
        return None if pa.types.is_nested(inner.value_type) else int(inner.list_size)
    return None if pa.types.is_nested(inner) else 1


def _expression_shape(text: str, fields: Sequence[pa.Field]) -> tuple[int, ...]:
    """Return the shape of an expression's value for one event of ones; () where lists of variable length are read."""
    shapes = {field.name: shape_of(field.type, None) for field in fields}
    if None in shapes.values() or not all(is_numeric(field.type) for field in fields):
        return ()
    ones = {name: np.ones((1, *(shape or ()))) for name, shape in shapes.items()}
    value: tuple[int, ...] = np.shape(Expression(text).evaluate(ones))
    return value[1:]


def with_axes(schema: EventSchema, rules: Sequence[ColumnRule]) -> EventSchema:
    """Return the schema of a dataset of ours, its images with the axes that rules of their names state.

    Raises:
        InvalidSchema: it has no column of a rule's name, or one that has no axes.
    """
    stated = {rule.name: rule.axes for rule in rules if rule.axes}
    for name in stated:
        schema.column(name)
    columns = [
        Column(**{**one.model_dump(), "axes": stated.get(one.name, one.axes)}) for one in schema.columns
    ]
    return schema.model_copy(update={"columns": tuple(columns)})


def fields_read(rules: SchemaFile, columns: Sequence[ColumnRule], part: Part) -> list[str]:
    """Return the names of the fields that a conversion needs.

    Raises:
        InvalidSchema: one of them is absent; the message names the nearest.
    """
    known = part.fields.names
    texts = [text for text in (rules.selection, *rules.label.where) if text]
    names = [name for column in columns for name in column.fields]
    names += [field_of(name, columns, known) for text in texts for name in Expression(text).names]
    names += [rules.label.field] if rules.label.field else []
    names += rules.event_id.fields or ([EVENT_ID] if EVENT_ID in known else [])
    if (absent := next((name for name in names if name not in known), None)) is not None:
        raise no_field(absent, part)
    return list(dict.fromkeys(names))


def field_of(name: str, columns: Sequence[ColumnRule], known: Collection[str]) -> str:
    """Return the field that an expression names: by its own name, or by that of a column that is made of it alone."""
    if name in known:
        return name
    of = {rule.name: rule.reads[0] for rule in columns if rule.expression is None and len(rule.reads) == 1}
    return of.get(name, name)


def _named_for(field: str, columns: Sequence[ColumnRule]) -> dict[str, Any]:
    """Return the name, and sources where that is not the field's, of the column that a field becomes."""
    name = legal_name(field)
    remedy = f'name it in a schema file, with `sources = ["{field}"]`, or leave it out by --columns'
    if not name or name in RESERVED:
        raise InvalidSchema(
            f"field '{field}' cannot name a column, which has letters, digits and underscores and is none of "
            f"{', '.join(RESERVED)}: {remedy}"
        )
    if other := next((one.reads[0] for one in columns if one.name == name), None):
        raise InvalidSchema(f"the fields '{other}' and '{field}' would both be the column '{name}': {remedy}")
    return {"name": name} if name == field else {"name": name, "sources": (field,)}


def renamed(columns: Sequence[ColumnRule]) -> list[str]:
    """Say which columns are not called as their fields."""
    return [
        f"the field '{column.sources[0]}' is the column '{column.name}'"
        for column in columns
        if len(column.sources) == 1 and column.name == legal_name(column.sources[0]) != column.sources[0]
    ]
