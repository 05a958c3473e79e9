"""One file, whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hep_ray.errors import StorageError, StorageHeld
from hep_ray.files import lock, replacing, storing, sync, whole, write_whole
from hep_ray.tracking.journal import FILE_NAME, Journal
from tests.facts import raises

FILL_AND_WAIT = """
import pathlib, sys, time
from hep_ray.files import whole
with whole(pathlib.Path(sys.argv[1])) as filling:
    filling.write_text("half")
    print("filled", flush=True)
    time.sleep(60)
"""


HOLD = """
import pathlib, sys
from hep_ray.files import lock
with lock(pathlib.Path(sys.argv[1]), "one at a time"):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    write_whole(path, "first")
    with whole(path) as filling:
        filling.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert names(path.parent) == ["facts.json"]


def test_a_failed_block_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_whole(path, "first")
    with pytest.raises(TypeError), whole(path) as filling:
        filling.write_text(1)  # type: ignore[arg-type]
    assert path.read_text() == "first"
    assert names(tmp_path) == ["facts.json"]


def test_a_killed_writer_is_swept_up_by_the_next_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    with subprocess.Popen(
        [sys.executable, "-c", FILL_AND_WAIT, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "filled\n"
        half = f".facts.json.{writer.pid}.tmp"
        write_whole(path, "beside the living one")
        assert names(tmp_path) == [half, "facts.json"]
        writer.kill()
        writer.wait()
        assert names(tmp_path) == [half, "facts.json"]
    write_whole(path, "after it")
    assert names(tmp_path) == ["facts.json"]
    assert path.read_text() == "after it"


def test_a_lock_keeps_other_processes_out_and_ends_with_its_own(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for patience in (0.0, 0.2):
            with raises(StorageHeld, tmp_path, "one at a time"), lock(tmp_path, "one at a time", patience):
                pass
        holder.kill()
        holder.wait()
    with lock(tmp_path, "one at a time") as locked:
        assert locked


def test_nothing_is_removed_and_no_journal_is_opened_where_the_file_system_cannot_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".facts.json.1.tmp").write_text("of another process, it may be")
    write_whole(tmp_path / "facts.json", "text")
    with replacing(tmp_path / "data") as filling:
        (filling / "shard").touch()
    assert names(tmp_path) == [".facts.json.1.tmp", "data", "facts.json"]
    with raises(StorageError, tmp_path / "search" / FILE_NAME, "lock"):
        Journal(tmp_path / "search")


def test_what_the_system_refuses_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "facts.json"
    with (
        raises(StorageError, path, "File exists"),
        storing(path),
    ):
        write_whole(path, "text")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was put on the disk, in order."""
    paths: list[Path] = []
    put = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        put(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_the_names_of_new_folders_of_a_journal_and_of_what_is_renamed_are_put_on_the_disk(
    tmp_path: Path, synced: list[Path]
) -> None:
    from hep_ray.confirm.confirmation import set_aside
    from hep_ray.tracking.journal import FILE_NAME, Journal

    search = tmp_path / "runs" / "cnn_loss"
    with Journal(search):
        # The folder that holds the journal, and each that holds a new folder; a file of no bytes has none to sync.
        assert set(synced) == {tmp_path, tmp_path / "runs", search}
        assert (search / FILE_NAME).exists()
    synced.clear()
    write_whole(tmp_path / "a" / "b.json", "text")
    assert synced[0] == tmp_path
    assert synced[-1] == tmp_path / "a"
    (search / "confirm").mkdir()
    synced.clear()
    assert set_aside(search / "confirm") == search / "confirm_1"
    assert synced[-1] == search


def test_a_folder_takes_its_place_with_every_file_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("hep_ray.files.sync", lambda path: (synced.append(path), sync(path)))
    with replacing(tmp_path / "data") as filling:
        (filling / "fold_1").mkdir()
        for name in ("manifest.json", "fold_1/train-00000.parquet"):
            (filling / name).write_text("x")
        synced.clear()
    assert {path.relative_to(filling).as_posix() for path in synced if path.is_relative_to(filling)} == {
        ".",
        "manifest.json",
        "fold_1",
        "fold_1/train-00000.parquet",
    }
    assert (tmp_path / "data" / "fold_1" / "train-00000.parquet").read_text() == "x"
