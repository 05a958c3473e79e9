"""One look of a trained model at the test split, kept as a file of scores so that there is no second.

The validation split is evaluated so too, of models whose mean is judged.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema
from hep_ray.dataset.variations import Variation
from hep_ray.errors import CorruptCheckpoint, NonFiniteLoss, StorageError
from hep_ray.files import whole
from hep_ray.loading.batches import BatchRequest, EventSource
from hep_ray.loading.varied import OtherEvents, judged_under
from hep_ray.metrics import classification_metrics, larger_is_better, worst_of
from hep_ray.metrics.roc import log_odds_of, mean_of
from hep_ray.training.checkpoint import BEST, restore_model
from hep_ray.training.evaluation import BATCH, UNRANKED, evaluate, with_decorrelation

Judged = Literal["val", "test"]
"""Splits of which scores are kept."""

SCORES = "test_scores.parquet"
"""Beside a trial's `best.pt`: event_id, label, `score_<class>`, the float32 probability of each class,
`log_odds_<class>`, its float64 log-odds, by which events are ranked, `loss` of the event, and `weight`, in events
expected, where events have weights; `protected`, the column that the trial is decorrelated from, where it is from one.

Files of versions before these two have the probabilities alone, and are still read. Those of a mean of models have no
`loss`, and as metadata `mean_of`, how many.
"""
SCORES_OF: dict[Judged, str] = {"test": SCORES, "val": "val_scores.parquet"}
"""Split → file of its scores."""
SCORE = "score_"
LOG_ODDS = "log_odds_"
LOSS = "loss"
WEIGHT = "weight"
PROTECTED = "protected"
METADATA = b"hep_ray"
"""Key of the file's metadata: JSON with the `epoch` of the model, the mean `loss` and `decorrelation`, λ, if any."""
DECORRELATION = "decorrelation"
MEAN_OF = "mean_of"


@dataclass(frozen=True)
class Outcome:
    """Result of one model on the test split.

    Attributes:
        epoch: of the training, whose model it is.
        metrics: `test_loss` and every metric of `classification_metrics` with `test_` before its name; with variations
            also the worst value of each, `test_worst_auc` and so on.
        variations: name → the same metrics of the events under that variation.
    """

    epoch: int
    metrics: dict[str, float]
    variations: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptScores:
    """Content of a file of scores.

    Attributes:
        event_ids: (N,) of the events; None where the file has none.
        labels: (N,) int64, the true classes.
        probabilities: (N, C) float32.
        log_odds: (N, C) float64, by which events are ranked; from the probabilities where the file has none.
        losses: (N,) of each event; None where the file has none.
        facts: `epoch` of the model, mean `loss`, and `decorrelation` where the trial is decorrelated.
        exact: whether the log-odds were kept, so that ranks do not saturate.
        weights: (N,) float64 of the events, in events expected; None where they are counted.
        protected: (N,) float64 of the column that the trial is decorrelated from; None where there is none.
    """

    event_ids: pa.ChunkedArray | None
    labels: np.ndarray
    probabilities: np.ndarray
    log_odds: np.ndarray
    losses: np.ndarray | None
    facts: dict[str, Any]
    exact: bool
    weights: np.ndarray | None = None
    protected: np.ndarray | None = None

    @property
    def decorrelation(self) -> float:
        """Return λ of the trial."""
        return float(self.facts.get(DECORRELATION, 0.0))

    def taken(self, rows: npt.NDArray[np.integer]) -> KeptScores:
        """Return the scores of some events, in this order; `facts` stay those of all."""
        losses, weights, protected = (
            None if values is None else values[rows] for values in (self.losses, self.weights, self.protected)
        )
        return dataclasses.replace(
            self,
            event_ids=None if self.event_ids is None else self.event_ids.take(pa.array(rows)),
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            log_odds=self.log_odds[rows],
            losses=losses,
            weights=weights,
            protected=protected,
        )

    def same_events(self, other: KeptScores) -> bool:
        """Return whether both are of the same events in the same order."""
        if not np.array_equal(self.labels, other.labels):
            return False
        return self.event_ids is None or other.event_ids is None or self.event_ids.equals(other.event_ids)

    def metrics(self, schema: EventSchema, split: Judged = "test") -> dict[str, float]:
        """`test_loss`, where it is known, and every metric of `classification_metrics` as `test_…`, or as `val_…`."""
        found = classification_metrics(
            self.probabilities,
            self.labels,
            schema.classes,
            schema.signal,
            self.log_odds,
            self.weights,
            protected=self.protected,
        )
        if "loss" in self.facts:
            found = with_decorrelation(float(self.facts["loss"]), found, self.decorrelation) | found
        return {f"{split}_{key}": value for key, value in found.items()}


