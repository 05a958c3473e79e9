"""Find MLflow, open a client, and tell what its errors mean.

A storage that was copied or moved holds absolute addresses of files in its database; opening it makes them those of
where it is now.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from hep_ray.errors import StorageHeld, TrackingUnavailable
from hep_ray.files import lock
from hep_ray.flags import typed
from hep_ray.masking import mask
from hep_ray.tracking.journal import FILE_NAME
from hep_ray.tracking.records import SearchStarted
from hep_ray.tracking.tables import keep_tables, lay_tables

SQLITE = "sqlite:///"
QUOTED = "sqlite+pysqlite"
"""SQLAlchemy's other name of SQLite: MLflow makes the folder that follows `sqlite:///`, with its quoting unread."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Environment of MLflow's client; a value the user set stands."""
QUIET = {
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    # What these tell at every attempt is told once, by whoever asked.
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
CREATION_SECONDS = 60.0
"""How long one process waits for another to make the tables of a database."""
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
REFUSED_RECORD = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Error codes of a server that is there and does not want this record: its run was deleted, say."""
REFUSED_CLIENT = range(400, 500)
WAIT_AND_SEE = {408, 409, 429}
"""Of these, what time mends."""


def default_uri(storage: Path) -> str:
    """Return the address of the SQLite database in a storage folder."""
    return sqlite_uri(storage / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """Return the address of an SQLite database, whatever its path: `?`, `%` and `#` mean something in a URI."""
    from sqlalchemy import URL, make_url

    path = str(file.resolve())
    if make_url(SQLITE + path).database == path:
        return SQLITE + path
    return URL.create(QUOTED, database=path).render_as_string()


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for anything else."""
    from sqlalchemy import make_url

    if not uri.startswith((SQLITE, f"{QUOTED}:///")):
        return None
    return Path(make_url(uri).database or "")


def recorded_uri(folder: Path, started: SearchStarted | None) -> str:
    """Return where MLflow holds a search: as recorded, else in the database of the storage that its folder lies in.

    Of a storage that was copied or moved with its database it is the database that lies in it now.
    """
    recorded: str | None = started.options.get("tracking_uri") if started else None
    own = default_uri(folder.parent)
    if recorded is None or _was_beside(database_file(recorded), database_file(own), folder.name):
        return own
    return recorded


def _was_beside(file: Path | None, own: Path | None, search: str) -> bool:
    """Return whether a recorded database is that of the storage that this one is a copy of, or was moved from."""
    if file is None or own is None or not own.is_file() or file.name != own.name:
        return False
    return not file.is_file() or (file.parent / search / FILE_NAME).is_file()


def artifact_location(uri: str, folder: Path | None, experiment: str) -> str | None:
    """Return where a new experiment keeps its files: beside a database; a server has a place that others reach.

    Args:
        uri: of tracking.
        folder: for artifacts, where the URI is that of a database.
        experiment: name.
    """
    if folder is None or uri.startswith(("http://", "https://")):
        return None
    return (folder.resolve() / experiment).as_uri()


def open_client(uri: str, artifacts: Path | None = None) -> Any:
    """Open an MLflow client, its telemetry and chatter off, and make the tables of a new database.

    One process does so at a time.

    Args:
        uri: of tracking.
        artifacts: folder of the storage at work for MLflow's files; that beside a database unless given.

    Raises:
        TrackingUnavailable: another process opens the database for longer than a minute; or the storage was moved,
            and its database cannot be written.
    """
    make = client_class()
    file = database_file(uri)
    if file is None or not file.parent.is_dir():
        return make(tracking_uri=uri)
    # Two searches that start at once must not both make the tables of a new database.
    try:
        with lock(file.parent, "one process opens a database at a time", CREATION_SECONDS):
            new = not os.path.lexists(file)  # a link may lead to where nothing is yet
            laid = new and lay_tables(file)
            correct_addresses(file, artifacts)
            client = make(tracking_uri=uri)
            if new and not laid:
                keep_tables(file)
            return client
    except StorageHeld as exc:
        raise TrackingUnavailable(f"cannot open {uri}: {exc}") from None


def client_class() -> Any:
    """Import MLflow's client with our settings; the first call takes seconds."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient


def all_pages(ask: Callable[..., Any]) -> list[Any]:
    """Return what a paged query of MLflow finds, of every page; `ask` takes `page_token`."""
    found, token = [], None
    while True:
        page = ask(page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def find_runs(client: Any, experiment_id: str, condition: str) -> list[tuple[str, dict[str, str]]]:
    """Return run id and tags of every run that fulfils a condition, such as "tags.role = 'baseline'"."""
    runs = all_pages(partial(client.search_runs, [experiment_id], condition, max_results=1000))
    return [(run.info.run_id, run.data.tags) for run in runs]


def look(uri: str, storage: Path) -> str:
    """Return what to type to see what MLflow holds: pages of a storage or another database, or a server's own."""
    if uri.startswith(("http://", "https://")):
        return f"open {uri}"
    return typed("hep-ray", "ui", storage=storage, tracking_uri=None if uri == default_uri(storage) else uri)


def store_file(client: Any, run_id: str, file: Path) -> None:
    """Store a file with a run; one of the same name is replaced.

    MLflow's own `log_artifact` keeps the place of a run's files for the life of the process: a storage and its copy,
    which share the ids of runs, would get each other's.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = client.get_run(run_id).info.artifact_uri
    get_artifact_repository(place, tracking_uri=client.tracking_uri).log_artifact(str(file))


def ping(uri: str) -> None:
    """Ask MLflow for one experiment.

    Raises:
        TrackingUnavailable: nothing answers there.
    """
    try:
        open_client(uri).search_experiments(max_results=1)
    except Exception as exc:
        raise TrackingUnavailable(f"MLflow does not answer at {mask(uri)}: {cause(exc)}") from exc


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
        address = f"file:{quote(str(file.resolve()))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as database:
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
    except sqlite3.Error as exc:
        raise TrackingUnavailable(
            f"cannot correct the addresses in {file} of a storage that was copied or moved ({exc}): make it writable, "
            "or type the command where it was made"
        ) from exc


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


def refuses_record(exc: Exception) -> bool:
    """Tell whether trying again with the same record would be answered the same."""
    return getattr(exc, "error_code", None) in REFUSED_RECORD


def refuses_client(exc: Exception) -> bool:
    """Tell whether waiting cannot help: wrong credentials, no such scheme, a driver that is not installed."""
    from sqlalchemy.exc import ArgumentError

    if isinstance(exc, ImportError | ArgumentError):
        return True
    status: Any = getattr(exc, "get_http_status_code", int)()
    return status in REFUSED_CLIENT and status not in WAIT_AND_SEE


def cause(exc: Exception) -> str:
    """Return an error in one line, without passwords, and without the SQL that was tried."""
    if isinstance(exc, ImportError) and (exc.name or "").startswith("psycopg"):
        return "PostgreSQL needs a driver: pip install 'hep-ray[postgres]'"
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("[SQL:", "[parameters:", "(Background on"))]
    return mask(" ".join(kept) or type(exc).__name__)[:500]
