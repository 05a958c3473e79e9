"""Where a result comes from: code, versions, machine and the command that makes it again."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hep_ray.cores import usable_cores
from hep_ray.masking import mask

PACKAGES = ("hep-ray", "ray", "torch", "optuna", "mlflow", "numpy", "pyarrow")
"""Packages whose versions a result depends on."""
PACKAGE = Path(__file__).resolve().parents[1]
DECIDING_BESIDE = ("requirements", "pyproject.toml", ":(exclude,glob)**/__pycache__/**")
"""What decides a result beside the package's own folder, as git takes it; a cluster's node has no .gitignore."""
DECIDING = ("hep_ray", "searches", *DECIDING_BESIDE)
"""What of hep_ray's checkout decides a result."""
REQUIRED = (
    "command",
    "git_commit",
    "git_dirty",
    "python",
    "host",
    "cpu",
    *(f"version_{name}" for name in PACKAGES),
)
"""Facts without which nobody can make a result again."""
WHOSE = {"hep_ray": "hep_ray", "script": "the search script"}
"""Prefix of facts -> whose commit and changes they tell."""


def provenance(source: Path, plugins: Mapping[Path, str] | Iterable[Path] = ()) -> dict[str, str]:
    """Return flat facts for MLflow tags and the leaderboard's header.

    `git_commit` and `git_dirty` are of the checkout that holds the script, else of that of hep_ray. The code that
    trains is told apart: `hep_ray_commit`, `hep_ray_dirty` and `hep_ray_files` (a hash over its files), `script_commit`
    and `script_dirty`, and the same of each plug-in, as a JSON list.

    Args:
        source: a file of the code that runs (the search script), or the folder in which no script does: a notebook.
            `ray submit` copies a script out of its checkout, and there is then a script of its name in `searches/`.
        plugins: files, and folders of packages, of the user's own that register components, with the release where
            one is installed.
    """
    checkout = _checkout(source)
    releases = plugins if isinstance(plugins, Mapping) else dict.fromkeys(plugins, "")
    own = [(path, release) for path, release in releases.items() if path.resolve() != source.resolve()]
    return {
        "command": mask(shlex.join([Path(sys.executable).name, *sys.argv])),
        "git_commit": (checkout and _git(checkout, "rev-parse", "HEAD")) or "unknown: not a git checkout",
        "git_dirty": _dirtiness(checkout, source),
        "python": platform.python_version(),
        "host": platform.node(),
        "cpu": f"{platform.machine()}, {usable_cores()} of {os.cpu_count()} cores",
        **{f"version_{name}": package_version(name) for name in PACKAGES},
        **_prefixed("hep_ray", _of_package()),
        "hep_ray_files": code_hash(),
        "script": str(source.resolve()) if source.is_file() else "",
        **_prefixed("script", _of_file(source)),
        "plugins": json.dumps([_of_plugin(path, release) for path, release in own]),
    }


def doubts(facts: Mapping[str, str]) -> list[str]:
    """Say why a model of this provenance is not promoted, in sentences; none where all that is needed is known.

    Records of earlier versions, which do not tell hep_ray and the script apart, are judged by what they tell.
    """
    found = [f"{key} is absent" for key in REQUIRED if not facts.get(key)]
    found += [f"{key} is '{value}'" for key, value in facts.items() if value == "absent"]
    if "hep_ray_commit" not in facts:
        found += _doubts_of("the code", "git", facts.get("git_commit", ""), facts.get("git_dirty", ""))
        return found
    for prefix, whose in WHOSE.items():
        found += _doubts_of(
            whose, prefix, facts.get(f"{prefix}_commit", ""), facts.get(f"{prefix}_dirty", "")
        )
    for one in json.loads(facts.get("plugins", "[]")):
        found += _doubts_of(f"{one['path']}, code of its components,", "plug-in", one["commit"], one["dirty"])
    return found


def _doubts_of(whose: str, prefix: str, commit: str, dirty: str) -> Iterator[str]:
    if not commit or commit.startswith("unknown"):
        yield f"{prefix}_commit is '{commit}': {whose} is in no git checkout, so commit it and confirm again"
    elif dirty != "false":
        yield (
            f"{prefix}_dirty is '{dirty}': {whose}, or another file that git tracks beside it, is not that of commit "
            f"{commit[:12]}, so commit and confirm again"
        )


def code_hash() -> str:
    """Hash of the source files of the hep_ray package that runs here."""
    total = hashlib.sha256()
    for path in _files_of_package():
        total.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _files_of_package() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".toml"})


