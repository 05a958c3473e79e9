"""RNTuples of ROOT files, by uproot: its own default, and the next format of CMS and ATLAS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hep_ray.convert.readers.fields import field, is_number, native

NTUPLES = ("ROOT::RNTuple",)


def survey(ntuple: Any) -> tuple[dict[str, str], dict[str, pa.Field]]:
    """The types of its fields that hold values, and the fields of those that are read."""
    types: dict[str, str] = {}
    fields: dict[str, pa.Field] = {}
    for name, item in ntuple.iteritems(recursive=True, full_paths=True):
        if item.fields:
            continue
        types[name] = str(item.typename)
        try:
            nothing = ntuple.arrays(
                filter_name=[name], entry_start=0, entry_stop=0, library="ak", array_cache=None
            )
        except (NotImplementedError, TypeError, ValueError, KeyError):
            continue  # a type that uproot does not read: it is told among those that are left out
        if (found := _field(name, _of(nothing, name).type.content)) is not None:
            fields[name] = found
    return types, fields


def _of(arrays: Any, name: str) -> Any:
    """Values of a field; one within a record or a list of them is named by its path, such as `jets.pt`."""
    for part in [name] if name in arrays.fields else name.split("."):
        arrays = arrays[part]
    return arrays


def _field(name: str, kind: Any) -> pa.Field | None:
    from awkward.types import ListType, NumpyType, RegularType

    if kind.parameters.get("__array__") == "string":
        return pa.field(name, pa.string(), nullable=False)
    shape: tuple[int, ...] = ()
    jagged = isinstance(kind, ListType)
    content = kind.content if jagged else kind
    while isinstance(content, RegularType):
        shape, content = (*shape, content.size), content.content
    if not isinstance(content, NumpyType) or content.parameters or (jagged and shape):
        return None
    dtype = np.dtype(content.primitive)
    if not is_number(dtype) or 0 in shape:
        return None
    if jagged:
        return pa.field(name, pa.list_(pa.from_numpy_dtype(native(dtype, ()))), nullable=False)
    return field(name, dtype, shape)


def arrays_of(ntuple: Any, names: Sequence[str], start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Rows of some fields, a cluster at a time: that is what must be decompressed together."""
    for cluster in ntuple.cluster_summaries:
        first = max(start, int(cluster.num_first_entry))
        last = min(stop, int(cluster.num_first_entry) + int(cluster.num_entries))
        if first < last:
            arrays = ntuple.arrays(
                filter_name=list(names), entry_start=first, entry_stop=last, library="ak", array_cache=None
            )
            yield {name: _of(arrays, name) for name in names}
