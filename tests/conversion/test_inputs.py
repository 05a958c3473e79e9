"""Inputs as people have them: equal names, empty files among many, folders and globs; in every format."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from PIL import Image
from typer.testing import CliRunner

from hep_ray.conversion.cli import app
from hep_ray.conversion.convert import convert
from hep_ray.conversion.inputs import merged_classes, open_inputs
from hep_ray.conversion.paths import digests_of, distinct_digests, stem_of, told_apart
from hep_ray.conversion.readers import READERS, parse_options
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.dataset.dataset import Dataset, hashing, sha256_of
from hep_ray.dataset.splits import SPLITS
from hep_ray.errors import HepRayError, InvalidConfig, NoEvents, UnknownName, UnreadableInput
from tests.conversion.delphes_files import write_delphes
from tests.facts import raises, tells


def ids(folder: Path) -> set[str]:
    dataset = Dataset.open(folder)
    paths = [path for split in SPLITS for path in dataset.paths(split, purpose="check")]
    return {
        name for path in paths for name in pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    }


def values(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows).astype(np.float32)


def hdf5(path: Path, pt: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["pt"] = pt


def hvl(path: Path, pt: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for row, value in enumerate(pt):
            file[f"e{row}/data"] = np.full((2, 2, 1), value)


def npz(path: Path, pt: np.ndarray) -> None:
    np.savez(path, pt=pt)


def parquet(path: Path, pt: np.ndarray) -> None:
    pq.write_table(pa.table({"pt": pt}), path)


def png(path: Path, pt: np.ndarray) -> None:
    path.mkdir()
    for row, value in enumerate(pt):
        Image.fromarray(np.full((2, 2), abs(value) * 50, np.uint8)).save(path / f"e{row}.png")


def root(path: Path, pt: np.ndarray) -> None:
    with uproot.recreate(path) as file:
        tree = file.mktree("t", {"pt": "f4"})
        if len(pt):
            tree.extend({"pt": pt})


def text(path: Path, pt: np.ndarray) -> None:
    path.write_text("pt\n" + "".join(f"{value:.6f}\n" for value in pt))


FORMATS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "delphes": ("out.root", write_delphes),
    "hdf5": ("out.h5", hdf5),
    "hvl": ("out.h5", hvl),
    "npz": ("out.npz", npz),
    "parquet": ("out.parquet", parquet),
    "png": ("out", png),
    "root": ("out.root", root),
    "text": ("out.csv", text),
}


def jobs(folder: Path, reader: str, rows: dict[str, int]) -> dict[str, Path]:
    """A file of the same name in every one of some folders, with so many events."""
    name, write = FORMATS[reader]
    paths = {}
    for seed, (job, count) in enumerate(rows.items()):
        (folder / job).mkdir(parents=True)
        paths[job] = folder / job / name
        write(paths[job], values(count, seed))
    return paths


def row_names(reader: str, rows: int) -> list[str]:
    own = {"hvl": "e{}", "png": "e{}.png"}.get(reader, "{}")
    return [own.format(row) for row in range(rows)]


def test_every_format_is_here() -> None:
    assert set(FORMATS) == set(READERS)


@pytest.mark.parametrize("reader", FORMATS)
def test_equal_names_of_a_class_are_told_apart_by_their_folders(reader: str, tmp_path: Path) -> None:
    rows = {"sig/job_1": 30, "sig/job_2": 31, "bkg/job_1": 32}
    inputs = [f"{job[:3]}={path}" for job, path in jobs(tmp_path, reader, rows).items()]
    convert(inputs, reader, ["bkg", "sig"], tmp_path / "d")
    # Both of sig are called `out`: their folder is needed. The one of bkg is alone in its class, and its ids are
    # those that it has always had.
    expected = {f"sig/job_1/out/{name}" for name in row_names(reader, 30)}
    expected |= {f"sig/job_2/out/{name}" for name in row_names(reader, 31)}
    expected |= {f"bkg/out/{name}" for name in row_names(reader, 32)}
    assert ids(tmp_path / "d") == expected


def test_as_much_of_the_path_as_is_needed(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return list(told_apart(tmp_path / path for path in paths).values())

    assert names("a/x.root", "b/y.root") == ["x", "y"]
    assert names("a/x.root", "b/x.root", "b/y.root") == ["a/x", "b/x", "y"]
    assert names("a/1/x.root", "b/1/x.root", "b/2/x.root") == ["a/1/x", "b/1/x", "b/2/x"]
    assert names("run.1", "run.2") == ["run.1", "run.2"]
    assert names("a/x.csv", "a/x.csv.gz", "b/x.csv") == ["a/x.csv", "a/x.csv.gz", "b/x.csv"]
    assert names("a/../b/x.root", "a/x.root") == ["b/x", "a/x"]


def test_as_many_names_are_looked_at_as_there_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the files, four times the work: no name is looked at once for each other file."""
    looked: list[Path] = []
    counted = lambda path: looked.append(path) or stem_of(path)  # noqa: E731
    monkeypatch.setattr("hep_ray.conversion.paths.stem_of", counted)
    counts = {}
    for files in (8, 32):
        for number in range(files):
            (tmp_path / str(files) / f"{number}").mkdir(parents=True)
            (tmp_path / str(files) / f"{number}/out.csv").write_text(f"x\n{number}\n")
        looked.clear()
        inputs = [
            f"{name}={tmp_path}/{files}/*[{own}]/out.csv" for name, own in (("b", "02468"), ("s", "13579"))
        ]
        opened = open_inputs(inputs, parse_schema('reader = "text"', "t"))
        assert len({(one.label, one.stem) for one in opened.tables}) == files
        counts[files] = len(looked)
    assert counts[32] <= 4 * counts[8]


