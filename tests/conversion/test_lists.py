"""Lists of varying length: the same column from ROOT, Parquet and HDF5, and what is refused or cut."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import SchemaFile, parse_schema
from hep_ray.dataset.dataset import Dataset, Manifest
from hep_ray.dataset.schema import Column
from hep_ray.dataset.values import mask_of
from hep_ray.errors import InvalidEvents, InvalidSchema
from tests.facts import raises

EVENTS, ROOM = 120, 9
LENGTHS = np.random.default_rng(1).integers(0, 8, EVENTS)  # 0 to 7 items
LENGTHS[5] = 7
PT, ETA = np.random.default_rng(2).normal(size=(2, int(LENGTHS.sum()))).astype(np.float32)
LABELS = np.arange(EVENTS) % 2
BOTH = 'sources = ["part_pt", "part_eta"]\nelements = ["pt", "eta"]'


def rules(reader: str, max_length: int = 7, more: str = "", sources: str = BOTH) -> SchemaFile:
    return parse_schema(
        f'reader = "{reader}"\nclasses = ["a", "b"]\n[label]\nfrom = "field"\nfield = "label"\n'
        f'[[columns]]\nname = "particles"\nmax_length = {max_length}\n{sources}\n{more}',
        "here",
    )


def write_root(folder: Path) -> tuple[Path, SchemaFile]:
    with uproot.recreate(folder / "events.root") as file:
        lists = {name: ak.unflatten(flat, LENGTHS) for name, flat in (("pt", PT), ("eta", ETA))}
        file["tree"] = {"label": LABELS, "part": ak.zip(lists)}
    return folder / "events.root", rules("root", sources=BOTH.replace("part_", "part."))


def write_parquet(folder: Path) -> tuple[Path, SchemaFile]:
    offsets = pa.array(np.concatenate([[0], np.cumsum(LENGTHS)]), pa.int32())
    lists = {
        name: pa.ListArray.from_arrays(offsets, pa.array(flat))
        for name, flat in (("part_pt", PT), ("part_eta", ETA))
    }
    pq.write_table(pa.table({"label": LABELS, **lists}), folder / "events.parquet")
    return folder / "events.parquet", rules("parquet")


def write_lists_of_arrays(folder: Path) -> tuple[Path, SchemaFile]:
    offsets = pa.array(np.concatenate([[0], np.cumsum(LENGTHS)]), pa.int32())
    flat = pa.array(np.stack([PT, ETA], axis=1).reshape(-1))
    lists = pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(flat, 2))
    pq.write_table(pa.table({"label": LABELS, "part": lists}), folder / "pairs.parquet")
    return folder / "pairs.parquet", rules("parquet", sources='sources = ["part"]\nelements = ["pt", "eta"]')


def write_hdf5(folder: Path) -> tuple[Path, SchemaFile]:
    """Arrays of fixed length, filled up with −1, and a count."""
    filled = np.full((2, EVENTS, ROOM), -1, np.float32)
    filled[:, np.arange(ROOM) < LENGTHS[:, None]] = [PT, ETA]
    with h5py.File(folder / "events.h5", "w") as file:
        named = {"label": LABELS, "part_pt": filled[0], "part_eta": filled[1], "n_part": LENGTHS}
        for name, values in named.items():
            file[name] = values
    return folder / "events.h5", rules("hdf5", more='count = "n_part"')


def write_hdf5_lists(folder: Path) -> tuple[Path, SchemaFile]:
    ends = np.cumsum(LENGTHS)[:-1]
    with h5py.File(folder / "lists.h5", "w") as file:
        file["label"] = LABELS
        for name, flat in (("part_pt", PT), ("part_eta", ETA)):
            file.create_dataset(name, (EVENTS,), h5py.vlen_dtype(np.float32))[:] = np.split(flat, ends)
    return folder / "lists.h5", rules("hdf5")


WRITERS = (write_root, write_parquet, write_lists_of_arrays, write_hdf5, write_hdf5_lists)


def by_row(manifest: Manifest, folder: Path) -> npt.NDArray[np.float32]:
    """The lists in the order of the file."""
    arrays = [Dataset.open(folder).arrays(split, purpose="check") for split in ("train", "val", "test")]
    rows = [int(name.rpartition("/")[2]) for part in arrays for name in part["event_id"]]
    values = np.concatenate([part["particles"] for part in arrays])
    assert sorted(rows) == list(range(EVENTS))
    return values[np.argsort(rows)]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_lists(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path, schema = write(tmp_path)
    manifest = convert([path], None, None, tmp_path / "out", schema=schema)
    assert manifest.event_schema.columns == (
        Column(name="particles", shape=(7, 2), elements=("pt", "eta"), lists=True),
    )
    found = by_row(manifest, tmp_path / "out")
    present = mask_of(found)
    assert present.sum(axis=1).tolist() == LENGTHS.tolist()
    np.testing.assert_array_equal(found[present], np.stack([PT, ETA], axis=1))
    assert manifest.source["notes"] == []


def test_a_dataset_with_lists_is_converted_again(tmp_path: Path) -> None:
    path, schema = write_root(tmp_path)
    first = convert([path], None, None, tmp_path / "out", schema=schema)
    again = convert([tmp_path / "out"], "parquet", None, tmp_path / "again")
    assert again.event_schema.columns == first.event_schema.columns
    np.testing.assert_array_equal(by_row(again, tmp_path / "again"), by_row(first, tmp_path / "out"))


@pytest.mark.parametrize("write", [write_root, write_hdf5])
def test_longer_lists_are_refused_without_leave_to_cut(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path, schema = write(tmp_path)
    column = schema.columns[0].model_copy(update={"max_length": 5})
    long = int((LENGTHS > 5).sum())
    with raises(
        InvalidEvents,
        "particles",
        "max_length = 5",
        f"{long - 1} more of 120",
        "max_length = 7",
        "cut = true",
    ):
        convert([path], None, None, tmp_path / "out", schema=schema.model_copy(update={"columns": (column,)}))
    assert not (tmp_path / "out").exists()


def test_what_is_cut_is_counted(tmp_path: Path) -> None:
    path, _ = write_parquet(tmp_path)
    manifest = convert([path], None, None, tmp_path / "out", schema=rules("parquet", 5, "cut = true"))
    found = by_row(manifest, tmp_path / "out")
    assert mask_of(found).sum(axis=1).tolist() == np.minimum(LENGTHS, 5).tolist()
    starts = np.cumsum(LENGTHS) - LENGTHS
    assert found[5, :, 0].tolist() == PT[starts[5] : starts[5] + 5].tolist()  # the first ones
    longer = np.maximum(LENGTHS - 5, 0)
    (note,) = manifest.source["notes"]  # type: ignore[misc]
    for fact in (
        "'particles'",
        "5 items",
        f"{(longer > 0).sum()} events",
        f"{longer.sum()} of {LENGTHS.sum()} items",
    ):
        assert fact in str(note)


def test_what_makes_no_lists_is_refused(tmp_path: Path) -> None:
    path, _ = write_hdf5(tmp_path)
    with raises(InvalidSchema, "particles", "count"):  # arrays of fixed length, and nobody counts
        convert([path], None, None, tmp_path / "out", schema=rules("hdf5"))
    with raises(InvalidSchema, "particles", "'n_parts'", "'n_part'"):
        convert([path], None, None, tmp_path / "out", schema=rules("hdf5", more='count = "n_parts"'))
    for wrong in ("pad_to = 3", 'axes = ["phi", "eta"]', "shape = [7, 2]"):
        with raises(InvalidSchema, "particles", "max_length"):
            rules("root", more=wrong)
    for alone in ("cut = true", 'count = "n_part"'):
        with raises(InvalidSchema, "x", "max_length"):
            parse_schema(f'reader = "root"\n[[columns]]\nname = "x"\n{alone}', "here")
    offsets = pa.array([0, 2, 3], pa.int32())
    pt = pa.ListArray.from_arrays(offsets, pa.array([1.0, 2.0, 3.0]))
    eta = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), pa.array([1.0, 2.0, 3.0]))
    pq.write_table(pa.table({"label": [0, 1], "part_pt": pt, "part_eta": eta}), tmp_path / "uneven.parquet")
    with raises(InvalidEvents, "particles", "'part_pt' 2", "'part_eta' 1"):
        convert([tmp_path / "uneven.parquet"], None, None, tmp_path / "out", schema=rules("parquet"))


def test_an_item_without_a_value_is_refused_or_filled(tmp_path: Path) -> None:
    flat = np.where(np.arange(len(PT)) == 40, np.nan, PT)
    offsets = pa.array(np.concatenate([[0], np.cumsum(LENGTHS)]), pa.int32())
    lists = {
        "part_pt": pa.ListArray.from_arrays(offsets, pa.array(flat)),
        "part_eta": pa.ListArray.from_arrays(offsets, pa.array(ETA)),
    }
    pq.write_table(pa.table({"label": LABELS, **lists}), tmp_path / "holes.parquet")
    event = int(np.repeat(np.arange(EVENTS), LENGTHS)[40])
    with raises(InvalidEvents, "particles", f"{event}'", "missing"):
        convert([tmp_path / "holes.parquet"], None, None, tmp_path / "out", schema=rules("parquet"))
    manifest = convert(
        [tmp_path / "holes.parquet"],
        None,
        None,
        tmp_path / "out",
        schema=rules("parquet", more="missing = 0.0"),
    )
    found = by_row(manifest, tmp_path / "out")
    assert found[mask_of(found)][40, 0] == 0.0
