"""A dataset folder, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.dataset.manifest import Manifest, Shard, sha256_of
from hep_ray.dataset.schema import EventSchema
from hep_ray.dataset.splits import SPLITS, Split
from hep_ray.errors import InvalidConfig, InvalidEvents, ShardMismatch
from hep_ray.registry import check_name

TestPurpose = Literal["confirm", "promote", "report", "check"]
"""Who may read the test split: a search ranks its trials without it."""


class Dataset:
    """The shards of a folder and what its manifest says about them; made by `open`.

    Attributes:
        folder: where it lies.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> Dataset:
        """Open a dataset that can be trained on.

        Args:
            folder: of the manifest.
            verify: compare every shard with the manifest first.

        Raises:
            UnreadableInput: there is no readable manifest.
            ShardMismatch: the shards are not those of the manifest.
            InvalidEvents: the training or the validation split lacks a class.
        """
        folder = Path(folder)
        manifest = verify_shards(folder) if verify else Manifest.load(folder)
        for split in SPLITS[:2]:
            if not all((counts := manifest.class_counts(split)).values()):
                raise InvalidEvents(f"the split '{split}' of {folder} lacks a class: {counts}")
        return cls(folder, manifest)

    @property
    def schema(self) -> EventSchema:
        """Columns and classes."""
        return self.manifest.event_schema

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the content."""
        return self.manifest.fingerprint

    def rows(self, split: Split) -> int:
        """Return events in a split.

        Raises:
            UnknownName: there is no such split.
        """
        check_name("split", split, SPLITS)
        return self.manifest.rows(split)

    def paths(self, split: Split, *, purpose: TestPurpose | None = None) -> list[Path]:
        """Return the shards of a split, in order.

        Args:
            split: which one.
            purpose: why the test split is read; the other splits need none.

        Raises:
            UnknownName: there is no such split, or no such purpose.
            InvalidConfig: the test split is asked for without a purpose.
        """
        check_name("split", split, SPLITS)
        if purpose is not None:
            check_name("purpose", purpose, get_args(TestPurpose))
        if split == "test" and purpose is None:
            raise InvalidConfig(
                f"no purpose is given for reading the test split: {', '.join(get_args(TestPurpose))}"
            )
        return [self.folder / shard.file for shard in self.manifest.shards if shard.split == split]


def verify_shards(folder: Path | str) -> Manifest:
    """Compare every shard with the manifest: presence, size, SHA-256, rows and schema.

    Returns:
        The manifest.

    Raises:
        UnreadableInput: there is no readable manifest.
        ShardMismatch: the folder differs; the message names every file with what is wrong.
    """
    manifest = Manifest.load(Path(folder))
    if problems := list(shard_problems(Path(folder), manifest)):
        raise ShardMismatch(f"{folder} is not as its manifest says: " + "; ".join(problems))
    return manifest


def shard_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield one sentence for every file that is not as the manifest says."""
    listed = {shard.file for shard in manifest.shards}
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in listed:
            yield f"{path.name} is extra: the manifest does not list it"
    for shard in manifest.shards:
        if problem := _problem(folder / shard.file, shard, manifest):
            yield f"{shard.file} {problem}"


def _problem(path: Path, shard: Shard, manifest: Manifest) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size == 0:
        return f"is empty: 0 of {shard.size} bytes"
    if size < shard.size:
        return f"is truncated: {size} of {shard.size} bytes"
    if size > shard.size or sha256_of(path) != shard.sha256:
        return f"was altered: its SHA-256 is not {shard.sha256}"
    try:
        with pq.ParquetFile(path) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except pa.ArrowException as exc:
        return f"is not Parquet: {exc}"
    if rows != shard.rows or rows != sum(shard.classes.values()):
        return f"has {rows} rows, its manifest says {shard.rows} in classes {shard.classes}"
    if not schema.equals(manifest.event_schema.arrow(manifest.sparse)):
        return "has other columns than the manifest's schema"
    return None
