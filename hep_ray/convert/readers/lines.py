"""Text files as streams of bytes: plain or gzipped, runs of spaces made one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from hep_ray.errors import UnreadableInput

GZIP = b"\x1f\x8b"
LONGEST_LINE = 2**20
"""Bytes of a line, at most."""


@contextmanager
def opened(path: Path, *, squeezed: bool = False) -> Iterator[Any]:
    """The bytes of a file, decompressed if they start as gzip does.

    Args:
        path: of the file.
        squeezed: runs of spaces and tabs become one space, and none is left at the ends of lines.

    Raises:
        UnreadableInput: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            compression = "gzip" if file.read(len(GZIP)) == GZIP else None
        stream = pa.input_stream(str(path), compression=compression)
    except OSError as fault:
        raise UnreadableInput(f"an input is a readable file; {path}: {fault}") from None
    with stream:
        yield io.BufferedReader(_Squeezed(stream), LONGEST_LINE) if squeezed else stream


class _Squeezed(io.RawIOBase):
    """A stream with single spaces between cells and none around lines."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._partial = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._stream.read(LONGEST_LINE)
            lines = self._partial + block
            end = lines.rfind(b"\n") + 1 if block else len(lines)
            self._partial = lines[end:]
            self._ready = memoryview(_squeeze(lines[:end]))
            if not block:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _squeeze(lines: bytes) -> bytes:
    lines = lines.replace(b"\t", b" ")
    while b"  " in lines:
        lines = lines.replace(b"  ", b" ")
    return lines.replace(b" \r", b"\r").replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")


def is_number_text(cell: str) -> bool:
    """Whether a cell is written as a number, NaN and infinity among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def is_fraction(cell: str) -> bool:
    """Whether a cell is written as a number that is not whole, as no column is called."""
    return is_number_text(cell) and not cell.strip().lstrip("+-").isdigit() and cell.strip().lower() != "nan"
