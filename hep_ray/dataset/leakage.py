"""Columns that give the class away or that are no measurement: row numbers, identifiers, weights, stand-ins.

All is worked out on a sample that the events' ids choose, of at most `LARGEST_SAMPLE` values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import EVENT_ID, IN_TEST_FILE, LABEL, Arrays, Column
from hep_ray.dataset.splits import SPLITS

Floats = npt.NDArray[np.float64]

SEPARATES = 0.999
"""AUC of a single column against the other classes above which it is told of."""
PERFECT = 0.9999
"""AUC above which a column leaves nothing to be learnt: a problem, unless somebody says that it is meant."""
LARGEST_SAMPLE = 2**23
"""Values that are held together."""
MOST_EVENTS = 20_000
"""Events of a class of a split that are looked at, at most: the error of an AUC of 0.999 is below 0.0003."""
MOST_ELEMENTS = 256
"""Elements of a column up to which each is looked at; larger ones are images."""
FEWEST_EVENTS = 20
"""Events below which nothing is said of a column."""
FEWEST_OF_CLASS = 5
FEWEST_OF_PERFECT = 50
"""Events of a class, and of the rest, from which an AUC of 1 is no luck of a good measurement."""
FEWEST_REPEATS = 3
FEWEST_VALUES = 10
"""Different values, beside one that may stand for missing ones."""
SEPARATING = "separating"
"""Kind of a finding: values of a column that do so are told at once."""
FAR = 2.0
"""A value stands far outside the others if its distance exceeds their range so many times."""

_ROW = re.compile(r"index|axis1|level_\d+|__index_level_\d+__|unnamed: ?\d+", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"(event|evt|run|lumi|lumi_?block|luminosity_?block|lumi_?section|orbit|entry|row|dsid|mc_?channel)"
    r"_?(id|no|nr|num|nb|number|idx|index)|event|evt|run|lumi|lumi_?block|luminosity_?block|lumi_?section|ls|bx|bcid|"
    r"bunch_?crossing|orbit|entry|row|id|uid|uuid|idx|number|seed|random_?seed|dsid|time_?stamp",
    re.IGNORECASE,
)
_CLEAR = re.compile(r".+_?(id|no|nr|num|number|idx|index|block|section)", re.IGNORECASE)
_WEIGHT = re.compile(r"^w$|(^|_)(wt|wgt|weights?)(_|\d*$)", re.IGNORECASE)


def row_like(name: str) -> bool:
    """Return whether a field's name is one that row numbers have, such as `index`."""
    return bool(_ROW.fullmatch(name))


def identifier_like(name: str, *, whole: bool) -> bool:
    """Return whether a field's name is that of a row number, or of run, event and such.

    Args:
        name: of the field.
        whole: whether its values are whole numbers.
    """
    return bool(_ROW.fullmatch(name) and whole) or bool(
        _IDENTIFIER.fullmatch(name) and (whole or _CLEAR.fullmatch(name))
    )


def weight_like(name: str) -> bool:
    """Return whether a field's name is that of weights, such as `Weight`, `genWeight` or `mc_weight`."""
    return bool(_WEIGHT.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)))