def test_tables_of_one_file_are_told_apart_by_their_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for seed, group in enumerate(("train", "test")):
            file[f"{group}/x"], file[f"{group}/y"] = values(20, seed), np.arange(20) % 2
    rules = parse_schema('reader = "hdf5"\nclasses = ["b", "s"]\n[label]\nfrom = "field"\nfield = "y"\n', "t")
    manifest = convert([tmp_path / "f.h5"], None, None, tmp_path / "d", schema=rules)
    (note,) = manifest.source["notes"]
    assert all(word in note for word in ("f.h5", "train", "test", "joined"))
    assert ids(tmp_path / "d") == {
        f"{'bs'[row % 2]}/f/{group}/{row}" for group in ("train", "test") for row in range(20)
    }


@pytest.mark.parametrize("reader", FORMATS)
def test_an_empty_file_among_many_is_left_out_and_told(reader: str, tmp_path: Path) -> None:
    paths = jobs(tmp_path, reader, {"a": 40, "b": 0, "c": 41, "d": 42})
    inputs = [f"{'bkg' if job == 'd' else 'sig'}={path}" for job, path in paths.items()]
    manifest = convert(inputs, reader, ["bkg", "sig"], tmp_path / "out")
    assert manifest.class_counts() == {"bkg": 42, "sig": 81}
    assert manifest.source["notes"] == [f"1 of 4 inputs holds no events: {paths['b']}"]
    with raises(NoEvents, "'sig'", "1 of 2", paths["b"]):
        convert([f"sig={paths['b']}", f"bkg={paths['d']}"], reader, ["bkg", "sig"], tmp_path / "no")
    with raises(NoEvents, paths["b"]):
        convert([f"sig={paths['b']}"], reader, ["bkg", "sig"], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_empty_tables_and_folders_within_an_input_are_left_out_too(tmp_path: Path) -> None:
    png(tmp_path / "all", values(0, 0))
    for name, rows in (("a", 30), ("b", 31), ("c", 0)):
        png(tmp_path / "all" / name, values(rows, rows))
    manifest = convert([tmp_path / "all"], "png", ["a", "b"], tmp_path / "d")
    assert manifest.class_counts() == {"a": 30, "b": 31}
    with raises(NoEvents, "'c'"):
        convert([tmp_path / "all"], "png", None, tmp_path / "e")


def test_every_file_has_its_own_digest_and_equal_bytes_among_many_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.npz" for number in range(12)]
    for number, path in enumerate(paths):
        npz(path, values(50, number))
    digests = digests_of(paths)
    assert list(digests.items()) == [(path, sha256(path.read_bytes()).hexdigest()) for path in paths]

    again = tmp_path / "again.npz"
    again.write_bytes(paths[7].read_bytes())
    with raises(InvalidConfig, "again.npz", "7.npz", "same bytes"):
        distinct_digests([*paths, again])


def test_an_interrupted_hash_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    npz(path, values(50, 0))
    with hashing() as (pool, stop):
        assert pool.submit(sha256_of, path, stop).result() == sha256(path.read_bytes()).hexdigest()
    assert not stop.is_set()
    with pytest.raises(KeyboardInterrupt), hashing() as (_, stop):
        raise KeyboardInterrupt
    assert sha256_of(path, stop) == sha256(b"").hexdigest()  # nothing more is read
    with raises(InvalidConfig, "a.npz is given twice"):
        distinct_digests([path, tmp_path / "gone.npz", path])


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    paths = jobs(tmp_path, "root", {"a": 40, "b": 40})
    for job in ("c", "e"):
        (tmp_path / job).mkdir()
        with uproot.recreate(tmp_path / job / "out.root") as file:
            file["h"] = np.histogram(np.zeros(3))
    inputs = [f"sig={tmp_path / job / 'out.root'}" for job in ("a", "c", "e")]
    with raises(UnreadableInput, "2 of 4", "c/out.root", "e/out.root", "h (TH1D)"):
        convert([*inputs, f"bkg={paths['b']}"], "root", ["bkg", "sig"], tmp_path / "d")
    with raises(UnreadableInput, "x.root", "y.root", "No such file"):
        convert(["a=x.root", "b=y.root"], "root", None, tmp_path / "d")


@pytest.mark.parametrize("reader", sorted(set(FORMATS) - {"png"}))
@pytest.mark.parametrize("form", ["{}/sig/*/out*", "{}/sig/job_*", "{}/sig", "{}/**/job_*/out*"])
def test_globs_and_folders_stand_for_their_files(reader: str, form: str, tmp_path: Path) -> None:
    found = jobs(tmp_path, reader, {"sig/job_1": 30, "sig/job_10": 31, "sig/job_2": 32, "bkg": 40})
    if reader == "parquet" and "out" not in form:
        return  # there, a folder is one table
    globbed = convert(
        [f"sig={form.format(tmp_path)}", f"bkg={found['bkg']}"], reader, ["bkg", "sig"], tmp_path / "a"
    )
    typed = [f"{job[:3]}={path}" for job, path in found.items()]
    assert globbed.fingerprint == convert(typed, reader, ["bkg", "sig"], tmp_path / "b").fingerprint
    ordered = convert([found["bkg"], form.format(tmp_path)], reader, ["bkg", "sig"], tmp_path / "c")
    assert ordered.fingerprint == globbed.fingerprint
    assert [Path(one["name"]).name for one in globbed.source["files"]] == [FORMATS[reader][0]] * 4


def test_files_of_a_glob_stand_in_natural_order(tmp_path: Path) -> None:
    for job in (10, 9, 100):
        text(tmp_path / f"job_{job}.csv", values(30, job))
    text(tmp_path / "b.csv", values(30, 1))
    source = convert([f"a={tmp_path}/job_*.csv", f"b={tmp_path}/b.csv"], "text", None, tmp_path / "d").source
    assert [one["name"] for one in source["files"]] == ["job_9.csv", "job_10.csv", "job_100.csv", "b.csv"]


def test_pictures_of_several_folders_are_a_glob(tmp_path: Path) -> None:
    found = jobs(tmp_path, "png", {"sig/1": 30, "sig/2": 31, "bkg": 32})
    manifest = convert([f"sig={tmp_path}/sig/*/out", f"bkg={found['bkg']}"], "png", None, tmp_path / "d")
    assert manifest.class_counts() == {"sig": 61, "bkg": 32}


@pytest.mark.parametrize(
    ("word", "error", "facts"),
    [
        (
            "sig={}/none/*.csv",
            UnreadableInput,
            ["'{}/none/*.csv'"],
        ),
        ("sig={}/mix/*", InvalidConfig, ["1 .csv", "1 .txt", "'{}/mix/*.csv'"]),
        ("sig={}/mix", InvalidConfig, ["1 .csv", "1 .txt", "'{}/mix/*.csv'"]),
        (
            "sig={}/logs",
            UnreadableInput,
            ["{}/logs", "2 .log", "'{}/logs/*.log'"],
        ),
        ("sig={}/void", UnreadableInput, ["{}/void", ".csv, .tsv, .txt"]),
        ("sig=", InvalidConfig, ["CLASS=PATH", "'sig='"]),
    ],
)
def test_globs_and_folders_that_give_none_or_a_mixture(
    word: str, error: type[HepRayError], facts: list[str], tmp_path: Path
) -> None:
    for folder, names in (("mix", ("a.csv", "b.txt")), ("logs", ("1.log", "2.log")), ("void", ())):
        (tmp_path / folder).mkdir()
        for name in names:
            text(tmp_path / folder / name, values(10, 1))
    text(tmp_path / "b.csv", values(10, 2))
    with raises(error, *(fact.format(tmp_path) for fact in facts)):
        convert([word.format(tmp_path), f"bkg={tmp_path}/b.csv"], "text", ["bkg", "sig"], tmp_path / "d")


def test_a_folder_of_another_format_names_its_reader(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a.parquet", "manifest.json"):
        (tmp_path / "d" / name).touch()
    with raises(UnreadableInput, "1 .parquet", "1 .json", "--reader parquet"):
        convert([tmp_path / "d"], "text", ["a", "b"], tmp_path / "out")


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("csv", "'text'"),
        (".H5", "'hdf5' or 'hvl'"),
        ("*.root", "'delphes' or 'root'"),
        ("xls", None),
        ("rot", "mean 'root'"),
    ],
)
def test_an_ending_in_place_of_a_reader_names_who_reads_such_files(typed: str, named: str | None) -> None:
    with pytest.raises(UnknownName) as caught:
        READERS[typed]
    assert f"unknown reader '{typed}'" in str(caught.value)
    assert ("are read by" in str(caught.value)) == bool(named and "mean" not in named)
    assert (named or "") in str(caught.value)


