"""One look of a trained model at the test split, kept as a file of scores so that there is no second."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hep_ray.data.columns import EVENT_ID, LABEL
from hep_ray.data.events import EventSchema
from hep_ray.data.source import EventSource
from hep_ray.errors import CorruptCheckpoint, NonFiniteLoss, StorageError
from hep_ray.files import whole
from hep_ray.metrics import classification_metrics
from hep_ray.training.checkpoint import BEST
from hep_ray.training.restore import restore_model
from hep_ray.training.step import evaluate
from hep_ray.training.validation import BATCH

SCORES = "test_scores.parquet"
"""Beside a trial's `best.pt`: event_id, label, and `score_<class>`, the float32 probability of each class."""
METADATA = b"hep_ray"
"""Key of the file's metadata: JSON with the `epoch` of the model and the mean `loss`."""


@dataclass(frozen=True)
class Outcome:
    """What the test split said of one model.

    Attributes:
        epoch: of the training, whose model it is.
        metrics: `test_loss` and every metric of `classification_metrics` with `test_` before its name.
    """

    epoch: int
    metrics: dict[str, float]


def evaluate_once(
    folder: Path,
    schema: EventSchema,
    events: EventSource,
    event_ids: pa.Array,
    device: torch.device | str = "cpu",
) -> Outcome:
    """Evaluate the best model of a trial; where its scores are on disk already, the model is not asked again.

    Args:
        folder: of the trial, with its `best.pt`; `test_scores.parquet` is written there, whole or not at all.
        schema: of the dataset.
        events: of the test split.
        event_ids: of the same events in the same order.
        device: where the model runs.

    Raises:
        CorruptCheckpoint: there is no whole checkpoint.
        NonFiniteLoss: the loss, or a probability, is NaN or infinite.
        StorageError: the scores on disk are not of these events and classes.
    """
    path = folder / SCORES
    if not path.exists():
        _write(path, schema, event_ids, _evaluated(folder / BEST, schema, events, device))
    labels, probabilities, facts = read_scores(path, schema)
    if not np.array_equal(labels, events.labels):
        raise StorageError(f"scores are of the events of the test split, in their order; {path} has others")
    metrics = classification_metrics(probabilities, labels, schema.classes, schema.signal)
    named = {f"test_{key}": value for key, value in metrics.items()}
    return Outcome(int(facts["epoch"]), {"test_loss": float(facts["loss"]), **named})


def read_scores(path: Path, schema: EventSchema) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels (N,) int64, probabilities (N, C) float32 in the order of the classes, and the facts beside them.

    Raises:
        StorageError: the file is not one of scores for these classes.
    """
    try:
        table = pq.read_table(path, columns=[LABEL, *_columns(schema)])
        facts = json.loads(table.schema.metadata[METADATA])
        scores = [table.column(name).to_numpy() for name in _columns(schema)]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as fault:
        raise StorageError(
            f"a file of scores has a label and {', '.join(_columns(schema))}; {path} does not: {fault}"
        ) from fault
    return table.column(LABEL).to_numpy(), np.stack(scores, axis=1), facts


def metric_keys(schema: EventSchema) -> set[str]:
    """Keys that `Outcome.metrics` will have."""
    labels = np.arange(len(schema.classes))
    sure = np.eye(len(schema.classes), dtype=np.float32)
    known = classification_metrics(sure, labels, schema.classes, schema.signal)
    return {"test_loss", *(f"test_{key}" for key in known)}


@dataclass(frozen=True)
class _Answer:
    probabilities: np.ndarray
    labels: np.ndarray
    facts: Mapping[str, float]


def _evaluated(best: Path, schema: EventSchema, events: EventSource, device: torch.device | str) -> _Answer:
    if not best.exists():
        raise CorruptCheckpoint(f"a trained model is kept for the test; {best} is not there")
    kept = restore_model(best, schema, device)
    found = events.select(kept.model.columns).batches(BATCH, device=device)
    result = evaluate(kept.model, kept.loss, found, half=kept.half)
    if not math.isfinite(result.loss) or not np.isfinite(result.probabilities).all():
        raise NonFiniteLoss(f"the loss stays finite; of {best} on the test split it is {result.loss}")
    facts = {"epoch": int(kept.metrics["epoch"]), "loss": result.loss}
    return _Answer(result.probabilities, result.labels, facts)


def _write(path: Path, schema: EventSchema, event_ids: pa.Array, answer: _Answer) -> None:
    columns = dict(zip(_columns(schema), answer.probabilities.T, strict=True))
    table = pa.table(
        {
            EVENT_ID: event_ids,
            LABEL: answer.labels,
            **{key: pa.array(value) for key, value in columns.items()},
        },
        metadata={METADATA: json.dumps(dict(answer.facts))},
    )
    with whole(path) as filling:
        pq.write_table(table, filling)


def _columns(schema: EventSchema) -> list[str]:
    return [f"score_{name}" for name in schema.classes]