def evaluate_once(
    folder: Path,
    schema: EventSchema,
    events: EventSource,
    event_ids: pa.Array,
    device: torch.device | str = "cpu",
    variations: Mapping[str, Variation] | None = None,
    others: Mapping[str, OtherEvents] | None = None,
    split: Judged = "test",
) -> Outcome:
    """Evaluate the best model of a trial; where its scores are on disk already, the model is not asked again.

    Args:
        folder: of the trial, with its `best.pt`; `test_scores.parquet`, or `val_scores.parquet`, is written there,
            whole or not at all, and beside it one file for each variation.
        schema: of the dataset.
        events: of the split.
        event_ids: of the same events in the same order.
        device: where the model runs.
        variations: of the events, under which the model is evaluated too.
        others: of the variations that name another dataset, the same split of it, with ids.
        split: that the events are of.

    Raises:
        CorruptCheckpoint: there is no whole checkpoint.
        NonFiniteLoss: the loss, a probability, or a log-odds is NaN or infinite.
        StorageError: the scores on disk are not of these events and classes.
    """

    def scores(
        path: Path, variation: Variation | None = None, other: OtherEvents | None = None
    ) -> KeptScores:
        if not path.exists():
            ids = event_ids if other is None else other.event_ids
            write_scores(
                path, schema, _evaluated(folder / BEST, schema, events, ids, device, variation, other, split)
            )
        kept = read_scores(path, schema)
        if not np.array_equal(kept.labels, (events if other is None else other.source).labels):
            raise StorageError(
                f"scores are of the events of the {split} split, in their order; {path} has others"
            )
        return kept

    path = folder / SCORES_OF[split]
    nominal = scores(path)
    under = {
        name: scores(varied_scores(path, name), one, (others or {}).get(name)).metrics(schema, split)
        for name, one in (variations or {}).items()
    }
    metrics = nominal.metrics(schema, split)
    return Outcome(int(nominal.facts["epoch"]), metrics | worst_metrics(metrics, under), under)


def mean_scores(several: Sequence[KeptScores]) -> KeptScores | None:
    """Return the scores of the mean of models on the same events, see `mean_of`; None where events differ.

    It has no loss; events are protected where they are alike for all models.
    """
    first = several[0]
    if not all(first.same_events(one) and _alike(first.weights, one.weights) for one in several):
        return None
    probabilities, log_odds = mean_of([(one.probabilities, one.log_odds) for one in several])
    return dataclasses.replace(
        first,
        probabilities=probabilities,
        log_odds=log_odds,
        losses=None,
        facts={MEAN_OF: len(several)},
        exact=all(one.exact for one in several),
        protected=first.protected if all(_alike(first.protected, one.protected) for one in several) else None,
    )


