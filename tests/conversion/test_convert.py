"""Conversions as a whole: one contract for every format, and what they do to hostile input."""

from __future__ import annotations

import gzip
import hashlib
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hep_ray.conversion.convert import convert
from hep_ray.conversion.readers import READERS
from hep_ray.conversion.schema_file import known_schemas, load_schema, parse_schema
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import MANIFEST, Dataset, Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule
from hep_ray.errors import HepRayError, InvalidConfig, InvalidEvents, InvalidSchema, StorageError
from tests.conversion.delphes_files import write_delphes
from tests.facts import raises

EVENTS = 200
Table = dict[str, np.ndarray]


def table(events: int = EVENTS, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    numbers = {name: np.round(random.normal(size=events), 4) for name in ("eta", "pt")}
    return {**numbers, "label": np.arange(events) % 2}


def write_hdf5(folder: Path, rows: Table) -> Path:
    with h5py.File(folder / "events.h5", "w") as file:
        for name, values in rows.items():
            file[name] = values
    return folder / "events.h5"


def write_npz(folder: Path, rows: Table) -> Path:
    np.savez(folder / "events.npz", **rows)
    return folder / "events.npz"


def write_parquet(folder: Path, rows: Table) -> Path:
    pq.write_table(pa.table(rows), folder / "events.parquet")
    return folder / "events.parquet"


def write_root(folder: Path, rows: Table) -> Path:
    with uproot.recreate(folder / "events.root") as file:
        file.mktree("tree", {name: values.dtype for name, values in rows.items()}).extend(rows)
    return folder / "events.root"


def write_text(folder: Path, rows: Table) -> Path:
    lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    return folder / "events.csv"


def images(rows: Table) -> np.ndarray:
    return (np.abs(np.stack([rows["pt"], rows["eta"], rows["pt"]], axis=1)) * 50).astype(np.uint8)


def write_hvl(folder: Path, rows: Table) -> list[Path]:
    for label, name in enumerate(("bg", "sig")):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for row in np.flatnonzero(rows["label"] == label):
                file[f"event_{row:05d}/data"] = np.tile(images(rows)[row].astype(np.float64), (4, 4, 1))
    return [folder / "bg.h5", folder / "sig.h5"]


def write_png(folder: Path, rows: Table) -> list[Path]:
    for label, name in enumerate(("bg", "sig")):
        (folder / name).mkdir(exist_ok=True)
        for row in np.flatnonzero(rows["label"] == label):
            pixels = np.tile(images(rows)[row], (4, 4, 1))
            Image.fromarray(pixels).save(folder / name / f"event_{row}.png")
    return [folder / "bg", folder / "sig"]


def write_delphes_pair(folder: Path, rows: Table) -> list[Path]:
    for label, name in enumerate(("bg", "sig")):
        write_delphes(folder / f"{name}.root", rows["pt"][rows["label"] == label])
    return [folder / "bg.root", folder / "sig.root"]


WRITERS: dict[str, Callable[[Path, Table], Any]] = {
    "delphes": write_delphes_pair,
    "hdf5": write_hdf5,
    "hvl": write_hvl,
    "npz": write_npz,
    "parquet": write_parquet,
    "png": write_png,
    "root": write_root,
    "text": write_text,
}
TABULAR = ("hdf5", "npz", "parquet", "root", "text")
LABELLED = 'reader = "{}"\nclasses = ["bg", "sig"]\n[label]\nfrom = "field"\nfield = "label"\n'


def converted(folder: Path, reader: str, rows: Table, **options: Any) -> Manifest:
    """Write the rows in a format, in `folder`, and convert them to the dataset `folder/out`."""
    folder.mkdir(exist_ok=True)
    written = WRITERS[reader](folder, rows)
    paths = written if isinstance(written, list) else [written]
    schema = parse_schema(LABELLED.format(reader), "test") if reader in TABULAR else None
    return convert(paths, reader, ["bg", "sig"], folder / "out", schema=schema, **options)


def splits(folder: Path) -> dict[str, str]:
    """Event id → split."""
    dataset = Dataset.open(folder)
    return {
        event_id: split
        for split in SPLITS
        for path in dataset.paths(split, purpose="check")
        for event_id in pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    }


def test_every_reader_is_under_contract() -> None:
    assert set(WRITERS) == set(READERS)


@pytest.mark.parametrize("reader", READERS)
def test_the_dataset_is_sound(reader: str, tmp_path: Path) -> None:
    manifest = converted(tmp_path / "a", reader, table())
    assert manifest.class_counts() == {"bg": 100, "sig": 100}
    report = check(tmp_path / "a/out")
    # A few of the rounded pictures are alike by chance; nothing else may be found.
    assert [problem for problem in report.problems if reader in TABULAR] == []


@pytest.mark.parametrize("reader", READERS)
def test_splits_stay_when_rows_are_added(reader: str, tmp_path: Path) -> None:
    more = {name: np.concatenate([values, values[:50]]) for name, values in table().items()}
    converted(tmp_path / "a", reader, table())
    converted(tmp_path / "b", reader, more)
    few, many = splits(tmp_path / "a/out"), splits(tmp_path / "b/out")
    assert len(many) == len(few) + 50
    assert few.items() <= many.items()


@pytest.mark.parametrize("reader", READERS)
def test_the_fingerprint_changes_when_and_only_when_the_content_does(reader: str, tmp_path: Path) -> None:
    rows = table()
    first = converted(tmp_path / "a", reader, rows)
    again = converted(tmp_path / "b", reader, rows)
    assert first.fingerprint == again.fingerprint
    rows["pt"] = rows["pt"].copy()
    rows["pt"][17] += 1.5
    assert converted(tmp_path / "c", reader, rows).fingerprint != first.fingerprint


def test_the_same_table_gives_the_same_dataset_in_every_format(tmp_path: Path) -> None:
    made = {converted(tmp_path / reader, reader, table()).fingerprint for reader in TABULAR}
    assert len(made) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_two_workers_give_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hep_ray.conversion.convert.TASK_BYTES", 200)
    one = converted(tmp_path / "a", "root", table())
    two = converted(tmp_path / "b", "root", table(), workers=2)
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in two.shards]


