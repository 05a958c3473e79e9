"""One measured quantity of an event, in numpy and in Arrow.

Shape suffixes: N events, H and W the pixels of an image (axis 0 phi, axis 1 eta), C its channels.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import model_validator

from hep_ray.config import Config
from hep_ray.dataset.sparse import SparseType, Values
from hep_ray.errors import InvalidEvents, InvalidSchema

EVENT_ID = "event_id"
LABEL = "label"
RESERVED = (EVENT_ID, LABEL, "split")
DTYPES = (
    *("float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

IMAGE_AXES = 2

_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Arrays = dict[str, npt.NDArray[Any]]
"""Events as numpy: one array of N rows per column, beside `event_id` and `label`."""


def legal_name(field: str) -> str:
    """The name of a column for a field of any name, such as `MissingET_MET` for `MissingET.MET`.

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

    @model_validator(mode="after")
    def _sound(self) -> Column:
        if not _COLUMN_NAME.fullmatch(self.name):
            raise InvalidSchema(
                f"a column name is letters, digits and underscores; got '{self.name}': give the column another name, "
                f"such as '{legal_name(self.name) or 'x'}', with `sources = [\"{self.name}\"]`"
            )
        if self.name in RESERVED:
            raise InvalidSchema(
                f"the names {', '.join(RESERVED)} are reserved; a column is named '{self.name}'"
            )
        if any(size < 1 for size in self.shape):
            raise InvalidSchema(f"every axis of a column is at least 1 long; '{self.name}' has {self.shape}")
        if self.dtype not in DTYPES:
            raise InvalidSchema(
                f"a column's dtype is one of {', '.join(DTYPES)}; '{self.name}' has '{self.dtype}'"
            )
        if self.axes and (len(self.axes) != IMAGE_AXES or len(self.shape) < IMAGE_AXES):
            raise InvalidSchema(
                f"axes are the names of the first {IMAGE_AXES} axes of an image; '{self.name}' of shape "
                f"{self.shape} has {list(self.axes)}"
            )
        if len(set(self.axes)) < len(self.axes):
            raise InvalidSchema(f"axes have distinct names; '{self.name}' has {list(self.axes)}")
        self._check_elements()
        return self

    def _check_elements(self) -> None:
        length = self.shape[-1] if self.shape else 0
        if self.elements and (len(self.elements) != length or len(set(self.elements)) < length):
            raise InvalidSchema(
                f"elements are distinct names, one for each of the {length} places of a column's last axis; "
                f"'{self.name}' has {list(self.elements)}"
            )
        for element in self.elements:
            if not _COLUMN_NAME.fullmatch(element):
                raise InvalidSchema(
                    f"an element name is letters, digits and underscores; got '{element}': name them by `elements`"
                )
        if self.element_units and len(self.element_units) != len(self.elements):
            raise InvalidSchema(
                f"there is one unit for each of the {len(self.elements)} elements of '{self.name}'; "
                f"got {list(self.element_units)}"
            )

    @property
    def grid(self) -> tuple[str, ...]:
        """The axes without what a statement of them adds: of a window as of the detector, `phi` and `eta` as none.

        Two columns that differ in nothing else hold the same values.
        """
        grid = tuple(axis.removeprefix("delta_") for axis in self.axes)
        return () if grid == ("phi", "eta") else grid

    def unit_of(self, element: str) -> str:
        """The unit of one element: its own where the elements' units differ, else the column's."""
        return self.element_units[self.elements.index(element)] if self.element_units else self.unit

    @property
    def metadata(self) -> dict[str, str]:
        """What a shard says about the column beside its type."""
        return {
            "unit": self.unit,
            **({"elements": ",".join(self.elements)} if self.elements else {}),
            **({"element_units": ",".join(self.element_units)} if self.element_units else {}),
            **({"axes": ",".join(self.axes)} if self.axes else {}),
        }

    @property
    def nbytes(self) -> int:
        """Size of one event's value."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow's type: a plain number, or the canonical fixed-shape tensor."""
        value_type = pa.from_numpy_dtype(np.dtype(self.dtype))
        return pa.fixed_shape_tensor(value_type, self.shape) if self.shape else value_type

    @property
    def sparse_type(self) -> SparseType:
        """Arrow's type where zeros are left out; of a column with a shape."""
        return SparseType(pa.from_numpy_dtype(np.dtype(self.dtype)), self.shape)

    def to_arrow(self, values: npt.NDArray[Any]) -> pa.Array:
        """Values of shape (N, *shape) as an Arrow array of N rows."""
        if not self.shape:
            return pa.array(values)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(self.shape)))
        return pa.ExtensionArray.from_storage(self.arrow_type, storage)

    def compact(self, values: pa.Array) -> Values:
        """Values of N rows (N, *shape), without their zeros where they are stored so."""
        if isinstance(values.type, SparseType):
            return values.type.decode(values)
        flat = values.storage.flatten() if self.shape else values
        array: npt.NDArray[Any] = flat.to_numpy()
        return array.reshape(len(values), *self.shape)

    def to_numpy(self, values: pa.Array) -> npt.NDArray[Any]:
        """Values of N rows as an array (N, *shape), however they are stored."""
        return np.asarray(self.compact(values))

    def checked(self, values: npt.NDArray[Any], event_ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same values, once they are known to have this column's dtype and shape and to be finite.

        Raises:
            InvalidEvents: they are not; the message names the column and the first event.
        """
        if values.dtype != np.dtype(self.dtype) or values.shape != (len(event_ids), *self.shape):
            raise InvalidEvents(
                f"column '{self.name}' is {self.dtype} of shape {(len(event_ids), *self.shape)}; "
                f"got {values.dtype} of shape {values.shape}"
            )
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            row = int(finite.argmin())
            raise InvalidEvents(
                f"values are finite numbers; column '{self.name}' of event '{event_ids[row]}' "
                f"(and {int((~finite).sum()) - 1} more) holds NaN or infinity"
            )
        return values
