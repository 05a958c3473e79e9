"""Inputs at an address: fetched whole, once, and converted as those on a disk are."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hep_ray.conversion.convert import convert
from hep_ray.conversion.remote import fetching, shown
from hep_ray.errors import (
    Interrupted,
    InvalidConfig,
    MissingPackage,
    StorageError,
    StorageHeld,
    UnreadableInput,
)
from tests.facts import raises, tells


class Server:
    """A web server of a folder: it remembers what was asked for, guards `private`, and breaks off `cut`."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                if "private" in self.path and self.headers["Authorization"] != server.password:
                    self.send_error(401, "who are you?")
                elif "cut" in self.path:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b"x" * 10)
                else:
                    super().do_GET()

            def log_message(self, *said: Any) -> None:
                pass

        self.password = "Basic " + base64.b64encode(b"ada:secret").decode()
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    found = Server(tmp_path / "served")
    yield found
    found.close()


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def write_events(path: Path, start: int = 0, events: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(start, start + events, dtype=np.float32)
    pq.write_table(pa.table({"pt": values, "eta": -values}), path)
    return path


def hidden(out: Path) -> list[Path]:
    return list(out.parent.glob(f".{out.name}.*"))


def test_files_of_a_web_server_become_the_dataset_of_their_copies(server: Server, tmp_path: Path) -> None:
    for name, start in (("sig.parquet", 0), ("bkg.parquet", 100)):
        write_events(tmp_path / "served" / name, start)
    words = [f"{name}={server.url}/{name}.parquet?download=1" for name in ("bkg", "sig")]
    told: list[tuple[int, int]] = []
    found = convert(
        words, "parquet", None, tmp_path / "out", fetched=lambda done, total: told.append((done, total))
    )
    copies = [f"{name}={tmp_path / 'served' / name}.parquet" for name in ("bkg", "sig")]
    assert found.fingerprint == convert(copies, "parquet", None, tmp_path / "copy").fingerprint
    assert found.source["addresses"] == [f"{server.url}/bkg.parquet", f"{server.url}/sig.parquet"]
    size = sum(file.stat().st_size for file in (tmp_path / "served").iterdir())
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert hidden(tmp_path / "out") == []


def test_a_glob_and_a_folder_of_addresses_mean_what_they_mean_on_a_disk(memory: Any, tmp_path: Path) -> None:
    for place, name in enumerate(["a/job_2/out.parquet", "a/job_10/out.parquet", "b/out.parquet"]):
        local = write_events(tmp_path / "store" / name, 100 * place)
        memory.put_file(str(local), f"/store/{name}")
    memory.pipe_file("/store/a/job_2/notes.txt", b"not these")
    for kind, words in {
        "glob": ["s=memory://store/a/job_*/out.parquet", "b=memory://store/b/out.parquet"],
        "disk": [f"s={tmp_path}/store/a/job_*/out.parquet", f"b={tmp_path}/store/b/out.parquet"],
    }.items():
        convert(words, "parquet", None, tmp_path / kind)
    made = [json.loads((tmp_path / kind / "manifest.json").read_text()) for kind in ("glob", "disk")]
    assert made[0]["shards"] == made[1]["shards"]
    with fetching(tmp_path / "out", ["memory://store/a"]) as local:
        (folder,) = map(Path, local.words)
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
            "job_10/out.parquet",
            "job_2/notes.txt",
            "job_2/out.parquet",
        ]


def test_what_was_fetched_is_not_fetched_again_until_it_changes(server: Server, tmp_path: Path) -> None:
    served = tmp_path / "served"
    for name in ("a", "b"):
        write_events(served / f"{name}.parquet", ord(name))
    words = [f"{server.url}/{name}.parquet" for name in ("a", "b")]

    def fetched() -> list[str]:
        server.asked.clear()
        with pytest.raises(RuntimeError), fetching(tmp_path / "out", words):
            raise RuntimeError  # as a conversion that is refused
        return sorted(server.asked)

    assert fetched() == ["/a.parquet", "/b.parquet"]
    assert fetched() == []
    write_events(served / "b.parquet", 7, events=70)
    assert fetched() == ["/b.parquet"]
    with fetching(tmp_path / "out", words) as local:
        assert [pq.read_table(path).num_rows for path in local.words] == [60, 70]
    assert hidden(tmp_path / "out") == []


