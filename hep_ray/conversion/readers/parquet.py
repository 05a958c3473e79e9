"""Parquet: a file, a folder of files, or a dataset folder of hep_ray."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.config import Config
from hep_ray.conversion.paths import natural
from hep_ray.conversion.readers import EVENT_SCHEMA, LeftOut, Opened, Part, reader
from hep_ray.conversion.readers.cells import LOOKED_AT, text_left_out
from hep_ray.conversion.readers.fields import ROW_INDEX, asked, not_empty, reading, rows_per_batch, to_arrow
from hep_ray.dataset.dataset import MANIFEST, Manifest, verify_shards
from hep_ray.dataset.values import SparseType
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema, UnreadableInput

PARQUET_ERRORS = (pa.ArrowException, OSError, KeyError, IndexError, ValueError, StopIteration)
"""What pyarrow raises on broken bytes."""


@reader("parquet", suffixes=(".parquet",), takes_folders=True)
def open_parquet(path: Path, options: Config) -> Opened:  # noqa: ARG001 (there are none)
    """Parquet file, folder of such files, or dataset folder.

    The files of a folder are one table, in the order of their names; names of folders below it, such as `label=0`, are
    fields. Lists of fixed size, and columns stored without their zeros, become tensors, decimals float64. Columns of
    other types than numbers, lists of them and strings are no fields. The fields of a dataset folder are
    `event_id`, `label` and its columns, and their metadata has its schema under `EVENT_SCHEMA`.

    Raises:
        UnreadableInput: a file is absent or broken, or there are no events.
        InvalidSchema: the schema of a dataset folder contradicts itself.
        ShardMismatch: the shards of a dataset folder are not those of its manifest.
        InvalidConfig: files of a folder have different columns, or a column is of a type that is not read.
        InvalidEvents: (while reading) a list of fixed size is null.
    """
    metadata = None
    if (path / MANIFEST).is_file():
        manifest = _verified(path, _stamps(path))
        files = [path / shard.file for shard in manifest.shards]
        metadata = {EVENT_SCHEMA: manifest.event_schema.model_dump_json().encode()}
    else:
        files = files_of(path)
    schemas, rows, indices = zip(*[_described(file) for file in files], strict=True)
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            here, there = (
                ", ".join(f"{one.name}: {one.type}" for one in each) for each in (schema, schemas[0])
            )
            raise InvalidConfig(f"{file} has other columns than {files[0]}: {here}, there {there}")
    fields = [item for column in schemas[0] if (item := _field(column)) is not None]
    left_out = {} if metadata else _left_out(files, rows, schemas[0], frozenset().union(*indices))
    stated = {} if metadata else partitions(path, files)
    stated = {name: values for name, values in stated.items() if name not in schemas[0].names}
    own = [item.name for item in fields]
    fields += [pa.field(name, values.type, nullable=False) for name, values in stated.items()]
    part = Part("", sum(rows), pa.schema(fields, metadata), left_out)
    others = {column.name: str(column.type) for column in schemas[0]}
    begins = [0, *accumulate(rows)]

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for name in set(names) & set(others) - set(part.fields.names):
            raise InvalidConfig(
                f"{path}: column '{name}' is {others[name]}, and neither numbers, lists of them nor strings"
            )
        schema = asked(part, names, path)
        stop = part.rows if stop is None else stop
        stored = [item for item in schema if item.name not in stated]
        inner = pa.schema(stored or [part.fields.field(name) for name in own[:1]])
        for place, (file, begin, count) in enumerate(zip(files, begins, rows, strict=False)):
            first, last = max(start - begin, 0), min(stop - begin, count)
            if first < last:
                constants = {name: values[place] for name, values in stated.items()}
                for batch in _batches(file, first, last, inner):
                    columns = [
                        pa.repeat(constants[name], batch.num_rows)
                        if name in constants
                        else batch.column(name)
                        for name in schema.names
                    ]
                    yield pa.record_batch(columns, schema=schema)

    return Opened(not_empty([part], path), read)


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of a folder's files."""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=8)
def _verified(folder: Path, _stamps: tuple[tuple[str, int, int], ...]) -> Manifest:
    """Return the manifest, its shards verified once in a process as long as the files stay as they are."""
    try:
        return verify_shards(folder)
    except InvalidSchema as exc:
        raise InvalidSchema(f"{folder / MANIFEST}: {exc}") from None


def _described(file: Path) -> tuple[pa.Schema, int, frozenset[str]]:
    """Return columns, rows, and the columns that pandas says are its index."""
    with reading(f"{file} as Parquet", *PARQUET_ERRORS), pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        indices = _indices((schema.metadata or {}).get(b"pandas"))
        return schema.remove_metadata(), parquet.metadata.num_rows, indices


def _indices(text: bytes | None) -> frozenset[str]:
    try:
        listed = json.loads(text or b"{}").get("index_columns", [])
        return frozenset(name for name in listed if isinstance(name, str))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return frozenset()  # what another program wrote there is none of our affair


