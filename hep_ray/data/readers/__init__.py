"""Readers of the file formats in which experiments keep their events, one module each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pydantic import JsonValue

from hep_ray.data.events import EventSchema
from hep_ray.registry import Registry


@dataclass(frozen=True)
class Read:
    """What a reader found.

    Attributes:
        schema: columns and classes.
        batches: the events as Arrow record batches of the schema; consumed once, in bounded memory.
        events: how many there will be, when that is known beforehand.
    """

    schema: EventSchema
    batches: Iterator[pa.RecordBatch]
    events: int | None = None


class Reader(Protocol):
    """A function from files to events; register it in `READERS` under the name of its format."""

    def __call__(
        self, paths: Sequence[Path], classes: Sequence[str] | None, options: dict[str, JsonValue]
    ) -> Read:
        """Open the files and describe them; their events follow lazily.

        Args:
            paths: the input files, which exist.
            classes: class names, where the user gave them.
            options: settings of this format.

        Raises:
            UnreadableInput: a file is not in this format.
            InvalidConfig: the classes or the options are not what this format needs.
        """
        ...


READERS: Registry[Reader] = Registry("reader", "hep_ray.data.readers")
