"""The inputs of a prediction, cut into pieces: one piece of input, one file of scores.

Labels are never read, so events without any can be predicted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from hep_ray.conversion.columns import columns_of, field_of
from hep_ray.conversion.paths import (
    digests_of,
    files,
    matched,
    open_all,
    reader_by_ending,
    refuse_absent,
    stem_of,
    told_apart,
)
from hep_ray.conversion.readers import READERS, Part, parse_options
from hep_ray.conversion.schema_file import ColumnRule, EventIdRule, LabelRule, SchemaFile, load_schema
from hep_ray.dataset.dataset import MANIFEST, verify_shards
from hep_ray.dataset.expressions import Expression, unknown
from hep_ray.dataset.schema import EVENT_ID, Column, legal_name
from hep_ray.errors import InvalidConfig, InvalidSchema, ModelMismatch
from hep_ray.promote.classifier import Classifier


@dataclass(frozen=True)
class Prediction:
    """The opened inputs, as every worker needs them.

    Attributes:
        rules: of reading: reader, options, ids, selection.
        columns: how the model's columns are made.
        names: fields that are read.
        pieces: in order.
        digests: name and SHA-256 of every input.
        units: whether the input states them: `checked`, or `not stated by the input`.
        notes: what is to be told of the inputs, such as which hold no events.
        inputs: all files, also those without events; empty of a dataset folder.
        known_as: name of a file of the training, and what stands before the ids that its events have there.
    """

    rules: SchemaFile
    columns: tuple[ColumnRule, ...]
    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    digests: tuple[tuple[str, str], ...]
    units: str
    notes: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    known_as: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Ways:
    """Options of reading the inputs.

    Attributes:
        reader: name of the format; by default that of the schema, or told by the files' endings.
        schema: name or path of a schema file.
        selection: expression over fields that events fulfil; joined to that of the schema file.
        options: of the reader.
    """

    reader: str | None = None
    schema: str | None = None
    selection: str | None = None
    options: Mapping[str, JsonValue] | None = None


def refuse_ways(ways: Ways | None) -> None:
    """Refuse options that suit no input, before one is looked at.

    Raises:
        UnknownName: there is no such reader or schema.
        InvalidConfig: the selection is no expression, an option is none of the reader, or reader and schema differ.
    """
    ways = ways or Ways()
    if ways.selection is not None:
        Expression(ways.selection)
    if ways.schema is not None or ways.reader is not None:
        rules = _rules((), ways)
        parse_options(READERS[rules.reader], rules.options)


def open_inputs(paths: Sequence[Path], classifier: Classifier, ways: Ways | None = None) -> Prediction:
    """Look into every input and see that its events suit a model.

    Args:
        paths: files, folders or globs of one format, or one dataset folder.
        classifier: the model.
        ways: how they are read.

    Raises:
        UnreadableInput: an input is absent or not in the format.
        ShardMismatch: a dataset is not as its manifest says.
        ModelMismatch: the events lack a column of the model, or have another shape, type or unit.
        InvalidConfig: the format cannot be told, or an input is given twice.
    """
    ways = ways or Ways()
    if not paths:
        raise InvalidConfig("a prediction has one or more inputs; got none")
    paths = [path for word in paths for path in matched(str(word))]
    refuse_absent(paths)
    if any((path / MANIFEST).is_file() for path in paths):
        return _of_dataset(paths, classifier, ways)
    return _of_files(paths, classifier, _rules(paths, ways))


def _of_dataset(paths: Sequence[Path], classifier: Classifier, ways: Ways) -> Prediction:
    if len(paths) > 1 or ways != Ways(selection=ways.selection):
        raise InvalidConfig(
            f"a dataset folder is predicted alone and says itself how it is read; got {len(paths)} inputs and "
            f"reader {ways.reader}, schema {ways.schema}, options {ways.options}"
        )
    (folder,) = paths
    manifest = verify_shards(folder)
    known = {column.name: column for column in manifest.event_schema.columns}
    for column in classifier.columns:
        if column.name not in known:
            raise ModelMismatch(
                f"the model reads the column '{column.name}'; {folder} has {', '.join(known)}"
            )
        _compare(column, known[column.name], str(folder))
    columns = tuple(
        ColumnRule(
            name=column.name,
            dtype=column.dtype,
            unit=column.unit,
            **({"max_length": column.shape[0]} if column.lists else {"shape": column.shape or None}),
            missing="nan" if column.missing else None,
        )
        for column in classifier.columns
    )
    rules = SchemaFile(
        reader="parquet", event_id=EventIdRule(fields=(EVENT_ID,), as_is=True), selection=ways.selection
    )
    pieces = tuple(
        Piece(number, folder / shard.file, 0, 0, shard.rows, "", shard.file)
        for number, shard in enumerate(shard for shard in manifest.shards if shard.rows)
    )
    names = _names(rules, columns, tuple(known), str(folder))
    digests = tuple((shard.file, shard.sha256) for shard in manifest.shards)
    return Prediction(rules, columns, names, pieces, digests, "checked")


def _of_files(paths: Sequence[Path], classifier: Classifier, rules: SchemaFile) -> Prediction:
    reader = READERS[rules.reader]
    notes: list[str] = []
    paths = files(paths, reader, notes)
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise InvalidConfig(f"every input is given once; {twice[0]} is given twice")
    opened, empty = open_all(paths, reader, parse_options(reader, rules.options))
    tables = [
        (path, number, part)
        for path, found in opened
        for number, part in enumerate(found.parts)
        if part.rows != 0
    ]
    columns: tuple[ColumnRule, ...] = ()
    names: tuple[str, ...] = ()
    stated = True
    for path, _, part in tables:
        shown = f"{path}:{part.name}" if part.name else str(path)
        if rules.columns:
            found = _rules_of_schema_file(classifier.columns, rules)
        else:
            found = _rules_of_fields(classifier.columns, part, shown)
            stated &= all(_unit_of(part, name) for rule in found for name in rule.reads)
        try:
            made = {column.name: column for column in columns_of(part, found, shown)}
        except InvalidSchema as exc:
            raise ModelMismatch(str(exc)) from None
        for column in classifier.columns:
            _compare(column, made[column.name], shown)
        if columns and found != columns:
            raise ModelMismatch(
                f"every input gives the columns in the same way; {shown} differs from {tables[0][0]}"
            )
        columns = found
        names = _names(rules, columns, tuple(part.fields.names), shown)
    own_ids = bool(rules.event_id.fields) or (rules.reader == "parquet" and EVENT_ID in names)
    pieces = tuple(cut(tables, classifier.columns, seekable=reader.seekable, own_ids=own_ids))
    digests = digests_of(paths)
    return Prediction(
        rules=rules,
        columns=columns,
        names=names,
        pieces=pieces,
        digests=tuple((path.name, digests[path]) for path in paths),
        notes=(*notes, *empty),
        inputs=tuple(paths),
        units="checked" if stated else "not stated by the input, taken to be the model's",
    )


def _rules(paths: Sequence[Path], ways: Ways) -> SchemaFile:
    """Return the schema file, or what the files' endings tell; without its label, and ids without a class."""
    base = (
        load_schema(ways.schema) if ways.schema else SchemaFile(reader=ways.reader or reader_by_ending(paths))
    )
    if ways.reader not in (None, base.reader):
        raise InvalidConfig(f"the schema is for the reader '{base.reader}'; got the reader '{ways.reader}'")
    selections = [f"({text})" for text in (base.selection, ways.selection) if text]
    return base.model_copy(
        update={
            "label": LabelRule(),
            "options": {**base.options, **(ways.options or {})},
            "event_id": EventIdRule(fields=base.event_id.fields, as_is=True),
            "selection": " and ".join(selections) or None,
        }
    )


