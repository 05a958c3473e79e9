"""`hep-ray data`: what a person and a program see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hep_ray.conversion.cli import app, split_rule
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import ORIGIN
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidConfig, InvalidEvents
from tests.facts import raises, tells


@pytest.mark.parametrize(
    ("pixels", "step"), [(26, "python searches/cnn_loss.py --data"), (4, "hep-ray new bg_sig_search --data")]
)
def test_convert_ends_with_a_table_and_the_next_command(pixels: int, step: str, tmp_path: Path) -> None:
    for offset, name in enumerate(("a", "b")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for number in range(40):
                file[f"e{number}/data"] = np.full((pixels, pixels, 3), number + offset / 2, dtype=np.float32)
    out = tmp_path / "d"
    arguments = ["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--reader", "hvl"]
    result = CliRunner().invoke(app, [*arguments, "--classes", "bg,sig", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"{step} {out}" in result.stdout
    assert (out / "manifest.json").is_file()


def test_check_prints_json_and_exits_by_what_it_found(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(60)
    sound = CliRunner().invoke(app, ["check", str(folder), "--json"])
    assert sound.exit_code == 0
    assert json.loads(sound.stdout)["problems"] == []
    (folder / "train-00000.parquet").unlink()
    spoilt = CliRunner().invoke(app, ["check", str(folder), "--json"])
    assert spoilt.exit_code == 1
    assert json.loads(spoilt.stdout)["problems"] == ["train-00000.parquet is missing"]
    readable = CliRunner().invoke(app, ["check", str(folder)])
    assert readable.exit_code == 1
    assert "problem: train-00000.parquet is missing" in readable.stdout


@pytest.mark.parametrize(
    "flag",
    [
        "reader",
        "columns",
        "label",
        "label-values",
        "weight",
        "select",
        "train-where",
        "split",
        "task",
        "signal",
        "schema",
    ],
)
def test_a_flag_without_a_word_is_refused(flag: str, tmp_path: Path) -> None:
    """As by a variable of the shell that is not set: --select "$CUT" would keep everything."""
    (tmp_path / "e.csv").write_text("x,label\n" + "1,0\n2,1\n" * 20)
    words = ["convert", str(tmp_path / "e.csv"), "--reader", "text", "--label", "label", "--classes", "a,b"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "d"), f"--{flag}", " "])
    assert isinstance(result.exception, InvalidConfig)
    assert tells(str(result.exception), f"--{flag}", "' '")


@pytest.mark.parametrize(
    ("shares", "facts"),
    [("64/16", ["64/16"]), ("64/16/x", ["64/16/x"]), ("64/16/10", [90, 100]), ("0/50/50", ["train"])],
)
def test_shares_of_the_splits_are_three_per_cents(shares: str, facts: list[object]) -> None:
    with raises(InvalidConfig, *facts):
        split_rule(shares, None)


def test_shares_of_the_splits_are_taken() -> None:
    rule = split_rule("64/16/20", "x > 0")
    assert (rule.train, rule.val, rule.test, rule.train_where) == (0.64, 0.16, 0.2, "x > 0")
    assert split_rule(None, None) == SplitRule()


def test_a_split_without_a_class_is_refused_unless_it_has_no_share(tmp_path: Path) -> None:
    """Two events of class b cannot be in three splits."""
    (tmp_path / "e.csv").write_text("x,label\n" + "".join(f"{row},{row // 40}\n" for row in range(42)))
    words = ["convert", str(tmp_path / "e.csv"), "--reader", "text", "--label", "label", "--classes", "a,b"]
    out = tmp_path / "d"

    def convert(*more: str) -> BaseException | None:
        return CliRunner().invoke(app, [*words, "--out", str(out), *more]).exception

    refused = convert()
    assert isinstance(refused, InvalidEvents)
    assert tells(str(refused), "b 0", "--split", "100/0/0")
    assert not out.exists()
    assert convert("--split", "100/0/0") is None
    assert Manifest.load(out).class_counts("train") == {"a": 40, "b": 2}


def test_of_a_dataset_some_classes_are_chosen_and_named_anew(tmp_path: Path) -> None:
    """Class c had label 2 and has 0, a had 0 and has 1; an event keeps its id and its value, 10 times its old label."""
    rows = [f"{10 * (row % 3)},{row % 3}" for row in range(300)]
    (tmp_path / "e.csv").write_text("\n".join(["x,label", *rows]) + "\n")

    def convert(*words: str) -> object:
        return CliRunner().invoke(app, ["convert", *words]).exception

    whole, part = str(tmp_path / "whole"), tmp_path / "part"
    text = [str(tmp_path / "e.csv"), "--reader", "text", "--label", "label", "--classes", "a,b,c"]
    assert convert(*text, "--task", "three", "--out", whole) is None
    again = [whole, "--reader", "parquet", "--out", str(part)]
    assert (
        convert(*again, "--classes", "c,a", "--task", "two", "--signal", "c", "--select", "x < 15 or x > 15")
        is None
    )

    manifest = Manifest.load(part)
    schema = manifest.event_schema
    assert (schema.task, schema.classes, schema.signal) == ("two", ("c", "a"), "c")
    assert manifest.class_counts() == {"c": 100, "a": 100}
    made, before = (
        pa.concat_tables([pq.read_table(file) for file in sorted(Path(folder).glob("*.parquet"))]).to_pylist()
        for folder in (part, whole)
    )
    assert {(row["label"], row["x"]) for row in made} == {(0, 20.0), (1, 0.0)}
    assert {row["event_id"] for row in made} == {row["event_id"] for row in before if row["x"] != 10}
    merged = tmp_path / "merged"
    words = [
        whole,
        "--reader",
        "parquet",
        "--out",
        str(merged),
        "--classes",
        "rest=others,b",
        "--task",
        "binary",
    ]
    assert convert(*words) is None
    schema = Manifest.load(merged).event_schema
    assert (schema.task, schema.classes, schema.signal) == ("binary", ("rest", "b"), "b")
    found = pa.concat_tables([pq.read_table(file) for file in sorted(merged.glob("*.parquet"))]).to_pylist()
    assert sorted((row["label"], row["x"], row["event_id"]) for row in found) == sorted(
        (int(row["label"] == 1), row["x"], row["event_id"]) for row in before
    )
    # What a class was made of stays, told apart and seen by no model; also where classes are made one again.
    assert {(row["label"], row["x"], row[ORIGIN]) for row in found} == {
        (0, 0.0, 0),
        (1, 10.0, 1),
        (0, 20.0, 2),
    }
    assert schema.column(ORIGIN).categories == ("a", "b", "c")
    assert [column.name for column in schema.inputs] == ["x"]
    again = [str(merged), "--reader", "parquet", "--out", str(tmp_path / "again")]
    assert convert(*again, "--classes", "signal=b,other=others") is None
    schema = Manifest.load(tmp_path / "again").event_schema
    assert schema.spectators == (ORIGIN,)
    assert schema.column(ORIGIN).categories == ("a", "b", "c")
    for words, what in (
        (["--classes", "c,d"], "names d"),
        (["--classes", "c"], "chooses c alone"),
        (["--label", "x"], "cannot be stated"),
        (["--missing", "0"], "--missing"),
        (["--columns", "y"], "names y"),
    ):
        fault = convert(whole, "--reader", "parquet", "--out", str(tmp_path / "no"), *words)
        assert isinstance(fault, InvalidConfig)
        assert what in str(fault)
