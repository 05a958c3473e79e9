"""One measured quantity of an event, in numpy and in Arrow.

Shape suffixes: N events, H and W the pixels of an image (axis 0 phi, axis 1 eta), C its channels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from hep_ray.config import Config
from hep_ray.dataset.values import (
    ListColumn,
    SparseType,
    compact,
    encode_lists,
    list_type,
    mask_of,
    pays_sparse,
)
from hep_ray.dataset.variations import Variation, check_name
from hep_ray.errors import InvalidEvents, InvalidSchema

EVENT_ID = "event_id"
LABEL = "label"
ORIGIN = "origin_class"
"""Column of the classes that events had before some were made one, which no model sees."""
IN_TEST_FILE = "in_test_file"
"""Column that is 1 for the events of a given test file and 0 for others, which no model sees."""
RESERVED = (EVENT_ID, LABEL, "split")
DTYPES = (
    *("float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

IMAGE_AXES = 2
LIST_AXES = 2

_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Arrays = dict[str, npt.NDArray[Any]]
"""Events as numpy: one array of N rows per column, beside `event_id` and `label`."""


def legal_name(field: str) -> str:
    """Return the name of a column for a field of any name, such as `MissingET_MET` for `MissingET.MET`.

    Other marks than letters, digits and underscores become underscores, none of them at an end; empty where nothing is
    left.
    """
    if _COLUMN_NAME.fullmatch(field):
        return field
    name = re.sub("[^A-Za-z0-9_]+", "_", field).strip("_")
    return f"_{name}" if name[:1].isdigit() else name


class Column(Config):
    """One measured quantity of an event.

    Attributes:
        name: an identifier; `event_id`, `label` and `split` are reserved.
        shape: of one event's value, `()` for a scalar, `(H, W, C)` for an image.
        dtype: numpy name of a number type, such as `float32`.
        unit: unit of the values, such as `GeV`; empty when they have none.
        elements: names along the last axis, such as the channels of an image or the features of a vector;
            empty when they have none.
        element_units: a unit for each element, where they differ; otherwise empty.
        axes: names of the first two axes of an image: `phi` and `eta` in their order, or `delta_phi` and `delta_eta`
            in a window around a jet or a candidate, or others; empty where nobody said, which is drawn as φ, η and
            neither turned nor reflected. A column of rank 2 is an image if it names them.
        lists: a value is a list of varying length, of at most `shape[0]` items with `shape[1]` floating-point values
            each, such as the constituents of a jet (`hep_ray.dataset.values`).
        missing: whether NaN stands for values that are missing, of a floating-point column; it is refused otherwise.
        sentinels: values that stood for missing ones in the input, and do so in what is predicted.
        fill: number that took the place of missing values in the input, and does so in what is predicted.
        padding: number that shorter lists of the input were filled up with, to one length; None where none were, or
            where nobody knows, as of datasets made before this was kept.
        categories: what the values 0, 1, … of a scalar integer column stand for, such as the classes that a class was
            made of; empty where they are numbers.

    Raises:
        InvalidSchema: the name, the shape, the dtype or the elements are not one of those.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    unit: str = ""
    elements: tuple[str, ...] = ()
    element_units: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    lists: bool = False
    missing: bool = False
    sentinels: tuple[float, ...] = ()
    fill: float | None = None
    padding: float | None = None
    categories: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Column:
        if self.missing and np.dtype(self.dtype if self.dtype in DTYPES else "f4").kind != "f":
            raise InvalidSchema(
                f"column '{self.name}' is {self.dtype}, which has no NaN to stand for a missing value: make it float32"
            )
        if not _COLUMN_NAME.fullmatch(self.name):
            raise InvalidSchema(
                f"column name '{self.name}' is not letters, digits and underscores: give the column another name, such "
                f"as '{legal_name(self.name) or 'x'}', with `sources = [\"{self.name}\"]`"
            )
        if self.name in RESERVED:
            raise InvalidSchema(f"column name '{self.name}' is reserved, as are {', '.join(RESERVED)}")
        if any(size < 1 for size in self.shape):
            raise InvalidSchema(
                f"column '{self.name}' has the shape {self.shape}; every axis must be at least 1"
            )
        if self.dtype not in DTYPES:
            raise InvalidSchema(
                f"column '{self.name}' has the dtype '{self.dtype}', none of {', '.join(DTYPES)}"
            )
        if self.axes and (len(self.axes) != IMAGE_AXES or len(self.shape) < IMAGE_AXES):
            raise InvalidSchema(
                f"column '{self.name}' of shape {self.shape} has the axes {list(self.axes)}; they must name the first "
                f"{IMAGE_AXES} of an image"
            )
        if len(set(self.axes)) < len(self.axes):
            raise InvalidSchema(f"column '{self.name}' has two axes of one name: {list(self.axes)}")
        if self.lists and (len(self.shape) != LIST_AXES or np.dtype(self.dtype).kind != "f" or self.axes):
            raise InvalidSchema(
                f"column '{self.name}' of lists is {self.dtype} of shape {self.shape}; lists have the shape (greatest "
                "length, values of an item), hold floating-point numbers and have no axes of an image"
            )
        if self.categories and (self.shape or np.dtype(self.dtype).kind not in "iu"):
            raise InvalidSchema(
                f"column '{self.name}' has categories and is {self.dtype} of shape {self.shape}; a scalar integer "
                "column has them"
            )
        self._check_elements()
        return self

    def _check_elements(self) -> None:
        length = self.shape[-1] if self.shape else 0
        if self.elements and (len(self.elements) != length or len(set(self.elements)) < length):
            raise InvalidSchema(
                f"column '{self.name}' has the elements {list(self.elements)}; they must be distinct names, one for "
                f"each of the {length} places of its last axis"
            )
        for element in self.elements:
            if not _COLUMN_NAME.fullmatch(element):
                raise InvalidSchema(
                    f"element name '{element}' is not letters, digits and underscores: name them by `elements`"
                )
        if self.element_units and len(self.element_units) != len(self.elements):
            raise InvalidSchema(
                f"column '{self.name}' has {len(self.elements)} elements and the units {list(self.element_units)}"
            )

    @property
    def is_image(self) -> bool:
        """Whether it is an image: it has three axes, or names its two."""
        return len(self.shape) == IMAGE_AXES + 1 or (len(self.shape) == IMAGE_AXES and bool(self.axes))

    @property
    def grid(self) -> tuple[str, ...]:
        """The axes without what a statement of them adds: of a window as of the detector, `phi` and `eta` as none.

        Two columns that differ in nothing else hold the same values.
        """
        grid = tuple(axis.removeprefix("delta_") for axis in self.axes)
        return () if grid == ("phi", "eta") else grid

    def unit_of(self, element: str) -> str:
        """Return the unit of one element, or place: its own where the elements' units differ, else the column's."""
        return self.element_units[self.elements.index(element)] if self.element_units else self.unit

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the column in a shard, beside its type."""
        listed = {"elements": self.elements, "element_units": self.element_units, "axes": self.axes}
        return {"unit": self.unit} | {key: ",".join(words) for key, words in listed.items() if words}

    @property
    def nbytes(self) -> int:
        """Size of one event's value."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow's type: a plain number, the canonical fixed-shape tensor, or lists of items."""
        value_type = pa.from_numpy_dtype(np.dtype(self.dtype))
        if self.lists:
            return list_type(value_type, self.shape[1])
        return pa.fixed_shape_tensor(value_type, self.shape) if self.shape else value_type

    @property
    def sparse_type(self) -> SparseType:
        """Arrow's type where zeros are left out; of a column with a shape."""
        return SparseType(pa.from_numpy_dtype(np.dtype(self.dtype)), self.shape)

    def pays_sparse(self, filled: float) -> bool:
        """Return whether to leave out the zeros of a column that has so many other values per event."""
        return not self.lists and pays_sparse(self.shape, self.dtype, filled)

    def to_arrow(self, values: npt.NDArray[Any]) -> pa.Array:
        """Return values of shape (N, *shape) as an Arrow array of N rows."""
        if self.lists:
            return encode_lists(ListColumn.from_dense(values, self.shape))
        if not self.shape:
            return pa.array(values)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(self.shape)))
        return pa.ExtensionArray.from_storage(self.arrow_type, storage)

    def to_numpy(self, values: pa.Array) -> npt.NDArray[Any]:
        """Return values of N rows as an array (N, *shape), however they are stored."""
        return np.asarray(compact(values, self.shape))

    def checked(self, values: npt.NDArray[Any], event_ids: Any) -> npt.NDArray[Any]:
        """Return the same values, known to have this column's dtype and shape and to be finite, or missing.

        In a list, items that are absent are NaN throughout and stand at its end.

        Raises:
            InvalidEvents: they are not; the message names the column and the first event.
        """
        if values.dtype != np.dtype(self.dtype) or values.shape != (len(event_ids), *self.shape):
            raise InvalidEvents(
                f"column '{self.name}' got {values.dtype} of shape {values.shape}; it must be {self.dtype} of shape "
                f"{(len(event_ids), *self.shape)}"
            )
        if not all_finite(values):
            sound = ~np.isinf(values) if self.missing else np.isfinite(values)
            if self.lists:
                present = mask_of(values)
                absent = np.isnan(values).all(axis=-1)
                absent &= ~np.logical_or.accumulate(present[:, ::-1], axis=1)[:, ::-1]
                sound |= absent[..., None]
            finite = sound.all(axis=tuple(range(1, values.ndim)))
            if finite.all():
                return values
            row = int(finite.argmin())
            raise InvalidEvents(
                f"column '{self.name}' of event '{event_ids[row]}' (and {int((~finite).sum()) - 1} more) holds "
                f"{'infinity' if self.missing else 'NaN or infinity'}"
            )
        return values


