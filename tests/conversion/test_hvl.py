"""The reader of the HVL layout: what it accepts, and what it says to everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from hep_ray.conversion.convert import convert
from hep_ray.conversion.readers import READERS
from hep_ray.errors import (
    HepRayError,
    InvalidConfig,
    InvalidEvents,
    InvalidSchema,
    NoEvents,
    UnknownName,
    UnreadableInput,
)
from tests.facts import raises


def hvl_file(path: Path, events: int = 40, shape: tuple[int, ...] = (4, 4, 3), offset: float = 0.0) -> Path:
    with h5py.File(path, "w") as file:
        for number in range(events):
            image = np.full(shape, number + offset, dtype=np.float64)
            file.create_dataset(f"event_{number:03d}/data", data=image, compression="gzip")
    return path


def test_events_keep_their_values_and_the_names_of_their_groups(tmp_path: Path) -> None:
    hvl_file(tmp_path / "a.h5", 3, offset=0.5)
    reader = READERS["hvl"]
    opened = reader.open(tmp_path / "a.h5", reader.options())
    (part,) = opened.parts
    assert (part.name, part.rows) == ("", 3)
    assert part.fields.field("image").metadata == {b"unit": b"GeV"}
    assert part.fields.field("image").type == pa.fixed_shape_tensor(pa.float64(), [4, 4, 3])
    (batch,) = opened.read(part, 1, None, ["image", "event_id"])
    assert batch.column("event_id").to_pylist() == ["event_001", "event_002"]
    assert batch.column("image").to_pylist() == [[1.5] * 48, [2.5] * 48]


def test_the_dtype_of_the_file_is_kept_and_the_same_for_all(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["event_0/data"] = np.full((2, 2, 1), 2**24 + 1, dtype=np.int32)
        file["event_1/data"] = np.full((2, 2, 1), 0.5, dtype=np.float32)
    reader = READERS["hvl"]
    opened = reader.open(tmp_path / "a.h5", reader.options())
    (batch,) = opened.read(opened.parts[0], 0, 1, ["image"])
    assert batch.column("image").to_pylist() == [[2**24 + 1] * 4]
    with raises(InvalidEvents, "event_1/data", "float32"):
        list(opened.read(opened.parts[0], 0, None, ["image"]))


def no_groups(path: Path) -> None:
    h5py.File(path, "w").close()


def bare_dataset(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["event_000"] = np.zeros((4, 4, 3))


def strings(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["event_000/data"] = "GeV"


def flat(path: Path) -> None:
    hvl_file(path, shape=(4, 4))


def other_shape(path: Path) -> None:
    hvl_file(path, shape=(4, 5, 3))


def mixed_shape(path: Path) -> None:
    hvl_file(path)
    with h5py.File(path, "a") as file:
        file["event_999/data"] = np.zeros((3, 4, 3))


def not_a_number(path: Path) -> None:
    hvl_file(path, offset=float("nan"))


def truncated(path: Path) -> None:
    hvl_file(path)
    path.write_bytes(path.read_bytes()[:-500])


def text(path: Path) -> None:
    path.write_text("label,pt\n")


@pytest.mark.parametrize(
    ("spoil", "error", "facts"),
    [
        (no_groups, NoEvents, ["'sig'", "1 of 2", "b.h5"]),
        (bare_dataset, UnreadableInput, ["b.h5", "'event_000'"]),
        (strings, UnreadableInput, ["b.h5", "'event_000'"]),
        (flat, UnreadableInput, ["b.h5", "event_000/data", "(4, 4)"]),
        (other_shape, InvalidSchema, ["'image'", "a.h5", "b.h5"]),
        (mixed_shape, InvalidEvents, ["b.h5", "event_999/data", "(3, 4, 3)"]),
        (not_a_number, InvalidEvents, ["'image'", "'sig/b/event_000'"]),
        (truncated, UnreadableInput, ["b.h5", "HDF5", "truncated"]),
        (text, UnreadableInput, ["b.h5", "HDF5"]),
        (Path.mkdir, UnreadableInput, [".h5, .hdf5", "b.h5"]),
        (lambda path: None, UnreadableInput, ["b.h5", "No such file"]),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[HepRayError], facts: list[object]
) -> None:
    good, bad = hvl_file(tmp_path / "a.h5"), tmp_path / "b.h5"
    spoil(bad)
    with raises(error, *facts):
        convert([good, bad], "hvl", ["bg", "sig"], tmp_path / "out" / "d")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("classes", "error", "facts"),
    [
        (None, InvalidConfig, ["--classes", "CLASS=PATH"]),
        (["a", "b", "c"], InvalidConfig, ["2 files", "['a', 'b', 'c']"]),
        (["a", "a"], InvalidSchema, ["['a', 'a']"]),
        (["a", "b/c"], InvalidSchema, ["'b/c'"]),
    ],
)
def test_classes_that_do_not_fit_the_files_are_refused(
    tmp_path: Path, classes: list[str] | None, error: type[HepRayError], facts: list[object]
) -> None:
    paths = [hvl_file(tmp_path / "a.h5"), hvl_file(tmp_path / "b.h5", offset=0.5)]
    with raises(error, *facts):
        convert(paths, "hvl", classes, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_arguments_that_no_conversion_can_honour_are_refused(tmp_path: Path) -> None:
    path = hvl_file(tmp_path / "a.h5")
    with raises(InvalidConfig, path):
        convert([path, path], "hvl", ["a", "b"], tmp_path / "d")
    with raises(UnknownName, "'hvll'", "'hvl'"):
        convert([path], "hvll", ["a"], tmp_path / "d")
    with pytest.raises(InvalidConfig):
        convert([], "hvl", [], tmp_path / "d")
    with raises(InvalidConfig, "'hvl'", "'tree'"):
        convert([path], "hvl", ["a"], tmp_path / "d", options={"tree": "data"})


def test_a_conversion_tells_its_source_and_its_progress(tmp_path: Path) -> None:
    paths = [hvl_file(tmp_path / "a.h5"), hvl_file(tmp_path / "b.h5", offset=0.5)]
    told: list[tuple[int, int | None]] = []
    manifest = convert(
        paths,
        "hvl",
        ["x", "y"],
        tmp_path / "d",
        signal="x",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(40, 80), (80, 80)]
    assert manifest.event_schema.signal == "x"
    assert [file["name"] for file in manifest.source["files"]] == ["a.h5", "b.h5"]
    assert str(tmp_path) not in (tmp_path / "d" / "manifest.json").read_text()


def test_real_black_holes(real_data: Path, tmp_path: Path) -> None:
    from hep_ray.dataset.check import check

    folder = real_data / "black_holes"
    paths = [folder / f"BH_n4_{mass}_res50_3000_events.h5" for mass in ("M8", "M12")]
    manifest = convert(paths, "hvl", ["m8", "m12"], tmp_path / "d")
    assert manifest.class_counts() == {"m8": 3000, "m12": 3000}
    assert manifest.event_schema.column("image").shape == (50, 50, 3)
    assert check(tmp_path / "d").problems == ()
