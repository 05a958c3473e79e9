"""More folds than the events of a class allow are refused before anything is trained, with a number that will do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hep_ray.confirm.folds import dataset_of_fold
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.empty_folds import refuse_empty_folds
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidEvents
from tests.facts import raises


def made(folder: Path, signal: int, background: int, of_group: int = 0) -> Dataset:
    """Write so many events of either class; with `of_group`, so many of a class in a row belong together."""
    rows = signal + background
    columns = (Column(name="x"), Column(name="collision", dtype="int64"))
    by = "collision" if of_group else None
    schema = EventSchema(
        task="toy",
        columns=columns,
        classes=("bkg", "sig"),
        split_by=by,
        spectators=() if by else ("collision",),
    )
    with ShardWriter(folder, schema, SplitRule(train=0.7, val=0.3, test=0)) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(rows)],
                "label": (np.arange(rows) >= background).astype(np.int64),
                "x": np.arange(rows, dtype=np.float32),
                "collision": np.arange(rows) // max(of_group, 1),
            }
        )
    return Dataset.open(folder)


def rule(folds: int, *, stratified: bool = False) -> SplitRule:
    return SplitRule.of_fold(0, folds, "hep_ray", stratified=stratified)


def test_more_folds_than_events_of_the_rarest_class(tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", signal=40, background=900)
    with raises(InvalidEvents, 500, "'sig'", 40, "--folds") as told:
        refuse_empty_folds(dataset, rule(500))
    most = int(str(told.value).rpartition("--folds ")[2])
    assert 5 < most < 40
    refuse_empty_folds(dataset, rule(most))
    # as many as there are events of it cannot be told by the number alone: the hash leaves a fold without
    with raises(InvalidEvents, 40, "'sig'"):
        refuse_empty_folds(dataset, rule(40))
    refuse_empty_folds(dataset, rule(40, stratified=True))  # one to each
    with raises(InvalidEvents, 41, "'sig'", "--folds 40"):
        refuse_empty_folds(dataset, rule(41, stratified=True))


def test_what_is_refused_is_what_the_folds_themselves_would_be(tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", signal=12, background=100)
    outcomes = {}
    for folds in (3, 8):
        rules = [SplitRule.of_fold(fold, folds, "hep_ray") for fold in range(folds)]
        try:
            for one in rules:
                dataset_of_fold(dataset, one, tmp_path / str(folds), weights=False)
        except InvalidEvents:
            outcomes[folds] = "refused"
            with raises(InvalidEvents, folds, "'sig'"):
                refuse_empty_folds(dataset, rules[0])
        else:
            outcomes[folds] = "made"
            refuse_empty_folds(dataset, rules[0])
    assert outcomes == {3: "made", 8: "refused"}


def test_groups_of_a_class_are_what_counts(tmp_path: Path) -> None:
    """Of the signal there are 1000 events of 4 collisions: of 5 folds one at least has none."""
    dataset = made(tmp_path / "d", signal=1000, background=5000, of_group=250)
    with raises(InvalidEvents, 5, "'sig'"):
        refuse_empty_folds(dataset, rule(5))
    with raises(InvalidEvents, 25, "'collision'", 24, "--folds 24"):
        refuse_empty_folds(dataset, rule(25))


def test_of_many_events_none_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(tmp_path / "d", signal=250, background=250)
    monkeypatch.setattr("hep_ray.dataset.empty_folds.hashes_of", None)  # a call of it would fail
    refuse_empty_folds(dataset, rule(5))
