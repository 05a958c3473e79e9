"""Where a result comes from: code, versions, machine and the command that makes it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("hep-ray", "ray", "torch", "optuna", "mlflow", "numpy", "pyarrow")
"""Packages whose versions a result depends on."""


def provenance(source: Path) -> dict[str, str]:
    """Flat facts for MLflow tags and the leaderboard's header.

    Args:
        source: a file of the code that runs (the search script); its git checkout is stated.
    """
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "git_commit": _git(source, "rev-parse", "HEAD") or "unknown: not a git checkout",
        "git_dirty": _dirtiness(source),
        "python": platform.python_version(),
        "host": platform.node(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        **{f"version_{name}": _version(name) for name in PACKAGES},
    }


def _dirtiness(source: Path) -> str:
    status = _git(source, "status", "--porcelain")
    return "unknown" if status is None else str(bool(status)).lower()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _git(source: Path, *words: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    folder = source if source.is_dir() else source.parent
    done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
