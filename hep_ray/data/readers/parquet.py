"""Parquet: a file, a folder of files, or a dataset folder of hep_ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.config import Config
from hep_ray.data.integrity import verify
from hep_ray.data.manifest import MANIFEST, Manifest
from hep_ray.data.readers import Opened, Part, reader
from hep_ray.data.readers.fields import asked, not_empty, refuse_nulls, rows_per_batch, to_arrow
from hep_ray.data.sparse import SparseType
from hep_ray.errors import InvalidConfig, InvalidSchema, UnreadableInput

EVENT_SCHEMA = b"hep_ray.event_schema"
"""Key in the metadata of a part's fields: the schema of a dataset folder, in JSON."""


@reader("parquet", suffixes=(".parquet",), takes_folders=True)
def open_parquet(path: Path, options: Config) -> Opened:  # noqa: ARG001 (there are none)
    """Parquet file, folder of such files, or dataset folder.

    The files of a folder are one table, in the order of their names. Lists of fixed size, and columns stored without
    their zeros, become tensors. Columns
    of other types than numbers, lists of them and strings are no fields. The fields of a dataset folder are
    `event_id`, `label` and its columns, and their metadata has its schema under `EVENT_SCHEMA`.

    Raises:
        UnreadableInput: a file is absent or broken, or there are no events.
        InvalidSchema: the schema of a dataset folder contradicts itself.
        ShardMismatch: the shards of a dataset folder are not those of its manifest.
        InvalidConfig: files of a folder have different columns, or a column is of a type that is not read.
        InvalidEvents: (while reading) a value is null.
    """
    metadata = None
    if (path / MANIFEST).is_file():
        manifest = _verified(path, _stamps(path))
        files = [path / shard.file for shard in manifest.shards]
        metadata = {EVENT_SCHEMA: manifest.event_schema.model_dump_json().encode()}
    else:
        files = _files(path)
    schemas, rows = zip(*[_described(file) for file in files], strict=True)
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise InvalidConfig(
                f"the files of a folder have the same columns; {file} has {_columns(schema)}, "
                f"{files[0]} has {_columns(schemas[0])}"
            )
    fields = [arrow_field for column in schemas[0] if (arrow_field := _field(column)) is not None]
    part = Part("", sum(rows), pa.schema(fields, metadata))
    others = {column.name: str(column.type) for column in schemas[0]}
    begins = [0, *accumulate(rows)]

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for name in set(names) & set(others) - set(part.fields.names):
            raise InvalidConfig(
                f"a column holds numbers, lists of them or strings; {path}: '{name}' is {others[name]}"
            )
        schema = asked(part, names, path)
        stop = part.rows if stop is None else stop
        for file, begin, count in zip(files, begins, rows, strict=False):
            first, last = max(start - begin, 0), min(stop - begin, count)
            if first < last:
                yield from _batches(file, first, last, schema)

    return Opened(not_empty([part], path), read)


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of a folder's files."""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=8)
def _verified(folder: Path, _stamps: tuple[tuple[str, int, int], ...]) -> Manifest:
    """The manifest, its shards verified once in a process as long as the files stay as they are."""
    try:
        return verify(folder)
    except InvalidSchema as fault:
        raise InvalidSchema(f"{folder / MANIFEST}: {fault}") from None


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name}: {column.type}" for column in schema)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise UnreadableInput(f"a folder of Parquet files holds .parquet files; {path} has none")
    return files


def _described(file: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(file) as parquet:
            return parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise UnreadableInput(f"a Parquet file is whole and readable; {file}: {fault}") from None


def _field(column: pa.Field) -> pa.Field | None:
    arrow_type = _type(column.type)
    if arrow_type is None:
        return None
    unit = (column.metadata or {}).get(b"unit", b"")
    return pa.field(column.name, arrow_type, nullable=False, metadata={"unit": unit} if unit else None)


def _type(arrow_type: pa.DataType) -> pa.DataType | None:
    """The type that a column is read as; None if it is not."""
    types = pa.types
    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_string(arrow_type) or types.is_large_string(arrow_type):
        return pa.string()
    if _is_number(arrow_type) or types.is_boolean(arrow_type):
        return arrow_type
    if isinstance(arrow_type, SparseType):
        return pa.fixed_shape_tensor(arrow_type.value_type, arrow_type.shape)
    if isinstance(arrow_type, pa.FixedShapeTensorType):
        return arrow_type if arrow_type.permutation is None and _is_number(arrow_type.value_type) else None
    shape, value_type = _fixed_shape(arrow_type)
    if shape:
        return pa.fixed_shape_tensor(value_type, shape) if _is_number(value_type) else None
    if (types.is_list(arrow_type) or types.is_large_list(arrow_type)) and _is_number(arrow_type.value_type):
        return pa.list_(arrow_type.value_type)
    return None


def _is_number(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type))


def _fixed_shape(arrow_type: pa.DataType) -> tuple[tuple[int, ...], pa.DataType]:
    shape: tuple[int, ...] = ()
    while pa.types.is_fixed_size_list(arrow_type):
        shape = (*shape, arrow_type.list_size)
        arrow_type = arrow_type.value_type
    return shape, arrow_type


def _batches(file: Path, first: int, last: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of one file."""
    try:
        with pq.ParquetFile(file) as parquet:
            groups = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
            begins = np.cumsum([0, *groups])
            chosen = [
                index for index in range(len(groups)) if begins[index] < last and begins[index + 1] > first
            ]
            row = int(begins[chosen[0]])
            for batch in parquet.iter_batches(
                rows_per_batch(schema), row_groups=chosen, columns=schema.names
            ):
                wanted = batch.slice(max(0, first - row), max(0, last - max(first, row)))
                if wanted.num_rows:
                    begin = max(first, row)
                    refuse_nulls(wanted, begin, str(file))
                    columns = [_converted(wanted.column(item.name), item.type) for item in schema]
                    yield pa.record_batch(columns, schema=schema)
                row += batch.num_rows
    except (pa.ArrowException, OSError, KeyError, IndexError) as fault:
        raise UnreadableInput(f"the rows of a Parquet file can be read; {file}: {fault}") from None


def _converted(values: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    if not isinstance(arrow_type, pa.FixedShapeTensorType) or values.type == arrow_type:
        return values if values.type == arrow_type else values.cast(arrow_type)
    if isinstance(values.type, SparseType):
        return to_arrow(np.asarray(values.type.decode(values)), arrow_type)
    flat = values
    while pa.types.is_fixed_size_list(flat.type):
        flat = flat.flatten()
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(arrow_type.shape)))
    return pa.ExtensionArray.from_storage(arrow_type, storage)
