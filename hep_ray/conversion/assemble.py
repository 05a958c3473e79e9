"""From the tables of an input to events of a dataset: columns, labels, ids, selection."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.conversion.columns import field_of, is_numeric
from hep_ray.conversion.external_sort import take
from hep_ray.conversion.labels import Origin, labels_of
from hep_ray.conversion.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays, Column, EventSchema
from hep_ray.errors import InvalidEvents


def assemble(
    batch: pa.RecordBatch,
    origin: Origin,
    rules: SchemaFile,
    columns: Sequence[ColumnRule],
    schema: EventSchema,
) -> Arrays:
    """The events of a batch that fulfil the selection, with their labels and ids.

    Raises:
        InvalidEvents: a value is absent, outside its dtype, or belongs to no class; file and row are named.
        InvalidConfig: an expression does not suit its fields.
    """
    raw = {name: _values(batch, name, origin) for name in batch.schema.names}
    rows = origin.start + np.arange(batch.num_rows)
    keep = np.ones(batch.num_rows, dtype=bool)
    named = {
        rule.name: raw[name] for rule in columns if (name := field_of(rule.name, columns, raw)) in raw
    } | raw
    _refuse_without(raw, fields_of_selection(rules, columns, raw), keep, origin)
    if rules.selection is not None:
        keep = Expression(rules.selection).mask(named, batch.num_rows)
    _refuse_without(raw, fields_of_kept(rules, columns, raw), keep, origin)
    labels, known = labels_of(named, origin, rules.label, schema, keep)
    keep &= known
    if not keep.all():
        raw, rows, labels = take(raw, keep), rows[keep], labels[keep]
    for name in rules.event_id.fields or ((EVENT_ID,) if EVENT_ID in raw else ()):
        if pa.types.is_integer(batch.schema.field(name).type):
            raw[name] = np.asarray(raw[name]).astype(batch.schema.field(name).type.to_pandas_dtype())
    arrays: Arrays = {LABEL: labels, EVENT_ID: _event_ids(raw, rows, labels, origin, rules, schema)}
    for rule in columns:
        arrays.update(_column(raw, rule, schema, origin, rows, arrays[EVENT_ID]))
    return arrays


def _values(batch: pa.RecordBatch, name: str, origin: Origin) -> Any:
    """The values of a field as numpy or awkward; missing numbers are NaN."""
    values = batch.column(name)
    kind = values.type
    nested = isinstance(kind, pa.ExtensionType) or pa.types.is_nested(kind)
    if values.null_count and (nested or not is_numeric(kind)):
        row = origin.start + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidEvents(
            f"every event has every value; field '{name}' of {origin.at(row, name)} is empty: fill it in the file, or "
            "leave such events out of it"
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
        except pa.ArrowInvalid as fault:
            raise InvalidEvents(
                f"whole numbers beside missing ones are below 2^53; field '{name}' of {origin.shown}: {fault}"
            ) from None
    return values.to_numpy(zero_copy_only=False)


def _refuse_without(
    raw: Mapping[str, Any], names: frozenset[str], keep: npt.NDArray[np.bool_], origin: Origin
) -> None:
    """Refuse events without a value that decides something.

    Args:
        raw: the fields.
        names: of those that decide.
        keep: (N,) the events that are looked at.
        origin: of the events.
    """
    for name in sorted(names & raw.keys()):
        values = raw[name]
        lost = _has_nan(values) & keep
        if lost.any():
            test = finite(name, flat=isinstance(values, np.ndarray) and values.ndim == 1)
            raise InvalidEvents(
                f"every event has every value that decides; field '{name}' of "
                f"{origin.at(origin.start + int(lost.argmax()), name)} is empty: {selects(test)} leaves such "
                "events out, and those of NaN"
            )


def _has_nan(values: Any) -> npt.NDArray[np.bool_]:
    """Which of N events have a value that is NaN; texts have none."""
    if not isinstance(values, np.ndarray):
        import awkward

        return np.asarray(awkward.any(np.isnan(values), axis=-1))
    if values.dtype.kind != "f":
        return np.zeros(len(values), dtype=bool)
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1))


def _column(
    raw: Mapping[str, Any],
    rule: ColumnRule,
    schema: EventSchema,
    origin: Origin,
    rows: npt.NDArray[np.int64],
    ids: npt.NDArray[Any],
) -> Arrays:
    """The column of a rule, and the one that tells which values were missing, if it has one."""
    column = schema.column(rule.name)
    if rule.expression is not None:
        values = _plain(Expression(rule.expression).evaluate(raw), rule)
        values = np.broadcast_to(values, (len(rows), *values.shape[1:]))
    else:
        pieces = [_padded(raw[name], rule) for name in rule.reads]
        values = np.stack(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
    if values.size != len(rows) * int(np.prod(column.shape)):
        raise InvalidEvents(
            f"column '{column.name}' has shape {column.shape} in every event; {origin.shown} gives {values.shape[1:]}"
        )
    values = values.reshape(len(rows), *column.shape)
    if values.dtype.kind not in "biuf":
        raise InvalidEvents(
            f"column '{column.name}' is made of numbers; those of {origin.shown} are {values.dtype}"
        )
    missing = missing_values(values, rule)
    if rule.missing is None:

        def shown(row: int, name: str) -> tuple[str, str]:
            return f"{origin.prefix}{ids[row]}", origin.at(int(rows[row]), name)

        refuse_missing(values, missing, rule, shown, origin.fills)
    elif missing.any():
        values = filled(values, missing, rule.missing)
    arrays = {rule.name: _cast(values, column, origin, rows)}
    if rule.indicator is not None:
        arrays[rule.indicator] = missing.astype(np.uint8)
    return arrays


def _plain(values: Any, rule: ColumnRule) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:
        raise InvalidEvents(
            f"an expression gives as many values in every event; column '{rule.name}', '{rule.expression}', gives "
            f"lists of variable length: sum, largest and such make one value of each"
        ) from None


def _padded(values: Any, rule: ColumnRule) -> npt.NDArray[Any]:
    if rule.pad_to is None:
        return np.asarray(values)
    import awkward

    lists = awkward.fill_none(awkward.pad_none(values, rule.pad_to, axis=1, clip=True), rule.pad_value)
    padded: npt.NDArray[Any] = awkward.to_numpy(lists)
    return padded


def _cast(
    values: npt.NDArray[Any], column: Column, origin: Origin, rows: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    dtype = np.dtype(column.dtype)
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
        lost = np.isfinite(values) & ~np.isfinite(cast) if dtype.kind == "f" else cast != values
    if lost.any():
        row = int(lost.reshape(len(rows), -1).any(axis=1).argmax())
        value = values[lost][0].item()
        raise InvalidEvents(
            f"column '{column.name}' is {column.dtype}; a value of {origin.shown}, row {rows[row]} does not fit, "
            f"{value!r}: fill missing values by one that does, or state a dtype that holds it, in a schema file, "
            f'`dtype = "{_wide(value)}"`'
        )
    return cast


def _wide(value: float) -> str:
    """A dtype that holds a value."""
    return "int64" if float(value).is_integer() and abs(value) < 2**53 else "float64"


def _event_ids(
    raw: Mapping[str, Any],
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    origin: Origin,
    rules: SchemaFile,
    schema: EventSchema,
) -> npt.NDArray[Any]:
    fields = rules.event_id.fields or ((EVENT_ID,) if EVENT_ID in raw else ())
    names = (
        zip(*(np.asarray(raw[field]).tolist() for field in fields), strict=True)
        if fields
        else rows[:, None].tolist()
    )
    if rules.event_id.as_is:
        return np.array(["/".join(map(str, name)) for name in names], dtype=object)
    prefix = "" if rules.event_id.fields else f"{origin.stem}/"
    ids = [
        f"{schema.classes[label]}/{prefix}{'/'.join(map(str, name))}"
        for label, name in zip(labels.tolist(), names, strict=True)
    ]
    return np.array(ids, dtype=object)


def missing_values(values: npt.NDArray[Any], rule: ColumnRule) -> npt.NDArray[np.bool_]:
    """Which values are missing, in the shape of the values."""
    missing: npt.NDArray[np.bool_] = (
        np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    )
    for sentinel in rule.sentinels:
        missing |= values == (values.dtype.type(sentinel) if values.dtype.kind == "f" else sentinel)
    return missing


def filled(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_], value: float) -> npt.NDArray[Any]:
    """The values, with another in place of those that are missing."""
    if values.dtype.kind == "f":
        return np.where(missing, value, values.astype(np.float64))
    return (
        np.where(missing, int(value), values.astype(np.int64))
        if value.is_integer()
        else np.where(missing, value, values)
    )


def finite(text: str, *, flat: bool) -> str:
    """The test that a field or expression has a value in an event; `flat`: it is one number."""
    plain = re.fullmatch(r"\w+(\.\w+)*", text) or any(mark in text for mark in "`()")
    test = f"isfinite({text if plain else f'`{text}`'})"
    return test if flat else f"all({test})"


def selects(test: str) -> str:
    """The option that keeps events which fulfil a test, as a shell takes it."""
    return f"--select '{test}'" if "`" in test else f'--select "{test}"'


def refuse_missing(
    values: npt.NDArray[Any],
    missing: npt.NDArray[np.bool_],
    rule: ColumnRule,
    shown: Callable[[int, str], tuple[str, str]],
    fills: str,
) -> None:
    """Refuse values that are missing.

    Args:
        values: (N, ...)
        missing: which of them are, in their shape.
        rule: of the column.
        shown: id of one of the N events, and where its value of a field stands, or where it does itself for no field.
        fills: what fills missing values.

    Raises:
        InvalidEvents: one is; the message names its row, and what to type.
    """
    if not missing.any():
        return
    without = missing.reshape(len(values), -1).any(axis=1)
    row = int(without.argmax())
    if len(rule.reads) == 1:
        name = rule.reads[0]
    elif rule.expression:
        name = ""
    else:  # fields stand beside each other along the last axis
        name = rule.reads[int(missing[row].reshape(-1, len(rule.reads)).any(axis=0).argmax())]
    flat = values.ndim == 1
    tested = (
        (rule.expression,) if rule.expression else (rule.sources if len(rule.sources) > 1 else (rule.name,))
    )
    tests = " and ".join(finite(one, flat=flat or len(tested) > 1) for one in tested)
    event_id, place = shown(row, name)
    raise InvalidEvents(
        f"values are finite numbers; column '{rule.name}' of event '{event_id}' has none: {place}, and "
        f"{int(without.sum()) - 1} more of {len(values)} events read together: {fills} fills such values; "
        f"{selects(tests)} leaves such events out"
    )


def fields_of_selection(
    rules: SchemaFile, columns: Sequence[ColumnRule], known: Collection[str]
) -> frozenset[str]:
    """Fields that every event has, since the selection reads them.

    An expression that calls `isfinite` says itself what becomes of missing values.
    """
    return _read_by([rules.selection], columns, known)


def fields_of_kept(
    rules: SchemaFile, columns: Sequence[ColumnRule], known: Collection[str]
) -> frozenset[str]:
    """Fields that every selected event has: they decide its class or id, or a column is worked out from them."""
    own = [*(rules.event_id.fields or (EVENT_ID,)), *([rules.label.field] if rules.label.field else [])]
    texts = [*rules.label.where, *(column.expression for column in columns)]
    return frozenset([*own, *_read_by(texts, columns, known)])


def _read_by(
    texts: Iterable[str | None], columns: Sequence[ColumnRule], known: Collection[str]
) -> frozenset[str]:
    expressions = [Expression(text) for text in texts if text]
    names = [name for one in expressions if "isfinite" not in one.functions for name in one.names]
    return frozenset(field_of(name, columns, known) for name in names)
