"""Every fault that a dataset can have is found; a sound one has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.data.check import check
from hep_ray.data.events import Column, EventSchema
from hep_ray.data.shards import ShardWriter
from hep_ray.data.splits import SplitRule, split_of
from hep_ray.errors import UnreadableInput


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


def test_a_column_that_never_changes_is_found(tmp_path: Path) -> None:
    assert problems_of(tmp_path, lambda events: events["mass"].fill(0)) == "column 'mass' is 0 in every event"


def test_repeated_content_is_found_and_told_from_leakage(tmp_path: Path) -> None:
    splits = split_of([f"e{row}" for row in range(100)], SplitRule())
    train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")

    def change(events: dict[str, Any]) -> None:
        for name in ("ht", "mass"):
            events[name][train[1]] = events[name][train[0]]  # within train: repeated, no leakage
            events[name][test[0]] = events[name][train[2]]  # leakage

    assert problems_of(tmp_path, change).splitlines() == [
        "2 events repeat the content of another event",
        "1 events are in 'train' and, with the same content, in 'test'",
    ]


def test_a_split_without_one_of_the_classes_is_found(tmp_path: Path) -> None:
    val = split_of([f"e{row}" for row in range(100)], SplitRule()) == "val"

    def change(events: dict[str, Any]) -> None:
        events["label"][val] = 0

    assert problems_of(tmp_path, change) == "the split 'val' has no events of sig"


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
    for spoilt, message in (({"image": images}, "holds NaN"), ({"label": labels}, "has 7")):
        with pq.ParquetWriter(path, schema.arrow()) as parquet:
            parquet.write_batch(schema.encode({**events, **spoilt}))
        problems = "\n".join(check(folder).problems)
        assert message in problems
        assert "holds other events" in problems


def check_schema(folder: Path) -> EventSchema:
    from hep_ray.data.manifest import Manifest

    return Manifest.load(folder).event_schema


def test_an_edited_manifest_is_a_problem(make_dataset: Callable[..., Path]) -> None:
    path = make_dataset(60) / "manifest.json"
    path.write_text(path.read_text().replace('"salt": "hep_ray"', '"salt": "other"'))
    problems = "\n".join(check(path.parent).problems)
    assert "a manifest's fingerprint is that of what it lists" in problems
    assert "belong to another split" in problems


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput):
        check(tmp_path)
