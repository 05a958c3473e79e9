"""A dataset folder: `manifest.json`, the fingerprint of its content, and the folder opened for reading."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, JsonValue

from hep_ray.addresses import Address, located
from hep_ray.config import Config, parse
from hep_ray.cores import usable_cores
from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays, EventSchema, texts
from hep_ray.dataset.shard_file import open_shard, read_shard
from hep_ray.dataset.splits import SPLITS, Split, SplitRule
from hep_ray.dataset.values import index_dtype
from hep_ray.dataset.variations import Variation
from hep_ray.dataset.verified import UNSOUND, Stamp, record, recorded, stamp_of
from hep_ray.errors import HepRayError, InvalidConfig, InvalidEvents, ShardMismatch, UnreadableInput
from hep_ray.registry import check_name

MANIFEST = "manifest.json"
BEGINNINGS = "ids"
"""In a manifest's source: SHA-256 of a file → what may stand before the numbers of its events in their ids."""
FORMAT = 2
ROW_GROUP = 512
"""Events of a row group of a shard, the last one of a shard excepted."""
OFFSET_BYTES = 8
"""Bytes of a label, and of where an event's values begin in a column without its zeros."""
TestPurpose = Literal["confirm", "promote", "report", "check"]
"""Who may read the test split: a search ranks its trials without it."""


Hashes = Literal["once", "all", "none"]
"""Which shards are hashed when a dataset is opened."""
SIDE_BY_SIDE = 8
"""Shards that are looked at side by side, at most."""
HASHED_AT_A_TIME = 2**20
"""Bytes."""
ASKED_AT_ONCE = 32
"""Those at an address, which take patience and no processor."""


WeightSums = dict[Split, dict[str, tuple[float, float]]]
"""Split → class → Σw and Σ|w| of the weights of its events."""


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
        lengths: column of lists → items of an event, on average.
        weights: `weight_sums` of the shards; empty without weights, and where an earlier version did not write them.
    """

    format: int = FORMAT
    event_schema: EventSchema
    split_rule: SplitRule
    source: dict[str, JsonValue]
    shards: tuple[Shard, ...]
    created_by: str
    fingerprint: str
    sparse: dict[str, float] = Field(default_factory=dict)
    lengths: dict[str, float] = Field(default_factory=dict)
    weights: WeightSums = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Return the manifest of a dataset folder, as it stands.

        Raises:
            UnreadableInput: there is no manifest, or it is not one of this format.
            InvalidSchema: its schema contradicts itself.
        """
        path = located(folder) / MANIFEST
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
            raise ShardMismatch(f"{located(folder) / MANIFEST}: {problem}")
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

    @property
    def event_bytes(self) -> int:
        """Bytes of an event in memory, on average, with its label."""
        total = OFFSET_BYTES
        for column in self.event_schema.columns:
            if column.name in self.sparse:
                item = np.dtype(column.dtype).itemsize + index_dtype(int(np.prod(column.shape))).itemsize
                total += round(self.sparse[column.name] * item) + OFFSET_BYTES
            elif column.name in self.lengths:
                item = column.nbytes // column.shape[0]
                total += round(self.lengths[column.name] * item) + OFFSET_BYTES
            else:
                total += column.nbytes
        return total

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

    Axes that are stated as `phi`, `eta`, or as those of a window, count as they did before they could be stated so;
    columns without lists, missing values or categories, roles that no column has, and splits that are no folds or not
    stratified, as they did before there were any. Variations do not count: they change no event and no training.
    """
    schema = event_schema.model_dump(mode="json")
    for role in ("split_by", "spectators", "expected"):
        if not schema[role]:
            del schema[role]
    del schema["variations"]
    for said, column in zip(schema["columns"], event_schema.columns, strict=True):
        said["axes"] = list(column.grid)
        del said["sentinels"], said["fill"], said["padding"]  # of the input: no event has them
        for kind in ("lists", "missing", "categories"):
            if not said[kind]:
                del said[kind]
    rule = split_rule.model_dump(mode="json")
    if split_rule.folds is None:
        del rule["folds"], rule["fold"]
    if not split_rule.stratified:
        del rule["stratified"], rule["cuts"]
    content: dict[str, Any] = {
        "format": FORMAT,
        "event_schema": schema,
        "split_rule": rule,
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
                hasher.update(_with_lengths(texts(arrays[name])))
            else:
                values = np.ascontiguousarray(arrays[name])
                hasher.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)

    def hexdigest(self) -> str:
        """Return the hash of all events so far."""
        digests = "".join(f"{name}:{hasher.hexdigest()}\n" for name, hasher in self._columns.items())
        return hashlib.sha256(digests.encode()).hexdigest()


def _with_lengths(ids: pa.Array) -> memoryview:
    """Return the bytes of `LENGTH:ID` for every id, one after the other; lengths are counted in characters."""
    lengths = pc.utf8_length(ids).cast(pa.string())
    counted = pc.binary_join_element_wise(lengths, ids, ":")
    _, bounds, content = counted.buffers()
    ends = np.frombuffer(bounds, np.int32)[counted.offset : counted.offset + len(counted) + 1]
    return memoryview(content or b"")[int(ends[0]) : int(ends[-1])] if len(ends) else memoryview(b"")


def sha256_of(path: Path, stop: Event | None = None) -> str:
    """Return SHA-256 of a file's bytes.

    Args:
        path: of the file.
        stop: once it is set, what is returned is of no use, and comes at once.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(HASHED_AT_A_TIME))
    with path.open("rb") as file:
        while not (stop and stop.is_set()) and (read := file.readinto(buffer)):
            digest.update(buffer[:read])
    return digest.hexdigest()


