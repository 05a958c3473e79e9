"""Where MLflow is, and a client of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hep_ray.errors import TrackingUnavailable


def default_uri(storage: Path) -> str:
    """SQLite database in the storage folder."""
    return f"sqlite:///{storage.resolve() / 'mlflow.db'}"


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
    """An MLflow client with its telemetry and migration chatter off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)

    return MlflowClient(tracking_uri=uri)


def find_runs(client: Any, experiment_id: str, condition: str) -> list[tuple[str, dict[str, str]]]:
    """Run id and tags of every run that fulfils a condition, such as "tags.role = 'baseline'"."""
    runs, token = [], None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=1000, page_token=token)
        runs += [(run.info.run_id, run.data.tags) for run in page]
        token = page.token
        if not token:
            return runs


def ping(uri: str) -> None:
    """Ask MLflow for one experiment.

    Raises:
        TrackingUnavailable: nothing answers there.
    """
    try:
        open_client(uri).search_experiments(max_results=1)
    except Exception as fault:
        raise TrackingUnavailable(f"MLflow does not answer at {uri}: {fault}") from fault
