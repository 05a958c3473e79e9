"""A test split that is given as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hep_ray.conversion.cli import app
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import EventIdRule, SchemaFile
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID, IN_TEST_FILE
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import HepRayError, InvalidConfig, InvalidEvents, InvalidSchema
from tests.facts import raises

NO_TEST = SplitRule(train=0.8, val=0.2, test=0)


def table(path: Path, first: int, rows: int, labels: Sequence[str] = ("b", "s")) -> Path:
    """Write events whose x is their number, which no two files share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    lines = [f"{number},{number * 7 % 11},{labels[number % len(labels)]}" for number in numbers]
    path.write_text("\n".join(["x,z,y", *lines]) + "\n")
    return path


def made(tmp_path: Path, inputs: Sequence[Any], tests: Sequence[Any], **more: Any) -> Dataset:
    rules = {"schema": SchemaFile(reader="text", **more.pop("rules", {})), **more}
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


@pytest.mark.parametrize("bad", ["bytes", "event", "class", "share", "where", "group", "label", "columns"])
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
    elif bad == "where":
        more["rule"], facts = SplitRule(train_where="x < 50"), ["'x < 50'", "--train-where"]
    elif bad == "group":
        more["rules"], facts = {**LABELLED, "split_by": "z"}, ["--split-by", "z"]
    elif bad == "label":
        table(held, 1000, 20, labels=("1", "2"))
        error = HepRayError
    else:
        held.write_text("x,y\n1,b\n2,s\n")
        error, facts = InvalidSchema, ["z"]
    with raises(error, *facts):
        made(tmp_path, [own], [held], **more)
    assert not (tmp_path / "out").exists()


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
