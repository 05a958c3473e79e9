"""A storage that was copied or moved: the absolute addresses in MLflow's database are made those of where it is."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from hep_ray.errors import TrackingUnavailable

ARTIFACTS = "mlartifacts"
"""Folder of a storage that holds MLflow's files, one folder for each experiment."""
ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Table of MLflow's database -> columns that hold the address of files."""
BUSY_SECONDS = 60.0


def correct_addresses(file: Path, artifacts: Path | None = None) -> None:
    """Make the addresses of files in an SQLite database those of the storage that the database lies in.

    Without that, what a copy writes would go to its original, and what a moved storage writes to its former place.
    Left as they are: addresses that `hep_ray` did not make, and those of another storage that uses the same database.

    Args:
        file: the database; nothing is done where there is none.
        artifacts: of the storage at work, where the database lies elsewhere; beside the database unless given.

    Raises:
        TrackingUnavailable: they are of another place, and the database cannot be written.
    """
    if not file.is_file():
        return
    beside = file.resolve().parent / ARTIFACTS
    here = artifacts.resolve() if artifacts else beside
    try:
        with closing(sqlite3.connect(_read_write(file), uri=True, timeout=BUSY_SECONDS)) as database:
            for root, experiments in _roots(database).items():
                if root == here or not (_copied if here == beside else _moved)(
                    root, here, experiments, file.name
                ):
                    continue
                _replace(database, root.as_uri(), here.as_uri())
                logging.getLogger(__name__).warning(
                    "%s was copied or moved from %s: its files are looked for where it is now",
                    here.parent,
                    root.parent,
                )
    except sqlite3.Error as fault:
        raise TrackingUnavailable(
            f"a storage that was copied or moved has its MLflow addresses corrected; {file} does not take it "
            f"({fault}): make it writable, or type the command where it was made"
        ) from fault


def _read_write(file: Path) -> str:
    return f"file:{quote(str(file.resolve()))}?mode=rw"


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _roots(database: sqlite3.Connection) -> dict[Path, list[str]]:
    """Folder of files -> experiments of which hep_ray put them there."""
    roots: dict[Path, list[str]] = {}
    if "experiments" in _tables(database):
        for name, address in database.execute("SELECT name, artifact_location FROM experiments"):
            parts = urlsplit(address or "")
            place = Path(unquote(parts.path))
            if parts.scheme == "file" and place.name == name and place.parent.name == ARTIFACTS:
                roots.setdefault(place.parent, []).append(name)
    return roots


def _copied(root: Path, here: Path, experiments: Sequence[str], database: str) -> bool:
    """Whether the storage of this database was at `root`, or is a copy of what is there."""
    return (
        not os.path.isdir(root.parent)  # noqa: PTH112 - whatever the system answers
        or os.path.isfile(root.parent / database)  # noqa: PTH113
        or any((here / name).is_dir() for name in experiments)
    )


def _moved(root: Path, here: Path, experiments: Sequence[str], _database: str) -> bool:
    """Whether a storage with its database elsewhere, where others may use it too, was at `root` before."""
    gone = not os.path.isdir(root.parent)  # noqa: PTH112 - whatever the system answers
    return gone and any((here / name).is_dir() for name in experiments)


def _replace(database: sqlite3.Connection, former: str, present: str) -> None:
    tables = _tables(database)
    with database:
        for table, columns in ADDRESSES.items():
            for column in columns if table in tables else ():
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608 - our own names
                    (present, len(former) + 1, len(former) + 1, former + "/"),
                )
