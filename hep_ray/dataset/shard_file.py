"""Open the Parquet file of a shard, on a disk or at an address, or give it another name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.addresses import Address, located


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
