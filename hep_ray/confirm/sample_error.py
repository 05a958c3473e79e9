"""What the finite test split adds to the error of a difference: by bootstrap over events, on the kept scores."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np

from hep_ray.confirm.confirmation import ConfirmedRun, Contender
from hep_ray.data.events import EventSchema
from hep_ray.metrics import classification_metrics
from hep_ray.metrics.inference import bootstrap_interval
from hep_ray.training.testing import read_scores

RESAMPLES = 200
"""Bootstrap samples; their standard error is known to about 1/√(2 · 200) = 5 %."""
MOST_EVENTS = 10_000
"""Events that are resampled; of more, this many are taken and the error scaled by √(taken/all)."""
FEWEST_OF_A_CLASS = 20
"""Below this, a bootstrap sample may lack a class, of which no metric is defined."""


def sample_error(
    folder: Path, schema: EventSchema, left: Contender, right: Contender, metric: str
) -> float | None:
    """Standard error of the difference of two contenders that comes from the finite test split.

    Both are judged on the same events, so these are drawn together; within each contender the metric is averaged
    over its runs. The error stands beside that of the seeds and is not part of any interval over seeds.

    Args:
        folder: of the confirmation.
        schema: of the dataset.
        left: one contender.
        right: the other.
        metric: `test_accuracy` or another of `classification_metrics`.

    Returns:
        The error; None for `test_loss`, which the scores do not give, and where a class has fewer than 20 test events.

    Raises:
        StorageError: the scores cannot be read.
    """
    if metric == "test_loss":
        return None
    key = metric.removeprefix("test_")
    labels, of_left = _scores(folder, schema, left.runs)
    _, of_right = _scores(folder, schema, right.runs)
    taken = _some(len(labels))
    if np.bincount(labels[taken], minlength=len(schema.classes)).min() < FEWEST_OF_A_CLASS:
        return None

    def mean(labels: np.ndarray, probabilities: np.ndarray) -> float:
        runs = range(probabilities.shape[1])
        return statistics.fmean(
            classification_metrics(probabilities[:, run], labels, schema.classes, schema.signal)[key]
            for run in runs
        )

    found = bootstrap_interval(
        lambda labels, one, other: mean(labels, one) - mean(labels, other),
        labels[taken],
        of_left[taken],
        of_right[taken],
        resamples=RESAMPLES,
    )
    return found.sd * math.sqrt(len(taken) / len(labels))


def _scores(
    folder: Path, schema: EventSchema, runs: tuple[ConfirmedRun, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, runs, classes)."""
    read = [read_scores(folder / run.scores, schema) for run in runs]
    return read[0].labels, np.stack([kept.probabilities for kept in read], axis=1)


def _some(events: int) -> np.ndarray:
    """Rows of at most `MOST_EVENTS` events, drawn with a fixed seed."""
    if events <= MOST_EVENTS:
        return np.arange(events)
    return np.random.default_rng(0).choice(events, MOST_EVENTS, replace=False)