def _prefixed(prefix: str, state: tuple[str, str]) -> dict[str, str]:
    return {f"{prefix}_commit": state[0], f"{prefix}_dirty": state[1]}


def _of_package() -> tuple[str, str]:
    """Commit of hep_ray, or its release, and whether it was changed since.

    A package that lies, unnoticed by git, in somebody else's checkout is not of that checkout's commit.
    """
    if _git(PACKAGE, "ls-files"):
        commit = _git(PACKAGE, "rev-parse", "HEAD")
        dirty = _changed(PACKAGE.parent, "--", PACKAGE.name, *DECIDING_BESIDE)
        return commit or "unknown: nothing is committed", dirty
    changed = _differs_from_release()
    if changed is None:
        return "unknown: neither a git checkout nor an installed package", "unknown"
    return f"release {package_version('hep-ray')}", str(changed).lower()


def _differs_from_release() -> bool | None:
    """Whether an installed hep_ray differs from what was installed; None where it is none."""
    try:
        distribution = importlib.metadata.distribution("hep-ray")
    except importlib.metadata.PackageNotFoundError:
        return None
    recorded = {
        Path(str(distribution.locate_file(file))).resolve(): file.hash.value
        for file in distribution.files or ()
        if file.hash is not None and file.hash.mode == "sha256"
    }
    files = _files_of_package()
    if not any(file in recorded for file in files):
        return None
    return any(recorded.get(file) != _record_hash(file) for file in files) or any(
        not file.is_file()
        for file in recorded
        if file.is_relative_to(PACKAGE) and file.suffix in {".py", ".toml"}
    )


def _record_hash(file: Path) -> str:
    """As wheels record it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")


def _of_file(source: Path) -> tuple[str, str]:
    """Commit of the checkout that holds a file, or a folder, and whether that was changed since."""
    folder = source if source.is_dir() else source.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if source.is_file() and _git(folder, "ls-files", "--error-unmatch", source.name) is None:
        top = _git(PACKAGE, "rev-parse", "--show-toplevel")
        if top is not None and _is_copy(Path(top), source):
            return _of_file(Path(top) / "searches" / source.name)
        return "unknown: not in git", "unknown"
    if commit is None:
        return "unknown: not a git checkout", "unknown"
    top = _git(folder, "rev-parse", "--show-toplevel")
    ours = top is not None and PACKAGE.is_relative_to(top)
    return commit, _changed(Path(top or folder), *(("--", *DECIDING) if ours else ("-uno",)))


def _of_plugin(path: Path, release: str = "") -> dict[str, str]:
    if path.is_dir():
        files = sorted(path.rglob("*.py"))
        texts = [f"{file.relative_to(path).as_posix()}\0".encode() + file.read_bytes() for file in files]
        digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    else:
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
    if release or {"site-packages", "dist-packages"} & set(path.parts):
        commit = f"release {release}" if release else "installed"
        return {"path": str(path), "commit": commit, "dirty": "false", "sha256": digest}
    commit, dirty = _of_package_folder(path) if path.is_dir() else _of_file(path)
    return {"path": str(path), "commit": commit, "dirty": dirty, "sha256": digest}


def _of_package_folder(folder: Path) -> tuple[str, str]:
    """Commit of the checkout that holds a package of the user's own, and whether its Python files differ from that."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not _git(folder, "ls-files", "--", "*.py"):
        return "unknown: not in git", "unknown"
    return commit, _changed(folder, "-uall", "--", "*.py")


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
    dirty = _changed(checkout, *(("--", *DECIDING) if PACKAGE.is_relative_to(checkout) else ()))
    inside = source.resolve().is_relative_to(checkout.resolve())
    if dirty == "false" and source.is_file() and not (inside or _is_copy(checkout, source)):
        return "true"
    return dirty


def _changed(folder: Path, *paths: str) -> str:
    """Say `true` where git sees a change since the commit, else `false`; `unknown` where there is no git."""
    status = _git(folder, "status", "--porcelain", *paths)
    return "unknown" if status is None else str(bool(status)).lower()


def _is_copy(checkout: Path, source: Path) -> bool:
    """Whether a file is a copy of the search of its name in the checkout."""
    original = checkout / "searches" / source.name
    return original.is_file() and original.read_bytes() == source.read_bytes()


def package_version(package: str) -> str:
    """Return the version of an installed package; `absent` where it is not."""
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
