"""A test split that is given as files: its rule, and events and groups that it must not share with the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.conversion.external_sort import SortedRun
from hep_ray.conversion.inputs import Inputs
from hep_ray.conversion.shards import IDS_OF_VALUES
from hep_ray.dataset.check import row_hashes
from hep_ray.dataset.schema import EVENT_ID, IN_TEST_FILE, Column, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule, written
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema

PIECE_BYTES = 32 * 2**20
"""About as many bytes of events are looked at at a time."""
GROUPS_AT_A_TIME = 2**22
"""About as many values of a column that groups events are held at a time."""
Hashes = npt.NDArray[np.uint64]


def given_split(opened: Inputs, rule: SplitRule, schema: EventSchema) -> tuple[SplitRule, EventSchema]:
    """Return the rule and the schema by which events of the test files are test, others train and val by fractions.

    Without test files both stay as they are. A `split_by` of the schema divides train and val; whether a value of it is
    in a test file too is known when all events are read (`refuse_shared`).

    Raises:
        InvalidConfig: something else decides the test split, too.
        InvalidSchema: there is a column of the name of the one that tells test files' events.
    """
    if not opened.test_files:
        return rule, schema
    if rule.train_where is not None:
        raise InvalidConfig(
            f"--test-file and --train-where '{rule.train_where}' both say which events are test: leave one out"
        )
    if rule.test > 0 and rule.model_fields_set & set(SPLITS):  # stated, if only as it is by default
        raise InvalidConfig(
            f"--split gives {100 * rule.test:g} % of the events to test, which --test-file gives already: state 0 for "
            "test, such as --split 80/20/0"
        )
    if IN_TEST_FILE in {column.name for column in schema.columns}:
        kept = f', or divide as before, --train-where "{IN_TEST_FILE} == 0" and no --test-file'
        raise InvalidSchema(
            f"the inputs have a field '{IN_TEST_FILE}', and --test-file adds a column of that name: leave the field "
            f"out, by --columns with the others{kept if IN_TEST_FILE in schema.spectators else ''}"
        )
    rule = rule.model_copy(update={"train_where": f"{IN_TEST_FILE} == 0"})
    return rule, schema.with_spectator(Column(name=IN_TEST_FILE, dtype="uint8"))


def divided_anew(opened: Inputs, rule: SplitRule) -> list[str]:
    """Say that the test files of a dataset are no longer its test split, where shares alone divide it."""
    stated = rule.train_where is not None or rule.folds is not None or opened.test_files
    if stated or opened.schema is None or IN_TEST_FILE not in opened.schema.spectators:
        return []
    keeps = f'--train-where "{IN_TEST_FILE} == 0" keeps it'
    return [
        f"the inputs' test split was given as files, and all events are divided anew, those of test files too: {keeps}"
    ]


def refuse_shared(opened: Inputs, rule: SplitRule, runs: Sequence[SortedRun], schema: EventSchema) -> None:
    """Refuse events and groups that are in a test file and in another input, and classes that either has none of.

    Args:
        opened: all inputs.
        rule: of `given_split`, or of a dataset that was divided by it.
        runs: all that were spilled.
        schema: of the events.

    Raises:
        InvalidEvents: there are such.
    """
    if opened.test_files:
        ids_named = bool(opened.rules.event_id.fields)
        _refuse_shared_events(runs, schema, ids_named=ids_named, of_dataset=opened.schema is not None)
    if rule.by_test_file and schema.split_by is not None:
        _refuse_shared_groups(runs, schema.split_by)


def _refuse_shared_events(
    runs: Sequence[SortedRun], schema: EventSchema, *, ids_named: bool, of_dataset: bool
) -> None:
    """Refuse events that are in a test file and in another input, and classes that either has none of.

    Events are the same whose columns that models read are, bit by bit; where fields were named that make ids, those of
    one id. Ids of a dataset may be made of the names of files, so its events are compared by both.

    Args:
        runs: all that were spilled.
        schema: of the events.
        ids_named: fields of the inputs make the ids.
        of_dataset: the inputs are datasets, of which the ids are kept.

    Raises:
        InvalidEvents: there are such.
    """
    tests = [run for run in runs if run.split == "test"]
    others = [run for run in runs if run.split != "test"]
    for where, own in (("the test files", tests), ("the inputs beside the test files", others)):
        counts = np.array([run.classes for run in own]).reshape(-1, len(schema.classes)).sum(axis=0)
        if absent := [name for name, count in zip(schema.classes, counts, strict=True) if not count]:
            raise InvalidEvents(
                f"{where} have no event of {', '.join(absent)}, and each class is trained with and tested on: give "
                "files of every class"
            )
    naming = "name the fields that tell events apart, [event_id] of a schema file"
    if of_dataset:
        apart = f"convert the files that the datasets are of anew and {naming}"
        values = f"the same values; leave them out of one, or {apart}"
        _refuse_alike(tests, others, schema, values, by_content=True)
        same = f"the same id and other values, as events of files of one name have; {IDS_OF_VALUES}"
        _refuse_alike(tests, others, schema, same, by_content=False)
    elif ids_named:
        same = "the same id; leave them out of one"
        _refuse_alike(tests, others, schema, same, by_content=False)
    else:
        values = f"the same values; leave them out of one, or {naming}"
        _refuse_alike(tests, others, schema, values, by_content=True)


def _refuse_shared_groups(runs: Sequence[SortedRun], name: str) -> None:
    """Refuse values of a column, the schema's `split_by`, that events of the test files and others have.

    Columns are read once for each `GROUPS_AT_A_TIME` events of the test files, a part of their values each time.
    """
    tests = [run for run in runs if run.split == "test"]
    others = [run for run in runs if run.split != "test"]
    parts = max(1, -(-sum(run.rows for run in tests) // GROUPS_AT_A_TIME))
    groups = events = 0
    example: np.generic | None = None
    for part in range(parts):
        pieces = list(_groups(tests, name, part, parts))
        tested = np.unique(np.concatenate(pieces)) if pieces else np.zeros(0)
        common = np.zeros(len(tested), dtype=bool)
        for values in _groups(others, name, part, parts):
            found = np.isin(values, tested)
            events += int(found.sum())
            common[np.searchsorted(tested, values[found])] = True
        groups += int(common.sum())
        if common.any() and example is None:
            example = tested[common.argmax()]
    if example is not None:
        shared = f"{groups} values of '{name}' are in a test file and in another, such as {written(example)}"
        raise InvalidEvents(
            f"{shared}, with {events} events to train with: events of one value belong together, and a model would be "
            "tested on what it has seen. "
            f"Leave these events out of one of the files; if they do not belong together, leave out --split-by {name}"
        )


def _groups(runs: Sequence[SortedRun], name: str, part: int, parts: int) -> Iterator[npt.NDArray[Any]]:
    """Yield the values of a column of numbers, a run at a time: those of one part, by a hash."""
    for run in runs:
        with run.within(0, 2**64) as batch:
            values = batch.column(name).to_numpy() + 0  # in memory of its own, and -0 becomes 0
        yield values if parts == 1 else values[row_hashes([values]) % np.uint64(parts) == part]


def _refuse_alike(
    tests: Sequence[SortedRun],
    others: Sequence[SortedRun],
    schema: EventSchema,
    same: str,
    *,
    by_content: bool,
) -> None:
    """Refuse events that are in both; `same` ends the message."""
    tested = np.unique(np.concatenate([hashes for _, _, hashes in _hashed(tests, schema, by_content)]))
    shared, example = 0, ("", np.uint64(0))
    for run, start, hashes in _hashed(others, schema, by_content):
        places = np.searchsorted(tested, hashes)
        found = tested[np.minimum(places, len(tested) - 1)] == hashes
        if found.any() and not shared:
            row = int(found.argmax())
            example = (_id_of(run, start + row), hashes[row])
        shared += int(found.sum())
    if not shared:
        return
    twin = next(
        _id_of(run, start + int(np.argmax(hashes == example[1])))
        for run, start, hashes in _hashed(tests, schema, by_content)
        if (hashes == example[1]).any()
    )
    raise InvalidEvents(
        f"{shared} events to train with are in a test file too, such as '{example[0]}', there '{twin}': they have "
        f"{same}"
    )


def _id_of(run: SortedRun, row: int) -> str:
    with run.within(0, 2**64) as batch:
        return str(batch.column(EVENT_ID)[row])


def _hashed(
    runs: Sequence[SortedRun], schema: EventSchema, by_content: bool
) -> Iterator[tuple[SortedRun, int, Hashes]]:
    """Yield the hashes of the events of runs, with the run and the first row of each piece."""
    rows = max(1, PIECE_BYTES // sum(column.nbytes for column in schema.inputs))
    for run in runs:
        if not by_content:
            keys, _ = run.keys_and_labels()
            yield run, 0, keys
            continue
        for start in range(0, run.rows, rows):
            with run.within(0, 2**64) as batch:
                piece = batch.slice(start, rows)
                values = [column.to_numpy(piece.column(column.name)) for column in schema.inputs]
                yield run, start, row_hashes(values)
