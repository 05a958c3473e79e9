"""Columns of lists: the same items in memory, in Arrow, in shards and in batches, filled up to the longest of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset, Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn, decode_lists, encode_lists, join, mask_of
from hep_ray.errors import InvalidEvents, InvalidSchema
from hep_ray.loading.batches import Batch, BatchRequest, Events, by_length
from hep_ray.loading.on_device import DeviceEvents
from hep_ray.loading.shards import (
    BLOCK_GROUPS,
    RowGroups,
    ShardStream,
    class_sums,
    read_locally,
    read_whole,
)
from tests.facts import raises

MOST = 6
LISTS = Column(name="particles", shape=(MOST, 2), elements=("pt", "eta"), lists=True)
SCHEMA = EventSchema(task="toy", columns=(LISTS, Column(name="x")), classes=("a", "b"))


def dense(lengths: list[int], seed: int = 0) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(len(lengths), MOST, 2)).astype(np.float32)
    values[np.arange(MOST) >= np.array(lengths, int).reshape(-1, 1)] = np.nan
    return values


def events_of(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "event_id": [f"e{row}" for row in range(count)],
        "label": np.arange(count) % 2,
        "x": np.arange(count, dtype=np.float32),
        "particles": dense(rng.integers(0, MOST + 1, count).tolist()),
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("lists") / "toy"
    with ShardWriter(folder, SCHEMA) as writer:
        writer.write(events_of(1500))
    return Dataset.open(folder)


@given(st.lists(st.integers(0, MOST), max_size=12), st.integers(0, 2**32))
def test_nothing_is_lost_in_memory_and_in_arrow(lengths: list[int], seed: int) -> None:
    values = dense(lengths)
    lists = ListColumn.from_dense(values, LISTS.shape)
    assert lists.lengths.tolist() == lengths
    assert lists.items.shape == (sum(lengths), 2)
    np.testing.assert_array_equal(np.asarray(lists), values)
    rows = np.random.default_rng(seed).integers(0, max(1, len(values)), size=len(values) and 7)
    np.testing.assert_array_equal(np.asarray(lists.select(rows)), values[rows])
    stored, middle = encode_lists(lists), len(values) // 2
    assert stored.type == LISTS.arrow_type
    parts = [decode_lists(stored[:middle], LISTS.shape), decode_lists(stored[middle:], LISTS.shape)]
    np.testing.assert_array_equal(np.asarray(parts[1]), values[middle:])
    np.testing.assert_array_equal(np.asarray(join(parts)), values)
    np.testing.assert_array_equal(
        np.asarray(decode_lists(encode_lists(lists[middle:]), LISTS.shape)), values[middle:]
    )


def test_some_events_are_filled_up_to_the_longest_of_them() -> None:
    lists = ListColumn.from_dense(values := dense([2, 0, 5, 1]), LISTS.shape)
    taken = lists.take(np.array([3, 0]))
    assert taken.shape == (2, 2, 2)
    np.testing.assert_array_equal(taken, values[[3, 0], :2])
    assert mask_of(taken).tolist() == [[True, False], [True, True]]
    # A batch of empty lists keeps one place, so that a model has something to be given.
    assert np.isnan(lists.take(np.array([1, 1]))).tolist() == [[[True, True]]] * 2


def test_a_list_longer_than_stated_is_no_event_of_the_dataset() -> None:
    stored = encode_lists(ListColumn.from_dense(dense([5]), LISTS.shape))
    with raises(InvalidEvents, "4", "5"):
        decode_lists(stored, (4, 2))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ((1, 0, 0), np.nan),  # an item that is there lacks a value
        ((1, 0), np.nan),  # an absent item stands before one that is there
        ((1, 1, 1), np.inf),
        ((1, 3, 1), 7.0),  # an item that is absent has a value
    ],
)
def test_what_is_neither_an_item_nor_none_is_refused(where: tuple[int, ...], value: float) -> None:
    values = dense([2, 3])
    LISTS.checked(values, np.array(["e0", "e1"]))
    values[where] = value
    with raises(InvalidEvents, "particles", "'e1'"):
        LISTS.checked(values, np.array(["e0", "e1"]))


@pytest.mark.parametrize(
    "wrong", [{"shape": (6,)}, {"dtype": "int32"}, {"axes": ("phi", "eta")}, {"shape": (6, 2, 2)}]
)
def test_lists_have_two_axes_and_floating_point_numbers(wrong: dict[str, Any]) -> None:
    with raises(InvalidSchema, "particles"):
        Column(**{"name": "particles", "shape": (6, 2), "lists": True, **wrong})


def test_shards_hold_arrow_lists_and_the_events_come_back(dataset: Dataset) -> None:
    given, found = events_of(1500), dataset.arrays("train")
    stored = pq.read_schema(dataset.paths("train")[0]).field("particles")
    assert str(stored.type).startswith("list<element: fixed_size_list<")
    rows = [int(name[1:]) for name in found["event_id"]]
    np.testing.assert_array_equal(found["particles"], given["particles"][rows])
    mean = float(mask_of(given["particles"]).sum(axis=1).mean())
    assert dataset.manifest.lengths == {"particles": pytest.approx(mean)}
    # 8 bytes of a label, 4 of x; 8 of where the list begins, and two numbers of 4 bytes an item.
    assert dataset.manifest.event_bytes == 8 + 4 + 8 + round(mean * 8)
    assert not check(dataset.folder).problems


def test_the_fingerprint_of_datasets_without_lists_is_what_it_was(tmp_path: Path) -> None:
    schema = EventSchema(task="toy", columns=(Column(name="x"),), classes=("a", "b"))
    with ShardWriter(tmp_path / "toy", schema) as writer:
        writer.write(
            {"event_id": [f"e{n}" for n in range(60)], "label": np.arange(60) % 2, "x": np.ones(60, "f4")}
        )
    # Worked out by the version before there were lists.
    assert Manifest.load(tmp_path / "toy").fingerprint == FINGERPRINT


FINGERPRINT = "d92d5af61cbb3ffdac9b65e05c870c0e00169a18f9d0f18d8b41ce467289c796"


def test_memory_stream_and_device_give_the_same_batches(dataset: Dataset) -> None:
    groups = RowGroups.of(dataset, "train")
    events = read_whole(groups, dataset.schema.columns, BLOCK_GROUPS)
    assert isinstance(events.inputs["particles"], ListColumn)
    names = ("particles", "x")
    stream = ShardStream(dataset.schema, groups, names, class_sums(dataset, "train"), 1)
    sources = (events.select(names), stream, DeviceEvents.of(events.select(names), "cpu"))
    passes = [list(source.batches(BatchRequest(70))) for source in sources]
    for batches in zip(*passes, strict=True):
        longest = max(int((~torch.isnan(batches[0].inputs["particles"][..., 0])).sum(1).max()), 1)
        for batch in batches:
            assert batch.inputs["particles"].shape == (len(batch), longest, 2)
            torch.testing.assert_close(
                batch.inputs["particles"], batches[0].inputs["particles"], equal_nan=True, rtol=0, atol=0
            )
            assert torch.equal(batch.inputs["x"], batches[0].inputs["x"])
    mixed = list(
        stream.batches(BatchRequest(700, shuffle=True))
    )  # of several blocks, filled up to one length
    assert sum(map(len, mixed)) == len(events)


def filled(batches: list[Batch]) -> int:
    """Items that batches have room for."""
    return sum(batch.inputs["particles"].shape[0] * batch.inputs["particles"].shape[1] for batch in batches)


def test_batches_of_similar_length_have_every_event_once_in_an_order_of_the_seed(dataset: Dataset) -> None:
    groups, names = RowGroups.of(dataset, "train"), ("particles", "x")
    events = read_whole(groups, dataset.schema.columns, BLOCK_GROUPS).select(names)
    stream = ShardStream(dataset.schema, groups, names, class_sums(dataset, "train"))
    request = BatchRequest(64, seed=7, shuffle=True, length_pool=8)
    for source in (events, stream, DeviceEvents.of(events, "cpu")):
        one, again = (list(source.batches(request)) for _ in range(2))
        assert sorted(torch.cat([batch.inputs["x"] for batch in one]).tolist()) == sorted(events.inputs["x"])
        assert all(
            torch.equal(*pair)
            for pair in zip(*([b.inputs["x"] for b in p] for p in (one, again)), strict=True)
        )
        other = next(iter(source.batches(dataclasses.replace(request, epoch=1))))
        assert not torch.equal(other.inputs["x"], one[0].inputs["x"])
        random = list(source.batches(dataclasses.replace(request, length_pool=1)))
        assert [len(batch) for batch in random] == [len(batch) for batch in one]
        # Lists have 0 to 6 items: a random batch has room for 6 each, of which 3 are there on average.
        assert filled(one) < 0.75 * filled(random)
    whole = list(events.batches(request))
    ranks = [
        list(events.batches(dataclasses.replace(request, batch_size=32, rank=rank, world_size=2)))
        for rank in (0, 1)
    ]
    for batch, *parts in zip(whole, *ranks, strict=False):  # two workers share the batches of one
        both = torch.cat([part.inputs["x"] for part in parts])
        assert set(both.tolist()) == set(batch.inputs["x"].tolist())


def test_a_class_of_longer_lists_is_in_every_batch_by_its_share() -> None:
    """Of 400 events every fourth is of class 1, whose lists are longer than any of class 0."""
    labels = (np.arange(400) % 4 == 0).astype(int)
    lengths = np.random.default_rng(0).integers(1, 40, 400) + 50 * labels
    order = np.random.default_rng(1).permutation(400)
    ends = [100, 200, 300, 400]
    made = by_length(order, ends, lengths, labels, 4, np.random.default_rng(2))
    assert sorted(made.tolist()) == list(range(400))
    for own in np.split(made, ends[:-1]):
        assert 24 <= labels[own].sum() <= 26
        assert np.ptp(lengths[own][labels[own] == 0]) < 16  # a quarter of 39, and a few
    # and events without lists are drawn as ever: the permutation itself
    plain = Events.from_arrays({"x": np.arange(10.0)}, np.zeros(10, int))
    drawn = plain.rows(BatchRequest(4, seed=3, epoch=5, shuffle=True, length_pool=16))
    assert np.concatenate(drawn).tolist() == np.random.default_rng((3, 5)).permutation(10).tolist()


def test_plain_arrays_are_taken_as_events() -> None:
    lists = ListColumn.from_dense(dense([2, 0, 5]), LISTS.shape)
    events = Events.from_arrays({"particles": lists}, np.array([0, 1, 1]))
    assert events.head(2).inputs["particles"].shape == (2, MOST, 2)
    (batch,) = events.head(2).batches(BatchRequest(9))
    assert batch.inputs["particles"].shape == (2, 2, 2)


@pytest.mark.ray
def test_ray_data_streams_and_holds_the_same_lists(ray_session: None, dataset: Dataset) -> None:
    from hep_ray.loading.stream import load_resident, open_events, plan_ingest, with_streams

    ingest = with_streams(plan_ingest(dataset.manifest, [{"CPU": 2}], "streaming", 0.01), 1)
    request = BatchRequest(70, seed=2, epoch=1, shuffle=True)
    stream = open_events(dataset, ingest).events("train")
    assert isinstance(stream, ShardStream)
    alone = dataclasses.replace(stream, reader=read_locally)
    for left, right in zip(stream.batches(request), alone.batches(request), strict=True):
        for name, values in left.inputs.items():
            torch.testing.assert_close(values, right.inputs[name], equal_nan=True, rtol=0, atol=0)
    resident = load_resident(dataset).events("val")
    assert isinstance(resident, Events)
    lists = resident.inputs["particles"]
    assert isinstance(lists, ListColumn)
    assert not lists.items.flags.owndata  # they lie in the object store
    np.testing.assert_array_equal(np.asarray(lists), dataset.arrays("val")["particles"])
