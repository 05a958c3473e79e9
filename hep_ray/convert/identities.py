"""What tells inputs apart: names for the ids of their events, and digests of their bytes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hep_ray.dataset.shard_file import sha256_of
from hep_ray.errors import InvalidConfig, UnreadableInput

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_DIGITS = re.compile("([0-9]+)")


def natural(path: Path) -> list[tuple[str | int, ...]]:
    """Sorts numbers in names by their value."""
    return [
        tuple(int(piece) if place % 2 else piece for place, piece in enumerate(_DIGITS.split(part)))
        for part in path.parts
    ]


def stem_of(path: Path) -> str:
    """A file's name without its ending and that of a compression, such as `events` of `events.csv.gz`."""
    return path.with_suffix("").stem if path.suffix in COMPRESSIONS else path.stem


def told_apart(paths: Iterable[Path]) -> dict[Path, str]:
    """A name for every file: its stem; where several have one stem, with as much of the path as tells them apart.

    `sig/job_1/output.root` and `sig/job_2/output.root` become `job_1/output` and `job_2/output`.
    """
    groups: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths):
        groups.setdefault(stem_of(path), []).append(path)
    return {path: name for group in groups.values() for path, name in _distinct(group).items()}


def _distinct(paths: Sequence[Path]) -> dict[Path, str]:
    folders = [Path(os.path.abspath(path)).parts[1:-1] for path in paths]  # noqa: PTH100 (links keep their names)
    for names in ([stem_of(path) for path in paths], [path.name for path in paths]):
        for depth in range(max(map(len, folders)) + 1):
            found = [
                "/".join((*parts[len(parts) - depth :], name))
                for parts, name in zip(folders, names, strict=True)
            ]
            if len(set(found)) == len(found):
                return dict(zip(paths, found, strict=True))
    raise InvalidConfig(f"every input is given once; {paths[0]} and {paths[1]} are the same")


def distinct_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of every input.

    Raises:
        InvalidConfig: two hold the same bytes.
        UnreadableInput: one cannot be read.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        digest = digest_of(path)
        if digest in seen:
            raise InvalidConfig(f"every input is given once; {path} and {seen[digest]} hold the same bytes")
        seen[digest] = path
    return {path: digest for digest, path in seen.items()}


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of a folder's files.

    Raises:
        UnreadableInput: it cannot be read.
    """
    try:
        if not path.is_dir():
            return sha256_of(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    except OSError as fault:
        raise UnreadableInput(f"an input is a readable file; {path}: {fault.strerror}") from None
