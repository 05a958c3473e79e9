"""Does a dataset folder still hold exactly what its manifest lists?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.dataset.manifest import Manifest, Shard
from hep_ray.dataset.shards import sha256_of
from hep_ray.errors import ShardMismatch


def verify(folder: Path | str) -> Manifest:
    """Compare every shard with the manifest: presence, size, SHA-256, rows and schema.

    Returns:
        The manifest.

    Raises:
        UnreadableInput: there is no readable manifest.
        ShardMismatch: the folder differs; the message names every file with what is wrong.
    """
    manifest = Manifest.load(Path(folder))
    problems = list(shard_problems(Path(folder), manifest))
    if problems:
        raise ShardMismatch(f"the shards in {folder} are those of its manifest; " + "; ".join(problems))
    return manifest


def shard_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """One sentence for every file that is not as the manifest says."""
    listed = {shard.file for shard in manifest.shards}
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in listed:
            yield f"{path.name} is extra: the manifest does not list it"
    for shard in manifest.shards:
        problem = _problem(folder / shard.file, shard, manifest)
        if problem:
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
    return _content_problem(path, shard, manifest)


def _content_problem(path: Path, shard: Shard, manifest: Manifest) -> str | None:
    try:
        with pq.ParquetFile(path) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except pa.ArrowException as fault:
        return f"is not Parquet: {fault}"
    if rows != shard.rows or rows != sum(shard.classes.values()):
        return f"has {rows} rows, its manifest says {shard.rows} in classes {shard.classes}"
    if not schema.equals(manifest.event_schema.arrow(manifest.sparse)):
        return "has other columns than the manifest's schema"
    return None
