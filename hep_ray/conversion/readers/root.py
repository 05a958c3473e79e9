"""Trees and RNTuples of ROOT files, by uproot: numbers, arrays of fixed size, lists of variable length, strings.

RNTuples are what uproot writes by default and the next format of CMS and ATLAS.
"""

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
    list_array,
    not_empty,
    reading,
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
    import uproot

    # Broken bytes make uproot raise anything.
    with reading(f"the trees of {path}", Exception), uproot.open(path) as file:
        name = tree_name(dict(file.classnames(recursive=True, cycle=False)), path, options)
        tree = file[name]
        types, known = (_survey_ntuple if _is_ntuple(tree) else _survey_tree)(tree)
        entries = int(tree.num_entries)
        left_out = _left_out(tree, types, known, options)

    def fields_of(branches: Sequence[str], available: Sequence[str]) -> list[pa.Field]:
        for branch in branches:
            if branch not in types:
                raise absent("branch", branch, types, f"{path}: {name}")
            if branch not in available:
                raise InvalidConfig(
                    f"{path}: {name}: branch '{branch}' is {types[branch]}, and neither numbers, fixed-size arrays of "
                    "them, lists nor strings"
                )
        return [known[branch] for branch in branches]

    fields = fields_of(options.branches or list(known), list(known))
    part = Part(name, entries, pa.schema(fields), left_out)

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        fields_of(names, part.fields.names)
        schema = asked(part, names, path)
        stop, row = entries if stop is None else min(stop, entries), start
        with reading(f"{path}, {name}", Exception), uproot.open(path) as file:
            tree = file[name]
            pieces = (_clusters if _is_ntuple(tree) else _baskets)(tree, schema, start, stop)
            while row < stop:
                with reading(f"{path}, {name}, entries from {row}", Exception):
                    if (arrays := next(pieces, None)) is None:
                        raise UnreadableInput(f"{path}: {name} ends at entry {row} of {entries}")
                    columns = [_to_arrow(arrays[item.name], item.type) for item in schema]
                    batch = pa.record_batch(columns, schema=schema)
                row += batch.num_rows
                yield batch

    return Opened(not_empty([part], path), read)


def tree_name(classes: dict[str, str], path: Path, options: RootOptions) -> str:
    """Return the tree of a file that is read.

    Args:
        classes: object in the file → its class.
        path: of the file.
        options: how it is read.

    Raises:
        UnreadableInput: there is no tree, or not the one that is named.
        InvalidConfig: there are several, and none is named.
    """
    trees = [name for name, kind in classes.items() if kind in (*TREES, *NTUPLES)]
    if not trees:
        found = ", ".join(f"{name} ({kind})" for name, kind in classes.items()) or "nothing"
        raise UnreadableInput(f"{path} has no TTree and no RNTuple, only {found[:300]}")
    if options.tree is None and len(trees) > 1:
        raise InvalidConfig(f"{path} has several trees, {', '.join(trees)}: name one, --set tree={trees[0]}")
    name = options.tree or trees[0]
    if name not in trees:
        raise absent("tree", name, trees, path)
    return name


def _is_ntuple(tree: Any) -> bool:
    return str(tree.classname) in NTUPLES


def _left_out(
    tree: Any, types: dict[str, str], known: dict[str, pa.Field], options: RootOptions
) -> dict[str, LeftOut]:
    """Return branches that become no column, those of other types and texts, with the reason."""
    found = {}
    for name in options.branches or types:
        if name in types and name not in known:
            found[name] = LeftOut(types[name])
        elif name in known and pa.types.is_string(known[name].type):
            if _is_ntuple(tree):
                rows = next(_clusters(tree, pa.schema([known[name]]), 0, LOOKED_AT), None)
                found[name] = text_left_out(rows[name].tolist() if rows else [])
            else:
                found[name] = text_left_out(tree[name].array(entry_stop=LOOKED_AT, library="ak").tolist())
    return found


