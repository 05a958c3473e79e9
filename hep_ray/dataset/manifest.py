"""`manifest.json`: what a dataset folder holds, and the fingerprint of its content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, JsonValue

from hep_ray.config import Config, parse
from hep_ray.dataset.schema import EVENT_ID, Arrays, EventSchema
from hep_ray.dataset.splits import SPLITS, Split, SplitRule
from hep_ray.errors import ShardMismatch, UnreadableInput

MANIFEST = "manifest.json"
FORMAT = 2
ROW_GROUP = 512
"""Events of a row group of a shard, the last one of a shard excepted."""


class Shard(Config):
    """One Parquet file: events of a single split.

    Attributes:
        file: name within the dataset folder, and nothing outside it.
        split: the split of all its events.
        rows: number of events.
        size: of the file, in bytes.
        sha256: of the file's bytes.
        content: SHA-256 of the decoded events in their order, the same whatever wrote the file.
        classes: class name → events.
    """

    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    split: Split
    rows: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str
    content: str
    classes: dict[str, int]


class Manifest(Config):
    """Everything there is to know about a dataset without opening a shard.

    Attributes:
        format: version of this layout.
        event_schema: columns and classes.
        split_rule: fractions and salt.
        source: where the events come from: input files with their hashes, or the generator's settings.
        shards: every file, in order.
        created_by: name and version of the writing program.
        fingerprint: `fingerprint_of` the schema, the rule and the shards' content.
        sparse: column stored without its zeros → values per event that are left, on average. How events are stored
            does not decide what they are: the fingerprint leaves it out.
    """

    format: int = FORMAT
    event_schema: EventSchema
    split_rule: SplitRule
    source: dict[str, JsonValue]
    shards: tuple[Shard, ...]
    created_by: str
    fingerprint: str
    sparse: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Return the manifest of a dataset folder, as it stands.

        Raises:
            UnreadableInput: there is no manifest, or it is not one of this format.
            InvalidSchema: its schema contradicts itself.
        """
        path = Path(folder) / MANIFEST
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise UnreadableInput(f"cannot read the dataset's {path}: {exc.strerror}") from None
        except (ValueError, RecursionError) as exc:
            raise UnreadableInput(f"{path} is no JSON: {exc}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise UnreadableInput(f"{path} has the format {found!r}; this hep_ray reads format {FORMAT}")
        return parse(cls, values, str(path), UnreadableInput)

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Return the manifest of a dataset folder, once its fingerprint is known to be right.

        Raises:
            UnreadableInput: there is no manifest, or it is not one of this format.
            InvalidSchema: its schema contradicts itself.
            ShardMismatch: its fingerprint is not that of what it lists.
        """
        manifest = cls.read(folder)
        if problem := manifest.fingerprint_problem():
            raise ShardMismatch(f"{Path(folder) / MANIFEST}: {problem}")
        return manifest

    def dumps(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def fingerprint_problem(self) -> str | None:
        """Return what is wrong with the fingerprint, if anything."""
        expected = fingerprint_of(self.event_schema, self.split_rule, self.shards)
        if self.fingerprint == expected:
            return None
        return f"the fingerprint {self.fingerprint} is not that of the entries, {expected}"

    def rows(self, split: Split) -> int:
        """Return events in one split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)

    def class_counts(self, split: Split | None = None) -> dict[str, int]:
        """Return class name → events, of one split or of all, in the order of the schema's classes."""
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts.update(shard.classes if split in (None, shard.split) else ())
        return {name: counts[name] for name in self.event_schema.classes}

    def split_counts(self) -> dict[str, int]:
        """Return split name → events."""
        return {split: self.rows(split) for split in SPLITS}


def fingerprint_of(event_schema: EventSchema, split_rule: SplitRule, shards: Iterable[Shard]) -> str:
    """Return SHA-256 over a dataset's content: no path, time, host, library version or format of the source.

    Axes that are stated as `phi`, `eta`, or as those of a window, count as they did before they could be stated so.
    """
    schema = event_schema.model_dump(mode="json")
    for said, column in zip(schema["columns"], event_schema.columns, strict=True):
        said["axes"] = list(column.grid)
    content: dict[str, Any] = {
        "format": FORMAT,
        "event_schema": schema,
        "split_rule": split_rule.model_dump(mode="json"),
        "shards": [[shard.file, shard.split, shard.rows, shard.content] for shard in shards],
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class ContentHash:
    """SHA-256 of decoded events in their order, whatever file or chunks they come in."""

    def __init__(self, schema: EventSchema) -> None:
        self._columns = {name: hashlib.sha256() for name in schema.arrow().names}

    def update(self, arrays: Arrays) -> None:
        """Append events."""
        for name, hasher in self._columns.items():
            if name == EVENT_ID:
                hasher.update("".join(f"{len(event_id)}:{event_id}" for event_id in arrays[name]).encode())
            else:
                values = np.ascontiguousarray(arrays[name])
                hasher.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)

    def hexdigest(self) -> str:
        """Return the hash of all events so far."""
        digests = "".join(f"{name}:{hasher.hexdigest()}\n" for name, hasher in self._columns.items())
        return hashlib.sha256(digests.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
