"""Open the Parquet file of a shard, to read it on a disk or at an address, to write it, or to give it another name."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.addresses import Address, located
from hep_ray.dataset.schema import EVENT_ID, LABEL

SMALL = 128
"""Bytes of an event in a column up to which LZ4 packs it; zstd where there are more, or as many as its text has."""


def open_shard(path: Path | str) -> pq.ParquetFile:
    """Open a shard: its footer is read; at an address, what is wanted of a row group is asked for at once.

    Raises:
        OSError: it is absent or cannot be read.
        UnreadableInput: its address cannot be asked.
        pa.ArrowException: it is not Parquet.
    """
    place = located(path)
    return (
        pq.ParquetFile(place.ranges(), pre_buffer=True)
        if isinstance(place, Address)
        else pq.ParquetFile(place)
    )


def shard_file(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a shard for writing, in the encoding that all shards have."""
    return pq.ParquetWriter(
        path, schema, compression=_codecs(schema), use_dictionary=False, write_statistics=[EVENT_ID, LABEL]
    )


def _codecs(schema: pa.Schema) -> dict[str, str]:
    """Return the path of each leaf → what packs it.

    Of a small column a row group is a page of kilobytes: zstd begins anew for each, at three to four times the cost of
    LZ4, to write and to read, for an eighth less on the disk.
    """
    with pa.BufferOutputStream() as nothing:
        pq.ParquetWriter(nothing, schema).close()
        leaves = pq.ParquetFile(pa.BufferReader(nothing.getvalue())).schema
    small = {field.name for field in schema if 0 < _width(field.type) <= SMALL}
    paths = [leaves.column(place).path for place in range(len(leaves))]
    return {path: "lz4" if path.split(".")[0] in small else "zstd" for path in paths}


def _width(kind: pa.DataType) -> int:
    """Bytes of a value; 0 where they differ from value to value."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return int(math.prod(kind.shape)) * _width(kind.value_type)
    return -(-int(kind.bit_width) // 8) if pa.types.is_primitive(kind) else 0


def link_shard(source: Path, target: Path) -> None:
    """Give a shard another name on a disk: a hard link; a copy where the file system has none, or of an address.

    Raises:
        UnreadableInput: its address cannot be read.
        OSError: the copy cannot be written.
    """
    if isinstance(source, Address):
        source.copy_to(target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def read_shard(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the events of a shard, or some of their columns; see `open_shard`."""
    place = located(path)
    names = None if columns is None else list(columns)
    if isinstance(place, Address):
        return open_shard(place).read(columns=names)
    return pq.read_table(place, columns=names)
