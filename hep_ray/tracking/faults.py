"""What an error of MLflow means: wait and try again, leave out the record that it refuses, or give up at once."""

from __future__ import annotations

from typing import Any

from hep_ray.masking import mask

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


def refuses_record(fault: Exception) -> bool:
    """Whether trying again with the same record would be answered the same."""
    return getattr(fault, "error_code", None) in REFUSED_RECORD


def refuses_client(fault: Exception) -> bool:
    """Whether waiting cannot help: wrong credentials, no such scheme, a driver that is not installed."""
    from sqlalchemy.exc import ArgumentError

    if isinstance(fault, ImportError | ArgumentError):
        return True
    status: Any = getattr(fault, "get_http_status_code", int)()
    return status in REFUSED_CLIENT and status not in WAIT_AND_SEE


def cause(fault: Exception) -> str:
    """The fault in one line, without passwords, and without the SQL that was tried."""
    if isinstance(fault, ImportError) and "psycopg" in str(fault):
        return "PostgreSQL needs a driver: pip install 'hep-ray[postgres]'"
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("[SQL:", "[parameters:", "(Background on"))]
    return mask(" ".join(kept) or type(fault).__name__)[:500]
