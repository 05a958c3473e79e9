"""What columns a dataset gets from the fields of an input, before any event is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from hep_ray.config import parse
from hep_ray.convert.column_names import field_of
from hep_ray.convert.infer import is_numeric, refusal, shape_of
from hep_ray.convert.readers import Part
from hep_ray.convert.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.columns import EVENT_ID, Column, legal_name
from hep_ray.dataset.events import EventSchema
from hep_ray.dataset.expressions import Expression, unknown
from hep_ray.errors import InvalidSchema


def columns_of(part: Part, rules: Sequence[ColumnRule], shown: str) -> tuple[Column, ...]:
    """The columns that the rules make of a part's fields.

    Args:
        part: of an input.
        rules: of the columns.
        shown: name of the part, for messages.

    Raises:
        InvalidSchema: a field is absent (the message names the nearest) or does not suit.
    """
    return tuple(column for rule in rules for column in _columns_of(part, rule, shown))


def _columns_of(part: Part, rule: ColumnRule, shown: str) -> Iterator[Column]:
    column = _column_of(part, rule, shown)
    yield column
    if rule.indicator is not None:
        elements = tuple(f"{element}_missing" for element in column.elements)
        update = {
            "name": rule.indicator,
            "dtype": "uint8",
            "unit": "",
            "elements": elements,
            "element_units": (),
        }
        yield parse(Column, {**column.model_dump(), **update}, f"column '{rule.indicator}'", InvalidSchema)


def _column_of(part: Part, rule: ColumnRule, shown: str) -> Column:
    fields = []
    for name in rule.reads:
        if name not in part.fields.names:
            if (why := part.left_out.get(name)) is not None:
                raise refusal(name, shown, why)
            raise InvalidSchema(
                f"column '{rule.name}' is made of fields of the input; {shown}: "
                f"{unknown(name, part.fields.names)}"
            )
        fields.append(part.fields.field(name))
        if rule.expression is None and not is_numeric(fields[-1].type):
            raise InvalidSchema(f"a column is of numbers; '{name}' is {_reason(part, name)}")
    shapes = {shape_of(field.type, rule.pad_to) for field in fields}
    if rule.expression is not None:
        shape = _expression_shape(rule, fields)
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
    own = tuple(map(legal_name, rule.reads)) if len(fields) > 1 and not rule.expression else ()
    return Column(
        name=rule.name,
        shape=shape,
        dtype=rule.dtype,
        unit=rule.unit,
        elements=rule.elements or own,
        element_units=rule.element_units,
        axes=rule.axes,
    )


def _reason(part: Part, name: str) -> str:
    return part.left_out[name].reason if name in part.left_out else "text"


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


def _expression_shape(rule: ColumnRule, fields: Sequence[pa.Field]) -> tuple[int, ...]:
    """The shape of an expression's value for one event of ones; () where lists of variable length are read."""
    shapes = {field.name: shape_of(field.type, None) for field in fields}
    if None in shapes.values() or not all(is_numeric(field.type) for field in fields):
        return ()
    ones = {name: np.ones((1, *(shape or ()))) for name, shape in shapes.items()}
    value: tuple[int, ...] = np.shape(Expression(str(rule.expression)).evaluate(ones))
    return value[1:]


def fields_read(rules: SchemaFile, columns: Sequence[ColumnRule], part: Part) -> list[str]:
    """Names of the fields that a conversion needs.

    Raises:
        InvalidSchema: one of them is absent; the message names the nearest.
    """
    texts = [*([rules.selection] if rules.selection else []), *rules.label.where]
    names = [name for column in columns for name in column.reads]
    names += [field_of(name, columns, part.fields.names) for text in texts for name in Expression(text).names]
    names += [rules.label.field] if rules.label.field else []
    names += rules.event_id.fields or ([EVENT_ID] if EVENT_ID in part.fields.names else [])
    for name in names:
        if name not in part.fields.names:
            raise InvalidSchema(f"what a schema reads is in the input; {unknown(name, part.fields.names)}")
    return list(dict.fromkeys(names))