def all_finite(values: npt.NDArray[Any]) -> bool:
    """Return whether no value is NaN or infinite: their sum is neither, which is quick to see, or each is looked at."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def texts(ids: Any) -> pa.Array:
    """Return ids as Arrow strings (N,)."""
    return ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())


def _checked_ids(ids: Any) -> Any:
    """Return ids, of Python or Arrow, once each is known to be a string that is not empty.

    Raises:
        InvalidEvents: one is not.
    """
    if not isinstance(ids, pa.Array):
        ids = np.asarray(ids, dtype=object)
        for row, event_id in enumerate(ids):
            if not isinstance(event_id, str) or not event_id:
                raise InvalidEvents(f"the event id of row {row} is {event_id!r}, and no string or empty")
        return ids
    empty = pc.equal(pc.fill_null(pc.binary_length(ids), 0), 0)
    if pc.any(empty).as_py():
        row = empty.index(True).as_py()
        raise InvalidEvents(f"the event id of row {row} is {ids[row].as_py()!r}, and no string or empty")
    return ids


_CLASS_NAME = re.compile(r"[A-Za-z0-9_+-]+")


class EventSchema(Config):
    """Columns and classes of a dataset.

    Attributes:
        task: name of the classification task, such as `mbh_sph`.
        columns: at least one, with distinct names.
        classes: two or more distinct names of letters, digits, `_`, `+` and `-`; a label indexes them.
        class_meaning: class name → one sentence for people; may leave classes out.
        signal: the class counted as signal in efficiencies and rejections; the last one unless given.
        weight: the scalar column of sample weights, of any sign, if there is one; no model sees it.
        group: the scalar integer column that divides the events, such as into regions of |eta|, if there is
            one; no model sees it.
        split_by: the scalar column that decides the split, if there is one: events of one value, such as all
            candidates of a collision, are in one split; no model sees it.
        spectators: other columns that no model sees.
        expected: class → events expected in all splits together, which the weights of a split are scaled to in
            metrics; unless given, the sum of the class's weights.
        variations: name → systematic variation, under which trained models are evaluated beside.

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
    split_by: str | None = None
    spectators: tuple[str, ...] = ()
    expected: dict[str, float] = Field(default_factory=dict)
    variations: dict[str, Variation] = Field(default_factory=dict)

    @field_validator("columns")
    @classmethod
    def _distinct_columns(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        if not names or len(set(names)) < len(names):
            raise InvalidSchema(f"a schema needs columns of distinct names; got {names}")
        return columns

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) < 2 or len(set(classes)) < len(classes):  # noqa: PLR2004
            raise InvalidSchema(f"a schema needs two or more distinct classes; got {list(classes)}")
        for name in classes:
            if not _CLASS_NAME.fullmatch(name):
                raise InvalidSchema(f"class name '{name}' is not letters, digits, '_', '+' and '-'")
        return classes

    @model_validator(mode="after")
    def _known_names(self) -> EventSchema:
        for name in (self.signal, *self.class_meaning):
            if name not in self.classes:
                raise InvalidSchema(f"'{name}' of signal or class_meaning is no class: {self.classes}")
        for role, kinds in (("weight", "f"), ("group", "iu"), ("split_by", "fiu")):
            name = getattr(self, role)
            if name is None:
                continue
            column = self.column(name)
            if column.shape or np.dtype(column.dtype).kind not in kinds:
                kind = {"f": "floating-point ", "iu": "integer "}.get(kinds, "")
                raise InvalidSchema(
                    f"the {role} '{name}' is {column.dtype} of shape {column.shape}; it must be a scalar {kind}column"
                )
            if column.missing:
                raise InvalidSchema(
                    f"the {role} '{name}' has missing = \"nan\", and every event needs one: leave 'missing' out, which "
                    "refuses events without, or select those that have one"
                )
        for name in self.spectators:
            self.column(name)
        if self.expected and (
            set(self.expected) != set(self.classes)
            or not all(0 < value < np.inf for value in self.expected.values())
        ):
            raise InvalidSchema(
                f"the expected events {self.expected} are not one number above 0 for each of the classes "
                f"{', '.join(self.classes)}"
            )
        if not self.inputs:
            raise InvalidSchema(
                "the schema has no column that models read, beside weight, group, split_by and spectators"
            )
        return self

    @model_validator(mode="after")
    def _sound_variations(self) -> EventSchema:
        for name, variation in self.variations.items():
            check_name(name)
            try:
                variation.check_data()
                if variation.data is None:
                    self._check_variation(variation)
            except InvalidSchema as exc:
                raise InvalidSchema(f"variation '{name}': {exc}") from None
        return self

    def _check_variation(self, variation: Variation) -> None:
        """Refuse a variation that cannot be, or that changes nothing.

        Raises:
            InvalidSchema: with the reason.
        """
        changes = variation.changes({column.name: column.elements for column in self.columns})
        inputs = {column.name for column in self.inputs}
        for one in changes:
            column = self.column(one.column)
            if one.column not in inputs:
                raise InvalidSchema(f"no model reads '{one.column}', so that changing it changes nothing")
            if np.dtype(column.dtype).kind != "f":
                raise InvalidSchema(
                    f"'{one.column}' is {column.dtype}; only floating-point columns are scaled or shifted: make it "
                    "float32"
                )
            if column.padding is not None and (one.offset or (one.factor != 1 and column.padding)):
                raise InvalidSchema(
                    f"'{one.column}' is filled up with {column.padding:g} (pad_to), which would change too: make it a "
                    "column of lists, max_length"
                )
        if (name := variation.weight) is not None:
            if self.weight is None:
                raise InvalidSchema(f"'{name}' takes the place of weights, and the schema has no 'weight'")
            column = self.column(name)
            if column.shape or np.dtype(column.dtype).kind != "f" or column.missing:
                raise InvalidSchema(f"the weight '{name}' must be a scalar floating-point column without NaN")
            if name in inputs:
                raise InvalidSchema(
                    f"models would read the weight '{name}': name it among the 'spectators' of the schema"
                )
        same_weight = variation.weight in (None, self.weight)
        if same_weight and all(one.factor == 1 and one.offset == 0 for one in changes):
            raise InvalidSchema(
                "it changes nothing: scale a column by another factor than 1, shift one by another value than 0, or "
                "name another column of weights"
            )

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns that a model may read: all but those with another role."""
        aside = {self.weight, self.group, self.split_by, *self.spectators}
        return tuple(column for column in self.columns if column.name not in aside)

    @property
    def weights(self) -> tuple[str, ...]:
        """The columns of weights: the nominal one, and those of variations."""
        named = (self.weight, *(one.weight for one in self.variations.values()))
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def with_spectator(self, column: Column) -> EventSchema:
        """Return the schema with one more column, which no model sees."""
        return EventSchema.model_validate(
            {
                **self.model_dump(),
                "columns": (*self.columns, column),
                "spectators": (*self.spectators, column.name),
            }
        )

    def without_weights(self) -> EventSchema:
        """Return the same schema whose weights nobody reads, nor those of variations: every event counts once."""
        if self.weight is None:
            return self
        kept = {name: one for name, one in self.variations.items() if one.weight is None}
        aside = (*self.spectators, self.weight)
        return self.model_copy(
            update={"weight": None, "spectators": aside, "expected": {}, "variations": kept}
        )

    def to_expected(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return by what the weights of each class are multiplied to sum to the events expected of it.

        Args:
            sums: (C,) of the weights that there are; of a class of which nothing is expected they stay.
        """
        expected = [self.expected.get(name, one) for name, one in zip(self.classes, sums, strict=True)]
        return np.array(expected) / sums

    @property
    def of_events(self) -> EventSchema:
        """The same schema without variations, and without what was filled in or stood for missing values."""
        columns = (one.model_copy(update={"fill": None, "sentinels": ()}) for one in self.unpadded.columns)
        return self.model_copy(update={"columns": tuple(columns), "variations": {}})

    @property
    def unpadded(self) -> EventSchema:
        """The same schema as a dataset has that does not know what its lists were filled up with."""
        columns = (one.model_copy(update={"padding": None}) for one in self.columns)
        return self.model_copy(update={"columns": tuple(columns)})

    @property
    def signal_index(self) -> int:
        """The label of the signal class."""
        return self.classes.index(self.signal)

    def column(self, name: str) -> Column:
        """Return the column of that name.

        Raises:
            InvalidSchema: there is none.
        """
        columns = {column.name: column for column in self.columns}
        if name not in columns:
            raise InvalidSchema(f"the schema has no column '{name}', only {', '.join(columns)}")
        return columns[name]

    def quantities(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Return what an expression over events may name: the columns, and the named elements of columns.

        An element whose name is that of a column, or of an earlier element, is hidden by it.
        """
        elements = {
            element: arrays[column.name][..., place]
            for column in reversed(self.columns)
            for place, element in enumerate(column.elements)
        }
        return elements | {column.name: arrays[column.name] for column in self.columns}

    def arrow(self, sparse: Collection[str] = ()) -> pa.Schema:
        """Return the schema of every shard: `event_id`, `label`, then the columns, units as field metadata.

        Args:
            sparse: columns that are stored without their zeros.
        """
        columns = [
            pa.field(
                column.name,
                column.sparse_type if column.name in sparse else column.arrow_type,
                nullable=False,
                metadata=column.metadata,
            )
            for column in self.columns
        ]
        own = (pa.field(EVENT_ID, pa.string(), nullable=False), pa.field(LABEL, pa.int64(), nullable=False))
        return pa.schema([*own, *columns])

    def encode(self, arrays: Mapping[str, npt.NDArray[Any]], sparse: Collection[str] = ()) -> pa.RecordBatch:
        """Return numpy events, already `checked`, as an Arrow record batch."""
        columns = [
            column.sparse_type.encode(arrays[column.name])
            if column.name in sparse
            else column.to_arrow(np.asarray(arrays[column.name]))
            for column in self.columns
        ]
        own = (texts(arrays[EVENT_ID]), pa.array(arrays[LABEL]))
        return pa.record_batch([*own, *columns], schema=self.arrow(sparse))

    def decode(self, batch: pa.RecordBatch) -> Arrays:
        """Return an Arrow record batch as numpy: `event_id` (N,) objects, `label` (N,) int64, columns (N, *shape).

        Raises:
            InvalidEvents: a column is absent, of another type, or holds nulls.
        """
        arrays: Arrays = {}
        for field in self.arrow():
            if field.name not in batch.schema.names:
                raise InvalidEvents(f"column '{field.name}' is absent from {batch.schema.names}")
            values = batch.column(field.name)
            known = [field.type, *(one.sparse_type for one in self.columns if one.name == field.name)]
            if values.type not in known or values.null_count:
                raise InvalidEvents(
                    f"column '{field.name}' got {values.type} with {values.null_count} nulls; it must be {field.type} "
                    "without any"
                )
            if field.name == EVENT_ID:
                arrays[EVENT_ID] = np.array(values.to_pylist(), dtype=object)
            elif field.name == LABEL:
                arrays[LABEL] = values.to_numpy()
            else:
                arrays[field.name] = self.column(field.name).to_numpy(values)
        return arrays

    def checked(self, arrays: Mapping[str, Any]) -> Arrays:
        """Return the same events, once they are known to obey the schema.

        Args:
            arrays: `event_id` (N,) strings, of Python or Arrow, `label` (N,) integers, and every column (N, *shape)
                in its dtype.

        Raises:
            InvalidEvents: a column is missing or unknown; a shape, dtype or length differs; a label is
                outside the classes; a value is NaN or infinite. The message names the first event.
        """
        expected = [EVENT_ID, LABEL, *(column.name for column in self.columns)]
        if set(arrays) != set(expected):
            raise InvalidEvents(f"events got the columns {sorted(arrays)}; they must have {expected}")
        event_ids = _checked_ids(arrays[EVENT_ID])
        columns = {
            column.name: column.checked(np.asarray(arrays[column.name]), event_ids) for column in self.columns
        }
        labels = self._checked_labels(np.asarray(arrays[LABEL]), event_ids)
        return {EVENT_ID: event_ids, LABEL: labels, **columns}

    def _checked_labels(self, labels: npt.NDArray[Any], event_ids: Any) -> npt.NDArray[np.int64]:
        if labels.shape != (len(event_ids),) or labels.dtype.kind not in "iu":
            raise InvalidEvents(
                f"labels got {labels.dtype} {labels.shape}; each of {len(event_ids)} events needs one integer"
            )
        outside = (labels < 0) | (labels >= len(self.classes))
        if outside.any():
            row = int(outside.argmax())
            raise InvalidEvents(
                f"event '{event_ids[row]}' has the label {labels[row]}; it must be an index into the "
                f"{len(self.classes)} classes ({', '.join(self.classes)})"
            )
        return labels.astype(np.int64, copy=False)
