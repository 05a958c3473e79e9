"""A dataset at an address is opened, checked and streamed where it lies."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from hep_ray import addresses
from hep_ray.addresses import Address, located
from hep_ray.dataset import dataset as dataset_module
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset, Manifest, shard_problems, verify_shards
from hep_ray.dataset.show import show
from hep_ray.dataset.verified import CACHE
from hep_ray.errors import (
    InvalidConfig,
    MissingPackage,
    ShardMismatch,
    StorageError,
    UnreadableInput,
)
from hep_ray.loading.shards import RowGroups, cut, read_whole
from hep_ray.search.definition import Preset, Search
from hep_ray.search.length_checks import check_folds
from hep_ray.search.node_checks import _first_byte
from hep_ray.search.space import Space
from tests.facts import raises

NAME = "train-00001.parquet"


class Server:
    """A web server that gives ranges of bytes, as object stores do, and remembers each that it gave."""

    def __init__(self, folder: Path) -> None:
        self.given: list[tuple[str, int]] = []
        self.ranges, self.fails = True, 0
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                path = Path(self.translate_path(self.path))
                asked = self.headers.get("Range")
                if server.fails > 0:
                    server.fails -= 1
                    self.send_error(503, "come back later")
                elif asked is None or not path.is_file() or not server.ranges:
                    server.given.append((path.name, path.stat().st_size if path.is_file() else 0))
                    super().do_GET()
                else:
                    first, last = map(int, asked.removeprefix("bytes=").split("-"))
                    found = path.read_bytes()[first : last + 1]
                    server.given.append((path.name, len(found)))
                    self.send_response(206)
                    self.send_header(
                        "Content-Range", f"bytes {first}-{first + len(found) - 1}/{path.stat().st_size}"
                    )
                    self.send_header("Content-Length", str(len(found)))
                    self.end_headers()
                    self.wfile.write(found)

            def end_headers(self) -> None:
                if (path := Path(self.translate_path(self.path))).is_file():
                    stat = path.stat()
                    self.send_header("ETag", f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"')
                super().end_headers()

            def log_message(self, *said: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def read_of(self, name: str) -> int:
        return sum(size for one, size in self.given if one == name)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(addresses, "PAUSES", (0.01, 0.01))


@pytest.fixture
def folder(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(1500, rows_per_shard=512)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    with contextlib.closing(found):
        yield found


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """The dataset in fsspec's memory, which lists folders as object stores do."""
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/bucket/toy", recursive=True)
    yield "memory://bucket/toy"
    system.rm("/bucket", recursive=True)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    sha256_of = dataset_module.sha256_of
    monkeypatch.setattr(
        dataset_module, "sha256_of", lambda path, stop: names.append(path.name) or sha256_of(path, stop)
    )
    return names


@pytest.mark.parametrize("typed", ["s3://b/d/e", "s3:/b/d/e", Path("s3://b/d/e"), Path("s3://b") / "d" / "e"])
def test_an_address_is_one_also_after_it_was_a_path(typed: Any) -> None:
    found = located(typed)
    assert isinstance(found, Address)
    assert (str(found), found.name, str(found.parent), found.protocol) == (
        "s3://b/d/e",
        "e",
        "s3://b/d",
        "s3",
    )
    assert str(found.resolve() / "x") == str(found.absolute() / "x") == "s3://b/d/e/x"
    assert str(found / "../other") == "s3://b/d/other"
    assert found / "/disk" == Path("/disk")
    assert str(found / "gs://c/f") == "gs://c/f"
    again = pickle.loads(pickle.dumps(found))
    assert (again, str(again), type(again)) == (found, "s3://b/d/e", Address)


def test_what_lies_on_a_disk_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:" / "d").mkdir(parents=True)
    for typed, path in {
        "data/d": "data/d",
        "file:///data/d": "/data/d",
        "run:/d": "run:/d",
        "a:b": "a:b",
    }.items():
        found = located(typed)
        assert type(found) is type(Path())
        assert found == Path(path)


@pytest.mark.parametrize(
    ("typed", "fact"),
    [
        ("nosuch://b/d", "nosuch://"),
        ("s3://ada:secret@b/d", "s3://b/d"),
        ("https://h/d?token=secret", "https://h/d"),
        ("zip://d::s3://b/x.zip", "chains"),
        ("s3://", "s3://"),
    ],
)
def test_an_address_that_is_none_or_tells_a_secret_is_refused(typed: str, fact: str) -> None:
    with raises(InvalidConfig, fact) as caught:
        located(typed)
    assert "secret" not in str(caught.value)


def test_without_the_package_of_a_file_system_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with raises(MissingPackage, "s3fs"):
        Dataset.open("s3://bucket/toy")


@pytest.mark.parametrize("purpose", [None, "report"])
def test_a_dataset_at_an_address_has_the_events_of_that_on_the_disk(
    folder: Path, bucket: str, server: Server, purpose: Any
) -> None:
    split = "train" if purpose is None else "test"
    here = Dataset.open(folder).arrays(split, purpose=purpose)
    for place in (bucket, f"{server.url}/toy", f"file://{folder}", Path(bucket)):
        found = Dataset.open(place)
        assert found.fingerprint == Manifest.read(folder).fingerprint
        there = found.arrays(split, purpose=purpose)
        assert all(np.array_equal(values, there[name]) for name, values in here.items())
        ids = found.values("event_id", split, purpose=purpose)
        assert ids.to_pylist() == list(here["event_id"])


