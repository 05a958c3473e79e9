"""Images that a schema file makes of lists: η–φ histograms of a jet's constituents, of towers, tracks or cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.conversion.labels import BatchOrigin
from hep_ray.conversion.readers import BATCH_BYTES
from hep_ray.conversion.schema_file import ColumnRule, ImageRule, LayerRule
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.histogram import FloatArray, wrapped
from hep_ray.dataset.schema import Column
from hep_ray.errors import InvalidEvents, InvalidSchema

Rows = npt.NDArray[np.int64]


def image_column(rule: ColumnRule, image: ImageRule, fields: Sequence[pa.Field], shown: str) -> Column:
    """Return the column that an image rule makes of a part's fields.

    Args:
        rule: of the column.
        image: of it.
        fields: that it reads.
        shown: name of the part, for messages.

    Raises:
        InvalidSchema: the place of the items of a layer is in no field of lists or arrays.
    """
    lists = {field.name for field in fields if _is_list(field.type)}
    for layer in image.layers:
        for name, text in (("eta", layer.eta), ("phi", layer.phi)):
            if not lists & {*Expression(text).names}:
                raise InvalidSchema(
                    f"{name} = '{text}' of the image '{rule.name}' reads no lists of {shown}, one item for each "
                    f"constituent: {', '.join(sorted(lists)) or 'none of the fields that it reads'} are lists"
                )
    along_phi, along_eta = image.pixels
    axes = rule.axes or (("phi", "eta") if image.grid.whole_circle else ("delta_phi", "delta_eta"))
    shape = (along_eta, along_phi) if _eta_first(axes) else (along_phi, along_eta)
    channels = sum(len(layer.sums) for layer in image.layers)
    return Column(
        name=rule.name,
        shape=(*shape, channels),
        dtype=rule.dtype,
        unit=rule.unit,
        elements=rule.elements,
        element_units=rule.element_units,
        axes=axes,
    )


def _is_list(kind: pa.DataType) -> bool:
    """Return whether a field is of lists of numbers, or of arrays with one axis."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return len(kind.shape) == 1
    one = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(one and not pa.types.is_nested(kind.value_type))


def _eta_first(axes: Sequence[str]) -> bool:
    return axes[0].removeprefix("delta_") == "eta"


