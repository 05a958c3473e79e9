"""Trees and RNTuples of ROOT files, by uproot: numbers, arrays of fixed size, lists of variable length, strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hep_ray.config import Config
from hep_ray.conversion.readers import BATCH_BYTES, LeftOut, Opened, Part, reader
from hep_ray.conversion.readers.cells import LOOKED_AT, text_left_out
from hep_ray.conversion.readers.fields import (
    absent,
    asked,
    field,
    is_number,
    native,
    not_empty,
    rows_per_batch,
    to_arrow,
)
from hep_ray.errors import InvalidConfig, UnreadableInput

NTUPLES = ("ROOT::RNTuple",)
TREES = ("TTree", "TNtuple", "TNtupleD")


class RootOptions(Config):
    """Which tree and branches are read.

    Attributes:
        tree: path of the tree or RNTuple in the file, such as `deepntuplizer/tree`; the only one unless given.
        branches: names; all unless given.
    """

    tree: str | None = None
    branches: tuple[str, ...] = ()


@reader("root", RootOptions, suffixes=(".root",))
def open_root(path: Path, options: RootOptions) -> Opened:
    """ROOT file with a tree or an RNTuple: numbers, fixed-size arrays, lists and strings.

    Fields of an RNTuple's records are called by their path, such as `jets.pt`. The part is called as the tree, of which
    the newest cycle is read. Branches of other types are no fields.

    Raises:
        UnreadableInput: uproot cannot read the file, or the tree has no entries.
        InvalidConfig: there are several trees and none is named, or a tree or branch is absent or of a type
            that is not read.
    """
    with _opened(path) as file:
        name = _tree_name(_guarded(path, "the keys", lambda: _classes(file)), path, options)
        tree = _guarded(path, name, lambda: file[name])
        types, known = _guarded(path, name, lambda: _survey(tree))
        entries = int(tree.num_entries)
        left_out = _guarded(path, name, lambda: _left_out(tree, types, known, options))
    for branch in options.branches:
        _check_branch(branch, known, types, f"{path}: {name}")
    part = Part(name, entries, pa.schema([known[branch] for branch in options.branches or known]), left_out)

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for branch in names:
            _check_branch(branch, part.fields.names, types, f"{path}: {name}")
        schema = asked(part, names, path)
        with _opened(path) as file:
            tree = _guarded(path, name, lambda: file[name])
            stop = entries if stop is None else min(stop, entries)
            if _is_ntuple(tree):
                yield from _clusters(tree, start, stop, schema, path)
                return
            chosen = {branch.cache_key: key for key, branch in _branches(tree) if key in names}
            yield from _batches(tree, chosen, start, stop, schema, path)

    return Opened(not_empty([part], path), read)


def _left_out(
    tree: Any, types: dict[str, str], known: dict[str, pa.Field], options: RootOptions
) -> dict[str, LeftOut]:
    """Branches that become no column: those of other types, and texts."""
    found = {}
    for name in options.branches or types:
        if name in known and pa.types.is_string(known[name].type):
            texts = _first(tree, name).to_list()
            found[name] = text_left_out(texts)
        elif name in types and name not in known:
            found[name] = LeftOut(types[name])
    return found


def _is_ntuple(tree: Any) -> bool:
    return str(tree.classname) in NTUPLES


def _first(tree: Any, name: str) -> Any:
    """The first values of a field."""
    if not _is_ntuple(tree):
        return tree[name].array(entry_stop=LOOKED_AT, library="ak")
    return next((found[name] for found in _clusters_of(tree, [name], 0, LOOKED_AT)), np.zeros(0))


def _clusters(tree: Any, start: int, stop: int, schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    pieces, row, step = _clusters_of(tree, schema.names, start, stop), start, rows_per_batch(schema)
    while row < stop:
        where = f"{tree.name}, entries from {row}"
        arrays = _guarded(path, where, lambda: next(pieces, None))
        if arrays is None:
            raise UnreadableInput(
                f"an RNTuple has as many entries as it says; {path}: {tree.name} ends at {row}"
            )
        rows = len(arrays[schema.names[0]])
        for first in range(0, rows, step):
            some = {name: values[first : first + step] for name, values in arrays.items()}
            yield _guarded(path, where, lambda: _batch(some, schema))  # noqa: B023
        row += rows


def _batches(
    tree: Any, chosen: dict[str, str], start: int, stop: int, schema: pa.Schema, path: Path
) -> Iterator[pa.RecordBatch]:
    if start >= stop:
        return
    size = sum(int(branch.uncompressed_bytes) for _, branch in _branches(tree) if branch.cache_key in chosen)
    step = max(1, int(BATCH_BYTES * tree.num_entries / max(size, tree.num_entries)))
    pieces = tree.iterate(
        filter_branch=lambda branch: branch.cache_key in chosen,
        entry_start=start,
        entry_stop=stop,
        step_size=step,
        library="ak",
        how=dict,
    )
    row = start
    while row < stop:
        where = f"{tree.name}, entries from {row}"
        arrays = _guarded(path, where, lambda: next(pieces, None))
        if arrays is None:
            raise UnreadableInput(f"a tree has as many entries as it says; {path}: {tree.name} ends at {row}")
        batch = _guarded(path, where, lambda: _batch(arrays, schema))  # noqa: B023
        yield batch
        row += batch.num_rows


def _batch(arrays: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([_to_arrow(arrays[item.name], item.type) for item in schema], schema=schema)


def _to_arrow(values: Any, arrow_type: pa.DataType) -> pa.Array:
    import awkward as ak

    if pa.types.is_string(arrow_type):
        return ak.to_arrow(values, extensionarray=False).cast(arrow_type)
    if not pa.types.is_list(arrow_type):
        return to_arrow(ak.to_numpy(values, allow_missing=False), arrow_type)
    counts, content = ak.to_numpy(ak.num(values)), ak.to_numpy(ak.flatten(values))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    flat = pa.array(np.ascontiguousarray(content), arrow_type.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=arrow_type)


def _branches(tree: Any) -> Iterator[tuple[str, Any]]:
    """The branches that hold values, with their names."""
    for key, branch in tree.iteritems(recursive=True, full_paths=False):
        if not branch.branches:
            yield key, branch


def _survey(tree: Any) -> tuple[dict[str, str], dict[str, pa.Field]]:
    """The branches' types, and the fields of those that are read."""
    if _is_ntuple(tree):
        return _survey_ntuple(tree)
    types: dict[str, str] = {}
    fields: dict[str, pa.Field] = {}
    for name, branch in _branches(tree):
        if name in types:
            types[name] = "found twice in the tree"
            fields.pop(name, None)
            continue
        types[name] = str(branch.typename)
        if (arrow_field := _field(name, branch)) is not None:
            fields[name] = arrow_field
    return types, fields


