"""What columns are called beside their fields, and which field a name in an expression means."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hep_ray.convert.schema_file import ColumnRule
from hep_ray.dataset.columns import RESERVED, legal_name
from hep_ray.errors import InvalidSchema


def field_of(name: str, columns: Sequence[ColumnRule], known: Collection[str]) -> str:
    """The field that an expression names: by its own name, or by that of a column that is made of it alone."""
    if name in known:
        return name
    of = {rule.name: rule.reads[0] for rule in columns if rule.expression is None and len(rule.reads) == 1}
    return of.get(name, name)


def named_for(field: str, columns: Sequence[ColumnRule]) -> dict[str, Any]:
    """Name, and sources where that is not the field's, of the column that a field becomes.

    Raises:
        InvalidSchema: no legal name is like the field's, or another column has it.
    """
    name = legal_name(field)
    if not name or name in RESERVED:
        raise InvalidSchema(
            f"a column name is letters, digits and underscores, and none of {', '.join(RESERVED)}; the field '{field}' "
            f'gets its name in a schema file, with `sources = ["{field}"]`, or is left out by --columns'
        )
    for other in columns:
        if other.name == name:
            raise InvalidSchema(
                f"columns differ in name; the fields '{other.reads[0]}' and '{field}' would both be '{name}': give "
                f'one its name in a schema file, with `sources = ["{field}"]`, or leave it out by --columns'
            )
    return {"name": name} if name == field else {"name": name, "sources": (field,)}


def renamed(columns: Sequence[ColumnRule]) -> list[str]:
    """Says which columns are not called as their fields."""
    return [
        f"the field '{column.sources[0]}' is the column '{column.name}'"
        for column in columns
        if len(column.sources) == 1 and column.name == legal_name(column.sources[0]) != column.sources[0]
    ]
