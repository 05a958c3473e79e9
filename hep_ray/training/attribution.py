"""Ask what moves a network's answer: integrated gradients, by captum.

Sundararajan, Taly and Yan, arXiv:1703.01365, equation 1: the gradient of the log-odds along the straight line from a
baseline to the event, integrated, for each value of the inputs. What the values of an event contribute sums to what its
log-odds have more than the baseline's (their proposition 1).

The line is straight behind the scaling that a model has within, where the network proper begins: a quantile transform
of an integer is a staircase and has no gradient, and an image's share of its own sum does not change along a line from
an empty image. The baseline is an empty image, and the mean of any other scaled value: of items of lists that of all
items. What is missing, or an absent item, stays so and contributes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hep_ray.dataset.schema import LIST_AXES, Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.loading.augment import is_image
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.losses import Loss
from hep_ray.models import Model
from hep_ray.models.image import ImageInput
from hep_ray.training.config import ScaledModel
from hep_ray.training.importance import MOST_ELEMENTS, inputs_of

STEPS = 32
"""Points of the Gauss-Legendre rule at which a gradient is taken."""
FEWEST_STEPS = 8
"""Of these, of a large network."""
BATCH = 64
AT_ONCE = 128
"""Points, of all events of a batch, that pass through the network together, at most."""
MOST_BYTES = 512 * 2**20
"""Of activations that these points keep for their gradients."""
MOST_MISSED = 0.1
"""Share of what the log-odds move that the contributions may miss and still be said to add up."""
Scale = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class InputPart:
    """Values of the inputs whose contributions are summed.

    Attributes:
        column: number of the column among the model's.
        place: along the column's last axis; None where all its values are summed.
        name: in words: `met`, `features.pt`, `image`, `tracks.pt`, `parts[:, 0]`.
    """

    column: int
    place: int | None
    name: str

    def of(self, values: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Return the sums (N,) of the contributions (N, *shape) of each column."""
        own = values[self.column]
        own = own if self.place is None else own[..., self.place]
        sums: npt.NDArray[np.float64] = own.reshape(len(own), -1).sum(axis=1)
        return sums


@dataclass(frozen=True)
class Contribution:
    """How much one input moves the log-odds.

    Attributes:
        name: of the input, see `InputPart`.
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
        maps: image → (classes, *shape) float64, the mean over the events of each class, with its sign; NaN of a class
            without events.
        moved: mean over events of what the log-odds have more than the baseline's, without its sign.
        missed: mean over events of what the contributions' sum misses of that, without its sign.
        events: that were asked for.
    """

    contributions: tuple[Contribution, ...]
    maps: dict[str, npt.NDArray[np.float64]]
    moved: float
    missed: float
    events: int

    @property
    def adds_up(self) -> bool:
        """Whether the contributions add up to what the log-odds move, within a tenth of it."""
        return self.missed <= MOST_MISSED * self.moved


def parts_of(columns: Sequence[Column]) -> list[InputPart]:
    """Return whose contributions are summed: each scalar, and each value of vectors of up to 64 values.

    Of lists and of sequences whose elements have names, one of each value of an item, over all items; any other column
    is one.
    """
    found = []
    for number, column in enumerate(columns):
        items = column.lists or (
            len(column.shape) == LIST_AXES and bool(column.elements) and not is_image(column)
        )
        if not items or column.shape[-1] > MOST_ELEMENTS:
            found += [InputPart(number, one.place, one.name) for one in inputs_of([column])]
            continue
        for place in range(column.shape[-1]):
            own = f".{column.elements[place]}" if column.elements else f"[:, {place}]"
            found.append(InputPart(number, place, column.name + own))
    return found