def _to_arrow(values: Any, arrow_type: pa.DataType) -> pa.Array:
    import awkward as ak

    if pa.types.is_string(arrow_type):
        return ak.to_arrow(values, extensionarray=False).cast(arrow_type)
    if not pa.types.is_list(arrow_type):
        return to_arrow(ak.to_numpy(values, allow_missing=False), arrow_type)
    return list_array(ak.to_numpy(ak.num(values)), ak.to_numpy(ak.flatten(values)), arrow_type)


def _branches(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the branches of a tree that hold values, with their names."""
    for key, branch in tree.iteritems(recursive=True, full_paths=False):
        if not branch.branches:
            yield key, branch


def _survey_tree(tree: Any) -> tuple[dict[str, str], dict[str, pa.Field]]:
    """Return the types of a tree's branches, and the fields of those that are read."""
    types: dict[str, str] = {}
    fields: dict[str, pa.Field] = {}
    for name, branch in _branches(tree):
        if name in types:
            types[name] = "found twice in the tree"
            fields.pop(name, None)
            continue
        types[name] = str(branch.typename)
        if (found := _field_of_branch(name, branch)) is not None:
            fields[name] = found
    return types, fields


def _field_of_branch(name: str, branch: Any) -> pa.Field | None:
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
    return field(name, dtype, shape, jagged=jagged)


def _baskets(tree: Any, schema: pa.Schema, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield rows of some branches of a tree."""
    chosen = {branch.cache_key: branch for name, branch in _branches(tree) if name in schema.names}
    size = sum(int(branch.uncompressed_bytes) for branch in chosen.values())
    yield from tree.iterate(
        filter_branch=lambda branch: branch.cache_key in chosen,
        entry_start=start,
        entry_stop=stop,
        step_size=max(1, int(BATCH_BYTES * tree.num_entries / max(size, tree.num_entries))),
        library="ak",
        how=dict,
    )


def _survey_ntuple(ntuple: Any) -> tuple[dict[str, str], dict[str, pa.Field]]:
    """Return the types of an RNTuple's fields that hold values, and the fields of those that are read."""
    types: dict[str, str] = {}
    fields: dict[str, pa.Field] = {}
    for name, item in ntuple.iteritems(recursive=True, full_paths=True):
        if item.fields:
            continue
        types[name] = str(item.typename)
        try:
            nothing = _ntuple_arrays(ntuple, [name], 0, 0)
        except (NotImplementedError, TypeError, ValueError, KeyError):
            continue  # a type that uproot does not read: it is told among those that are left out
        if (found := _field_of_type(name, nothing[name].type.content)) is not None:
            fields[name] = found
    return types, fields


def _field_of_type(name: str, kind: Any) -> pa.Field | None:
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
    return field(name, dtype, shape, jagged=jagged) if is_number(dtype) and 0 not in shape else None


def _clusters(ntuple: Any, schema: pa.Schema, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield rows of some fields of an RNTuple, decompressed cluster by cluster."""
    step = rows_per_batch(schema)
    for cluster in ntuple.cluster_summaries:
        first = max(start, int(cluster.num_first_entry))
        last = min(stop, int(cluster.num_first_entry) + int(cluster.num_entries))
        if first < last:
            arrays = _ntuple_arrays(ntuple, schema.names, first, last)
            for row in range(0, last - first, step):
                yield {name: values[row : row + step] for name, values in arrays.items()}


def _ntuple_arrays(ntuple: Any, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
    """Return rows of some fields; one within a record or a list of them is named by its path, such as `jets.pt`."""
    found = ntuple.arrays(
        filter_name=list(names), entry_start=start, entry_stop=stop, library="ak", array_cache=None
    )
    arrays = {}
    for name in names:
        arrays[name] = found
        for step in [name] if name in found.fields else name.split("."):
            arrays[name] = arrays[name][step]
    return arrays
