"""Open the Parquet file of a shard, on a disk or at an address."""

from __future__ import annotations

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


def read_shard(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the events of a shard, or some of their columns; see `open_shard`."""
    place = located(path)
    names = None if columns is None else list(columns)
    if isinstance(place, Address):
        return open_shard(place).read(columns=names)
    return pq.read_table(place, columns=names)
