"""A dataset folder, opened for reading."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from hep_ray.dataset.events import EventSchema
from hep_ray.dataset.integrity import verify as verify_shards
from hep_ray.dataset.manifest import Manifest
from hep_ray.dataset.splits import Split
from hep_ray.errors import InvalidConfig, InvalidEvents
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
        splits: tuple[Split, ...] = ("train", "val")
        for split in splits:
            counts = manifest.class_counts(split)
            if not all(counts.values()):
                raise InvalidEvents(f"the split '{split}' has events of every class; {folder} has {counts}")
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
        """Events in a split.

        Raises:
            UnknownName: there is no such split.
        """
        check_name("split", split, get_args(Split))
        return self.manifest.rows(split)

    def paths(self, split: Split, *, purpose: TestPurpose | None = None) -> list[Path]:
        """The shards of a split, in order.

        Args:
            split: which one.
            purpose: why the test split is read; the other splits need none.

        Raises:
            UnknownName: there is no such split, or no such purpose.
            InvalidConfig: the test split is asked for without a purpose.
        """
        check_name("split", split, get_args(Split))
        if purpose is not None:
            check_name("purpose", purpose, get_args(TestPurpose))
        if split == "test" and purpose is None:
            raise InvalidConfig(
                f"the test split is read for a purpose ({', '.join(get_args(TestPurpose))}); none is given"
            )
        return [self.folder / shard.file for shard in self.manifest.shards if shard.split == split]