def _field(name: str, branch: Any) -> pa.Field | None:
    from uproot import AsDtype, AsJagged, AsStrings

    interpretation = branch.interpretation
    if isinstance(interpretation, AsStrings):
        return pa.field(name, pa.string(), nullable=False)
    jagged = isinstance(interpretation, AsJagged)
    content = interpretation.content if jagged else interpretation
    if not isinstance(content, AsDtype):
        return None
    dtype, shape = content.to_dtype.subdtype or (content.to_dtype, ())
    if not is_number(dtype) or (jagged and shape):
        return None
    if jagged:
        return pa.field(name, pa.list_(pa.from_numpy_dtype(native(dtype, ()))), nullable=False)
    return field(name, dtype, shape)


def _classes(file: Any) -> dict[str, str]:
    return dict(file.classnames(recursive=True, cycle=False))


def _tree_name(classes: dict[str, str], path: Path, options: RootOptions) -> str:
    trees = [name for name, kind in classes.items() if kind in (*TREES, *NTUPLES)]
    if not trees:
        found = ", ".join(f"{name} ({kind})" for name, kind in classes.items()) or "nothing"
        raise UnreadableInput(f"a ROOT file of events holds a TTree or RNTuple; {path} has {found[:300]}")
    if options.tree is None and len(trees) > 1:
        raise InvalidConfig(
            f"the option tree names one where there are several; {path} has {', '.join(trees)}: "
            f"--set tree={trees[0]}"
        )
    name = options.tree or trees[0]
    if name not in trees:
        raise absent("tree", name, trees, path)
    return name


def _check_branch(name: str, known: Any, types: dict[str, str], where: str) -> None:
    if name in known:
        return
    if name in types:
        raise InvalidConfig(
            f"a branch holds numbers, fixed-size arrays of them, lists or strings; {where}: '{name}' is {types[name]}"
        )
    raise absent("branch", name, types, where)


def _opened(path: Path) -> Any:
    import uproot

    return _guarded(path, "the file", lambda: uproot.open(path))


def _guarded(path: Path, what: str, call: Any) -> Any:
    """What a call to uproot gives, or the named error."""
    try:
        return call()
    except Exception as fault:  # noqa: BLE001 (broken bytes make uproot raise anything)
        raise UnreadableInput(
            f"a ROOT file is whole and readable; {path}, {what}: {type(fault).__name__}: {str(fault)[:300]}"
        ) from None


def _survey_ntuple(ntuple: Any) -> tuple[dict[str, str], dict[str, pa.Field]]:
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
        if (found := _ntuple_field(name, _of(nothing, name).type.content)) is not None:
            fields[name] = found
    return types, fields


def _of(arrays: Any, name: str) -> Any:
    """Values of a field; one within a record or a list of them is named by its path, such as `jets.pt`."""
    for part in [name] if name in arrays.fields else name.split("."):
        arrays = arrays[part]
    return arrays


def _ntuple_field(name: str, kind: Any) -> pa.Field | None:
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


def _clusters_of(ntuple: Any, names: Sequence[str], start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Rows of some fields, a cluster at a time: that is what must be decompressed together."""
    for cluster in ntuple.cluster_summaries:
        first = max(start, int(cluster.num_first_entry))
        last = min(stop, int(cluster.num_first_entry) + int(cluster.num_entries))
        if first < last:
            arrays = ntuple.arrays(
                filter_name=list(names), entry_start=first, entry_stop=last, library="ak", array_cache=None
            )
            yield {name: _of(arrays, name) for name in names}
