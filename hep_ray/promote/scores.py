"""The promoted form against the confirmation: the same scores of the same test events?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hep_ray.confirm.confirmation import ConfirmedRun
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema
from hep_ray.errors import HepRayError
from hep_ray.flags import typed
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.gate import Check, check_reproduction
from hep_ray.promote.package import Package
from hep_ray.training.testing import KeptScores, read_scores

METRIC_TOLERANCE = 1e-6
"""Largest difference of a metric between the confirmation and its own scores; these are stored as float32."""


def check_scores(
    package: Package, run: ConfirmedRun, folder: Path, metric: str, dataset: Dataset, device: str
) -> tuple[Check, ...]:
    """Whether the portable form, and the recorded metric, agree with the recorded scores.

    Args:
        package: as it would be handed on.
        run: that it was made from.
        folder: of the confirmation.
        metric: of the test split, by which the confirmation judged.
        dataset: verified.
        device: where the model computes.
    """
    try:
        kept = read_scores(folder / run.scores, dataset.schema)
        tested = kept.metrics(dataset.schema)
        found = test_scores(package.build(device), dataset)
    except HepRayError as exc:
        return (Check("reproduction", False, str(exc)),)
    ids = [] if kept.event_ids is None else kept.event_ids.to_pylist()
    recorded = kept.probabilities
    if found.keys() != set(ids) or len(ids) != len(found):
        return (
            Check(
                "reproduction",
                False,
                f"the recorded scores are of {len(ids)} events, not of the {len(found)} of the test split",
            ),
        )
    scores = np.array([found[event_id][1] for event_id in ids])
    truth = np.array([found[event_id][0] for event_id in ids])
    difference = float(np.abs(scores - recorded).max())
    what = f"the portable model's scores on {device} and the confirmed ones"
    checks = [check_reproduction(what, difference, len(ids))]
    if not np.array_equal(truth, kept.labels):
        checks.append(Check("recorded metric", False, "the recorded labels are not those of the dataset"))
    elif checks[0].passed:
        checks.append(check_metric(kept, tested, run.metrics, metric, dataset.schema, folder))
    return tuple(checks)


def check_metric(
    kept: KeptScores,
    found: Mapping[str, float],
    recorded: Mapping[str, float],
    metric: str,
    schema: EventSchema,
    folder: Path,
) -> Check:
    """Whether the metric that was judged by is that of the recorded scores.

    Args:
        kept: scores of the run.
        found: their metrics.
        recorded: metrics of the run, as the confirmation tells them.
        metric: of the test split.
        schema: of the dataset.
        folder: of the confirmation.
    """
    if metric not in found:
        return Check("recorded metric", True, f"{metric} does not follow from the scores alone")
    text = f"the scores give {metric} = {found[metric]:.6g}, the confirmation says {recorded[metric]:.6g}"
    passed = abs(found[metric] - recorded[metric]) <= METRIC_TOLERANCE
    if not passed and not kept.exact:
        # Confirmations of versions before log-odds were kept ranked by float32 probabilities, many of which are 1.
        formerly = dataclasses.replace(kept, log_odds=kept.probabilities.astype(np.float64)).metrics(schema)
        if abs(formerly[metric] - recorded[metric]) <= METRIC_TOLERANCE:
            again = typed("hep-ray", "confirm", folder.parent.name, storage=folder.parent.parent)
            text += (
                f", ranked by probabilities, which saturate at 1: type `{again}`, with the flags it had, which reckons "
                "anew from these scores and trains nothing"
            )
    return Check("recorded metric", passed, text)


def test_scores(classifier: Classifier, dataset: Dataset) -> dict[str, tuple[int, npt.NDArray[np.float32]]]:
    """Event id → label and probabilities (C,), shard by shard, of the test split."""
    found: dict[str, tuple[int, npt.NDArray[np.float32]]] = {}
    for path in dataset.paths("test", purpose="promote"):
        table = pq.read_table(path).combine_chunks()
        for batch in table.to_batches():
            events = dataset.schema.decode(batch)
            scores = classifier.predict(events)
            found.update(zip(events[EVENT_ID], zip(events[LABEL].tolist(), scores, strict=True), strict=True))
    return found
