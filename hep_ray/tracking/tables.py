"""Tables of a new MLflow database, copied from those that this host made before; MLflow runs all its migrations.

These take seconds, and are the same each time for one version of MLflow. What is kept holds no experiment, since that
has an address. It only saves time: without it, or where it is damaged, MLflow makes the tables.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from hep_ray.files import whole

logger = logging.getLogger(__name__)

CACHE = "HEP_RAY_CACHE"
"""Environment variable: the folder of what hep_ray remembers on this host; `~/.cache/hep_ray` by default."""
BEGINNING = b"SQLite format 3\0"
"""Begins every SQLite database."""
VERSION = "alembic_version"
KEPT = {VERSION, "workspaces"}
"""Tables of a database without experiments that have rows: its version, and MLflow's own workspace."""


def lay_tables(file: Path) -> bool:
    """Make a new SQLite database with the tables that are kept.

    Args:
        file: that is not there yet; its folder is.

    Returns:
        Whether they were laid; else the file is left to MLflow.
    """
    try:
        kept = _place().read_bytes()
        if not kept.startswith(BEGINNING):
            return False
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(kept)
            sound = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
            sound = sound and _filled(database) in (KEPT, {VERSION})
        if sound:
            with whole(file) as filling:
                filling.write_bytes(kept)
    except (OSError, RuntimeError, sqlite3.Error) as exc:
        logger.debug("no tables of MLflow are kept: %s", exc)
        return False
    return sound


def keep_tables(file: Path) -> None:
    """Keep the tables of a database that MLflow has just made, without what it holds."""
    try:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
                database.backup(copy)
            copy.execute("PRAGMA foreign_keys = OFF")
            for table in sorted(_filled(copy) - KEPT):
                copy.execute(f'DELETE FROM "{table}"')  # noqa: S608 - MLflow's own name
            copy.execute("VACUUM")
            with whole(_place()) as filling:
                filling.write_bytes(copy.serialize())
    except (OSError, RuntimeError, sqlite3.Error) as exc:
        logger.info("cannot keep the tables of MLflow: %s", exc)


def _filled(database: sqlite3.Connection) -> set[str]:
    """Return the tables that have a row."""
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name
        for name in names
        if database.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone() == (1,)  # noqa: S608
    }


def _place() -> Path:
    given = os.environ.get(CACHE)
    root = Path(given) if given else Path.home() / ".cache" / "hep_ray"
    return root / f"mlflow-{version('mlflow')}.db"
