"""From the tables of an input to events of a dataset: columns, labels, ids, selection, missing values.

A value is missing where it is NaN, null, an empty cell, or a number that stands for one. It is filled where the rule
of its column says by what, else refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.conversion.columns import field_of
from hep_ray.conversion.external_sort import take
from hep_ray.conversion.field_values import field_values
from hep_ray.conversion.images import images_of_lists
from hep_ray.conversion.labels import BatchOrigin, labels_of
from hep_ray.conversion.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays, Column, EventSchema, all_finite
from hep_ray.dataset.values import offsets_of
from hep_ray.errors import InvalidEvents

Mask = npt.NDArray[np.bool_]


@dataclass
class Cut:
    """Loss of a column of lists by `cut`.

    Attributes:
        events: whose list was longer than the column's lists may be.
        items: of them that were left out.
        of_items: items that there were.
    """

    events: int = 0
    items: int = 0
    of_items: int = 0

    def add(self, other: Cut) -> None:
        """Add what other events have lost."""
        self.events += other.events
        self.items += other.items
        self.of_items += other.of_items


def assemble(
    batch: pa.RecordBatch,
    origin: BatchOrigin,
    rules: SchemaFile,
    columns: Sequence[ColumnRule],
    schema: EventSchema,
    cuts: dict[str, Cut] | None = None,
) -> dict[str, Any]:
    """Return the events of a batch that fulfil the selection, with their labels and, as Arrow strings, their ids.

    Args:
        batch: of the input.
        origin: of the batch.
        rules: of the conversion.
        columns: of the dataset.
        schema: of the dataset.
        cuts: gets what columns of lists lose by `cut`.

    Raises:
        InvalidEvents: a value is absent, outside its dtype, or belongs to no class; file and row are named.
        InvalidConfig: an expression does not suit its fields.
    """
    raw = {name: field_values(batch, name, origin) for name in batch.schema.names}
    rows = np.arange(batch.num_rows)
    keep = np.ones(batch.num_rows, dtype=bool)
    named = _named(raw, columns)
    _refuse_without(raw, _read_by([rules.selection], columns, raw), keep, origin)
    if rules.selection is not None:
        keep = Expression(rules.selection).mask(named, batch.num_rows)
    id_fields = rules.event_id.fields or ((EVENT_ID,) if EVENT_ID in raw else ())
    expressions = [*rules.label.where, *(column.expression for column in columns)]
    deciding = {*id_fields, rules.label.field, *_read_by(expressions, columns, raw)}
    _refuse_without(raw, deciding, keep, origin)
    labels, known = labels_of(named, origin, rules.label, schema, keep)
    keep &= known
    if not keep.all():
        raw, rows, labels = take(raw, keep), rows[keep], labels[keep]
    apart = [field_of(name, columns, raw) for name in (rules.split_by, rules.group) if name]
    _refuse_rounded(raw, {*id_fields, *apart}, rows, origin)
    for name in id_fields:
        if pa.types.is_integer(kind := batch.schema.field(name).type):
            raw[name] = np.asarray(raw[name]).astype(kind.to_pandas_dtype())
    arrays: dict[str, Any] = {
        LABEL: labels,
        EVENT_ID: _ids(raw, id_fields, rows, labels, origin, rules, schema),
    }
    for rule in columns:
        if rule.max_length is not None:
            arrays[rule.name], cut = _lists(raw, rule, schema, origin, rows, arrays[EVENT_ID])
            if cuts is not None:
                cuts.setdefault(rule.name, Cut()).add(cut)
            continue
        arrays.update(_column(raw, rule, schema, origin, rows, arrays[EVENT_ID]))
    _refuse_rounded(arrays, {rules.split_by, rules.group}, rows, origin)
    return arrays


def selected(
    batch: pa.RecordBatch, origin: BatchOrigin, selection: str, columns: Sequence[ColumnRule]
) -> Mask:
    """Return which events of a batch fulfil a selection, whose fields it has; see `assemble`."""
    raw = {name: field_values(batch, name, origin) for name in batch.schema.names}
    return Expression(selection).mask(_named(raw, columns), batch.num_rows)


def _named(raw: Mapping[str, Any], columns: Sequence[ColumnRule]) -> dict[str, Any]:
    """Return values by the names of their fields, and of columns that are made of one field alone."""
    names = {rule.name: field_of(rule.name, columns, raw) for rule in columns}
    return {column: raw[name] for column, name in names.items() if name in raw} | dict(raw)


def _ids(
    raw: Mapping[str, Any],
    fields: Sequence[str],
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    origin: BatchOrigin,
    rules: SchemaFile,
    schema: EventSchema,
) -> pa.Array:
    """Return the ids of events, (N,) Arrow strings: the values of fields, or the file's name and the row's number."""
    parts = [_as_text(raw[name]) for name in fields] or [_as_text(origin.start + rows)]
    name = pc.binary_join_element_wise(*parts, "/") if len(parts) > 1 else parts[0]
    if rules.event_id.as_is:
        return name
    before = "/" if rules.event_id.fields else f"/{origin.stem}/"
    classes = pa.array(schema.classes, pa.string()).take(pa.array(labels))
    return pc.binary_join_element_wise(classes, before, name, "")


def _as_text(values: Any) -> pa.Array:
    """Return values as Python writes them."""
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "iu":
        return pa.array(array).cast(pa.string())
    return pa.array(map(str, array.tolist()), pa.string())


def _read_by(texts: Iterable[str | None], columns: Sequence[ColumnRule], known: Collection[str]) -> set[str]:
    """Return fields without which expressions have no value.

    An expression that calls `isfinite` says itself what becomes of missing values.
    """
    expressions = [Expression(text) for text in texts if text]
    names = [name for one in expressions if "isfinite" not in one.functions for name in one.names]
    return {field_of(name, columns, known) for name in names}


def _refuse_without(
    raw: Mapping[str, Any], names: Collection[str | None], keep: Mask, origin: BatchOrigin
) -> None:
    """Refuse events, of those to be kept, without a value that decides their selection, class, id or a column."""
    for name in sorted(raw.keys() & names):
        values = raw[name]
        lost = _has_nan(values) & keep
        if lost.any():
            test = _finite(name, values.ndim - 1 if isinstance(values, np.ndarray) else 1)
            raise InvalidEvents(
                f"field '{name}' of {origin.at(int(lost.argmax()), name)} is empty: {_select(test)} "
                "leaves such events out, and those of NaN"
            )


def _refuse_rounded(
    given: Mapping[str, Any], names: Collection[str | None], rows: npt.NDArray[np.int64], origin: BatchOrigin
) -> None:
    """Refuse whole numbers that tell events apart where their floating-point type does not hold each."""
    for name in sorted(given.keys() & names):
        values = given[name]
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            continue
        most = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        large = (np.abs(values) >= most).reshape(len(values), -1).any(axis=1)
        if large.any() and (values == np.floor(values)).all():
            row = int(large.argmax())
            raise InvalidEvents(
                f"'{name}' of {origin.at(rows[row])} is {values.dtype}, which does not hold each whole number from "
                f"{most:.0f} on, and it tells events apart: make it an integer, in the file and by `dtype` of a schema "
                "file, or name another field"
            )


def _has_nan(values: Any) -> Mask:
    """Return which of N events have a value that is NaN; texts have none."""
    if not isinstance(values, np.ndarray):
        import awkward

        return np.asarray(awkward.any(np.isnan(values), axis=-1))
    if values.dtype.kind != "f":
        return np.zeros(len(values), dtype=bool)
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1))


def _finite(text: str, axes: int) -> str:
    """Return the test that a field or expression has every value in an event, where it has so many axes."""
    plain = re.fullmatch(r"\w+(\.\w+)*", text) or any(mark in text for mark in "`()")
    test = f"isfinite({text if plain else f'`{text}`'})"
    return "all(" * axes + test + ")" * axes


def _select(test: str) -> str:
    """Return the option that keeps events which fulfil a test, as a shell takes it."""
    return f"--select '{test}'" if "`" in test else f'--select "{test}"'


def _column(
    raw: Mapping[str, Any],
    rule: ColumnRule,
    schema: EventSchema,
    origin: BatchOrigin,
    rows: npt.NDArray[np.int64],
    ids: pa.Array,
) -> Arrays:
    """Return the column of a rule, and the one that tells which values were missing, if it has one."""
    column = schema.column(rule.name)
    if rule.image is not None:
        image = images_of_lists(raw, rule, rule.image, origin, rows)
        return {rule.name: _cast(image, column, origin, rows)}
    if rule.expression is not None:
        try:
            values: npt.NDArray[Any] = np.asarray(Expression(rule.expression).evaluate(raw))
        except ValueError:
            raise InvalidEvents(
                f"the expression '{rule.expression}' of column '{rule.name}' gives lists of variable length: sum, "
                "largest and such make one value of each"
            ) from None
        values = np.broadcast_to(values, (len(rows), *values.shape[1:]))
    else:
        stacked = [np.asarray(raw[name]) for name in rule.reads] if rule.pad_to is None else []
        if rule.pad_to is not None:
            import awkward as ak

            padded = [ak.pad_none(raw[name], rule.pad_to, axis=1, clip=True) for name in rule.reads]
            stacked = [np.asarray(ak.to_numpy(ak.fill_none(lists, rule.pad_value))) for lists in padded]
        values = np.stack(stacked, axis=-1) if len(stacked) > 1 else stacked[0]
    if values.size != len(rows) * int(np.prod(column.shape)):
        raise InvalidEvents(
            f"{origin.shown} gives column '{column.name}' the shape {values.shape[1:]}; it is {column.shape} elsewhere"
        )
    values = values.reshape(len(rows), *column.shape)
    if values.dtype.kind not in "biuf":
        raise InvalidEvents(f"{origin.shown} gives column '{column.name}' {values.dtype} and no numbers")
    missing = _missing(values, rule)
    if missing is not None and missing.any():
        if rule.missing is None:
            raise _refused(missing, rule, origin, rows, ids)
        fill = float(rule.missing)
        kind = np.int64 if values.dtype.kind != "f" and fill.is_integer() else np.float64
        values = np.where(missing, kind(fill), values.astype(kind))
    arrays = {rule.name: _cast(values, column, origin, rows)}
    if rule.indicator is not None:
        absent = np.zeros(values.shape, dtype=bool) if missing is None else missing
        arrays[rule.indicator] = absent.astype(np.uint8)
    return arrays


def _missing(values: npt.NDArray[Any], rule: ColumnRule) -> Mask | None:
    """Return which values are NaN or stand for a missing one; None where it is soon seen that none is."""
    if not rule.sentinels and all_finite(values):
        return None
    missing: Mask = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    for sentinel in rule.sentinels:
        missing |= values == (values.dtype.type(sentinel) if values.dtype.kind == "f" else sentinel)
    return missing


def _lists(
    raw: Mapping[str, Any],
    rule: ColumnRule,
    schema: EventSchema,
    origin: BatchOrigin,
    rows: npt.NDArray[np.int64],
    ids: pa.Array,
) -> tuple[npt.NDArray[Any], Cut]:
    """Return the column of lists of a rule, (N, L, F) with NaN where no item is, and what it lost.

    Raises:
        InvalidEvents: a list is longer than the column's, lists of an event differ in length, or a value is missing.
    """
    column = schema.column(rule.name)
    most, size = column.shape
    lengths, items = _items(raw, rule, origin, rows)
    long = lengths > most
    if long.any() and not rule.cut:
        row = int(lengths.argmax())
        raise InvalidEvents(
            f"column '{rule.name}' has lists longer than its max_length = {most}: {int(lengths[row])} items in "
            f"{origin.at(rows[row], rule.reads[0])}, and too many in {int(long.sum()) - 1} more of {len(rows)} events "
            f"read together: state max_length = {int(lengths[row])} or more, or cut = true, which keeps the "
            f"first {most} items of such lists"
        )
    missing = _missing(items, rule)
    if missing is not None and missing.any():
        if rule.missing is None:
            row = int(np.repeat(np.arange(len(rows)), lengths)[missing.any(axis=1).argmax()])
            raise InvalidEvents(
                f"an item of column '{rule.name}' of event '{origin.prefix}{ids[row]}' has no value: "
                f"{origin.at(rows[row], rule.reads[0])}: {origin.fills} fills such values"
            )
        items = np.where(missing, float(rule.missing), items.astype(np.float64))
    values = np.full((len(rows), most, size), np.nan, column.dtype)
    kept = np.arange(len(items)) - np.repeat(offsets_of(lengths)[:-1], lengths) < most
    present = np.arange(most) < lengths[:, None]
    values[present] = _cast(items[kept], column, origin, np.repeat(rows, np.minimum(lengths, most)))
    lost = int((lengths - most)[long].sum())
    return values, Cut(int(long.sum()), lost, int(lengths.sum()))


def _items(
    raw: Mapping[str, Any], rule: ColumnRule, origin: BatchOrigin, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return how many items each event has, and all of them one after the other, (M, F)."""
    import awkward as ak

    found: list[npt.NDArray[Any]] = []
    lengths: npt.NDArray[np.int64] | None = None
    for name in rule.reads:
        if rule.count is not None:
            padded = np.asarray(raw[name])
            own = np.asarray(raw[rule.count]).astype(np.int64)
            wrong = (own < 0) | (own > padded.shape[1]) | (own != np.asarray(raw[rule.count]))
            if wrong.any():
                row = int(wrong.argmax())
                raise InvalidEvents(
                    f"'{rule.count}' counts the items of '{name}', which has room for {padded.shape[1]}; it is "
                    f"{raw[rule.count][row]} in {origin.at(rows[row], rule.count)}"
                )
            items = padded[np.arange(padded.shape[1]) < own[:, None]]
        else:
            own = np.asarray(ak.num(raw[name], axis=1)).astype(np.int64)
            items = np.asarray(ak.to_numpy(ak.flatten(raw[name], axis=1)))
        if lengths is not None and (differ := own != lengths).any():
            row = int(differ.argmax())
            raise InvalidEvents(
                f"the fields of column '{rule.name}' have lists of different lengths in one event: "
                f"'{rule.reads[0]}' {lengths[row]} and '{name}' {own[row]} in {origin.at(rows[row], name)}"
            )
        lengths = own
        found.append(items.reshape(len(items), -1))
    assert lengths is not None
    return lengths, np.concatenate(found, axis=1)