def test_a_folder_tells_what_it_leaves_out(tmp_path: Path) -> None:
    found = jobs(tmp_path, "text", {"sig/1": 30, "bkg": 31})
    (tmp_path / "sig/1/run.log").write_text("done")
    (tmp_path / "sig/1/.hidden.csv").write_text("pt\nx\n")
    (tmp_path / "sig/2.csv.gz").write_bytes(gzip.compress(b"pt\n" + b"1.5\n" * 20))
    arguments = ["convert", f"sig={tmp_path}/sig", f"bkg={found['bkg']}", "--reader", "text"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "d")])
    assert result.exit_code == 0, result.output
    assert tells(result.stdout, f"{tmp_path}/sig", "2 .csv", "1 .log")
    assert {name.rpartition("/")[0] for name in ids(tmp_path / "d")} == {"sig/out", "sig/2", "bkg/out"}


def test_more_files_than_classes_say_how_a_class_gets_several(tmp_path: Path) -> None:
    found = jobs(tmp_path, "root", {"a": 10, "b": 11, "c": 12})
    with raises(InvalidConfig, "3 files", "CLASS=FILE") as raised:
        convert(list(found.values()), "root", ["bkg", "sig"], tmp_path / "d")
    assert re.search(rf"'bkg={tmp_path}/a/\*\.root'", str(raised.value))


