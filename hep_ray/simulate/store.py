"""Finished chunks of a simulation, kept as files until their dataset is written.

They lie in a hidden folder beside the dataset to be. Its name is a hash of everything that decides the
events, so that the same command finds its own chunks again and no other's.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
from pydantic import JsonValue

from hep_ray.dataset.schema import Arrays, EventSchema
from hep_ray.errors import SimulationFailed, StorageError
from hep_ray.files import storing, whole

DIGITS = 16
"""Hexadecimal digits of a hash in a name."""
SUFFIX = ".arrow"
LOCK = "lock"


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Events of one class that are simulated together.

    Args:
        label: index of the class.
        number: of the chunk within its class.
        events: how many.
    """

    label: int
    number: int
    events: int

    @property
    def name(self) -> str:
        """Unique within a simulation."""
        return f"{self.label}-{self.number:06d}"


class ChunkStore:
    """Keeps finished chunks; use it as a context manager.

    Each file is named after its chunk and the hash of its bytes. A file whose bytes do not have that hash,
    such as one torn by a crash, counts as absent. The folder goes when the block fails with
    `SimulationFailed` or nothing was kept; after any other end it stays until `discard`.

    Args:
        target: the dataset folder to be.
        schema: of the events.
        source: everything else that decides the events.

    Raises:
        StorageError: the folder cannot be made, or another process uses it.

    Attributes:
        folder: of the files.
    """

    def __init__(self, target: Path, schema: EventSchema, source: Mapping[str, JsonValue]) -> None:
        identity = {"schema": schema.model_dump(mode="json"), "source": dict(source)}
        key = _digest(json.dumps(identity, sort_keys=True).encode())
        self._target = target.absolute()
        self._schema = schema
        self._paths: dict[str, Path] = {}
        self.folder = self._target.parent / f".{target.name}.{key}.chunks"

    def __enter__(self) -> Self:
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise StorageError(
                f"a dataset is simulated by one process at a time; another is at {self._target}"
            ) from None
        with storing(self.folder):
            self._paths = {path.name.split(".")[0]: path for path in self._sound_files()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(fault, SimulationFailed) or not self._paths:
            self.discard()
        self._lock.close()

    def __contains__(self, chunk: Chunk) -> bool:
        return chunk.name in self._paths

    def save(self, chunk: Chunk, events: Arrays) -> None:
        """Keep a chunk: either the whole file is there afterwards or none.

        Raises:
            InvalidEvents: the events break the schema.
            StorageError: the file cannot be written.
        """
        batch = self._schema.encode(self._schema.checked(events))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            file.write_batch(batch)
        content = sink.getvalue().to_pybytes()
        path = self.folder / f"{chunk.name}.{_digest(content)}{SUFFIX}"
        with storing(self.folder), whole(path) as filling:
            filling.write_bytes(content)
        self._paths[chunk.name] = path

    def load(self, chunk: Chunk) -> Arrays:
        """The events of a kept chunk."""
        with pa.ipc.open_file(self._paths[chunk.name].read_bytes()) as file:
            return self._schema.decode(file.get_batch(0))

    def discard(self) -> None:
        """Remove everything that was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._paths = {}

    def _sound_files(self) -> Iterator[Path]:
        for path in sorted(self.folder.iterdir()):
            if path.name == LOCK:
                continue
            content = path.read_bytes()
            if path.name.endswith(f".{_digest(content)}{SUFFIX}"):
                yield path
            else:
                path.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
