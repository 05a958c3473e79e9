"""Which split an event belongs to, decided once by a hash of its id, or of its group.

The split of an event depends on nothing but its id, the rule and, where the schema has a `split_by` or the rule an
expression, its own values: it stays when rows are added or reordered, on any machine and in any process. A stratified
rule keeps the shares of each class to the event: it cuts the range of hashes where the events of each class say, and
carries these cuts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import model_validator

from hep_ray.config import Config
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.schema import IN_TEST_FILE
from hep_ray.errors import InvalidConfig

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
FEWEST_FOLDS = 3
"""One to test, one to choose the epoch by, one to learn from."""


class SplitRule(Config):
    """Fractions of the three splits; the defaults are the thesis' 75/25, validation cut out of the 75.

    Attributes:
        train: fraction of events to learn from, above 0.
        val: fraction that ranks trials.
        test: fraction read by confirm, promote and report only.
        salt: another salt gives another, equally valid division.
        train_where: expression over columns, such as `abs(eta) < 0.65`: events that fulfil it are divided
            between train and val in the proportion of their fractions, all others are test.
        folds: parts of equal fractions that take turns, see `of_fold`; None where they do not.
        fold: which part is test, from 0.
        stratified: each class has its fractions to the event, see `stratify`.
        cuts: of a stratified rule, for each class the hashes, as fractions of their range, at which the next part
            begins; empty until the events are known.

    Raises:
        InvalidConfig: a fraction is outside [0, 1], train is 0, they do not add up to 1, the expression is
            not one, the fractions are not those of the folds, or there are cuts of a rule that has none.
    """

    train: float = 0.6
    val: float = 0.15
    test: float = 0.25
    salt: str = "hep_ray"
    train_where: str | None = None
    folds: int | None = None
    fold: int = 0
    stratified: bool = False
    cuts: tuple[tuple[float, ...], ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> SplitRule:
        fractions = (self.train, self.val, self.test)
        if min(fractions) < 0 or self.train <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-9):
            raise InvalidConfig(
                f"split fractions train {self.train}, val {self.val}, test {self.test} must be at least 0, train above "
                "0, and add up to 1"
            )
        if self.train_where is not None:
            Expression(self.train_where)
        if self.folds is not None:
            one = 1 / self.folds
            if self.folds < FEWEST_FOLDS or not 0 <= self.fold < self.folds or self.train_where is not None:
                raise InvalidConfig(
                    f"fold {self.fold} of {self.folds} cannot be: there are at least {FEWEST_FOLDS}, counted from 0, "
                    "and no expression divides them"
                )
            if not all(math.isclose(part, one, abs_tol=1e-9) for part in (self.val, self.test)):
                raise InvalidConfig(
                    f"val {self.val} and test {self.test} are not one of {self.folds} folds each"
                )
        shares = self.shares
        if self.cuts and (
            not self.stratified
            or any(list(cut) != sorted(cut) or len(cut) != len(shares) for cut in self.cuts)
        ):
            raise InvalidConfig(
                f"the cuts {self.cuts} are not {len(shares)} rising ones for each class of a stratified rule"
            )
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the events at which the range of hashes is cut."""
        if self.folds is not None:
            return tuple(part / self.folds for part in range(1, self.folds))
        if self.train_where is not None:
            return (self.train / (self.train + self.val),)
        return (self.train, 1.0 if self.test == 0 else self.train + self.val)

    @property
    def by_test_file(self) -> bool:
        """Whether events of given test files are test, and others train and val."""
        return self.train_where is not None and set(Expression(self.train_where).names) == {IN_TEST_FILE}

    @property
    def without_cuts(self) -> SplitRule:
        """The rule as it is before the events are known."""
        return self.model_copy(update={"cuts": ()})

    @classmethod
    def of_fold(cls, fold: int, folds: int, salt: str, *, stratified: bool = False) -> SplitRule:
        """Return the rule by which one of equal parts is test, the next one val, and all others are train.

        Over all folds every event is in test once, and never in train or val of the same fold.

        Args:
            fold: which part is test, from 0.
            folds: how many parts there are, at least 3.
            salt: as of other rules; parts are slices of the same hash, in its order.
            stratified: each part has its share of each class to the event.

        Raises:
            InvalidConfig: there are too few folds, or no such one.
        """
        if folds < FEWEST_FOLDS:
            raise InvalidConfig(
                f"--folds must be at least {FEWEST_FOLDS}: one to test, one to validate, the others to learn from; got "
                f"{folds}"
            )
        one = 1 / folds
        return cls(
            train=1 - 2 * one, val=one, test=one, salt=salt, folds=folds, fold=fold, stratified=stratified
        )

    def fraction(self, split: Split) -> float:
        """Return the fraction of one split."""
        return float(getattr(self, split))


def event_hashes(event_ids: Iterable[str] | pa.Array, salt: str) -> npt.NDArray[np.uint64]:
    """Return two independent 64-bit hashes of every event id, of Python or Arrow, by BLAKE2b.

    Returns:
        (N, 2): the first decides the split, the second the order of rows within it.
    """
    if isinstance(event_ids, pa.Array):
        event_ids = event_ids.to_pylist()
    before, blake2b = f"{salt}\0", hashlib.blake2b
    digests = [blake2b((before + event_id).encode(), digest_size=16).digest() for event_id in event_ids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64).reshape(-1, 2)


