"""The journal: an append-only file that is the truth about a search, whatever else is lost.

A record is on disk before anything acts on it. Killed at any byte, the file loses at most the
record being written, and reopening it cuts that torn tail off. Each line ends with a checksum of
what stands before it, so that a disk which changes a digit is noticed; lines without one, of
earlier versions, are read as well.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from hep_ray.errors import StorageError
from hep_ray.files import open_locked
from hep_ray.tracking.records import Record, decode

FILE_NAME = "journal.jsonl"
_START = b'{"kind":"'
_CHECKED = re.compile(rb"(?P<text>.*),\"crc32\":\"(?P<crc>[0-9a-f]{8})\"\}\n?", re.DOTALL)


class Journal:
    """Open a search's journal for reading and appending; one process at a time.

    Args:
        folder: the search's folder; made when absent.

    Raises:
        StorageError: the folder cannot be written, another process holds the journal, or a
            record other than the last is unreadable.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._file = open_locked(self.path, "one process runs a search at a time")
        self._records = self._read()

    def append(self, record: Record) -> None:
        """Write one record to disk, whole or not at all.

        Raises:
            StorageError: the disk is full, or cannot be written; everything written before is intact.
        """
        line = encode(record)
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part, and says why with the rest
                written += os.write(self._file.fileno(), line[written:])
            os.fsync(self._file.fileno())
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self._length)
            raise StorageError(
                f"cannot write to {self.path}: {exc.strerror}; everything before is kept: make room, then resume"
            ) from exc
        self._length += len(line)
        self._records.append(record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        """Release the file to other processes."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> list[Record]:
        self._file.seek(0)
        try:
            records, self._length = _whole_lines(self._file, self.path)
        except StorageError:
            self._file.close()
            raise
        self._file.truncate(self._length)
        return records


def read_records(folder: Path) -> list[Record]:
    """Return the whole records of a journal, without locking it: for looking on while a search runs.

    Raises:
        StorageError: there is no journal, or a whole line of it is no record.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise StorageError(f"no search in {folder}: it has no {FILE_NAME}")
    with path.open("rb") as file:
        return _whole_lines(file, path)[0]


def encode(record: Record) -> bytes:
    """Return a record as its line: JSON, of which the last key is a checksum of all before it."""
    text = record.model_dump_json().encode().removesuffix(b"}")
    return text + b',"crc32":"%08x"}\n' % zlib.crc32(text)


def _whole_lines(lines: Iterable[bytes], path: Path) -> tuple[list[Record], int]:
    """Return the records of all lines up to one that was cut off, and the bytes that they take.

    A last line without its start is cut off too: a machine that lost power may keep the end of a write and not its
    beginning, which then reads as zeros. Before a whole record, what is left of one that a full disk did not take, and
    that could not be removed, is passed over.
    """
    records, length = [], 0
    numbered = iter(enumerate(lines, start=1))
    for number, line in numbered:
        if not line.endswith(b"\n"):
            break
        try:
            records.append(_record(line, number, path))
        except StorageError:
            if line.startswith(b"{") or next(numbered, None) is not None:
                raise
            break
        length += len(line)
    return records, length


def _record(line: bytes, number: int, path: Path) -> Record:
    checked = _CHECKED.fullmatch(line)
    if checked and zlib.crc32(checked["text"]) != int(checked["crc"], 16):
        begin = line.rfind(_START)
        if begin > 0 and (rest := _CHECKED.fullmatch(line, begin)):
            checked = rest
    if checked and zlib.crc32(checked["text"]) != int(checked["crc"], 16):
        raise StorageError(
            f"line {number} of {path} is not as it was written: its checksum is "
            f"{checked['crc'].decode()}, its text gives {zlib.crc32(checked['text']):08x}"
        )
    try:
        return decode(checked["text"] + b"}" if checked else line)
    except ValidationError as exc:
        raise StorageError(f"line {number} of {path} is no record: {exc}") from exc
