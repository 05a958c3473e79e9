"""Do the fields of an input make the columns that a model reads, in its shapes, types and units?"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from hep_ray.conversion.columns import columns_of
from hep_ray.conversion.readers import Part
from hep_ray.conversion.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.schema import Column, EventSchema, legal_name
from hep_ray.errors import InvalidSchema, ModelMismatch

ASPECTS = ("shape", "dtype", "unit", "elements", "element_units", "axes")
"""What a column of the events must have in common with that of the model."""


def rules_of_dataset(columns: Sequence[Column], schema: EventSchema, shown: str) -> tuple[ColumnRule, ...]:
    """Rules that take a model's columns out of a dataset of ours as they are.

    Args:
        columns: of the model.
        schema: of the dataset.
        shown: name of the dataset, for messages.

    Raises:
        ModelMismatch: one is absent or differs.
    """
    known = {column.name: column for column in schema.columns}
    for column in columns:
        if column.name not in known:
            raise ModelMismatch(f"the model reads the column '{column.name}'; {shown} has {', '.join(known)}")
        _compare(column, known[column.name], shown)
    return tuple(
        ColumnRule(name=column.name, dtype=column.dtype, unit=column.unit, shape=column.shape or None)
        for column in columns
    )


def rules_of_fields(columns: Sequence[Column], part: Part, shown: str) -> tuple[ColumnRule, ...]:
    """Rules that make a model's columns of fields with their names, or with the names of their elements.

    Args:
        columns: of the model.
        part: of an input.
        shown: name of the input, for messages.

    Raises:
        ModelMismatch: a field is absent, of another shape, or states another unit.
    """
    rules = []
    fields = {legal_name(name): name for name in reversed(part.fields.names)} | {
        name: name for name in part.fields.names
    }
    for column in columns:
        wanted_fields = (column.name,) if column.name in fields else column.elements
        sources = tuple(fields.get(name, name) for name in wanted_fields)
        absent = [name for name in sources or (column.name,) if name not in part.fields.names]
        if absent:
            raise ModelMismatch(
                f"the model reads the column '{column.name}' of shape {column.shape}"
                f"{f', or its elements {column.elements}' if column.elements else ''}; {shown} lacks "
                f"{', '.join(absent)}: it has {', '.join(part.fields.names)}"
            )
        for element, name in zip(wanted_fields, sources, strict=True):
            wanted = column.unit if element == column.name else column.unit_of(element)
            _check_unit(part.fields.field(name), wanted, shown)
        rules.append(
            ColumnRule(
                name=column.name,
                sources=tuple(sources),
                dtype=column.dtype,
                unit=column.unit,
                elements=column.elements,
                element_units=column.element_units,
                axes=column.axes,
            )
        )
    return _checked(columns, part, tuple(rules), shown)


def rules_of_schema_file(
    columns: Sequence[Column], part: Part, rules: SchemaFile, shown: str
) -> tuple[ColumnRule, ...]:
    """The rules of a schema file for a model's columns.

    Args:
        columns: of the model.
        part: of an input.
        rules: the schema file.
        shown: name of the input, for messages.

    Raises:
        ModelMismatch: the file has no rule for one of them, or one that makes another column.
    """
    by_name = {name: rule for rule in rules.columns for name in (rule.name, rule.indicator) if name}
    for column in columns:
        if column.name not in by_name:
            raise ModelMismatch(
                f"the model reads the column '{column.name}'; the schema file makes {', '.join(by_name) or 'none'}"
            )
    wanted = {by_name[column.name].name: by_name[column.name] for column in columns}
    return _checked(columns, part, tuple(wanted.values()), shown)


def _checked(
    columns: Sequence[Column], part: Part, rules: tuple[ColumnRule, ...], shown: str
) -> tuple[ColumnRule, ...]:
    try:
        made = {column.name: column for column in columns_of(part, rules, shown)}
    except InvalidSchema as fault:
        raise ModelMismatch(str(fault)) from None
    for column in columns:
        _compare(column, made[column.name], shown)
    return rules


def _compare(column: Column, other: Column, shown: str) -> None:
    for aspect in ASPECTS:
        known_by = "grid" if aspect == "axes" else aspect
        wanted, found = getattr(column, known_by), getattr(other, known_by)
        if wanted != found:
            raise ModelMismatch(
                f"events have the columns that the model was trained on; {aspect} of '{column.name}' is {wanted!r}, "
                f"of {shown} {found!r}"
            )


def _check_unit(field: pa.Field, wanted: str, shown: str) -> None:
    """A field that states a unit states the model's; one that states none is taken to be in it."""
    unit = (field.metadata or {}).get(b"unit", b"").decode()
    if unit and unit != wanted:
        raise ModelMismatch(
            f"events have the units that the model was trained on; unit of '{field.name}' is '{wanted}', "
            f"of {shown} '{unit}'"
        )
