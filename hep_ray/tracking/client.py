"""Where MLflow is, and a client of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any


def default_uri(storage: Path) -> str:
    """SQLite database in the storage folder."""
    return f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def open_client(uri: str) -> Any:
    """An MLflow client with its telemetry and migration chatter off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)

    return MlflowClient(tracking_uri=uri)
