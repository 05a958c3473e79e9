"""Ask what moves a network's answer: integrated gradients, by captum.

Sundararajan, Taly and Yan, arXiv:1703.01365, equation 1: the gradient of the log-odds along the straight line from a
baseline to the event, integrated, for each value of the inputs. What the values of an event contribute sums to what its
log-odds have more than the baseline's (their proposition 1). The baseline is an empty image, and the mean of any other
value: of items of lists that of all items. What is missing, or an absent item, stays so and contributes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.losses import Loss
from hep_ray.models import Model
from hep_ray.training.importance import inputs_of

STEPS = 32
"""Points of the Gauss-Legendre rule at which a gradient is taken."""
BATCH = 64
AT_ONCE = 128
"""Points, of all events of a batch, that pass through the network together."""
MATRIX, CUBE = 2, 3
"""Axes of an image of one channel, and of several."""


@dataclass(frozen=True)
class Contribution:
    """How much one input moves the log-odds.

    Attributes:
        name: of the input: `met`, `features.pt`, `image`; of an image or a list all its values together.
        size: mean over events of what it contributes, without its sign.
        error: statistical, of that mean.
    """

    name: str
    size: float
    error: float


@dataclass(frozen=True)
class Attributions:
    """Integrated gradients of some events.

    Attributes:
        contributions: of each input, the largest first.
        maps: image → (classes, *shape) float64, the mean over the events of each class, with its sign.
        moved: mean over events of what the log-odds have more than the baseline's, without its sign.
        missed: mean over events of what the contributions' sum misses of that, without its sign.
        events: that were asked for.
    """

    contributions: tuple[Contribution, ...]
    maps: dict[str, npt.NDArray[np.float64]]
    moved: float
    missed: float
    events: int


def is_image(column: Column) -> bool:
    """Return whether a column holds images, (φ, η) or (φ, η, channels); a matrix of named columns is a sequence."""
    axes = len(column.shape)
    return not column.lists and (axes == CUBE or (axes == MATRIX and not column.elements))


def integrated_gradients(
    model: Model, loss: Loss, events: Events, schema: EventSchema, *, steps: int = STEPS
) -> Attributions:
    """Return what each input of a network contributes to the log-odds of the signal, in units of the log-odds.

    Where no class is the signal, they are those of each event's own class. Events count alike, whatever they weigh.

    Args:
        model: a network on the CPU, which computes here in float32.
        loss: gives log-odds.
        events: of every class, with the columns that the model reads.
        schema: of the events.
        steps: points of the integral.

    Raises:
        InvalidConfig: the answer has no gradient in a column that the model reads.
        InvalidEvents: a gradient is not finite.
    """
    from captum.attr import IntegratedGradients

    columns = [schema.column(name) for name in model.columns]
    centres = [_centre(events, column) for column in columns]
    place = schema.classes.index(schema.signal) if schema.signal else None

    def odds(*given: torch.Tensor) -> torch.Tensor:
        *values, labels = given
        found = loss.log_odds(model(*values))
        return found[:, place] if place is not None else found.gather(1, labels[:, None])[:, 0]

    model.eval()
    method = IntegratedGradients(odds)
    parts: list[list[npt.NDArray[np.float64]]] = []
    rises: list[npt.NDArray[np.float64]] = []
    for rows in BatchRequest(BATCH).rows(len(events)):
        batch = events.batch(rows, "cpu")
        given = tuple(batch.inputs[column.name].float() for column in columns)
        base = tuple(
            torch.where(torch.isnan(values), values, centre)
            for values, centre in zip(given, centres, strict=True)
        )
        try:
            found = method.attribute(
                given, base, additional_forward_args=batch.labels, n_steps=steps, internal_batch_size=AT_ONCE
            )
        except RuntimeError as exc:
            names = ", ".join(model.columns)
            raise InvalidConfig(f"the model's answer has no gradient in all of {names}: {exc}") from None
        with torch.no_grad():
            more = odds(*given, batch.labels) - odds(*base, batch.labels)
        parts.append([_told(one, values) for one, values in zip(found, given, strict=True)])
        rises.append(more.double().numpy())
    rise = np.concatenate(rises)
    whole = [
        [one[number].reshape(len(one[number]), -1).sum(axis=1) for one in parts]
        for number in range(len(columns))
    ]
    total = np.sum([np.concatenate(one) for one in whole], axis=0)
    if not np.isfinite(total).all():
        raise InvalidEvents(
            f"gradients are finite; those of {int((~np.isfinite(total)).sum())} events are not"
        )
    return Attributions(
        tuple(sorted(_contributions(columns, parts), key=lambda one: -one.size)),
        {
            column.name: _map(
                np.concatenate([one[number] for one in parts]), events.labels, len(schema.classes)
            )
            for number, column in enumerate(columns)
            if is_image(column)
        },
        float(np.abs(rise).mean()),
        float(np.abs(total - rise).mean()),
        len(events),
    )


def _centre(events: Events, column: Column) -> torch.Tensor:
    """Return the baseline of a column, of the shape of an event's value or of an item: its mean, or an empty image."""
    if is_image(column):
        return torch.zeros(column.shape)
    sums, counts = torch.zeros(column.shape[-1:]), torch.zeros(column.shape[-1:])
    for rows in BatchRequest(AT_ONCE).rows(len(events)):
        values = events.batch(rows, "cpu").inputs[column.name].double()
        values = values.reshape(-1, *column.shape[-1:]) if column.lists else values
        sums = sums + values.nansum(dim=0)
        counts = counts + (~torch.isnan(values)).sum(dim=0)
    return (sums / counts.clamp(min=1)).float()


def _told(found: torch.Tensor, values: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return contributions, nothing of what is missing."""
    return torch.where(torch.isnan(values), torch.zeros_like(found), found).double().detach().numpy()


def _contributions(
    columns: Sequence[Column], parts: Sequence[Sequence[npt.NDArray[np.float64]]]
) -> list[Contribution]:
    numbers = {column.name: number for number, column in enumerate(columns)}
    found = []
    for one in inputs_of(columns):
        own = [part[numbers[one.column]] for part in parts]
        each = [
            values[:, one.place] if one.place is not None else values.reshape(len(values), -1).sum(axis=1)
            for values in own
        ]
        sizes = np.abs(np.concatenate(each))
        error = sizes.std(ddof=1) / np.sqrt(len(sizes)) if len(sizes) > 1 else 0.0
        found.append(Contribution(one.name, float(sizes.mean()), float(error)))
    return found


def _map(
    values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float64]:
    """Return the mean of (N, *shape) over the events of each class; NaN of a class without events."""
    empty = np.full(values.shape[1:], np.nan)
    return np.stack(
        [values[labels == one].mean(axis=0) if (labels == one).any() else empty for one in range(classes)]
    )