def test_blocks_are_read_at_an_address_as_on_the_disk(folder: Path, server: Server) -> None:
    def read(place: Any) -> Any:
        dataset = Dataset.open(place)
        columns = dataset.schema.columns
        groups = RowGroups.of(dataset, "train").reordered(
            np.array([1, 0, 2][: len(RowGroups.of(dataset, "train"))])
        )
        (block,) = (cut(groups, [(0, int(groups.rows.sum()))], 16, (3,)),)
        return [block.read(number, columns) for number in range(len(block))], read_whole(groups, columns, 2)

    here, there = read(folder), read(f"{server.url}/toy")
    assert here[0][0].equals(there[0][0])
    assert np.array_equal(here[1].labels, there[1].labels)
    assert np.array_equal(here[1].inputs["image"], there[1].inputs["image"])


def test_an_opening_reads_footers_alone_and_the_second_one_too(
    folder: Path, server: Server, hashed: list[str]
) -> None:
    shards = Dataset.open(f"{server.url}/toy").manifest.shards
    Dataset.open(f"{server.url}/toy")
    assert hashed == []
    for shard in shards:
        assert server.read_of(shard.file) < 0.5 * shard.size


def test_one_column_of_a_few_rows_is_not_the_whole_shard(folder: Path, server: Server) -> None:
    dataset = Dataset.open(f"{server.url}/toy", verify=False)
    dataset.values("label", "train")
    (shard, *_) = dataset.manifest.shards
    assert 0 < server.read_of(shard.file) < 0.5 * shard.size


def test_a_shard_with_another_etag_is_hashed(folder: Path, server: Server, hashed: list[str]) -> None:
    Dataset.open(f"{server.url}/toy")
    path = folder / NAME
    content = bytearray(path.read_bytes())
    path.write_bytes(content)  # the same bytes, but who knows
    Dataset.open(f"{server.url}/toy")
    assert hashed == [NAME]
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for _ in range(2):  # and is not taken as known by the second opening
        hashed.clear()
        with raises(ShardMismatch, NAME, "altered"):
            Dataset.open(f"{server.url}/toy")
        assert hashed == [NAME]


def test_a_check_hashes_all_and_what_it_finds_is_remembered(
    folder: Path, server: Server, hashed: list[str]
) -> None:
    path = folder / NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    Dataset.open(f"{server.url}/toy")  # whose first opening hashes nothing
    assert any(NAME in one and "altered" in one for one in check(f"{server.url}/toy").problems)
    assert sorted(hashed) == sorted(shard.file for shard in Manifest.read(folder).shards)
    with raises(ShardMismatch, NAME, "altered"):
        Dataset.open(f"{server.url}/toy")
    with raises(ShardMismatch, NAME, "altered"):  # as a promotion opens it
        Dataset.open(f"{server.url}/toy", hashes="all")


def test_what_is_missing_short_or_extra_is_named(bucket: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/toy/extra.parquet", b"x")
    system.pipe(f"/bucket/toy/{NAME}", system.cat(f"/bucket/toy/{NAME}")[:-5])
    system.rm("/bucket/toy/val-00000.parquet")
    with raises(
        ShardMismatch, "extra.parquet is extra", f"{NAME} is truncated", "val-00000.parquet is missing"
    ):
        verify_shards(bucket)


def test_what_is_not_there_is_named(server: Server) -> None:
    with raises(UnreadableInput, f"{server.url}/nothing/manifest.json"):
        Dataset.open(f"{server.url}/nothing")


def test_a_server_that_fails_for_a_while_is_asked_again(folder: Path, server: Server) -> None:
    dataset = Dataset.open(f"{server.url}/toy")
    server.fails = 2
    assert len(dataset.values("label", "val")) == dataset.rows("val")
    server.fails = 1000
    with raises(UnreadableInput, "503"):
        dataset.values("label", "val")


def test_a_server_that_is_gone_is_told_as_such(folder: Path) -> None:
    with raises(UnreadableInput, "http://127.0.0.1:9/toy", "Cannot connect to host"):
        Dataset.open("http://127.0.0.1:9/toy")
    with raises(UnreadableInput, "http://127.0.0.1:9/toy", "Cannot connect to host"):
        list(shard_problems(located("http://127.0.0.1:9/toy"), Manifest.read(folder)))


def test_a_server_without_ranges_is_refused(folder: Path, server: Server) -> None:
    server.ranges = False
    with raises(UnreadableInput, "ranges of bytes", server.url):
        Dataset.open(f"{server.url}/toy")


def test_nothing_is_written_at_an_address(bucket: str) -> None:
    place = located(bucket)
    for write in (place.mkdir, place.touch, lambda: (place / "x").write_text("x"), lambda: place.open("w")):
        with raises(StorageError, bucket):
            write()
    with raises(InvalidConfig, "--out"):
        show(place)


def test_a_node_reads_the_manifest_at_its_address(bucket: str) -> None:
    assert _first_byte(f"{bucket}/manifest.json") == 1
    with raises(FileNotFoundError):
        _first_byte(f"{bucket}/nothing.json")


def test_what_lies_beside_a_dataset_is_found_at_its_address(bucket: str) -> None:
    assert json.loads((located(bucket) / "../toy/manifest.json").read_text())["format"]


def test_folds_of_a_search_are_made_of_events_on_a_disk(bucket: str) -> None:
    search = Search(name="toy", task="toy", title="", space=Space(model="mlp"), presets={})
    with raises(InvalidConfig, bucket, "--data"):
        check_folds(Preset(epochs=2, trials=9, folds=3), search, search.space, Dataset.open(bucket))
