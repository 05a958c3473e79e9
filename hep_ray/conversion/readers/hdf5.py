"""HDF5 files of arrays: a dataset per quantity of the events, or a dataset per class."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.config import Config
from hep_ray.conversion.readers import LeftOut, Opened, Part, reader
from hep_ray.conversion.readers.arrays import (
    ArrayTable,
    Fetch,
    StoredArray,
    array_named,
    opened,
    table_of,
    with_texts,
)
from hep_ray.conversion.readers.cells import LOOKED_AT
from hep_ray.conversion.readers.fields import IMAGE, field, images_of, is_number, native, reading
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.errors import InvalidConfig, InvalidEvents, NoEvents, UnreadableInput

MOST_DATASETS = 4096
TABLE_INDEX = "_i_"
"""What the names of groups begin with in which PyTables keeps the indices of a table."""
H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
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
    Texts, one per event, are fields too.

    Raises:
        UnreadableInput: the file is not HDF5, is broken, or holds no events.
        InvalidConfig: a dataset that is named is absent or holds no numbers, or the lengths differ.
    """
    with _opened(path) as file, reading(f"the datasets of {path}", *H5_ERRORS):
        found, links = _survey(file, path)
        left_out = {} if options.datasets else {**links, **_left_out(file, found)}
        tables = _tables(found, left_out, path, options)

    @contextmanager
    def fetching() -> Iterator[Fetch]:
        with _opened(path) as file:

            def fetch(array: StoredArray, members: Sequence[str], first: int, last: int) -> Any:
                with reading(f"{path}: {array.name}, rows {first} to {last - 1}", *H5_ERRORS):
                    dataset = file[array.name]
                    return (dataset.fields(list(members)) if members else dataset)[first:last]

            yield fetch

    return opened(tables, path, left_out, fetching)


def _opened(path: Path) -> h5py.File:
    with reading(f"{path} as an HDF5 file", *H5_ERRORS):
        return h5py.File(path, "r")


def _survey(file: h5py.File, path: Path) -> tuple[dict[str, StoredArray], dict[str, LeftOut]]:
    """Return the datasets of a file by their paths, and the links in it, which are not followed."""
    found: dict[str, StoredArray] = {}
    links: dict[str, LeftOut] = {}

    def visit(name: str, item: Any) -> None:
        if name.rpartition("/")[2].startswith(TABLE_INDEX):
            links[name] = LeftOut("an index that PyTables keeps of a table")
        elif isinstance(item, h5py.Dataset) and f"/{TABLE_INDEX}" not in f"/{name}":
            if item.shape is None:
                links[name] = LeftOut("an empty dataset")
                return
            _check_sources(item, path)
            chunk = item.chunks[0] if item.chunks and item.shape else 1
            found[name] = StoredArray(name, np.dtype(item.dtype), tuple(item.shape), int(chunk))
            if len(found) > MOST_DATASETS:
                raise InvalidConfig(
                    f"{path} has more than {MOST_DATASETS} datasets, the most that the hdf5 reader takes: "
                    f"if it has one group per event, its reader is hvl"
                )

    def visit_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            target = f"{link.filename}:{link.path}"
            links[name] = LeftOut(
                f"it is a link to {target}, which is not followed",
                "give that file as an input, or copy the dataset",
                refused=True,
            )
        elif isinstance(link, h5py.SoftLink) and link.path not in file:
            links[name] = LeftOut(f"it is a link to {link.path}, which is not there", refused=True)
        elif (
            name not in found
            and name not in links
            and f"/{TABLE_INDEX}" not in f"/{name}"
            and isinstance(file[name], h5py.Dataset)
        ):
            target = link.path.strip("/") if isinstance(link, h5py.SoftLink) else "another dataset"
            links[name] = LeftOut(f"a second name of {target}")

    file.visititems(visit)
    file.visititems_links(visit_link)
    return found, links


