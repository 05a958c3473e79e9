"""From the tables of an input to events of a dataset: columns, labels, ids, selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.data.columns import EVENT_ID, LABEL, Arrays, Column
from hep_ray.data.events import EventSchema
from hep_ray.data.expressions import Expression
from hep_ray.data.runs import take
from hep_ray.data.schema_file import ColumnRule, LabelRule, SchemaFile
from hep_ray.errors import InvalidEvents


@dataclass(frozen=True)
class Origin:
    """Where a batch comes from.

    Attributes:
        stem: file name without its endings, of which ids are made.
        shown: path and part, for messages.
        part: name of the part.
        label: the class, where the file or the part decides it.
        start: number of the first row within the part.
    """

    stem: str
    shown: str
    part: str
    label: int | None
    start: int


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
    if rules.selection is not None:
        keep = Expression(rules.selection).mask(raw, batch.num_rows)
    labels, known = _labels(raw, origin, rules.label, schema, keep)
    keep &= known
    if not keep.all():
        raw, rows, labels = take(raw, keep), rows[keep], labels[keep]
    arrays: Arrays = {LABEL: labels}
    for rule in columns:
        arrays[rule.name] = _column(raw, rule, schema.column(rule.name), origin, rows)
    arrays[EVENT_ID] = _event_ids(raw, rows, labels, origin, rules, schema)
    return arrays


def _values(batch: pa.RecordBatch, name: str, origin: Origin) -> Any:
    values = batch.column(name)
    if values.null_count:
        row = origin.start + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidEvents(
            f"every event has every value; field '{name}' of {origin.shown}, row {row} is empty"
        )
    kind = values.type
    if isinstance(kind, pa.FixedShapeTensorType):
        flat = values.storage.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(values), *kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        import awkward

        return awkward.from_arrow(values)
    return values.to_numpy(zero_copy_only=False)


def _labels(
    raw: Mapping[str, Any], origin: Origin, rule: LabelRule, schema: EventSchema, keep: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Labels, and which events have one."""
    events = len(keep)
    if rule.from_ in {"file", "part"}:
        return np.full(events, origin.label, dtype=np.int64), np.ones(events, dtype=bool)
    if rule.from_ == "where":
        fulfilled = np.array([Expression(text).mask(raw, events) for text in rule.where])
        several = (fulfilled.sum(axis=0) > 1) & keep
        if several.any():
            row = int(several.argmax())
            both = [schema.classes[index] for index in np.flatnonzero(fulfilled[:, row])]
            raise InvalidEvents(
                f"an event fulfils the expression of one class; {origin.shown}, row {origin.start + row} "
                f"fulfils those of {', '.join(both)}"
            )
        return fulfilled.argmax(axis=0).astype(np.int64), np.asarray(fulfilled.any(axis=0))
    values: npt.NDArray[Any] = np.asarray(raw[str(rule.field)])
    wanted = rule.values or tuple(range(len(schema.classes)))
    matches: npt.NDArray[np.bool_] = np.array([values == value for value in wanted]).reshape(
        len(wanted), events
    )
    stray = ~matches.any(axis=0) & keep
    if stray.any():
        row = int(stray.argmax())
        raise InvalidEvents(
            f"the field '{rule.field}' is one of {list(wanted)}; in {origin.shown}, row {origin.start + row} "
            f"it is {values[row]!r}"
        )
    return matches.argmax(axis=0).astype(np.int64), np.ones(events, dtype=bool)


def _column(
    raw: Mapping[str, Any], rule: ColumnRule, column: Column, origin: Origin, rows: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    if rule.expression is not None:
        values = np.asarray(Expression(rule.expression).evaluate(raw))
        values = np.broadcast_to(values, (len(rows), *values.shape[1:]))
    else:
        pieces = [_padded(raw[name], rule) for name in rule.reads]
        values = np.stack(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
    if values.size != len(rows) * int(np.prod(column.shape)):
        raise InvalidEvents(
            f"column '{column.name}' has shape {column.shape} in every event; {origin.shown} gives {values.shape[1:]}"
        )
    return _cast(values.reshape(len(rows), *column.shape), column, origin, rows)


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
        raise InvalidEvents(
            f"column '{column.name}' is {column.dtype}; a value of {origin.shown}, row {rows[row]} does not fit"
        )
    return cast


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
