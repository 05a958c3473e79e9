"""Write scores as ROOT trees that are friends of the input's: one entry for each of its entries, in their order.

ROOT reads the branches of a friend as if they were those of the tree itself (`TTree::AddFriend`, `RDataFrame` of a
tree with friends), entry by entry, so a friend of fewer entries would give events the scores of others. A name that
both have means, without a prefix, the branch of the tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.conversion.assemble import selected
from hep_ray.conversion.columns import field_of
from hep_ray.conversion.labels import BatchOrigin
from hep_ray.conversion.paths import told_apart
from hep_ray.conversion.readers import READERS, parse_options
from hep_ray.conversion.readers.fields import reading
from hep_ray.conversion.readers.root import NTUPLES, tree_name
from hep_ray.dataset.dataset import sha256_of
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.errors import InvalidConfig, ModelMismatch, StorageError
from hep_ray.files import storing, whole
from hep_ray.predict.inputs import Piece, Prediction

FOLDER = "_friends"
"""Within that of the scores; its name begins with `_`, so that readers of Parquet folders pass it over."""
TREE = "scores"
"""Name of the trees where none is asked for; only then have their branches no prefix."""
OF_ROOT = ("root", "delphes")
"""Readers of files that hold a tree."""
UNSCORED = -1
"""What an entry without scores has in a branch of whole numbers, the fold; its scores are NaN."""
_IDENTIFIER = re.compile("[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class FriendPlan:
    """Friend trees that are to be written.

    Attributes:
        tree: name of each.
        files: input → file of its friend, within the folder of the scores.
        branches: column of the scores → branch.
        kinds: branch → type of its values.
    """

    tree: str
    files: Mapping[Path, str]
    branches: Mapping[str, str]
    kinds: Mapping[str, npt.DTypeLike]


@dataclass(frozen=True)
class Friend:
    """A friend tree, in a file of its own.

    Attributes:
        file: that holds it, within the folder of the scores.
        tree: its name.
        of: the input whose tree it is a friend of, as it was typed.
        events: its entries.
        scored: those of them that have scores; the others were not selected.
        branches: column of the scores → branch.
        sha256: of the file.
    """

    file: str
    tree: str
    of: str
    events: int
    scored: int
    branches: Mapping[str, str]
    sha256: str

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest of the scores."""
        return {
            "file": self.file,
            "tree": self.tree,
            "of": self.of,
            "events": self.events,
            "scored": self.scored,
            "branches": dict(self.branches),
            "sha256": self.sha256,
        }


def plan_friends(prediction: Prediction, columns: pa.Schema, out: Path, name: str = TREE) -> FriendPlan:
    """Settle the names of friend trees, of their branches and files, before anything is scored.

    Args:
        prediction: opened inputs.
        columns: of the files of scores.
        out: folder of the scores.
        name: of the trees; other than by default, branches begin with it.

    Raises:
        InvalidConfig: an input has no tree that can have a friend, or names of the friend already; or ROOT cannot use
            the name, or two branches or files would have one name.
        StorageError: a file stands where a folder has to be, or the other way round.
    """
    rules = prediction.rules
    if rules.reader not in OF_ROOT:
        raise InvalidConfig(
            f"no friend tree of what is read as '{rules.reader}': a friend stands beside a tree of a ROOT file; leave "
            "out --friend"
        )
    fields = [field for field in columns if field.name != EVENT_ID]
    branches = branches_of(columns, name)
    for path in prediction.inputs:
        _refuse_tree(path, prediction, name, branches)
    stems = told_apart(prediction.inputs)
    files = {path: f"{FOLDER}/{name}/{stems[path]}.root" for path in prediction.inputs}
    _refuse_files(files, out)
    kinds = {branches[field.name]: np.dtype(field.type.to_pandas_dtype()) for field in fields}
    return FriendPlan(name, files, branches, kinds)


