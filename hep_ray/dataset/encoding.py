"""Which columns are stored, and held in memory, without their zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from hep_ray.dataset.events import Column, EventSchema
from hep_ray.dataset.runs import Run
from hep_ray.dataset.sparse import index_dtype

Encoding = Literal["auto", "dense"]

LEAST_SIZE = 64
"""Values of an event below which a column is stored whole."""
MOST_SHARE = 0.25
"""Of a column's size that its values without the zeros, and their indices, take at most: 17 % of float32 values."""


def sparse_columns(schema: EventSchema, runs: Sequence[Run]) -> dict[str, float]:
    """The columns that have so many zeros that leaving them out pays.

    It depends on the events alone, not on their order or on how they were cut into runs.

    Args:
        schema: of the events.
        runs: all that were spilled.

    Returns:
        Column → values per event that are not zero, on average over the events given.
    """
    events = sum(len(run.keys()) for run in runs)
    chosen = {}
    for column in schema.columns if events else ():
        filled = sum(run.filled[column.name] for run in runs) / events
        if pays(column, filled):
            chosen[column.name] = filled
    return chosen


def pays(column: Column, filled: float) -> bool:
    """Whether to leave out the zeros of a column that has so many other values per event."""
    size, item = int(np.prod(column.shape)), np.dtype(column.dtype).itemsize
    return size >= LEAST_SIZE and filled * (item + index_dtype(size).itemsize) <= MOST_SHARE * size * item