def rows_at_once(rules: Sequence[ColumnRule], columns: Mapping[str, Column]) -> int | None:
    """Return how many events' images are made at a time, so that they take about `BATCH_BYTES`; None without images."""
    sizes = [int(np.prod(columns[rule.name].shape)) for rule in rules if rule.image is not None]
    return max(1, BATCH_BYTES // (8 * sum(sizes))) if sizes else None


def images_of_lists(
    raw: Mapping[str, Any], rule: ColumnRule, image: ImageRule, origin: BatchOrigin, rows: Rows
) -> FloatArray:
    """Return the images of N events, in the order of the column's axes and channels.

    Args:
        raw: field → values of the N events.
        rule: of the column.
        image: of it.
        origin: of the batch.
        rows: (N,) numbers of the events in it, for messages.

    Raises:
        InvalidSchema: an item is not one number.
        InvalidEvents: lists of an event differ in length, a value is not finite, or an image is empty; file and row are
            named.
        InvalidConfig: an expression does not suit its fields.
    """
    layers = [_items(raw, rule, layer, origin, rows) for layer in image.layers]
    centres = _centres(layers[0], image.centre, len(rows))
    grid = image.grid
    parts = [
        grid.sums(event, eta - centres[0][event], phi - centres[1][event], values, len(rows))
        for event, eta, phi, values in layers
    ]
    made = np.concatenate(parts, axis=-1)
    empty = ~made.any(axis=(1, 2, 3))
    if empty.any() and not image.allow_empty:
        row = int(empty.argmax())
        raise InvalidEvents(
            f"the image '{rule.name}' of {origin.at(rows[row])} is empty, and {int(empty.sum()) - 1} more of "
            f"{len(rows)} events read together: no item with a value lies within phi_range {list(image.phi_range)} and "
            f"eta_range {list(image.eta_range)}: widen them, subtract the jet's axis from eta and phi, leave such "
            "events out by `selection`, or state allow_empty = true"
        )
    return made.swapaxes(1, 2) if rule.axes and _eta_first(rule.axes) else made


Items = tuple[npt.NDArray[np.intp], FloatArray, FloatArray, FloatArray]
"""Of all items of a layer: number of the event (M,), η (M,), φ (M,) and values (M, C)."""


def _items(
    raw: Mapping[str, Any], rule: ColumnRule, layer: LayerRule, origin: BatchOrigin, rows: Rows
) -> Items:
    """Return the items of a layer, event by event."""
    import awkward as ak

    texts = (layer.eta, layer.phi, *layer.sums)
    names = dict.fromkeys(name for text in texts for name in Expression(text).names)
    known = {name: _listed(raw, name, rule, origin, rows) for name in names}
    lists = {name: ak.num(values, axis=1) for name, values in known.items() if isinstance(values, ak.Array)}
    first = next(iter(lists))
    for name, lengths in lists.items():
        if (differ := np.asarray(lengths != lists[first])).any():
            row = int(differ.argmax())
            raise InvalidEvents(
                f"the fields of the image '{rule.name}' have lists of different lengths in one event: '{first}' "
                f"{lists[first][row]} and '{name}' {lengths[row]} in {origin.at(rows[row], name)}"
            )
    lengths = np.asarray(lists[first], dtype=np.intp)
    event = np.repeat(np.arange(len(rows)), lengths)
    flat: list[FloatArray] = []
    for text in texts:
        value, _ = ak.broadcast_arrays(Expression(text).evaluate(known), known[first])
        found = np.asarray(ak.to_numpy(ak.flatten(value, axis=1)), dtype=np.float64)
        if found.ndim != 1:
            raise InvalidSchema(
                f"'{text}' of the image '{rule.name}' has {found.shape[1:]} values for an item; an item is one number: "
                "state one of them, such as cells[0]"
            )
        if not (finite := np.isfinite(found)).all():
            item = int(finite.argmin())
            raise InvalidEvents(
                f"'{text}' of the image '{rule.name}' is {found[item]} for an item of {origin.at(rows[event[item]])}: "
                "leave such events out by `selection`, such as all(isfinite(…)), or items by where(isfinite(…), …, 0)"
            )
        flat.append(found)
    eta, phi, *sums = flat
    return event, eta, phi, np.stack(sums, axis=-1)


def _listed(raw: Mapping[str, Any], name: str, rule: ColumnRule, origin: BatchOrigin, rows: Rows) -> Any:
    """Return a field as awkward where it has items: lists as they are, arrays up to the count of their items."""
    import awkward as ak

    values = raw[name]
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return values
    room = values.shape[1]
    counts = np.full(len(rows), room) if rule.count is None else np.asarray(raw[rule.count])
    wrong = (counts < 0) | (counts > room) | (counts != counts.astype(np.int64))
    if wrong.any():
        row = int(wrong.argmax())
        raise InvalidEvents(
            f"'{rule.count}' counts the items of '{name}', which has room for {room}; it is {counts[row]} in "
            f"{origin.at(rows[row], str(rule.count))}"
        )
    counts = counts.astype(np.int64)
    return ak.unflatten(values[np.arange(room) < counts[:, None]], counts)


def _centres(items: Items, centre: str, events: int) -> tuple[FloatArray, FloatArray]:
    """Return η and φ of the middle of each image, (N,) each: 0 where an event has no item with a value above 0."""
    event, eta, phi, values = items
    eta_0, phi_0 = np.zeros(events), np.zeros(events)
    if centre == "none":
        return eta_0, phi_0
    weight = values[:, 0]
    order = np.lexsort((-weight, event))  # by event, the largest value first
    places, firsts = np.unique(event[order], return_index=True)
    hardest = order[firsts]
    some = weight[hardest] > 0
    eta_0[places[some]], phi_0[places[some]] = eta[hardest[some]], phi[hardest[some]]
    if centre == "weighted":
        total = np.bincount(event, weight, events)
        positive = total > 0
        for start, far in ((eta_0, eta - eta_0[event]), (phi_0, wrapped(phi - phi_0[event]))):
            mean = np.bincount(event, weight * far, events)
            start[positive] += mean[positive] / total[positive]
    return eta_0, phi_0