class Leakage:
    """Collects a sample of the events and looks for columns that are no honest features."""

    def __init__(self, manifest: Manifest) -> None:
        self._schema = manifest.event_schema
        sizes = {column: math.prod(column.shape) for column in self._schema.inputs}
        self._columns = [column for column, size in sizes.items() if size <= MOST_ELEMENTS]
        elements = sum(sizes[column] for column in self._columns)
        parts = len(SPLITS) * len(self._schema.classes)
        most = min(MOST_EVENTS, LARGEST_SAMPLE // max(1, parts * elements))
        counts = [list(manifest.class_counts(split).values()) for split in SPLITS]
        shares = np.minimum(1.0, most / np.maximum(np.array(counts, dtype=float), 1))
        self._limits = (shares * float(2**63)).astype(np.uint64)
        self._rows: list[Arrays] = []

    def add(self, events: Arrays, hashes: npt.NDArray[np.uint64], split: int) -> None:
        """Take some events of a split (0, 1 or 2), chosen by the hashes (N) of their ids."""
        if not self._columns:
            return
        labels = events[LABEL]
        known = (labels >= 0) & (labels < len(self._schema.classes))
        limits = self._limits[split][np.where(known, labels, 0)]
        taken = known & ((hashes >> np.uint64(1)) < limits)
        sample = {name: events[name][taken] for name in (LABEL, EVENT_ID, *(c.name for c in self._columns))}
        self._rows.append({**sample, "split": np.full(int(taken.sum()), split)})

    def findings(self, accepted: Collection[str] = ()) -> tuple[list[str], list[str]]:
        """Return what spoils a training, and what is worth a note; of accepted columns all is a note."""
        problems: list[str] = []
        notes: list[str] = []
        for name, sentence, grave in self._findings():
            (problems if grave and name not in accepted else notes).append(sentence)
        return problems, notes

    def _findings(self) -> Iterator[tuple[str, str, bool]]:
        """Yield column, sentence, and whether that spoils a training, column by column."""
        if not self._rows:
            return
        joined = {name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]}
        self._rows = []
        if len(joined[LABEL]) < FEWEST_EVENTS:
            return
        order = _Order(joined[EVENT_ID])
        for column in self._columns:
            values = joined[column.name].reshape(len(joined[LABEL]), -1)
            separating: list[tuple[str, bool]] = []
            told: set[tuple[str, int | str]] = set()
            for place in range(values.shape[1]):
                with np.errstate(invalid="ignore"):  # broken bytes may be signalling NaN
                    one: Floats = values[:, place].astype(np.float64)
                for what, sentence, grave in self._of(column, place, one, joined, order):
                    # Of a list each item has the same elements, of which the first is told.
                    element = (
                        what,
                        column.elements[place % len(column.elements)] if column.elements else place,
                    )
                    if what == SEPARATING:
                        separating.append((sentence, grave))
                    elif element not in told:
                        yield column.name, sentence, grave
                    told.add(element)
            if separating:  # places of an image that do so are told at once
                sentence, grave = max(separating, key=lambda one: one[1])
                others = f" So do {len(separating) - 1} more of its values." if len(separating) > 1 else ""
                yield column.name, sentence + others, grave

    def _of(
        self, column: Column, place: int, values: Floats, joined: Arrays, order: _Order
    ) -> Iterator[tuple[str, str, bool]]:
        """Yield what kind of finding it is, a sentence, and whether that spoils a training."""
        shown, name = _shown(column, place)
        labels, splits = joined[LABEL], joined["split"]
        missing, known = np.isnan(values), np.isfinite(values)
        own, among = values[known], labels[known]
        varies = len(own) > 0 and own.min() < own.max()
        kind = _kind(name, own, values, order) if varies and len(own) >= FEWEST_EVENTS else None
        if varies and (separated := self._separated(own, among, splits[known])):
            label, listed, perfect = separated
            within = [own[among == one] for one in np.unique(among)]
            if kind is None and all(len(np.unique(one)) == 1 for one in within):
                kind = "has one value in each class, as a label or the weight of a sample does"
            more = f" and {kind}" if kind else ""
            where = f", in the {len(own)} of {len(values)} events that have it" * bool(missing.any())
            text = (
                f"alone separates '{self._schema.classes[label]}' from the rest (AUC {listed}){where}{more}"
            )
            yield (
                SEPARATING,
                f"{shown} {text}: a search would report what it says. {self._remedy(column)}",
                perfect or bool(kind),
            )
        elif kind is not None:
            yield "kind", f"{shown} {kind}. {self._remedy(column)}", False
        if missing.any() and (separated := self._separated(missing * 1.0, labels, splits)):
            label, listed, perfect = separated
            text = f"separates '{self._schema.classes[label]}' from the rest (AUC {listed}): a search would report that"
            yield SEPARATING, f"whether {shown} is missing alone {text}. {self._remedy(column)}", perfect
        if varies and (sentinel := _sentinel(own)) is not None:
            value, count, low, high = sentinel
            text = (
                f"{shown} is {value:g} in {count / len(values):.2%} of the events and {low:g} to {high:g} in the "
                f"others: if {value:g} stands for a missing value, a schema file says so: "
                f'sentinels = [{value:g}], missing = "nan", missing_indicator = true'
            )
            yield "sentinel", text, False

    def _separated(
        self, values: Floats, labels: npt.NDArray[np.int64], splits: npt.NDArray[np.int64]
    ) -> tuple[int, str, bool] | None:
        """Return a class that the values tell from the others in every split, the AUCs, and whether all are 0 or 1."""
        classes = len(self._schema.classes)
        within = {name: splits == number for number, name in enumerate(SPLITS)}
        within = {name: mask for name, mask in within.items() if mask.any()}
        areas = np.array([one_vs_rest(values[mask], labels[mask], classes) for mask in within.values()])
        absent = np.isnan(areas)
        above, below = absent | (areas > SEPARATES), absent | (areas < 1 - SEPARATES)
        own = np.bincount(labels, minlength=classes)
        fewest = np.minimum(own, len(labels) - own)
        enough = fewest >= FEWEST_OF_CLASS
        telling = np.flatnonzero((above.all(axis=0) | below.all(axis=0)) & ~absent.all(axis=0) & enough)
        if not len(telling):
            return None
        label = self._schema.signal_index if self._schema.signal_index in telling else int(telling[0])
        here = areas[~absent[:, label], label]
        perfect = bool(np.abs(here - 0.5).min() > PERFECT - 0.5) and fewest[label] >= FEWEST_OF_PERFECT
        told = zip(within, areas[:, label], strict=True)
        return label, ", ".join(f"{area:.4f} in {name}" for name, area in told if not np.isnan(area)), perfect

    def _remedy(self, column: Column) -> str:
        others = [
            other.name for other in self._schema.columns if other.name not in (column.name, IN_TEST_FILE)
        ]
        without = "convert other columns"
        if others:
            without = f"hep-ray data convert … --columns {','.join(others)} leaves it out"
        accepted = f"hep-ray data check … --accept {column.name} says so"
        return f"If it is no measurement: {without}; if it is meant, as a charge may be: {accepted}"


