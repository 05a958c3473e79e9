"""The inputs of a conversion: which files there are, whose events they hold, and what tables are in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from hep_ray.config import Config, parse
from hep_ray.data.columns import EVENT_ID, LABEL
from hep_ray.data.events import EventSchema
from hep_ray.data.readers import READERS, Part, Reader
from hep_ray.data.schema_file import ColumnRule, EventIdRule, LabelRule, SchemaFile
from hep_ray.data.shard_file import sha256_of
from hep_ray.errors import InvalidConfig, InvalidSchema, UnreadableInput

SCHEMA_METADATA = b"hep_ray.event_schema"


@dataclass(frozen=True)
class InputPart:
    """A table of an input.

    Attributes:
        path: of the input.
        number: of the part within it.
        part: what the reader says of it.
        label: the class, where the file or the part decides it.
    """

    path: Path
    number: int
    part: Part
    label: int | None

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.path}:{self.part.name}" if self.part.name else str(self.path)


@dataclass(frozen=True)
class Inputs:
    """All inputs, opened.

    Attributes:
        reader: of their format.
        options: of the reader.
        rules: of the conversion, with the classes settled.
        parts: in order; at least one.
        digests: input → SHA-256 of its bytes.
        schema: of the events, where the input is a dataset of ours.
    """

    reader: Reader
    options: Config
    rules: SchemaFile
    parts: tuple[InputPart, ...]
    digests: dict[Path, str]
    schema: EventSchema | None
    companions: tuple[Path, ...] = ()

    @property
    def events(self) -> int | None:
        """How many rows there are; None when a format does not tell."""
        rows = [one.part.rows for one in self.parts]
        return None if None in rows else sum(count for count in rows if count is not None)

    def identities(self) -> list[JsonValue]:
        """Name and SHA-256 of every input and of the files read beside it."""
        digests = {one.path: self.digests[one.path] for one in self.parts}
        digests.update((path, digest_of(path)) for path in self.companions if path not in digests)
        return [{"name": path.name, "sha256": digest} for path, digest in digests.items()]

    def columns_of_dataset(self) -> tuple[ColumnRule, ...]:
        """The columns of a dataset of ours, as they are."""
        assert self.schema is not None
        return tuple(
            ColumnRule(
                name=column.name,
                dtype=column.dtype,
                unit=column.unit,
                elements=column.elements,
                element_units=column.element_units,
                axes=column.axes,
            )
            for column in self.schema.columns
        )


def open_inputs(words: Sequence[str], rules: SchemaFile) -> Inputs:
    """Open every input and settle which class its events belong to.

    Args:
        words: `PATH` or `CLASS=PATH`.
        rules: of the conversion.

    Raises:
        UnknownName: no reader has this name.
        UnreadableInput: an input is absent or not in the format.
        InvalidConfig: there is none, one is given twice, or the classes do not fit.
    """
    reader = READERS[rules.reader]
    options = parse(reader.options, rules.options, f"options of the reader '{rules.reader}'")
    paths, given = _split_words(words)
    digests = _distinct_digests(paths)
    found_in = [reader.open(path, options) for path in paths]
    opened = [(path, one.parts) for path, one in zip(paths, found_in, strict=True)]
    schema = _dataset_schema(opened)
    if schema is not None:
        rules = _rules_of_dataset(rules, schema)
        given = [None] * len(paths)
    else:
        rules = _with_classes(rules, given, opened)
    parts = tuple(
        InputPart(path, number, part, label)
        for (path, found), name in zip(opened, given, strict=True)
        for number, part, label in _labelled(found, path, name, rules, paths)
    )
    if not parts:
        found = ", ".join(f"'{part.name}'" for _, parts in opened for part in parts)
        wanted = ", ".join(rules.label.parts or rules.classes)
        raise UnreadableInput(f"an input has a part for each class, named {wanted}; the inputs have {found}")
    companions = tuple(dict.fromkeys(path for one in found_in for path in one.companions))
    return Inputs(reader, options, rules, parts, digests, schema, companions)


def _split_words(words: Sequence[str]) -> tuple[list[Path], list[str | None]]:
    if not words:
        raise InvalidConfig("a conversion has one or more input files; got none")
    paths, given = [], []
    for word in words:
        name, equals, rest = word.partition("=")
        named = bool(equals) and "/" not in name and not Path(word).exists()
        paths.append(Path(rest if named else word))
        given.append(name if named else None)
    if any(given) and not all(given):
        raise InvalidConfig("all inputs are given as CLASS=PATH or none is; got some of each")
    for path in paths:
        if not path.exists():
            raise UnreadableInput(f"an input is a readable file; {path}: No such file or directory")
    return paths, given


def _distinct_digests(paths: Sequence[Path]) -> dict[Path, str]:
    seen: dict[str, Path] = {}
    for path in paths:
        digest = digest_of(path)
        if digest in seen:
            raise InvalidConfig(f"every input is given once; {path} and {seen[digest]} hold the same bytes")
        seen[digest] = path
    return {path: digest for digest, path in seen.items()}


def _with_classes(rules: SchemaFile, given: Sequence[str | None], opened: Sequence[Any]) -> SchemaFile:
    classes = rules.classes
    label = rules.label
    if not classes and any(given):
        classes = tuple(dict.fromkeys(name for name in given if name))
    if label.from_ == "file" and not any(given):
        found = [part.name for _, parts in opened for part in parts]
        if len(opened) == 1 and len(found) > 1:
            label = LabelRule.model_validate({"from": "part"})
    if label.from_ == "part" and not classes:
        classes = tuple(dict.fromkeys(part.name for _, parts in opened for part in parts))
    if len(classes) < 2:  # noqa: PLR2004
        raise InvalidConfig(
            "a dataset has two classes or more: give them by --classes, as CLASS=PATH, or by a schema file; "
            f"got {list(classes) or 'none'}"
        )
    return rules.model_copy(update={"classes": classes, "label": label})


def _labelled(
    parts: Sequence[Part], path: Path, given: str | None, rules: SchemaFile, paths: Sequence[Path]
) -> Iterator[tuple[int, Part, int | None]]:
    classes, rule = rules.classes, rules.label
    for number, part in enumerate(parts):
        if rule.from_ in {"field", "where"}:
            yield number, part, None
        elif rule.from_ == "part":
            names = rule.parts or classes
            if len(names) != len(classes):
                raise InvalidSchema(f"there is one part for each of the classes {classes}; got {names}")
            if part.name in names:
                yield number, part, names.index(part.name)
        elif given is not None:
            if given not in classes:
                raise InvalidConfig(
                    f"an input belongs to one of the classes {', '.join(classes)}; got '{given}'"
                )
            yield number, part, classes.index(given)
        elif len(paths) != len(classes):
            raise InvalidConfig(
                f"there is one input for each class, in order, or each is CLASS=PATH; got {len(paths)} files "
                f"and the classes {list(classes)}"
            )
        else:
            yield number, part, paths.index(path)


def _dataset_schema(opened: Sequence[Any]) -> EventSchema | None:
    texts = {(part.fields.metadata or {}).get(SCHEMA_METADATA, b"") for _, parts in opened for part in parts}
    if len(texts) > 1:
        raise InvalidSchema("datasets that are joined have the same schema; these differ")
    text = next(iter(texts), b"")
    return EventSchema.model_validate_json(text) if text else None


def _rules_of_dataset(rules: SchemaFile, schema: EventSchema) -> SchemaFile:
    if rules.classes and rules.classes != schema.classes:
        raise InvalidConfig(f"a dataset has its own classes, {schema.classes}; got {rules.classes}")
    return rules.model_copy(
        update={
            "classes": schema.classes,
            "label": LabelRule.model_validate({"from": "field", "field": LABEL}),
            "event_id": EventIdRule(fields=(EVENT_ID,), as_is=True),
        }
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of a folder's files.

    Raises:
        UnreadableInput: it cannot be read.
    """
    try:
        if not path.is_dir():
            return sha256_of(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    except OSError as fault:
        raise UnreadableInput(f"an input is a readable file; {path}: {fault.strerror}") from None
