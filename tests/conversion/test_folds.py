"""Training and validation events take turns to validate, each once; the test split stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion.folds import FOLDER, open_folds, rule_of_folds
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset, verify_shards
from hep_ray.dataset.schema import EVENT_ID, LABEL, Column, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule, event_hashes, uniform_of
from hep_ray.dataset.variations import Variation
from hep_ray.errors import CannotResume, InvalidConfig, InvalidEvents, ShardMismatch
from hep_ray.search.definition import Preset, Search
from hep_ray.search.length_checks import check_folds
from hep_ray.search.parameters import LogUniform
from hep_ray.search.space import Space
from tests.facts import raises

EVENTS, FOLDS = 700, 5


def made(
    folder: Path, *, split_by: bool = False, stratified: bool = False, events: int = EVENTS, **given: Any
) -> Dataset:
    """Events with an image that has many zeros, a list, a weight below 0 at times, and the collision they are of."""
    random = np.random.default_rng(4)
    schema = EventSchema(
        task="toy",
        classes=("b", "s"),
        columns=(
            Column(name="x"),
            Column(name="image", shape=(16, 16), axes=("phi", "eta")),
            Column(name="w"),
            Column(name="w_up"),
            Column(name="collision", dtype="int64"),
        ),
        weight="w",
        split_by="collision" if split_by else None,
        spectators=("w_up", *([] if split_by else ["collision"])),
        **given,
    )
    image = random.random((events, 16, 16), np.float32) * (random.random((events, 16, 16)) < 0.03)
    rows = {
        EVENT_ID: [f"e{row}" for row in range(events)],
        LABEL: (np.arange(events) % 10 == 0).astype(np.int64),
        "x": random.normal(size=events).astype(np.float32),
        "image": image.astype(np.float32),
        "w": np.where(np.arange(events) % 11 == 0, -0.5, 1.0).astype(np.float32),
        "w_up": np.ones(events, np.float32),
        "collision": np.arange(events) // 7,
    }
    with ShardWriter(folder, schema, SplitRule(stratified=stratified), rows_per_shard=64) as writer:
        writer.write(rows)
    return Dataset.open(folder)


def ids(dataset: Dataset, *splits: Any) -> list[str]:
    return [
        one
        for split in splits
        for one in dataset.values(EVENT_ID, split, purpose="check" if split == "test" else None).to_pylist()
    ]


@pytest.mark.parametrize("split_by", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_each_event_validates_once_and_none_of_the_test_split_is_learnt_from(
    tmp_path: Path, split_by: bool, stratified: bool
) -> None:
    dataset = made(tmp_path / "d", split_by=split_by, stratified=stratified)
    folds = open_folds(dataset, FOLDS, tmp_path / "s", weights=True)
    divided = sorted(ids(dataset, "train", "val"))
    assert sorted(one for fold in folds for one in ids(fold, "val")) == divided
    groups = {name: int(name[1:]) // 7 for name in divided}
    before = {name: row for split in ("train", "val") for row, name in rows_of(dataset, split)}
    for fold in folds:
        assert sorted(ids(fold, "train", "val")) == divided
        assert ids(fold, "test") == ids(dataset, "test")
        assert verify_shards(fold.folder, hashes="all").rows("val") == fold.rows("val")
        for split in ("train", "val"):
            for row, name in rows_of(fold, split):
                assert row == before[name]
        if split_by:
            of_split = [{groups[name] for name in ids(fold, split)} for split in ("train", "val")]
            assert not of_split[0] & of_split[1]
        if stratified and not split_by:
            signal = fold.manifest.class_counts("val")["s"]
            assert abs(signal - sum(one.manifest.class_counts("val")["s"] for one in folds) / FOLDS) <= 1
    if not (split_by or stratified):  # by the hash alone, of another salt than that of the dataset
        hashes = uniform_of(event_hashes(divided, "hep_ray/folds"))
        wanted = {name: int(FOLDS * one) for name, one in zip(divided, hashes, strict=True)}
        assert {name: place for place, fold in enumerate(folds) for name in ids(fold, "val")} == wanted


def rows_of(dataset: Dataset, split: Any) -> list[tuple[tuple[bytes, ...], str]]:
    arrays = dataset.arrays(split)
    values = [name for name in arrays if name != EVENT_ID]
    names = dataset.values(EVENT_ID, split).to_pylist()
    return [(tuple(arrays[name][row].tobytes() for name in values), one) for row, one in enumerate(names)]


def test_a_fold_knows_its_weights_and_is_found_again(tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", variations={"up": Variation(weight="w_up")})
    folds = open_folds(dataset, FOLDS, tmp_path / "s", weights=True)
    for fold in folds:
        assert dict(fold.schema.expected) == pytest.approx(dict(dataset.schema.expected))
        for split in SPLITS:
            arrays = fold.arrays(split, purpose="check" if split == "test" else None)
            for label, name in enumerate(("b", "s")):
                own = arrays["w"][arrays[LABEL] == label]
                assert fold.manifest.weights[split][name] == pytest.approx((own.sum(), np.abs(own).sum()))
        assert fold.manifest.sparse == dataset.manifest.sparse != {}
        assert list(fold.schema.variations) == ["up"]
    assert len({fold.fingerprint for fold in folds} | {dataset.fingerprint}) == FOLDS + 1
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.parquet")}
    again = open_folds(dataset, FOLDS, tmp_path / "s", weights=True)
    assert [one.fingerprint for one in again] == [one.fingerprint for one in folds]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.parquet")} == stamps
    elsewhere = open_folds(dataset, FOLDS, tmp_path / "other", weights=False)
    assert [one.fingerprint for one in elsewhere] == [one.fingerprint for one in folds]
    assert elsewhere[0].schema.weight is None
    # The parts are on the disk once.
    (part, *_) = sorted((folds[0].folder).glob("part-*"))
    assert part.samefile(folds[1].folder / part.name)


def test_folds_of_other_events_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    dataset = made(tmp_path / "d")
    (first, *_) = open_folds(dataset, FOLDS, tmp_path / "s", weights=True)
    with raises(CannotResume, "fold_1", "--storage"):
        open_folds(made(tmp_path / "o", events=600), FOLDS, tmp_path / "s", weights=True)
    first.paths("val")[0].unlink()
    with raises(ShardMismatch, FOLDER, "remove", "resume"):
        open_folds(dataset, FOLDS, tmp_path / "s", weights=True)


def test_folds_that_cannot_be_are_refused_before_any_is_made(tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", variations={"other": Variation(data="elsewhere")})
    space = Space(model="mlp", learning_rate=LogUniform(1e-4, 1e-1))

    def check(metric: str = "val_auc", **given: Any) -> None:
        search = Search(name="toy", task="toy", title="", space=space, presets={}, metric=metric)
        check_folds(Preset(epochs=2, **given), search, space, dataset)

    check(trials=5, folds=5)
    check(trials=2)
    with raises(InvalidConfig, "5 folds", "4 trials", "--trials 10"):
        check(trials=4, folds=5)
    with raises(InvalidConfig, "'other'", "--folds"):
        check("val_worst_auc", trials=10, folds=5)
    with raises(InvalidEvents, "'s'", "--folds"):
        check(trials=100, folds=45)
    two = Search(name="toy", task="toy", title="", space=space, presets={}, second_objective="flops")
    with raises(InvalidConfig, "two objectives", "--folds"):
        check_folds(Preset(epochs=2, trials=9, folds=3), two, space, dataset)
    grouped = made(tmp_path / "g", split_by=True, events=84)
    search = Search(name="toy", task="toy", title="", space=space, presets={})
    with raises(InvalidEvents, "collision", "--folds"):
        check_folds(Preset(epochs=2, trials=50, folds=12), search, space, grouped)
    assert not (tmp_path / "s").exists()
    assert rule_of_folds(dataset, 3).salt != dataset.manifest.split_rule.salt
