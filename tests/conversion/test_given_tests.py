"""A test split that is given as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hep_ray.conversion.cli import app, split_rule
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import EventIdRule, SchemaFile
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID, IN_TEST_FILE
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import HepRayError, InvalidConfig, InvalidEvents, InvalidSchema
from tests.facts import raises, tells

NO_TEST = SplitRule(train=0.8, val=0.2, test=0)


def table(path: Path, first: int, rows: int, labels: Sequence[str] = ("b", "s")) -> Path:
    """Write events whose x is their number, which no two files share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    lines = [f"{number},{number * 7 % 11},{labels[number % len(labels)]}" for number in numbers]
    path.write_text("\n".join(["x,z,y", *lines]) + "\n")
    return path


def parts(path: Path, first: int, names: str) -> Path:
    """Write tables of a file, whose x is a number that no two of them share."""
    with h5py.File(path, "w") as file:
        for place, name in enumerate(names):
            file[f"{name}/x"], file[f"{name}/y"] = np.arange(80.0) + first + 100 * place, np.arange(80) % 2
    return path


def made(tmp_path: Path, inputs: Sequence[Any], tests: Sequence[Any], **more: Any) -> Dataset:
    rules = {"schema": SchemaFile(**{"reader": "text", **more.pop("rules", {})}), **more}
    convert(inputs, None, None, tmp_path / "out", test_files=tests, **rules)
    return Dataset.open(tmp_path / "out")


LABELLED = {"classes": ("b", "s"), "label": {"from": "field", "field": "y"}}


def test_the_test_split_is_the_given_file_and_the_others_are_divided(tmp_path: Path) -> None:
    paths = [table(tmp_path / "train.csv", 0, 400), table(tmp_path / "held.csv", 1000, 60)]
    dataset = made(tmp_path, paths[:1], paths[1:], rules=LABELLED, rule=NO_TEST)
    assert dataset.rows("test") == 60
    assert dataset.rows("train") + dataset.rows("val") == 400
    assert 0.1 < dataset.rows("val") / 400 < 0.3
    held = dataset.arrays("test", purpose="check")
    assert sorted(held["x"].tolist()) == list(range(1000, 1060))
    assert all("/held/" in str(name) for name in held[EVENT_ID])
    assert [column.name for column in dataset.schema.inputs] == ["x", "z"]
    assert set(held[IN_TEST_FILE].tolist()) == {1}
    assert set(dataset.arrays("train")[IN_TEST_FILE].tolist()) == {0}
    assert check(dataset.folder).problems == ()
    (file,) = dataset.manifest.source["test_files"]  # type: ignore[misc]
    assert file["name"] == "held.csv"  # type: ignore[index, call-overload]


def test_groups_of_huge_numbers_are_told_apart_by_the_check_as_by_the_conversion(tmp_path: Path) -> None:
    """float64 does not hold 2^60 + 1: as such numbers all of these groups would be one."""
    for name, first in (("train", 0), ("held", 40)):
        for place, label in enumerate("bs"):
            lines = [
                f"{row + 1000 * place + 300 * first},{2**60 + 100 * place + first + row // 3}"
                for row in range(90)
            ]
            (tmp_path / f"{name}_{label}.csv").write_text("\n".join(["x,event", *lines]) + "\n")
    given, tests = (
        [f"{label}={tmp_path}/{name}_{label}.csv" for label in "bs"] for name in ("train", "held")
    )
    dataset = made(tmp_path, given, tests, rule=NO_TEST, split_by="event")
    assert dataset.rows("test") == 180
    assert not [one for one in check(dataset.folder).problems if "'event'" in one]


def test_files_of_a_class_are_given_as_the_inputs_are(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("test", 1000)):
        for place, label in enumerate("bs"):
            table(tmp_path / name / f"{label}.csv", first + 200 * place, 90)
    words = [str(tmp_path / "out"), "--reader", "text", "--columns", "x,z", "--split", "75/25/0"]
    given = [f"{label}={tmp_path}/{{}}/{label}.csv" for label in "bs"]
    tests = [word for one in given for word in ("--test-file", one.format("test"))]
    result = CliRunner().invoke(
        app, ["convert", *(one.format("train") for one in given), *tests, "--out", *words]
    )
    assert result.exception is None, result.output
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.manifest.class_counts("test") == {"b": 90, "s": 90}
    held = dataset.arrays("test", purpose="check")
    np.testing.assert_array_equal(held["label"], held["x"] >= 1200)