class _Order:
    """The order of events in their files, as far as their ids end in row numbers."""

    def __init__(self, event_ids: npt.NDArray[Any]) -> None:
        groups: dict[str, list[tuple[int, int]]] = {}
        for place, event_id in enumerate(event_ids.tolist()):
            prefix, slash, row = str(event_id).rpartition("/")
            if slash and row.isascii() and row.isdigit() and len(row) < 19:  # noqa: PLR2004 (digits of int64)
                groups.setdefault(prefix, []).append((int(row), place))
        self._places = [
            np.array([place for _, place in sorted(rows)]) for rows in groups.values() if len(rows) > 1
        ]

    def counts(self, values: Floats) -> bool:
        """Return whether the values rise, or fall, with the row in every file."""
        steps = [np.diff(values[places]) for places in self._places]
        if sum(map(len, steps)) < FEWEST_EVENTS:
            return False
        return all((step > 0).all() for step in steps) or all((step < 0).all() for step in steps)


def one_vs_rest(values: Floats, labels: npt.NDArray[np.int64], classes: int) -> Floats:
    """Return the area under the ROC curve of each class against all others, with the values (N) as scores.

    Equal values count half (Mann and Whitney, 1947). NaN where a class, or the rest, has no event.
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    own = np.bincount(labels, minlength=classes).astype(float)
    sums = np.bincount(labels, weights=ranks, minlength=classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Floats = (sums - own * (own + 1) / 2) / (own * (len(labels) - own))
    return areas


def _kind(name: str, values: Floats, of_all: Floats, order: _Order) -> str | None:
    """Return what values look like that are no measurement, of those that are there and of all in their order."""
    whole = bool((values == np.floor(values)).all())
    if len(values) == len(of_all) and order.counts(of_all):
        return "counts up or down with the row of its file, as a row number or a clock does"
    if whole and len(np.unique(values)) >= SEPARATES * len(values):
        return "is another whole number in every event, as identifiers are"
    if identifier_like(name, whole=whole):
        return "is an identifier by its name"
    return "is a weight by its name" if weight_like(name) else None


def _sentinel(values: Floats) -> tuple[float, int, float, float] | None:
    """Return a repeated extreme value far outside the rest: it, how often it is there, and the range of the rest."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= FEWEST_VALUES:
        return None
    for place, rest in ((0, distinct[1:]), (-1, distinct[:-1])):
        low, high = float(rest[0]), float(rest[-1])
        value, count = float(distinct[place]), int(counts[place])
        gap = low - value if place == 0 else value - high
        of_nines = value.is_integer() and abs(value) > 9 and set(f"{abs(value):.0f}") == {"9"}  # noqa: PLR2004
        if count >= FEWEST_REPEATS and gap > (0 if of_nines else FAR * (high - low)):
            return value, count, low, high
    return None


def _shown(column: Column, place: int) -> tuple[str, str]:
    """Return an element for messages, and its own name."""
    if not column.shape:
        return f"column '{column.name}'", column.name
    if len(column.shape) == 1 and column.elements:
        return f"element '{column.elements[place]}' of column '{column.name}'", column.elements[place]
    index = ", ".join(map(str, np.unravel_index(place, column.shape)))
    element = column.elements[place % len(column.elements)] if column.elements else ""
    return f"place [{index}] of column '{column.name}'", element
