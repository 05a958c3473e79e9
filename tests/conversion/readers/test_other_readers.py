"""ROOT trees, folders of pictures and Parquet: what becomes a field, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from PIL import Image

from hep_ray.conversion.readers import READERS, Opened
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents, NoEvents, ShardMismatch, UnreadableInput
from tests.facts import raises


def opened(reader: str, path: Path, **options: Any) -> Opened:
    return READERS[reader].open(path, READERS[reader].options(**options))


def column(found: Opened, name: str, part: int = 0) -> list[Any]:
    batches = list(found.read(found.parts[part], 0, None, [name]))
    return [value for batch in batches for value in batch.column(0).to_pylist()]


def root_file(path: Path, trees: dict[str, dict[str, Any]]) -> Path:
    with uproot.recreate(path) as file:
        for name, branches in trees.items():
            file.mktree(name, {key: values.type for key, values in branches.items()})
            file[name].extend(branches)
    return path


def test_root_branches_keep_type_and_value(tmp_path: Path) -> None:
    path = root_file(
        tmp_path / "f.root",
        {
            "t": {
                "run": ak.Array(np.array([7, 8, 9], np.uint32)),
                "tight": ak.Array(np.array([True, False, True])),
                "jet": ak.Array([[1.5], [], [2.5, 3.5]]),
                "cov": ak.Array(np.arange(12, dtype=np.float32).reshape(3, 2, 2)),
            }
        },
    )
    found = opened("root", path)
    (part,) = found.parts
    assert (part.name, part.rows) == ("t", 3)
    types = dict(zip(part.fields.names, part.fields.types, strict=True))
    assert types["run"] == pa.uint32()
    assert types["tight"] == pa.bool_()
    assert types["jet"] == pa.list_(pa.float64())
    assert types["cov"] == pa.fixed_shape_tensor(pa.float32(), [2, 2])
    assert column(found, "run") == [7, 8, 9]
    assert column(found, "tight") == [True, False, True]
    assert column(found, "jet") == [[1.5], [], [2.5, 3.5]]
    assert column(found, "cov") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_an_ntuple_is_read_as_a_tree_is(tmp_path: Path) -> None:
    rows = 7
    jets = ak.Array([[0.5] * (row % 3) for row in range(rows)])
    data = {
        "run": np.arange(rows, dtype=np.uint32),
        "tight": np.arange(rows) % 2 == 0,
        "jet": jets,
        "cov": np.arange(rows * 4, dtype=np.float32).reshape(rows, 2, 2),
        "muon": ak.zip({"pt": jets, "q": ak.values_astype(jets * 2, np.int8)}),
        "MET.phi": np.arange(rows) / 2,
    }
    with uproot.recreate(tmp_path / "f.root") as file:
        file["events"] = data
    found = opened("root", tmp_path / "f.root")
    (part,) = found.parts
    assert (part.name, part.rows) == ("events", rows)
    types = dict(zip(part.fields.names, part.fields.types, strict=True))
    assert types == {
        "run": pa.uint32(),
        "tight": pa.bool_(),
        "jet": pa.list_(pa.float64()),
        "cov": pa.fixed_shape_tensor(pa.float32(), [2, 2]),
        "muon.pt": pa.list_(pa.float64()),
        "muon.q": pa.list_(pa.int8()),
        "MET.phi": pa.float64(),
    }
    assert column(found, "run") == list(range(rows))
    assert column(found, "jet") == column(found, "muon.pt") == jets.to_list()
    assert column(found, "muon.q") == [[1] * (row % 3) for row in range(rows)]
    assert column(found, "cov") == [[4 * row, 4 * row + 1, 4 * row + 2, 4 * row + 3] for row in range(rows)]
    with raises(InvalidConfig, "'muon.ptt'", "'muon.pt'"):
        column(found, "muon.ptt")
    with uproot.update(tmp_path / "f.root") as file:
        file["more"] = {"x": np.zeros(3)}
    with raises(InvalidConfig, "--set tree=events"):
        opened("root", tmp_path / "f.root")
    assert column(opened("root", tmp_path / "f.root", tree="more"), "x") == [0, 0, 0]


def test_a_tree_is_named_where_there_are_several(tmp_path: Path) -> None:
    values = ak.Array(np.zeros(2))
    path = root_file(tmp_path / "f.root", {"dir/signal": {"x": values}, "noise": {"y": values}})
    with raises(InvalidConfig, "dir/signal, noise", "--set tree=dir/signal"):
        opened("root", path)
    with raises(InvalidConfig, "'dir/signl'", "'dir/signal'"):
        opened("root", path, tree="dir/signl")
    assert opened("root", path, tree="dir/signal").parts[0].name == "dir/signal"
    with raises(InvalidConfig, "'xy'", "dir/signal", "x"):
        opened("root", path, tree="dir/signal", branches=["xy"])


def test_root_files_without_events_are_refused(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        file["h"] = np.histogram(np.zeros(3))
    with raises(UnreadableInput, tmp_path / "f.root", "h (TH1D)"):
        opened("root", tmp_path / "f.root")
    path = root_file(tmp_path / "g.root", {"t": {"x": ak.Array(np.zeros(0))}})
    with raises(UnreadableInput, tmp_path / "g.root", "t", 0):
        opened("root", path)


def test_root_branches_of_other_types_are_named_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root_file(tmp_path / "f.root", {"t": {"x": ak.Array(np.zeros(2)), "y": ak.Array(np.zeros(2))}})
    field = READERS["root"].open.__globals__["_field_of_branch"]
    monkeypatch.setitem(
        READERS["root"].open.__globals__,
        "_field_of_branch",
        lambda name, branch: None if name == "y" else field(name, branch),
    )
    found = opened("root", path)
    assert found.parts[0].fields.names == ["x"]
    with raises(InvalidConfig, "'y'", "double"):
        column(found, "y")


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_pictures_keep_pixels_channels_and_names(tmp_path: Path) -> None:
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    picture(tmp_path / "a" / "e10.png", colours)
    picture(tmp_path / "a" / "e9.png", colours + 1)
    picture(tmp_path / "b" / "e1.png", np.array([[0, 65535]], np.uint16))
    (tmp_path / "a" / "note.txt").write_text("no picture")
    found = opened("png", tmp_path)
    assert [(part.name, part.rows) for part in found.parts] == [("a", 2), ("b", 1)]
    assert column(found, "event_id") == ["e10.png", "e9.png"]
    assert column(found, "image") == [colours.ravel().tolist(), (colours + 1).ravel().tolist()]
    assert found.parts[1].fields.field("image").type == pa.fixed_shape_tensor(pa.uint16(), [1, 2, 1])
    assert column(found, "image", part=1) == [[0, 65535]]


def test_pictures_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", np.zeros((2, 2), np.uint8))
    picture(tmp_path / "a" / "2.png", np.zeros((2, 3), np.uint8))
    with raises(InvalidEvents, tmp_path / "a/2.png", "(2, 3, 1)", "(2, 2, 1)"):
        column(opened("png", tmp_path), "image")
    picture(tmp_path / "a" / "2.png", np.zeros((2, 2, 3), np.uint8))
    with raises(InvalidEvents, tmp_path / "a/2.png", "(2, 2, 3)", "(2, 2, 1)"):
        column(opened("png", tmp_path), "image")
    Image.new("P", (2, 2)).save(tmp_path / "a" / "1.png")
    with raises(InvalidEvents, tmp_path / "a/1.png", "P"):
        opened("png", tmp_path)
    picture(tmp_path / "3.png", np.zeros((2, 2), np.uint8))
    with raises(InvalidConfig, tmp_path, "3.png", "a"):
        opened("png", tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "3.png").unlink()
    picture(tmp_path / "a" / "1.png", np.zeros((2, 2), np.uint8))
    assert [(part.name, part.rows) for part in opened("png", tmp_path).parts] == [("a", 2), ("c", 0)]
    with raises(NoEvents, tmp_path / "c", ".png"):
        opened("png", tmp_path / "c")


def test_parquet_columns_become_fields_or_are_named(tmp_path: Path) -> None:
    table = pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(np.arange(12.0), 3), 2),
            "day": pa.array([0, 1], pa.date32()),
            "kind": pa.array(["a", "b"], pa.large_string()),
            "n": pa.array([1, None], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    found = opened("parquet", tmp_path / "f.parquet")
    assert found.parts[0].fields.names == ["x", "kind", "n"]
    assert found.parts[0].fields.field("x").type == pa.fixed_shape_tensor(pa.float64(), [2, 3])
    assert column(found, "x") == [list(range(6)), list(range(6, 12))]
    assert column(found, "kind") == ["a", "b"]
    assert found.parts[0].fields.field("n").nullable
    assert column(found, "n") == [1, None]
    pair = pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2))
    pq.write_table(pa.table({"pair": pair}), tmp_path / "lists.parquet")
    with raises(UnreadableInput, tmp_path / "lists.parquet", "size=2"):
        column(opened("parquet", tmp_path / "lists.parquet"), "pair")
    with raises(InvalidConfig, "'day'", "date32"):
        column(found, "day")


def test_parquet_files_of_a_folder_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"y": [1]}), tmp_path / "1.parquet")
    with raises(InvalidConfig, "1.parquet", "y: int64", "0.parquet", "x: int64"):
        opened("parquet", tmp_path)


def test_names_of_folders_are_fields_as_hive_writes_them(tmp_path: Path) -> None:
    expected = []
    for label in (0, 1):
        for mass, kind in ((10, "a b"), (2.5, "c")):
            for number in range(2):
                folder = tmp_path / "d" / f"label={label}" / f"mass={mass}" / f"kind={quote(kind)}"
                folder.mkdir(parents=True, exist_ok=True)
                rows = [100.0 * label + mass + number, -1.0]
                pq.write_table(pa.table({"pt": rows}), folder / f"part-{number}.parquet")
                expected += [(value, label, mass, kind) for value in rows]
    (tmp_path / "d" / "_SUCCESS").touch()
    found = opened("parquet", tmp_path / "d")
    (part,) = found.parts
    assert (part.rows, part.fields.names) == (16, ["pt", "label", "mass", "kind"])
    assert part.fields.types == [pa.float64(), pa.int64(), pa.float64(), pa.string()]
    batches = list(found.read(part, 0, None, ["kind", "pt", "mass", "label"]))
    rows = [tuple(row[name] for name in part.fields.names) for batch in batches for row in batch.to_pylist()]
    assert sorted(rows) == sorted(expected)
    assert column(found, "label") == [0] * 8 + [1] * 8
    assert [batch.num_rows for batch in found.read(part, 1, 4, ["label"])] == [1, 2]
    (tmp_path / "d" / "label=1" / "mass=__HIVE_DEFAULT_PARTITION__").mkdir()
    pq.write_table(pa.table({"pt": [1.0]}), tmp_path / "d/label=1/mass=__HIVE_DEFAULT_PARTITION__/p.parquet")
    with raises(InvalidConfig, "label, mass", "label, mass, kind"):
        opened("parquet", tmp_path / "d")
    (tmp_path / "v" / "year=__HIVE_DEFAULT_PARTITION__").mkdir(parents=True)
    pq.write_table(pa.table({"pt": [1.0]}), tmp_path / "v/year=__HIVE_DEFAULT_PARTITION__/p.parquet")
    with raises(InvalidConfig, "year=__HIVE_DEFAULT_PARTITION__"):
        opened("parquet", tmp_path / "v")
    (tmp_path / "e").mkdir()
    with raises(UnreadableInput, tmp_path / "e", ".parquet"):
        opened("parquet", tmp_path / "e")


def dataset(folder: Path) -> EventSchema:
    columns = (Column(name="v", shape=(2,), elements=("pt", "eta"), element_units=("GeV", "")),)
    schema = EventSchema(task="t", columns=columns, classes=("bg", "sig"), signal="bg")
    events = 60
    with ShardWriter(folder, schema, source={}) as writer:
        writer.write(
            schema.encode(
                {
                    "event_id": np.array([f"e{event}" for event in range(events)], dtype=object),
                    "label": np.arange(events) % 2,
                    "v": np.arange(2 * events, dtype=np.float32).reshape(events, 2),
                }
            )
        )
    return schema


def test_a_dataset_folder_gives_back_its_events_and_schema(tmp_path: Path) -> None:
    schema = dataset(tmp_path / "d")
    found = opened("parquet", tmp_path / "d")
    (part,) = found.parts
    assert json.loads(part.fields.metadata[b"hep_ray.event_schema"]) == schema.model_dump(mode="json")
    events = zip(*(column(found, name) for name in ("event_id", "label", "v")), strict=True)
    assert {event_id: (label, value) for event_id, label, value in events} == {
        f"e{event}": (event % 2, [2 * event, 2 * event + 1]) for event in range(60)
    }


def test_a_dataset_folder_is_verified_again_when_it_changes(tmp_path: Path) -> None:
    dataset(tmp_path / "d")
    opened("parquet", tmp_path / "d")
    shard = next((tmp_path / "d").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with raises(ShardMismatch, shard.name, "truncated"):
        opened("parquet", tmp_path / "d")
