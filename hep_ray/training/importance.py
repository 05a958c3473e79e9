"""Ask what a trained model looks at: how much worse it is where one input is another event's, and so tells nothing.

Permutation importance: Breiman, Machine Learning 45 (2001) 5, section 10; for any model, Fisher, Rudin and Dominici,
arXiv:1801.01489. Of inputs that tell the same each can stand for the other, and both come out unimportant.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch, BatchRequest, Events, to_tensor
from hep_ray.losses import Loss
from hep_ray.metrics import classification_metrics, larger_is_better
from hep_ray.metrics.event_values import event_values
from hep_ray.models import Model
from hep_ray.training.evaluation import BATCH, Evaluation, evaluate

MOST_ELEMENTS = 64
"""Values of a vector that are permuted one by one; what is larger, such as an image or a list, is permuted whole."""
REPEATS = 5


@dataclass(frozen=True)
class Input:
    """Part of the inputs that is permuted together.

    Attributes:
        column: of the events.
        place: of a vector's value; None where the column is permuted as a whole.
        name: in words: `met`, `features.pt`, `image`.
    """

    column: str
    place: int | None
    name: str


@dataclass(frozen=True)
class Importance:
    """Importance of one input.

    Attributes:
        name: of the input.
        loss: how much worse the metric is without it, in the metric's units; negative where it is better by chance.
        error: statistical, of events and permutations.
    """

    name: str
    loss: float
    error: float


def inputs_of(columns: Sequence[Column]) -> list[Input]:
    """Return what is permuted: scalars, values of vectors of up to 64 values, and whole columns of any other shape."""
    found = []
    for column in columns:
        if column.lists or len(column.shape) != 1 or column.shape[0] > MOST_ELEMENTS:
            found.append(Input(column.name, None, column.name))
            continue
        for place in range(column.shape[0]):
            own = f".{column.elements[place]}" if column.elements else f"[{place}]"
            found.append(Input(column.name, place, column.name + own))
    return found


def permutation_importance(
    model: Model,
    loss: Loss,
    events: Events,
    schema: EventSchema,
    metric: str = "auc",
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    half: bool = False,
) -> tuple[float, list[Importance]]:
    """Return a metric of a model, and the importance of each of its inputs, the largest first.

    The error is that of the mean over events of what an event's part in the metric changes, averaged over the
    permutations; the events being the same with and without the input, their common fluctuation cancels. Where a class
    has too few events for that, it is of the permutations alone.

    Args:
        model: on the CPU.
        loss: gives probabilities.
        events: that it was not trained on, with the columns that it reads, and their weights in metrics if they have
            some; they are exchanged without regard to their weights.
        schema: of the events.
        metric: key of a metric without its split, or `loss`.
        repeats: permutations of each input.
        seed: of the permutations.
        half: run the model in bfloat16.

    Raises:
        InvalidConfig: the metric does not follow from scores, or there is no permutation.
    """
    if repeats < 1:
        raise InvalidConfig(f"an importance needs at least one permutation, got {repeats}")
    request, random = BatchRequest(BATCH), np.random.default_rng(seed)
    before = evaluate(model, loss, events.batches(request), half=half)
    whole = _value(before, schema, metric)
    direction = larger_is_better(f"val_{metric}")
    sign = -1.0 if direction is False else 1.0
    found = []
    for one in inputs_of([schema.column(name) for name in model.columns]):
        results = [
            evaluate(model, loss, _permuted(events, one, random.permutation(len(events)), request), half=half)
            for _ in range(repeats)
        ]
        worse = [sign * (whole - _value(result, schema, metric)) for result in results]
        found.append(
            Importance(one.name, float(np.mean(worse)), _error(before, results, worse, schema, metric))
        )
    return whole, sorted(found, key=lambda one: -one.loss)


def _permuted(
    events: Events, one: Input, order: npt.NDArray[np.intp], request: BatchRequest
) -> Iterator[Batch]:
    for rows in request.rows(len(events)):
        batch = events.batch(rows, "cpu")
        other = to_tensor(events.inputs[one.column], order[rows], "cpu")
        if one.place is not None:
            mixed = batch.inputs[one.column].clone()
            mixed[:, one.place] = other[:, one.place]
            other = mixed
        yield dataclasses.replace(batch, inputs={**batch.inputs, one.column: other})


def _value(result: Evaluation, schema: EventSchema, metric: str) -> float:
    if metric == "loss":
        return result.loss
    found = classification_metrics(
        result.probabilities,
        result.labels,
        schema.classes,
        schema.signal,
        result.log_odds,
        result.weights,
        only=metric,
    )
    if metric not in found:
        raise InvalidConfig(
            f"an importance is the loss of a metric that follows from scores; '{metric}' does not: take auc"
        )
    return found[metric]


def _error(
    before: Evaluation,
    results: Sequence[Evaluation],
    worse: Sequence[float],
    schema: EventSchema,
    metric: str,
) -> float:
    values = [
        event_values(
            metric,
            one.labels,
            one.probabilities,
            one.log_odds,
            schema.classes,
            schema.signal,
            one.losses,
            one.weights,
        )
        for one in (before, *results)
    ]
    known = [one for one in values if one is not None]
    if len(known) < len(values):
        return float(np.std(worse, ddof=1) / math.sqrt(len(worse))) if len(worse) > 1 else 0.0
    change = known[0] - np.mean(known[1:], axis=0)
    return float(change.std(ddof=1) / math.sqrt(len(change)))
