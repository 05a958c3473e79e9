"""Weights of a process are scaled to cross section × luminosity, by the sum of all its weights."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hep_ray.conversion.cli import app
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import MANIFEST, Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema
from hep_ray.loading.shards import class_sums
from tests.facts import raises

HEAD = 'reader = "npz"\nclasses = ["bkg", "sig"]\nweight = "w"\n[normalisation]\nluminosity = 10.0\n'


def write(folder: Path) -> None:
    """Two processes of background in three files, one of signal; a third of the events is selected away."""
    rng = np.random.default_rng(0)
    for number, (name, weight) in enumerate([("tt_0", 2.0), ("tt_1", 2.0), ("wjets", -1.0), ("higgs", 1.0)]):
        w = np.full(300, 1.0) if weight < 0 else np.full(300, weight)
        w[:30] *= -1 if weight < 0 else 1  # 10 % of negative ones
        np.savez(
            folder / f"{name}.npz",
            pt=rng.random(300) + number,
            w=w.astype(np.float32),
            keep=np.arange(300) % 3,
        )


def processes(*rows: str) -> str:
    return "".join(f"[[normalisation.processes]]\n{row}\n" for row in rows)


TT, WJETS, HIGGS = (
    'files = "tt_*"\ncross_section = 3.0',
    'files = "wjets.npz"\ncross_section = 50.0\nsum_of_weights = 1000.0',
    'files = "higgs*"\ncross_section = 0.2',
)


def converted(folder: Path, text: str) -> Dataset:
    (folder / "s.toml").write_text(HEAD + text)
    files = [f"bkg={folder / name}.npz" for name in ("tt_0", "tt_1", "wjets")]
    words = [*files, f"sig={folder / 'higgs.npz'}", "--schema", folder / "s.toml", "--out", folder / "d"]
    done = CliRunner().invoke(
        app, ["convert", *map(str, words), "--select", "keep > 0"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return Dataset.open(folder / "d")


def test_each_process_has_its_cross_section(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = converted(tmp_path, processes(TT, WJETS, HIGGS))
    sums = dataset.manifest.weights
    total = {name: sum(one[name][0] for one in sums.values()) for name in ("bkg", "sig")}
    # tt: 10 · 3 expected before the selection, of which 2/3 are left. wjets: 10 · 50/1000 for each of weight 1: 180 of
    # weight 1 and 20 of weight -1 are left. higgs: 10 · 0.2, 2/3 are left.
    assert total["bkg"] == pytest.approx(30 * 2 / 3 + 0.5 * (180 - 20), rel=1e-5)
    assert total["sig"] == pytest.approx(2 * 2 / 3, rel=1e-5)
    assert dataset.schema.expected == pytest.approx(total)


def test_the_sums_of_the_weights_stand_in_the_manifest(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = converted(tmp_path, processes(TT, WJETS, HIGGS))
    val = dataset.arrays("val")
    for label, name in enumerate(("bkg", "sig")):
        weights = val["w"][val["label"] == label].astype(np.float64)
        assert dataset.manifest.weights["val"][name] == pytest.approx((weights.sum(), np.abs(weights).sum()))
    assert check(dataset.folder, ["pt"]).problems == ()  # which is another range in each file
    # A manifest of before they were written has the same sums, read from the shards; a changed one is found.
    path = dataset.folder / MANIFEST
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in stated.items() if key != "weights"}))
    earlier = Dataset.open(dataset.folder)
    assert (earlier.manifest.weights, earlier.weight_sums) == ({}, dataset.weight_sums)
    assert earlier.fingerprint == dataset.fingerprint
    assert class_sums(earlier, "train")["w"].tolist() == class_sums(dataset, "train")["w"].tolist()
    stated["weights"]["val"]["sig"][0] += 1.0
    path.write_text(json.dumps(stated))
    assert any("weights" in problem for problem in check(dataset.folder).problems)


@pytest.mark.parametrize(("expression", "torn"), [("x > 0", True), ("run < 5", False)])
def test_an_expression_does_not_tear_what_stays_in_one_split(
    expression: str, torn: bool, tmp_path: Path
) -> None:
    columns = (Column(name="x"), Column(name="run", dtype="int64"))
    schema = EventSchema(task="toy", columns=columns, classes=("a", "b"), split_by="run")
    rule = SplitRule(train_where=expression)
    with raises(InvalidConfig, "run", "--train-where") if torn else nullcontext():
        ShardWriter(tmp_path / "d", schema, rule)


@pytest.mark.parametrize(
    ("text", "error", "facts"),
    [
        (processes(TT, HIGGS), InvalidSchema, ["wjets.npz", "0", "'tt_*'"]),
        (
            processes(TT, WJETS, HIGGS, 'files = "*"\ncross_section = 1.0'),
            InvalidSchema,
            ["tt_0.npz", "2", "'*'"],
        ),
        (
            processes(TT, WJETS, HIGGS, 'files = "zz*"\ncross_section = 1.0'),
            InvalidSchema,
            ["'zz*'", "tt_0.npz"],
        ),
        (processes(TT, WJETS, HIGGS).replace("= 0.2", "= -0.2"), InvalidSchema, ["cross_section", -0.2]),
    ],
)
def test_what_cannot_be_normalised_is_named(
    text: str, error: type[Exception], facts: list[object], tmp_path: Path
) -> None:
    write(tmp_path)
    with raises(error, *facts):
        converted(tmp_path, text)


def test_a_process_whose_weights_cancel_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    np.savez(
        tmp_path / "higgs.npz", pt=np.ones(4), w=np.array([1, -1, 1, -1], np.float32), keep=np.ones(4, int)
    )
    with raises(InvalidEvents, "'higgs*'", "0", "`sum_of_weights`"):
        converted(tmp_path, processes(TT, WJETS, HIGGS))


def test_a_normalisation_needs_a_weight(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "s.toml").write_text(HEAD.replace('weight = "w"\n', "") + processes(TT, WJETS, HIGGS))
    words = [f"bkg={tmp_path / 'tt_0.npz'}", f"sig={tmp_path / 'higgs.npz'}", "--columns", "pt"]
    with raises(InvalidSchema, "normalisation", "--weight"):
        CliRunner().invoke(
            app,
            ["convert", *words, "--schema", str(tmp_path / "s.toml"), "--out", str(tmp_path / "d")],
            catch_exceptions=False,
        )


@pytest.mark.parametrize("role", ["--weight", "--split-by"])
def test_a_weight_or_a_group_is_never_missing(role: str, tmp_path: Path) -> None:
    values = np.arange(1.0, 201.0)
    values[7] = np.nan
    np.savez(tmp_path / "a.npz", pt=np.arange(200.0), of=values)
    np.savez(tmp_path / "b.npz", pt=np.where(np.arange(200) % 9, 1.0, np.nan), of=np.arange(200.0))
    words = [
        f"a={tmp_path / 'a.npz'}",
        f"b={tmp_path / 'b.npz'}",
        "--reader",
        "npz",
        role,
        "of",
        "--out",
        tmp_path / "d",
    ]
    done = CliRunner().invoke(app, ["convert", *map(str, words), "--missing", "nan"])
    assert isinstance(done.exception, InvalidEvents)
    assert "'of'" in str(done.exception)
    with raises(InvalidSchema, "'w'", "missing"):
        EventSchema(
            task="toy",
            columns=(Column(name="x"), Column(name="w", missing=True)),
            classes=("a", "b"),
            weight="w",
        )
