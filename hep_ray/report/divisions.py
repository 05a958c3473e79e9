"""Signal efficiency and background rejection at working points, in bins of a quantity and by kind of background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.dataset import Dataset, TestPurpose
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import LABEL, ORIGIN, EventSchema
from hep_ray.dataset.splits import Split
from hep_ray.errors import InvalidConfig
from hep_ray.metrics.roc import ROUNDING, Floats
from hep_ray.registry import check_name

AGAINST = {"abs(eta)": "|η|", "pt": "p_T", "et": "E_T"}
"""Quantities that events are divided by where a dataset has columns of these names, and what they are called."""
MOST_BINS = 8
EVENTS_OF_BIN = 150
"""Events in a bin, about, at least: of fewer there are fewer bins, two at least."""
UNEVEN = 0.05
"""Of the mean number of events of a bin: a larger difference between bins is told."""


@dataclass(frozen=True)
class Division:
    """Parts that the events of a split are divided into: bins or values of a quantity, or kinds of background.

    Attributes:
        quantity: expression whose bins or values the parts are, such as `abs(eta)`; empty where they are kinds.
        unit: of the quantity.
        edges: (B + 1,) of the bins, each without its upper edge but the last; empty of kinds and values.
        kinds: (B,) names of the kinds; empty of bins.
        part: (N,) of each event, from 0; -1 in none, such as the signal among kinds of background.
        values: (B,) of the quantity, where it has so few that each is a part; empty of bins and kinds.
    """

    quantity: str
    unit: str
    edges: Floats
    kinds: tuple[str, ...]
    part: npt.NDArray[np.int64]
    values: tuple[float, ...] = ()

    @property
    def parts(self) -> int:
        """How many there are."""
        return len(self.kinds) or len(self.values) or len(self.edges) - 1

    def words_of(self, part: int) -> str:
        """The extent of a bin, or the value that a part has."""
        low, high = self.values[part : part + 1] * 2 or self.edges[part : part + 2]
        return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"

    @property
    def divided(self) -> str:
        """How the events are divided by the quantity, and whether evenly, for a caption."""
        if self.values:
            return f"for each value of {self.words}"
        counts = np.bincount(self.part[self.part >= 0], minlength=self.parts)
        if np.ptp(counts) <= max(2.0, UNEVEN * counts.mean()):
            return f"in bins of {self.words} of equally many events"
        return f"in bins of {self.words} of {counts.min():,} to {counts.max():,} events, since some values are frequent"

    @property
    def words(self) -> str:
        """The quantity as people write it, with its unit."""
        name = AGAINST.get(self.quantity, self.quantity)
        return f"{name} [{self.unit}]" if self.unit else name


@dataclass(frozen=True)
class Passing:
    """Fractions that pass the cuts of P working points in each of B parts; of sums of weights where events have some.

    A cut is that of the whole split, whose own uncertainty is no part of these errors. They are binomial, of weighted
    events √((1 − f)² Σ_pass w² + f² Σ_fail w²)/Σw; where all or none of a part pass, that of one event more or less.

    Attributes:
        efficiency: (P, B) of the signal; NaN where a part has none.
        efficiency_error: (P, B)
        rejection: (P, B) 1/ε_b; NaN where a part has no background; of none that passes one event is taken to.
        rejection_error: (P, B)
        limit: (P, B) whether no background passes, so that the rejection is a lower bound.
        signal: (B,) events of the signal.
        background: (B,) events of the background.
    """

    efficiency: Floats
    efficiency_error: Floats
    rejection: Floats
    rejection_error: Floats
    limit: npt.NDArray[np.bool_]
    signal: npt.NDArray[np.int64]
    background: npt.NDArray[np.int64]


def passing_parts(
    division: Division,
    odds: Floats,
    is_signal: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.floating] | None,
    cuts: Sequence[float],
) -> Passing:
    """Count what passes cuts in each part of a division.

    Args:
        division: of the events.
        odds: (N,) by which they are cut: those of at least a cut pass.
        is_signal: (N,)
        weights: (N,) of the events; None counts them.
        cuts: P of them.
    """
    weight = np.ones(len(odds)) if weights is None else weights.astype(np.float64)
    passes = [odds >= cut for cut in cuts]
    efficiency, error, _, _ = _fractions(division, is_signal, weight, passes)
    false, false_error, one, of_one = _fractions(division, ~is_signal, weight, passes)
    with np.errstate(invalid="ignore"):
        limit = false < one * (1 - ROUNDING)
    rejection = 1 / np.where(limit, one, false)
    false_error = np.where(limit, of_one, false_error)
    counts = [
        np.bincount(division.part[kind & (division.part >= 0)], minlength=division.parts)
        for kind in (is_signal, ~is_signal)
    ]
    return Passing(efficiency, error, rejection, rejection**2 * false_error, limit, *counts)


def _fractions(
    division: Division,
    kind: npt.NDArray[np.bool_],
    weight: Floats,
    passes: Sequence[npt.NDArray[np.bool_]],
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the fractions (P, B) of a kind that pass in each part, and their errors; those of one event alone, too.

    One event is one of the weight Σw²/Σw, as in `RocCurve.one_event`.
    """
    inside = kind & (division.part >= 0)

    def summed(values: Floats, own: npt.NDArray[np.bool_]) -> Floats:
        return np.bincount(division.part[own], values[own], division.parts).astype(np.float64)

    total, squares = summed(weight, inside), summed(weight**2, inside)
    total = np.where(total > 0, total, np.nan)  # of nothing, or of negative weights, there is no fraction
    fraction = np.stack([summed(weight, inside & own) for own in passes]) / total
    passed = np.stack([summed(weight**2, inside & own) for own in passes])
    error = np.sqrt((1 - fraction) ** 2 * passed + fraction**2 * (squares - passed)) / total
    one = np.broadcast_to(squares / total**2, fraction.shape)
    of_one = np.sqrt(np.clip(one * (1 - one), 0, None) * squares) / total
    return fraction, np.where((passed == 0) | (passed == squares), of_one, error), one, of_one