def _left_out(
    files: Sequence[Path], rows: Sequence[int], schema: pa.Schema, indices: frozenset[str]
) -> dict[str, LeftOut]:
    """Return columns that become no column of a dataset: other types, texts, and pandas' index."""
    found = {}
    for column in schema:
        kind = _type(column.type)
        if column.name in indices:
            found[column.name] = ROW_INDEX
        elif kind is None:
            empty = pa.types.is_null(column.type)
            found[column.name] = LeftOut("empty in every row" if empty else str(column.type))
        elif pa.types.is_string(kind):
            what = "categories" if pa.types.is_dictionary(column.type) else "text"
            found[column.name] = text_left_out(_first_texts(files, rows, column.name), what)
    return found


def _first_texts(files: Sequence[Path], rows: Sequence[int], name: str) -> list[str | None]:
    for file, count in zip(files, rows, strict=True):
        if count:
            with reading(f"the rows of {file}", *PARQUET_ERRORS), pq.ParquetFile(file) as parquet:
                return list(next(parquet.iter_batches(LOOKED_AT, columns=[name])).column(0).to_pylist())
    return []


def _field(column: pa.Field) -> pa.Field | None:
    arrow_type = _type(column.type)
    if arrow_type is None:
        return None
    unit = (column.metadata or {}).get(b"unit")
    return pa.field(column.name, arrow_type, column.nullable, {"unit": unit} if unit else None)


def _type(arrow_type: pa.DataType) -> pa.DataType | None:
    """Return the type that a column is read as; None if it is not."""
    types = pa.types
    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type):
        return pa.string()
    if _is_number(arrow_type) or types.is_boolean(arrow_type):
        return arrow_type
    if types.is_decimal(arrow_type):
        return pa.float64()
    if isinstance(arrow_type, SparseType):
        return pa.fixed_shape_tensor(arrow_type.value_type, arrow_type.shape)
    if isinstance(arrow_type, pa.FixedShapeTensorType):
        return arrow_type if arrow_type.permutation is None and _is_number(arrow_type.value_type) else None
    shape: tuple[int, ...] = ()
    value_type = arrow_type
    while types.is_fixed_size_list(value_type):
        shape, value_type = (*shape, value_type.list_size), value_type.value_type
    if shape:
        return pa.fixed_shape_tensor(value_type, shape) if _is_number(value_type) else None
    if types.is_list(arrow_type) or types.is_large_list(arrow_type):
        inner = arrow_type.value_type
        of_arrays = types.is_fixed_size_list(inner) and _is_number(inner.value_type)
        return pa.list_(inner) if of_arrays or _is_number(inner) else None
    return None


def _is_number(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type))


def _batches(file: Path, first: int, last: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield rows of one file."""
    with reading(f"the rows of {file}", *PARQUET_ERRORS), pq.ParquetFile(file) as parquet:
        groups = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
        begins = np.cumsum([0, *groups])
        chosen = [index for index in range(len(groups)) if begins[index] < last and begins[index + 1] > first]
        row = int(begins[chosen[0]])
        for batch in parquet.iter_batches(rows_per_batch(schema), row_groups=chosen, columns=schema.names):
            wanted = batch.slice(max(0, first - row), max(0, last - max(first, row)))
            if wanted.num_rows:
                columns = [_converted(wanted.column(item.name), item, file) for item in schema]
                yield pa.record_batch(columns, schema=schema)
            row += batch.num_rows


def _converted(values: pa.Array, item: pa.Field, file: Path) -> pa.Array:
    arrow_type = item.type
    if not isinstance(arrow_type, pa.FixedShapeTensorType) or values.type == arrow_type:
        return values if values.type == arrow_type else values.cast(arrow_type)
    if isinstance(values.type, SparseType):
        return to_arrow(np.asarray(values.type.decode(values)), arrow_type)
    flat = values
    while pa.types.is_fixed_size_list(flat.type):
        if flat.null_count:
            raise InvalidEvents(f"{file}: '{item.name}' has a list that is null; every event must have one")
        flat = flat.flatten()
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(arrow_type.shape)))
    return pa.ExtensionArray.from_storage(arrow_type, storage)


NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def files_of(path: Path) -> list[Path]:
    """Return the Parquet files of a folder; where it has none, those of the folders below, in natural order.

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
        raise UnreadableInput(f"{path} has no .parquet files, neither in it nor below")
    return files


def partitions(path: Path, files: Sequence[Path]) -> dict[str, pa.Array]:
    """Return the fields that the names of folders state, each with its value in every file.

    Whole numbers are int64, other numbers float64, and what is neither is text.

    Raises:
        InvalidConfig: files differ in these fields, or have no value.
    """
    stated = [_stated(file.relative_to(path).parts[:-1]) if path.is_dir() else {} for file in files]
    for file, found in zip(files, stated, strict=True):
        if list(found) != list(stated[0]):
            raise InvalidConfig(
                f"the folders of {file} state other fields ({', '.join(found) or 'none'}) than those of {files[0]} "
                f"({', '.join(stated[0]) or 'none'})"
            )
        if NO_VALUE in found.values():
            raise InvalidConfig(f"the partition of {file} has no value: {NO_VALUE}")
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
