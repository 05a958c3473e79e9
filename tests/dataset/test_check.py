"""Every fault that a dataset can have is found; a sound one has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check, row_hashes
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import UnreadableInput
from tests.dataset.of_split import split_of
from tests.facts import tells


def problems_of(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    schema = EventSchema(task="toy", columns=(Column(name="ht"), Column(name="mass")), classes=("bg", "sig"))
    rows = np.arange(100)
    events = {
        "event_id": [f"e{row}" for row in rows],
        "label": rows % 2,
        "ht": rows.astype(np.float32),
        "mass": rows.astype(np.float32),
    }
    change(events)
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write(events)
    return "\n".join(check(tmp_path / "d").problems)


def test_a_sound_dataset_has_no_problems(make_dataset: Callable[..., Path]) -> None:
    report = check(make_dataset(200))
    assert report.problems == ()
    assert report.events == 200 == sum(report.splits.values())
    assert report.classes == {"background": 100, "signal": 100}
    assert list(json.loads(report.to_json())) == ["events", "classes", "splits", "fingerprint", "problems"]
    assert report.notes == ()


def test_a_column_that_never_changes_is_found(tmp_path: Path) -> None:
    assert tells(problems_of(tmp_path, lambda events: events["mass"].fill(0)), "'mass'", 0)


def test_repeated_content_is_found_and_told_from_leakage(tmp_path: Path) -> None:
    splits = split_of([f"e{row}" for row in range(100)], SplitRule())
    train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")

    def change(events: dict[str, Any]) -> None:
        for name in ("label", "ht", "mass"):
            events[name][train[1]] = events[name][train[0]]  # within train: repeated, no leakage
            events[name][test[0]] = events[name][train[2]]  # leakage

    assert problems_of(tmp_path, change).splitlines() == [
        "2 events repeat the content of another event",
        "1 events are in 'train' and, with the same content, in 'test'",
    ]


def test_the_same_event_in_two_classes_is_counted_apart(tmp_path: Path) -> None:
    train = np.flatnonzero(split_of([f"e{row}" for row in range(100)], SplitRule()) == "train")
    even, odd = train[train % 2 == 0], train[train % 2 == 1]

    def change(events: dict[str, Any]) -> None:
        for name in ("ht", "mass"):
            events[name][odd[0]] = events[name][even[0]]  # a pair of two classes
            events[name][even[2]] = events[name][even[1]]  # a pair of one class

    assert problems_of(tmp_path, change).splitlines() == [
        "2 events repeat the content of another event",
        "2 events have the content of an event of another class",
    ]


def test_columns_that_no_model_reads_may_be_constant_and_do_not_tell_events_apart(tmp_path: Path) -> None:
    schema = EventSchema(
        task="toy",
        columns=(Column(name="ht"), Column(name="weight"), Column(name="region", dtype="int8")),
        classes=("bg", "sig"),
        weight="weight",
        group="region",
    )
    values = np.arange(100, dtype=np.float32)
    values[90] = values[91]
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(100)],
                "label": np.arange(100) % 2,
                "ht": values,
                "weight": np.ones(100, dtype=np.float32),
                "region": (np.arange(100) == 90).astype(np.int8),
            }
        )
    assert tells(" ".join(check(tmp_path / "d").problems), "1 events", "repeat")
    assert not any("in every event" in problem for problem in check(tmp_path / "d").problems)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (5, 4, 3)])
def test_a_constant_element_is_found_and_a_constant_pixel_is_not(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    column = Column(name="part", shape=shape, elements=("d0", "z0", "phi"))
    schema = EventSchema(task="toy", columns=(column,), classes=("bg", "sig"))
    values = np.random.default_rng(0).random((100, *shape), dtype=np.float32)
    values[..., 1] = 0.5
    values.reshape(100, -1, 3)[:, 0, 0] = 0.25
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write(
            {"event_id": [f"e{row}" for row in range(100)], "label": np.arange(100) % 2, "part": values}
        )
    expected = ["element 'z0' of column 'part' is 0.5 in every event"]
    if len(shape) == 1:
        expected.insert(0, "element 'd0' of column 'part' is 0.25 in every event")
    assert list(check(tmp_path / "d").problems) == expected


def test_unequal_classes_and_splits_are_notes_not_problems(tmp_path: Path) -> None:
    """80 of 100 events are background: the largest class is 4 times the smallest."""
    schema = EventSchema(task="toy", columns=(Column(name="ht"),), classes=("bg", "sig"))
    ids = [f"e{row}" for row in range(100)]
    val = split_of(ids, SplitRule()) == "val"
    labels = np.zeros(100, dtype=np.int64)
    labels[np.flatnonzero(val)[:-1]] = 1
    labels[np.flatnonzero(~val)[: 20 - labels.sum()]] = 1
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write({"event_id": ids, "label": labels, "ht": np.arange(100, dtype=np.float32)})
    report = check(tmp_path / "d")
    assert tells(report.notes[0], "4.0 times")
    assert any(tells(note, "'val'", "20.0%") for note in report.notes[1:])
    assert not any("unequal" in problem for problem in report.problems)


@given(
    values=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)),
    seed=st.integers(0, 99),
)
def test_rows_have_the_same_hash_when_and_only_when_their_bytes_agree(values: Any, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(len(values), size=12)
    drawn = np.ascontiguousarray(values[rows])
    hashes = row_hashes([drawn, rows.astype(np.int8) * 0])
    same_bytes = [[left.tobytes() == right.tobytes() for right in drawn] for left in drawn]
    assert ((hashes[:, None] == hashes[None, :]) == np.array(same_bytes)).all()


def test_exchanged_and_shifted_values_have_other_hashes() -> None:
    rows = np.array([[1, 2, 3, 0], [2, 1, 3, 0], [3, 2, 1, 0], [0, 1, 2, 3]], dtype=np.float64)
    assert len(set(row_hashes([rows]).tolist())) == 4
    assert len(set(row_hashes([rows[:, :1], rows[:, 1:]]).tolist())) == 4


def test_a_split_without_one_of_the_classes_is_found(tmp_path: Path) -> None:
    val = split_of([f"e{row}" for row in range(100)], SplitRule()) == "val"

    def change(events: dict[str, Any]) -> None:
        events["label"][val] = 0

    assert tells(problems_of(tmp_path, change), "'val'", "sig")


def test_a_damaged_shard_is_a_problem_not_a_crash(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(60)
    (folder / "val-00000.parquet").write_bytes(b"PAR1")
    assert any("val-00000.parquet is truncated" in problem for problem in check(folder).problems)


def test_values_spoilt_after_writing_are_found(make_dataset: Callable[..., Path]) -> None:
    import pyarrow.parquet as pq

    folder = make_dataset(60)
    schema = check_schema(folder)
    path = folder / "train-00000.parquet"
    events = schema.decode(pq.read_table(path).combine_chunks().to_batches()[0])
    images, labels = events["image"].copy(), events["label"].copy()
    images[0, 0, 0, 0], labels[1] = np.nan, 7
    for spoilt, message in (({"image": images}, "holds NaN"), ({"label": labels}, "label 7")):
        with pq.ParquetWriter(path, schema.arrow()) as parquet:
            parquet.write_batch(schema.encode({**events, **spoilt}))
        problems = "\n".join(check(folder).problems)
        assert message in problems
        assert "holds other events" in problems


def check_schema(folder: Path) -> EventSchema:
    from hep_ray.dataset.dataset import Manifest

    return Manifest.load(folder).event_schema


def test_an_edited_manifest_is_a_problem(make_dataset: Callable[..., Path]) -> None:
    path = make_dataset(60) / "manifest.json"
    path.write_text(path.read_text().replace('"salt": "hep_ray"', '"salt": "other"'))
    problems = "\n".join(check(path.parent).problems)
    assert tells(problems, "fingerprint")
    assert "belong to another split" in problems


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput):
        check(tmp_path)


def test_weights_that_sum_to_zero_or_less_are_a_problem_unless_they_are_meant(tmp_path: Path) -> None:
    """Of 100 events of each class every second weighs −1, the others 1: the sums are 0, or 100 where all weigh 1."""
    schema = EventSchema(
        task="toy", columns=(Column(name="x"), Column(name="w")), classes=("bg", "sig"), weight="w"
    )
    rows, random = np.arange(200), np.random.default_rng(0)
    with ShardWriter(tmp_path / "d", schema, SplitRule(train=1.0, val=0, test=0)) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in rows],
                "label": rows % 2,
                "x": random.normal(size=200).astype(np.float32),
                "w": np.where((rows % 4 == 1), -1, 1).astype(np.float32),
            }
        )
    (problem,) = check(tmp_path / "d").problems
    assert tells(problem, "'train'", "bg 100", "sig 0", "--weights off", "--accept w")
    report = check(tmp_path / "d", ["w"])
    assert report.problems == ()
    assert problem in report.notes
