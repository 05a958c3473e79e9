"""Divide the training and validation events of a dataset into parts that take turns to validate.

Each fold is a dataset of its own: its validation split is one part, its training split all others, and the test split
is that of the original, so that nothing of a search by folds has seen it. The parts are written once; the folds share
their files by hard links.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hep_ray.conversion.shards import ROWS_PER_SHARD
from hep_ray.dataset.dataset import (
    MANIFEST,
    ROW_GROUP,
    ContentHash,
    Dataset,
    Shard,
    sha256_of,
    weight_sums,
)
from hep_ray.dataset.empty_folds import parts_of
from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.dataset.shard_file import link_shard, shard_file
from hep_ray.dataset.splits import Split, SplitRule
from hep_ray.errors import CannotResume, ShardMismatch, UnreadableInput
from hep_ray.files import replacing, storing, write_whole

FOLDER = "folds"
"""Of a search: the datasets of its folds, `fold_1` and so on."""
DIVIDED: tuple[Split, ...] = ("train", "val")
"""Splits whose events are divided; those of the test split stay there."""
ORIGIN = "fold_of"
"""Key of a manifest's source: fingerprint of the dataset that was divided, the fold, from 1, and their number."""


def rule_of_folds(dataset: Dataset, folds: int) -> SplitRule:
    """Return the rule that divides training and validation events; stratified where the dataset is.

    Raises:
        InvalidConfig: there are too few folds.
    """
    rule = dataset.manifest.split_rule
    # Another salt: by the dataset's own, these events have but a part of the range of hashes.
    return SplitRule.of_fold(0, folds, f"{rule.salt}/folds", stratified=rule.stratified)


def open_folds(dataset: Dataset, folds: int, folder: Path, *, weights: bool) -> tuple[Dataset, ...]:
    """Return the folds of a dataset, made in `folder/folds` where they are not there.

    Args:
        dataset: that is divided, opened.
        folds: parts that take turns.
        folder: of the search.
        weights: use the events' weights.

    Raises:
        CannotResume: there are folds of other events.
        ShardMismatch, UnreadableInput: what is there is not whole.
        InvalidEvents: the weights of a class sum to 0 or less in a part.
        StorageError: they cannot be written.
    """
    out = folder / FOLDER
    if not (out / f"fold_{folds}" / MANIFEST).is_file():
        _divide(dataset, rule_of_folds(dataset, folds), out)
    return tuple(open_fold(dataset, fold, folds, folder, weights=weights) for fold in range(1, folds + 1))


def open_fold(dataset: Dataset, fold: int, folds: int, folder: Path, *, weights: bool) -> Dataset:
    """Return one of the folds of a dataset, from 1, which is there; see `open_folds`."""
    path = folder / FOLDER / f"fold_{fold}"
    try:
        made = Dataset.open(path, weights=weights)
    except (ShardMismatch, UnreadableInput) as exc:
        raise type(exc)(f"{exc}: remove {path.parent} and resume, which makes the folds anew") from None
    told, origin = made.manifest.source.get(ORIGIN), [dataset.fingerprint, fold, folds]
    if told != origin:
        raise CannotResume(
            f"{path} holds other events ({told}, not {origin}): remove {path.parent}, or choose another --storage"
        )
    return made


def _divide(dataset: Dataset, rule: SplitRule, out: Path) -> None:
    """Write the parts, and the folds that share them, whole or not at all."""
    assert rule.folds is not None
    parts = _by_shard(dataset, parts_of(dataset, rule, DIVIDED))
    tests = [shard for shard in dataset.manifest.shards if shard.split == "test"]
    with replacing(out) as filling, storing(out):
        first = filling / "fold_1"
        first.mkdir()
        shards = [_written(dataset, parts, part, first) for part in range(rule.folds)]
        for fold in range(rule.folds):
            folder = filling / f"fold_{fold + 1}"
            folder.mkdir(exist_ok=True)
            for one in (one for part in shards for one in part if fold):
                link_shard(first / one.file, folder / one.file)
            for one in tests:
                link_shard(dataset.folder / one.file, folder / one.file)
            turns = [("val" if part == fold else "train", shards[part]) for part in range(rule.folds)]
            divided = [one.model_copy(update={"split": split}) for split, own in turns for one in own]
            divided.sort(key=lambda one: (one.split, one.file))
            own = [*divided, *tests]
            manifest = dataset.rearranged(
                own,
                weight_sums(folder, dataset.manifest.event_schema, own),
                {ORIGIN: [dataset.fingerprint, fold + 1, rule.folds]},
            )
            write_whole(folder / MANIFEST, manifest.dumps())


def _by_shard(dataset: Dataset, parts: NDArray[np.intp]) -> list[tuple[Path, NDArray[np.intp]]]:
    """Return the divided shards, and the part of each of their events."""
    shards = [one for split in DIVIDED for one in dataset.manifest.shards if one.split == split]
    ends = np.cumsum([one.rows for one in shards])[:-1]
    return [(dataset.folder / one.file, own) for one, own in zip(shards, np.split(parts, ends), strict=True)]


def _written(
    dataset: Dataset, parts: list[tuple[Path, NDArray[np.intp]]], part: int, folder: Path
) -> list[Shard]:
    """Write the shards of one part."""
    return [
        _write(folder / f"part-{part + 1}-{number:05d}.parquet", rows, dataset.manifest.event_schema)
        for number, rows in enumerate(_tables(parts, part))
    ]


def _tables(parts: list[tuple[Path, NDArray[np.intp]]], part: int) -> Iterator[pa.Table]:
    """Yield the stored events of a part in their order, as many as a shard holds at a time."""
    held: list[pa.Table] = []
    for path, own in parts:
        held.append(pq.read_table(path).filter(pa.array(own == part)))
        while sum(map(len, held)) >= ROWS_PER_SHARD:
            whole = pa.concat_tables(held)
            yield whole.slice(0, ROWS_PER_SHARD)
            held = [whole.slice(ROWS_PER_SHARD)]
    if sum(map(len, held)):
        yield pa.concat_tables(held)


def _write(path: Path, rows: pa.Table, schema: EventSchema) -> Shard:
    rows = rows.combine_chunks()
    with shard_file(path, rows.schema) as parquet:
        parquet.write_table(rows, row_group_size=ROW_GROUP)
    content = ContentHash(schema)
    for batch in rows.to_batches(max_chunksize=ROW_GROUP):
        content.update(schema.decode(batch))
    counts = np.bincount(rows[LABEL].to_numpy(), minlength=len(schema.classes))
    return Shard(
        file=path.name,
        split="train",
        rows=len(rows),
        size=path.stat().st_size,
        sha256=sha256_of(path),
        content=content.hexdigest(),
        classes=dict(zip(schema.classes, counts.tolist(), strict=True)),
    )
