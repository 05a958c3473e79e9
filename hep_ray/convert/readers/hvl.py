"""HDF5 files of the HVL thesis: one file per class, in it one group per event with the dataset `data`.

`data` is an image (H, W, C) of energies in GeV: axis 0 phi, axis 1 eta, channels the detectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.config import Config
from hep_ray.convert.readers import LeftOut, Opened, Part, reader
from hep_ray.convert.readers.fields import asked, field, is_number, native, rows_per_batch, steps, to_arrow
from hep_ray.convert.readers.hdf5 import FAULTS
from hep_ray.dataset.columns import EVENT_ID
from hep_ray.errors import InvalidEvents, NoEvents, UnreadableInput

IMAGE = "image"
IMAGE_AXES = 3


@reader("hvl", suffixes=(".h5", ".hdf5"))
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
        others = {
            name: LeftOut(
                f"the hvl reader reads the dataset 'data' of an event ({groups[0]} has this beside it)"
            )
            for name in file[groups[0]]
            if name != "data"
        }
    if len(shape) != IMAGE_AXES:
        raise UnreadableInput(
            f"an HVL event is an image (phi, eta, channel); in {path} {groups[0]}/data has shape {shape}"
        )
    fields = pa.schema([pa.field(EVENT_ID, pa.string(), nullable=False), field(IMAGE, dtype, shape, "GeV")])
    events = Part("", len(groups), fields, others)

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = asked(events, names, path)
        with _opened(path) as file:
            groups = _groups(file, path)
            for first, last in steps(start, stop, len(groups), rows_per_batch(schema)):
                chosen = groups[first:last]
                columns = {EVENT_ID: pa.array(chosen, pa.string())}
                if IMAGE in names:
                    images = _images(file, path, chosen, np.empty((last - first, *shape), dtype))
                    columns[IMAGE] = to_arrow(images, schema.field(IMAGE).type)
                yield pa.record_batch([columns[name] for name in names], schema=schema)

    return Opened((events,), read)


def _images(file: h5py.File, path: Path, names: Sequence[str], images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    for image, name in zip(images, names, strict=True):
        dataset = _dataset(file, path, name)
        if dataset.shape != image.shape or native(dataset.dtype, dataset.shape) != image.dtype:
            raise InvalidEvents(
                f"all images of a file have one shape and dtype, here {image.shape} {image.dtype}; "
                f"{path}: {name}/data has {dataset.shape} {dataset.dtype}"
            )
        try:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, image)
        except FAULTS as fault:
            raise UnreadableInput(
                f"an event's data can be read; {path}: {name}/data cannot: {fault}"
            ) from None
    return images


def _groups(file: h5py.File, path: Path) -> list[str]:
    try:
        groups = list(file)
    except FAULTS as fault:
        raise UnreadableInput(f"the groups of an HVL file can be listed; {path}: {fault}") from None
    if not groups:
        raise NoEvents(f"an HVL file has one group per event; {path} has none")
    return groups


def _dataset(file: h5py.File, path: Path, name: str) -> Any:
    # The low-level API opens and reads an event in a third of the time of `file[name]["data"][()]`.
    try:
        dataset = h5py.h5d.open(file.id, f"{name}/data".encode())
        numeric = is_number(dataset.dtype)
    except FAULTS:
        numeric = False
    if not numeric:
        raise UnreadableInput(
            f"every member of an HVL file is a group with a numeric dataset 'data'; {path}: '{name}' is not"
        )
    return dataset


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FAULTS as fault:
        raise UnreadableInput(f"an HVL file is HDF5 and whole; {path}: {fault}") from None
