"""Write scores as ROOT trees that are friends of the input's: one entry for each of its entries, in their order.

ROOT reads the branches of a friend as if they were those of the tree itself (`TTree::AddFriend`, `RDataFrame` of a tree
with friends), entry by entry, so a friend of fewer entries would give events the scores of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hep_ray.conversion.paths import told_apart
from hep_ray.dataset.dataset import sha256_of
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.errors import InvalidConfig, ModelMismatch
from hep_ray.files import storing, whole
from hep_ray.predict.inputs import Piece, Prediction

FOLDER = "_friends"
"""Within that of the scores; its name begins with `_`, so that readers of Parquet folders pass it over."""
TREE = "scores"
OF_ROOT = ("root", "delphes")
"""Readers of files that hold a tree."""


@dataclass(frozen=True)
class Friend:
    """A friend tree, in a file of its own.

    Attributes:
        file: that holds it, within the folder of the scores.
        of: the input whose tree it is a friend of.
        events: its entries.
        sha256: of the file.
    """

    file: str
    of: Path
    events: int
    sha256: str

    @property
    def record(self) -> dict[str, str | int]:
        """For the manifest of the scores."""
        return {
            "file": self.file,
            "tree": TREE,
            "of": self.of.name,
            "events": self.events,
            "sha256": self.sha256,
        }


def check_friends(prediction: Prediction) -> None:
    """Refuse inputs of which no tree can be a friend, before anything is scored.

    Raises:
        InvalidConfig: they are no ROOT files, or not every event gets a score.
    """
    rules = prediction.rules
    if rules.reader not in OF_ROOT:
        raise InvalidConfig(
            f"no friend tree of what is read as '{rules.reader}': a friend stands beside a tree of a ROOT file; leave "
            "out --friend"
        )
    if rules.selection:
        raise InvalidConfig(
            f"no friend tree of selected events: a friend has an entry for each of the tree's, and only events with "
            f"{rules.selection} are scored; leave out --friend, or the selection, and select by the tree and its friend"
        )


def write_friends(prediction: Prediction, rows: Mapping[str, int], out: Path) -> list[Friend]:
    """Write a friend for the tree of each input, from its files of scores: branches `score_…`, `log_odds_…`, `fold`.

    One file of scores is in memory at a time.

    Args:
        prediction: of ROOT files, see `check_friends`; all its files of scores are there.
        rows: file of scores → its events.
        out: folder of the scores.

    Raises:
        ModelMismatch: a file of scores has not one event for each entry, as the schema file makes none or several.
        StorageError: a friend cannot be written.
    """
    by_input: dict[Path, list[Piece]] = {}
    for piece in prediction.pieces:
        by_input.setdefault(piece.path, []).append(piece)
        entries = None if piece.stop is None else piece.stop - piece.start
        if rows[piece.file] != entries:
            raise ModelMismatch(
                f"no friend tree of {piece.path}: a friend has one entry for each of the tree's, and {entries} of them "
                f"gave {rows[piece.file]} events ({piece.file}): leave out --friend"
            )
    names = told_apart(by_input)
    found = []
    for path, pieces in by_input.items():
        target = out / FOLDER / f"{names[path]}.root"
        with storing(target), whole(target) as filling:
            events = _write_tree(filling, [out / piece.file for piece in pieces])
        found.append(Friend(target.relative_to(out).as_posix(), path, events, sha256_of(target)))
    return found


def _write_tree(path: Path, files: list[Path]) -> int:
    """Write files of scores, in their order, as one tree; return its entries."""
    import uproot

    events = 0
    with path.open("r+b") as sink, uproot.recreate(sink) as file:
        columns = dict(_columns(files[0]))
        tree = file.mktree(TREE, {name: values.dtype for name, values in columns.items()})
        for number, part in enumerate(files):
            columns = dict(_columns(part)) if number else columns
            tree.extend(columns)
            events += len(next(iter(columns.values())))
    return events


def _columns(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    table = pq.read_table(path)
    for name in table.column_names:
        if name != EVENT_ID:
            yield name, table[name].to_numpy()
