"""What one event is: its columns, and the classes it may belong to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from hep_ray.config import Config
from hep_ray.dataset.columns import EVENT_ID, LABEL, Arrays, Column
from hep_ray.errors import InvalidEvents, InvalidSchema

__all__ = ["EVENT_ID", "LABEL", "Arrays", "Column", "EventSchema"]

_CLASS_NAME = re.compile(r"[A-Za-z0-9_+-]+")


class EventSchema(Config):
    """Columns and classes of a dataset.

    Attributes:
        task: name of the classification task, such as `mbh_sph`.
        columns: at least one, with distinct names.
        classes: two or more distinct names of letters, digits, `_`, `+` and `-`; a label indexes them.
        class_meaning: class name → one sentence for people; may leave classes out.
        signal: the class counted as signal in efficiencies and rejections; the last one unless given.
        weight: the scalar column of sample weights (at least 0), if there is one; no model sees it.
        group: the scalar integer column that divides the events, such as into regions of |eta|, if there is
            one; no model sees it.

    Raises:
        InvalidSchema: one of these rules is broken.
    """

    task: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...]
    class_meaning: dict[str, str] = Field(default_factory=dict)
    signal: str = Field(default_factory=lambda fields: fields["classes"][-1])
    weight: str | None = None
    group: str | None = None

    @field_validator("columns")
    @classmethod
    def _distinct_columns(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        if not names or len(set(names)) < len(names):
            raise InvalidSchema(f"a schema has one or more columns with distinct names; got {names}")
        return columns

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) < 2 or len(set(classes)) < len(classes):  # noqa: PLR2004
            raise InvalidSchema(f"a schema has two or more distinct classes; got {list(classes)}")
        for name in classes:
            if not _CLASS_NAME.fullmatch(name):
                raise InvalidSchema(f"a class name is letters, digits, '_', '+' and '-'; got '{name}'")
        return classes

    @model_validator(mode="after")
    def _known_classes(self) -> EventSchema:
        for name in (self.signal, *self.class_meaning):
            if name not in self.classes:
                raise InvalidSchema(f"signal and class_meaning name classes {self.classes}; got '{name}'")
        return self

    @model_validator(mode="after")
    def _known_roles(self) -> EventSchema:
        for role, kinds in (("weight", "f"), ("group", "iu")):
            name = getattr(self, role)
            if name is None:
                continue
            column = self.column(name)
            if column.shape or np.dtype(column.dtype).kind not in kinds:
                kind = {"f": "floating-point", "iu": "integer"}[kinds]
                raise InvalidSchema(
                    f"the {role} is a scalar {kind} column; '{name}' is {column.dtype} of shape {column.shape}"
                )
        if not self.inputs:
            raise InvalidSchema("a schema has a column that models may read, beside the weight and the group")
        return self

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns that a model may read: all but the weight and the group."""
        return tuple(column for column in self.columns if column.name not in {self.weight, self.group})

    @property
    def signal_index(self) -> int:
        """The label of the signal class."""
        return self.classes.index(self.signal)

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            InvalidSchema: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns)
        raise InvalidSchema(f"a column must be in the schema ({known}); got '{name}'")

    def quantities(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """What an expression over events may name: the columns, and the named elements of columns.

        An element whose name is that of a column, or of an earlier element, is hidden by it.
        """
        elements = {
            element: arrays[column.name][..., place]
            for column in reversed(self.columns)
            for place, element in enumerate(column.elements)
        }
        return elements | {column.name: arrays[column.name] for column in self.columns}

    def arrow(self, sparse: Collection[str] = ()) -> pa.Schema:
        """The schema of every shard: `event_id`, `label`, then the columns, units as field metadata.

        Args:
            sparse: columns that are stored without their zeros.
        """
        return pa.schema(
            [
                pa.field(EVENT_ID, pa.string(), nullable=False),
                pa.field(LABEL, pa.int64(), nullable=False),
                *(
                    pa.field(
                        column.name,
                        column.sparse_type if column.name in sparse else column.arrow_type,
                        nullable=False,
                        metadata=column.metadata,
                    )
                    for column in self.columns
                ),
            ]
        )

    def encode(self, arrays: Mapping[str, npt.NDArray[Any]], sparse: Collection[str] = ()) -> pa.RecordBatch:
        """Numpy events, already `checked`, as an Arrow record batch."""
        return pa.record_batch(
            [
                pa.array(arrays[EVENT_ID], pa.string()),
                pa.array(arrays[LABEL]),
                *(
                    (column.sparse_type.encode if column.name in sparse else column.to_arrow)(
                        arrays[column.name]
                    )
                    for column in self.columns
                ),
            ],
            schema=self.arrow(sparse),
        )

    def decode(self, batch: pa.RecordBatch) -> Arrays:
        """An Arrow record batch as numpy: `event_id` (N,) objects, `label` (N,) int64, columns (N, *shape).

        Raises:
            InvalidEvents: a column is absent, of another type, or holds nulls.
        """
        arrays: Arrays = {}
        for field in self.arrow():
            if field.name not in batch.schema.names:
                raise InvalidEvents(f"every event has the column '{field.name}'; got {batch.schema.names}")
            values = batch.column(field.name)
            known = (
                field.type,
                *(column.sparse_type for column in self.columns if column.name == field.name),
            )
            if values.type not in known or values.null_count:
                raise InvalidEvents(
                    f"column '{field.name}' is {field.type} without nulls; "
                    f"got {values.type} with {values.null_count} nulls"
                )
            if field.name == EVENT_ID:
                arrays[EVENT_ID] = np.array(values.to_pylist(), dtype=object)
            elif field.name == LABEL:
                arrays[LABEL] = values.to_numpy()
            else:
                arrays[field.name] = self.column(field.name).to_numpy(values)
        return arrays

    def checked(self, arrays: Mapping[str, Any]) -> Arrays:
        """The same events, once they are known to obey the schema.

        Args:
            arrays: `event_id` (N,) strings, `label` (N,) integers, and every column (N, *shape) in its dtype.

        Raises:
            InvalidEvents: a column is missing or unknown; a shape, dtype or length differs; a label is
                outside the classes; a value is NaN or infinite. The message names the first event.
        """
        expected = [EVENT_ID, LABEL, *(column.name for column in self.columns)]
        if set(arrays) != set(expected):
            raise InvalidEvents(f"events have exactly the columns {expected}; got {sorted(arrays)}")
        event_ids = np.asarray(arrays[EVENT_ID], dtype=object)
        for row, event_id in enumerate(event_ids):
            if not isinstance(event_id, str) or not event_id:
                raise InvalidEvents(f"an event id is a string that is not empty; row {row} has {event_id!r}")
        columns = {
            column.name: column.checked(np.asarray(arrays[column.name]), event_ids) for column in self.columns
        }
        if self.weight is not None and (negative := columns[self.weight] < 0).any():
            row = int(negative.argmax())
            raise InvalidEvents(
                f"a sample weight is at least 0; '{self.weight}' of event '{event_ids[row]}' is "
                f'{columns[self.weight][row]}: train on its size by `expression = "abs({self.weight})"` for a '
                f"column of another name in a schema file, or leave such events out by --select "
                f'"{self.weight} > 0"'
            )
        return {
            EVENT_ID: event_ids,
            LABEL: self._checked_labels(np.asarray(arrays[LABEL]), event_ids),
            **columns,
        }

    def _checked_labels(self, labels: npt.NDArray[Any], event_ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if labels.shape != event_ids.shape or labels.dtype.kind not in "iu":
            raise InvalidEvents(
                f"labels are one integer for each of {len(event_ids)} events; "
                f"got {labels.dtype} {labels.shape}"
            )
        outside = (labels < 0) | (labels >= len(self.classes))
        if outside.any():
            row = int(outside.argmax())
            raise InvalidEvents(
                f"a label is an index into the {len(self.classes)} classes ({', '.join(self.classes)}); "
                f"event '{event_ids[row]}' has {labels[row]}"
            )
        return labels.astype(np.int64, copy=False)