def hashes_of(
    event_ids: Iterable[str] | pa.Array, salt: str, groups: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.uint64]:
    """Return the two hashes of every event: as `event_hashes`, but the first is that of its group where it has one.

    Events of one group are so in one split, whatever their class, and stand in it in an order of their own.

    Args:
        event_ids: N ids.
        salt: of the rule.
        groups: (N,) numbers, the values of the schema's `split_by`.
    """
    hashes = event_hashes(event_ids, salt)
    if groups is not None and len(hashes):
        values, places = np.unique(groups, return_inverse=True)
        hashes[:, 0] = event_hashes(map(written, values), salt)[places, 0]
    return hashes


def written(value: np.generic) -> str:
    """Return a number as text, the same in every dtype that holds it."""
    number = value.item()
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def split_codes(
    hashes: npt.NDArray[np.uint64],
    rule: SplitRule,
    quantities: Mapping[str, npt.NDArray[Any]] | None = None,
    labels: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.intp]:
    """Return split of every event, as indices into `SPLITS`.

    Args:
        hashes: of `hashes_of`, (N, 2).
        rule: fractions, and perhaps an expression. A stratified one without cuts divides as if it were not.
        quantities: what the expression may name, (N, ...) each; needed with one.
        labels: (N,) of the events; needed by a rule with cuts.

    Raises:
        InvalidConfig: the expression does not suit the quantities.
    """
    if rule.folds is not None:
        turn = (fold_parts(hashes, rule, labels) - rule.fold) % rule.folds
        return np.select([turn == 0, turn == 1], [2, 1], 0)
    uniform = uniform_of(hashes)
    part = _by_cuts(uniform, rule, labels) if rule.cuts else None
    if rule.train_where is not None:
        inside = Expression(rule.train_where).mask(quantities or {}, len(hashes))
        learnt = np.where(uniform < rule.train / (rule.train + rule.val), 0, 1) if part is None else part
        return np.where(inside, learnt, 2)
    edges = np.array([rule.train, rule.train + rule.val])
    if rule.test == 0:
        edges[-1] = 1.0
    return np.searchsorted(edges, uniform, side="right") if part is None else part


def fold_parts(
    hashes: npt.NDArray[np.uint64], rule: SplitRule, labels: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.intp]:
    """Return which of the equal parts of a rule of folds every event is in, from 0.

    Args:
        hashes: of `hashes_of`, (N, 2).
        rule: of a fold. A stratified one without cuts divides as if it were not.
        labels: (N,) of the events; needed by a rule with cuts.
    """
    assert rule.folds is not None
    uniform = uniform_of(hashes)
    if rule.cuts:
        return _by_cuts(uniform, rule, labels)
    return np.floor(uniform * rule.folds).astype(np.intp)


def _by_cuts(
    uniform: npt.NDArray[np.float64], rule: SplitRule, labels: npt.NDArray[Any] | None
) -> npt.NDArray[np.intp]:
    """Return the part (N,) between the cuts of its class that every event is in."""
    assert labels is not None
    parts: npt.NDArray[np.intp] = (uniform[:, None] >= np.array(rule.cuts)[labels]).sum(axis=1)
    return parts


def uniform_of(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return the hashes that decide the split as numbers in [0, 1), exactly."""
    return np.asarray((hashes[:, 0] >> np.uint64(11)) / 2.0**53)


def stratify(
    rule: SplitRule,
    hashes: npt.NDArray[np.uint64],
    labels: npt.NDArray[Any],
    classes: int,
    inside: npt.NDArray[np.bool_] | None = None,
) -> tuple[SplitRule, bool]:
    """Return a stratified rule with its cuts, by which the splits hold their fractions of each class to the event.

    Events of one hash, those of a group, stay together, so that fractions are kept to half a group. Where a group has
    events of several classes they have common cuts, and the fractions are those of all events together.

    Args:
        rule: with the fractions.
        hashes: of `hashes_of`, (N, 2), of all events, each once.
        labels: (N,) of them.
        classes: how many there are.
        inside: (N,) which fulfil the rule's expression; needed with one, and the others are test.

    Returns:
        The rule, and whether a group has events of several classes.
    """
    uniform, labels = uniform_of(hashes), np.asarray(labels)
    if inside is not None:
        uniform, labels = uniform[inside], labels[inside]
    order = np.argsort(uniform, kind="stable")
    same = uniform[order][1:] == uniform[order][:-1]
    together = bool((same & (labels[order][1:] != labels[order][:-1])).any())
    cuts = []
    for label in range(classes):
        values = np.sort(uniform if together else uniform[labels == label])
        starts = (
            np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
            if len(values)
            else np.zeros(1)
        )
        starts = np.append(starts, len(values)).astype(
            np.intp
        )  # where a part may begin: never within a group
        begins = [int(starts[np.abs(starts - share * len(values)).argmin()]) for share in rule.shares]
        cuts.append(tuple(float(values[at]) if at < len(values) else 1.0 for at in begins))
    return SplitRule.model_validate({**rule.model_dump(), "cuts": tuple(cuts)}), together
