"""Events that belong together are in one split, and a model is not judged by what it has seen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

from hep_ray.conversion.cli import app
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule, event_hashes, hashes_of, split_codes
from hep_ray.dataset.variations import Variation
from hep_ray.errors import InvalidSchema
from hep_ray.metrics.roc import roc_curve
from tests.facts import raises

COLLISIONS, CANDIDATES = 600, 10
COLUMNS = (
    Column(name="isolation"),
    Column(name="event_energy", shape=(4,)),
    Column(name="collision", dtype="int64"),
)


def test_the_split_of_a_group_worked_out_by_hand() -> None:
    groups = np.array([7, 12_345_678_901, 7, -3])
    hashes = hashes_of(["a", "b", "c", "d"], "hep_ray", groups)
    for row, value in enumerate(groups.tolist()):
        digest = hashlib.blake2b(f"hep_ray\0{value}".encode(), digest_size=16).digest()
        assert int(hashes[row, 0]) == int.from_bytes(digest[:8], "little")
    assert (hashes[:, 1] == event_hashes(["a", "b", "c", "d"], "hep_ray")[:, 1]).all()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.sampled_from(["int32", "int64", "float64"]))
def test_a_group_is_never_torn_whatever_holds_its_number(values: list[int], dtype: str) -> None:
    groups = np.array(values, dtype)
    codes = split_codes(
        hashes_of([f"e{row}" for row in range(len(values))], "s", groups), SplitRule(salt="s")
    )
    assert all(len(set(codes[groups == value])) == 1 for value in set(values))
    shuffled = split_codes(
        hashes_of(["x"] * len(values), "s", groups[::-1].astype("int64")), SplitRule(salt="s")
    )
    assert (shuffled[::-1] == codes).all()


def made(folder: Path, split_by: str | None) -> Dataset:
    """Ten candidates of each collision share energies that say nothing of the class; the isolation says little."""
    rng = np.random.default_rng(5)
    collision = np.repeat(np.arange(COLLISIONS), CANDIDATES)
    label = np.repeat(rng.integers(0, 2, COLLISIONS), CANDIDATES)
    spectators = () if split_by else ("collision",)
    schema = EventSchema(
        task="toy", columns=COLUMNS, classes=("jet", "tau"), split_by=split_by, spectators=spectators
    )
    with ShardWriter(folder, schema) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(len(label))],
                "label": label,
                "isolation": rng.normal(0.4 * label).astype(np.float32),
                "event_energy": np.repeat(rng.normal(size=(COLLISIONS, 4)), CANDIDATES, axis=0).astype(
                    np.float32
                ),
                "collision": collision,
            }
        )
    return Dataset.open(folder)


def nearest_neighbours_auc(dataset: Dataset) -> tuple[float, float]:
    """AUC and error on the validation split of who answers as the nearest training events do."""
    train, val = dataset.arrays("train"), dataset.arrays("val")
    inputs = [np.column_stack([one["isolation"], one["event_energy"] * 3]) for one in (train, val)]
    fitted = KNeighborsClassifier(9).fit(inputs[0], train["label"])
    curve = roc_curve(fitted.predict_proba(inputs[1])[:, 1], val["label"] == 1)
    return curve.area, curve.area_error


def test_ten_candidates_of_a_collision_inflate_the_auc_and_groups_do_not(tmp_path: Path) -> None:
    plain, error = nearest_neighbours_auc(made(tmp_path / "plain", None))
    grouped, grouped_error = nearest_neighbours_auc(made(tmp_path / "grouped", "collision"))
    # Of the isolation alone, two Gaussians 0.4 apart: Φ(0.4/√2) = 0.61; the energies tell nothing of another collision.
    assert plain - 5 * error > 0.85
    assert grouped - 5 * grouped_error < 0.61


def test_no_collision_is_in_two_splits(tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", "collision")
    found = [set(dataset.arrays(split, purpose="check")["collision"].tolist()) for split in SPLITS]
    assert sum(map(len, found)) == COLLISIONS == len(set.union(*found))
    assert [column.name for column in dataset.schema.inputs] == ["isolation", "event_energy"]
    assert not check(tmp_path / "d").problems


def test_a_leak_that_ignores_the_collision_is_found_and_can_be_accepted(tmp_path: Path) -> None:
    made(tmp_path / "d", None)
    (problem,) = check(tmp_path / "d").problems
    for fact in ("'collision'", "600 values", "10.0 events", "--split-by collision", "--accept collision"):
        assert fact in problem
    assert not check(tmp_path / "d", ["collision"]).problems


def test_weights_of_a_variation_are_no_groups(tmp_path: Path) -> None:
    weight = np.repeat(np.linspace(0.5, 1.5, 200), 5).astype(np.float32)
    schema = EventSchema(
        task="toy",
        columns=(Column(name="x"), Column(name="w"), Column(name="w_up"), Column(name="collision")),
        classes=("jet", "tau"),
        weight="w",
        spectators=("w_up", "collision"),
        variations={"up": Variation(weight="w_up")},
    )
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(1000)],
                "label": np.arange(1000) % 2,
                "x": np.random.default_rng(1).normal(size=1000).astype(np.float32),
                "w": weight,
                "w_up": weight * 2,
                "collision": weight,
            }
        )
    (problem,) = check(tmp_path / "d").problems
    assert "--split-by collision" in problem


@pytest.mark.parametrize("reader", ["npz", "parquet"])
def test_files_and_datasets_are_split_by_a_field(reader: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(("jet", "tau")):
        event = np.repeat(np.arange(100), 3)
        np.savez(tmp_path / f"{name}.npz", pt=rng.random(300) + number / 2, event_number=event)
    words = ["convert", f"jet={tmp_path / 'jet.npz'}", f"tau={tmp_path / 'tau.npz'}", "--reader", "npz"]
    if reader == "parquet":
        first = [*words, "--columns", "pt,event_number", "--out", str(tmp_path / "first")]
        assert CliRunner().invoke(app, first, catch_exceptions=False).exit_code == 0
        words = ["convert", str(tmp_path / "first"), "--reader", "parquet"]
    words += ["--split-by", "event_number", "--out", str(tmp_path / "d")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.schema.split_by == "event_number"
    found = [set(dataset.arrays(split, purpose="check")["event_number"].tolist()) for split in SPLITS]
    assert sum(map(len, found)) == 100
    assert not [one for one in check(tmp_path / "d").problems if "event_number" in one]


def test_a_group_is_one_number() -> None:
    with raises(InvalidSchema, "split_by", "'event_energy'", "(4,)"):
        EventSchema(task="t", columns=COLUMNS, classes=("a", "b"), split_by="event_energy")
    with raises(InvalidSchema, "'mass'"):
        EventSchema(task="t", columns=COLUMNS, classes=("a", "b"), spectators=("mass",))