def test_classes_sorted_in_the_file_are_mixed_in_the_shards(tmp_path: Path) -> None:
    rows = table(2000)
    rows["label"] = np.sort(rows["label"])
    manifest = converted(tmp_path / "a", "text", rows)
    first = pq.read_table(tmp_path / "a/out" / manifest.shards[0].file)["label"].to_numpy()[:100]
    # 100 rows of a fair mixture: 50 ± 5, so outside 25 … 75 once in two million.
    assert 25 < first.sum() < 75


def test_duplicates_are_dropped_and_contradictions_with_them(tmp_path: Path) -> None:
    rows = table(100)
    rows = {name: np.concatenate([values, values[:20]]) for name, values in rows.items()}
    rows["label"][100:105] = 1 - rows["label"][100:105]
    manifest = converted(tmp_path / "a", "hdf5", rows, drop_duplicates=True)
    # Of 100 distinct events 5 come in both classes and are left out.
    assert sum(manifest.class_counts().values()) == 95
    assert check(tmp_path / "a/out").problems == ()


def test_balance_keeps_as_many_as_the_rarest_class_has(tmp_path: Path) -> None:
    rows = table(400)
    rows["label"] = (np.arange(400) % 8 == 0).astype(int)
    whole = converted(tmp_path / "a", "npz", rows)
    balanced = converted(tmp_path / "b", "npz", rows, balance=True)
    for split in SPLITS:
        rarest = whole.class_counts(split)["sig"]
        assert balanced.class_counts(split) == {"bg": rarest, "sig": rarest}
    assert splits(tmp_path / "b/out").items() <= splits(tmp_path / "a/out").items()


def test_a_selection_keeps_what_fulfils_it(tmp_path: Path) -> None:
    rows = table()
    manifest = converted(tmp_path / "a", "root", rows, selection="pt > 0 and abs(eta) < 1")
    expected = (rows["pt"] > 0) & (np.abs(rows["eta"]) < 1)
    assert sum(manifest.class_counts().values()) == expected.sum()


def test_the_test_split_may_be_decided_by_an_expression(tmp_path: Path) -> None:
    rule = SplitRule(train_where="abs(eta) < 0.65")
    manifest = converted(tmp_path / "a", "text", table(), rule=rule)
    for shard in manifest.shards:
        eta = pq.read_table(tmp_path / "a/out" / shard.file)["eta"].to_numpy()
        assert ((np.abs(eta) < np.float32(0.65)) == (shard.split != "test")).all()
    assert check(tmp_path / "a/out").problems == ()


def test_a_dataset_is_converted_again_with_its_own_splits(tmp_path: Path) -> None:
    converted(tmp_path / "a", "hdf5", table())
    convert([tmp_path / "a/out"], "parquet", None, tmp_path / "b", selection="pt > 0")
    assert splits(tmp_path / "b").items() <= splits(tmp_path / "a/out").items()
    assert 0 < len(splits(tmp_path / "b")) < EVENTS
    same = convert([tmp_path / "a/out"], "parquet", None, tmp_path / "c")
    assert same.fingerprint == Manifest.load(tmp_path / "a/out").fingerprint


