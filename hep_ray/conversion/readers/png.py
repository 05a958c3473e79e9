"""Folders of PNG pictures, one per event."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.config import Config
from hep_ray.conversion.readers import Opened, Part, reader
from hep_ray.conversion.readers.fields import IMAGE, field, images_of, not_empty, part_named, reading
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.errors import InvalidConfig, InvalidEvents, NoEvents

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}
"""Modes of pictures that are read: of Pillow's names, those of 8 or 16 bits per channel without palette."""


@reader("png", takes_folders=True)
def open_png(path: Path, options: Config) -> Opened:  # noqa: ARG001 (there are none)
    """Folder of PNG pictures, or of one such folder per class.

    Fields: `image` (H, W, C), uint8 or uint16, and `event_id`, the picture's file name. Every subfolder is a part
    of its name; without subfolders the folder itself is the one part.

    Raises:
        UnreadableInput: there is no such folder, or no picture in it; or (while reading) a picture is broken.
        InvalidConfig: there are pictures beside subfolders.
        InvalidEvents: (while reading) a picture has another size or mode than its folder's first one.
    """
    folders = _folders(path)
    parts = not_empty([_part(name, folder) for name, folder in folders.items()], path)

    def read(part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        part = part_named(parts, part.name, path)
        folder = folders[part.name]

        def load(name: str, image: npt.NDArray[Any]) -> None:
            image[...] = _decoded(folder / name, image.shape, image.dtype)

        files = [file.name for file in _pictures(folder)]
        yield from images_of(part, path, files, load, (start, stop), names)

    return Opened(parts, read)


def _folders(path: Path) -> dict[str, Path]:
    with reading(f"{path} as a folder of pictures", OSError):
        below = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
        loose = _pictures(path)
    if below and loose:
        raise InvalidConfig(
            f"{path} has pictures ({loose[0].name}) beside subfolders ({below[0].name}): they must lie in the one or "
            "the other"
        )
    return {folder.name: folder for folder in below} or {"": path}


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png")


def _part(name: str, folder: Path) -> Part:
    files = _pictures(folder)
    event_id = pa.field(EVENT_ID, pa.string(), nullable=False)
    if not files:
        if not name:
            raise NoEvents(f"{folder} has no .png files")
        return Part(name, 0, pa.schema([event_id]))
    first = _decoded(files[0], None, None)
    return Part(name, len(files), pa.schema([event_id, field(IMAGE, first.dtype, first.shape)]))


def _decoded(
    path: Path, shape: tuple[int, ...] | None, dtype: np.dtype[Any] | None
) -> npt.NDArray[np.uint8 | np.uint16]:
    from PIL import Image

    errors = (
        *(OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, OverflowError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    )
    with reading(f"{path} as PNG", *errors), Image.open(path, formats=["PNG"]) as picture:
        if picture.mode not in CHANNELS:
            raise InvalidEvents(
                f"{path} has the mode {picture.mode}; grey and coloured pictures of 8 or 16 bits without palette "
                f"are read ({', '.join(CHANNELS)})"
            )
        found = (picture.height, picture.width, CHANNELS[picture.mode])
        kind = np.dtype(np.uint16 if picture.mode == "I;16" else np.uint8)
        if shape is not None and (found, kind) != (shape, dtype):
            raise InvalidEvents(f"{path} has {found} {kind}, other pictures of its folder {shape} {dtype}")
        return np.asarray(picture, kind).reshape(found)
