"""A large dataset of sparse images, written in seconds: a few shards are made and copied under many names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hep_ray.conversion.shards import Encoding
from hep_ray.dataset.dataset import MANIFEST, ROW_GROUP, Manifest, Shard, fingerprint_of
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import Split, SplitRule

SHAPE = (50, 50, 3)
OCCUPANCY = 0.03
SHARD = 4096
DISTINCT = 8
"""Shards that are made; the others repeat them, in files of their own."""

SCHEMA = EventSchema(
    task="ingest", columns=(Column(name="image", shape=SHAPE, unit="GeV"),), classes=("a", "b")
)


def images(random: np.random.Generator, events: int, occupancy: float = OCCUPANCY) -> npt.NDArray[np.float32]:
    """Energies (events, 50, 50, 3), exponential where there is one."""
    size = int(np.prod(SHAPE))
    values = np.zeros((events, size), np.float32)
    filled = random.random(values.shape, dtype=np.float32) < occupancy
    values[filled] = random.exponential(30, int(filled.sum())).astype(np.float32)
    return values.reshape(events, *SHAPE)


def write_dataset(folder: Path, events: int, encoding: Encoding = "auto", val: int = SHARD) -> Path:
    """A dataset of `events` training events, to the next 4096, and a few of validation.

    Its manifest has no hashes of the events, so it is opened without verifying.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    sparse = {"image": OCCUPANCY * float(np.prod(SHAPE))} if encoding == "auto" else {}
    shards: list[Shard] = []
    made: list[Path] = []
    counts: dict[Split, int] = {"train": events, "val": val}
    wanted = [split for split, count in counts.items() for _ in range(-(-count // SHARD))]
    for number, split in enumerate(wanted):
        path = folder / f"{split}-{number:05d}.parquet"
        if len(made) < DISTINCT:
            _write(path, random, number, list(sparse))
            made.append(path)
        else:
            shutil.copyfile(made[number % DISTINCT], path)
        half = SHARD // 2
        shards.append(
            Shard(
                file=path.name,
                split=split,
                rows=SHARD,
                size=path.stat().st_size,
                sha256="",
                content="",
                classes={"a": half, "b": half},
            )
        )
    manifest = Manifest(
        event_schema=SCHEMA,
        split_rule=SplitRule(),
        source={"benchmark": "ingest"},
        shards=tuple(shards),
        created_by="a benchmark",
        fingerprint=fingerprint_of(SCHEMA, SplitRule(), shards),
        sparse=sparse,
    )
    (folder / MANIFEST).write_text(manifest.dumps())
    return folder


def _write(path: Path, random: np.random.Generator, number: int, sparse: list[str]) -> None:
    with pq.ParquetWriter(
        path, SCHEMA.arrow(sparse), compression="zstd", use_dictionary=False, write_statistics=False
    ) as parquet:
        for start in range(0, SHARD, ROW_GROUP):
            events = {
                "event_id": [f"{number}-{start + row}" for row in range(ROW_GROUP)],
                "label": np.arange(ROW_GROUP) % 2,
                "image": images(random, ROW_GROUP),
            }
            parquet.write_batch(SCHEMA.encode(events, sparse))  # type: ignore[arg-type]