def branches_of(columns: pa.Schema, name: str) -> dict[str, str]:
    """Return the branch of each column of the scores.

    Raises:
        InvalidConfig: ROOT cannot use the name of the tree, or two branches would have one name.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise InvalidConfig(
            f"'{name}' cannot name a friend tree: a --friend-name has letters, digits and underscores, and begins with "
            "no digit"
        )
    prefix = "" if name == TREE else f"{name}_"
    return _branches([field.name for field in columns if field.name != EVENT_ID], prefix)


def _branches(columns: Sequence[str], prefix: str) -> dict[str, str]:
    branches: dict[str, str] = {}
    for column in columns:
        branch = prefix + re.sub("[^A-Za-z0-9_]", "_", column)
        if other := next((one for one, known in branches.items() if known == branch), None):
            raise InvalidConfig(
                f"'{other}' and '{column}' would both be the branch '{branch}', in which ROOT knows letters, digits "
                "and underscores alone: leave out --friend; the Parquet files tell them apart"
            )
        branches[column] = branch
    return branches


def _refuse_tree(path: Path, prediction: Prediction, name: str, branches: Mapping[str, str]) -> None:
    """Refuse an input whose tree can have no friend, or has names of it already."""
    import uproot

    rules = prediction.rules
    options: Any = parse_options(READERS[rules.reader], rules.options)
    with reading(f"the trees of {path}", Exception), uproot.open(path) as file:
        kinds = file.classnames(recursive=True, cycle=False)
        tree = tree_name(kinds, path, options)
        keys = file[tree].keys(recursive=True, full_paths=False)
    if kinds[tree] in NTUPLES:
        raise InvalidConfig(
            f"no friend tree of '{tree}' in {path}, which is an RNTuple: ROOT befriends a TTree alone; leave out "
            "--friend, and join the Parquet files by event_id"
        )
    other = "--friend-name NAME calls the friend NAME, and its branches NAME_score_…"
    if name != TREE:
        other = f"give another --friend-name than {name}"
    if tree.rpartition("/")[2] == name:
        raise InvalidConfig(
            f"the tree '{tree}' of {path} and its friend would both be called '{name}': {other}"
        )
    # A branch `jet.` of an object has branches `jet.pt`.
    taken = {part for key in keys for part in (key, key.partition(".")[0])}
    if both := [branch for branch in (name, *branches.values()) if branch in taken]:
        raise InvalidConfig(
            f"the tree '{tree}' of {path} has a branch '{both[0]}' already, which ROOT would read in place of the "
            f"friend's: {other}"
        )


def _refuse_files(files: Mapping[Path, str], out: Path) -> None:
    """Refuse files of friends that cannot all stand in the folder of the scores."""
    inputs: dict[str, Path] = {}
    for path, file in files.items():
        if file in inputs:
            raise InvalidConfig(
                f"the friends of {inputs[file]} and {path} would be one file, {file}: predict them into folders of "
                "their own, by another --out"
            )
        inputs[file] = path
    for path, file in files.items():
        folders = [str(folder) for folder in PurePosixPath(file).parents]
        if inside := next((folder for folder in folders if folder in inputs), None):
            raise InvalidConfig(
                f"the friend of {inputs[inside]} would be the file {inside}, and that of {path} in a folder of this "
                "name: predict them into folders of their own, by another --out"
            )
        for place, needed in ((out / file, False), *((out / folder, True) for folder in folders)):
            if place.exists() and place.is_dir() != needed:
                found, wanted = ("a file", "a folder") if needed else ("a folder", "a file")
                raise StorageError(
                    f"cannot write {out / file}: {place} is {found} and would be {wanted}: remove it, or name another "
                    "--out"
                )


def write_friends(
    prediction: Prediction,
    plan: FriendPlan,
    rows: Mapping[str, int],
    out: Path,
    typed: Callable[[Path], str] = str,
) -> list[Friend]:
    """Write a friend for the tree of each input, from its files of scores: branches `score_…`, `log_odds_…`, `fold`.

    Entries that are not selected have NaN for scores, and the fold -1. An input without events gets a tree without
    entries. One file of scores is in memory at a time.

    Args:
        prediction: opened inputs, of which all files of scores are there.
        plan: names, see `plan_friends`.
        rows: file of scores → its events.
        out: folder of the scores.
        typed: tells of an input how it was typed.

    Raises:
        ModelMismatch: a file of scores has not one event for each selected entry.
        StorageError: a friend cannot be written.
    """
    by_input: dict[Path, list[Piece]] = {path: [] for path in plan.files}
    for piece in prediction.pieces:
        by_input[piece.path].append(piece)
    found = []
    for path, pieces in by_input.items():
        masks = [_selected(prediction, piece) for piece in pieces]
        scored = [int(mask.sum()) for mask in masks]
        for piece, wanted in zip(pieces, scored, strict=True):
            if rows[piece.file] != wanted:
                raise ModelMismatch(
                    f"no friend tree of {path}: a friend has one entry for each of the tree's, and {wanted} of them "
                    f"gave {rows[piece.file]} events ({piece.file}): leave out --friend"
                )
        target = out / plan.files[path]
        with storing(target), whole(target) as filling:
            _write_tree(filling, plan, [out / piece.file for piece in pieces], masks)
        entries = sum(map(len, masks))
        found.append(
            Friend(
                plan.files[path],
                plan.tree,
                typed(path),
                entries,
                sum(scored),
                plan.branches,
                sha256_of(target),
            )
        )
    return found


def _selected(prediction: Prediction, piece: Piece) -> npt.NDArray[np.bool_]:
    """Return which entries of a piece of a tree are selected."""
    rules = prediction.rules
    assert piece.stop is not None  # trees know their entries
    if rules.selection is None:
        return np.ones(piece.stop - piece.start, dtype=bool)
    reader = READERS[rules.reader]
    opened = reader.open(piece.path, parse_options(reader, rules.options))
    part, columns = opened.parts[piece.part], prediction.columns
    names = [field_of(name, columns, part.fields.names) for name in Expression(rules.selection).names]
    origin = BatchOrigin("", str(piece.path), 0, piece.start, opened.cell)
    batches = opened.read(part, piece.start, piece.stop, list(dict.fromkeys(names)))
    return np.concatenate([selected(batch, origin, rules.selection, columns) for batch in batches])


def _write_tree(
    path: Path, plan: FriendPlan, files: Sequence[Path], masks: Sequence[npt.NDArray[np.bool_]]
) -> None:
    """Write files of scores, in their order, as one tree.

    Args:
        path: of the ROOT file.
        plan: names.
        files: of scores.
        masks: of each, which entries its events are.
    """
    import uproot

    with path.open("r+b") as sink, uproot.recreate(sink) as file:
        tree = file.mktree(plan.tree, dict(plan.kinds))
        for part, mask in zip(files, masks, strict=True):
            tree.extend(dict(_entries(part, mask, plan.branches)))


def _entries(
    file: Path, mask: npt.NDArray[np.bool_], branches: Mapping[str, str]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    table = pq.read_table(file)
    for name in table.column_names:
        if name != EVENT_ID:
            values = table[name].to_numpy()
            whole_numbers = values.dtype.kind == "i"
            entries = np.full(len(mask), UNSCORED if whole_numbers else np.nan, values.dtype)
            entries[mask] = values
            yield branches[name], entries
