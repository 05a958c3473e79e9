"""Reading one piece of an input into sorted runs: what a worker of a conversion does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hep_ray.convert.assemble import assemble
from hep_ray.convert.inputs import InputPart
from hep_ray.convert.labels import Origin
from hep_ray.convert.readers import READERS, parse_options
from hep_ray.convert.schema_file import ColumnRule, SchemaFile
from hep_ray.dataset.events import EVENT_ID, LABEL, Arrays, EventSchema
from hep_ray.dataset.runs import Run, RunWriter
from hep_ray.dataset.splits import SplitRule
from hep_ray.files import storing


@dataclass(frozen=True)
class Job:
    """What all pieces of a conversion share.

    Attributes:
        folder: for the runs; every worker reaches it.
        rules: of the conversion.
        columns: how they are made.
        schema: of the events.
        split_rule: which split an event belongs to.
        content_ids: an event's id is the hash of its columns.
    """

    folder: Path
    rules: SchemaFile
    columns: tuple[ColumnRule, ...]
    schema: EventSchema
    split_rule: SplitRule
    content_ids: bool


@dataclass(frozen=True)
class Unit:
    """A piece of an input.

    Attributes:
        job: of the conversion.
        number: unique within it.
        source: the table.
        names: of the fields to read.
        start: first row.
        stop: row before which it ends; None for the end of the table.
    """

    job: Job
    number: int
    source: InputPart
    names: tuple[str, ...]
    start: int
    stop: int | None


def ingest(unit: Unit) -> tuple[list[Run], int]:
    """Read a piece, make events of it and spill them.

    Returns:
        The runs, and how many rows were read.

    Raises:
        UnreadableInput: the input cannot be read; file and row are named.
        InvalidEvents: an event breaks the schema.
        StorageError: the folder cannot be written.
    """
    job, source = unit.job, unit.source
    reader = READERS[job.rules.reader]
    options = parse_options(reader, job.rules.options)
    opened = reader.open(source.path, options)
    writer = RunWriter(job.folder, f"piece-{unit.number:06d}", job.schema, job.split_rule)
    row = unit.start
    for batch in opened.read(opened.parts[source.number], unit.start, unit.stop, unit.names):
        origin = Origin(source.stem, source.shown, source.part.name, source.label, row, opened.cell)
        arrays = assemble(batch, origin, job.rules, job.columns, job.schema)
        row += batch.num_rows
        if len(arrays[LABEL]):
            if job.content_ids:
                arrays[EVENT_ID] = content_ids(arrays, [column.name for column in job.schema.columns])
            with storing(job.folder):
                writer.write(arrays)
    with storing(job.folder):
        return writer.finish(), row - unit.start


def content_ids(arrays: Arrays, names: Sequence[str]) -> npt.NDArray[np.object_]:
    """Ids that are equal for events whose columns are: a BLAKE2b hash of the values, 32 hexadecimal digits."""
    columns = [np.ascontiguousarray(arrays[name]).reshape(len(arrays[LABEL]), -1) for name in names]
    rows = np.concatenate([column.view(np.uint8).reshape(len(column), -1) for column in columns], axis=1)
    return np.array([hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows], dtype=object)
