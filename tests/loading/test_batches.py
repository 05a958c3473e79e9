"""Batches: deterministic, complete, equal and disjoint over the ranks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.loading.batches import BatchRequest, Events, LastBatch, batch_sizes
from tests.facts import raises


def events(rows: int) -> Events:
    return Events.from_arrays({"x": np.arange(rows, dtype=np.float32)[:, None]}, np.arange(rows))


def order(rows: int, batch_size: int, **options: Any) -> list[int]:
    passed = list(events(rows).batches(BatchRequest(batch_size, **options)))
    for batch in passed:
        assert torch.equal(batch.inputs["x"][:, 0], batch.labels.float())
    return [int(label) for batch in passed for label in batch.labels]


def test_without_shuffle_the_order_is_that_of_the_events() -> None:
    assert order(7, 3, seed=4, epoch=2) == list(range(7))
    assert [len(batch) for batch in events(7).batches(BatchRequest(3))] == [3, 3, 1]
    assert [len(batch) for batch in events(7).batches(BatchRequest(3, last_batch="drop"))] == [3, 3]


@given(
    rows=st.integers(1, 60),
    size=st.integers(1, 20),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 99),
)
def test_ranks_share_an_epoch_equally_and_without_overlap(
    rows: int, size: int, ranks: int, seed: int, epoch: int
) -> None:
    if rows < ranks:
        return
    shares = [
        order(rows, size, seed=seed, epoch=epoch, shuffle=True, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {rows // ranks}
    seen = [row for share in shares for row in share]
    assert len(set(seen)) == len(seen) >= rows - ranks + 1
    again = order(rows, size, seed=seed, epoch=epoch, shuffle=True, rank=0, world_size=ranks)
    assert again == shares[0]


@pytest.mark.parametrize(
    ("rows", "size", "last_batch", "sizes"),
    [
        (3009, 32, "keep", [32] * 94 + [1]),
        (3009, 32, "drop", [32] * 94),
        (
            3009,
            32,
            "share",
            [32] * 93 + [17, 16],
        ),  # 33 events; 16 is the least multiple of 1 that is half of 32
        (41, 16, "share", [16, 16, 9]),  # 9 are more than half of 16
        (38, 16, "share", [16, 10, 12]),  # 22 events; 12 = 2·6 is the least multiple of 6 that is at least 8
        (32, 16, "share", [16, 16]),
        (5, 16, "share", [5]),
        (3, 2, "share", [2, 1]),  # 1 is half of 2
    ],
)
def test_what_becomes_of_events_left_over(
    rows: int, size: int, last_batch: LastBatch, sizes: list[int]
) -> None:
    assert batch_sizes(rows, size, last_batch) == sizes
    request = BatchRequest(size, last_batch=last_batch)
    assert [len(batch) for batch in events(rows).batches(request)] == sizes
    assert request.sizes(rows) == sizes


@given(rows=st.integers(1, 300), size=st.integers(1, 40), workers=st.integers(1, 8))
def test_shared_batches_hold_every_event_and_are_cut_alike_for_any_number_of_workers(
    rows: int, size: int, workers: int
) -> None:
    sizes = batch_sizes(rows, size, "share")
    assert sum(sizes) == rows
    assert max(sizes) <= size
    assert 2 * min(sizes) >= min(size, 2 * rows)
    assert batch_sizes(rows * workers, size * workers, "share") == [workers * one for one in sizes]


@given(
    rows=st.integers(1, 60),
    size=st.integers(1, 20),
    ranks=st.integers(1, 4),
    last_batch=st.sampled_from(["keep", "share"]),
)
def test_sharded_batches_are_those_of_one_process_each_on_one_rank(
    rows: int, size: int, ranks: int, last_batch: LastBatch
) -> None:
    alone = BatchRequest(size, last_batch=last_batch)
    whole = [batch.labels.tolist() for batch in events(rows).batches(alone)]
    sharded = {}
    for rank in range(ranks):
        request = dataclasses.replace(alone, sharded=True, rank=rank, world_size=ranks)
        mine = request.counted_rows(rows)
        labels = [batch.labels.tolist() for batch in events(rows).batches(request)]
        # A rank without a batch of its own still has one to compute, whose rows do not count.
        assert labels
        if len(mine):
            assert [row for batch in labels for row in batch] == mine.tolist()
            sharded.update({rank + ranks * turn: batch for turn, batch in enumerate(labels)})
    assert [sharded[number] for number in sorted(sharded)] == whole


def test_epochs_and_seeds_differ() -> None:
    orders = {
        tuple(order(50, 10, seed=seed, epoch=epoch, shuffle=True)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_tensors_own_their_memory() -> None:
    source = np.zeros((4, 2), np.float32)
    source.flags.writeable = False
    (batch,) = Events({"x": source}, np.zeros(4, np.int64)).batches(BatchRequest(4))
    batch.inputs["x"] += 1
    assert (source == 0).all()
    assert batch.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, ["rank=2", "world_size=2"]),
        ({"batch_size": 2, "rank": -1}, ["rank=-1"]),
        ({"batch_size": 8, "last_batch": "drop"}, ["5 events", "batches of 8", "drop"]),
        ({"batch_size": 1, "world_size": 9}, ["5 events", "9 ranks"]),
        ({"batch_size": 2, "sharded": True, "shuffle": True}, ["shuffle=True"]),
    ],
)
def test_a_pass_without_batches_is_refused_at_once(options: dict[str, Any], facts: list[str]) -> None:
    with raises(InvalidConfig, *facts):
        events(5).batches(BatchRequest(**options))


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        ({}, []),
        ({"x": np.zeros((3, 2))}, [0, 1]),
        ({"x": np.zeros(2)}, [0.5, 1.0]),
        ({"x": np.zeros(2)}, [[0], [1]]),
    ],
)
def test_arrays_that_are_no_events_are_refused(inputs: dict[str, Any], labels: list[Any]) -> None:
    with pytest.raises(InvalidEvents):
        Events.from_arrays(inputs, labels)
