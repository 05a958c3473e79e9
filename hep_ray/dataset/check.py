"""Everything that can be found wrong with a dataset before it is trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.config import Config
from hep_ray.dataset.balance import balance_notes, balance_problems
from hep_ray.dataset.events import EVENT_ID, LABEL, Arrays, Column, EventSchema
from hep_ray.dataset.expressions import unknown
from hep_ray.dataset.integrity import shard_problems
from hep_ray.dataset.leakage import Leakage, split_findings
from hep_ray.dataset.manifest import Manifest, Shard
from hep_ray.dataset.repetitions import Repetitions, row_hashes
from hep_ray.dataset.shard_file import ContentHash
from hep_ray.dataset.splits import SPLITS, SplitRule, event_hashes, split_codes
from hep_ray.errors import InvalidConfig, InvalidEvents

BATCH_BYTES = 32 * 2**20
"""Decoded events that are looked at together."""


class CheckReport(Config):
    """What a dataset holds and what is wrong with it.

    Attributes:
        events: in all splits.
        classes: class name → events.
        splits: split name → events.
        fingerprint: of the manifest.
        problems: one sentence each; empty for a sound dataset.
        notes: what is worth knowing and no fault; not part of the JSON.
    """

    events: int
    classes: dict[str, int]
    splits: dict[str, int]
    fingerprint: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One JSON object with the keys events, classes, splits, fingerprint and problems."""
        return json.dumps(self.model_dump(mode="json", exclude={"notes"}), indent=2)


def check(folder: Path | str, accept: Sequence[str] = ()) -> CheckReport:
    """Compare a dataset with its manifest and look through all of its events, in bounded memory.

    Problems are: files that differ from the manifest; a fingerprint that is not that of the manifest's
    entries; an empty split, or one that lacks a class; NaN or infinity; labels outside the classes; a column
    that models read, or a named element of one, with a single value throughout; events in a split that the
    rule does not give them; ids used twice; events whose inputs repeat those of another, of the same class
    or, counted apart, of another, within a split or, as leakage, across splits; columns that separate a class from
    the others alone and look like row numbers, identifiers, weights or labels.

    Notes are: classes of unequal size, and splits in which a class is rarer or commoner than overall; columns that
    separate a class alone, identifiers and weights, and values that seem to stand for missing ones.

    Args:
        folder: of the dataset.
        accept: columns that are known to be measurements: what is found of them is noted only.

    Raises:
        UnreadableInput: there is no readable manifest.
        InvalidConfig: `accept` names a column that the dataset has not.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    known = [column.name for column in manifest.event_schema.columns]
    for name in accept:
        if name not in known:
            raise InvalidConfig(f"an accepted column is one of the dataset's; {unknown(name, known)}")
    problems = [problem] if (problem := manifest.fingerprint_problem()) else []
    problems += shard_problems(folder, manifest)
    problems += balance_problems(manifest)
    scan = _Scan(manifest)
    for shard in manifest.shards:
        problems += scan.read(folder, shard)
    problems += scan.problems()
    grave, notes = split_findings(scan.leakage.findings(), accept)
    problems += grave
    return CheckReport(
        events=sum(shard.rows for shard in manifest.shards),
        classes=manifest.class_counts(),
        splits=manifest.split_counts(),
        fingerprint=manifest.fingerprint,
        problems=tuple(problems),
        notes=(*balance_notes(manifest), *notes),
    )


class _Scan:
    """What one pass over the events leaves behind: 18 bytes per event, and a sample of them.

    Attributes:
        leakage: the sample.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._schema = manifest.event_schema
        self._rule = manifest.split_rule
        self._ranges = [_Range(column) for column in self._schema.inputs]
        self.leakage = Leakage(manifest)
        self._contents = Repetitions()
        self._ids = Repetitions()
        event_bytes = sum(
            np.dtype(column.dtype).itemsize * int(np.prod(column.shape)) for column in self._schema.columns
        )
        self._batch_rows = max(1, BATCH_BYTES // event_bytes)

    def read(self, folder: Path, shard: Shard) -> Iterator[str]:
        """Look through one shard; a file that cannot be read is left to `shard_problems`."""
        content, rows = ContentHash(self._schema), 0
        try:
            with pq.ParquetFile(folder / shard.file) as parquet:
                for batch in parquet.iter_batches(batch_size=self._batch_rows):
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
        hashes = event_hashes(event_ids, self._rule.salt)
        split = SPLITS.index(shard.split)
        strays = _expected_splits(events, hashes, self._rule, self._schema) != split
        if strays.any():
            yield (
                f"{shard.file}: {int(strays.sum())} events belong to another split than '{shard.split}', "
                f"such as '{event_ids[int(strays.argmax())]}'"
            )
        for column in self._ranges:
            column.update(events)
        inputs = [events[column.name] for column in self._schema.inputs]
        self._contents.add(row_hashes(inputs), labels, split)
        self._ids.add(hashes[:, 1], labels, split)
        self.leakage.add(events, hashes[:, 1], split)

    def problems(self) -> Iterator[str]:
        """What only the whole dataset shows."""
        for column in self._ranges:
            yield from column.problems()
        if repeats := self._ids.count().repeated:
            yield f"{repeats} events have the id of another event"
        contents = self._contents.count()
        if contents.repeated:
            yield f"{contents.repeated} events repeat the content of another event"
        if contents.contradictory:
            yield f"{contents.contradictory} events have the content of an event of another class"
        for left, right in ((0, 1), (0, 2), (1, 2)):
            if shared := contents.shared[left, right]:
                yield f"{shared} events are in '{SPLITS[left]}' and, with the same content, in '{SPLITS[right]}'"


class _Range:
    """Lowest and highest value of a column, and of each of its named elements."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._lowest: npt.NDArray[np.float64] = np.full(len(column.elements) or 1, np.inf)
        self._highest = -self._lowest

    def update(self, events: Arrays) -> None:
        values = events[self._column.name].reshape(-1, len(self._lowest))
        self._lowest = np.minimum(self._lowest, values.min(axis=0))
        self._highest = np.maximum(self._highest, values.max(axis=0))

    def problems(self) -> Iterator[str]:
        name = self._column.name
        if self._lowest.min() == self._highest.max():
            yield f"column '{name}' is {self._lowest[0]:g} in every event"
            return
        for element, lowest, highest in zip(self._column.elements, self._lowest, self._highest, strict=False):
            if lowest == highest:
                yield f"element '{element}' of column '{name}' is {lowest:g} in every event"


def _expected_splits(
    events: Arrays, hashes: npt.NDArray[np.uint64], rule: SplitRule, schema: EventSchema
) -> npt.NDArray[np.intp]:
    return split_codes(hashes, rule, schema.quantities(events))
