"""The journal: an append-only file that is the truth about a search, whatever else is lost.

A record is on disk before anything acts on it. Killed at any byte, the file loses at most the
record being written, and reopening it cuts that torn tail off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pydantic import ValidationError

from hep_ray.errors import StorageError
from hep_ray.tracking.records import Record, decode

FILE_NAME = "journal.jsonl"


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as fault:
            raise StorageError(f"storage must be writable; {folder} is not: {fault.strerror}") from fault
        self._records = self._read()

    def append(self, record: Record) -> None:
        """Write one record to disk."""
        self._file.write(record.model_dump_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
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

    def _open(self) -> BinaryIO:
        file = self.path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StorageError(
                f"one process runs a search at a time; another one holds {self.path}"
            ) from None
        return file

    def _read(self) -> list[Record]:
        self._file.seek(0)
        records, good = [], 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                records.append(decode(line))
            except ValidationError as fault:
                self._file.close()
                raise StorageError(
                    f"every line of a journal is a record; line {number} of {self.path} is not: {fault}"
                ) from fault
            good += len(line)
        self._file.truncate(good)
        self._file.seek(good)
        return records


def read_records(folder: Path) -> list[Record]:
    """The whole records of a journal, without locking it: for looking on while a search runs.

    Raises:
        StorageError: there is no journal.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise StorageError(f"a search keeps {FILE_NAME} in its folder; {folder} has none")
    return [decode(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
