"""numpy's files: `.npz` archives with an array per quantity or per class, and single `.npy` arrays.

Nothing pickled is ever loaded.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from hep_ray.config import Config
from hep_ray.conversion.readers import BATCH_BYTES, LeftOut, Opened, reader
from hep_ray.conversion.readers.arrays import (
    Fetch,
    StoredArray,
    array_named,
    opened,
    table_of,
    with_texts,
)
from hep_ray.conversion.readers.cells import LOOKED_AT
from hep_ray.conversion.readers.fields import reading
from hep_ray.errors import InvalidConfig, UnreadableInput

LARGEST_TRANSPOSED = 16 * BATCH_BYTES
"""Bytes of a compressed array in Fortran order, which is decoded whole, at most."""
NPZ_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, OverflowError, EOFError, MemoryError, NotImplementedError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)
"""What numpy, zipfile and zlib raise on broken bytes."""


class NpzOptions(Config):
    """Which arrays are read.

    Attributes:
        arrays: names in an archive; all that hold numbers unless given.
        part_per_array: each array is a part of its own, named as the array, as when there is one per class.
        field: what the one field of such a part, or of an `.npy` file, is called.
    """

    arrays: tuple[str, ...] = ()
    part_per_array: bool = False
    field: str = "values"


@dataclass(frozen=True)
class _Array:
    """Where the elements of an array lie: an offset in the file, or in its compressed member."""

    stored: StoredArray
    fortran: bool
    offset: int
    member: str | None = None


@reader("npz", NpzOptions, suffixes=(".npz", ".npy"))
def open_npz(path: Path, options: NpzOptions) -> Opened:
    """Archive (npz) or single file (npy) of numpy arrays: numbers, and texts beside them.

    Uncompressed arrays are mapped into memory; compressed ones are decompressed from their start up to the rows
    that are read, a batch at a time.

    Raises:
        UnreadableInput: it is neither, is broken, or holds no events.
        InvalidConfig: an array that is named is absent or holds no numbers, or lengths differ.
    """
    arrays, strangers = _survey(path)
    stored = {name: array.stored for name, array in arrays.items()}
    left_out = {} if options.arrays else {**strangers, **_left_out(path, arrays)}
    chosen = [array_named("array", name, stored, path) for name in options.arrays]
    chosen = chosen or [array for array in stored.values() if array.readable]
    if not (options.arrays or options.part_per_array):
        chosen = with_texts(chosen, stored.values())
    if options.part_per_array or "" in stored:
        tables = [table_of(one.name, [one], path, options.field, left_out) for one in chosen]
    else:
        told = ("arrays", "part_per_array")
        tables = [table_of("", chosen, path, left_out=left_out, options=told)] if chosen else []

    @contextmanager
    def fetching() -> Iterator[Fetch]:
        def fetch(array: StoredArray, _members: Sequence[str], first: int, last: int) -> npt.NDArray[Any]:
            with reading(f"{path}: {array.name}, rows {first} to {last - 1}", *NPZ_ERRORS):
                return rows[array.name].read(first, last)

        with ExitStack() as stack:
            rows = {name: _Rows(path, array, stack) for name, array in arrays.items()}
            yield fetch

    return opened(tables, path, left_out, fetching)


def _left_out(path: Path, arrays: dict[str, _Array]) -> dict[str, LeftOut]:
    """Return what the archive holds beside numbers."""

    def sample(array: StoredArray, member: str | None) -> Any:
        with ExitStack() as stack:
            rows = _Rows(path, arrays[array.name], stack).read(0, min(LOOKED_AT, array.shape[0]))
        return (rows[member] if member else rows).tolist()

    with reading(path, *NPZ_ERRORS):
        return dict(each for array in arrays.values() for each in array.stored.left_out(sample))


def _survey(path: Path) -> tuple[dict[str, _Array], dict[str, LeftOut]]:
    """Return the arrays of a file, and its members that are none."""
    with reading(path, *NPZ_ERRORS), path.open("rb") as file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            file.seek(0)
            return {"": _described("", file, path)}, {}
        if zipfile.is_zipfile(file):
            return _members(path)
    raise UnreadableInput(f"{path} is neither an npz nor an npy file")


def _members(path: Path) -> tuple[dict[str, _Array], dict[str, LeftOut]]:
    arrays, strangers = {}, {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                strangers[name] = LeftOut("no .npy array")
                continue
            with archive.open(info) as member:
                array = _described(name, member, path)
            if info.compress_type == zipfile.ZIP_STORED:
                arrays[name] = replace(array, offset=_start_of(path, info) + array.offset)
            else:
                arrays[name] = replace(array, member=info.filename)
    return arrays, strangers


def _start_of(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of an uncompressed member begin: after its local header of 30 bytes, name and extra."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


def _described(name: str, file: IO[bytes], path: Path) -> _Array:
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise UnreadableInput(f"{path}: '{name}' is of npy version {version}; 1 and 2 are read")
    shape, fortran, dtype = read_header(file)
    return _Array(StoredArray(name, dtype, shape), fortran, file.tell())


@dataclass
class _Rows:
    """The rows of one array, in rising order."""

    path: Path
    array: _Array
    stack: ExitStack
    mapped: npt.NDArray[Any] | None = None
    file: IO[bytes] | None = None

    def read(self, first: int, last: int) -> npt.NDArray[Any]:
        """Return rows from `first` up to `last`.

        Raises:
            InvalidConfig: the array is compressed, in Fortran order, and too large to be decoded whole.
        """
        if self.array.member is None or self.array.fortran:
            if self.mapped is None:
                self.mapped = self._whole()
            return self.mapped[first:last]
        if self.file is None:
            archive = self.stack.enter_context(zipfile.ZipFile(self.path))
            self.file = self.stack.enter_context(archive.open(self.array.member))
        stored = self.array.stored
        size = stored.dtype.itemsize * int(np.prod(stored.shape[1:]))
        self.file.seek(self.array.offset + first * size)
        content = self.file.read((last - first) * size)
        return np.frombuffer(content, stored.dtype).reshape(last - first, *stored.shape[1:])

    def _whole(self) -> npt.NDArray[Any]:
        stored, order = self.array.stored, "F" if self.array.fortran else "C"
        if self.array.member is None:
            return np.memmap(self.path, stored.dtype, "r", self.array.offset, stored.shape, order)  # type: ignore[call-overload,no-any-return]
        size = stored.dtype.itemsize * int(np.prod(stored.shape))
        if size > LARGEST_TRANSPOSED:
            raise InvalidConfig(
                f"{self.path}: the compressed array '{stored.name}' in Fortran order has {size} bytes, more than "
                f"the {LARGEST_TRANSPOSED} that are decoded whole: save it in C order"
            )
        with zipfile.ZipFile(self.path) as archive, archive.open(self.array.member) as file:
            file.seek(self.array.offset)
            return np.frombuffer(file.read(size), stored.dtype).reshape(stored.shape, order="F")
