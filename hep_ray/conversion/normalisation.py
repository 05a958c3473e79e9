"""Scale the weights of each process to the events expected of it: cross section × luminosity / sum of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from hep_ray.conversion.inputs import Inputs, InputTable
from hep_ray.conversion.paths import listed
from hep_ray.conversion.readers import READERS, parse_options
from hep_ray.conversion.schema_file import ColumnRule, NormalisationRule, ProcessRule, SchemaFile
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidEvents, InvalidSchema

MOST_LISTED = 5
"""Files that a message names."""


def weight_factors(
    opened: Inputs, rules: SchemaFile, columns: Sequence[ColumnRule], schema: EventSchema
) -> tuple[float, ...]:
    """Return the factor of the weights of each table of the inputs; 1 without a normalisation.

    Where a process does not state its sum of weights, that of all rows of its files is read, before any selection.

    Raises:
        InvalidSchema: there is no weight, or a file belongs to no process or to several, or a process has no file.
        InvalidEvents: the weights of a process sum to 0 or less.
    """
    rule = rules.normalisation
    if rule is None:
        return (1.0,) * len(opened.tables)
    if schema.weight is None:
        raise InvalidSchema(
            "a normalisation scales the weights, and no column is one: name it by `weight` in the schema file, or "
            "--weight"
        )
    of_table = [_process_of(table, rule) for table in opened.tables]
    found: dict[ProcessRule, float] = {}
    for process in rule.processes:
        tables = [table for table, own in zip(opened.tables, of_table, strict=True) if own is process]
        if not tables:
            known = listed(sorted({table.path.name for table in opened.tables}), MOST_LISTED)
            raise InvalidSchema(
                f"no file is of the process '{process.files}' of the normalisation; there are {known}"
            )
        total = process.sum_of_weights
        if total is None:
            total = math.fsum(_sum(table, rules, _field(columns, schema.weight)) for table in tables)
        if not total > 0:
            raise InvalidEvents(
                f"the weights of the process '{process.files}' sum to {total:g}; to be normalised they sum to "
                "more than 0: state `sum_of_weights`, that of the generator before any selection"
            )
        found[process] = rule.luminosity * process.cross_section / total
    return tuple(found[process] for process in of_table)


def _process_of(table: InputTable, rule: NormalisationRule) -> ProcessRule:
    own = [one for one in rule.processes if fnmatchcase(table.path.name, one.files)]
    if len(own) != 1:
        patterns = ", ".join(f"'{one.files}'" for one in own or rule.processes)
        raise InvalidSchema(
            f"each file is of one process of the normalisation; {table.path.name} is of {len(own)}: {patterns}"
        )
    return own[0]


def _field(columns: Sequence[ColumnRule], weight: str) -> str:
    """Return the field that the weights are, which are summed before columns are made."""
    (rule,) = (one for one in columns if one.name == weight)
    if rule.expression is not None or len(rule.reads) > 1:
        raise InvalidSchema(
            f"the weight '{weight}' is made of {', '.join(rule.reads)}: state `sum_of_weights` of each process"
        )
    return rule.reads[0]


def _sum(table: InputTable, rules: SchemaFile, field: str) -> float:
    reader = READERS[rules.reader]
    file = reader.open(table.path, parse_options(reader, rules.options))
    batches = file.read(file.parts[table.number], 0, None, (field,))
    return math.fsum(
        float(np.sum(batch.column(field).to_numpy(zero_copy_only=False), dtype=np.float64))
        for batch in batches
    )
