"""A conversion that was interrupted goes on from what it had read, to the same dataset."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion import convert as convert_module
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.errors import Interrupted, InvalidEvents, StorageHeld
from hep_ray.files import ONE_WRITER, lock
from tests.facts import raises

LABELLED = 'reader = "npz"\nclasses = ["bg", "sig"]\n[label]\nfrom = "field"\nfield = "label"\n'
EVENTS = 400


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 400 events, of which a task reads 25."""
    monkeypatch.setattr(convert_module, "LEAST_BYTES", 1)
    rows = np.arange(EVENTS)
    np.savez(tmp_path / "events.npz", x=rows.astype(np.float32), label=rows % 2)
    return tmp_path / "events.npz"


def converted(source: Path, out: Path) -> Any:
    return convert([source], None, None, out, schema=parse_schema(LABELLED, "test"))


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException | None], list[int]]:
    """`stop_after(tasks, error)`: raise it in the task after so many; the list has the first rows of those done."""
    read_events = convert_module.read_events

    def stop(tasks: int, error: BaseException | None) -> list[int]:
        done: list[int] = []

        def read(task: Any) -> Any:
            if error is not None and len(done) == tasks:
                raise error
            done.append(task.start)
            return read_events(task)

        monkeypatch.setattr(convert_module, "read_events", read)
        return done

    return stop


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob(".d.*.conversion"))


def interrupted(source: Path, out: Path, stop_after: Callable[..., list[int]], tasks: int = 6) -> Path:
    stop_after(tasks, KeyboardInterrupt())
    with raises(Interrupted, f"{25 * tasks} events"):
        converted(source, out)
    assert not out.exists()
    (left,) = kept(out.parent)
    return left


def test_it_goes_on_to_the_same_bytes(
    source: Path, tmp_path: Path, stop_after: Callable[..., list[int]]
) -> None:
    interrupted(source, tmp_path / "d", stop_after)
    done = stop_after(0, None)
    manifest = converted(source, tmp_path / "d")
    assert done == list(range(150, EVENTS, 25))
    assert manifest.source["events_read"] == EVENTS
    assert kept(tmp_path) == []
    assert manifest == converted(source, tmp_path / "e")
    for file in (tmp_path / "d").iterdir():
        assert file.read_bytes() == (tmp_path / "e" / file.name).read_bytes()


def test_what_is_torn_is_read_again(
    source: Path, tmp_path: Path, stop_after: Callable[..., list[int]]
) -> None:
    left = interrupted(source, tmp_path / "d", stop_after)
    (left / "piece-000001.json").write_text("{")
    (left / "piece-000003-00000.arrow").write_bytes(b"")
    (left / "piece-000004-00000.arrow").unlink()
    done = stop_after(0, None)
    manifest = converted(source, tmp_path / "d")
    assert done == [25, 75, 100, *range(150, EVENTS, 25)]
    assert manifest == converted(source, tmp_path / "e")


def test_of_other_events_nothing_is_taken(
    source: Path, tmp_path: Path, stop_after: Callable[..., list[int]]
) -> None:
    interrupted(source, tmp_path / "d", stop_after)
    rows = np.arange(EVENTS)
    np.savez(source, x=-rows.astype(np.float32), label=rows % 2)
    done = stop_after(0, None)
    converted(source, tmp_path / "d")
    assert len(done) == EVENTS // 25
    assert kept(tmp_path) == []


def test_of_a_file_that_was_given_to_another_class_nothing_is_taken(
    tmp_path: Path, stop_after: Callable[..., list[int]]
) -> None:
    names = ["x", "y", "z"]
    for place, name in enumerate(names):
        np.savez(tmp_path / f"{name}.npz", v=np.arange(100, dtype=np.float32) + 100 * place)

    def made(*classes: str) -> Any:
        given = [f"{one}={tmp_path / name}.npz" for one, name in zip(classes, names, strict=True)]
        return convert(given, "npz", None, tmp_path / "d")

    stop_after(2, KeyboardInterrupt())
    with raises(Interrupted, "200 events"):
        made("bg", "bg", "sig")
    stop_after(0, None)
    assert made("bg", "sig", "sig").class_counts() == {"bg": 100, "sig": 200}


def test_an_error_leaves_nothing(source: Path, tmp_path: Path, stop_after: Callable[..., list[int]]) -> None:
    stop_after(3, InvalidEvents("broken"))
    with raises(InvalidEvents, "broken"):
        converted(source, tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["events.npz"]


def test_two_that_make_one_dataset_do_not_meet(
    source: Path, tmp_path: Path, stop_after: Callable[..., list[int]]
) -> None:
    left = interrupted(source, tmp_path / "d", stop_after)
    stop_after(0, None)
    with lock(left, ONE_WRITER), raises(StorageHeld, left):
        converted(source, tmp_path / "d")
    assert len(list(left.glob("*.json"))) == 6


KILLED = """
import os, sys
from hep_ray.conversion import convert as module
module.LEAST_BYTES = 1
read, done = module.read_events, []
def stop(task):
    if len(done) == 5:
        os.kill(os.getpid(), 9)
    done.append(task)
    return read(task)
module.read_events = stop
from hep_ray.conversion.schema_file import parse_schema
module.convert([sys.argv[1]], None, None, sys.argv[2], schema=parse_schema(sys.argv[3], "test"))
"""


def test_after_a_kill_too(source: Path, tmp_path: Path, stop_after: Callable[..., list[int]]) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "d"), LABELLED]
    assert subprocess.run(command, check=False).returncode == -9
    done = stop_after(0, None)
    assert converted(source, tmp_path / "d") == converted(source, tmp_path / "e")
    assert done[:11] == list(range(125, EVENTS, 25))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "e", "events.npz"]
