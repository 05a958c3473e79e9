"""Shards are hashed once on a host, and again when they change; a check and a promotion hash all of them."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from hep_ray.conversion.shards import ShardRange, Written
from hep_ray.dataset import dataset as dataset_module
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset, verify_shards
from hep_ray.dataset.verified import CACHE
from hep_ray.errors import ShardMismatch
from tests.facts import raises

NAME = "train-00000.parquet"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that were hashed, in any order."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    names: list[str] = []
    sha256_of = dataset_module.sha256_of
    monkeypatch.setattr(
        dataset_module, "sha256_of", lambda path, stop: names.append(path.name) or sha256_of(path, stop)
    )
    return names


@pytest.fixture
def folder(make_dataset: Callable[..., Path]) -> Path:
    made = make_dataset(120, rows_per_shard=16)
    age(made)  # which is another time than its writer recorded
    return made


def age(folder: Path) -> None:
    for path in folder.glob("*.parquet"):
        os.utime(path, (1e9, 1e9))


def flip(path: Path) -> None:
    """Change a byte in the middle, and leave size and time of change as they were."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_shard_is_hashed_once_until_it_changes(folder: Path, hashed: list[str]) -> None:
    shards = {shard.file for shard in verify_shards(folder).shards}
    assert len(shards) > 3
    assert sorted(hashed) == sorted(shards)
    hashed.clear()
    Dataset.open(folder)
    assert hashed == []
    (folder / NAME).touch()
    Dataset.open(folder)
    assert hashed == [NAME]


def test_a_dataset_that_was_just_written_is_not_hashed_to_be_opened(
    hashed: list[str], make_dataset: Callable[..., Path]
) -> None:
    made = make_dataset(120, rows_per_shard=16)
    assert hashed == []  # its writer calls the function by another name
    Dataset.open(made)
    assert hashed == []


def test_a_shard_that_changes_right_after_it_was_written_is_found(
    hashed: list[str], make_dataset: Callable[..., Path]
) -> None:
    path = make_dataset(120, rows_per_shard=16) / NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with raises(ShardMismatch, NAME, "altered"):
        Dataset.open(path.parent)
    assert hashed == [NAME]


def test_a_shard_that_changes_between_its_hash_and_the_record_is_found(
    hashed: list[str], make_dataset: Callable[..., Path]
) -> None:
    def meddling(work: Callable[[ShardRange], list[Written]], ranges: Iterable[ShardRange]) -> Any:
        for one in ranges:
            written = work(one)
            path = one.folder / written[0].shard.file
            path.write_bytes(path.read_bytes()[:-1] + b"X")
            os.utime(path, (1e9, 1e9))  # long ago, so that its time alone says nothing
            yield written

    made = make_dataset(120, mapper=meddling)
    with raises(ShardMismatch, NAME, "altered"):
        Dataset.open(made)
    assert NAME in hashed


def test_what_another_host_wrote_is_hashed_here(hashed: list[str], make_dataset: Callable[..., Path]) -> None:
    def elsewhere(work: Callable[[ShardRange], list[Written]], ranges: Iterable[ShardRange]) -> Any:
        for one in ranges:
            host = "worker-17" if one.split == "val" else socket.gethostname()
            yield [written._replace(host=host) for written in work(one)]

    Dataset.open(make_dataset(120, mapper=elsewhere))
    assert hashed == ["val-00000.parquet"]


def test_a_copy_of_a_dataset_is_hashed(
    tmp_path: Path, hashed: list[str], make_dataset: Callable[..., Path]
) -> None:
    copied = shutil.copytree(make_dataset(120, rows_per_shard=16), tmp_path / "copy")
    shards = Dataset.open(copied).manifest.shards
    assert sorted(hashed) == sorted(shard.file for shard in shards)


def test_a_shard_that_was_just_written_is_not_taken_as_known(folder: Path, hashed: list[str]) -> None:
    (folder / NAME).touch()
    verify_shards(folder)
    hashed.clear()
    verify_shards(folder)
    assert hashed == [NAME]


def test_without_hashes_only_what_is_quick_to_see_is_seen(folder: Path, hashed: list[str]) -> None:
    Dataset.open(folder, hashes="none")
    assert hashed == []
    path = folder / NAME
    path.write_bytes(path.read_bytes()[:-9])
    with raises(ShardMismatch, NAME, "truncated"):
        Dataset.open(folder, hashes="none")


def test_a_byte_that_changed_behind_the_same_time_is_found_by_a_check(
    folder: Path, hashed: list[str]
) -> None:
    verify_shards(folder)
    flip(folder / NAME)
    Dataset.open(folder)  # what it cannot see, docs/howto/own_data.md says so
    assert any(NAME in problem and "altered" in problem for problem in check(folder).problems)
    with raises(ShardMismatch, NAME, "altered"):  # the check forgot what was known of it
        Dataset.open(folder)


def test_all_hashes_are_for_a_promotion(folder: Path, hashed: list[str]) -> None:
    verify_shards(folder)
    flip(folder / NAME)
    with raises(ShardMismatch, NAME, "altered"):
        Dataset.open(folder, hashes="all")


def test_a_time_of_0_tells_of_no_change(folder: Path, hashed: list[str]) -> None:
    for path in folder.glob("*.parquet"):
        os.utime(path, (0, 0))
    verify_shards(folder)
    flip(folder / NAME)
    with raises(ShardMismatch, NAME):
        Dataset.open(folder)


@pytest.mark.parametrize(
    "record",
    ["", "{}", "[]", '{"files": {"train-00000.parquet": [1]}}', '{"files": {"a": [Infinity, 1, 1, ""]}}'],
)
def test_a_record_that_is_none_only_costs_time(folder: Path, hashed: list[str], record: str) -> None:
    verify_shards(folder)
    (kept,) = (Path(os.environ[CACHE]) / "verified").iterdir()
    kept.write_text(record)
    hashed.clear()
    verify_shards(folder)
    assert NAME in hashed


def test_a_host_without_a_place_for_records_hashes_every_time(
    folder: Path, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    verify_shards(folder)
    hashed.clear()
    verify_shards(folder)
    assert NAME in hashed


def test_another_dataset_in_the_same_folder_is_not_known(
    folder: Path, hashed: list[str], make_dataset: Callable[..., Path]
) -> None:
    verify_shards(folder)
    hashed.clear()
    age(make_dataset(120, seed=1, rows_per_shard=16, overwrite=True))
    shards = verify_shards(folder).shards
    assert sorted(hashed) == sorted(shard.file for shard in shards)
