"""The inputs of a conversion: which files there are, whose events they hold, and what tables are in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from hep_ray.conversion.field_values import found_classes
from hep_ray.conversion.labels import settled
from hep_ray.conversion.paths import (
    Given,
    digests_of,
    distinct_digests,
    given_inputs,
    listed,
    names_classes,
    open_all,
    told_apart,
)
from hep_ray.conversion.readers import EVENT_SCHEMA, READERS, Opened, Part, Reader, parse_options
from hep_ray.conversion.schema_file import ColumnRule, EventIdRule, LabelRule, SchemaFile
from hep_ray.dataset.dataset import BEGINNINGS, Manifest
from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema
from hep_ray.errors import InvalidConfig, InvalidSchema, NoEvents, UnreadableInput

MOST_JOINED = 5
"""Tables of a file that a note lists, at most."""


@dataclass(frozen=True)
class InputTable:
    """A table of an input.

    Attributes:
        number: of the part within it.
        part: what the reader says of it.
        label: the class, where the file or the part decides it.
        stem: of which ids are made: the file's name without its endings, and more where that is not enough to tell
            the events of this part from those of another.
        opened: the input, where to open it again is costly.
        tests: whether its events are the test split; None where a rule divides those of all inputs.
    """

    path: Path
    number: int
    part: Part
    label: int | None
    stem: str = ""
    opened: Opened | None = None
    tests: bool | None = None

    @property
    def shown(self) -> str:
        """Path and part as messages show them."""
        return f"{self.path}:{self.part.name}" if self.part.name else str(self.path)


@dataclass(frozen=True)
class Inputs:
    """All inputs, opened.

    Attributes:
        reader: of their format.
        rules: of the conversion, with the classes settled.
        tables: in order; at least one.
        files: name and SHA-256 of every input and of the files read beside it.
        schema: of the events, where the input is a dataset of ours.
        notes: what is to be told of the inputs, such as which hold no events.
        named: the inputs name their classes, `CLASS=PATH`.
        test_files: the same as `files`, of the given test files.
        digests: SHA-256 of each file of the tables.
    """

    reader: Reader
    rules: SchemaFile
    tables: tuple[InputTable, ...]
    files: list[JsonValue]
    schema: EventSchema | None
    notes: tuple[str, ...] = ()
    named: bool = False
    test_files: tuple[JsonValue, ...] = ()
    digests: Mapping[Path, str] = field(default_factory=dict)

    @property
    def beginnings(self) -> dict[str, JsonValue]:
        """Return what may stand before the numbers of events in their ids, by the SHA-256 of each file with one table.

        One text for each class that its events may have. Files whose fields make ids are left out; of datasets of ours
        it is what their manifests say.
        """
        if self.schema is not None:
            known = [Manifest.read(one.path).source.get(BEGINNINGS) for one in self.tables]
            return {
                digest: own for found in known if isinstance(found, dict) for digest, own in found.items()
            }
        if self.rules.event_id.fields:
            return {}
        tables, classes = Counter(one.path for one in self.tables), self.rules.classes
        return {
            self.digests[one.path]: [
                f"{name}/{one.stem}/"
                for name in (classes if one.label is None else classes[one.label : one.label + 1])
            ]
            for one in self.tables
            if tables[one.path] == 1
        }

    @property
    def events(self) -> int | None:
        """How many rows there are; None when a format does not tell."""
        rows = [one.part.rows for one in self.tables if one.part.rows is not None]
        return sum(rows) if len(rows) == len(self.tables) else None


def open_inputs(words: Sequence[str], rules: SchemaFile) -> Inputs:
    """Open every input and settle which class its events belong to.

    Inputs without events are left out and told of.

    Args:
        words: `PATH` or `CLASS=PATH`; a path may be a glob, or a folder of files.
        rules: of the conversion.

    Raises:
        UnknownName: no reader has this name.
        UnreadableInput: inputs are absent or not in the format; all are named. Or none holds events.
        InvalidConfig: there is none, one is given twice, or the classes do not fit.
        NoEvents: all inputs of a class are without events.
    """
    reader = READERS[rules.reader]
    given, notes = given_inputs(words, reader)
    typed = {path: place for place, one in enumerate(given) for path in one.paths}
    paths = [path for one in given for path in one.paths]
    opened, empty = open_all(paths, reader, parse_options(reader, rules.options))
    digests = distinct_digests([path for path, _ in opened])
    schema = _dataset_schema(opened)
    _refuse_class_of_file(given, rules, of_dataset=schema is not None)
    stated = rules.classes
    rules = _with_classes(rules, given, opened) if schema is None else _rules_of_dataset(rules, schema)
    if schema is None and rules.label.from_ == "field" and not stated:
        notes.append(
            f"the label '{rules.label.field}' says the classes, {', '.join(rules.classes)}: the last is the signal "
            "unless --signal names another"
        )
    tables = [
        InputTable(path, number, part, label, opened=found if found.costly else None)
        for path, found in opened
        for number, part, label in _labelled(found.parts, given, typed[path], rules)
    ]
    if not tables:
        named = ", ".join(f"'{part.name}'" for _, found in opened for part in found.parts)
        wanted = ", ".join(rules.label.parts or rules.classes)
        raise UnreadableInput(f"the inputs have the parts {named}, and none of the classes' {wanted}")
    full = [one for one in tables if one.part.rows != 0]
    if schema is None:
        parts = {one.shown: one.part for one in full}
        rules = rules.model_copy(update={"label": settled(rules.label, rules.classes, parts)})
    _refuse_empty_class(rules, tables, full, empty)
    digests = {one.path: digests[one.path] for one in full}
    companions = [path for _, one in opened for path in one.companions]
    beside = digests_of([path for path in dict.fromkeys(companions) if path not in digests])
    files: list[JsonValue] = [
        {"name": path.name, "sha256": digest} for path, digest in (digests | beside).items()
    ]
    by_class = given[0].name is not None
    stemmed = _with_stems(full)
    return Inputs(reader, rules, stemmed, files, schema, (*notes, *empty), by_class, digests=digests)


def with_test_files(opened: Inputs, words: Sequence[str], rules: SchemaFile) -> Inputs:
    """Open the files whose events are the test split, beside the other inputs; without any these stay as they are.

    Args:
        opened: the others.
        words: as of `open_inputs`.
        rules: of the conversion, before its classes were settled.

    Raises:
        InvalidConfig: one is an input already; or they name their classes, and the others do not, or the other way
            round, where nothing else says which they are.
        InvalidSchema: their labels or, of datasets, columns differ from those of the other inputs.
        UnreadableInput, NoEvents: see `open_inputs`.
    """
    if not words:
        return opened
    if not rules.classes and rules.label.from_ == "file" and opened.schema is None:
        _refuse_named_apart(opened.named, names_classes(words))
    stated = rules.classes or opened.rules.classes
    found = opened.schema is None and not rules.classes and opened.rules.label.from_ == "field"
    label = opened.rules.label if found else rules.label
    tests = open_inputs(words, rules.model_copy(update={"classes": stated, "label": label}))
    if tests.rules.label != opened.rules.label or tests.rules.classes != opened.rules.classes:
        raise InvalidSchema(
            f"the test files have the classes {', '.join(tests.rules.classes)} by {tests.rules.label.from_}, and the "
            f"other inputs {', '.join(opened.rules.classes)} by {opened.rules.label.from_}: both need the same"
        )
    own, other = (one.schema and one.schema.of_events for one in (opened, tests))
    if own != other:
        raise InvalidSchema(
            "the test files have other columns or classes than the dataset that they would test"
        )
    digests = {one["sha256"]: one["name"] for one in opened.files if isinstance(one, dict)}
    read = {one.path.name for one in tests.tables}  # and no file of labels beside them, which may be equal
    for one in tests.files:
        if isinstance(one, dict) and one["name"] in read and one["sha256"] in digests:
            raise InvalidConfig(
                f"{one['name']} holds the same bytes as the input {digests[one['sha256']]}: its events would be learnt "
                "from and tested on; give it once, as an input or by --test-file"
            )
    both = [
        replace(table, tests=given) for given, of in ((False, opened), (True, tests)) for table in of.tables
    ]
    return replace(
        opened,
        tables=_with_stems(both),
        notes=(*opened.notes, *tests.notes),
        test_files=tuple(tests.files),
        digests={**opened.digests, **tests.digests},
    )


def _refuse_named_apart(inputs: bool, tests: bool) -> None:
    """Refuse test files whose classes would be guessed by the order in which inputs of named classes stand."""
    if inputs and not tests:
        raise InvalidConfig(
            "the inputs name their classes, CLASS=PATH, and the test files do not: give these so too, --test-file "
            "CLASS=PATH"
        )
    if tests and not inputs:
        raise InvalidConfig(
            "the test files name their classes, CLASS=PATH, and those of the inputs are the parts of a file: give a "
            "test file with such parts, as PATH"
        )


def joined_tables(opened: Inputs) -> Iterator[str]:
    """Say which tables of a file become one: a division into `train` and `test` is not that of the dataset."""
    if opened.rules.label.from_ == "part":
        return
    become = {
        None: "divided into train, val and test anew",
        False: "divided into train and val anew",
        True: "all test",
    }
    joined: dict[tuple[Path, bool | None], list[str]] = {}
    for one in opened.tables:
        joined.setdefault((one.path, one.tests), []).append(one.part.name)
    for (path, tests), names in joined.items():
        if len(names) > 1:
            yield (
                f"{path}: {len(names)} tables are joined, {listed(names, MOST_JOINED)}; their events are "
                f"{become[tests]}"
            )


def _refuse_class_of_file(given: Sequence[Given], rules: SchemaFile, *, of_dataset: bool) -> None:
    """Refuse `CLASS=PATH` where something else decides which class an event belongs to."""
    named = next((one for one in given if one.name is not None), None)
    if named is None or not (of_dataset or rules.label.from_ != "file"):
        return
    decides = {"field": f"the field '{rules.label.field}'", "where": "an expression", "part": "the part"}
    what = "the dataset's own label" if of_dataset else decides[rules.label.from_]
    raise InvalidConfig(
        f"'{named.name}={named.paths[0]}' states a class, and {what} decides it already: leave out '{named.name}=', "
        "and name the classes by --classes"
    )


def _refuse_empty_class(
    rules: SchemaFile, tables: Sequence[InputTable], full: Sequence[InputTable], empty: Sequence[str]
) -> None:
    if rules.label.from_ in {"file", "part"}:
        held = {one.label for one in full}
        for label, name in enumerate(rules.classes):
            if label not in held and (empty or any(one.label == label for one in tables)):
                raise NoEvents(f"class '{name}' has no events: {'; '.join(empty)}")
    elif not full:
        raise NoEvents("; ".join(empty))


def _with_stems(tables: Sequence[InputTable]) -> tuple[InputTable, ...]:
    """Give tables of which the ids would be equal as much of their path, and their own name, as tells them apart."""
    of_class: dict[int | None, list[Path]] = {}
    for one in tables:
        of_class.setdefault(one.label, []).append(one.path)
    stems = {label: told_apart(paths) for label, paths in of_class.items()}
    counts = {label: Counter(paths) for label, paths in of_class.items()}
    named = []
    for one in tables:
        stem = stems[one.label][one.path]
        if one.part.name and counts[one.label][one.path] > 1:
            stem = f"{stem}/{one.part.name}"
        named.append(replace(one, stem=stem))
    return tuple(named)


def _with_classes(
    rules: SchemaFile, given: Sequence[Given], opened: Sequence[tuple[Path, Opened]]
) -> SchemaFile:
    label = rules.label
    parts = [part.name for _, one in opened for part in one.parts]
    named = tuple(dict.fromkeys(one.name for one in given if one.name))
    if label.from_ == "file" and not named and len(given) == 1 and len(parts) > 1 and len(opened) == 1:
        label = LabelRule.model_validate({"from": "part"})
    classes = rules.classes or named or (tuple(dict.fromkeys(parts)) if label.from_ == "part" else ())
    if label.from_ == "field" and not classes:
        classes, label = found_classes(rules, [(str(path), one) for path, one in opened])
    if len(classes) < 2:  # noqa: PLR2004
        raise InvalidConfig(
            f"a dataset needs two classes or more, got {list(classes) or 'none'}: give them by --classes, as "
            "CLASS=PATH, or by a schema file"
        )
    return rules.model_copy(update={"classes": classes, "label": label})


def _labelled(
    parts: Sequence[Part], given: Sequence[Given], place: int, rules: SchemaFile
) -> Iterator[tuple[int, Part, int | None]]:
    """Yield the parts of an input, which is of the word at that place, with their numbers and labels."""
    classes, rule = rules.classes, rules.label
    name = given[place].name
    names = rule.parts or classes
    if rule.from_ == "part" and len(names) != len(classes):
        raise InvalidSchema(f"the parts {names} are not as many as the classes {classes}")
    if rule.from_ == "file" and name is not None and name not in classes:
        raise InvalidConfig(f"'{name}' is none of the classes {', '.join(classes)}")
    if rule.from_ == "file" and name is None and len(given) != len(classes):
        raise InvalidConfig(
            f"{len(given)} files are given for the classes {list(classes)}, and not as CLASS=PATH: several "
            f"files of a class are CLASS=FILE each, or a glob in quotes, "
            f"'{classes[0]}={given[0].paths[0].parent}/*{given[0].paths[0].suffix}'"
        )
    for number, part in enumerate(parts):
        if rule.from_ in {"field", "where"}:
            yield number, part, None
        elif rule.from_ == "file":
            yield number, part, place if name is None else classes.index(name)
        elif part.name in names:
            yield number, part, names.index(part.name)


def _dataset_schema(opened: Sequence[tuple[Path, Opened]]) -> EventSchema | None:
    fields = [part.fields for _, one in opened for part in one.parts]
    texts = [(one.metadata or {}).get(EVENT_SCHEMA, b"") for one in fields]
    schemas = [EventSchema.model_validate_json(text) for text in dict.fromkeys(texts) if text]
    if not schemas:
        return None
    # What filled up lists is not known of datasets made before it was kept: the same of a later one stands for both.
    schemas = [one for one in schemas if not any(one == other.unpadded != other for other in schemas)]
    # What stood for missing values may be known of one dataset alone: of one that needed it, or was made later.
    filled = [one for one in schemas if one != one.of_events]
    if not all(texts) or len(filled) > 1 or any(one.of_events != schemas[0].of_events for one in schemas):
        raise InvalidSchema("the datasets have different schemas, so they cannot be joined")
    return (filled or schemas)[0]


def _rules_of_dataset(rules: SchemaFile, schema: EventSchema) -> SchemaFile:
    """Return the rules for a dataset of ours, whose labels and ids are known; of its classes some may be chosen."""
    columns = [rule.name for rule in rules.columns if rule != ColumnRule(name=rule.name, axes=rule.axes)]
    stated = ["a label (--label, or [label] of the schema file)"] * (rules.label != LabelRule())
    stated += ["ids ([event_id] of the schema file)"] * (rules.event_id != EventIdRule())
    stated += [f"column '{name}' anew (of the schema file)" for name in columns]
    if stated:
        raise InvalidConfig(
            f"{stated[0]} cannot be stated for a dataset of hep_ray, which has its own: leave it out"
        )
    members = merged_classes(rules.classes or schema.classes, schema.classes)
    label: dict[str, Any] = {"from": "field", "field": LABEL}
    update: dict[str, Any] = {"classes": tuple(members)}
    if any(len(own) > 1 for own in members.values()):
        where = [" or ".join(f"{LABEL} == {place}" for place in own) for own in members.values()]
        label = {"from": "where", "where": where}
        update["class_meaning"] = {
            name: ", or ".join(
                schema.class_meaning.get(schema.classes[place], schema.classes[place]) for place in own
            )
            for name, own in members.items()
        } | rules.class_meaning
    elif tuple(members) != schema.classes or [own for (own,) in members.values()] != list(
        range(len(members))
    ):
        chosen = [own for (own,) in members.values()]
        label["values"] = chosen
        picked = " or ".join(f"{LABEL} == {place}" for place in chosen)
        update["selection"] = f"({rules.selection}) and ({picked})" if rules.selection else picked
    update["label"] = LabelRule.model_validate(label)
    update["event_id"] = EventIdRule(fields=(EVENT_ID,), as_is=True)
    return rules.model_copy(update=update)


OTHERS = "others"
"""In place of the members of a class: all classes that no other one takes."""


def merged_classes(stated: Sequence[str], own: Sequence[str]) -> dict[str, list[int]]:
    """Return class name → labels of the dataset's classes that it is made of, of statements as `--classes` has them.

    `NAME` is a class of the dataset, `NEW=NAME/NAME` several of them as one, `NEW=others` all that are left.

    >>> merged_classes(["background=others", "electron"], ["jet", "photon", "electron"])
    {'background': [0, 1], 'electron': [2]}

    Raises:
        InvalidConfig: a class is unknown, or taken twice, or there are fewer than two.
    """
    made: dict[str, list[int] | None] = {}
    for statement in stated:
        name, equals, members = statement.partition("=")
        names = members.split("/") if equals else [name]
        rest = bool(equals) and names == [OTHERS] and OTHERS not in own
        if not rest and (unknown := [one for one in names if one not in own]):
            raise InvalidConfig(
                f"--classes names {', '.join(unknown)}; the dataset's own are {', '.join(own)}: choose two or more, "
                "each NAME, NEW=NAME/NAME or NEW=others"
            )
        if name in made:
            raise InvalidConfig(f"--classes names {name} twice; each class is stated once")
        made[name] = None if rest else [own.index(one) for one in names]
    taken = [place for places in made.values() for place in places or ()]
    if len(set(taken)) < len(taken) or list(made.values()).count(None) > 1:
        twice = next((own[place] for place in taken if taken.count(place) > 1), OTHERS)
        raise InvalidConfig(f"--classes gives {twice} to two classes; each of the dataset's goes to one")
    left = [place for place in range(len(own)) if place not in taken]
    found = {name: left if places is None else places for name, places in made.items()}
    if empty := next((name for name, places in found.items() if not places), None):
        raise InvalidConfig(f"--classes leaves no class of the dataset for {empty}={OTHERS}: leave it out")
    if len(found) < 2:  # noqa: PLR2004
        raise InvalidConfig(
            f"--classes chooses {', '.join(found)} alone; a dataset needs two classes or more"
        )
    return found