def divisions_of(
    dataset: Dataset,
    split: Split,
    *,
    against: Sequence[str] = (),
    most: int | None = None,
    purpose: TestPurpose | None = None,
) -> tuple[Division, ...]:
    """Divide the events of a split by quantities, and its background by its kinds.

    Kinds are the classes beside the signal or, of two classes, those that the background was made of by a conversion.

    Args:
        dataset: whose columns are read, also those that no model sees.
        split: which one.
        against: expressions over columns and named elements, one value per event each; without any, those of `AGAINST`
            for which the dataset has columns.
        most: the first so many events alone.
        purpose: why the test split is read.

    Raises:
        InvalidConfig: an expression does not suit the columns, gives no single value of an event, or is named and the
            same in all events.
    """
    events = min(most or dataset.rows(split), dataset.rows(split))
    found = []
    for text in against or _known(dataset.schema):
        division = _binned(dataset, text, split, events, purpose)
        if division.parts > 1:
            found.append(division)
        elif against:  # what was not asked for is left out
            same = f"is {division.values[0]:g} in all events" if division.values else "has no finite value"
            raise InvalidConfig(
                f"--against '{text}' divides nothing: in the {split} split it {same}; name a quantity that differs "
                "among its events"
            )
    kinds = _kinds(dataset, split, events, purpose)
    return (*found, *([kinds] if kinds is not None else []))


def _known(schema: EventSchema) -> Iterator[str]:
    scalars = {column.name for column in schema.columns if not column.shape}
    yield from (text for text in AGAINST if set(Expression(text).names) <= scalars)


def _binned(dataset: Dataset, text: str, split: Split, events: int, purpose: TestPurpose | None) -> Division:
    """Divide events by a quantity: by its values, of at most `MOST_BINS`, else into bins of equally many events.

    A value that as many events have as a bin would hold is a bin of its own.
    """
    expression = Expression(text)
    read = {name: _named(dataset, name, split, events, purpose) for name in expression.names}
    values = np.asarray(expression.evaluate({name: own for name, (own, _) in read.items()}), dtype=np.float64)
    if values.shape != (events,):
        raise InvalidConfig(
            f"--against '{text}' is {values.shape[1:]} values of an event, and events are divided by one: name a "
            "scalar column or an element of one"
        )
    finite = np.isfinite(values)
    units = {unit for _, unit in read.values()}
    unit = units.pop() if len(units) == 1 else ""
    distinct = np.unique(values[finite])
    if len(distinct) <= MOST_BINS:
        part = np.where(finite, np.searchsorted(distinct, values), -1)
        return Division(text, unit, np.empty(0), (), part, tuple(distinct.tolist()))
    bins = int(np.clip(finite.sum() // EVENTS_OF_BIN, 2, MOST_BINS))
    edges = np.quantile(values[finite], np.linspace(0, 1, bins + 1))
    frequent = np.unique(edges[1:][edges[1:] == edges[:-1]])
    above = np.searchsorted(distinct, frequent, side="right")
    edges = np.unique(np.concatenate([edges, distinct[above[above < len(distinct)]]]))
    if distinct[-1] in frequent:
        edges = np.append(edges, edges[-1])
    part = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return Division(text, unit, edges, (), np.where(finite, part, -1))


def _named(
    dataset: Dataset, name: str, split: Split, events: int, purpose: TestPurpose | None
) -> tuple[npt.NDArray[np.generic], str]:
    """Return the values (N, …) of a column or of a named element of one, and their unit."""
    elements = {name: column for column in reversed(dataset.schema.columns) for name in column.elements}
    columns = elements | {column.name: column for column in dataset.schema.columns}
    check_name("column", name, columns)
    column = columns[name]
    chunks = dataset.values(column.name, split, purpose=purpose).slice(0, events).chunks
    values = np.concatenate([column.to_numpy(chunk) for chunk in chunks])
    if name == column.name:
        return values, column.unit
    return values[..., column.elements.index(name)], column.unit_of(name)


def _kinds(dataset: Dataset, split: Split, events: int, purpose: TestPurpose | None) -> Division | None:
    """Divide the background by its classes or, of a single one, by those that it was made of; None without several."""
    schema = dataset.schema
    labels = dataset.values(LABEL, split, purpose=purpose).slice(0, events).to_numpy()
    names, origin = schema.classes, labels
    if len(names) == 2:  # noqa: PLR2004 - signal and background
        column = next((one for one in schema.columns if one.name == ORIGIN and one.categories), None)
        if column is None:
            return None
        names = column.categories
        origin = dataset.values(ORIGIN, split, purpose=purpose).slice(0, events).to_numpy()
    background = labels != schema.signal_index
    present = np.unique(origin[background])
    if len(present) < 2:  # noqa: PLR2004
        return None
    part = np.where(background, np.searchsorted(present, np.clip(origin, present[0], present[-1])), -1)
    return Division("", "", np.empty(0), tuple(names[place] for place in present), part)
