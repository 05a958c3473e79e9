"""Reference inputs of a promoted model: what its events look like, to compare new ones with (`predict/shift.py`).

A sample of validation events, each as the plain features of the columns that the model reads: numbers, no images.

Shape suffixes: N events, F features.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import LABEL, Column
from hep_ray.dataset.shard_file import read_shard
from hep_ray.dataset.values import mask_of
from hep_ray.errors import CorruptModel

FILE = "reference.safetensors"
MOST_EVENTS = 10_000
"""Reference events at most."""
MOST_VALUES = 2_000_000
"""N·F at most, 8 MB, where there are many features."""
MOST_ELEMENTS = 64
"""Values of a column that are features one by one; of a larger one, such as an image, three summaries are."""
COMMON = 0.99
"""Quantile of the weights up to which events are kept in proportion to them."""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """Features of reference events.

    Attributes:
        names: F, see `features_of`.
        values: (N, F) float32, NaN where a value is missing.
        labels: (N,) the true classes.
    """

    names: tuple[str, ...]
    values: Features
    labels: npt.NDArray[np.int64]

    def dumps(self) -> bytes:
        """Return the bytes of `reference.safetensors`."""
        from safetensors.numpy import save

        metadata = {"names": json.dumps(self.names)}
        return bytes(save({"values": self.values, "labels": self.labels}, metadata=metadata))

    @classmethod
    def loads(cls, content: bytes) -> Reference:
        """Read what `dumps` wrote.

        Raises:
            CorruptModel: it is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            length = int.from_bytes(content[:8], "little")
            names = tuple(json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["names"]))
            arrays = load(content)
            found = cls(names, arrays["values"], arrays["labels"])
            if found.values.shape != (len(found.labels), len(names)):
                raise ValueError(f"its values are {found.values.shape} for {len(names)} features")
        except (SafetensorError, KeyError, TypeError, ValueError) as exc:
            raise CorruptModel(f"{FILE} of a model holds the features of reference events: {exc}") from None
        return found


def features_of(columns: Sequence[Column], events: Mapping[str, Any]) -> tuple[tuple[str, ...], Features]:
    """Return names and values (N, F) of the plain features of some columns.

    A scalar is one; a vector of up to 64 values is its elements; a larger column, such as an image, is its sum, its
    greatest value and its share of values that are not 0; a list is its length and the mean of each of its values.

    Args:
        columns: that are compared.
        events: column → (N, *shape).
    """
    pairs = [pair for column in columns for pair in _of_column(column, np.asarray(events[column.name]))]
    return tuple(name for name, _ in pairs), np.stack([values for _, values in pairs], axis=1)


def _of_column(column: Column, values: npt.NDArray[Any]) -> Iterator[tuple[str, Features]]:
    name, count = column.name, len(values)
    if column.lists:
        present = mask_of(values)
        items = present.sum(axis=1)
        sums = np.where(present[..., None], values.astype(np.float64), 0).sum(axis=1)
        yield f"{name}: items", items.astype(np.float32)
        for place in range(column.shape[1]):
            mean = np.divide(sums[:, place], items, out=np.full(count, np.nan), where=items > 0)
            yield f"{name}: mean {_element(column, place)}", mean.astype(np.float32)
        return
    flat = values.reshape(count, -1)
    if not column.shape:
        yield name, flat[:, 0].astype(np.float32)
    elif flat.shape[1] <= MOST_ELEMENTS:
        for place in range(flat.shape[1]):
            own = _element(column, place) if len(column.shape) == 1 else f"[{place}]"
            yield f"{name}{'' if own[0] == '[' else '.'}{own}", flat[:, place].astype(np.float32)
    else:
        numbers = flat.astype(np.float64)
        yield f"{name}: sum", np.nansum(numbers, axis=1).astype(np.float32)
        yield (
            f"{name}: greatest",
            np.where(np.isnan(numbers), -np.inf, numbers).max(axis=1).astype(np.float32),
        )
        yield f"{name}: share not 0", (numbers != 0).mean(axis=1).astype(np.float32)


def _element(column: Column, place: int) -> str:
    return column.elements[place] if column.elements else f"[{place}]"


def reference_of(dataset: Dataset, names: Sequence[str], seed: int = 0) -> Reference:
    """Return the features of a random sample of the validation events.

    Of weighted events the sample stands for the weighted ones: an event is kept with a probability in proportion to
    its weight, up to the weights' quantile of 99 %; events of negative weights are left out.

    Args:
        dataset: opened.
        names: columns that the model reads.
        seed: of the choice.
    """
    schema = dataset.schema
    columns = [schema.column(name) for name in names]
    random = np.random.default_rng(seed)
    paths = dataset.paths("val")
    chosen = np.arange(dataset.rows("val"))
    if schema.weight:
        weights = dataset.values(schema.weight, "val").to_numpy().astype(np.float64)
        chosen = chosen[random.random(len(chosen)) * np.quantile(weights, COMMON) < weights]
    chosen = np.sort(random.permutation(chosen)[:MOST_EVENTS])
    parts: list[Features] = []
    labels: list[npt.NDArray[np.int64]] = []
    found: tuple[str, ...] = ()
    start = 0
    for path in paths:
        table = read_shard(path, [LABEL, *names])
        own = chosen[(chosen >= start) & (chosen < start + len(table))] - start
        start += len(table)
        for batch in table.take(own).combine_chunks().to_batches():
            events = {column.name: column.to_numpy(batch.column(column.name)) for column in columns}
            found, values = features_of(columns, events)
            parts.append(values)
            labels.append(batch.column(LABEL).to_numpy().astype(np.int64))
    most = max(1, MOST_VALUES // max(1, len(found)))
    values, classes = np.concatenate(parts), np.concatenate(labels)
    kept = np.sort(random.permutation(len(values))[:most])
    return Reference(found, np.ascontiguousarray(values[kept]), np.ascontiguousarray(classes[kept]))
