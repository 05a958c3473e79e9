"""Every time that the test split was looked at for a search: an append-only file beside its journal.

A test split is a fair judge once. Whoever looks at its verdict, and then chooses other finalists (or other seeds)
and looks again, selects on it. So each look is recorded before it is taken, and stays recorded, also when the
confirmation that took it is set aside by `--again`. `earlier_uses` is what promotion asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hep_ray.config import Config, parse
from hep_ray.errors import StorageError
from hep_ray.files import write_whole

FILE_NAME = "test_uses.jsonl"


class SplitUse(Config):
    """One look at the test split.

    Attributes:
        time: Unix time, s, just before the split was read.
        purpose: why, such as `confirm`.
        dataset_fingerprint: whose test split.
        contenders: `params_hash` of each configuration that was evaluated, sorted.
        confirmation_id: `search_id` of the first record in the confirmation's journal.
        seeds: of the trainings that were evaluated.
    """

    time: float
    purpose: str
    dataset_fingerprint: str
    contenders: tuple[str, ...]
    confirmation_id: str
    seeds: tuple[int, ...] = ()


def params_hash(params: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, its parameters without the seed, whatever their order."""
    canonical = json.dumps(
        {key: value for key, value in params.items() if key != "seed"}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def record_use(folder: Path, use: SplitUse) -> None:
    """Append a look to the file of a search's folder; one that is there already (by confirmation) is not repeated.

    Raises:
        StorageError: the file cannot be written or read.
    """
    known = uses(folder)
    if any(one.confirmation_id == use.confirmation_id for one in known):
        return
    try:
        write_whole(folder / FILE_NAME, "".join(one.model_dump_json() + "\n" for one in (*known, use)))
    except OSError as fault:
        raise StorageError(
            f"a look at the test split is recorded; {folder / FILE_NAME} cannot be: {fault.strerror}"
        ) from fault


def uses(folder: Path) -> list[SplitUse]:
    """Every look that was taken for a search, in order of time; none where the file is absent.

    Raises:
        StorageError: a line of the file is not a look.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise StorageError(
                f"every line of {FILE_NAME} is JSON; line {number} of {path} is not: {fault}"
            ) from fault
        found.append(parse(SplitUse, values, f"{path}, line {number}", StorageError))
    return found


def earlier_uses(folder: Path, fingerprint: str, confirmation_id: str) -> list[SplitUse]:
    """Looks at the same test split, for the same search, before that of a confirmation.

    Any of them means that the confirmation's finalists or seeds may have been chosen with knowledge of the test split.

    Args:
        folder: of the search.
        fingerprint: of the dataset.
        confirmation_id: of the confirmation that is judged; not yet recorded, all looks are earlier.
    """
    earlier = []
    for use in uses(folder):
        if use.confirmation_id == confirmation_id:
            break
        if use.dataset_fingerprint == fingerprint:
            earlier.append(use)
    return earlier


def uses_of_others(storage: Path, search: str, fingerprint: str) -> dict[str, int]:
    """Other searches in a storage that looked at the same test split, with the number of looks."""
    counts: Sequence[tuple[str, int]] = [
        (path.parent.name, sum(use.dataset_fingerprint == fingerprint for use in uses(path.parent)))
        for path in sorted(storage.glob(f"*/{FILE_NAME}"))
        if path.parent.name != search
    ]
    return {name: count for name, count in counts if count}
