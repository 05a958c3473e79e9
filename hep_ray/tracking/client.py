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
from hep_ray.masking import mask
from hep_ray.tracking.faults import cause

SQLITE = "sqlite:///"
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
    return f"{SQLITE}{storage.resolve() / 'mlflow.db'}"


def database_file(uri: str) -> Path | None:
    """File of an SQLite database; None for anything else."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


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


def open_client(uri: str) -> Any:
    """An MLflow client with its telemetry and chatter off; makes the tables of a new database, one process at a time.

    Raises:
        TrackingUnavailable: another process is making the tables of the database, for longer than a minute.
    """
    make = client_class()
    with _one_at_a_time(uri):
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
