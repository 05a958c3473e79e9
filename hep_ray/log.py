"""Show what hep_ray does beside its results: each module logs under its own name, `--verbose` puts it on stderr."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from hep_ray.errors import InvalidConfig
from hep_ray.masking import mask

LEVEL = "HEP_RAY_LOG_LEVEL"
"""Environment variable of the least level that is shown; Ray's workers get it from the driver."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
BY_COUNT = ("INFO", "DEBUG")
"""Level by the number of `-v`."""


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment, which a progress display or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Masked(logging.Formatter):
    """Hides the passwords of URIs."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def show(level: str) -> None:
    """Write the records of hep_ray's loggers from a level on to stderr, in this process and in those it starts.

    Raises:
        InvalidConfig: there is no such level.
    """
    logger = logging.getLogger("hep_ray")
    if level.upper() not in LEVELS:
        raise InvalidConfig(f"unknown {LEVEL}={level}: type one of {', '.join(LEVELS)}")
    logger.setLevel(level.upper())
    os.environ[LEVEL] = level.upper()
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
