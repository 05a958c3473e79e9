"""Tell which fold every event is in; refuse folds without an event of some class, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID, LABEL
from hep_ray.dataset.splits import FEWEST_FOLDS, SPLITS, Split, SplitRule, fold_parts, hashes_of, stratify
from hep_ray.errors import InvalidEvents

SURE = 50
"""Events of each class for each fold at which a hash leaves none without: by chance in one of 10²¹ such folds."""


def refuse_empty_folds(dataset: Dataset, rule: SplitRule, splits: Sequence[Split] = SPLITS) -> None:
    """Refuse more folds than there are groups, or events of a class, and so many that one has no event of a class.

    Each fold is judged on every class. Events are divided to see, unless each class has `SURE` times as many
    of them, or of groups, as there are folds.

    Args:
        dataset: whose events are divided.
        rule: of one of the folds.
        splits: of the dataset whose events are; the others stay out of the folds.

    Raises:
        InvalidEvents: there are too many folds; the message says how many would do.
    """
    assert rule.folds is not None
    folds, name = rule.folds, dataset.schema.split_by
    of_splits = [dataset.manifest.class_counts(split) for split in splits]
    counts = {one: sum(each[one] for each in of_splits) for one in dataset.schema.classes}
    rarest = min(counts, key=lambda one: counts[one])
    groups = None
    if name is not None:
        groups = _of_all(dataset, name, splits)
        if (different := len(np.unique(groups))) < folds:
            raise InvalidEvents(
                f"{folds} folds need at least as many groups; '{name}' has {different}, and a group stays whole: type "
                f"--folds {different} or fewer"
            )
    elif counts[rarest] >= SURE * folds:
        return
    labels = _of_all(dataset, LABEL, splits)
    if groups is not None:
        own = [len(np.unique(groups[labels == label])) for label in range(len(counts))]
        if min(own) >= SURE * folds:
            return
    hashes = hashes_of(_ids(dataset, splits), rule.salt, groups)
    absent = _absent(hashes, labels, rule, len(counts))
    if absent is None:
        return
    part, label = absent
    most = min(counts[rarest], folds)
    while most >= FEWEST_FOLDS and _absent(hashes, labels, _of_folds(rule, most), len(counts)) is not None:
        most = min(most - 1, int(most * 0.9))
    remedy = f"type --folds {most}" if most >= FEWEST_FOLDS else "there are too few for folds"
    lost = dataset.schema.classes[label]
    of_groups = "" if groups is None else f" in {len(np.unique(groups[labels == label]))} groups"
    raise InvalidEvents(
        f"fold {part + 1} of {folds} would have no event of '{lost}', of which there are {counts[lost]}{of_groups}, "
        f"and each fold is judged on every class: {remedy}"
    )


def _absent(
    hashes: NDArray[np.uint64], labels: NDArray[Any], rule: SplitRule, classes: int
) -> tuple[int, int] | None:
    """Return the first fold without an event of a class, and that class; None where each fold has all."""
    assert rule.folds is not None
    found = np.zeros((rule.folds, classes), dtype=bool)
    if rule.stratified:
        rule, _ = stratify(rule, hashes, labels, classes)
    found[fold_parts(hashes, rule, labels), labels] = True
    if found.all():
        return None
    part, label = np.argwhere(~found)[0].tolist()
    return part, label


def _of_folds(rule: SplitRule, folds: int) -> SplitRule:
    return SplitRule.of_fold(0, folds, rule.salt, stratified=rule.stratified)


def parts_of(dataset: Dataset, rule: SplitRule, splits: Sequence[Split]) -> NDArray[np.intp]:
    """Return which of the equal parts of a rule of folds every event of some splits is in, split by split, from 0.

    Args:
        dataset: whose events are divided.
        rule: of one of the folds; a stratified one divides each class of these events evenly.
        splits: of the dataset.
    """
    name = dataset.schema.split_by
    labels = _of_all(dataset, LABEL, splits)
    groups = None if name is None else _of_all(dataset, name, splits)
    hashes = hashes_of(_ids(dataset, splits), rule.salt, groups)
    if rule.stratified:
        rule, _ = stratify(rule, hashes, labels, len(dataset.schema.classes))
    return fold_parts(hashes, rule, labels)


def _ids(dataset: Dataset, splits: Sequence[Split]) -> list[str]:
    """Return the ids of the events of some splits, split by split."""
    return [one for split in splits for one in _values(dataset, EVENT_ID, split).to_pylist()]


def _of_all(dataset: Dataset, name: str, splits: Sequence[Split]) -> NDArray[Any]:
    """Return a column of numbers of the events of some splits, split by split."""
    return np.concatenate([_values(dataset, name, one).to_numpy() for one in splits if dataset.rows(one)])


def _values(dataset: Dataset, name: str, split: Split) -> pa.ChunkedArray:
    return dataset.values(name, split, purpose="confirm" if split == "test" else None)