def _names(
    rules: SchemaFile, columns: Sequence[ColumnRule], known: Sequence[str], shown: str
) -> tuple[str, ...]:
    names = [name for column in columns for name in column.fields]
    if rules.selection:
        names += [field_of(name, columns, known) for name in Expression(rules.selection).names]
    names += rules.event_id.fields or ([EVENT_ID] if EVENT_ID in known else [])
    for name in names:
        if name not in (*known, EVENT_ID):
            raise ModelMismatch(
                f"what a prediction reads is in the input; {shown}: {unknown(name, list(known))}"
            )
    return tuple(dict.fromkeys(names))


PIECE_BYTES = 32 * 2**20
"""About as much of an input, decoded, is one piece."""


@dataclass(frozen=True)
class Piece:
    """Part of an input.

    Attributes:
        number: from 0.
        path: of the file that is read.
        part: number of the table within it.
        start: first row.
        stop: row before which it ends; None for the end of the table.
        prefix: stands before the events' ids; empty where they are ids already.
        file: name of the file of scores.
        among: of a file of the training of folds, what stands before the ids instead, each event's being that by which
            it is of the folds.
    """

    number: int
    path: Path
    part: int
    start: int
    stop: int | None
    prefix: str
    file: str
    among: tuple[str, ...] = ()


