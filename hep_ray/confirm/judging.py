"""Two contenders on the same test events, from the scores that a confirmation kept: both noises, seeds and events."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hep_ray.confirm.confirmation import Contender
from hep_ray.dataset.events import EventSchema
from hep_ray.errors import StorageError
from hep_ray.metrics.crossed import Crossed, crossed
from hep_ray.metrics.event_values import event_values
from hep_ray.metrics.roc import Floats
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import KeptScores, read_scores


def values_of(folder: Path, schema: EventSchema, contender: Contender, metric: str) -> Floats | None:
    """Values (seeds, events) of a metric, see `event_values`.

    Args:
        folder: of the confirmation.
        schema: of the dataset.
        contender: with its runs.
        metric: of the test split, such as `test_accuracy`.

    Returns:
        None where no file of scores is there, a class has fewer than 20 events, or old files lack the loss.

    Raises:
        StorageError: scores cannot be read, or are of different events.
    """
    paths = [folder / run.scores for run in contender.runs]
    if not all(path.is_file() for path in paths):
        return None
    first: KeptScores | None = None
    found = []
    for path in paths:
        kept = read_scores(path, schema)
        if first is not None and not same_events(first, kept):
            raise StorageError(f"scores are of the same test events for every run; those of {path} are not")
        first = kept
        values = event_values(
            metric.removeprefix("test_"),
            kept.labels,
            kept.probabilities,
            kept.log_odds,
            schema.classes,
            schema.signal,
            kept.losses,
        )
        if values is None:
            return None
        found.append(values)
    return np.stack(found)


def same_events(left: KeptScores, right: KeptScores) -> bool:
    """Whether two files are of the same events in the same order."""
    if not np.array_equal(left.labels, right.labels):
        return False
    return left.event_ids is None or right.event_ids is None or left.event_ids.equals(right.event_ids)


def compared(
    left: tuple[Contender, Floats | None], right: tuple[Contender, Floats | None], *, paired: bool = True
) -> Crossed | None:
    """Left minus right with both noises; None where the values are not to be had or one seed tells nothing."""
    (one, values), (other, against) = left, right
    if values is None or against is None:
        return None
    return crossed(values, against, paired=paired, seedless=(fitted(one), fitted(other)))


def fitted(contender: Contender) -> bool:
    """Whether its model is fitted, so that no seed changes it but as it draws."""
    return TrialConfig.from_params(
        {key: value for key, value in contender.params.items() if key != "seed"}
    ).fitted
