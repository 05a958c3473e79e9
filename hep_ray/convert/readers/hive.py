"""Partitioned Parquet folders as pandas, Spark and Dask write them: `label=0/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from hep_ray.convert.identities import natural
from hep_ray.errors import InvalidConfig, UnreadableInput

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def files_of(path: Path) -> list[Path]:
    """The Parquet files of a folder; where it has none, those of the folders below, in natural order.

    Raises:
        UnreadableInput: there is none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        below = [file for file in path.rglob("*.parquet") if file.is_file()]
        hidden = [any(part[0] in "._" for part in file.relative_to(path).parts) for file in below]
        files = sorted((file for file, out in zip(below, hidden, strict=True) if not out), key=natural)
    if not files:
        raise UnreadableInput(
            f"a folder of Parquet files holds .parquet files, in it or below; {path} has none"
        )
    return files


def partitions(path: Path, files: Sequence[Path]) -> dict[str, pa.Array]:
    """The fields that the names of folders state, each with its value in every file.

    Whole numbers are int64, other numbers float64, and what is neither is text.

    Raises:
        InvalidConfig: files differ in these fields, or have no value.
    """
    stated = [_stated(file.relative_to(path).parts[:-1]) if path.is_dir() else {} for file in files]
    for file, found in zip(files, stated, strict=True):
        if list(found) != list(stated[0]):
            raise InvalidConfig(
                f"all files of a partitioned folder state the same fields; {file} states "
                f"{', '.join(found) or 'none'}, {files[0]} {', '.join(stated[0]) or 'none'}"
            )
        if NO_VALUE in found.values():
            raise InvalidConfig(f"every partition has a value; that of {file} is {NO_VALUE}")
    return {name: _typed([found[name] for found in stated]) for name in stated[0]}


def _stated(folders: Sequence[str]) -> dict[str, str]:
    pairs = [folder.partition("=") for folder in folders]
    return {unquote(name): unquote(value) for name, equals, value in pairs if equals and name}


def _typed(values: Sequence[str]) -> pa.Array:
    if all(re.fullmatch("[+-]?[0-9]{1,18}", value) for value in values):
        return pa.array([int(value) for value in values], pa.int64())
    try:
        return pa.array([float(value) for value in values], pa.float64())
    except ValueError:
        return pa.array(values, pa.string())


def with_constants(batch: pa.RecordBatch, schema: pa.Schema, constants: dict[str, Any]) -> pa.RecordBatch:
    """The batch with the fields of the schema, of which some have one value in all its rows."""
    columns = [
        pa.repeat(constants[item.name], batch.num_rows) if item.name in constants else batch.column(item.name)
        for item in schema
    ]
    return pa.record_batch(columns, schema=schema)
