"""A dataset folder is written whole or not at all, the same whatever order the events come in."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.conversion import external_sort, shards
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Manifest, verify_shards
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule
from hep_ray.errors import (
    InvalidConfig,
    InvalidEvents,
    ShardMismatch,
    StorageError,
    UnknownName,
    UnreadableInput,
)
from tests.dataset.of_split import split_of
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy", columns=(Column(name="image", shape=(2, 2, 1)), Column(name="ht")), classes=("bg", "sig")
)


def events(rows: np.ndarray) -> dict[str, Any]:
    return {
        "event_id": [f"e{row}" for row in rows],
        "label": (rows >= 150).astype(np.int64),
        "image": np.repeat(rows, 4).reshape(-1, 2, 2, 1).astype(np.float32),
        "ht": rows.astype(np.float32),
    }


def write(folder: Path, pieces: list[np.ndarray], **options: Any) -> Manifest:
    with ShardWriter(folder, SCHEMA, source={"seed": 1}, **options) as writer:
        for piece in pieces:
            writer.write(events(piece))
    return writer.manifest


def test_every_event_is_stored_once_in_its_own_split(tmp_path: Path) -> None:
    manifest = write(tmp_path / "d", [np.arange(300)], rows_per_shard=50)
    stored = []
    for shard in manifest.shards:
        table = pq.read_table(tmp_path / "d" / shard.file)
        ids = table.column("event_id").to_pylist()
        assert set(split_of(ids, SplitRule()).tolist()) == {shard.split}
        assert len(ids) == shard.rows <= 50
        assert table.column("label").to_pylist() == [int(int(event_id[1:]) >= 150) for event_id in ids]
        assert table.column("ht").to_pylist() == [float(event_id[1:]) for event_id in ids]
        stored += ids
    assert sorted(stored) == sorted(f"e{row}" for row in range(300))
    assert manifest.class_counts() == {"bg": 150, "sig": 150}
    assert sum(manifest.split_counts().values()) == 300


def test_an_encoding_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with raises(UnknownName, "'sparse'", "auto, dense"):
        write(tmp_path / "d", [np.arange(300)], encoding="sparse")
    assert not (tmp_path / "d").exists()


def test_input_sorted_by_class_is_mixed_in_every_shard(tmp_path: Path) -> None:
    manifest = write(tmp_path / "d", [np.arange(300)], rows_per_shard=50)
    full = [shard for shard in manifest.shards if shard.rows == 50]
    # 50 draws at one half: 25 +- 3.5; ten is four standard deviations away.
    assert full
    assert all(10 < shard.classes["sig"] < 40 for shard in full)


@given(
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(1, 299), max_size=5),
    buffer=st.sampled_from([1, 2000]),
)
def test_bytes_depend_neither_on_order_nor_on_pieces_nor_on_the_buffer(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int], buffer: int
) -> None:
    folder = tmp_path_factory.mktemp("order")
    reference = write(folder / "a", [np.arange(300)])
    shuffled = np.split(np.random.default_rng(seed).permutation(300), sorted(cuts))
    other = write(folder / "b", [piece for piece in shuffled if len(piece)], buffer_bytes=buffer)
    assert other == reference
    for file in (folder / "a").iterdir():
        assert file.read_bytes() == (folder / "b" / file.name).read_bytes()


def test_the_fingerprint_follows_the_content_only(tmp_path: Path) -> None:
    fingerprint = write(tmp_path / "a", [np.arange(300)]).fingerprint
    assert write(tmp_path / "elsewhere" / "b", [np.arange(300)]).fingerprint == fingerprint
    assert write(tmp_path / "c", [np.arange(299)]).fingerprint != fingerprint
    assert write(tmp_path / "d", [np.arange(300)], rule=SplitRule(salt="x")).fingerprint != fingerprint


def nothing_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        (np.arange(0), ["{'bg': 0, 'sig': 0}"]),
        (np.arange(100), ["{'bg': 100, 'sig': 0}"]),
        (np.array([1, 2, 200, 201, 2, 3]), ["'e2'"]),
        (np.array([0, 200]), ["'val'", 0.15]),
    ],
)
def test_events_that_make_no_dataset_leave_nothing_behind(
    tmp_path: Path, rows: np.ndarray, facts: list[object]
) -> None:
    with raises(InvalidEvents, *facts):
        write(tmp_path / "d", [rows])
    assert nothing_left(tmp_path)


def test_a_duplicate_in_another_run_is_found(tmp_path: Path) -> None:
    with raises(InvalidEvents, "'e7'"):
        write(tmp_path / "d", [np.arange(300), np.array([7])], buffer_bytes=1)


def test_every_event_is_read_back_once_with_few_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"read": 0}

    def counted(*arguments: Any) -> Any:
        if (chunk := read_chunk(*arguments)) is not None:
            rows["read"] += len(chunk[1])
        return chunk

    read_chunk = external_sort._chunk
    monkeypatch.setattr(external_sort, "_chunk", counted)
    reference = write(tmp_path / "a", [np.arange(4000)], rows_per_shard=50)
    rows["read"] = 0
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        pieces = np.split(np.random.default_rng(0).permutation(4000), 100)  # 300 runs
        other = write(tmp_path / "b", pieces, rows_per_shard=50, buffer_bytes=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert other == reference
    assert rows["read"] == 4000


def test_of_very_many_events_the_shards_are_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 64)
    monkeypatch.setattr(shards, "MOST_SHARDS", 10)
    few, many = (write(tmp_path / name, [np.arange(count)]) for name, count in (("a", 600), ("b", 2000)))
    assert max(shard.rows for shard in few.shards) == 64
    assert max(shard.rows for shard in many.shards) == 256


def test_small_columns_are_packed_by_what_begins_quickly_and_large_ones_and_texts_by_what_packs_well(
    tmp_path: Path,
) -> None:
    columns = (Column(name="ht"), Column(name="four", shape=(4,)), Column(name="image", shape=(6, 6, 1)))
    schema = EventSchema(task="toy", columns=columns, classes=("bg", "sig"))
    random = np.random.default_rng(0)
    with ShardWriter(tmp_path / "d", schema, SplitRule(train=1, val=0, test=0)) as writer:
        writer.write(
            {"event_id": [f"e{row}" for row in range(40)], "label": np.arange(40) % 2}
            | {one.name: random.normal(size=(40, *one.shape)).astype(np.float32) for one in columns}
        )

    group = pq.ParquetFile(tmp_path / "d" / "train-00000.parquet").metadata.row_group(0)
    leaves = [group.column(place) for place in range(group.num_columns)]
    assert {one.path_in_schema.split(".")[0]: one.compression for one in leaves} == {
        "event_id": "ZSTD", "label": "LZ4", "ht": "LZ4", "four": "LZ4", "image": "ZSTD"
    }  # fmt: skip


def test_keys_are_looked_at_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"rows_per_shard": 16, "balance": True, "drop_repeated": True}
    pieces = [np.arange(40, 1000), np.array([7, 200]), np.arange(300)]
    at_once = write(tmp_path / "a", pieces, **options)
    monkeypatch.setattr(shards, "KEYS_AT_A_TIME", 100)
    assert write(tmp_path / "b", pieces, **options) == at_once
    counts = [at_once.class_counts(split) for split in SPLITS]
    assert all(of_split["bg"] == of_split["sig"] > 0 for of_split in counts)


def test_a_failure_within_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "d", SCHEMA) as writer:
            writer.write(events(np.arange(300)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert nothing_left(tmp_path)


def test_a_dataset_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    first = write(tmp_path / "d", [np.arange(300)])
    with raises(StorageError, tmp_path / "d", "overwrite"):
        write(tmp_path / "d", [np.arange(280)])
    assert Manifest.load(tmp_path / "d") == first
    second = write(tmp_path / "d", [np.arange(280)], overwrite=True)
    assert verify_shards(tmp_path / "d") == second != first
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with raises(StorageError, tmp_path):
        write(tmp_path, [np.arange(300)], overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(StorageError, tmp_path / "file"):
        write(tmp_path / "file" / "d", [np.arange(300)])


@pytest.mark.parametrize("rows", [0, 513])
def test_shards_that_row_groups_do_not_fill_are_refused(tmp_path: Path, rows: int) -> None:
    with raises(InvalidConfig, "rows_per_shard", rows):
        ShardWriter(tmp_path / "d", SCHEMA, rows_per_shard=rows)


def add_a_copy(path: Path) -> None:
    (path.parent / "train-99999.parquet").write_bytes(path.read_bytes())


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (Path.unlink, ["train-00000.parquet", "missing"]),
        (lambda path: path.write_bytes(b""), ["train-00000.parquet", "empty"]),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), ["train-00000.parquet", "truncated"]),
        (damage_bytes, ["train-00000.parquet", "altered"]),
        (add_a_copy, ["train-99999.parquet", "extra"]),
    ],
)
def test_a_damaged_shard_is_named_with_the_reason(
    make_dataset: Callable[..., Path], damage: Callable[[Path], Any], facts: list[object]
) -> None:
    folder = make_dataset(60)
    damage(folder / "train-00000.parquet")
    with raises(ShardMismatch, *facts):
        verify_shards(folder)


def test_an_edited_manifest_is_refused(make_dataset: Callable[..., Path]) -> None:
    path = make_dataset(60) / "manifest.json"
    values = json.loads(path.read_text())
    values["split_rule"]["salt"] = "another"
    path.write_text(json.dumps(values))
    with raises(ShardMismatch, path, "fingerprint"):
        verify_shards(path.parent)


@pytest.mark.parametrize(
    ("text", "facts"),
    [("{", ["JSON"]), ("[]", ["format 2"]), ('{"format": 1}', ["format 2"]), ('{"format": 2}', ["'shards'"])],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str, facts: list[str]) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with raises(UnreadableInput, tmp_path / "manifest.json", *facts):
        Manifest.load(tmp_path)


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path: Path) -> None:
    with raises(UnreadableInput, tmp_path / "manifest.json"):
        Manifest.load(tmp_path)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    abandoned = tmp_path / ".d.0123456789ab.partial"
    abandoned.mkdir()
    (abandoned / "run-00000.arrow").write_bytes(b"torn")
    with ShardWriter(tmp_path / "d", SCHEMA) as first:
        with pytest.raises(InvalidEvents), ShardWriter(tmp_path / "d", SCHEMA):
            pass
        assert first.folder.is_dir()
        assert not abandoned.exists()
        first.write(events(np.arange(300)))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
