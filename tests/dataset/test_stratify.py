"""A stratified split keeps each class's shares to the event, groups together, and says so in the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hep_ray.cli import data_app as app
from hep_ray.confirm.folds import dataset_of_fold
from hep_ray.conversion import shards
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import SchemaFile
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset, Manifest
from hep_ray.dataset.splits import SPLITS, SplitRule, event_hashes, hashes_of, split_codes, stratify
from hep_ray.errors import InvalidConfig, InvalidEvents
from tests.facts import raises

STRATIFIED = SplitRule(stratified=True)


def two_files(folder: Path, signal: int = 311, background: int = 1489, **more: Any) -> list[str]:
    """Write events of two classes, one file each, and return the inputs."""
    random, inputs = np.random.default_rng(3), []
    for name, events in (("background", background), ("signal", signal)):
        columns = {"x": random.normal(size=events), "y": random.normal(size=events)}
        columns |= {key: made(name, events) for key, made in more.items()}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        inputs.append(f"{name}={folder / f'{name}.parquet'}")
    return inputs


def counts(manifest: Manifest) -> dict[str, list[int]]:
    return {
        name: [manifest.class_counts(split)[name] for split in SPLITS]
        for name in manifest.event_schema.classes
    }


def test_cuts_worked_out_by_hand() -> None:
    # Ranks of the hashes within a class decide: of 8 events 0.5, 0.25, 0.25 are the 4 lowest, the next 2, the last 2.
    rule = SplitRule(train=0.5, val=0.25, test=0.25, stratified=True)
    ids = [f"e{row}" for row in range(12)]
    hashes, labels = event_hashes(ids, rule.salt), np.array([0] * 8 + [1] * 4)
    cut, together = stratify(rule, hashes, labels, 2)
    codes = split_codes(hashes, cut, labels=labels)
    assert not together
    for label, expected in ((0, [0] * 4 + [1] * 2 + [2] * 2), (1, [0, 0, 1, 2])):
        of_class = labels == label
        assert codes[of_class][np.argsort(hashes[of_class, 0])].tolist() == expected


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=80),
    st.sampled_from([(0.6, 0.15), (0.8, 0.2), (0.75, 0.0)]),
)
def test_shares_are_kept_to_one_event_of_any_class(labels: list[int], fractions: tuple[float, float]) -> None:
    train, val = fractions
    rule = SplitRule(train=train, val=val, test=round(1 - train - val, 9), stratified=True)
    hashes, of_event = event_hashes([f"e{row}" for row in range(len(labels))], "s"), np.array(labels)
    cut, _ = stratify(rule, hashes, of_event, 3)
    codes = split_codes(hashes, cut, labels=of_event)
    for label in set(labels):
        events = labels.count(label)
        for code, split in enumerate(SPLITS):
            assert abs(int((codes[of_event == label] == code).sum()) - events * rule.fraction(split)) <= 1


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.booleans())
def test_groups_stay_together_whatever_their_classes(values: list[int], mixed: bool) -> None:
    groups = np.array(values)
    labels = np.arange(len(values)) % 2 if mixed else groups % 2
    hashes = hashes_of([f"e{row}" for row in range(len(values))], "s", groups)
    cut, together = stratify(STRATIFIED, hashes, labels, 2)
    codes = split_codes(hashes, cut, labels=labels)
    assert all(len(set(codes[groups == value])) == 1 for value in values)
    assert together == any(len(set(labels[groups == value])) > 1 for value in values)


def test_a_conversion_keeps_shares_says_so_and_is_the_same_in_any_order(tmp_path: Path) -> None:
    inputs = two_files(tmp_path)
    plain = convert(inputs, "parquet", None, tmp_path / "plain")
    made = convert(inputs, "parquet", None, tmp_path / "made", rule=STRATIFIED)
    # 1489: 893.4, 223.35, 372.25, cut at ranks 893 and 1117 (1116.75); 311: at 187 (186.6) and 233 (233.25).
    assert counts(made) == {"background": [893, 224, 372], "signal": [187, 46, 78]}
    assert counts(plain) != counts(made)
    assert made.split_rule.stratified
    assert [len(cut) for cut in made.split_rule.cuts] == [2, 2]
    assert not plain.split_rule.stratified
    assert plain.split_rule.cuts == ()
    assert check(tmp_path / "made").problems == ()
    other = convert(inputs[::-1], "parquet", ["background", "signal"], tmp_path / "other", rule=STRATIFIED)
    assert other.fingerprint == made.fingerprint
    assert Dataset.open(tmp_path / "made").rows("val") == 270


def test_manifests_of_before_are_read_with_their_fingerprint(tmp_path: Path) -> None:
    made = convert(two_files(tmp_path, 30, 70), "parquet", None, tmp_path / "made")
    path = tmp_path / "made" / "manifest.json"
    before = json.loads(path.read_text())
    del before["split_rule"]["stratified"], before["split_rule"]["cuts"]
    path.write_text(json.dumps(before))
    assert Manifest.load(tmp_path / "made") == made


def test_an_event_in_a_wrong_split_is_found(tmp_path: Path) -> None:
    convert(two_files(tmp_path), "parquet", None, tmp_path / "made", rule=STRATIFIED)
    path = tmp_path / "made" / "manifest.json"
    manifest = Manifest.read(tmp_path / "made")
    (train, val), signal = manifest.split_rule.cuts
    moved = ((train / 2, val), signal)
    rule = manifest.split_rule.model_copy(update={"cuts": moved})
    path.write_text(manifest.model_copy(update={"split_rule": rule}).model_dump_json())
    assert any("belong to another split" in problem for problem in check(tmp_path / "made").problems)


def test_groups_of_several_classes_are_named(tmp_path: Path) -> None:
    inputs = two_files(tmp_path, event=lambda _, events: np.arange(events) // 3)
    made = convert(inputs, "parquet", None, tmp_path / "made", rule=STRATIFIED, split_by="event")
    assert any("'event'" in str(note) and "several classes" in str(note) for note in made.source["notes"])
    assert made.split_rule.cuts[0] == made.split_rule.cuts[1]
    # 1800 events in groups of 3 or 6: the fractions of all are kept to half a group.
    assert np.allclose([made.rows(split) for split in SPLITS], [1080, 270, 450], atol=6)
    alone = two_files(
        tmp_path, event=lambda name, events: np.arange(events) // 3 + 10_000 * (name == "signal")
    )
    kept = convert(alone, "parquet", None, tmp_path / "kept", rule=STRATIFIED, split_by="event")
    assert not any("several classes" in str(note) for note in kept.source["notes"])
    assert np.allclose(counts(kept)["signal"], [186.6, 46.65, 77.75], atol=3)
    assert check(tmp_path / "kept").problems == ()


def test_train_and_val_are_stratified_beside_given_test_events(tmp_path: Path) -> None:
    inputs = two_files(tmp_path, 300, 700, region=lambda _, events: np.arange(events) % 4)
    rule = SplitRule(stratified=True, train_where="region < 2")
    made = convert(inputs, "parquet", None, tmp_path / "made", rule=rule)
    # Half of each class is learnt from, 0.6 : 0.15 of it for train and val.
    assert counts(made) == {"background": [280, 70, 350], "signal": [120, 30, 150]}
    assert check(tmp_path / "made").problems == ()


def test_events_that_are_dropped_do_not_count(tmp_path: Path) -> None:
    inputs = two_files(tmp_path, 100, 200)
    twice = [*inputs, f"signal={tmp_path / 'again.parquet'}"]
    pq.write_table(pq.read_table(tmp_path / "signal.parquet").slice(0, 50), tmp_path / "again.parquet")
    made = convert(twice, "parquet", None, tmp_path / "made", rule=STRATIFIED, drop_duplicates=True)
    assert counts(made) == {"background": [120, 30, 50], "signal": [60, 15, 25]}


def test_folds_of_a_stratified_dataset_are_stratified(tmp_path: Path) -> None:
    convert(two_files(tmp_path, 300, 700), "parquet", None, tmp_path / "made", rule=STRATIFIED)
    dataset, tested = Dataset.open(tmp_path / "made"), []
    for fold in range(5):
        rule = SplitRule.of_fold(fold, 5, dataset.manifest.split_rule.salt, stratified=True)
        made = dataset_of_fold(dataset, rule, tmp_path / "folds", weights=True)
        assert counts(made.manifest) == {"background": [420, 140, 140], "signal": [180, 60, 60]}
        tested += made.values("event_id", "test", purpose="confirm").to_pylist()
    assert len(tested) == len(set(tested)) == 1000


def test_more_events_than_are_divided_twice_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = two_files(tmp_path, 300, 700)
    monkeypatch.setattr(shards, "MOST_STRATIFIED", 999)
    with raises(InvalidConfig, "1000", "999", "--stratify"):
        convert(inputs, "parquet", None, tmp_path / "made", rule=STRATIFIED)
    with raises(InvalidConfig, "1000", "999", "--stratify"):  # found out at the end
        convert(inputs, "parquet", None, tmp_path / "made", rule=STRATIFIED, selection="x == x")
    assert not (tmp_path / "made").exists()
    told = CliRunner().invoke(
        app, ["simulate", "susy", "--events", "2000", "--out", str(tmp_path / "s"), "--stratify"]
    )
    assert isinstance(told.exception, InvalidConfig)  # before any event is simulated
    assert "2000 events" in str(told.exception)
    few = convert(inputs, "parquet", None, tmp_path / "made", rule=STRATIFIED, selection="x > 0")
    assert sum(few.split_counts().values()) < 999


def test_events_that_labels_leave_out_do_not_count_against_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(1000.0)
    pq.write_table(pa.table({"x": rows % 250 + rows // 250, "y": rows}), tmp_path / "e.parquet")
    monkeypatch.setattr(shards, "MOST_STRATIFIED", 596)
    where = {"from": "where", "where": ["x < 100", "x > 200"]}
    rules = SchemaFile.model_validate({"reader": "parquet", "classes": ["low", "high"], "label": where})
    made = convert([tmp_path / "e.parquet"], None, None, tmp_path / "made", schema=rules, rule=STRATIFIED)
    assert {name: sum(events) for name, events in counts(made).items()} == {"low": 394, "high": 202}
    monkeypatch.setattr(shards, "MOST_STRATIFIED", 595)
    with raises(InvalidConfig, "596", "595", "--stratify"):
        convert([tmp_path / "e.parquet"], None, None, tmp_path / "none", schema=rules, rule=STRATIFIED)


def test_a_class_too_small_for_its_splits_is_refused_by_the_command(tmp_path: Path) -> None:
    two_files(tmp_path, 2, 100)
    files = [f"{name}={tmp_path / f'{name}.parquet'}" for name in ("background", "signal")]
    command = ["convert", *files, "--reader", "parquet", "--out", str(tmp_path / "made"), "--stratify"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InvalidEvents)
    assert "signal 0" in str(refused.exception)
    two_files(tmp_path, 20, 100)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert counts(Manifest.read(tmp_path / "made")) == {"background": [60, 15, 25], "signal": [12, 3, 5]}


def test_cuts_of_a_rule_that_has_none_are_refused() -> None:
    with raises(InvalidConfig, "(0.5,)"):
        SplitRule(cuts=((0.5,),))
    with raises(InvalidConfig, "(0.7, 0.5)"):
        SplitRule(stratified=True, cuts=((0.7, 0.5), (0.5, 0.7)))
