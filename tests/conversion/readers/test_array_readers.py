"""HDF5 and numpy files: what becomes a field, what a part, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest

from hep_ray.conversion.readers import READERS, Opened
from hep_ray.errors import HepRayError, InvalidConfig, UnreadableInput
from tests.facts import raises


def opened(reader: str, path: Path, **options: Any) -> Opened:
    return READERS[reader].open(path, READERS[reader].options(**options))


def column(found: Opened, name: str, part: int = 0) -> list[Any]:
    batches = list(found.read(found.parts[part], 0, None, [name]))
    return [value for batch in batches for value in batch.column(0).to_pylist()]


def test_hdf5_groups_are_parts_and_labels_join_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["train/x"] = np.arange(6.0, dtype=">f8").reshape(3, 2)
        file["truth/y"] = np.array([1, 0, 1], dtype=np.int16)
        file["note"] = "made by hand"
    found = opened("hdf5", tmp_path / "f.h5")
    assert [(part.name, part.rows, part.fields.names) for part in found.parts] == [
        ("train", 3, ["x"]),
        ("truth", 3, ["y"]),
    ]
    found = opened("hdf5", tmp_path / "f.h5", labels="truth/y")
    (part,) = found.parts
    assert part.fields.names == ["x", "y"]
    assert part.fields.field("x").type == pa.fixed_shape_tensor(pa.float64(), [2])
    assert column(found, "x") == [[0, 1], [2, 3], [4, 5]]
    assert column(found, "y") == [1, 0, 1]


def test_hdf5_one_dataset_per_class(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["QCD"] = np.zeros((4, 2, 2, 1))
        file["TT"] = np.ones((3, 2, 2, 1))
    with raises(InvalidConfig, tmp_path / "f.h5", "QCD", 4, "TT", 3):
        opened("hdf5", tmp_path / "f.h5")
    found = opened("hdf5", tmp_path / "f.h5", part_per_dataset=True, datasets=["TT", "QCD"])
    assert [(part.name, part.rows, part.fields.names) for part in found.parts] == [
        ("TT", 3, ["image"]),
        ("QCD", 4, ["image"]),
    ]
    assert column(found, "image") == [[1.0] * 4] * 3


def test_hdf5_members_that_two_tables_share_carry_the_tables_name(tmp_path: Path) -> None:
    jets = np.zeros(2, dtype=[("pt", "f4"), ("label", "i8"), ("name", "S3")])
    tracks = np.zeros((2, 5), dtype=[("pt", "f4"), ("d0", "f4")])
    jets["pt"], tracks["pt"][:, 0] = [1, 2], [3, 4]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["jets"], file["tracks"] = jets, tracks
    found = opened("hdf5", tmp_path / "f.h5")
    assert found.parts[0].fields.names == ["jets_pt", "label", "name", "tracks_pt", "d0"]
    assert column(found, "name") == ["", ""]
    assert column(found, "jets_pt") == [1, 2]
    assert column(found, "tracks_pt") == [[3, 0, 0, 0, 0], [4, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"datasets": ["train/xx"]}, InvalidConfig, ["'train/xx'", "'train/x'"]),
        ({"datasets": ["note"]}, InvalidConfig, ["note", "object"]),
        ({"labels": "train/x"}, InvalidConfig, ["train/x", "(3, 2)"]),
        ({"labels": "y", "part_per_dataset": True}, InvalidConfig, ["labels", "part_per_dataset"]),
        ({"datasets": ["none"]}, UnreadableInput, ["f.h5", 0]),
    ],
)
def test_hdf5_options_that_do_not_suit_the_file(
    tmp_path: Path, options: dict[str, Any], error: type[HepRayError], facts: list[object]
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["train/x"], file["y"], file["note"] = np.zeros((3, 2)), np.zeros(3), "text"
        file["none"] = np.zeros((0, 2))
    with raises(error, *facts):
        opened("hdf5", tmp_path / "f.h5", **options)


def test_hdf5_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(size=1000)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        data = file.create_dataset("x", data=values, chunks=(100,), compression="gzip", fletcher32=True)
        chunk = data.id.get_chunk_info(4)
    with (tmp_path / "f.h5").open("r+b") as raw:
        raw.seek(chunk.byte_offset + 50)
        raw.write(b"\0" * 50)
    found = opened("hdf5", tmp_path / "f.h5")
    assert next(found.read(found.parts[0], 0, 300, ["x"])).num_rows == 300
    with raises(UnreadableInput, tmp_path / "f.h5", "x", 300, 499):
        list(found.read(found.parts[0], 300, 500, ["x"]))


def test_the_hvl_layout_is_pointed_out_to_who_uses_the_wrong_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hep_ray.conversion.readers.hdf5.MOST_DATASETS", 5)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for event in range(6):
            file[f"event_{event}/data"] = np.zeros((2, 2, 1))
    with raises(InvalidConfig, "hvl"):
        opened("hdf5", tmp_path / "f.h5")


def test_npz_arrays_side_by_side_or_one_per_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.arange(4.0).reshape(2, 2), y=np.array([0, 1]), name=np.array("note"))
    found = opened("npz", tmp_path / "f.npz")
    assert [(part.name, part.rows, part.fields.names) for part in found.parts] == [("", 2, ["x", "y"])]
    assert column(found, "x") == [[0, 1], [2, 3]]
    classes = opened("npz", tmp_path / "f.npz", part_per_array=True, arrays=["y", "x"], field="image")
    assert [part.name for part in classes.parts] == ["y", "x"]
    assert column(classes, "image", part=1) == [[0, 1], [2, 3]]


def test_npz_of_unequal_lengths_or_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.zeros(3), y=np.zeros(2))
    with raises(InvalidConfig, tmp_path / "f.npz", "x", 3, "y", 2):
        opened("npz", tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", x=np.array([{}, []], dtype=object))
    with raises(UnreadableInput, tmp_path / "f.npz", "'x'"):
        opened("npz", tmp_path / "f.npz")
    with raises(InvalidConfig, tmp_path / "f.npz", "x", "object"):
        opened("npz", tmp_path / "f.npz", arrays=["x"])


def test_a_transposed_array_is_read_in_its_order(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(3, 2)
    np.savez_compressed(tmp_path / "f.npz", x=np.asfortranarray(values))
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    assert column(opened("npz", tmp_path / "f.npz"), "x") == values.tolist()
    assert column(opened("npz", tmp_path / "f.npy"), "values") == values.tolist()


def test_a_cut_npy_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros((100, 3)))
    (tmp_path / "f.npy").write_bytes((tmp_path / "f.npy").read_bytes()[:500])
    found = opened("npz", tmp_path / "f.npy")
    with raises(UnreadableInput, tmp_path / "f.npy", 0, 99):
        column(found, "values")