def test_passwords_and_signatures_are_used_and_not_told(server: Server, tmp_path: Path) -> None:
    write_events(tmp_path / "served/private/x.parquet")
    address = server.url.replace("//", "//ada:secret@") + "/private/x.parquet?sig=abc"
    with fetching(tmp_path / "out", [address]) as local:
        assert pq.read_table(local.words[0]).num_rows == 60
        assert local.addresses == (f"{server.url}/private/x.parquet",)
        assert not [path for path in (tmp_path / ".out.fetched").rglob("*") if "secret" in str(path)]
    wrong = fetching(tmp_path / "out", [address.replace("secret", "wrong")])
    with pytest.raises(UnreadableInput) as caught, wrong:
        pass
    assert tells(str(caught.value), "cannot read", "private/x.parquet", "401")
    assert not any(word in str(caught.value) for word in ("wrong", "abc", "ada"))
    assert shown("s3://key:secret@host:9/a?b=c") == "s3://host:9/a"


@pytest.mark.parametrize(
    ("word", "error", "facts"),
    [
        ("{url}/absent.parquet", UnreadableInput, ["cannot read", "absent.parquet", "no such file"]),
        ("{url}/cut.parquet", UnreadableInput, ["cannot read", "cut.parquet"]),
        (
            "http://127.0.0.1:9/x.root",
            UnreadableInput,
            ["cannot read http://127.0.0.1:9/x.root", "Cannot connect to host"],
        ),
        ("memory://nothing/*.root", UnreadableInput, ["memory://nothing/*.root", "no file"]),
        ("sftpp://host/x.root", InvalidConfig, ["'sftpp://'", "root", "s3"]),
        ("zip://x.csv::http://host/a.zip", InvalidConfig, ["chains"]),
        ("memory://store/../x.root", InvalidConfig, ["names no file"]),
        ("dbfs://host/x.root", UnreadableInput, ["dbfs://host/x.root"]),
        ("hdfss3=root://host//eos/x.root", MissingPackage, ["root://", "xrootd"]),
    ],
)
def test_what_cannot_be_fetched_is_refused_by_name(
    word: str, error: type[Exception], facts: list[str], server: Server, tmp_path: Path
) -> None:
    with raises(error, *facts):
        convert([word.format(url=server.url)], "parquet", ["a", "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path for path in (tmp_path / ".out.fetched").rglob("*.*") if path.is_file()] == []


def test_a_disk_without_room_is_told_before_anything_comes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(tmp_path / "served/a.parquet")
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("hep_ray.conversion.remote.shutil.disk_usage", lambda path: real._replace(free=100))
    with raises(StorageError, "GB", "room", "--out"), fetching(tmp_path / "out", [f"{server.url}/a.parquet"]):
        pass
    assert server.asked == []


def test_two_processes_do_not_fetch_for_the_same_dataset(server: Server, tmp_path: Path) -> None:
    write_events(tmp_path / "served/a.parquet")
    words = [f"{server.url}/a.parquet"]
    with fetching(tmp_path / "out", words), pytest.raises(StorageHeld), fetching(tmp_path / "out", words):
        pass


def test_ctrl_c_keeps_what_had_come(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_events(tmp_path / f"served/{name}.parquet", ord(name))
    words = [f"{server.url}/{name}.parquet" for name in "abc"]
    monkeypatch.setattr("hep_ray.conversion.remote.AT_ONCE", 1)

    def pressed(futures: Any) -> Iterator[Any]:
        yield next(iter(as_completed(futures)))
        raise KeyboardInterrupt

    monkeypatch.setattr("hep_ray.conversion.remote.as_completed", pressed)
    with raises(Interrupted, "of 3 files are kept"), fetching(tmp_path / "out", words):
        pass
    kept = {path.name for path in (tmp_path / ".out.fetched").rglob("*.parquet")}
    monkeypatch.undo()
    server.asked.clear()
    with fetching(tmp_path / "out", words) as local:
        assert all(Path(path).is_file() for path in local.words)
    assert {path[1:] for path in server.asked} == {f"{name}.parquet" for name in "abc"} - kept
    assert "a.parquet" in kept