def integrated_gradients(
    model: Model, loss: Loss, events: Events, schema: EventSchema, *, steps: int = STEPS
) -> Attributions:
    """Return what each input of a network contributes to the log-odds, in units of these.

    Of two classes they are those of the signal, of more those of each event's own class. Events count alike, whatever
    they weigh.

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
    signal = schema.signal_index if len(schema.classes) == 2 else None  # noqa: PLR2004
    parts = parts_of(columns)
    maps = _Maps(columns, len(schema.classes))
    sums: list[npt.NDArray[np.float64]] = []
    rises: list[npt.NDArray[np.float64]] = []
    model.eval()
    with _taken_apart(model) as (scale, network):

        def odds(*given: Tensor) -> Tensor:
            *values, labels = given
            found = loss.log_odds(network(*values))
            return found[:, signal] if signal is not None else found.gather(1, labels[:, None])[:, 0]

        method = IntegratedGradients(odds)
        at_once = _at_once(network, columns)
        centres = _centres(scale, events, columns)
        for rows in BatchRequest(min(BATCH, at_once)).rows(len(events)):
            labels = events.batch(rows, "cpu").labels
            given, absent = _taken(scale, events, columns, rows)
            base = [
                torch.where(no, values, centre)
                for values, no, centre in zip(given, absent, centres, strict=True)
            ]
            try:
                found = method.attribute(
                    tuple(given),
                    tuple(base),
                    additional_forward_args=labels,
                    n_steps=steps,
                    internal_batch_size=max(at_once, len(labels)),
                )
            except RuntimeError as exc:
                names = ", ".join(model.columns)
                raise InvalidConfig(f"the model's answer has no gradient in all of {names}: {exc}") from None
            with torch.no_grad():
                more = odds(*given, labels) - odds(*base, labels)
            told = [
                torch.where(no, 0.0, one.detach().double()).numpy()
                for one, no in zip(found, absent, strict=True)
            ]
            sums.append(np.stack([part.of(told) for part in parts], axis=1))
            rises.append(more.double().numpy())
            maps.take(told, labels.numpy())
    each, rise = np.concatenate(sums), np.concatenate(rises)
    total = each.sum(axis=1)
    if not np.isfinite(total).all():
        raise InvalidEvents(
            f"gradients are finite; those of {int((~np.isfinite(total)).sum())} events are not"
        )
    sizes = np.abs(each)
    errors = sizes.std(axis=0, ddof=1) / np.sqrt(len(sizes)) if len(sizes) > 1 else np.zeros(len(parts))
    contributions = [
        Contribution(part.name, float(size), float(error))
        for part, size, error in zip(parts, sizes.mean(axis=0), errors, strict=True)
    ]
    return Attributions(
        tuple(sorted(contributions, key=lambda one: -one.size)),
        maps.means,
        float(np.abs(rise).mean()),
        float(np.abs(total - rise).mean()),
        len(events),
    )


class _Maps:
    """Sums of the contributions of images over the events of each class."""

    def __init__(self, columns: Sequence[Column], classes: int) -> None:
        self._sums = {
            number: (column.name, np.zeros((classes, *column.shape)))
            for number, column in enumerate(columns)
            if is_image(column)
        }
        self._events = np.zeros(classes)

    def take(self, values: Sequence[npt.NDArray[np.float64]], labels: npt.NDArray[np.int64]) -> None:
        """Add the contributions (N, *shape) of each column."""
        self._events += np.bincount(labels, minlength=len(self._events))
        for number, (_, sums) in self._sums.items():
            np.add.at(sums, labels, values[number])

    @property
    def means(self) -> dict[str, npt.NDArray[np.float64]]:
        """Image → (classes, *shape)."""
        with np.errstate(invalid="ignore"):
            return {
                name: sums / self._events.reshape(-1, *[1] * (sums.ndim - 1))
                for name, sums in self._sums.values()
            }


@contextmanager
def _taken_apart(model: Model) -> Iterator[tuple[Scale, nn.Module]]:
    """Within, a model is what scales its inputs and the network that takes them scaled, with the same weights.

    Both leave the shape of a column as it is. Scaled are columns with scalers or imputers, and images whose values the
    network divides or transforms (`ImageConfig`).
    """
    network = model.model if isinstance(model, ScaledModel) else model
    inputs = [one for one in network.modules() if isinstance(one, ImageInput)]
    kept = [(one, one.scale, one.transform) for one in inputs]
    images = {one.column: copy.copy(one) for one in inputs}
    alike = len({(one.column, one.scale, one.transform) for one in inputs}) == len(images)

    def scale(values: Sequence[Tensor]) -> list[Tensor]:
        given = model.scaled(*values) if isinstance(model, ScaledModel) else values
        return [
            images[name](one).permute(0, 2, 3, 1) if alike and name in images else one.float()
            for name, one in zip(model.columns, given, strict=True)
        ]

    try:
        for one in inputs if alike else ():
            one.scale, one.transform = 1.0, "none"
        yield scale, network
    finally:
        for one, size, transform in kept:
            one.scale, one.transform = size, transform


def _taken(
    scale: Scale, events: Events, columns: Sequence[Column], rows: npt.NDArray[np.intp]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return scaled values of each column, and where nothing is."""
    batch = events.batch(rows, "cpu")
    stored = [batch.inputs[column.name] for column in columns]
    stored = [values if values.is_floating_point() else values.float() for values in stored]
    with torch.no_grad():
        given = scale(stored)
    absent = [
        _absent(values, column) | torch.isnan(one)
        for values, column, one in zip(stored, columns, given, strict=True)
    ]
    return given, absent


def _absent(values: Tensor, column: Column) -> Tensor:
    """Return where nothing is, of the shape of the values: what is missing, and items behind an event's last one."""
    missing = torch.isnan(values)
    if column.padding is None or not column.shape:
        return missing
    filled = missing | (values == torch.tensor(column.padding, dtype=values.dtype))
    empty = filled.reshape(*filled.shape[:2], -1).all(dim=2)
    behind = empty.flip(1).long().cumprod(dim=1).flip(1).bool()
    return missing | behind.reshape(*behind.shape, *[1] * (values.ndim - 2))


def _centres(scale: Scale, events: Events, columns: Sequence[Column]) -> list[Tensor]:
    """Return the baseline of each column, of the shape of an event's value or of an item, scaled."""
    sums = [torch.zeros(column.shape[-1:] if column.lists else column.shape).double() for column in columns]
    counts = [torch.zeros_like(one) for one in sums]
    for rows in BatchRequest(AT_ONCE).rows(len(events)):
        for number, (values, absent) in enumerate(zip(*_taken(scale, events, columns, rows), strict=True)):
            present = torch.where(absent, 0.0, values.double()).reshape(-1, *sums[number].shape)
            sums[number] += present.sum(dim=0)
            counts[number] += (~absent).reshape(present.shape).sum(dim=0)
    means = [(total / count.clamp(min=1)).float() for total, count in zip(sums, counts, strict=True)]
    stored = events.batch(np.arange(1), "cpu").inputs
    with torch.no_grad():
        empty = scale(
            [
                torch.zeros_like(stored[column.name]) if is_image(column) else stored[column.name]
                for column in columns
            ]
        )
    return [
        image[0] if is_image(column) else mean
        for column, image, mean in zip(columns, empty, means, strict=True)
    ]


def _at_once(network: nn.Module, columns: Sequence[Column]) -> int:
    """Return how many points pass through a network together, by what one keeps for its gradients."""
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    held: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    event = [torch.zeros((1, *column.shape), requires_grad=True) for column in columns]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(*event)
    own = sum(size for size, _ in held.values())
    return max(1, min(AT_ONCE, MOST_BYTES // max(1, own)))
