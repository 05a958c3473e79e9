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
from pydantic import JsonValue

from hep_ray.data.events import EVENT_ID, LABEL, Column, EventSchema
from hep_ray.data.readers import READERS, Read
from hep_ray.errors import InvalidConfig, InvalidEvents, UnreadableInput

BATCH = 512
IMAGE_AXES = 3


@READERS.register("hvl")
def read_hvl(paths: Sequence[Path], classes: Sequence[str] | None, options: dict[str, JsonValue]) -> Read:
    """Read one file per class; an event's id is `<class>/<file stem>/<group>`.

    Args:
        paths: one HDF5 file for each class.
        classes: their names, in the same order.
        options: none is known.

    Raises:
        InvalidConfig: there is not one class name for each file, or an option is given.
        UnreadableInput: a file is not HDF5, holds no events, or has another layout.
        InvalidEvents: (while reading) an image's shape differs from the first one's.
    """
    if options:
        raise InvalidConfig(f"the hvl reader has no options; got {', '.join(sorted(options))}")
    if classes is None or len(classes) != len(paths):
        raise InvalidConfig(
            f"the hvl reader takes one class name for each file, in order; got {len(paths)} files "
            f"and the classes {list(classes or ())}"
        )
    shape, events = _survey(paths)
    schema = EventSchema(
        task="_".join(classes),
        columns=(Column(name="image", shape=shape, dtype="float32", unit="GeV"),),
        classes=tuple(classes),
    )
    return Read(schema, _batches(paths, schema), events)


def _survey(paths: Sequence[Path]) -> tuple[tuple[int, ...], int]:
    shapes, events = [], 0
    for path in paths:
        with _opened(path) as file:
            groups = list(file)
            if not groups:
                raise UnreadableInput(f"an HVL file has one group per event; {path} has none")
            shapes.append(_dataset(file, path, groups[0]).shape)
            events += len(groups)
    shape = shapes[0]
    if len(shape) != IMAGE_AXES:
        raise UnreadableInput(
            f"an HVL event is an image (phi, eta, channel); in {paths[0]} it has shape {shape}"
        )
    return shape, events


def _batches(paths: Sequence[Path], schema: EventSchema) -> Iterator[pa.RecordBatch]:
    for label, path in enumerate(paths):
        prefix = f"{schema.classes[label]}/{path.stem}"
        with _opened(path) as file:
            groups = list(file)
            for start in range(0, len(groups), BATCH):
                names = groups[start : start + BATCH]
                yield schema.encode(
                    {
                        EVENT_ID: np.array([f"{prefix}/{name}" for name in names], dtype=object),
                        LABEL: np.full(len(names), label, dtype=np.int64),
                        "image": _images(file, path, names, schema.column("image").shape),
                    }
                )


def _images(
    file: h5py.File, path: Path, names: Sequence[str], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    images = np.empty((len(names), *shape), dtype=np.float32)
    for image, name in zip(images, names, strict=True):
        dataset = _dataset(file, path, name)
        if dataset.shape != shape:
            raise InvalidEvents(
                f"all images of a dataset have one shape, here {shape}; "
                f"{path}: {name}/data has {dataset.shape}"
            )
        try:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, image)
        except (OSError, RuntimeError, TypeError) as fault:
            raise UnreadableInput(
                f"an event's data can be read; {path}: {name}/data cannot: {fault}"
            ) from None
    return images


def _dataset(file: h5py.File, path: Path, name: str) -> Any:
    # The low-level API opens and reads an event in a third of the time of `file[name]["data"][()]`.
    try:
        dataset = h5py.h5d.open(file.id, f"{name}/data".encode())
        numeric = dataset.dtype.kind in "fiu"
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        numeric = False
    if not numeric:
        raise UnreadableInput(
            f"every member of an HVL file is a group with a numeric dataset 'data'; {path}: '{name}' is not"
        )
    return dataset


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as fault:
        raise UnreadableInput(f"an HVL file is HDF5 and whole; {path}: {fault}") from None