@pytest.mark.parametrize(
    ("reader", "option", "typed", "expected"),
    [
        ("hdf5", "datasets", "train/x, train/y", ("train/x", "train/y")),
        ("hdf5", "datasets", '["a,b", "c"]', ("a,b", "c")),
        ("npz", "arrays", "x", ("x",)),
        ("root", "branches", "pt,eta", ("pt", "eta")),
        ("text", "columns", "pt,eta", ("pt", "eta")),
    ],
)
def test_options_that_are_lists_can_be_typed(reader: str, option: str, typed: str, expected: Any) -> None:
    assert getattr(parse_options(READERS[reader], {option: typed}), option) == expected
    assert getattr(parse_options(READERS[reader], {option: list(expected)}), option) == expected


@pytest.mark.parametrize(
    ("reader", "option", "parts"),
    [("hdf5", "datasets", "part_per_dataset"), ("npz", "arrays", "part_per_array")],
)
def test_what_a_message_says_to_type_can_be_typed(
    reader: str, option: str, parts: str, tmp_path: Path
) -> None:
    arrays = {"x": values(40, 1), "y": np.arange(40) % 2, "bins": np.arange(5.0)}
    path = tmp_path / FORMATS[reader][0]
    if reader == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    words = [
        "convert",
        str(path),
        "--reader",
        reader,
        "--classes",
        "b,s",
        "--label",
        "y",
        "--out",
        str(tmp_path / "d"),
    ]
    with pytest.raises(InvalidConfig) as told:
        CliRunner().invoke(app, words, catch_exceptions=False)
    remedies = re.findall(r"--set [^ ]*=[^ ]*[^ ,]", str(told.value))
    assert remedies == [f"--set {option}=x,y", f"--set {parts}=true"]
    result = CliRunner().invoke(app, [*words, *remedies[0].split()])
    assert result.exit_code == 0, result.output
    found = READERS[reader].open(
        path, parse_options(READERS[reader], dict([remedies[1].split()[1].split("=")]))
    )
    assert sorted(part.name for part in found.parts) == ["bins", "x", "y"]


