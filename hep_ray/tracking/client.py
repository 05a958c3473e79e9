"""Where MLflow is, and a client of it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable
from hep_ray.flags import typed
from hep_ray.masking import mask
from hep_ray.tracking.faults import cause
from hep_ray.tracking.relocate import correct_addresses

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
NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system answers that cannot lock a folder, as some network file systems."""


def default_uri(storage: Path) -> str:
    """SQLite database in the storage folder."""
    return sqlite_uri(storage / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """Address of an SQLite database, whatever the characters of its path: `?`, `%` and `#` mean something in a URI."""
    from sqlalchemy import URL, make_url

    path = str(file.resolve())
    if make_url(SQLITE + path).database == path:
        return SQLITE + path
    return URL.create(QUOTED, database=path).render_as_string()


def database_file(uri: str) -> Path | None:
    """File of an SQLite database; None for anything else."""
    from sqlalchemy import make_url

    if not uri.startswith((SQLITE, f"{QUOTED}:///")):
        return None
    return Path(make_url(uri).database or "")


def artifact_location(uri: str, folder: Path | None, experiment: str) -> str | None:
    """Where a new experiment keeps its files: beside a database; a server has a place of its own, which others reach.

    Args:
        uri: of tracking.
        folder: for artifacts, where the URI is that of a database.
        experiment: name.
    """
    if folder is None or uri.startswith(("http://", "https://")):
        return None
    return (folder.resolve() / experiment).as_uri()


def open_client(uri: str, artifacts: Path | None = None) -> Any:
    """An MLflow client with its telemetry and chatter off; makes the tables of a new database, one process at a time.

    Args:
        uri: of tracking.
        artifacts: folder of the storage at work for MLflow's files; that beside a database unless given.

    Raises:
        TrackingUnavailable: another process is making the tables of the database, for longer than a minute; or the
            storage was moved, and its database cannot be written.
    """
    make = client_class()
    with _one_at_a_time(uri):
        file = database_file(uri)
        if file is not None:
            correct_addresses(file, artifacts)
        return make(tracking_uri=uri)


def client_class() -> Any:
    """MLflow's client, imported with our settings; the first call takes seconds."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient


def all_pages(ask: Callable[..., Any]) -> list[Any]:
    """What a paged query of MLflow finds, of every page; `ask` takes `page_token`."""
    found, token = [], None
    while True:
        page = ask(page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def find_runs(client: Any, experiment_id: str, condition: str) -> list[tuple[str, dict[str, str]]]:
    """Run id and tags of every run that fulfils a condition, such as "tags.role = 'baseline'"."""
    runs = all_pages(partial(client.search_runs, [experiment_id], condition, max_results=1000))
    return [(run.info.run_id, run.data.tags) for run in runs]


def look(uri: str, storage: Path) -> str:
    """What to type to see what MLflow holds: our pages of the storage, or of another database; a server has its own."""
    if uri.startswith(("http://", "https://")):
        return f"open {mask(uri)}"
    return typed(
        "hep-ray", "ui", storage=storage, tracking_uri=None if uri == default_uri(storage) else mask(uri)
    )


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
    except Exception as fault:
        raise TrackingUnavailable(f"MLflow does not answer at {mask(uri)}: {cause(fault)}") from fault


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Two searches that start at once must not both make the tables of a new database."""
    file = database_file(uri)
    if file is None or not file.parent.is_dir():
        yield
        return
    lock = os.open(file.parent, os.O_RDONLY)
    try:
        deadline = time.monotonic() + CREATION_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingUnavailable(
                        f"one process at a time opens a database; another one has been at {uri} for "
                        f"{CREATION_SECONDS:.0f} s"
                    ) from None
                time.sleep(0.05)
            except OSError as fault:
                if fault.errno not in NO_LOCKS:
                    raise
                break
        yield
    finally:
        os.close(lock)