def _check_sources(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse a virtual dataset of which a file is absent: HDF5 would fill its rows without a word."""
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name != "." and not (path.parent / source.file_name).is_file():
            raise UnreadableInput(
                f"{source.file_name} is absent, of which the virtual dataset {dataset.name} of {path} is made"
            )


def _left_out(file: h5py.File, found: dict[str, StoredArray]) -> dict[str, LeftOut]:
    """Return datasets, and members of them, that hold no numbers; by their paths."""

    def sample(array: StoredArray, member: str | None) -> Any:
        dataset = file[array.name]
        return (dataset.fields(member) if member else dataset)[:LOOKED_AT].tolist()

    return {
        f"{array.folder}/{name}".lstrip("/"): why
        for array in found.values()
        for name, why in array.left_out(sample)
    }


def _tables(
    found: dict[str, StoredArray], left_out: dict[str, LeftOut], path: Path, options: Hdf5Options
) -> list[ArrayTable]:
    chosen = [array_named("dataset", name, found, path) for name in options.datasets]
    arrays = chosen or [array for array in found.values() if array.readable]
    labels = _labels(found, path, options)
    arrays = [array for array in arrays if labels is None or array.name != labels.name]
    if options.part_per_dataset:
        return [table_of(array.name, [array], path, options.field, left_out) for array in arrays]
    if not options.datasets:
        with_words = with_texts(arrays, found.values())
        arrays = [one for one in with_words if labels is None or one.name != labels.name]
    groups: dict[str, list[StoredArray]] = {}
    for array in arrays:
        groups.setdefault(array.folder, []).append(array)
    if labels is not None:
        for members in groups.values():
            members.append(labels)
    return [
        table_of(group, members, path, left_out=_within(group, left_out, groups))
        for group, members in groups.items()
    ]


def _within(group: str, left_out: dict[str, LeftOut], groups: Collection[str]) -> dict[str, LeftOut]:
    """Return what is left out of a group, by its own name; the first group has what lies in none, by its path."""
    first = group == next(iter(groups))
    within = {}
    for name, why in left_out.items():
        folder, _, last = name.rpartition("/")
        if folder == group:
            within[last] = why
        elif first and folder not in groups:
            within[name] = why
    return within


def _labels(found: dict[str, StoredArray], path: Path, options: Hdf5Options) -> StoredArray | None:
    if options.labels is None:
        return None
    if options.part_per_dataset:
        raise InvalidConfig("labels and part_per_dataset both tell the classes: leave one of them out")
    labels = array_named("dataset", options.labels, found, path)
    if labels.dtype.names or len(labels.shape) > 1:
        raise InvalidConfig(
            f"{path}: {labels.name} is no label, one number per event: it has shape {labels.shape}"
        )
    return labels


IMAGE_AXES = 3


@reader("hvl", suffixes=(".h5", ".hdf5"), guessed=False)
def open_hvl(path: Path, options: Config) -> Opened:  # noqa: ARG001 (there are none)
    """HDF5 file with one group per event, in it the image `data`.

    Fields: `image`, in GeV, and `event_id`, the group's name.

    Raises:
        UnreadableInput: the file is not HDF5, holds no events, or has another layout.
        InvalidEvents: (while reading) an image's shape or dtype differs from the first one's.
    """
    with _opened(path) as file:
        groups = _groups(file, path)
        first = _dataset(file, path, groups[0])
        dtype, shape = native(first.dtype, first.shape), first.shape
        beside = LeftOut(
            f"the hvl reader reads the dataset 'data' of an event ({groups[0]} has this beside it)"
        )
        others = {name: beside for name in file[groups[0]] if name != "data"}
    if len(shape) != IMAGE_AXES:
        raise UnreadableInput(
            f"{path}: {groups[0]}/data of shape {shape} is no image (phi, eta, channel), as in an HVL file"
        )
    image = field(IMAGE, dtype, shape).with_metadata({"unit": "GeV"})
    events = Part(
        "", len(groups), pa.schema([pa.field(EVENT_ID, pa.string(), nullable=False), image]), others
    )

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with _opened(path) as file:

            def load(name: str, image: npt.NDArray[Any]) -> None:
                _read_image(file, path, name, image)

            yield from images_of(events, path, _groups(file, path), load, (start, stop), names)

    return Opened((events,), read)


def _read_image(file: h5py.File, path: Path, name: str, image: npt.NDArray[Any]) -> None:
    dataset = _dataset(file, path, name)
    if dataset.shape != image.shape or native(dataset.dtype, dataset.shape) != image.dtype:
        raise InvalidEvents(
            f"{path}: {name}/data has {dataset.shape} {dataset.dtype}, the images before it {image.shape} "
            f"{image.dtype}: all of a file must have one shape and dtype"
        )
    with reading(f"{path}: {name}/data", *H5_ERRORS):
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, image)


def _groups(file: h5py.File, path: Path) -> list[str]:
    with reading(f"the groups of {path}", *H5_ERRORS):
        groups = list(file)
    if not groups:
        raise NoEvents(f"{path} has no groups, which are the events of an HVL file")
    return groups


def _dataset(file: h5py.File, path: Path, name: str) -> Any:
    # The low-level API opens and reads an event in a third of the time of `file[name]["data"][()]`.
    try:
        dataset = h5py.h5d.open(file.id, f"{name}/data".encode())
        numeric = is_number(dataset.dtype)
    except H5_ERRORS:
        numeric = False
    if not numeric:
        raise UnreadableInput(
            f"{path}: '{name}' is no group with a numeric dataset 'data', as every event of an HVL file is"
        )
    return dataset
