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

from hep_ray.cores import usable_cores
from hep_ray.masking import mask

PACKAGES = ("hep-ray", "ray", "torch", "optuna", "mlflow", "numpy", "pyarrow")
"""Packages whose versions a result depends on."""
PACKAGE = Path(__file__).resolve().parents[1]
DECIDING = ("hep_ray", "searches", "requirements", "pyproject.toml", ":(exclude,glob)**/__pycache__/**")
"""What of hep_ray's checkout decides a result, as git takes it; a cluster's node has no .gitignore."""


def provenance(source: Path) -> dict[str, str]:
    """Flat facts for MLflow tags and the leaderboard's header.

    Args:
        source: a file of the code that runs (the search script). Its git checkout is stated, else that of hep_ray:
            `ray submit` copies a script out of its checkout, and there is then a script of its name in `searches/`.
    """
    checkout = _checkout(source)
    return {
        "command": mask(shlex.join([Path(sys.executable).name, *sys.argv])),
        "git_commit": (checkout and _git(checkout, "rev-parse", "HEAD")) or "unknown: not a git checkout",
        "git_dirty": _dirtiness(checkout, source),
        "python": platform.python_version(),
        "host": platform.node(),
        "cpu": f"{platform.machine()}, {usable_cores()} of {os.cpu_count()} cores",
        **{f"version_{name}": package_version(name) for name in PACKAGES},
    }


def _checkout(source: Path) -> Path | None:
    """Top folder of the git checkout that holds the source, else of the one that holds hep_ray."""
    folder = source if source.is_dir() else source.parent
    for candidate in (folder, PACKAGE):
        if top := _git(candidate, "rev-parse", "--show-toplevel"):
            return Path(top)
    return None


def _dirtiness(checkout: Path | None, source: Path) -> str:
    """Whether what decides a result differs from the commit; a cluster's nodes hold no more of a checkout than that."""
    if checkout is None:
        return "unknown"
    ours = PACKAGE.is_relative_to(checkout)
    status = _git(checkout, "status", "--porcelain", *(("--", *DECIDING) if ours else ()))
    if status is None:
        return "unknown"
    return str(bool(status) or (source.is_file() and not _is_of(checkout, source))).lower()


def _is_of(checkout: Path, source: Path) -> bool:
    """Whether the source is a file of the checkout, or a copy of a search in it."""
    if source.resolve().is_relative_to(checkout.resolve()):
        return True
    original = checkout / "searches" / source.name
    return original.is_file() and original.read_bytes() == source.read_bytes()


def package_version(package: str) -> str:
    """Version of an installed package; `absent` where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _git(folder: Path, *words: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
