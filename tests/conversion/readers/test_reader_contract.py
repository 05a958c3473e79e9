"""What every registered reader promises, on a small file of its format."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hep_ray.conversion.readers import READERS, Opened, Part, arrays, fields, root
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError
from tests.conversion.delphes_files import write_delphes
from tests.facts import raises

ROWS = 23
RANDOM = np.random.default_rng(7)
IMAGES = RANDOM.uniform(size=(ROWS, 3, 4, 2)).astype(np.float32)
MASSES = RANDOM.uniform(size=ROWS)
CHARGES = RANDOM.integers(-1, 2, ROWS)
JETS = [RANDOM.uniform(size=count).astype(np.float32).tolist() for count in RANDOM.integers(0, 5, ROWS)]


@dataclass(frozen=True)
class Case:
    reader: str
    write: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=dict)


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        file.create_dataset("train/image", data=IMAGES, chunks=(5, 3, 4, 2), compression="gzip")
        file["train/mass"] = MASSES
        file["labels"] = CHARGES
    return folder / "f.h5"


def hdf5_classes(folder: Path) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        file.create_dataset("QCD", data=IMAGES, chunks=(7, 2, 2, 2), compression="lzf")
        file["TT"] = IMAGES[:9]
    return folder / "f.h5"


def hdf5_compound(folder: Path) -> Path:
    table = np.zeros(ROWS, dtype=[("mass", "<f8"), ("charge", "<i2"), ("hits", "<f4", (3,))])
    table["mass"], table["charge"] = MASSES, CHARGES
    with h5py.File(folder / "f.h5", "w") as file:
        file["jets"] = table
    return folder / "f.h5"


def hvl(folder: Path) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        for row, image in enumerate(IMAGES):
            file.create_dataset(f"event_{row:03d}/data", data=image, compression="gzip")
    return folder / "f.h5"


def root_tree(folder: Path) -> Path:
    with uproot.recreate(folder / "f.root") as file:
        file.mktree("dir/t", {"mass": "f8", "charge": "i4", "jets": "var * float32", "hits": "3 * float32"})
        for rows in (slice(0, 10), slice(10, ROWS)):
            file["dir/t"].extend(
                {
                    "mass": MASSES[rows],
                    "charge": CHARGES[rows].astype(np.int32),
                    "jets": ak.values_astype(ak.Array(JETS[rows]), np.float32),
                    "hits": IMAGES[rows, 0, :3, 0],
                }
            )
    return folder / "f.root"


def root_ntuple(folder: Path) -> Path:
    with uproot.recreate(folder / "f.root") as file:
        types = {
            "mass": "f8",
            "charge": "i4",
            "jets": "var * float32",
            "hits": "3 * float32",
            "kind": "string",
        }
        ntuple = file.mkrntuple("t", types)
        for rows in (slice(0, 10), slice(10, ROWS)):
            ntuple.extend(
                {
                    "mass": MASSES[rows],
                    "charge": CHARGES[rows].astype(np.int32),
                    "jets": ak.values_astype(ak.Array(JETS[rows]), np.float32),
                    "hits": IMAGES[rows, 0, :3, 0],
                    "kind": ak.Array([f"k{row}" for row in range(ROWS)[rows]]),
                }
            )
    return folder / "f.root"


def csv(folder: Path) -> Path:
    lines = [f"{row},{mass!r},{'GT' if row % 2 else 'TT'}" for row, mass in enumerate(MASSES.tolist())]
    (folder / "f.csv").write_text("row,mass,kind\n" + "\n".join(lines) + "\n")
    return folder / "f.csv"


def csv_gz(folder: Path) -> Path:
    (folder / "f.csv.gz").write_bytes(gzip.compress(csv(folder).read_bytes()))
    return folder / "f.csv.gz"


def spaces(folder: Path) -> Path:
    (folder / "x.txt").write_text("".join(f"  {mass:12.4f}\t{mass * 2:.3e} \n" for mass in MASSES))
    (folder / "y.txt").write_text("".join(f"{charge}\n" for charge in CHARGES))
    return folder / "x.txt"


def npz(folder: Path) -> Path:
    np.savez(folder / "f.npz", image=IMAGES, mass=MASSES)
    return folder / "f.npz"


def npz_compressed(folder: Path) -> Path:
    np.savez_compressed(folder / "f.npz", image=IMAGES, turned=np.asfortranarray(IMAGES))
    return folder / "f.npz"


def npy(folder: Path) -> Path:
    np.save(folder / "f.npy", IMAGES.astype(">f4"))
    return folder / "f.npy"


def png(folder: Path) -> Path:
    for name, rows in (("b", 5), ("a", 3)):
        (folder / "p" / name).mkdir(parents=True)
        for row in range(rows):
            pixels = (IMAGES[row, :, :, 0] * 255).astype(np.uint8)
            Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(folder / "p" / name / f"e{row}.png")
    return folder / "p"


def parquet(folder: Path) -> Path:
    table = pa.table(
        {
            "mass": MASSES,
            "jets": pa.array(JETS, pa.large_list(pa.float32())),
            "hits": pa.FixedSizeListArray.from_arrays(IMAGES.reshape(-1), 24),
            "kind": pa.array(["a", "b"] * 11 + ["a"]).dictionary_encode(),
        }
    )
    (folder / "p").mkdir()
    pq.write_table(table.slice(0, 9), folder / "p" / "0.parquet", row_group_size=4)
    pq.write_table(table.slice(9), folder / "p" / "1.parquet", row_group_size=5)
    return folder / "p"


def dataset(folder: Path) -> Path:
    columns = (Column(name="image", shape=(3, 4, 2), unit="GeV"), Column(name="mass", dtype="float64"))
    schema = EventSchema(task="t", columns=columns, classes=("bg", "sig"))
    with ShardWriter(folder / "d", schema, source={}) as writer:
        writer.write(
            schema.encode(
                {
                    "event_id": np.array([f"e{row}" for row in range(3 * ROWS)], dtype=object),
                    "label": np.arange(3 * ROWS) % 2,
                    "image": np.tile(IMAGES, (3, 1, 1, 1)),
                    "mass": np.tile(MASSES, 3),
                }
            )
        )
    return folder / "d"


def delphes(folder: Path) -> Path:
    write_delphes(folder / "f.root", MASSES, number=np.arange(ROWS))
    return folder / "f.root"


CASES = {
    "delphes": Case("delphes", delphes),
    "hdf5": Case("hdf5", hdf5, {"labels": "labels", "datasets": ["train/image", "train/mass"]}),
    "hdf5 classes": Case("hdf5", hdf5_classes, {"part_per_dataset": True}),
    "hdf5 compound": Case("hdf5", hdf5_compound),
    "hvl": Case("hvl", hvl),
    "root": Case("root", root_tree, {"tree": "dir/t"}),
    "root ntuple": Case("root", root_ntuple),
    "text": Case("text", csv),
    "text gz": Case("text", csv_gz),
    "text spaces": Case("text", spaces, {"label_file": "y.txt"}),
    "npz": Case("npz", npz),
    "npz compressed": Case("npz", npz_compressed),
    "npy": Case("npz", npy),
    "png": Case("png", png),
    "parquet": Case("parquet", parquet),
    "parquet dataset": Case("parquet", dataset),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def opened(case: Case, path: Path) -> Opened:
    reader = READERS[case.reader]
    return reader.open(path, reader.options.model_validate(case.options))


def rows_of(found: Opened, part: Part, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
    return [row for batch in found.read(part, start, stop, part.fields.names) for row in plain(batch)]


def plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    stored = [getattr(column, "storage", column) for column in batch.columns]
    return pa.table(stored, names=batch.schema.names).to_pylist()


@pytest.fixture
def tiny_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    def set_bytes(size: int) -> None:
        for module in (fields, root):
            monkeypatch.setattr(module, "BATCH_BYTES", size)
        monkeypatch.setattr(arrays, "LARGEST_CHUNK", 8 * size)

    return set_bytes


def test_every_registered_reader_is_here() -> None:
    assert {case.reader for case in CASES.values()} == set(READERS)


def test_batches_have_the_schema_that_was_announced(case: Case, tmp_path: Path) -> None:
    found = opened(case, case.write(tmp_path))
    assert found.parts
    for part in found.parts:
        batches = list(found.read(part, 0, None, part.fields.names))
        assert all(batch.schema.equals(part.fields) for batch in batches)
        assert part.rows is None or sum(batch.num_rows for batch in batches) == part.rows
        for name, kind in zip(part.fields.names, part.fields.types, strict=True):
            assert name
            assert not pa.types.is_fixed_size_list(kind)
            assert not pa.types.is_large_list(kind)


def test_rows_are_the_same_however_they_are_divided(
    case: Case, tmp_path: Path, tiny_batches: Callable[[int], None]
) -> None:
    path = case.write(tmp_path)
    whole = [rows_of(opened(case, path), part) for part in opened(case, path).parts]
    for size in (1, 150, 1000):
        tiny_batches(size)
        found = opened(case, path)
        for part, expected in zip(found.parts, whole, strict=True):
            assert rows_of(found, part) == expected
            for cuts in ([0, 1, 8, 9, None], [0, 11, None], [0, 5, 5, 1000]):
                pieces = [rows_of(found, part, *cut) for cut in pairwise(cuts)]
                assert [row for piece in pieces for row in piece] == expected
            assert rows_of(found, part, 3, 6) == expected[3:6]
            assert rows_of(found, part, 10_000) == []


def test_batches_stay_small(case: Case, tmp_path: Path, tiny_batches: Callable[[int], None]) -> None:
    path = case.write(tmp_path)
    tiny_batches(1)
    found = opened(case, path)
    for batch in found.read(found.parts[0], 0, None, found.parts[0].fields.names):
        assert batch.num_rows == 1


def test_only_the_names_that_are_asked_are_read_and_in_their_order(case: Case, tmp_path: Path) -> None:
    found = opened(case, case.write(tmp_path))
    part = found.parts[0]
    whole = rows_of(found, part)
    for names in ([part.fields.names[0]], part.fields.names[::-1]):
        batches = list(found.read(part, 0, None, names))
        assert all(batch.schema.names == list(names) for batch in batches)
        assert [row for batch in batches for row in plain(batch)] == [
            {name: row[name] for name in names} for row in whole
        ]


def test_reading_in_another_process_finds_the_same(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    here, there = opened(case, path), opened(case, path)
    assert here.parts == there.parts
    assert rows_of(here, there.parts[-1]) == rows_of(there, here.parts[-1])


def test_a_field_that_is_absent_is_named_with_the_nearest(case: Case, tmp_path: Path) -> None:
    found = opened(case, case.write(tmp_path))
    name = found.parts[0].fields.names[0]
    with raises(HepRayError, f"'{name}x'", f"'{name}'"):
        list(found.read(found.parts[0], 0, None, [name + "x"]))
    with raises(HepRayError, "name"):
        list(found.read(found.parts[0], 0, None, []))


def test_an_input_that_is_absent_empty_or_something_else_is_named(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    for spoil in (absent, empty, other):
        target = tmp_path / "spoilt" / path.name
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        spoil(target)
        with raises(HepRayError, "spoilt"):
            everything(case, target)


def everything(case: Case, path: Path) -> None:
    found = opened(case, path)
    for part in found.parts:
        for batch in found.read(part, 0, None, part.fields.names):
            assert batch.schema.equals(part.fields)


def absent(path: Path) -> None:
    """Leaves nothing there."""


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_bytes_are_a_named_error_or_harmless(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = CASES[name]
    path = case.write(tmp_path_factory.mktemp("fuzz"))
    files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    target = data.draw(st.sampled_from(files))
    content = bytearray(target.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] ^= data.draw(st.integers(1, 255))
    target.write_bytes(content)
    message = str(path)
    try:
        everything(case, path)
    except HepRayError as fault:
        message = str(fault)
    assert str(path) in message
    shutil.rmtree(path if path.is_dir() else path.parent, ignore_errors=True)
