"""An event's split depends on its id and the rule alone."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.dataset.splits import SplitRule, event_hashes
from hep_ray.errors import InvalidConfig
from tests.dataset.of_split import split_of
from tests.facts import raises

IDS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=40, unique=True)


def test_split_worked_out_by_hand() -> None:
    # u = first 64 bits of BLAKE2b-128(salt, NUL, id), little-endian, over 2^64;
    # train: u < 0.6, val: 0.6 <= u < 0.75, test: the rest.
    rule = SplitRule()
    ids = [f"event-{number}" for number in range(200)]
    expected = []
    for event_id in ids:
        digest = hashlib.blake2b(f"hep_ray\0{event_id}".encode(), digest_size=16).digest()
        uniform = int.from_bytes(digest[:8], "little") / 2**64
        expected.append("train" if uniform < 0.6 else "val" if uniform < 0.75 else "test")
    assert split_of(ids, rule).tolist() == expected
    assert set(expected) == {"train", "val", "test"}


@given(ids=IDS, more=IDS)
def test_an_event_keeps_its_split_when_events_are_added_or_reordered(ids: list[str], more: list[str]) -> None:
    alone = dict(zip(ids, split_of(ids, SplitRule()), strict=True))
    crowd = [*more, *reversed(ids)]
    together = dict(zip(crowd, split_of(crowd, SplitRule()), strict=True))
    assert all(together[event_id] == split for event_id, split in alone.items())


def test_fractions_are_met_within_five_standard_deviations() -> None:
    # 20,000 events: train 12,000 +- sqrt(20000 * 0.6 * 0.4) = 69; val 3,000 +- 50; test 5,000 +- 61.
    splits = split_of([f"run1/{number}" for number in range(20_000)], SplitRule()).tolist()
    assert abs(splits.count("train") - 12_000) < 5 * 69
    assert abs(splits.count("val") - 3_000) < 5 * 50
    assert abs(splits.count("test") - 5_000) < 5 * 61


def test_another_salt_gives_another_division() -> None:
    ids = [f"event-{number}" for number in range(100)]
    assert (split_of(ids, SplitRule()) != split_of(ids, SplitRule(salt="other"))).any()


def test_a_split_of_fraction_zero_gets_nothing() -> None:
    splits = split_of(map(str, range(2000)), SplitRule(train=0.8, val=0.2, test=0.0))
    assert set(splits.tolist()) == {"train", "val"}


def test_no_events_have_no_hashes() -> None:
    assert event_hashes([], "salt").shape == (0, 2)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5)])
def test_fractions_that_are_no_division_are_refused(fractions: tuple[float, float, float]) -> None:
    train, val, test = fractions
    with raises(InvalidConfig, train, val, test):
        SplitRule(train=train, val=val, test=test)


IDS = [f"event-{number}" for number in range(2000)]


@pytest.mark.parametrize("folds", [3, 4, 5, 10])
def test_over_all_folds_each_event_is_tested_once_and_the_part_after_it_validates(folds: int) -> None:
    splits = [split_of(IDS, SplitRule.of_fold(fold, folds, "salt")).tolist() for fold in range(folds)]
    for event in zip(*splits, strict=True):
        assert event.count("test") == event.count("val") == 1
        assert event[event.index("test") - 1] == "val"  # this part validates the fold before
    for split in splits:
        assert abs(split.count("test") - len(IDS) / folds) < 5 * (len(IDS) / folds) ** 0.5


def test_parts_are_slices_of_the_hash_that_decides_other_splits() -> None:
    before = split_of(IDS, SplitRule(salt="salt"))
    last = split_of(IDS, SplitRule.of_fold(3, 4, "salt"))
    assert [one == "test" for one in before] == [one == "test" for one in last]


def test_folds_that_cannot_be_are_refused() -> None:
    for fold, folds in ((0, 2), (5, 5), (-1, 5)):
        with raises(InvalidConfig, folds):
            SplitRule.of_fold(fold, folds, "salt")
    with raises(InvalidConfig, 0.15):
        SplitRule(folds=5)
    with raises(InvalidConfig, "expression"):
        SplitRule(train=0.6, val=0.2, test=0.2, folds=5, train_where="x > 0")