MULTI_PART = """
task = "electrons"
reader = "root"
classes = ["jet", "electron"]
weight = "w"
group = "region"
[label]
from = "where"
where = ["kind == 0", "kind == 1"]
[event_id]
fields = ["run", "event"]
[[columns]]
name = "tracks"
sources = ["trk_pt", "trk_eta"]
pad_to = 3
pad_value = -1
[[columns]]
name = "scalars"
sources = ["a", "b"]
element_units = ["GeV", ""]
[[columns]]
name = "w"
[[columns]]
name = "region"
expression = "1 * (abs(a) > 1) + 0"
dtype = "int64"
"""


def test_an_event_may_have_many_parts(tmp_path: Path) -> None:
    number = np.arange(60)
    flat = {
        "run": np.full(60, 7),
        "event": number,
        "kind": number % 3,
        "w": np.ones(60, np.float32),
        "a": number / 10,
        "b": -number / 10,
    }
    tracks = awkward.Array([list(range(count % 5)) for count in range(60)])
    with uproot.recreate(tmp_path / "e.root") as file:
        file.mktree("t", {name: values.dtype for name, values in flat.items()}).extend(flat)
    with uproot.recreate(tmp_path / "j.root") as file:
        types = {name: values.dtype for name, values in flat.items()}
        tree = file.mktree("t", {**types, "trk": "var * {pt: float64, eta: float64}"})
        tree.extend({**flat, "trk": awkward.zip({"pt": tracks * 1.0, "eta": tracks * 2.0})})
    schema = parse_schema(MULTI_PART, "test")
    convert([tmp_path / "j.root"], None, None, tmp_path / "out", schema=schema)
    dataset = Dataset.open(tmp_path / "out")
    assert (dataset.schema.weight, dataset.schema.group) == ("w", "region")
    assert [column.name for column in dataset.schema.inputs] == ["tracks", "scalars"]
    events_read = dataset.schema.decode(
        pq.read_table(dataset.paths("train")[0]).combine_chunks().to_batches()[0]
    )
    for row, event_id in enumerate(events_read["event_id"]):
        name, run, event = event_id.split("/")
        event = int(event)
        assert (name, run, event % 3) == (("jet", "electron")[event % 3], "7", event % 3)
        # Event k has k mod 5 tracks with p_T 0, 1, 2 …; three places, filled with −1.
        count = min(event % 5, 3)
        assert events_read["tracks"][row, :, 0].tolist() == [*range(count), *[-1] * (3 - count)]
        assert events_read["region"][row] == (event > 10)
    with raises(InvalidSchema, "'tracks'", "'trk_pt'"):
        convert([tmp_path / "e.root"], None, None, tmp_path / "no", schema=schema)
    assert not (tmp_path / "no").exists()


def test_a_truncated_gzip_leaves_nothing(tmp_path: Path) -> None:
    text = write_text(tmp_path, table(5000)).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text)[:-2000])
    schema = parse_schema(LABELLED.format("text"), "test")
    with raises(HepRayError, tmp_path / "cut.csv.gz"):
        convert([tmp_path / "cut.csv.gz"], None, None, tmp_path / "out", schema=schema)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.csv.gz", "events.csv"]


@pytest.mark.parametrize(
    ("mend", "error", "facts"),
    [
        (lambda rows: rows.pop("label"), InvalidSchema, ["'label'"]),
        (lambda rows: rows["label"].__setitem__(3, 7), InvalidEvents, ["events.h5", "row 3", 7]),
        (
            lambda rows: rows["pt"].__setitem__(5, np.nan),
            InvalidEvents,
            ["'pt'", "'sig/events/5'"],
        ),
        (lambda rows: rows["label"].fill(0), InvalidEvents, ["'sig'", 0]),
    ],
)
def test_broken_events_are_named(
    mend: Any, error: type[HepRayError], facts: list[object], tmp_path: Path
) -> None:
    rows = table()
    mend(rows)
    with raises(error, *facts):
        converted(tmp_path / "a", "hdf5", rows)
    assert not (tmp_path / "a/out").exists()


def test_values_that_a_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    rows = table() | {"n": np.arange(EVENTS) * 10}
    schema = parse_schema(LABELLED.format("hdf5") + '[[columns]]\nname = "n"\ndtype = "uint8"\n', "test")
    with raises(InvalidEvents, "'n'", "uint8", "row 26", 260):
        convert([write_hdf5(tmp_path, rows)], None, None, tmp_path / "out", schema=schema)


@pytest.mark.parametrize("room", [0, 2_000, 20_000])
def test_a_disk_that_fills_up_is_named_and_leaves_nothing(room: int, tmp_path: Path) -> None:
    """The kernel refuses every write beyond so many bytes of a file: in the runs, in a shard, wherever it is met."""
    rows = table(EVENTS * 20)
    write_npz(tmp_path, rows)
    schema = parse_schema(LABELLED.format("npz"), "test")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with raises(StorageError, "File too large"):
            convert([tmp_path / "events.npz"], "npz", ["bg", "sig"], tmp_path / "out", schema=schema)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["events.npz"]


