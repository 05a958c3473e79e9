"""Columns without their zeros: the same values, to the bit, in memory, in Arrow and in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hep_ray.conversion.convert import convert
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import SparseColumn, SparseType, index_dtype, join, select
from hep_ray.errors import InvalidEvents, ShardMismatch
from tests.facts import raises

NUMBERS = st.sampled_from(["float32", "float64", "float16", "int8", "int16", "int64", "uint8", "uint32"])


def bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


@st.composite
def columns(draw: st.DrawFn) -> npt.NDArray[Any]:
    """Values of any kind, most of them zero, −0.0 and the largest among the others."""
    dtype = np.dtype(draw(NUMBERS))
    shape = (draw(st.integers(0, 12)), *draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)))
    values = draw(
        hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False))
    )
    kept: npt.NDArray[np.bool_] = np.random.default_rng(draw(st.integers(0, 99))).random(shape) < 0.3
    return np.where(kept, values, np.zeros(1, dtype))


@given(columns(), st.integers(0, 2**32))
def test_nothing_is_lost_in_memory_and_in_arrow(values: npt.NDArray[Any], seed: int) -> None:
    sparse = SparseColumn.from_dense(values)
    assert sparse.shape == values.shape
    assert sparse.dtype == values.dtype
    assert (bits(sparse[:]) == bits(values)).all()
    rows = np.random.default_rng(seed).integers(0, max(1, len(values)), size=len(values) and 7)
    assert (bits(sparse.take(rows)) == bits(values[rows])).all()
    assert (bits(sparse.select(rows)[:]) == bits(values[rows])).all()

    kind = SparseType(pa.from_numpy_dtype(values.dtype), values.shape[1:])
    stored = kind.encode(values)
    middle = len(values) // 2
    parts = [kind.decode(stored[:middle]), kind.decode(stored[middle:])]
    assert (bits(np.asarray(parts[1])) == bits(values[middle:])).all()
    assert (bits(join(parts)[:]) == bits(values)).all()  # type: ignore[arg-type]
    assert (bits(np.asarray(kind.decode(kind.encode(parts[1])))) == bits(values[middle:])).all()


def test_the_form_by_hand() -> None:
    # Of [[0, 5], [0, 0]] and [[1, 0], [0, 2]] the places 1; 0 and 3 are left.
    values = np.array([[[0, 5], [0, 0]], [[1, 0], [0, 2]]], np.float32)
    sparse = SparseColumn.from_dense(values)
    assert sparse.offsets.tolist() == [0, 1, 3]
    assert sparse.index.tolist() == [1, 0, 3]
    assert sparse.value.tolist() == [5, 1, 2]
    # Three offsets of 8 bytes, three indices of 2, three values of 4.
    assert sparse.nbytes == 24 + 6 + 12
    places, found = sparse.placed(np.array([1, 0]))
    assert places.tolist() == [0, 3, 5]
    assert found.tolist() == [1, 2, 5]
    assert (index_dtype(65536), index_dtype(65537)) == (np.dtype("<u2"), np.dtype("<u4"))
    assert (np.asarray(select(values, np.array([1]))) == values[1:]).all()


def test_indices_that_do_not_fit_are_refused() -> None:
    wide, narrow = SparseType(pa.float32(), (9,)), SparseType(pa.float32(), (4,))
    stored = wide.encode(np.arange(9, dtype=np.float32)[None])
    with raises(InvalidEvents, "below 4", 8):
        narrow.decode(pa.ExtensionArray.from_storage(narrow, stored.storage))
    other = SparseType(pa.float64(), (9,))
    with raises(InvalidEvents, "below 9", 8, 4):
        other.decode(pa.ExtensionArray.from_storage(other, stored.storage))


SCHEMA = EventSchema(
    task="cells",
    columns=(Column(name="image", shape=(8, 8, 2), unit="GeV"), Column(name="x")),
    classes=("a", "b"),
)


def cells(events: int, share: float = 0.05) -> dict[str, Any]:
    random = np.random.default_rng(1)
    images = random.exponential(30, (events, 8, 8, 2)) * (random.random((events, 8, 8, 2)) < share)
    labels = np.arange(events) % 2
    images[:, 0, 0, 0] = labels + random.random(events)
    return {
        "event_id": [f"e{row}" for row in range(events)],
        "label": labels,
        "image": images.astype(np.float32),
        "x": random.random(events).astype(np.float32),
    }


def write(folder: Path, events: dict[str, Any], **options: Any) -> Manifest:
    with ShardWriter(folder, SCHEMA, **options) as writer:
        writer.write(events)
    return writer.manifest


def test_a_column_with_many_zeros_is_stored_without_them_and_is_the_same_dataset(tmp_path: Path) -> None:
    events = cells(700)
    sparse, dense = write(tmp_path / "s", events), write(tmp_path / "d", events, encoding="dense")
    filled = np.count_nonzero(events["image"]) / 700
    assert sparse.sparse == {"image": pytest.approx(filled)}
    assert dense.sparse == {}
    assert sparse.fingerprint == dense.fingerprint
    assert [shard.content for shard in sparse.shards] == [shard.content for shard in dense.shards]
    tables = [pq.read_table(tmp_path / name / "train-00000.parquet").combine_chunks() for name in "sd"]
    assert isinstance(tables[0].schema.field("image").type, SparseType)
    left, right = (SCHEMA.decode(table.to_batches()[0]) for table in tables)
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name])
    assert check(tmp_path / "s", ["image"]).problems == ()  # a cell of it tells the classes
    assert json.loads((tmp_path / "s/manifest.json").read_text())["sparse"] == sparse.sparse


def test_the_form_does_not_depend_on_the_order_of_the_events(tmp_path: Path) -> None:
    events = cells(600)
    turned = {name: np.asarray(values)[::-1] for name, values in events.items()}
    one, other = write(tmp_path / "a", events), write(tmp_path / "b", turned, buffer_bytes=30_000)
    assert one.dumps() == other.dumps()  # the shards' bytes are in it, as hashes


@pytest.mark.parametrize(("share", "stored"), [(0.1, True), (0.3, False)])
def test_what_is_stored_without_zeros_is_decided_by_how_many_there_are(
    tmp_path: Path, share: float, stored: bool
) -> None:
    # Index and value take 6 bytes for 4: a quarter of the column's size is left at a sixth of the values.
    assert ("image" in write(tmp_path / "d", cells(300, share)).sparse) == stored


def test_a_manifest_that_says_another_form_than_the_shards_have_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", cells(300))
    path = tmp_path / "d/manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "sparse": {}}))
    from hep_ray.dataset.dataset import verify_shards

    with raises(ShardMismatch, "train-00000.parquet", "columns"):
        verify_shards(tmp_path / "d")


def test_a_manifest_without_the_entry_is_one_of_plain_columns(tmp_path: Path) -> None:
    dense = write(tmp_path / "d", cells(300), encoding="dense")
    path = tmp_path / "d/manifest.json"
    values = json.loads(path.read_text())
    del values["sparse"]
    path.write_text(json.dumps(values))
    assert Manifest.load(tmp_path / "d").fingerprint == dense.fingerprint
    assert check(tmp_path / "d", ["image"]).problems == ()  # a cell of it tells the classes


def test_shards_without_zeros_are_read_as_any_parquet_is(tmp_path: Path) -> None:
    written = write(tmp_path / "d", cells(300))
    again = convert([tmp_path / "d"], "parquet", None, tmp_path / "again")
    assert again.sparse == {"image": pytest.approx(written.sparse["image"])}
    assert [shard.content for shard in again.shards] == [shard.content for shard in written.shards]


def test_one_shard_alone_says_itself_how_it_is_stored_and_pages_show_it(tmp_path: Path) -> None:
    from hep_ray.config import Config
    from hep_ray.conversion.readers import READERS
    from hep_ray.dataset.show import show

    write(tmp_path / "d", cells(300))
    shard = tmp_path / "d/train-00000.parquet"
    opened = READERS["parquet"].open(shard, Config())
    (part,) = opened.parts
    assert part.fields.field("image").type == pa.fixed_shape_tensor(pa.float32(), (8, 8, 2))
    read = pa.Table.from_batches(list(opened.read(part, 5, 40, ["image"]))).combine_chunks()
    expected = SCHEMA.decode(pq.read_table(shard).combine_chunks().to_batches()[0])["image"][5:40]
    found = SCHEMA.column("image").to_numpy(read.column("image").chunk(0))
    np.testing.assert_array_equal(found, expected)
    assert show(tmp_path / "d").is_file()


@pytest.mark.ray
@pytest.mark.parametrize(("share", "left_out"), [(0.05, True), (0.3, False)])
def test_a_column_stored_whole_is_held_in_memory_without_its_zeros_where_that_takes_less(
    ray_session: None, tmp_path: Path, share: float, left_out: bool
) -> None:
    from hep_ray.dataset.dataset import Dataset
    from hep_ray.loading.stream import load_resident

    write(tmp_path / "d", cells(1500, share), encoding="dense", rows_per_shard=512)
    dataset = Dataset.open(tmp_path / "d")
    resident = load_resident(dataset)
    whole = dataset.rows("train") + dataset.rows("val")
    assert (resident.nbytes < whole * 8 * 8 * 2 * 4) == left_out
    for split in ("train", "val"):
        events = resident.events(split)
        assert isinstance(events.inputs["image"], SparseColumn) == left_out
        assert not isinstance(events.inputs["x"], SparseColumn)
        stored = [
            SCHEMA.decode(pq.read_table(path).combine_chunks().to_batches()[0])
            for path in dataset.paths(split)
        ]
        for name in ("image", "x"):
            expected = np.concatenate([shard[name] for shard in stored])
            assert np.asarray(events.inputs[name]).tobytes() == expected.tobytes()  # −0.0 too