def test_test_files_name_their_classes_where_the_inputs_do(tmp_path: Path) -> None:
    """By order alone, B/b.csv would be of the class `s`, which the first input is of."""
    for name, first in (("A", 0), ("B", 1000)):
        for place, label in enumerate("bs"):
            table(tmp_path / name / f"{label}.csv", first + 200 * place, 90)
    named = [f"{label}={tmp_path}/{{}}/{label}.csv" for label in "sb"]
    inputs, bare = [one.format("A") for one in named], [tmp_path / f"B/{label}.csv" for label in "bs"]
    rules: dict[str, Any] = {"columns": ("x", "z"), "rule": NO_TEST}
    with raises(InvalidConfig, "CLASS=PATH", "--test-file"):
        made(tmp_path, inputs, bare, **rules)
    dataset = made(tmp_path, inputs, bare, rules={"classes": ("b", "s")}, **rules)  # the order is stated
    held = dataset.arrays("test", purpose="check")
    np.testing.assert_array_equal(held["label"], held["x"] >= 1200)
    for path, first in ((tmp_path / "own.h5", 0), (tmp_path / "held.h5", 1000)):
        parts(path, first, "bs")
    with raises(InvalidConfig, "CLASS=PATH", "parts"):
        files = [[f"{tmp_path}/own.h5"], [f"{label}={tmp_path}/held.h5" for label in "bs"]]
        made(tmp_path, *files, rules={"reader": "hdf5"}, overwrite=True)


@pytest.mark.parametrize(
    "bad",
    ["bytes", "event", "class", "share", "default", "where", "group", "label", "columns"],
)
def test_bad_test_files_are_refused(tmp_path: Path, bad: str) -> None:
    own, held = table(tmp_path / "train.csv", 0, 100), table(tmp_path / "held.csv", 1000, 20)
    error: type[HepRayError] = InvalidConfig
    more: dict[str, Any] = {"rules": LABELLED, "rule": NO_TEST}
    facts: list[Any] = []
    if bad == "bytes":
        held, facts = own, ["train.csv", "--test-file"]
    elif bad == "event":  # 90 to 99 are in both, of which 90 stands first in the files
        table(held, 90, 20)
        error, facts = InvalidEvents, [10, "[event_id]"]
    elif bad == "class":
        table(held, 1000, 20, labels=("s",))
        error, facts = InvalidEvents, ["b"]
    elif bad == "share":
        more["rule"], facts = SplitRule(train=0.5, val=0.25, test=0.25), ["25", "--split 80/20/0"]
    elif bad == "default":  # the numbers of the default, but stated
        more["rule"], facts = split_rule("60/15/25", None), ["25", "--split 80/20/0"]
    elif bad == "where":
        more["rule"], facts = SplitRule(train_where="x < 50"), ["'x < 50'", "--train-where"]
    elif bad == "group":  # z is 0 to 10 in either file, in all 100 events of the other
        more["rules"], error = {**LABELLED, "split_by": "z"}, InvalidEvents
        facts = [11, "'z'", 100, "--split-by", "such as 0"]
    elif bad == "label":
        table(held, 1000, 20, labels=("1", "2"))
        error = HepRayError
    else:
        held.write_text("x,y\n1,b\n2,s\n")
        error, facts = InvalidSchema, ["z"]
    with raises(error, *facts):
        made(tmp_path, [own], [held], **more)
    assert not (tmp_path / "out").exists()


def collisions(path: Path, first: int, count: int) -> Path:
    """Write candidates, five of each collision, of both classes."""
    lines = [
        f"{5 * collision + one},{collision},{'bs'[(5 * collision + one) % 2]}"
        for collision in range(first, first + count)
        for one in range(5)
    ]
    path.write_text("\n".join(["x,evt,y", *lines]) + "\n")
    return path