def _refused(
    missing: Mask,
    rule: ColumnRule,
    origin: BatchOrigin,
    rows: npt.NDArray[np.int64],
    ids: pa.Array,
) -> InvalidEvents:
    """Return the error that names the first event without a value, and what to type."""
    without = missing.reshape(len(missing), -1).any(axis=1)
    row = int(without.argmax())
    if rule.expression:
        name, tested = rule.reads[0] if len(rule.reads) == 1 else "", [rule.expression]
    else:  # several fields stand beside each other along the last axis
        place = int(missing[row].reshape(-1, len(rule.reads)).any(axis=0).argmax())
        name, tested = rule.reads[place], list(rule.sources) if len(rule.sources) > 1 else [rule.name]
    tests = " and ".join(_finite(one, missing.ndim - 1 if len(tested) == 1 else 0) for one in tested)
    return InvalidEvents(
        f"column '{rule.name}' of event '{origin.prefix}{ids[row]}' has no value: {origin.at(rows[row], name)}, "
        f"and {int(without.sum()) - 1} more of {len(missing)} events read together: {origin.fills} fills such values; "
        f"{_select(tests)} leaves such events out"
    )


def _cast(
    values: npt.NDArray[Any], column: Column, origin: BatchOrigin, rows: npt.NDArray[np.int64]
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
        wide = "int64" if float(value).is_integer() and abs(value) < 2**53 else "float64"
        raise InvalidEvents(
            f"{value!r} of {origin.at(rows[row])} does not fit column '{column.name}', which is "
            f"{column.dtype}: fill missing values by one that does, or state a dtype that holds it, in a schema file, "
            f'`dtype = "{wide}"`'
        )
    return cast