def test_inputs_name_their_classes_or_stand_in_order(tmp_path: Path) -> None:
    bg, sig = write_hvl(tmp_path, table())
    named = convert([f"sig={sig}", f"bg={bg}"], "hvl", ["bg", "sig"], tmp_path / "a")
    ordered = convert([bg, sig], "hvl", ["bg", "sig"], tmp_path / "b")
    assert named.fingerprint == ordered.fingerprint
    with raises(InvalidConfig, "CLASS=PATH", "['bg', 'sig']"):
        convert([bg], "hvl", ["bg", "sig"], tmp_path / "c")
    with raises(InvalidConfig, "bg, sig", "'x'"):
        convert([f"x={sig}", f"bg={bg}"], "hvl", ["bg", "sig"], tmp_path / "d")


@pytest.mark.parametrize("name", known_schemas())
def test_ready_made_schemas_are_understood(name: str) -> None:
    rules = load_schema(name)
    assert rules.reader in READERS


@given(
    st.text(max_size=200)
    | st.builds(
        lambda key, value: LABELLED.format("text") + f"[[columns]]\nname = {key}\n{value}\n",
        st.sampled_from(['"a"', "3", '"event_id"', '""', "[]"]),
        st.sampled_from(["pad_to = 0", 'expression = "a b"', "shape = [-1]", 'dtype = "int3"', "x = 1", "="]),
    )
)
def test_any_schema_file_is_read_or_named(text: str) -> None:
    said = "fuzz.toml"
    try:
        parse_schema(text, "fuzz.toml")
    except HepRayError as fault:
        said = str(fault)
    assert "fuzz.toml" in said


@given(data=st.data())
def test_any_manifest_is_read_or_named(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("dataset")
    converted(folder, "npz", table())
    path = folder / "out" / MANIFEST
    text = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start, min(len(text), start + 40)))
    text[start:stop] = data.draw(st.binary(max_size=20))
    path.write_bytes(bytes(text))
    try:
        check(folder / "out")
        Dataset.open(folder / "out")
    except HepRayError:
        pass


@given(data=st.data())
def test_any_shard_is_whole_or_named(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("dataset")
    manifest = converted(folder, "npz", table())
    path = folder / "out" / data.draw(st.sampled_from([shard.file for shard in manifest.shards]))
    text = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(text) - 1))
    text[start : start + 8] = data.draw(st.binary(max_size=8))
    changed = bytes(text) != path.read_bytes()
    path.write_bytes(bytes(text))
    assert bool(check(folder / "out").problems) == changed
    try:
        Dataset.open(folder / "out")
        assert not changed
    except HepRayError:
        assert changed


def test_the_manifest_names_every_file_that_was_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("".join(f"{row} {row / 4}\n" for row in range(50)))
    (tmp_path / "y").write_text("".join(f"{row % 2}\n" for row in range(50)))
    rules = parse_schema(
        'reader = "text"\nclasses = ["a", "b"]\n[options]\nlabel_file = "y"\n'
        '[label]\nfrom = "field"\nfield = "label_value"\nvalues = [0, 1]\n',
        "test",
    )
    source = convert([tmp_path / "x"], None, None, tmp_path / "out", schema=rules).source
    assert source["files"] == [
        {"name": name, "sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()} for name in "xy"
    ]


def test_a_schema_file_states_the_axes_of_a_dataset_of_ours(tmp_path: Path) -> None:
    image = Column(name="image", shape=(6, 4, 1))
    schema = EventSchema(task="toy", columns=(image, Column(name="ht")), classes=("a", "b"))
    with ShardWriter(tmp_path / "old", schema) as writer:
        numbers = {"event_id": [f"event-{row}" for row in range(40)], "label": np.arange(40) % 2}
        images = np.random.default_rng(0).random((40, 6, 4, 1), dtype=np.float32)
        writer.write({**numbers, "image": images, "ht": np.ones(40, np.float32)})
    said = tmp_path / "axes.toml"
    said.write_text('reader = "parquet"\n[[columns]]\nname = "image"\naxes = ["phi", "eta"]\n')

    made = convert([tmp_path / "old"], None, None, tmp_path / "new", schema=str(said))

    assert [column.axes for column in made.event_schema.columns] == [("phi", "eta"), ()]
    assert made.fingerprint == writer.manifest.fingerprint, (
        "a search on the old dataset goes on with the new one"
    )
    said.write_text(said.read_text().replace("image", "picture"))
    with raises(InvalidSchema, "'picture'"):
        convert([tmp_path / "old"], None, None, tmp_path / "third", schema=str(said))
