"""Which fields of an input become columns where nobody lists them, and which are set aside, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from hep_ray.convert.column_names import named_for
from hep_ray.convert.inputs import InputPart
from hep_ray.convert.readers import LeftOut, Part
from hep_ray.convert.readers.fields import ROW_INDEX
from hep_ray.convert.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.columns import DTYPES, EVENT_ID, RESERVED
from hep_ray.dataset.expressions import Expression, unknown
from hep_ray.errors import InvalidEvents, InvalidSchema

MOST_LISTED = 10
"""Fields or files that a message lists, at most."""

_ROW = re.compile(r"index|axis1|level_\d+|__index_level_\d+__|unnamed: ?\d+", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"(event|evt|run|lumi|lumi_?block|luminosity_?block|lumi_?section|orbit|entry|row|dsid|mc_?channel)"
    r"_?(id|no|nr|num|nb|number|idx|index)|event|evt|run|lumi|lumi_?block|luminosity_?block|lumi_?section|ls|bx|bcid|"
    r"bunch_?crossing|orbit|entry|row|id|uid|uuid|idx|number|seed|random_?seed|dsid|time_?stamp",
    re.IGNORECASE,
)
_CLEAR = re.compile(r".+_?(id|no|nr|num|number|idx|index|block|section)", re.IGNORECASE)
_WEIGHT = re.compile(r"^w$|(^|_)(wt|wgt|weights?)(_|\d*$)", re.IGNORECASE)


def identifier_like(name: str, *, whole: bool) -> bool:
    """Whether a field's name is that of a row number, or of run, event and such; `whole`: its values are whole."""
    return bool(_ROW.fullmatch(name) and whole) or bool(
        _IDENTIFIER.fullmatch(name) and (whole or _CLEAR.fullmatch(name))
    )


def weight_like(name: str) -> bool:
    """Whether a field's name is that of weights, such as `Weight`, `genWeight` or `mc_weight`."""
    return bool(_WEIGHT.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)))


def set_aside(part: Part, rules: SchemaFile, only: Sequence[str] = ()) -> dict[str, LeftOut]:
    """The fields of a part that become no column and are not used otherwise, with the reason."""
    if only:
        return {}
    used = _used(rules)
    aside = {name: why for name, why in part.left_out.items() if name not in used}
    for field in part.fields:
        name = field.name
        if name in used or name in aside:
            continue
        if name in RESERVED:
            aside[name] = LeftOut(
                f"the names {', '.join(RESERVED)} are reserved", f"--label {name} if it tells the class"
            )
        elif not is_numeric(field.type):
            aside[name] = LeftOut("text")
        elif shape_of(field.type, None) == () and (why := _no_feature(name, field.type, part)):
            aside[name] = why
    return aside


def _no_feature(name: str, kind: pa.DataType, part: Part) -> LeftOut | None:
    whole = pa.types.is_integer(kind) or name in part.whole
    if whole and _ROW.fullmatch(name):
        return ROW_INDEX
    if identifier_like(name, whole=bool(whole)):
        return LeftOut(
            "an identifier by its name",
            f'[event_id] fields = ["{name}"] of a schema file makes ids of it, --columns keeps it as a feature',
        )
    if weight_like(name):
        return LeftOut(
            "a weight by its name",
            f"--weight {name} weights the events by it, --columns keeps it as a feature",
        )
    return None


def _used(rules: SchemaFile) -> set[str]:
    """Fields that are label, id, weight or group, or decide the class."""
    roles = [rules.label.field, rules.weight, rules.group]
    where = [name for text in rules.label.where for name in Expression(text).names]
    return {EVENT_ID, *(name for name in roles if name), *rules.event_id.fields, *where}


def infer_columns(
    parts: Sequence[InputPart], rules: SchemaFile, only: Sequence[str] = (), missing: float | None = None
) -> tuple[ColumnRule, ...]:
    """One column for every numeric field (of those named in `only`) that is not the label or the id.

    Row numbers, identifiers and weights are no features unless they are named.

    Args:
        parts: of the inputs; all have the same fields.
        rules: of the conversion.
        only: names of fields.
        missing: takes the place of missing values.

    Raises:
        InvalidSchema: a field cannot become a column as it stands, or inputs lack fields that others have.
        InvalidEvents: a field is mostly numbers, and the others of its values cannot be read.
    """
    if only:
        only = [*only, *(name for name in (rules.weight, rules.group) if name and name not in only)]
    found = [_numeric_fields(one, rules, only) for one in parts]
    _check_agreement(parts, found)
    columns: list[ColumnRule] = []
    for name, field in found[0].items():
        dtypes = [_natural_dtype(fields[name].type) for fields in found]
        unit = (field.metadata or {}).get(b"unit", b"").decode()
        rule = ColumnRule(**named_for(name, columns), unit=unit, dtype=_common_dtype(dtypes), missing=missing)
        columns.append(rule)
    if not columns:
        fields = parts[0].part.fields.names
        aside = set_aside(parts[0].part, rules, only)
        reasons = "; ".join(f"'{name}' is {why.reason}" for name, why in aside.items())
        raise InvalidSchema(
            f"an input has numeric fields; there are: {', '.join(fields) or 'none'}"
            + f" ({reasons})" * bool(aside)
        )
    return tuple(columns)


