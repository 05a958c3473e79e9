"""HDF5 files of arrays: a dataset per quantity of the events, or a dataset per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from hep_ray.config import Config
from hep_ray.data.readers import Opened, Part, reader
from hep_ray.data.readers.arrays import Stored, Table, read_table, table_of
from hep_ray.data.readers.fields import absent, not_empty, part_named
from hep_ray.errors import InvalidConfig, UnreadableInput

MOST_DATASETS = 4096
FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
"""What h5py raises on broken bytes."""


class Hdf5Options(Config):
    """Which datasets are read.

    Attributes:
        datasets: their paths in the file, such as `train/images`; all that hold numbers unless given.
        labels: path of a dataset with one number per event, in whichever group it lies; it becomes a field of
            the table.
        part_per_dataset: each dataset is a part of its own, named by its path, as when there is one per class.
        field: what the one field of such a part is called.
    """

    datasets: tuple[str, ...] = ()
    labels: str | None = None
    part_per_dataset: bool = False
    field: str = "image"


@reader("hdf5", Hdf5Options, suffixes=(".h5", ".hdf5"))
def open_hdf5(path: Path, options: Hdf5Options) -> Opened:
    """HDF5 file with a dataset per quantity, or per class.

    Datasets of one group are one table, and its name is the group's. The members of a compound dtype are fields.

    Raises:
        UnreadableInput: the file is not HDF5, is broken, or holds no events.
        InvalidConfig: a dataset that is named is absent or holds no numbers, or the lengths differ.
    """
    with _opened(path) as file:
        try:
            tables = _tables(_survey(file, path), path, options)
        except FAULTS as fault:
            raise UnreadableInput(f"the datasets of an HDF5 file can be listed; {path}: {fault}") from None
    parts = not_empty([table.part for table in tables], path)

    def read(part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        table = tables[parts.index(part_named(parts, part.name, path))]
        with _opened(path) as file:

            def fetch(array: Stored, members: Sequence[str], first: int, last: int) -> Any:
                try:
                    dataset = file[array.name]
                    return (dataset.fields(list(members)) if members else dataset)[first:last]
                except FAULTS as fault:
                    raise UnreadableInput(
                        f"the rows of a dataset can be read; {path}: {array.name}, rows {first} to {last - 1}: "
                        f"{fault}"
                    ) from None

            yield from read_table(table, start, stop, names, path, fetch)

    return Opened(parts, read)


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FAULTS as fault:
        raise UnreadableInput(f"an HDF5 file is whole and readable; {path}: {fault}") from None


def _survey(file: h5py.File, path: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            chunk = item.chunks[0] if item.chunks and item.shape else 1
            found[name] = Stored(name, np.dtype(item.dtype), tuple(item.shape), int(chunk))
            if len(found) > MOST_DATASETS:
                raise InvalidConfig(
                    f"the hdf5 reader takes files of at most {MOST_DATASETS} datasets; {path} has more: "
                    f"if it has one group per event, its reader is hvl"
                )

    file.visititems(visit)
    return found


def _tables(found: dict[str, Stored], path: Path, options: Hdf5Options) -> list[Table]:
    chosen = [_named(name, found, path) for name in options.datasets]
    arrays = chosen or [array for array in found.values() if array.readable]
    labels = _labels(found, path, options)
    arrays = [array for array in arrays if labels is None or array.name != labels.name]
    if options.part_per_dataset:
        return [table_of(array.name, [array], path, options.field) for array in arrays]
    groups: dict[str, list[Stored]] = {}
    for array in arrays:
        groups.setdefault(array.name.rpartition("/")[0], []).append(array)
    if labels is not None:
        for members in groups.values():
            members.append(labels)
    return [table_of(group, members, path) for group, members in groups.items()]


def _named(name: str, found: dict[str, Stored], path: Path) -> Stored:
    if name.strip("/") not in found:
        raise absent("dataset", name, found, path)
    array = found[name.strip("/")]
    if not array.readable:
        raise InvalidConfig(f"a dataset holds rows of numbers; {path}: {name} is {array.dtype} {array.shape}")
    return array


def _labels(found: dict[str, Stored], path: Path, options: Hdf5Options) -> Stored | None:
    if options.labels is None:
        return None
    if options.part_per_dataset:
        raise InvalidConfig("either labels or part_per_dataset tells the classes; got both")
    labels = _named(options.labels, found, path)
    if labels.dtype.names or len(labels.shape) > 1:
        raise InvalidConfig(
            f"labels are one number per event; {path}: {labels.name} has shape {labels.shape}"
        )
    return labels
