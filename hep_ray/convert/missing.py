"""Values that are missing from an event: NaN, null, an empty cell, or a number that stands for one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.convert.column_names import field_of
from hep_ray.convert.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.columns import EVENT_ID
from hep_ray.dataset.expressions import Expression
from hep_ray.errors import InvalidEvents


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