def _numeric_fields(one: InputPart, rules: SchemaFile, only: Sequence[str]) -> dict[str, pa.Field]:
    part = one.part
    _check_chosen(one, only)
    aside = set_aside(part, rules, only)
    for name, why in aside.items():
        if why.refused:
            raise refusal(name, one.shown, why)
    taken = {*RESERVED, *aside, *(_used(rules) - {rules.weight, rules.group})}
    fields = {
        field.name: field
        for field in part.fields
        if field.name not in taken and is_numeric(field.type) and (not only or field.name in only)
    }
    for name, field in fields.items():
        if shape_of(field.type, None) is None:
            raise InvalidSchema(
                f"a list of variable length becomes a column by a schema file with pad_to, or is left out by "
                f"--columns; '{name}' is {field.type}"
            )
    return fields


def _check_chosen(one: InputPart, only: Sequence[str]) -> None:
    part = one.part
    for name in only:
        why = part.left_out.get(name)
        if why is not None and (why.refused or name not in part.fields.names):
            raise refusal(name, one.shown, why)
        if name not in part.fields.names:
            raise InvalidSchema(
                f"chosen columns are fields of the input; {one.shown}: {unknown(name, part.fields.names)}"
            )
        if not is_numeric(part.fields.field(name).type):
            raise InvalidSchema(
                f"a column is made of numbers; '{name}' of {one.shown} is {why.reason if why else 'text'}"
            )


def refusal(name: str, shown: str, why: LeftOut) -> InvalidEvents:
    """The error that says why a field is not read."""
    remedy = f"{why.remedy}; " if why.remedy else ""
    return InvalidEvents(
        f"a field cannot be read as it stands; '{name}' of {shown}: {why.reason}: {remedy}or take other fields "
        f"only: --columns"
    )


def _check_agreement(parts: Sequence[InputPart], found: Sequence[dict[str, pa.Field]]) -> None:
    """Refuse inputs of which some lack fields that others have."""
    everywhere = [name for name in found[0] if all(name in fields for fields in found)]
    lacking = []
    for name in dict.fromkeys(name for fields in found for name in fields):
        without = [one for one, fields in zip(parts, found, strict=True) if name not in fields]
        if without:
            why = without[0].part.left_out.get(name)
            files = _listed(one.shown for one in without)
            lacking.append(f"'{name}' is {why.reason if why else 'absent'} in {files}")
    if lacking:
        remedy = (
            f"the common ones are taken by --columns {','.join(everywhere)}"
            if everywhere
            else "none is common to all"
        )
        raise InvalidSchema(f"every input has the same fields; {_listed(sorted(lacking), '; ')}: {remedy}")


def _listed(words: Iterable[str], between: str = ", ") -> str:
    words = list(words)
    more = len(words) - MOST_LISTED
    return between.join(words[:MOST_LISTED]) + (f"{between}and {more} more" if more > 0 else "")


def _common_dtype(dtypes: Sequence[str]) -> str:
    """The dtype that holds the values of all inputs, whatever their order."""
    common = str(np.result_type(*dict.fromkeys(dtypes)))
    return "float32" if common == "float64" else common


def _natural_dtype(kind: pa.DataType) -> str:
    value = kind.value_type if hasattr(kind, "value_type") else kind
    name = str(np.dtype(value.to_pandas_dtype()))
    if name == "float64":
        return "float32"
    return name if name in DTYPES else "uint8"


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a type is of numbers or booleans, or of arrays or lists of them."""
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.value_type
    while pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def shape_of(kind: pa.DataType, pad_to: int | None) -> tuple[int, ...] | None:
    """Shape of one event's value; None for lists of variable length that are not padded."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size,)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return None if pad_to is None else (pad_to,)
    return ()
