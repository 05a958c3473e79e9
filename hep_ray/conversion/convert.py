"""From an experiment's files to a dataset folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, FiniteFloat, JsonValue

from hep_ray.cluster import in_tasks
from hep_ray.config import Config, parse
from hep_ray.conversion.assemble import Cut, assemble
from hep_ray.conversion.columns import (
    columns_of,
    fields_read,
    infer_columns,
    renamed,
    roles_of,
    set_aside,
    with_axes,
)
from hep_ray.conversion.external_sort import SortedRun, SortedRunWriter
from hep_ray.conversion.given_tests import divided_anew, given_split, refuse_shared
from hep_ray.conversion.images import rows_at_once
from hep_ray.conversion.inputs import Inputs, InputTable, joined_tables, open_inputs, with_test_files
from hep_ray.conversion.kept import KeptRuns, keep, kept
from hep_ray.conversion.labels import BatchOrigin
from hep_ray.conversion.normalisation import weight_factors
from hep_ray.conversion.readers import READERS, parse_options
from hep_ray.conversion.remote import Progress as FetchProgress
from hep_ray.conversion.remote import fetching
from hep_ray.conversion.schema_file import ColumnRule, SchemaFile, load_schema
from hep_ray.conversion.shards import DEFAULT_RULE, ShardWriter, refuse_many
from hep_ray.dataset.dataset import BEGINNINGS, MANIFEST, Manifest
from hep_ray.dataset.schema import (
    EVENT_ID,
    IN_TEST_FILE,
    LABEL,
    ORIGIN,
    Arrays,
    Column,
    EventSchema,
    legal_name,
)
from hep_ray.dataset.splits import SplitRule
from hep_ray.dataset.variations import Variation
from hep_ray.errors import Interrupted, InvalidConfig, InvalidSchema
from hep_ray.files import refuse_occupied, storing
from hep_ray.plugins import code_changes, code_of

Progress = Callable[[int, int | None], None]
"""Called after every task with the events read and how many there will be (None: unknown)."""

TASK_BYTES = 64 * 2**20
"""About as many bytes of events are one task, at most."""
LEAST_BYTES = 16 * 2**20
"""About as many bytes of events are one task, at least."""
ADDED = (ORIGIN, IN_TEST_FILE)
"""Columns that a conversion adds, which are no part of what was measured of an event."""
TASKS = 16
"""Reading tasks, about, at least, where there are enough events; no matter how many workers there are."""


class Choices(Config):
    """Choices of the user about a conversion, beside the files; they decide the dataset's content.

    Attributes:
        classes: class names, in the order of the files or of the labels.
        task: name of the task.
        signal: the class counted as signal.
        class_meaning: class name → a sentence for people.
        columns: of the fields that a schema file does not describe, take only these.
        missing: of the fields that a schema file does not describe, takes the place of values that are missing; `nan`
            keeps them as NaN.
        weight: the field that weights the events.
        split_by: the field whose events of one value are in one split.
        selection: expression over fields; joined to that of the schema file.
        options: of the reader, over those of the schema file.
        drop_duplicates: an event's id is the hash of its columns, and of equal events one is kept.
        balance: keep as many events of every class as the rarest has.
    """

    classes: tuple[str, ...] = ()
    task: str | None = None
    signal: str | None = None
    class_meaning: dict[str, str] = Field(default_factory=dict)
    columns: tuple[str, ...] = ()
    missing: FiniteFloat | Literal["nan"] | None = None
    weight: str | None = None
    split_by: str | None = None
    selection: str | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    drop_duplicates: bool = False
    balance: bool = False


def convert(
    inputs: Sequence[Path | str],
    reader: str | None,
    classes: Sequence[str] | None,
    out: Path | str,
    *,
    schema: str | SchemaFile | None = None,
    rule: SplitRule = DEFAULT_RULE,
    test_files: Sequence[Path | str] = (),
    overwrite: bool = False,
    every_class: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
    fetched: FetchProgress | None = None,
    **choices: Any,
) -> Manifest:
    """Convert files into Parquet shards with a manifest.

    The dataset does not depend on the number of workers or on the order in which they end. The same call after an
    interruption, however rough, goes on from the parts of the inputs that had been read.

    Args:
        inputs: the files or folders; `CLASS=PATH` gives a file to a class, otherwise the files are those of
            the classes in their order. Those at an address (`https://`, `s3://`, …) are fetched first.
        reader: name of their format; the schema's by default.
        classes: class names in the order of the labels; the schema's, or those in `inputs`, by default.
        out: the dataset folder; absent or empty, unless `overwrite`.
        schema: a schema file, or the name of one; without it every numeric field becomes a column.
        rule: fractions of the splits, or the expression that decides the test split.
        test_files: files whose events are the test split, those of `inputs` being train and val; given as `inputs`
            are. The dataset has a column `in_test_file`, which no model sees.
        overwrite: replace an earlier dataset.
        every_class: refuse a split that would have no event of some class.
        workers: more than one read and write side by side as Ray tasks.
        progress: called after every task.
        fetched: called as bytes come from addresses.
        choices: fields of `Choices`.

    Raises:
        UnknownName: no reader or schema has this name.
        UnreadableInput: an input is absent, cannot be fetched or is not in the reader's format.
        MissingPackage: an address needs one that is not installed.
        InvalidConfig: an input is given twice, or the choices contradict each other.
        InvalidSchema: the class names, the columns or the signal are refused.
        InvalidEvents: events break the schema; or an event, or a value of `split_by`, is in a test file and in another,
            or a class in none.
        StorageError: `out` is occupied or cannot be written.
        StorageHeld: another process makes the same dataset.
        Interrupted: Ctrl-C was pressed; what was read is kept.
    """
    chosen = parse(Choices, {"classes": tuple(classes or ()), **choices}, "conversion")
    refuse_occupied(Path(out), MANIFEST, overwrite=overwrite)
    rules = _rules(schema, reader, chosen)
    words = [str(path) for path in (*inputs, *test_files)]
    how = _How(rule, every_class, overwrite, workers, progress)
    with fetching(out, words, fetched) as local:
        opened = open_inputs(local.words[: len(inputs)], rules)
        opened = with_test_files(opened, local.words[len(inputs) :], rules)
        return _converted(opened, out, chosen, how, local.addresses)


@dataclass(frozen=True)
class _How:
    """Arguments of `convert` that do not choose events."""

    rule: SplitRule
    every_class: bool
    overwrite: bool
    workers: int
    progress: Progress | None


def _converted(
    opened: Inputs, out: Path | str, chosen: Choices, how: _How, addresses: Sequence[str]
) -> Manifest:
    """Convert inputs that are open."""
    rules, rule, workers, progress = opened.rules, how.rule, how.workers, how.progress
    columns, event_schema = _layout(opened, rules, chosen)
    event_schema = _from(opened.tables[0].path, event_schema, Path(out), stated=bool(rules.variations))
    rule, event_schema = given_split(opened, rule, event_schema)
    none_left_out = rules.selection is None and rules.label.from_ != "where"
    if rule.stratified and none_left_out and opened.events is not None:
        refuse_many(opened.events)
    notes: list[JsonValue] = [*opened.notes, *joined_tables(opened)]
    notes += renamed(columns) if not rules.columns else ()
    notes += _lost_variations(opened, rules, event_schema)
    notes += divided_anew(opened, rule)
    if (Path(out) / MANIFEST).exists():
        notes += code_changes(Manifest.read(out).source.get("own_code"))
    source: dict[str, JsonValue] = {
        "reader": rules.reader,
        "schema": rules.model_dump(mode="json", by_alias=True),
        "files": opened.files,
        "drop_duplicates": chosen.drop_duplicates,
        "balance": chosen.balance,
        "notes": notes,
        **({"addresses": list(addresses)} if addresses else {}),
        **({"test_files": list(opened.test_files)} if opened.test_files else {}),
        **({BEGINNINGS: known} if (known := opened.beginnings) and not chosen.drop_duplicates else {}),
    }
    if own_code := code_of("reader", rules.reader):
        source["own_code"] = dict(own_code)
    if left_out := _left_out(opened, rules, chosen):
        source["left_out"] = dict(left_out)
    tasks_done: Callable[..., Any] = (
        map if workers == 1 else lambda work, tasks: (made for _, made in in_tasks(work, tasks, workers))
    )
    store = KeptRuns(out, _identity(source, opened, columns, event_schema, rule))
    done, cuts = 0, {column.name: Cut() for column in event_schema.columns}
    spilled: list[SortedRun] = []
    try:
        with (
            store,
            ShardWriter(
                out,
                event_schema,
                rule,
                source,
                overwrite=how.overwrite,
                every_class=how.every_class,
                balance=chosen.balance,
                drop_repeated=chosen.drop_duplicates,
                mapper=tasks_done,
            ) as writer,
        ):
            maker = SortedRunWriter(store.folder, "", event_schema, rule)
            tasks = list(_read_tasks(opened, columns, maker, content_ids=chosen.drop_duplicates))
            found = [kept(store.folder, task.writer.name) for task in tasks]
            waiting = [task for task, made in zip(tasks, found, strict=True) if made is None]
            finished = (made for made in found if made is not None)
            for runs, events, lost in itertools.chain(finished, tasks_done(read_events, waiting)):
                writer.adopt(runs)
                spilled += runs
                done += events
                for name, cut in lost.items():
                    cuts[name].add(cut)
                if progress:
                    progress(done, opened.events)
            refuse_shared(opened, rule, spilled, event_schema)
            writer.source["events_read"] = done
            writer.source["notes"] = [*notes, *_cut_lists(event_schema, cuts)]
    except KeyboardInterrupt:
        raise Interrupted(
            f"the conversion was interrupted; what was read of {done} events is kept in {store.folder}, and the same "
            "command goes on from there"
        ) from None
    return writer.manifest


def _cut_lists(schema: EventSchema, cuts: Mapping[str, Cut]) -> list[str]:
    """Say what columns of lists have lost by `cut`."""
    return [
        f"lists of the column '{column.name}' were cut to {column.shape[0]} items in {cut.events} events, by "
        f"{cut.items} of {cut.of_items} items"
        for column in schema.columns
        if (cut := cuts[column.name]).events
    ]


def _identity(
    source: Mapping[str, JsonValue],
    opened: Inputs,
    columns: Sequence[ColumnRule],
    schema: EventSchema,
    rule: SplitRule,
) -> dict[str, Any]:
    """Return JSON values of all that decides what is spilled; where that cannot be told, such as never are equal."""
    of_hep_ray = READERS[str(source["reader"])].open.__module__.startswith("hep_ray.")
    known = of_hep_ray or "own_code" in source  # or it was registered in a notebook
    return {
        "source": dict(source),
        "tables": [[one.path.name, one.number, one.label, one.stem] for one in opened.tables],
        "columns": [column.model_dump(mode="json", by_alias=True) for column in columns],
        "event_schema": schema.model_dump(mode="json"),
        "rule": rule.model_dump(mode="json"),
        "code": "known" if known else uuid.uuid4().hex,
        "hep_ray": importlib.metadata.version("hep-ray"),
    }


def _rules(schema: str | SchemaFile | None, reader: str | None, chosen: Choices) -> SchemaFile:
    """Return the schema file with what the command line adds to it."""
    if schema is None:
        if reader is None:
            raise InvalidConfig("neither a reader nor a schema is given")
        rules = SchemaFile(reader=reader)
    else:
        rules = load_schema(schema) if isinstance(schema, str) else schema
    if reader is not None and reader != rules.reader:
        raise InvalidConfig(f"reader '{reader}' does not suit the schema, which is for '{rules.reader}'")
    selections = [f"({text})" for text in (rules.selection, chosen.selection) if text]
    update = {
        "classes": chosen.classes or rules.classes,
        "task": chosen.task or rules.task,
        "signal": chosen.signal or rules.signal,
        "weight": chosen.weight or rules.weight,
        "split_by": chosen.split_by or rules.split_by,
        "class_meaning": chosen.class_meaning or rules.class_meaning,
        "options": {**rules.options, **chosen.options},
        "selection": " and ".join(selections) or None,
    }
    for flag, given in (("columns", chosen.columns), ("missing", chosen.missing is not None)):
        if given and rules.columns:
            raise InvalidConfig(f"--{flag} cannot be given: the schema file lists the columns")
    return parse(SchemaFile, {**rules.model_dump(by_alias=True), **update}, "conversion")


def _layout(opened: Inputs, rules: SchemaFile, chosen: Choices) -> tuple[tuple[ColumnRule, ...], EventSchema]:
    """Return the columns, which every part of every input must give in the same shape."""
    if opened.schema is not None:
        schema = _of_dataset(with_axes(opened.schema, rules.columns), rules, chosen)
        told = {"name", "dtype", "unit", "elements", "element_units", "axes"}
        kept = {column.name for column in schema.columns}
        own = [
            ColumnRule(
                **column.model_dump(include=told),
                max_length=column.shape[0] if column.lists else None,
                missing="nan" if column.missing else None,
            )
            for column in opened.schema.columns
            if column.name in kept
        ]
        if _origin_is_lost(opened.schema, rules):
            origin = Column(name=ORIGIN, dtype="int64", categories=opened.schema.classes)
            schema = schema.with_spectator(origin)
            own.append(ColumnRule(name=ORIGIN, sources=(LABEL,), dtype="int64"))
        return tuple(own), schema
    first = opened.tables[0]
    columns = rules.columns or infer_columns(opened.tables, rules, chosen.columns, chosen.missing)
    made = columns_of(first.part, columns, first.shown)
    for role, name in roles_of(rules) if rules.columns else ():
        if name not in (known := [column.name for column in made]):
            raise InvalidSchema(
                f"'{role}' names a column, and the schema file makes no '{name}', only {', '.join(known)}: add "
                f'[[columns]] with name = "{name}"'
            )
    for one in opened.tables[1:]:
        if (other := columns_of(one.part, columns, one.shown)) != made:
            differing = next(left.name for left, right in zip(made, other, strict=True) if left != right)
            raise InvalidSchema(f"column '{differing}' of {one.shown} differs from that of {first.shown}")
    return columns, EventSchema(
        task=rules.task or "_".join(rules.classes),
        columns=made,
        classes=rules.classes,
        class_meaning=rules.class_meaning,
        signal=rules.signal or (rules.classes[-1] if rules.classes else ""),
        weight=rules.weight if rules.columns else rules.weight and legal_name(rules.weight),
        group=rules.group,
        split_by=rules.split_by if rules.columns else rules.split_by and legal_name(rules.split_by),
        spectators=rules.spectators,
        expected=rules.expected,
        variations=rules.variations,
    )


def _of_dataset(schema: EventSchema, rules: SchemaFile, chosen: Choices) -> EventSchema:
    """Return the schema of a dataset of ours, with what is stated anew: task, classes, signal, columns."""
    if chosen.missing is not None:
        raise InvalidConfig("--missing has nothing to fill in a dataset of hep_ray: leave it out")
    names = [column.name for column in schema.columns]
    if absent := [name for name in chosen.columns if name not in names]:
        raise InvalidConfig(f"--columns names {', '.join(absent)}; the dataset has {', '.join(names)}")
    varied = {
        name: one
        for name, one in schema.variations.items()
        if not _absent(one, schema, chosen.columns or names)
    }
    stated = {
        "task": rules.task,
        "signal": rules.signal or (schema.signal if schema.signal in rules.classes else rules.classes[-1]),
        "weight": rules.weight,
        "group": rules.group,
        "split_by": rules.split_by,
        "spectators": rules.spectators or None,
        "expected": rules.expected or None,
        "variations": rules.variations or varied,
    }
    meaning = {**schema.class_meaning, **rules.class_meaning}
    kept = tuple(one for one in schema.columns if one.name in (chosen.columns or names))
    stated["spectators"] = stated["spectators"] or tuple(
        one.name for one in kept if one.name in schema.spectators
    )
    return EventSchema.model_validate(
        {
            **schema.model_dump(),
            **{key: value for key, value in stated.items() if value is not None},
            "classes": rules.classes,
            "class_meaning": {name: text for name, text in meaning.items() if name in rules.classes},
            "columns": kept,
        }
    )


def _from(before: Path, schema: EventSchema, out: Path, *, stated: bool) -> EventSchema:
    """Return the schema with variations of a dataset of ours that name others from where it will lie, not where it lay.

    Args:
        before: the dataset.
        schema: to be that of the new one.
        out: the new one.
        stated: the variations are not those of the dataset, and stay.
    """
    if stated:
        return schema
    folder = before if before.is_dir() else before.parent
    moved = {
        name: one.model_copy(update={"data": os.path.relpath(folder / one.data, out)})
        for name, one in schema.variations.items()
        if one.data is not None and not Path(one.data).is_absolute()
    }
    return schema.model_copy(update={"variations": {**schema.variations, **moved}})


def _absent(variation: Variation, schema: EventSchema, kept: Collection[str]) -> list[str]:
    """Return the columns of a variation that are not among those kept."""
    changes = variation.changes({column.name: column.elements for column in schema.columns})
    read = (*(one.column for one in changes), *([variation.weight] if variation.weight else []))
    return [name for name in dict.fromkeys(read) if name not in kept]


def _lost_variations(opened: Inputs, rules: SchemaFile, schema: EventSchema) -> Iterator[str]:
    """Say which variations of a dataset of ours went with the columns that they need."""
    if opened.schema is None or rules.variations:
        return
    kept = [column.name for column in schema.columns]
    for name, one in opened.schema.variations.items():
        if absent := _absent(one, opened.schema, kept):
            yield f"variation '{name}' ({one}) is left out with the column {', '.join(absent)}"


def _origin_is_lost(schema: EventSchema, rules: SchemaFile) -> bool:
    """Whether classes of a dataset become one, and it has no column of what they were before."""
    return rules.label.from_ == "where" and ORIGIN not in {column.name for column in schema.columns}


def _left_out(opened: Inputs, rules: SchemaFile, chosen: Choices) -> dict[str, str]:
    """Return fields that nobody asked for or against and that became no column: name → reason and what to type."""
    if opened.schema is not None or rules.columns:
        return {}
    said: dict[str, str] = {}
    for one in opened.tables:
        for name, why in set_aside(one.part, rules, chosen.columns).items():
            said.setdefault(name, why.reason + f": {why.remedy}" * bool(why.remedy))
    return said


@dataclass(frozen=True)
class ReadTask:
    """Rows of one table of an input, and what becomes of them; one worker reads them.

    Attributes:
        writer: spills the events; every worker reaches its folder.
        content_ids: an event's id is the hash of its columns.
        table: that is read.
        fields: names of those to read.
        factor: of the weights.
        start: first row.
        stop: row before which it ends; None for the end of the table.
    """

    writer: SortedRunWriter
    rules: SchemaFile
    columns: tuple[ColumnRule, ...]
    content_ids: bool
    table: InputTable
    fields: tuple[str, ...]
    factor: float
    start: int
    stop: int | None


def _read_tasks(
    opened: Inputs, columns: tuple[ColumnRule, ...], target: SortedRunWriter, *, content_ids: bool
) -> Iterator[ReadTask]:
    row_bytes = max(1, sum(column.nbytes for column in target.schema.columns))
    stride = max(1, TASK_BYTES // row_bytes)
    if opened.events is not None:  # few events are shared too, unless they are very few
        stride = max(min(stride, -(-opened.events // TASKS)), LEAST_BYTES // row_bytes, 1)
    number = itertools.count()
    factors = weight_factors(opened, opened.rules, columns, target.schema)
    for table, factor in zip(opened.tables, factors, strict=True):
        fields = tuple(fields_read(opened.rules, columns, table.part))
        bounds: list[tuple[int, int | None]] = [(0, None)]
        if (rows := table.part.rows) is not None and opened.reader.seekable:
            bounds = [(start, min(start + stride, rows)) for start in range(0, rows, stride)]
        for start, stop in bounds:
            writer = SortedRunWriter(target.folder, f"piece-{next(number):06d}", target.schema, target.rule)
            yield ReadTask(writer, opened.rules, columns, content_ids, table, fields, factor, start, stop)


def read_events(task: ReadTask) -> tuple[list[SortedRun], int, dict[str, Cut]]:
    """Read rows, make events of them and spill these as sorted runs: what a worker of a conversion does.

    Returns:
        The runs, how many rows were read, and what columns of lists lost.

    Raises:
        UnreadableInput: the input cannot be read; file and row are named.
        InvalidEvents: an event breaks the schema.
        StorageError: the folder cannot be written.
    """
    table, writer = task.table, task.writer
    reader = READERS[task.rules.reader]
    opened = table.opened or reader.open(table.path, parse_options(reader, task.rules.options))
    row = task.start
    cuts: dict[str, Cut] = {}
    at_once = rows_at_once(task.columns, {column.name: column for column in writer.schema.columns})
    whole = opened.read(opened.parts[table.number], task.start, task.stop, task.fields)
    for batch in whole if at_once is None else (piece for one in whole for piece in in_pieces(one, at_once)):
        origin = BatchOrigin(table.stem, table.shown, table.label, row, opened.cell)
        arrays = assemble(batch, origin, task.rules, task.columns, writer.schema, cuts)
        row += batch.num_rows
        if task.factor != 1:
            for weight in writer.schema.weights:
                arrays[weight] = (arrays[weight].astype(np.float64) * task.factor).astype(
                    arrays[weight].dtype
                )
        if len(arrays[LABEL]):
            if table.tests is not None:
                arrays[IN_TEST_FILE] = np.full(len(arrays[LABEL]), table.tests, np.uint8)
            if task.content_ids:
                measured = [column.name for column in writer.schema.columns if column.name not in ADDED]
                arrays[EVENT_ID] = content_ids(arrays, measured)
            with storing(writer.folder):
                writer.write(arrays)
    with storing(writer.folder):
        runs = writer.finish()
        keep(writer.folder, writer.name, runs, row - task.start, cuts)
    return runs, row - task.start, cuts


def in_pieces(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch in pieces of so many rows at most."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def content_ids(arrays: Arrays, names: Sequence[str]) -> pa.Array:
    """Return ids that are equal for events whose columns are: a BLAKE2b hash of the values, 32 hexadecimal digits."""
    columns = [np.ascontiguousarray(arrays[name]).reshape(len(arrays[LABEL]), -1) for name in names]
    rows = np.concatenate([column.view(np.uint8).reshape(len(column), -1) for column in columns], axis=1)
    return pa.array((hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows), pa.string())