def cut(
    tables: Sequence[tuple[Path, int, Part]], columns: Sequence[Column], *, seekable: bool, own_ids: bool
) -> Iterator[Piece]:
    """Cut tables into pieces.

    Args:
        tables: file, number of the table within it, what the reader says of it.
        columns: of the model.
        seekable: whether a range of rows is reached without reading those before it.
        own_ids: whether events bring their ids; otherwise these are made of the file's name and the row.

    Raises:
        InvalidConfig: an input is given twice.
    """
    counter = itertools.count()
    stems = told_apart(path for path, _, _ in tables)
    stride = max(1, PIECE_BYTES // max(1, sum(column.nbytes for column in columns)))
    for path, number, part in tables:
        several = sum(other == path for other, _, _ in tables) > 1
        prefix = f"{stems[path]}/{part.name}/" if several else f"{stems[path]}/"
        bounds: list[tuple[int, int | None]] = [(0, None)]
        if part.rows is not None and seekable:
            bounds = [(start, min(start + stride, part.rows)) for start in range(0, part.rows, stride)]
        for start, stop in bounds:
            piece = next(counter)
            name = f"{stem_of(path)}-{piece:05d}.parquet"
            yield Piece(piece, path, number, start, stop, "" if own_ids else prefix, name)


ASPECTS = ("lists", "shape", "dtype", "unit", "elements", "element_units", "axes")
"""What a column of the events must have in common with that of the model."""


def _rules_of_fields(columns: Sequence[Column], part: Part, shown: str) -> tuple[ColumnRule, ...]:
    """Make a model's columns of fields with their names, or with the names of their elements."""
    rules = []
    known = part.fields.names
    fields = {legal_name(name): name for name in reversed(known)} | {name: name for name in known}
    for column in columns:
        wanted = (column.name,) if column.name in fields else column.elements
        sources = tuple(fields.get(name, name) for name in wanted)
        absent = [name for name in sources or (column.name,) if name not in known]
        if absent:
            raise ModelMismatch(
                f"the model reads the column '{column.name}' of shape {column.shape}"
                f"{f', or its elements {column.elements}' if column.elements else ''}; {shown} lacks "
                f"{', '.join(absent)}: it has {', '.join(known)}"
            )
        for element, name in zip(wanted, sources, strict=True):
            unit = column.unit if element == column.name else column.unit_of(element)
            # A field that states no unit is taken to be in the model's.
            if (found := _unit_of(part, name)) and found != unit:
                raise ModelMismatch(
                    f"events have the units that the model was trained on; unit of '{name}' is '{unit}', "
                    f"of {shown} '{found}'"
                )
        shared = ("name", "dtype", "unit", "elements", "element_units", "axes", "sentinels")
        most, missing = column.shape[0] if column.lists else None, "nan" if column.missing else column.fill
        stated = {key: getattr(column, key) for key in shared}
        rules.append(ColumnRule(sources=sources, max_length=most, missing=missing, **stated))
    return tuple(rules)


def _rules_of_schema_file(columns: Sequence[Column], rules: SchemaFile) -> tuple[ColumnRule, ...]:
    """Take from a schema file the rules of a model's columns."""
    by_name = {name: rule for rule in rules.columns for name in (rule.name, rule.indicator) if name}
    for column in columns:
        if column.name not in by_name:
            raise ModelMismatch(
                f"the model reads the column '{column.name}'; the schema file makes {', '.join(by_name) or 'none'}"
            )
    wanted = {by_name[column.name].name: by_name[column.name] for column in columns}
    return tuple(wanted.values())


def _compare(column: Column, other: Column, shown: str) -> None:
    for aspect in ASPECTS:
        known_by = "grid" if aspect == "axes" else aspect
        wanted, found = getattr(column, known_by), getattr(other, known_by)
        if wanted != found:
            raise ModelMismatch(
                f"events have the columns that the model was trained on; {aspect} of '{column.name}' is {wanted!r}, "
                f"of {shown} {found!r}"
            )


def _unit_of(part: Part, field: str) -> str:
    """Return the unit that a field states; empty where it states none."""
    return str((part.fields.field(field).metadata or {}).get(b"unit", b"").decode())