def _alike(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    return left is right if left is None or right is None else np.array_equal(left, right)


def worst_metrics(nominal: Mapping[str, float], under: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return `test_worst_…` of every `test_…` whose direction is known; nothing without variations.

    A metric of the user's own that is named so keeps its value.
    """
    ranking = [key for key in nominal if under and larger_is_better(key) is not None]
    found: dict[str, float] = {}
    for key in ranking:
        if (worst := worst_of(key, [nominal, *under.values()])).keys().isdisjoint(nominal):
            found |= worst
    return found


def varied_scores(path: Path, variation: str) -> Path:
    """Return the file of scores under a variation, beside that of the events as they are."""
    return path.with_name(f"{path.stem}.{variation}{path.suffix}")


def read_scores(path: Path, schema: EventSchema) -> KeptScores:
    """The scores of one model on the test split, classes in the order of the schema.

    Raises:
        StorageError: the file is not one of scores for these classes.
    """
    names = [SCORE + name for name in schema.classes]
    ranks = [LOG_ODDS + name for name in schema.classes]
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        labels = table.column(LABEL).to_numpy().astype(np.int64)
        ids = table.column(EVENT_ID) if EVENT_ID in table.column_names else None
        probabilities = np.stack([table.column(name).to_numpy() for name in names], axis=1)
        exact = all(name in table.column_names for name in ranks)
        log_odds = (
            np.stack([table.column(name).to_numpy() for name in ranks], axis=1)
            if exact
            else log_odds_of(probabilities)
        )
        losses = table.column(LOSS).to_numpy() if LOSS in table.column_names else None
        weights, protected = (
            table.column(name).to_numpy() if name in table.column_names else None
            for name in (WEIGHT, PROTECTED)
        )
        if not isinstance(facts, dict):
            raise TypeError(f"its facts are {facts!r}")
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as exc:
        raise StorageError(
            f"a file of scores has a label and {', '.join(names)}; {path} does not: {exc}"
        ) from exc
    return KeptScores(ids, labels, probabilities, log_odds, losses, facts, exact, weights, protected)


def metric_keys(schema: EventSchema) -> set[str]:
    """Keys that `Outcome.metrics` will have; those of decorrelation only where a trial is decorrelated."""
    labels = np.arange(len(schema.classes))
    sure = np.eye(len(schema.classes), dtype=np.float32)
    weights = None if schema.weight is None else np.ones(len(labels))
    known = classification_metrics(
        sure, labels, schema.classes, schema.signal, weights=weights, protected=labels.astype(np.float64)
    )
    keys = {"test_loss", "test_decorrelated_loss", *(f"test_{key}" for key in known)}
    return keys | set(
        worst_metrics(
            dict.fromkeys(keys, 0.0), {name: dict.fromkeys(keys, 0.0) for name in schema.variations}
        )
    )


def _evaluated(
    best: Path,
    schema: EventSchema,
    events: EventSource,
    event_ids: pa.Array,
    device: torch.device | str,
    variation: Variation | None,
    other: OtherEvents | None,
    split: Judged,
) -> KeptScores:
    if not best.exists():
        raise CorruptCheckpoint(f"a trained model is kept for the test; {best} is not there")
    kept = restore_model(best, schema, device)
    protected, columns = kept.config.trainer.decorrelate, kept.config.trainer.beside(kept.model.columns)
    found = judged_under(events, schema, columns, variation, other).batches(
        BatchRequest(BATCH, device=device)
    )
    result = evaluate(kept.model, kept.loss, found, half=kept.half, protected=protected)
    if not math.isfinite(result.loss) or not np.isfinite(result.probabilities).all():
        raise NonFiniteLoss(f"the loss stays finite; of {best} on the {split} split it is {result.loss}")
    if not np.isfinite(result.log_odds).all():
        raise NonFiniteLoss(f"the loss stays finite; {UNRANKED} of {best} on the {split} split")
    facts = {"epoch": int(kept.metrics["epoch"]), "loss": result.loss}
    if protected:
        facts[DECORRELATION] = 0.0 if kept.config.fitted else kept.config.training.decorrelation
    return KeptScores(
        pa.chunked_array([event_ids]),
        result.labels,
        result.probabilities,
        result.log_odds,
        result.losses,
        facts,
        True,
        result.weights,
        result.protected,
    )


def write_scores(path: Path, schema: EventSchema, kept: KeptScores) -> None:
    """Write a file of scores, see `SCORES`, whole or not at all."""
    beside = {LOSS: kept.losses, WEIGHT: kept.weights, PROTECTED: kept.protected}
    table = pa.table(
        {
            **({} if kept.event_ids is None else {EVENT_ID: kept.event_ids}),
            LABEL: kept.labels,
            **{SCORE + name: kept.probabilities[:, i] for i, name in enumerate(schema.classes)},
            **{LOG_ODDS + name: kept.log_odds[:, i] for i, name in enumerate(schema.classes)},
            **{name: values for name, values in beside.items() if values is not None},
        },
        metadata={METADATA: json.dumps(dict(kept.facts))},
    )
    with whole(path) as filling:
        pq.write_table(table, filling)
