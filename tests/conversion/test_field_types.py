"""What becomes of a field of any kind in any format: it is read with its values, left out with a line, or refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import awkward
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hep_ray.config import parse
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import SchemaFile
from hep_ray.dataset.dataset import Dataset, Manifest
from hep_ray.dataset.splits import SPLITS
from hep_ray.errors import InputError, InvalidEvents, InvalidSchema
from tests.facts import raises, tells

EVENTS = 60
LABEL = np.arange(EVENTS) % 2
PT = np.arange(EVENTS) / 4 + 20
X = np.round(np.linspace(-3, 3, EVENTS), 3)
WORDS = [f"w{row % 7}" for row in range(EVENTS)]
FLAGS = X > 0
HOLES = [None if row % 9 == 0 else value for row, value in enumerate(X.tolist())]


def rules(reader: str, **options: Any) -> SchemaFile:
    return SchemaFile.model_validate(
        {"reader": reader, "label": {"from": "field", "field": "label"}, "options": options}
    )


def made(
    path: Path | list[Path], reader: str, out: Path, options: dict[str, Any] | None = None, **choices: Any
) -> Manifest:
    paths = path if isinstance(path, list) else [path]
    return convert(paths, reader, ["bg", "sig"], out, schema=rules(reader, **(options or {})), **choices)


def values(out: Path, name: str) -> np.ndarray:
    """A column in the order of the rows of its one file."""
    dataset = Dataset.open(out)
    column = dataset.schema.column(name)
    rows: dict[int, np.ndarray] = {}
    for split in SPLITS:
        for path in dataset.paths(split, purpose="check"):
            table = pq.read_table(path, columns=["event_id", name]).combine_chunks()
            ids = [int(one.rpartition("/")[2]) for one in table["event_id"].to_pylist()]
            rows |= zip(ids, column.to_numpy(table[name].chunk(0)), strict=True)
    return np.array([rows[row] for row in sorted(rows)])


def text(*cells: str, delimiter: str = ",") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        lines = [delimiter.join(("pt", "x", "label"))]
        lines += [delimiter.join(map(str, row)) for row in zip(PT.astype(int), cells, LABEL, strict=True)]
        (folder / "f.csv").write_text("\n".join(lines) + "\n")
        return folder / "f.csv"

    return write


def parquet(x: pa.Array) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table({"pt": PT, "x": x, "label": LABEL}), folder / "f.parquet")
        return folder / "f.parquet"

    return write


def root(x: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with uproot.recreate(folder / "f.root") as file:
            rows = {"pt": PT, "x": x, "label": LABEL}
            kinds = {name: awkward.Array(each).type.content for name, each in rows.items()}
            file.mktree("tree", {name: str(kind) for name, kind in kinds.items()}).extend(rows)
        return folder / "f.root"

    return write


def hdf5(add: Callable[[h5py.File], None]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "f.h5", "w") as file:
            file["pt"], file["label"] = PT, LABEL
            add(file)
        return folder / "f.h5"

    return write


def dataset(x: Any, **options: Any) -> Callable[[Path], Path]:
    return hdf5(lambda file: file.create_dataset("x", data=x, **options))


def ragged(file: h5py.File) -> None:
    file.create_dataset("x", (EVENTS,), h5py.vlen_dtype(np.float32))


def outside(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def dangling(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/nowhere")


def npz(x: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "f.npz", pt=PT, x=x, label=LABEL)
        return folder / "f.npz"

    return write


def fortran(value: float) -> str:
    return f"{value:.6E}".replace("E", "D")


def comma(value: float) -> str:
    return str(value).replace(".", ",")


STRINGS = [str(value) for value in X.tolist()]
NESTED = np.zeros(EVENTS, [("x", [("a", "f4"), ("b", "f4")]), ("y", "f4")])
CASES: dict[str, tuple[str, Callable[[Path], Path], str, Any]] = {
    # format and kind: reader, file, what becomes of the field x, and its values or the facts that are told
    "text, numbers": ("text", text(*STRINGS), "read", X),
    "text, spaces around": ("text", text(*(f" {cell} " for cell in STRINGS)), "read", X),
    "text, Fortran's exponents": ("text", text(*map(fortran, X)), "read", X),
    "text, true and false": ("text", text(*(str(flag) for flag in FLAGS)), "read", FLAGS),
    "text, true and 0": ("text", text(*("TRUE" if flag else "0" for flag in FLAGS)), "read", FLAGS),
    "text, decimal comma": ("text", text(*map(comma, X), delimiter=";"), "read", X),
    "text, commas and tabs": (
        "text", text(*map(comma, X), delimiter="\t"), "refused", ["f.csv:2", "'-3,0'", "decimal=,"]),
    "text, commas and points": (
        "text", text("1.5", *map(comma, X[1:]), delimiter=";"), "refused", ["f.csv:3", "'-2,898'", "decimal=,"]),
    "text, per cent": ("text", text(*(f"{cell}%" for cell in STRINGS)), "refused", ["f.csv:2", "'-3.0%'"]),
    "text, with units": ("text", text(*(f"{cell} GeV" for cell in STRINGS)), "refused", ["f.csv:2", "'-3.0 GeV'"]),
    "text, one word": ("text", text(*STRINGS[:57], "bad", *STRINGS[58:]), "refused", ["f.csv:59", "'bad'"]),
    "text, a word first": ("text", text("bad", *STRINGS[1:]), "refused", ["f.csv:2", "'bad'"]),
    "text, NA first": ("text", text("NA", *STRINGS[1:]), "refused", ["f.csv:2", "'NA'"]),
    "text, NA last": ("text", text(*STRINGS[:-1], " NA"), "refused", ["f.csv:61", "' NA'"]),
    "text, an empty cell": ("text", text(*STRINGS[:3], "", *STRINGS[4:]), "refused", ["f.csv:5", "''"]),
    "text, words": ("text", text(*WORDS), "left out", ["text", "'w0'", "f.csv:2"]),
    "text, days": ("text", text(*(f"2026-01-{row % 28 + 1:02}" for row in range(EVENTS))), "left out", "'2026-01-01'"),
    "text, empty": ("text", text(*[""] * EVENTS), "left out", "empty"),
    "parquet, booleans": ("parquet", parquet(pa.array(FLAGS)), "read", FLAGS),
    "parquet, decimals": (
        "parquet", parquet(pa.array([Decimal(cell) for cell in STRINGS], pa.decimal128(9, 3))), "read", X),
    "parquet, half precision": ("parquet", parquet(pa.array(X.astype(np.float16))), "read", X.astype(np.float16)),
    "parquet, categories of numbers": ("parquet", parquet(pa.array(X).dictionary_encode()), "read", X),
    "parquet, categories": (
        "parquet", parquet(pa.array(WORDS).dictionary_encode()), "left out", ["categories", "'w0'"]),
    "parquet, words": ("parquet", parquet(pa.array(WORDS)), "left out", ["text", "'w0'"]),
    "parquet, numbers as text": ("parquet", parquet(pa.array(STRINGS)), "refused", ["numbers", "text"]),
    "parquet, times": ("parquet", parquet(pa.array(LABEL, pa.timestamp("us"))), "left out", "timestamp"),
    "parquet, structs": ("parquet", parquet(pa.array([{"a": 1.0}] * EVENTS)), "left out", "struct<a: double>"),
    "parquet, lists": ("parquet", parquet(pa.array([[1.0]] * EVENTS)), "refused", ["'x'", "variable length"]),
    "parquet, lists of words": ("parquet", parquet(pa.array([["a"]] * EVENTS)), "left out", ["list", "string"]),
    "parquet, bytes": ("parquet", parquet(pa.array([b"a"] * EVENTS)), "left out", "binary"),
    "parquet, nothing": ("parquet", parquet(pa.nulls(EVENTS)), "left out", "empty"),
    "parquet, nulls": (
        "parquet", parquet(pa.array(HOLES)), "refused", ["'x'", "'bg/f/0'", "f.parquet, row 0", 6]),
    "parquet, whole numbers and nulls": (
        "parquet", parquet(pa.array([1, None] * 30, pa.int32())), "refused", ["'x'", "row 1"]),
    "root, booleans": ("root", root(FLAGS), "read", FLAGS),
    "root, words": ("root", root(awkward.Array(WORDS)), "left out", ["text", "'w0'"]),
    "root, lists": ("root", root(awkward.Array([[1.0], [2.0, 3.0]] * 30)), "refused", ["'x'", "variable length"]),
    "hdf5, booleans": ("hdf5", dataset(FLAGS), "read", FLAGS),
    "hdf5, big-endian": ("hdf5", dataset(X.astype(">f8")), "read", X),
    "hdf5, words": ("hdf5", dataset(np.array(WORDS, "S3")), "left out", ["text", "'w0'"]),
    "hdf5, words of variable length": ("hdf5", dataset(WORDS), "left out", ["text", "'w0'"]),
    "hdf5, numbers as text": ("hdf5", dataset(np.array(STRINGS, "S6")), "refused", ["numbers", "text"]),
    "hdf5, lists": ("hdf5", hdf5(ragged), "refused", ["'x'", "variable length"]),
    "hdf5, complex": ("hdf5", dataset(X * 1j), "left out", "complex128"),
    "hdf5, one value": ("hdf5", dataset(13.0), "left out", "one value"),
    "hdf5, nothing": ("hdf5", hdf5(lambda file: file.create_dataset("x", dtype="f4")), "left out", "empty"),
    "hdf5, in another file": ("hdf5", hdf5(outside), "refused", "other.h5:/x"),
    "hdf5, nowhere": ("hdf5", hdf5(dangling), "refused", "/nowhere"),
    "hdf5, a second name": (
        "hdf5", hdf5(lambda file: file.update({"x": h5py.SoftLink("/pt")})), "left out", "pt"),
    "npz, booleans": ("npz", npz(FLAGS), "read", FLAGS),
    "npz, words": ("npz", npz(np.array(WORDS)), "left out", ["text", "'w0'"]),
    "npz, numbers as text": ("npz", npz(np.array(STRINGS)), "refused", ["numbers", "text"]),
    "npz, pickles": ("npz", npz(np.array([None] * EVENTS)), "left out", "objects"),
    "npz, times": ("npz", npz(LABEL.astype("M8[s]")), "left out", "times"),
    "npz, complex": ("npz", npz(X * 1j), "left out", "complex128"),
    "npz, one value": ("npz", npz(np.float64(13)), "left out", "one value"),
    "npz, NaN": ("npz", npz(np.where(FLAGS, X, np.nan)), "refused", ["'x'", "f.npz, row 0"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_field_of_any_kind_is_read_or_listed_or_refused(case: str, tmp_path: Path) -> None:
    reader, write, fate, expected = CASES[case]
    facts = expected if isinstance(expected, list) else [expected]
    path = write(tmp_path)
    if fate == "refused":
        with raises(InputError, *facts) as caught:
            made(path, reader, tmp_path / "out")
        assert "--columns" in str(caught.value) or "--missing" in str(caught.value)
        assert not (tmp_path / "out/manifest.json").exists()
        # what is asked for beside it is not in the way of it
        assert [
            column.name
            for column in made(path, reader, tmp_path / "out", columns=["pt"]).event_schema.columns
        ] == ["pt"]
        return
    manifest = made(path, reader, tmp_path / "out")
    names = [column.name for column in manifest.event_schema.columns]
    if fate == "read":
        assert names == ["pt", "x"]
        assert "left_out" not in manifest.source
        np.testing.assert_allclose(values(tmp_path / "out", "x"), expected, rtol=1e-6)
    else:
        assert names == ["pt"]
        said = manifest.source["left_out"]
        assert isinstance(said, dict)
        assert list(said) == ["x"]
        assert tells(str(said["x"]), *facts)
        with raises(InputError, "'x'"):  # asked for by name, it is refused
            made(path, reader, tmp_path / "other", columns=["pt", "x"])


def test_the_fields_of_all_files_are_compared_whatever_their_order(tmp_path: Path) -> None:
    for name, extra in (("a", {}), ("b", {"eta": X}), ("c", {"eta": X, "phi": X})):
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            rows = {"pt": PT + len(extra), **extra}
            file.mktree("tree", dict.fromkeys(rows, "f8")).extend(rows)
    files = [f"bg={tmp_path}/a.root", f"sig={tmp_path}/b.root", f"sig={tmp_path}/c.root"]
    for order in (files, files[::-1], files[1:] + files[:1]):
        with pytest.raises(InvalidSchema) as caught:
            convert(order, "root", None, tmp_path / "out")
        said = str(caught.value)
        assert "'eta' is absent in " in said
        assert "a.root" in said.partition("'phi' is absent in ")[0]
        assert "b.root" in said.partition("'phi' is absent in ")[2]
        assert said.endswith("--columns pt")
    for order in (files, files[::-1]):
        manifest = convert(order, "root", ["bg", "sig"], tmp_path / "out", columns=["pt"], overwrite=True)
        assert [column.name for column in manifest.event_schema.columns] == ["pt"]
    with raises(InvalidSchema, f"{tmp_path}/a.root:tree", "'eta'"):
        convert(files, "root", None, tmp_path / "other", columns=["pt", "eta"])


def test_a_field_that_is_text_in_one_file_only_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("pt,d0\n" + "".join(f"{row},{row / 7}\n" for row in range(40)))
    (tmp_path / "b.csv").write_text("pt,d0\n" + "".join(f"{row},none of these\n" for row in range(50, 90)))
    for order in (["bg=a.csv", "sig=b.csv"], ["sig=b.csv", "bg=a.csv"]):
        with raises(InvalidSchema, "'d0'", "text", "'none of these'", "b.csv:2"):
            convert([word.replace("=", f"={tmp_path}/") for word in order], "text", None, tmp_path / "out")


def test_whole_and_other_numbers_of_two_files_give_one_dtype_whatever_their_order(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array(np.arange(40), pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": np.arange(40) / 8 + 50}), tmp_path / "b.parquet")
    files = [f"bg={tmp_path}/a.parquet", f"sig={tmp_path}/b.parquet"]
    made = [
        convert(order, "parquet", ["bg", "sig"], tmp_path / str(number))
        for number, order in enumerate((files, files[::-1]))
    ]
    assert made[0].event_schema.columns[0].dtype == "float32"
    assert made[0].fingerprint == made[1].fingerprint


def test_a_stated_decimal_mark_is_taken(tmp_path: Path) -> None:
    path = text(*map(comma, X), delimiter="\t")(tmp_path)
    made(path, "text", tmp_path / "out", {"decimal": ","})
    np.testing.assert_allclose(values(tmp_path / "out", "x"), X, rtol=1e-6)


def test_missing_values_are_filled_where_they_are_allowed_and_counted_apart(tmp_path: Path) -> None:
    expected = np.array([-1 if row % 9 == 0 else value for row, value in enumerate(X)])
    paths = {
        "text": text(*("NA" if value is None else str(value) for value in HOLES))(tmp_path),
        "parquet": parquet(pa.array(HOLES))(tmp_path),
        "npz": npz(np.array(HOLES, float))(tmp_path),
    }
    for reader, path in paths.items():
        made(path, reader, tmp_path / reader, missing=-1.0)
        np.testing.assert_allclose(values(tmp_path / reader, "x"), expected, rtol=1e-6)
    padded = np.where(np.arange(3) < (np.arange(EVENTS) % 3 + 1)[:, None], 7.0, np.nan)
    padded[5, 0] = -999
    np.savez(tmp_path / "v.npz", v=padded, label=LABEL, n=np.arange(EVENTS))
    schema = rules("npz").model_dump(by_alias=True) | {
        "columns": [
            {"name": "v", "missing": 0, "sentinels": [-999], "missing_indicator": True},
            {"name": "depth", "expression": "sum(where(isfinite(v), 1, 0))", "dtype": "int64"},
            {"name": "w", "expression": "where(isfinite(v), v, -2)"},
            {"name": "whole", "sources": ["n"], "missing": 3, "sentinels": [59], "dtype": "uint8"},
        ]
    }
    manifest = convert(
        [tmp_path / "v.npz"], "npz", ["bg", "sig"], tmp_path / "v", schema=SchemaFile(**schema)
    )
    assert [(column.name, column.shape, column.dtype) for column in manifest.event_schema.columns] == [
        ("v", (3,), "float32"), ("v_missing", (3,), "uint8"), ("depth", (), "int64"), ("w", (3,), "float32"),
        ("whole", (), "uint8"),
    ]  # fmt: skip
    gone = np.isnan(padded) | (padded == -999)
    np.testing.assert_array_equal(values(tmp_path / "v", "v"), np.where(gone, 0, 7))
    np.testing.assert_array_equal(values(tmp_path / "v", "v_missing"), gone)
    # event 5 has three values: 5 % 3 + 1, one of them the sentinel, which `where` knows nothing of
    np.testing.assert_array_equal(values(tmp_path / "v", "depth"), np.arange(EVENTS) % 3 + 1)
    np.testing.assert_array_equal(values(tmp_path / "v", "w"), np.where(np.isnan(padded), -2, padded))
    np.testing.assert_array_equal(values(tmp_path / "v", "whole"), [*range(59), 3])


def test_events_without_a_value_are_left_out_only_where_that_is_said(tmp_path: Path) -> None:
    path = parquet(pa.array(HOLES))(tmp_path)
    manifest = made(path, "parquet", tmp_path / "out", selection="isfinite(x)")
    assert sum(manifest.split_counts().values()) == EVENTS - 7
    # a comparison with what is missing is no answer: the event is not dropped without a word
    with raises(InvalidEvents, "'x'", "f.parquet, row 0", "isfinite(x)"):
        made(path, "parquet", tmp_path / "other", columns=["pt"], selection="x > -9")


def test_a_comparison_with_nan_is_no_answer_either(tmp_path: Path) -> None:
    """NaN > 0 is false: events would be cut away, or be 0 in a column, without a word."""
    name, gone = "jet pt", np.arange(EVENTS) % 9 == 0
    pq.write_table(pa.table({name: np.where(gone, np.nan, X), "label": LABEL}), tmp_path / "f.parquet")
    remedy = "--select 'isfinite(`jet pt`)'"
    with raises(InvalidEvents, "'jet pt'", "row 0", remedy):
        made(tmp_path / "f.parquet", "parquet", tmp_path / "a", missing=0, selection="`jet pt` > 0")
    column = {"name": "high", "expression": "1 * (`jet pt` > 0)", "dtype": "uint8"}
    schema = parse(SchemaFile, {**rules("parquet").model_dump(by_alias=True), "columns": [column]}, "schema")
    classes = ["bg", "sig"]
    with raises(InvalidEvents, "'jet pt'", "row 0", remedy):
        convert([tmp_path / "f.parquet"], None, classes, tmp_path / "b", schema=schema)
    out = tmp_path / "c"
    convert([tmp_path / "f.parquet"], None, classes, out, schema=schema, selection="isfinite(`jet pt`)")
    np.testing.assert_array_equal(values(out, "high"), (X > 0)[~gone])
    lists = [[1.0, None], [2.0, 3.0]] * (EVENTS // 2)
    pq.write_table(pa.table({"pt": PT, "jets": lists, "label": LABEL}), tmp_path / "l.parquet")
    with raises(InvalidEvents, "'jets'", "row 0", '--select "all(isfinite(jets))"'):
        made(tmp_path / "l.parquet", "parquet", tmp_path / "e", columns=["pt"], selection="sum(jets) > 1")


def test_a_filling_that_does_not_fit_says_what_does(tmp_path: Path) -> None:
    halves = np.where(np.arange(EVENTS) % 9 == 0, np.nan, X).astype(np.float16)
    pq.write_table(pa.table({"x": halves, "label": LABEL}), tmp_path / "f.parquet")
    # float16 ends at 65504
    with raises(InvalidEvents, "'x'", "float16", "row 0", 1000000.0, '`dtype = "int64"`'):
        made(tmp_path / "f.parquet", "parquet", tmp_path / "out", missing=1e6)


def test_options_for_missing_values_need_one_that_takes_their_place() -> None:
    for extra in ({"sentinels": [-999]}, {"missing_indicator": True}):
        with raises(InputError, "'x'", "'missing'"):
            parse_schema_of({"name": "x", **extra})
    with raises(InputError, "missing", "nan"):
        parse_schema_of({"name": "x", "missing": float("nan")})


def parse_schema_of(column: dict[str, Any]) -> SchemaFile:
    return parse(SchemaFile, {"reader": "npz", "columns": [column]}, "schema")


@pytest.mark.parametrize(
    ("column", "row", "told"),
    [
        ('name = "both"\nsources = ["pt", "eta"]', "1,nan", "in.csv:3 ('nan')"),
        ('name = "ratio"\nexpression = "pt / eta"', "0,0", "in.csv, row 1"),
    ],
)
def test_a_missing_value_of_a_column_made_of_several_fields_is_named_by_its_place(
    tmp_path: Path, column: str, row: str, told: str
) -> None:
    (tmp_path / "in.csv").write_text(f"pt,eta,label\n1,1,0\n{row},1\n1,1,0\n")
    head = 'reader = "text"\nclasses = ["b", "s"]\n[label]\nfrom = "field"\nfield = "label"\n[[columns]]\n'
    (tmp_path / "in.toml").write_text(head + column + "\n")
    with pytest.raises(InvalidEvents) as caught:
        convert([tmp_path / "in.csv"], None, None, tmp_path / "out", schema=str(tmp_path / "in.toml"))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "cells", [["20000001", *["5"] * (EVENTS - 1)], ["20000001", "NA", *["5"] * (EVENTS - 2)]]
)
def test_whole_numbers_that_float32_cannot_hold_stay_exact(cells: list[str], tmp_path: Path) -> None:
    """2 * 10^7 + 1 is odd and above 2^24, where float32 holds even numbers only."""
    path = text(*cells)(tmp_path)
    manifest = made(path, "text", tmp_path / "out", missing=0)
    dtypes = {column.name: column.dtype for column in manifest.event_schema.columns}
    assert dtypes == {"pt": "float32", "x": "float64"}
    assert values(tmp_path / "out", "x").max() == 20000001


def groups_of(folder: Path, first: dict[str, int]) -> list[str]:
    """Write tables whose events have a number each, from a first one on, and return the words that name them."""
    for name, start in first.items():
        lines = [f"{row / 7},{start + row}" for row in range(200)]
        (folder / f"{name}.csv").write_text("\n".join(["x,event", *lines]) + "\n")
    return [f"{name}={folder}/{name}.csv" for name in first]


@pytest.mark.parametrize(
    ("first", "dtype"),
    [
        ({"bg": 2**60, "sig": 2**60 + 500}, "int64"),
        ({"bg": 7, "sig": 2**60}, "int64"),
        ({"bg": 2**63 + 7, "sig": 2**63 + 500}, "uint64"),
    ],
)
def test_huge_numbers_of_events_in_text_are_told_apart(
    first: dict[str, int], dtype: str, tmp_path: Path
) -> None:
    """Of 2^60 on float64 holds every 256th number alone, of which 200 events would have one or two."""
    convert(groups_of(tmp_path, first), "text", None, tmp_path / "out", split_by="event")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.schema.column("event").dtype == dtype
    found = [one for split in SPLITS for one in dataset.arrays(split, purpose="check")["event"].tolist()]
    assert sorted(found) == sorted(start + row for start in first.values() for row in range(200))
    ids = SchemaFile.model_validate({"reader": "text", "event_id": {"fields": ["event"]}})
    convert(groups_of(tmp_path, first), None, None, tmp_path / "ids", schema=ids)
    by_id = Dataset.open(tmp_path / "ids")
    names = [one for split in SPLITS for one in by_id.arrays(split, purpose="check")["event_id"]]
    assert f"sig/{first['sig'] + 1}" in names


def test_numbers_of_events_that_their_type_does_not_hold_are_refused(tmp_path: Path) -> None:
    rows = np.arange(EVENTS)
    for name, first in (("bg", 2**24), ("sig", 2**24 + 300)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"], file["run"], file["event"] = X + first, rows + first, rows + first + 2.0**60
            file["narrow"] = (rows + first).astype(np.float32)
            file["energy"] = ((rows + first) * np.where(rows, 1, 1e-9)).astype(np.float32)
    words = [f"{name}={tmp_path}/{name}.h5" for name in ("bg", "sig")]
    for field, most in (("event", 2**53), ("narrow", 2**24)):
        with raises(InvalidEvents, f"'{field}'", "bg.h5, row 0", most, "integer"):
            convert(words, "hdf5", None, tmp_path / "out", columns=("x",), split_by=field)
    for made_of, most in (
        ({"sources": ["run"], "dtype": "float32"}, 2**24),
        ({"expression": "2e9 * run", "dtype": "float64"}, 2**53),
    ):
        columns = [{"name": "x"}, {"name": "number", **made_of}]
        schema = SchemaFile.model_validate({"reader": "hdf5", "columns": columns, "split_by": "number"})
        with raises(InvalidEvents, "'number'", "bg.h5, row 0", most, "`dtype`"):
            convert(words, None, None, tmp_path / "out", schema=schema)
    assert not (tmp_path / "out" / "manifest.json").exists()
    convert(words, "hdf5", None, tmp_path / "measured", columns=("x",), split_by="energy")


def test_commas_that_may_divide_thousands_are_asked_about(tmp_path: Path) -> None:
    path = text(*["1,234"] * EVENTS, delimiter=";")(tmp_path)
    with raises(InputError, "f.csv:2", "'1,234'", "--set decimal=,", "thousands"):
        made(path, "text", tmp_path / "out")
    made(path, "text", tmp_path / "out", options={"decimal": ","})
    np.testing.assert_allclose(values(tmp_path / "out", "x"), 1.234, rtol=1e-6)
    path = text(*["1,234"] * (EVENTS - 1), "0,5", delimiter=";")(tmp_path)  # no thousands are written so
    made(path, "text", tmp_path / "other")
    np.testing.assert_allclose(values(tmp_path / "other", "x").max(), 1.234, rtol=1e-6)


@pytest.mark.parametrize("flag", ["weight", "split_by"])
def test_a_role_of_a_field_that_is_not_there_or_is_no_number_is_named(flag: str, tmp_path: Path) -> None:
    path = text(*WORDS)(tmp_path)
    with raises(InvalidSchema, f"'{flag}'", "'nope'", path, "pt"):
        made(path, "text", tmp_path / "out", **{flag: "nope"})
    with raises(InvalidSchema, f"'{flag}'", "'x'", path, "text", "no number"):
        made(path, "text", tmp_path / "out", **{flag: "x"})
    stated = {"reader": "text", "label": {"from": "field", "field": "label"}, "columns": [{"name": "pt"}]}
    schema = SchemaFile.model_validate({**stated, flag: "x"})
    with raises(InvalidSchema, f"'{flag}'", "'x'", '[[columns]] with name = "x"'):
        convert([path], None, ["bg", "sig"], tmp_path / "out", schema=schema)