def test_groups_are_whole_beside_a_given_test_file(tmp_path: Path) -> None:
    own, held = collisions(tmp_path / "own.csv", 0, 300), collisions(tmp_path / "held.csv", 1000, 40)
    words = ["convert", str(own), "--reader", "text", "--label", "y", "--classes", "b,s", "--out"]
    words += [str(tmp_path / "out"), "--test-file", str(held), "--split-by", "evt", "--split", "80/20/0"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    dataset = Dataset.open(tmp_path / "out")
    found = [
        set(dataset.arrays(split, purpose="check")["evt"].tolist()) for split in ("train", "val", "test")
    ]
    assert found[2] == set(range(1000, 1040))
    assert [len(found[0] & found[1]), len(found[0] | found[1])] == [0, 300]
    assert 0.1 < len(found[1]) / 300 < 0.3
    assert check(dataset.folder).problems == ()
    again = [str(tmp_path / "out"), "--reader", "parquet", "--train-where", "in_test_file == 0", "--out"]
    again = ["convert", *again, str(tmp_path / "again"), "--stratify"]
    kept = CliRunner().invoke(app, again, catch_exceptions=False)
    assert kept.exit_code == 0
    assert "divided anew" not in kept.output
    assert Dataset.open(tmp_path / "again").rows("test") == 200
    anew = ["convert", str(tmp_path / "out"), "--reader", "parquet", "--out", str(tmp_path / "anew")]
    told = CliRunner().invoke(app, anew, catch_exceptions=False).output.replace("\n", " ")
    assert tells(told, "divided anew", '--train-where "in_test_file == 0"')
    assert check(tmp_path / "again").problems == ()


@pytest.mark.parametrize("at_a_time", [7, 2**22])
def test_groups_in_a_test_file_and_in_another_are_refused(
    at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collisions 290 to 299 are in both files, with other events each."""
    monkeypatch.setattr("hep_ray.conversion.given_tests.GROUPS_AT_A_TIME", at_a_time)
    own, held = collisions(tmp_path / "own.csv", 0, 300), collisions(tmp_path / "held.csv", 290, 40)
    held.write_text(held.read_text().replace("\n1", "\n91"))  # x 1450 to 1649 become others
    rules = {"rules": LABELLED, "rule": NO_TEST}
    whole = made(tmp_path, [own], [held], columns=("x", "evt"), **rules)
    (problem,) = [one for one in check(whole.folder).problems if "'evt'" in one]
    assert (
        "--split-by evt keeps them in one split beside --test-file once no value is in a test file" in problem
    )
    found = check(whole.folder)
    told = " ".join((*found.problems, *found.notes))
    assert "convert … --columns x leaves it out" in told  # and not in_test_file, which no file has
    with raises(InvalidEvents, 10, "'evt'", 50, "--split-by evt"):
        made(tmp_path, [own], [held], split_by="evt", overwrite=True, **rules)
    words = {"rule": SplitRule(train_where="in_test_file == 0"), "split_by": "evt"}
    with raises(InvalidEvents, 10, "'evt'", 50):  # and where the dataset is converted again
        convert([whole.folder], "parquet", None, tmp_path / "again", **words)
    assert not (tmp_path / "again").exists()


def test_a_path_without_a_word_and_a_column_that_is_there_are_refused(tmp_path: Path) -> None:
    own, held = table(tmp_path / "train.csv", 0, 100), table(tmp_path / "held.csv", 1000, 20)
    for inputs, tests in (([own], [""]), ([""], [held])):
        with raises(InvalidConfig, "''"):
            made(tmp_path, inputs, tests, rules=LABELLED)
    for path in (own, held):
        path.write_text(path.read_text().replace("z", "in_test_file", 1))
    with raises(InvalidSchema, "'in_test_file'", "--columns"):
        made(tmp_path, [own], [held], rules=LABELLED)
    assert made(tmp_path, [own], [held], rules=LABELLED, columns=("x",)).rows("test") == 20


def test_events_that_look_alike_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    own, held = tmp_path / "train.csv", tmp_path / "held.csv"
    for path, first in ((own, 0), (held, 100)):
        path.write_text("\n".join(["n,x,y", *(f"{first + n},{n % 3},{'bs'[n % 2]}" for n in range(60))]))
    rules = {**LABELLED, "columns": ({"name": "x"},)}
    with raises(InvalidEvents, 60, "[event_id]"):
        made(tmp_path, [own], [held], rules=rules)
    ids = {**rules, "event_id": EventIdRule(fields=("n",))}
    assert made(tmp_path, [own], [held], rules=ids).rows("test") == 60
    held.write_text(held.read_text().replace("101,", "7,"))
    with raises(InvalidEvents, 1, "'s/7.0'"):
        made(tmp_path, [own], [held], rules=ids, overwrite=True)


def test_a_dataset_is_tested_on_another_of_the_same_columns(tmp_path: Path) -> None:
    for name, first in (("one", 0), ("two", 500)):
        path = table(tmp_path / f"{name}.csv", first, 120)
        convert([path], None, None, tmp_path / name, schema=SchemaFile(reader="text", **LABELLED))
    rules = {"reader": "parquet", "classes": ("t=s", "b")}
    made_of = convert(
        [tmp_path / "one"], None, None, tmp_path / "out",
        schema=SchemaFile(**rules), test_files=[tmp_path / "two"],
    )  # fmt: skip
    assert made_of.class_counts("test") == {"t": 60, "b": 60}
    (tmp_path / "three.csv").write_text((tmp_path / "two.csv").read_text().replace("x,z,y", "x,w,y"))
    convert(
        [tmp_path / "three.csv"], None, None, tmp_path / "three", schema=SchemaFile(reader="text", **LABELLED)
    )  # fmt: skip
    with raises(InvalidSchema, "columns"):
        convert(
            [tmp_path / "one"], None, None, tmp_path / "no",
            schema=SchemaFile(**rules), test_files=[tmp_path / "three"],
        )  # fmt: skip


def dataset_of(path: Path, first: int, rows: int = 120) -> Path:
    """Write a dataset whose ids are made of the name of the file that it is of."""
    table(path.with_suffix(".csv"), first, rows)
    convert([path.with_suffix(".csv")], None, None, path, schema=SchemaFile(reader="text", **LABELLED))
    return path


@pytest.mark.parametrize("size", [1, 2**25])
def test_events_of_two_datasets_are_compared_by_values(size: int, tmp_path: Path, monkeypatch: Any) -> None:
    """The ids of the same events differ, since the files that they were converted from have other names."""
    monkeypatch.setattr("hep_ray.conversion.given_tests.PIECE_BYTES", size)
    one, two = dataset_of(tmp_path / "one", 0), dataset_of(tmp_path / "two", 90)
    with raises(InvalidEvents, 30, "values", "[event_id]"):
        made(tmp_path, [one], [two], rules={"reader": "parquet"})


def test_other_events_of_one_id_are_told_from_equal_ones(tmp_path: Path) -> None:
    pair = [dataset_of(tmp_path / name / "ev", first) for name, first in (("a", 0), ("b", 1000))]
    rules = {"rules": {"reader": "parquet"}}
    with raises(InvalidEvents, 120, "other values", "--drop-duplicates"):
        made(tmp_path, pair[:1], pair[1:], **rules)
    with raises(InvalidEvents, "twice", "--drop-duplicates"):
        made(tmp_path, pair, (), **rules)
    dataset = made(tmp_path, pair[:1], pair[1:], drop_duplicates=True, **rules)
    assert sorted(dataset.arrays("test", purpose="check")["x"].tolist()) == list(range(1000, 1120))
    again = dataset.folder.rename(tmp_path / "again")
    other = made(tmp_path, pair[1:], pair[:1], drop_duplicates=True, **rules).folder.rename(
        tmp_path / "other"
    )
    with raises(InvalidSchema, "'in_test_file'", "--columns", '--train-where "in_test_file == 0"'):
        made(tmp_path, [again], [other], **rules)
    with raises(InvalidEvents, 240, "values"):
        made(tmp_path, [again], [other], columns=("x", "z"), **rules)


def test_the_note_of_joined_tables_says_where_their_events_go(tmp_path: Path) -> None:
    own, held = parts(tmp_path / "own.h5", 0, "pq"), parts(tmp_path / "held.h5", 1000, "pq")
    source = made(tmp_path, [own], [held], rules={**LABELLED, "reader": "hdf5"}).manifest.source
    notes = {Path(str(note).split(":")[0]).name: note for note in source["notes"]}  # type: ignore[union-attr]
    assert tells(notes["own.h5"], "train and val")
    assert not tells(notes["own.h5"], "test")
    assert tells(notes["held.h5"], "test")
    assert not tells(notes["held.h5"], "train")


def test_files_of_labels_beside_them_may_be_equal(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("test", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("".join(f"{first + row},{row % 5}\n" for row in range(60)))
        (tmp_path / name / "y.txt").write_text("".join(f"{row % 2}\n" for row in range(60)))
    rules = {
        "classes": ("b", "s"),
        "options": {"header": False, "columns": ["n", "m"], "label_file": "y.txt"},
        "label": {"from": "field", "field": "label_value"},
    }
    dataset = made(tmp_path, [tmp_path / "train/x.txt"], [tmp_path / "test/x.txt"], rules=rules)
    assert dataset.manifest.class_counts("test") == {"b": 30, "s": 30}
