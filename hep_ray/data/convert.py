"""From an experiment's files to a dataset folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from hep_ray.data.events import EventSchema
from hep_ray.data.folder import refuse_occupied
from hep_ray.data.manifest import MANIFEST, Manifest
from hep_ray.data.readers import READERS
from hep_ray.data.shards import DEFAULT_RULE, ShardWriter, sha256_of
from hep_ray.data.splits import SplitRule
from hep_ray.errors import InvalidConfig, UnreadableInput

Progress = Callable[[int, int | None], None]
"""Told, after every batch, the events converted and how many there will be (None: unknown)."""


def convert(
    inputs: Sequence[Path | str],
    reader: str,
    classes: Sequence[str] | None,
    out: Path | str,
    *,
    task: str | None = None,
    signal: str | None = None,
    class_meaning: Mapping[str, str] | None = None,
    rule: SplitRule = DEFAULT_RULE,
    options: Mapping[str, JsonValue] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Convert files into Parquet shards with a manifest.

    Args:
        inputs: the files.
        reader: name of their format.
        classes: class names in the order of the labels.
        out: the dataset folder; absent or empty, unless `overwrite`.
        task: name of the task; by default the one the reader gives.
        signal: the class counted as signal; by default the last one.
        class_meaning: class name → a sentence for people.
        rule: fractions of the splits.
        options: settings of the reader.
        overwrite: replace an earlier dataset.
        progress: called after every batch.

    Raises:
        UnknownName: no reader has this name.
        UnreadableInput: an input is absent or not in the reader's format.
        InvalidConfig: an input is given twice, or the reader refuses the classes or options.
        InvalidSchema: the class names or the signal are refused.
        InvalidEvents: events break the schema.
        StorageError: `out` is occupied or cannot be written.
    """
    read_format = READERS[reader]
    paths = [Path(path) for path in inputs]
    refuse_occupied(Path(out), MANIFEST, overwrite=overwrite)
    source: dict[str, JsonValue] = {
        "reader": reader,
        "options": dict(options or {}),
        "files": _identify(paths),
    }
    read = read_format(paths, classes, dict(options or {}))
    schema = EventSchema(
        task=task or read.schema.task,
        columns=read.schema.columns,
        classes=read.schema.classes,
        class_meaning=dict(class_meaning or read.schema.class_meaning),
        signal=signal or read.schema.signal,
    )
    with ShardWriter(out, schema, rule, source, overwrite=overwrite) as writer:
        done = 0
        for batch in read.batches:
            writer.write(batch)
            done += batch.num_rows
            if progress:
                progress(done, read.events)
    return writer.manifest


def _identify(paths: Sequence[Path]) -> list[JsonValue]:
    if not paths:
        raise InvalidConfig("a conversion has one or more input files; got none")
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            digest = sha256_of(path)
        except OSError as fault:
            raise UnreadableInput(f"an input is a readable file; {path}: {fault.strerror}") from None
        if digest in seen:
            raise InvalidConfig(f"every input is given once; {path} and {seen[digest]} hold the same bytes")
        seen[digest] = path
    return [{"name": path.name, "sha256": digest} for digest, path in seen.items()]