@contextmanager
def hashing(most: int | None = None) -> Iterator[tuple[ThreadPoolExecutor, Event]]:
    """Yield threads that hash side by side, and what to hand to `sha256_of`, so that Ctrl-C ends them at once.

    Args:
        most: threads; as many as there are cores, at most eight, unless given.
    """
    stop = Event()
    with ThreadPoolExecutor(most or min(SIDE_BY_SIDE, usable_cores())) as pool:
        try:
            yield pool, stop
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Dataset:
    """The shards of a folder and what its manifest says about them; made by `open`.

    Attributes:
        folder: where it lies.
        manifest: what it holds.
        schema: columns and classes; with weights also the events expected of each class. A variation that names a
            dataset has the fingerprint of what lies there.
    """

    def __init__(self, folder: Path, manifest: Manifest, schema: EventSchema | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.schema = manifest.event_schema if schema is None else schema

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        verify: bool = True,
        hashes: Hashes = "once",
        weights: bool = True,
        splits: Sequence[Split] = SPLITS[:2],
    ) -> Dataset:
        """Open a dataset that can be trained on.

        Args:
            folder: of the manifest.
            verify: compare every shard with the manifest first.
            hashes: which shards are hashed for that, see `verify_shards`.
            weights: use the events' weights, where they have some; else every event counts once.
            splits: that have events of every class; for training train and val.

        Raises:
            UnreadableInput: there is no readable manifest.
            ShardMismatch: the shards are not those of the manifest.
            InvalidEvents: one of these splits lacks a class, or the weights of a class in a split,
                those of a variation too, do not sum to more than 0.
        """
        folder = located(folder)
        manifest = verify_shards(folder, hashes=hashes) if verify else Manifest.load(folder)
        for split in splits:
            if not all((counts := manifest.class_counts(split)).values()):
                raise InvalidEvents(f"the split '{split}' of {folder} lacks a class: {counts}")
        known = _with_fingerprints(folder, manifest.event_schema.variations)
        schema = manifest.event_schema.model_copy(update={"variations": known})
        if schema.weight is None or not weights:
            return cls(folder, manifest, schema.without_weights())
        dataset = cls(folder, manifest, schema)
        signed = {
            split: {name: total for name, (total, _) in sums.items()}
            for split, sums in dataset.weight_sums.items()
        }
        for split, sums in signed.items():
            if manifest.rows(split):
                refuse_sums(sums, f"split '{split}' of {folder}")
        _refuse_varied_sums(folder, manifest)
        if not schema.expected:
            expected = {name: sum(sums[name] for sums in signed.values()) for name in schema.classes}
            dataset.schema = schema.model_copy(update={"expected": expected})
        return dataset

    @cached_property
    def weight_sums(self) -> WeightSums:
        """Sums of the weights; from the shards where the manifest, of an earlier version, lacks them."""
        manifest = self.manifest
        return manifest.weights or weight_sums(self.folder, manifest.event_schema, manifest.shards)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the content."""
        return self.manifest.fingerprint

    def rearranged(
        self, shards: Sequence[Shard], weights: WeightSums, source: Mapping[str, JsonValue]
    ) -> Manifest:
        """Return the manifest of a dataset elsewhere whose shards hold events of this one, in other splits.

        Variations by other datasets are left out: they are relative to this folder. What is expected of a class stays.

        Args:
            shards: in their order.
            weights: sums of them.
            source: added to where the events come from.
        """
        before = self.manifest
        kept = {name: one for name, one in before.event_schema.variations.items() if one.data is None}
        schema: EventSchema = before.event_schema.model_copy(
            update={"variations": kept, "expected": self.schema.expected or before.event_schema.expected}
        )
        return before.model_copy(
            update={
                "event_schema": schema,
                "shards": tuple(shards),
                "weights": weights,
                "source": {**before.source, **source},
                "fingerprint": fingerprint_of(schema, before.split_rule, shards),
            }
        )

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

    def values(self, name: str, split: Split, *, purpose: TestPurpose | None = None) -> pa.ChunkedArray:
        """Return one stored column of a split, such as the ids of its events; nothing else is read.

        Args:
            name: of the column, or `event_id` or `label`.
            split: which one.
            purpose: why the test split is read; the other splits need none.

        Raises:
            UnknownName, InvalidConfig: see `paths`.
        """
        tables = [read_shard(path, [name]) for path in self.paths(split, purpose=purpose)]
        return pa.concat_tables(tables)[name] if tables else pa.chunked_array([], pa.null())

    def arrays(self, split: Split, *, purpose: TestPurpose | None = None) -> Arrays:
        """Return the events of a split in memory: `event_id` (N,), `label` (N,) and every column (N, *shape).

        Args:
            split: which one.
            purpose: why the test split is read; the other splits need none.

        Raises:
            UnknownName, InvalidConfig: see `paths`.
        """
        parts = [
            self.schema.decode(batch)
            for path in self.paths(split, purpose=purpose)
            for batch in open_shard(path).iter_batches()
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _with_fingerprints(folder: Path, variations: Mapping[str, Variation]) -> dict[str, Variation]:
    """Return variations, with the fingerprint of what lies there for each that names a dataset and states none."""
    found = dict(variations)
    for name, one in variations.items():
        if one.data is not None and not one.fingerprint:
            with suppress(HepRayError):  # whoever needs its events is told
                lies = Manifest.load(folder / one.data).fingerprint
                found[name] = one.model_copy(update={"fingerprint": lies})
    return found


def weight_sums(folder: Path, schema: EventSchema, shards: Iterable[Shard]) -> WeightSums:
    """Read the sums of the weights of shards; of the test split nothing else is read. Empty of a schema without."""
    if schema.weight is None:
        return {}
    sums = {split: np.zeros((2, len(schema.classes))) for split in SPLITS}
    for shard in shards:
        table = read_shard(folder / shard.file, [LABEL, schema.weight])
        labels, weights = table[LABEL].to_numpy(), table[schema.weight].to_numpy().astype(np.float64)
        of_shard = [np.bincount(labels, values, len(schema.classes)) for values in (weights, np.abs(weights))]
        sums[shard.split] += of_shard
    return {
        split: {
            name: (signed, size) for name, signed, size in zip(schema.classes, *pair.tolist(), strict=True)
        }
        for split, pair in sums.items()
    }


def _refuse_varied_sums(folder: Path, manifest: Manifest) -> None:
    """Refuse weights of a variation that sum to 0 or less in a class of a split.

    Raises:
        InvalidEvents: they do.
    """
    schema = manifest.event_schema
    weighted = {name: one for name, one in schema.variations.items() if one.data is None}
    for name, variation in weighted.items():
        other = schema.model_copy(update={"weight": variation.weight})
        for split, sums in weight_sums(folder, other, manifest.shards).items():
            if manifest.rows(split):
                signed = {label: total for label, (total, _) in sums.items()}
                refuse_sums(signed, f"variation '{name}' in split '{split}' of {folder}")


def refuse_sums(sums: Mapping[str, float], where: str) -> None:
    """Refuse weights that sum to 0 or less in a class, of which no fraction and no mean can be taken.

    Args:
        sums: class → sum of its weights.
        where: such as `split 'val'`.

    Raises:
        InvalidEvents: they do in one.
    """
    if not all(value > 0 for value in sums.values()):
        told = ", ".join(f"{name} {value:g}" for name, value in sums.items())
        raise InvalidEvents(
            f"the weights of the {where} sum to 0 or less in a class ({told}), and each needs more than 0: convert "
            "more events or with other shares (--split), leave events out by --select, or leave the weights out of the "
            "search: --weights off"
        )


def verify_shards(folder: Path | str, *, hashes: Hashes = "once") -> Manifest:
    """Compare every shard with the manifest: presence, size, SHA-256, rows and schema.

    Args:
        folder: of the dataset.
        hashes: `once` hashes the files that this host has not yet found sound, or that changed since, at an address
            only those that changed; `all` every file; `none` none, so that only presence, size, rows and schema are
            compared.

    Returns:
        The manifest.

    Raises:
        UnreadableInput: there is no readable manifest.
        ShardMismatch: the folder differs; the message names every file with what is wrong.
    """
    manifest = Manifest.load(folder)
    if problems := list(shard_problems(located(folder), manifest, hashes)):
        raise ShardMismatch(f"{folder} is not as its manifest says: " + "; ".join(problems))
    return manifest


def shard_problems(folder: Path, manifest: Manifest, hashes: Hashes = "all") -> Iterator[str]:
    """Yield one sentence for every file that is not as the manifest says; see `verify_shards`.

    Files are looked at side by side, and those that were hashed and found sound are recorded for this host.
    """
    listed = {shard.file for shard in manifest.shards}
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in listed:
            yield f"{path.name} is extra: the manifest does not list it"
    known = recorded(folder) if hashes == "once" else {}
    schema = manifest.event_schema.arrow(manifest.sparse)

    far = isinstance(folder, Address)

    with hashing(ASKED_AT_ONCE if far else None) as (pool, stop):

        def look(shard: Shard) -> tuple[str | None, Stamp | None]:
            return _looked_at(folder / shard.file, shard, schema, known.get(shard.file), hashes, stop)

        found = list(pool.map(look, manifest.shards))
    sound = {shard.file: stamp for shard, (_, stamp) in zip(manifest.shards, found, strict=True) if stamp}
    if sound != known and hashes != "none":
        record(folder, sound)
    for shard, (problem, _) in zip(manifest.shards, found, strict=True):
        if problem:
            yield f"{shard.file} {problem}"


def _looked_at(
    path: Path, shard: Shard, schema: pa.Schema, seen: Stamp | None, hashes: Hashes, stop: Event
) -> tuple[str | None, Stamp | None]:
    """Return what is wrong with a file, if anything, and what is to be recorded of it; see `verify_shards`."""
    far = isinstance(path, Address)
    if not far and not path.is_file():
        return "is missing", None
    try:
        stamp = stamp_of(path, shard.sha256)  # before it is hashed: a change meanwhile has another one
    except FileNotFoundError:
        return "is missing", None
    first = far and (seen is None or seen[-1] != shard.sha256)
    hashed = hashes == "all" or (hashes == "once" and seen != stamp and not first)
    problem = _problem(path, stamp[0], shard, schema, stop if hashed else None)
    if hashes == "none":
        return problem, None
    if problem:
        return problem, (UNSOUND, *stamp[1:]) if far else None
    return None, stamp


def _problem(path: Path, size: int, shard: Shard, schema: pa.Schema, hashed: Event | None) -> str | None:
    if size == 0:
        return f"is empty: 0 of {shard.size} bytes"
    if size < shard.size:
        return f"is truncated: {size} of {shard.size} bytes"
    if size > shard.size or (hashed and sha256_of(path, hashed) != shard.sha256):
        return f"was altered: its SHA-256 is not {shard.sha256}"
    try:
        with open_shard(path) as parquet:
            rows, stored = parquet.metadata.num_rows, parquet.schema_arrow
    except pa.ArrowException as exc:
        return f"is not Parquet: {exc}"
    if rows != shard.rows or rows != sum(shard.classes.values()):
        return f"has {rows} rows, its manifest says {shard.rows} in classes {shard.classes}"
    if not stored.equals(schema):
        return "has other columns than the manifest's schema"
    return None
