"""The sample of a dataset that is drawn, gathered in one pass in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.dataset import ROW_GROUP, Manifest
from hep_ray.dataset.schema import LABEL, Arrays, Column
from hep_ray.dataset.shard_file import open_shard
from hep_ray.dataset.splits import Split

Kind = Literal["features", "profile", "sequence", "image", "other"]

SINGLE_EVENTS = 3
"""Events of each class whose images are drawn."""
MOST_FEATURES = 40
"""Length of a vector up to which each element is drawn by itself."""
MATRIX = 2  # axes


def kind_of(column: Column) -> Kind:
    """Return how a column is drawn.

    An image as such. A scalar or short vector: a distribution of each element. A longer vector: its mean by place. A
    matrix with named columns, or lists: a sequence, its mean by place over the events that have the place. Another
    matrix: as an image is.
    """
    if column.lists:
        return "sequence"
    if column.is_image:
        return "image"
    axes = len(column.shape)
    if axes == 0 or (axes == 1 and column.shape[0] <= MOST_FEATURES):
        return "features"
    if axes == 1:
        return "profile"
    if axes == MATRIX and column.elements:
        return "sequence"
    return "image" if axes == MATRIX else "other"


@dataclass(frozen=True)
class Sample:
    """Events of one split: the first in the order of a hash of their ids, so a random sample.

    Attributes:
        manifest: of the dataset.
        split: they are of.
        labels: (N,)
        features: name → (N, *shape), of the columns of that kind.
        means: name → (classes, *shape), of all others.
        errors: name → (classes, *shape): standard error of the mean.
        singles: name → for each class the values of its first events, (up to 3, *shape); of images.
    """

    manifest: Manifest
    split: Split
    labels: npt.NDArray[np.int64]
    features: Arrays
    means: Arrays
    errors: Arrays
    singles: dict[str, list[npt.NDArray[Any]]]

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Drawn events of each class."""
        return np.bincount(self.labels, minlength=len(self.manifest.event_schema.classes))


def draw_sample(folder: Path, manifest: Manifest, split: Split, most: int) -> Sample:
    """Read up to `most` events of a split.

    Raises:
        InvalidEvents: a shard's columns are not those of the schema.
    """
    schema = manifest.event_schema
    classes = len(schema.classes)
    kept = [column for column in schema.columns if kind_of(column) == "features"]
    summed = [column for column in schema.columns if kind_of(column) not in {"features", "other"}]
    images = [column for column in summed if kind_of(column) == "image"]
    sums = {column.name: np.zeros((classes, *column.shape)) for column in summed}
    squares = {column.name: np.zeros((classes, *column.shape)) for column in summed}
    counts = {column.name: np.zeros((classes, *column.shape)) for column in summed}
    singles = {column.name: [np.zeros((0, *column.shape))] * classes for column in images}
    labels, features = [], {column.name: [] for column in kept}  # type: ignore[var-annotated]
    for events in _batches(folder, manifest, split, most):
        labels.append(events[LABEL])
        for column in kept:
            features[column.name].append(events[column.name])
        for label in range(classes):
            own = events[LABEL] == label
            for column in summed:
                values = events[column.name][own].astype(np.float64)
                sums[column.name][label] += np.nansum(values, axis=0)
                squares[column.name][label] += np.nansum(values**2, axis=0)
                counts[column.name][label] += (~np.isnan(values)).sum(axis=0)
                if column in images:
                    held = singles[column.name]
                    held[label] = np.concatenate([held[label], values])[:SINGLE_EVENTS]
    all_labels = np.concatenate(labels)
    numbers = {name: np.maximum(count, 1) for name, count in counts.items()}
    means = {name: total / numbers[name] for name, total in sums.items()}
    errors = {
        name: np.sqrt(np.maximum(squares[name] / numbers[name] - mean**2, 0) / numbers[name])
        for name, mean in means.items()
    }
    values = {name: np.concatenate(pieces) for name, pieces in features.items()}
    return Sample(manifest, split, all_labels, values, means, errors, singles)


def _batches(folder: Path, manifest: Manifest, split: Split, most: int) -> Iterator[Arrays]:
    left = most
    for shard in manifest.shards:
        if shard.split != split:
            continue
        with open_shard(folder / shard.file) as parquet:
            for batch in parquet.iter_batches(batch_size=ROW_GROUP):
                yield manifest.event_schema.decode(batch.slice(0, left))
                left -= batch.num_rows
                if left <= 0:
                    return
