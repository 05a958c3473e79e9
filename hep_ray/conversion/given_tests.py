"""A test split that is given as files: the rule of it, and events that it must not share with the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hep_ray.conversion.external_sort import SortedRun
from hep_ray.conversion.inputs import Inputs
from hep_ray.conversion.shards import DEFAULT_RULE
from hep_ray.dataset.check import row_hashes
from hep_ray.dataset.schema import EVENT_ID, IN_TEST_FILE, Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidConfig, InvalidEvents

PIECE_BYTES = 32 * 2**20
"""About as many bytes of events are looked at at a time."""
Hashes = npt.NDArray[np.uint64]


def given_split(opened: Inputs, rule: SplitRule, schema: EventSchema) -> tuple[SplitRule, EventSchema]:
    """Return the rule and the schema by which events of the test files are test, others train and val by fractions.

    Without test files both stay as they are.

    Raises:
        InvalidConfig: something else decides the test split, too.
    """
    if not opened.test_files:
        return rule, schema
    if rule.train_where is not None:
        raise InvalidConfig(
            f"--test-file and --train-where '{rule.train_where}' both say which events are test: leave one out"
        )
    if schema.split_by is not None:
        raise InvalidConfig(
            f"--test-file and --split-by {schema.split_by} both say which split an event is in: leave one out"
        )
    if rule != DEFAULT_RULE and rule.test > 0:
        raise InvalidConfig(
            f"--split gives {100 * rule.test:g} % of the events to test, which --test-file gives already: state 0 for "
            "test, such as --split 80/20/0"
        )
    rule = rule.model_copy(update={"train_where": f"{IN_TEST_FILE} == 0"})
    return rule, schema.with_spectator(Column(name=IN_TEST_FILE, dtype="uint8"))


def refuse_shared(runs: Sequence[SortedRun], schema: EventSchema, *, by_content: bool) -> None:
    """Refuse events that are in a test file and in another input, and classes that either has none of.

    Args:
        runs: all that were spilled.
        schema: of the events.
        by_content: events are the same whose columns that models read are, bit by bit; else those of one id are.

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
    tested = np.unique(np.concatenate([hashes for _, _, hashes in _hashed(tests, schema, by_content)]))
    shared, example = 0, ("", np.uint64(0))
    for run, start, hashes in _hashed(others, schema, by_content):
        found = np.isin(hashes, tested)
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
    same = (
        "the same values; leave them out of one, or name the fields that tell events apart, [event_id] of a schema file"
        if by_content
        else "the same id; leave them out of one"
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
