"""Resident events: those of the shards, shared through the object store without a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import InvalidConfig, InvalidEvents, ShardMismatch, UnknownName
from tests.facts import raises


def test_the_test_split_needs_a_purpose(make_dataset: Callable[..., Path]) -> None:
    dataset = Dataset.open(make_dataset(60))
    with raises(InvalidConfig, "test", "purpose"):
        dataset.paths("test")
    assert [path.name for path in dataset.paths("test", purpose="confirm")] == ["test-00000.parquet"]
    assert [path.name for path in dataset.paths("train")] == ["train-00000.parquet"]
    assert dataset.rows("train") + dataset.rows("val") + dataset.rows("test") == 60
    for ask in (dataset.rows, dataset.paths):
        with raises(UnknownName, "'valid'", "train, val, test"):
            ask("valid")
    with raises(UnknownName, "'search'"):
        dataset.paths("test", purpose="search")  # type: ignore[arg-type]


def test_a_dataset_whose_shards_differ_is_not_opened(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(60)
    (folder / "val-00000.parquet").write_bytes(b"")
    with raises(ShardMismatch, "val-00000.parquet", "empty"):
        Dataset.open(folder)


def test_a_split_of_one_class_is_not_opened(tmp_path: Path) -> None:
    from hep_ray.conversion.shards import ShardWriter
    from hep_ray.dataset.schema import Column, EventSchema
    from hep_ray.dataset.splits import SplitRule
    from tests.dataset.of_split import split_of

    folder = tmp_path / "one"
    ids = [f"e{row}" for row in range(60)]
    labels = (split_of(ids, SplitRule()) == "val").astype(int)
    schema = EventSchema(task="toy", columns=(Column(name="x"),), classes=("a", "b"))
    with ShardWriter(folder, schema) as writer:
        writer.write({"event_id": ids, "label": labels, "x": np.arange(60, dtype=np.float32)})
    with raises(InvalidEvents, folder, "'train'", "{'a': 37, 'b': 0}"):
        Dataset.open(folder)


@pytest.mark.ray
@pytest.mark.parametrize("local_bytes", [2**28, 0])
def test_resident_events_are_those_of_the_shards_in_order(
    ray_session: None, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, local_bytes: int
) -> None:
    import ray

    from hep_ray.loading import stream
    from hep_ray.loading.batches import BatchRequest
    from hep_ray.loading.stream import load_resident

    monkeypatch.setattr(stream, "LOCAL_BYTES", local_bytes)  # of 0 Ray Data reads what is small, too
    dataset = Dataset.open(make_dataset(400, rows_per_shard=64))
    resident = load_resident(dataset)
    for split in ("train", "val"):
        events = resident.events(split)
        images, labels = [], []
        for path in dataset.paths(split):
            decoded = dataset.schema.decode(pq.read_table(path).combine_chunks().to_batches()[0])
            images.append(decoded["image"])
            labels.append(decoded["label"])
        np.testing.assert_array_equal(events.inputs["image"], np.concatenate(images))
        np.testing.assert_array_equal(events.labels, np.concatenate(labels))
        assert not events.inputs["image"].flags.writeable
        assert not events.inputs["image"].flags.owndata
        assert sum(len(batch) for batch in events.batches(BatchRequest(32, shuffle=True))) == dataset.rows(
            split
        )
    assert resident.fingerprint == dataset.fingerprint
    assert len(ray.cloudpickle.dumps(resident)) < 4096
    with raises(InvalidConfig, "'test'", "train, val"):
        resident.events("test")
    with raises(InvalidConfig, "purpose"):
        load_resident(dataset, ("train", "test"))


@pytest.mark.ray
def test_streamed_events_are_those_that_one_process_reads_in_the_same_order(
    ray_session: None, make_dataset: Callable[..., Path]
) -> None:
    import dataclasses

    import ray
    import torch

    from hep_ray.loading.batches import BatchRequest
    from hep_ray.loading.shards import read_locally
    from hep_ray.loading.stream import load_resident, open_events, plan_ingest, with_streams

    dataset = Dataset.open(make_dataset(4000, rows_per_shard=1024))
    # A row group takes 0.9 MB and a stream holds eight blocks: blocks of one group, four of them in training.
    ingest = with_streams(plan_ingest(dataset.manifest, [{"CPU": 2}], "streaming", 0.008), 1)
    data = open_events(dataset, ingest)
    assert len(ray.cloudpickle.dumps(data)) < 16_384
    stream = data.events("train")
    alone = dataclasses.replace(stream, reader=read_locally)
    for rank in range(2):
        request = BatchRequest(100, seed=5, epoch=1, shuffle=True, rank=rank, world_size=2)
        pairs = list(zip(stream.batches(request), alone.batches(request), strict=True))
        assert len(pairs) == -(-(len(stream) // 2) // 100)
        for left, right in pairs:
            assert torch.equal(left.inputs["image"], right.inputs["image"])
            assert torch.equal(left.labels, right.labels)
    resident = load_resident(dataset).events("val")
    whole = BatchRequest(512, sharded=True)
    for left, right in zip(data.events("val").batches(whole), resident.batches(whole), strict=True):
        assert torch.equal(left.inputs["image"], right.inputs["image"])
        assert left.inputs["image"].is_contiguous()
    test = open_events(dataset, ingest, ["test"], purpose="confirm").events("test")
    kept = load_resident(dataset, ["test"], purpose="confirm").events("test")
    assert (test.labels == kept.labels).all()
    assert torch.equal(next(test.batches(whole)).labels, next(kept.batches(whole)).labels)
    with raises(InvalidConfig, "purpose"):
        open_events(dataset, ingest, ["test"])
    begun = stream.batches(BatchRequest(100))
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    for path in dataset.paths("train"):
        path.unlink()
    with raises(ShardMismatch, "train-00000.parquet", "No such file"):
        next(data.events("train").batches(BatchRequest(100)))
    with raises(InvalidConfig, "'test'", "train, val"):
        data.events("test")


def test_blocks_that_come_otherwise_than_one_by_one_and_whole_are_refused(
    make_dataset: Callable[..., Path],
) -> None:
    import pyarrow as pa

    from hep_ray.errors import StreamBroken
    from hep_ray.loading.shards import RowGroups, cut, packed
    from hep_ray.loading.stream import BLOCK, _checked, _only

    dataset = Dataset.open(make_dataset(400, rows_per_shard=64))
    shards = [shard for shard in dataset.manifest.shards if shard.split == "train"]
    groups, image = RowGroups.of(dataset, "train"), [dataset.schema.column("image")]
    plan = cut(groups, [(0, dataset.rows("train"))], 1)
    assert [plan.rows(block) for block in range(len(plan))] == [shard.rows for shard in shards]

    def block(number: int, rows: int | None = None) -> pa.Table:
        table = plan.read(number, image)[:rows]
        return table.append_column(BLOCK, pa.array([number] * len(table), pa.int64()))

    assert _checked(block(1), 1, plan).column_names == ["label", "image"]
    assert len(_checked(block(1), 1, plan)) == shards[1].rows
    joined = pa.concat_tables([block(0), block(1)])
    for broken, number in (
        (block(1), 0),
        (block(0, rows=-1), 0),
        (joined, 0),
        (block(0).drop_columns([BLOCK]), 0),
    ):
        with raises(StreamBroken, "block 0"):
            _checked(broken, number, plan)
    assert _only(np.array([7])) == 7
    for ids in ([], [1, 2]):
        with raises(StreamBroken, len(ids), ids):
            _only(np.array(ids))
    lost = iter([plan.read(0, image)])
    with raises(StreamBroken, shards[0].rows, dataset.rows("train")):
        packed(lost, dataset.rows("train"), image)


def test_a_row_beyond_the_chunks_of_a_column_is_refused_not_made_up() -> None:
    from hep_ray.loading.shards import ChunkedColumn

    chunks = ChunkedColumn((np.arange(3.0), np.arange(3.0, 5.0)), np.array([0, 3, 5]))
    assert chunks.take(np.array([0, 2, 3, 4])).tolist() == [0.0, 2.0, 3.0, 4.0]
    with raises(IndexError, "2 to 5"):
        chunks.take(np.array([2, 5]))
