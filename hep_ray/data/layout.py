"""What columns a dataset gets from the fields of an input, before any event is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hep_ray.data.columns import DTYPES, EVENT_ID, RESERVED, Column
from hep_ray.data.events import EventSchema
from hep_ray.data.expressions import Expression, unknown
from hep_ray.data.readers import Part
from hep_ray.data.schema_file import ColumnRule, SchemaFile
from hep_ray.errors import InvalidSchema


def infer_columns(part: Part, rules: SchemaFile, only: Sequence[str] = ()) -> tuple[ColumnRule, ...]:
    """One column for every numeric field (of those named in `only`) that is not the label or the id.

    Raises:
        InvalidSchema: a field cannot become a column as it stands.
    """
    taken = {*RESERVED, rules.label.field, *rules.event_id.fields}
    taken.update(*(Expression(text).names for text in rules.label.where))
    columns = []
    for name in only:
        if name not in part.fields.names:
            raise InvalidSchema(f"chosen columns are fields of the input; {unknown(name, part.fields.names)}")
    for field in part.fields:
        if field.name in taken or not _is_numeric(field.type) or (only and field.name not in only):
            continue
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            raise InvalidSchema(
                f"a list of variable length becomes a column by a schema file with pad_to, or is left out by "
                f"--columns; '{field.name}' is {field.type}"
            )
        unit = (field.metadata or {}).get(b"unit", b"").decode()
        columns.append(ColumnRule(name=field.name, unit=unit, dtype=_natural_dtype(field.type)))
    if not columns:
        raise InvalidSchema(
            f"an input has numeric fields; there are: {', '.join(part.fields.names) or 'none'}"
        )
    return tuple(columns)


def columns_of(part: Part, rules: Sequence[ColumnRule]) -> tuple[Column, ...]:
    """The columns that the rules make of a part's fields.

    Raises:
        InvalidSchema: a field is absent (the message names the nearest) or does not suit.
    """
    return tuple(_column_of(part, rule) for rule in rules)


def _column_of(part: Part, rule: ColumnRule) -> Column:
    fields = []
    for name in rule.reads:
        if name not in part.fields.names:
            raise InvalidSchema(
                f"column '{rule.name}' is made of fields of the input; {unknown(name, part.fields.names)}"
            )
        fields.append(part.fields.field(name))
    shapes = {_shape_of(field.type, rule.pad_to) for field in fields}
    if rule.expression is not None:
        shape: tuple[int, ...] = ()
    else:
        if None in shapes:
            raise InvalidSchema(f"'{rule.name}' has lists of variable length: its rule says pad_to")
        if len(shapes) > 1:
            raise InvalidSchema(
                f"stacked fields have one shape; those of '{rule.name}' have {sorted(map(str, shapes))}"
            )
        (inner,) = shapes
        shape = (*(inner or ()), len(fields)) if len(fields) > 1 else inner or ()
    if rule.shape is not None:
        if int(np.prod(rule.shape)) != int(np.prod(shape)):
            raise InvalidSchema(
                f"column '{rule.name}' has the shape {rule.shape} by its rule; the input has {shape}"
            )
        shape = rule.shape
    elements = rule.elements or (rule.reads if len(fields) > 1 and not rule.expression else ())
    return Column(
        name=rule.name,
        shape=shape,
        dtype=rule.dtype,
        unit=rule.unit,
        elements=elements,
        element_units=rule.element_units,
        axes=rule.axes,
    )


def with_axes(schema: EventSchema, rules: Sequence[ColumnRule]) -> EventSchema:
    """The schema of a dataset of ours, its images with the axes that rules of their names state.

    Raises:
        InvalidSchema: it has no column of a rule's name, or one that has no axes.
    """
    stated = {rule.name: rule.axes for rule in rules if rule.axes}
    for name in stated:
        schema.column(name)
    columns = [
        Column(**{**column.model_dump(), "axes": stated.get(column.name, column.axes)})
        for column in schema.columns
    ]
    return schema.model_copy(update={"columns": tuple(columns)})


def fields_read(rules: SchemaFile, columns: Sequence[ColumnRule], part: Part) -> list[str]:
    """Names of the fields that a conversion needs.

    Raises:
        InvalidSchema: one of them is absent; the message names the nearest.
    """
    names = [name for column in columns for name in column.reads]
    names += Expression(rules.selection).names if rules.selection else ()
    names += [name for text in rules.label.where for name in Expression(text).names]
    names += [rules.label.field] if rules.label.field else []
    names += rules.event_id.fields or ([EVENT_ID] if EVENT_ID in part.fields.names else [])
    for name in names:
        if name not in part.fields.names:
            raise InvalidSchema(f"what a schema reads is in the input; {unknown(name, part.fields.names)}")
    return list(dict.fromkeys(names))


def _is_numeric(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.value_type
    while pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _natural_dtype(kind: pa.DataType) -> str:
    value = kind.value_type if hasattr(kind, "value_type") else kind
    name = str(np.dtype(value.to_pandas_dtype()))
    if name == "float64":
        return "float32"
    return name if name in DTYPES else "uint8"


def _shape_of(kind: pa.DataType, pad_to: int | None) -> tuple[int, ...] | None:
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size,)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return None if pad_to is None else (pad_to,)
    return ()
