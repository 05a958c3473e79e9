"""Everything that can be found wrong with a dataset before it is trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.config import Config
from hep_ray.data.events import EVENT_ID, LABEL, Arrays
from hep_ray.data.integrity import shard_problems
from hep_ray.data.manifest import Manifest, Shard
from hep_ray.data.shards import ROW_GROUP, ContentHash
from hep_ray.data.splits import SPLITS, event_hashes, split_codes
from hep_ray.errors import InvalidEvents


class CheckReport(Config):
    """What a dataset holds and what is wrong with it.

    Attributes:
        events: in all splits.
        classes: class name → events.
        splits: split name → events.
        fingerprint: of the manifest.
        problems: one sentence each; empty for a sound dataset.
    """

    events: int
    classes: dict[str, int]
    splits: dict[str, int]
    fingerprint: str
    problems: tuple[str, ...]

    def to_json(self) -> str:
        """One JSON object with these five keys."""
        return json.dumps(self.model_dump(mode="json"), indent=2)


def check(folder: Path | str) -> CheckReport:
    """Compare a dataset with its manifest and look through all of its events, in bounded memory.

    Problems are: files that differ from the manifest; a fingerprint that is not that of the manifest's
    entries; an empty split, or one that lacks a class; NaN or infinity; labels outside the classes; a
    column with a single value throughout; events in a split that the rule does not give them; ids used
    twice; events whose columns repeat those of another, within a split or, as leakage, across splits.

    Raises:
        UnreadableInput: there is no readable manifest.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    problems = [problem] if (problem := manifest.fingerprint_problem()) else []
    problems += shard_problems(folder, manifest)
    problems += _balance_problems(manifest)
    scan = _Scan(manifest)
    for shard in manifest.shards:
        problems += scan.read(folder, shard)
    problems += scan.problems()
    return CheckReport(
        events=sum(shard.rows for shard in manifest.shards),
        classes=manifest.class_counts(),
        splits=manifest.split_counts(),
        fingerprint=manifest.fingerprint,
        problems=tuple(problems),
    )


def _balance_problems(manifest: Manifest) -> Iterator[str]:
    for split in SPLITS:
        counts = manifest.class_counts(split)
        absent = [name for name, count in counts.items() if not count]
        if manifest.split_rule.fraction(split) > 0 and not any(counts.values()):
            yield f"the split '{split}' is empty"
        elif absent and any(counts.values()):
            yield f"the split '{split}' has no events of {', '.join(absent)}"


class _Scan:
    """What one pass over the events leaves behind: a few numbers per event, never the events."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._schema = manifest.event_schema
        self._contents: list[npt.NDArray[np.uint64]] = []
        self._ids: list[npt.NDArray[np.uint64]] = []
        self._places: list[tuple[Shard, int]] = []
        self._lowest = {column.name: np.inf for column in self._schema.columns}
        self._highest = {column.name: -np.inf for column in self._schema.columns}

    def read(self, folder: Path, shard: Shard) -> Iterator[str]:
        """Look through one shard; a file that cannot be read is left to `shard_problems`."""
        content, rows = ContentHash(self._schema), 0
        try:
            with pq.ParquetFile(folder / shard.file) as parquet:
                for batch in parquet.iter_batches(batch_size=ROW_GROUP):
                    events = self._schema.decode(batch)
                    yield from self._event_problems(events, shard)
                    content.update(events)
                    rows += len(events[LABEL])
        except (OSError, pa.ArrowException):
            return
        except InvalidEvents as fault:
            yield f"{shard.file}: {fault}"
            return
        if rows == shard.rows and content.hexdigest() != shard.content:
            yield f"{shard.file} holds other events than those its manifest describes"

    def _event_problems(self, events: Arrays, shard: Shard) -> Iterator[str]:
        labels, event_ids = events[LABEL], events[EVENT_ID]
        try:
            self._schema.checked(events)
        except InvalidEvents as fault:
            yield f"{shard.file}: {fault}"
        hashes = event_hashes(event_ids, self._manifest.split_rule.salt)
        strays = split_codes(hashes, self._manifest.split_rule) != SPLITS.index(shard.split)
        if strays.any():
            yield (
                f"{shard.file}: {int(strays.sum())} events belong to another split than '{shard.split}', "
                f"such as '{event_ids[int(strays.argmax())]}'"
            )
        for name in self._lowest:
            self._lowest[name] = min(self._lowest[name], float(np.min(events[name])))
            self._highest[name] = max(self._highest[name], float(np.max(events[name])))
        self._contents.append(_content_hashes(events, list(self._lowest)))
        self._ids.append(hashes[:, 1])
        self._places.append((shard, len(labels)))

    def problems(self) -> Iterator[str]:
        """What only the whole dataset shows."""
        for name, lowest in self._lowest.items():
            if lowest == self._highest[name]:
                yield f"column '{name}' is {lowest:g} in every event"
        if not self._places:
            return
        splits = np.repeat(
            [SPLITS.index(shard.split) for shard, _ in self._places], [rows for _, rows in self._places]
        )
        _, id_counts = np.unique(np.concatenate(self._ids), return_counts=True)
        if repeats := int((id_counts - 1).sum()):
            yield f"{repeats} events have the id of another event"
        yield from _repetition_problems(np.concatenate(self._contents), splits)


def _repetition_problems(contents: npt.NDArray[np.uint64], splits: npt.NDArray[Any]) -> Iterator[str]:
    _, group, sizes = np.unique(contents, return_inverse=True, return_counts=True)
    if repeats := int((sizes - 1).sum()):
        yield f"{repeats} events repeat the content of another event"
    present = np.zeros((len(sizes), len(SPLITS)), dtype=bool)
    present[group, splits] = True
    for left, right in ((0, 1), (0, 2), (1, 2)):
        shared = int((present[:, left] & present[:, right]).sum())
        if shared:
            yield f"{shared} events are in '{SPLITS[left]}' and, with the same content, in '{SPLITS[right]}'"


def _content_hashes(events: Arrays, names: list[str]) -> npt.NDArray[np.uint64]:
    columns = [np.ascontiguousarray(events[name]).reshape(len(events[LABEL]), -1) for name in names]
    digests = []
    for rows in zip(*columns, strict=True):
        hasher = hashlib.blake2b(digest_size=8)
        for row in rows:
            hasher.update(row.data)
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