def test_a_tree_is_chosen_by_what_the_message_says(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        for name in ("events", "noise"):
            file.mktree(name, {"pt": "f4", "y": "i4"}).extend(
                {"pt": values(40, 1), "y": np.arange(40, dtype=np.int32) % 2}
            )
    words = ["convert", str(tmp_path / "f.root"), "--reader", "root", "--classes", "b,s", "--label", "y"]
    words += ["--out", str(tmp_path / "d")]
    with raises(InvalidConfig, "events, noise", "--set tree=events"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert CliRunner().invoke(app, [*words, "--set", "tree=events"]).exit_code == 0


@pytest.mark.parametrize(
    ("stated", "made"),
    [
        (["c", "a"], {"c": [2], "a": [0]}),
        (["rest=others", "b"], {"rest": [0, 2, 3], "b": [1]}),
        (["x=a/d", "y=c/b"], {"x": [0, 3], "y": [2, 1]}),
        (["x=a", "y=others"], {"x": [0], "y": [1, 2, 3]}),
    ],
)
def test_classes_of_a_dataset_become_one(stated: list[str], made: dict[str, list[int]]) -> None:
    assert merged_classes(stated, "abcd") == made


@pytest.mark.parametrize(
    ("stated", "facts"),
    [
        (["x=a/e", "b"], ["e"]),
        (["x=a/b", "b"], ["b"]),
        (["x=others", "y=others"], ["others"]),
        (["x=others", "a", "b", "c", "d"], ["others", "x"]),
        (["x=a", "x=b"], ["x"]),
        (["x=others"], ["x", "two"]),
    ],
)
def test_what_cannot_become_one_class_is_refused(stated: list[str], facts: list[str]) -> None:
    with raises(InvalidConfig, "--classes", *facts):
        merged_classes(stated, "abcd")
