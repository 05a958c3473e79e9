"""`hep-ray ui`: MLflow's pages of a storage folder, with links to the views that compare trials."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import Annotated, Any

import typer

from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.flags import STORAGE, Storage
from hep_ray.masking import mask

SERVER = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}
"""Environment of the server, where it is not set: no queue of jobs of language models, which none of this needs."""


def ui(
    storage: Storage = STORAGE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Another MLflow database [default: that of the storage].", show_default=False),
    ] = None,
) -> None:
    """Serve the MLflow UI of a storage folder on 127.0.0.1 until Ctrl-C.

    Every search has views, under *Views* and as the links that are printed: its trials, best first; their means by
    root index (or whatever else varied); after `hep-ray confirm` the confirmed ones and the means over seeds.

    Raises:
        StorageError: the folder holds no search yet.
        InvalidConfig: the port is taken.
    """
    from hep_ray.tracking.client import correct_addresses, database_file, default_uri

    uri = tracking_uri or default_uri(storage)
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise StorageError(
            f"no search has been tracked in {file}: run a search first, or "
            "name the database that it was tracked in with --tracking-uri"
        )
    if uri.startswith(("http://", "https://")):
        raise InvalidConfig(f"{mask(uri)} is a server, which has pages of its own: open it in a browser")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as exc:
        raise InvalidConfig(
            f"cannot listen on port {port} of 127.0.0.1: {exc.strerror}: name another --port"
        ) from None
    if file is not None:
        correct_addresses(file)
    words = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    server = subprocess.Popen(  # noqa: S603
        [sys.executable, *words], env={**SERVER, **os.environ}, start_new_session=True
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            what = storage if tracking_uri is None else mask(uri)
            typer.echo(f"MLflow UI of {what} on http://127.0.0.1:{port} (Ctrl-C ends it)")
            for line in _links(uri, port):
                typer.echo(line)
        status = server.wait()
    except KeyboardInterrupt:
        status = 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    raise typer.Exit(status)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:  # of which URLError is one
        return False


def _links(uri: str, port: int) -> list[str]:
    """Each search with the address of its trials, the last one first."""
    from hep_ray.tracking.client import open_client
    from hep_ray.tracking.views import TRIALS, VIEW_TAG, link

    found: list[Any] = [
        one for one in open_client(uri).search_experiments() if f"{VIEW_TAG}{TRIALS}" in one.tags
    ]
    return [f"  {one.name}: http://127.0.0.1:{port}/{link(one.experiment_id, TRIALS)}" for one in found]
