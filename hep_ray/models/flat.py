"""Input of every model of plain features: the columns that it reads, concatenated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hep_ray.errors import InvalidConfig
from hep_ray.models import ColumnLike, SchemaLike

ALL = "all"


class FlatInput(nn.Module):
    """Takes columns as stored to one row of features per event, (N, F).

    Args:
        names: `all`, which is every scalar and vector column, or column names joined by `+`; columns of more
            dimensions, such as tracks, are flattened where they are named.
        schema: of the events.

    Attributes:
        columns: names of the columns, in the schema's order.
        features: F.

    Raises:
        InvalidConfig: a name is no column, or there is no column to read.
    """

    def __init__(self, names: str, schema: SchemaLike) -> None:
        super().__init__()
        chosen = [column for column in schema.inputs if len(column.shape) <= 1]
        if names != ALL:
            chosen = [named_column(name, schema) for name in names.split("+")]
        if not chosen:
            found = ", ".join(f"{column.name} {column.shape}" for column in schema.inputs)
            raise InvalidConfig(f"no scalar or vector column for a model of features; got: {found}")
        self.columns = tuple(column.name for column in chosen)
        self.features = sum(math.prod(column.shape) for column in chosen)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features (N, F), float32, of one tensor (N, *shape) per column."""
        return torch.cat([values.float().reshape(len(values), -1) for values in inputs], dim=1)


def named_column(name: str, schema: SchemaLike) -> ColumnLike:
    """The column of that name, among those a model may read.

    Raises:
        InvalidConfig: there is none.
    """
    for column in schema.inputs:
        if column.name == name:
            return column
    known = ", ".join(column.name for column in schema.inputs)
    raise InvalidConfig(f"the events have no column '{name}' for a model; known: {known}")
