"""Events that stay in their shards: the batches of those in memory, in bounded blocks, in an order of (seed, epoch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidConfig, ShardMismatch
from hep_ray.loading.batches import Batch, BatchRequest, Events, EventWeights
from hep_ray.loading.shards import ReadPlan, RowGroups, ShardStream, cut, read_locally
from tests.facts import raises

SCHEMA = EventSchema(
    task="cells",
    columns=(
        Column(name="image", shape=(8, 8, 2)),
        Column(name="wave", shape=(300,)),  # large, and without zeros
        Column(name="row"),
        Column(name="w"),
    ),
    classes=("a", "b"),
    weight="w",
)
ROWS = 3000


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Events, ShardStream]:
    """The training split in memory and as a stream of blocks of two row groups; `row` tells events apart."""
    random = np.random.default_rng(0)
    images = random.random((ROWS, 8, 8, 2)) * (random.random((ROWS, 8, 8, 2)) < 0.05)
    folder = tmp_path_factory.mktemp("data") / "d"
    with ShardWriter(
        folder, SCHEMA, SplitRule(train=0.9, val=0.05, test=0.05), rows_per_shard=1024
    ) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(ROWS)],
                "label": random.integers(0, 2, ROWS),
                "image": images.astype(np.float32),
                "wave": random.random((ROWS, 300)).astype(np.float32),
                "row": np.arange(ROWS, dtype=np.float32),
                "w": random.random(ROWS).astype(np.float32),
            }
        )
    dataset = Dataset.open(folder)
    groups = RowGroups.of(dataset, "train")
    counts = np.array([*dataset.manifest.class_counts("train").values()], float)
    stream = ShardStream(SCHEMA, groups, ("image", "wave", "row", "w"), {None: counts}, groups_per_block=2)
    events = stream.head(ROWS)
    sums = {None: counts, "w": events.class_sums(2, "w"), "|w|": events.class_sums(2, "w", sizes=True)}
    return events, dataclasses.replace(stream, sums=sums)


def same(left: Batch, right: Batch) -> bool:
    return (
        all(torch.equal(left.inputs[name], right.inputs[name]) for name in left.inputs)
        and torch.equal(left.labels, right.labels)
        and (left.weights is None) == (right.weights is None)
        and (left.weights is None or torch.equal(left.weights, right.weights))  # type: ignore[arg-type]
    )


def rows(batches: Any) -> list[int]:
    return [int(row) for batch in batches for row in batch.inputs["row"]]


def test_in_their_order_they_are_the_batches_of_events_in_memory(both: tuple[Events, ShardStream]) -> None:
    events, stream = both
    weights = EventWeights(np.array([0.5, 2.0]), "w")
    for source in (lambda one: one, lambda one: one.select(("image", "wave", "row"), weights)):
        held, read = source(events), source(stream)
        assert len(held) == len(read) > 2 * 1024
        pairs = list(zip(held.batches(BatchRequest(100)), read.batches(BatchRequest(100)), strict=True))
        assert all(same(left, right) for left, right in pairs)
        assert [*pairs[0][0].inputs] == [*pairs[0][1].inputs]
        assert len(pairs[-1][0]) == len(held) % 100
    assert (stream.labels == events.labels).all()
    assert (stream.class_sums(2) == events.class_sums(2)).all()
    assert (stream.head(700).inputs["row"] == events.head(700).inputs["row"]).all()
    with raises(InvalidConfig, "2 classes", "'row'"):
        stream.class_sums(2, "row")


@given(
    size=st.integers(1, 900), ranks=st.integers(1, 5), seed=st.integers(0, 2**32), epoch=st.integers(0, 99)
)
def test_ranks_share_a_shuffled_pass_equally_and_without_overlap(
    both: tuple[Events, ShardStream], size: int, ranks: int, seed: int, epoch: int
) -> None:
    stream = both[1].select(("row",))

    def share(rank: int) -> list[int]:
        request = BatchRequest(size, seed=seed, epoch=epoch, shuffle=True, rank=rank, world_size=ranks)
        return rows(stream.batches(request))

    shares = [share(rank) for rank in range(ranks)]
    assert {len(one) for one in shares} == {len(stream) // ranks}
    seen = [row for one in shares for row in one]
    assert len(set(seen)) == len(seen) >= len(stream) - ranks + 1
    assert share(0) == shares[0]


@given(size=st.integers(20, 900), ranks=st.integers(1, 5))
def test_sharded_batches_are_those_of_events_in_memory(
    both: tuple[Events, ShardStream], size: int, ranks: int
) -> None:
    events, stream = both
    for rank in range(ranks):
        request = BatchRequest(size, rank=rank, world_size=ranks, sharded=True)
        read, held = (source.select(("row",)).batches(request) for source in (stream, events))
        assert all(same(left, right) for left, right in zip(read, held, strict=True))


def test_a_pass_mixes_within_its_blocks_and_takes_the_row_groups_in_an_order_of_its_own(
    both: tuple[Events, ShardStream],
) -> None:
    stream = both[1].select(("row",))
    place = {int(row): number for number, row in enumerate(rows(stream.batches(BatchRequest(512))))}
    passes = [
        [place[row] for row in rows(stream.batches(BatchRequest(100, seed=seed, epoch=epoch, shuffle=True)))]
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(one) for one in passes}) == 4
    orders = set()
    for one in passes:
        # Every block is of two row groups, or less at the end, and its rows are mixed.
        groups = [row // 512 for row in one]
        piece = [set(groups[start : start + 1024]) for start in range(0, len(one), 1024)]
        full = [found for found in piece if len(found) == 2]
        assert len(full) >= 1
        assert one[:1024] != sorted(one[:1024])
        orders.add(tuple(dict.fromkeys(groups)))
    assert len(orders) > 1


@pytest.mark.parametrize("count", [1, 700, 1024, ROWS])
def test_the_first_events_come_in_batches_with_one_block_in_memory(
    both: tuple[Events, ShardStream], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, stream = both
    weights = EventWeights(np.array([1.0, 2.0]), "w")
    chosen = stream.select(["image", "row"], weights)
    request, read, whole = BatchRequest(100), [], ReadPlan.read

    def counted(plan: ReadPlan, block: int, columns: Sequence[Column]) -> pa.Table:
        read.append(plan.rows(block))
        return whole(plan, block, columns)

    monkeypatch.setattr(ReadPlan, "read", counted)
    expected = list(events.select(["image", "row"], weights).head(count).batches(request))
    found = []
    for batch in chosen.head_batches(count, request):
        assert sum(read) - sum(map(len, found)) <= 1024 + len(batch)  # no block is read before it is needed
        found.append(batch)
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert all(same(left, right) for left, right in zip(found, expected, strict=True))
    assert max(read) <= 1024


def test_the_values_of_an_event_stay_together_when_it_is_shuffled(both: tuple[Events, ShardStream]) -> None:
    events, stream = both
    place = {int(row): number for number, row in enumerate(np.asarray(events.inputs["row"]))}
    seen = 0
    for batch in stream.batches(BatchRequest(300, shuffle=True)):  # spans the chunks of a block, and blocks
        expected = [place[int(row)] for row in batch.inputs["row"]]
        for name in ("image", "wave"):
            assert (batch.inputs[name].numpy() == np.asarray(events.inputs[name])[expected]).all()
        assert (batch.labels.numpy() == events.labels[expected]).all()
        seen += len(batch)
    assert seen == len(events)


def test_no_more_than_a_block_is_read_ahead_of_its_use_and_reading_ends_with_the_pass(
    both: tuple[Events, ShardStream],
) -> None:
    read: list[int] = []
    closed: list[bool] = []

    def reader(plan: ReadPlan, columns: Sequence[Column]) -> Generator[pa.Table, None, None]:
        try:
            for table in read_locally(plan, columns):
                read.append(len(table))
                yield table
        finally:
            closed.append(True)

    batches = dataclasses.replace(both[1], reader=reader).batches(BatchRequest(100, shuffle=True))
    next(batches)
    assert len(read) == 1
    assert read[0] <= 1024
    batches.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_blocks_by_hand() -> None:
    # Groups of 512, 512 and 100 rows in two shards; rows 500 to 1100 are 12 of the first, the second, and 76.
    groups = RowGroups(("a", "b"), np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([512, 512, 100]))
    plan = cut(groups, [(500, 1100)], 2)
    assert plan.slices.tolist() == [[0, 0, 0, 500, 512], [0, 0, 1, 0, 512], [1, 1, 0, 0, 76]]
    assert len(plan) == 2
    assert len(cut(groups, [], 2)) == 0


def test_a_shard_that_vanished_or_is_another_is_named(
    both: tuple[Events, ShardStream], make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    stream = both[1]
    lost = dataclasses.replace(stream.groups, paths=("nowhere.parquet",) * len(stream.groups.paths))
    with raises(ShardMismatch, "nowhere.parquet"):
        dataclasses.replace(stream, groups=lost).head(10)
    small = make_dataset(60) / "train-00000.parquet"
    other = dataclasses.replace(stream.groups, paths=(str(small),) * len(stream.groups.paths))
    with raises(ShardMismatch, small, 512):
        dataclasses.replace(stream, groups=other).head(600)
    with raises(ShardMismatch, small, "'image'"):
        dataclasses.replace(stream, groups=other).head(10)
