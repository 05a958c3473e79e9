"""Resident or streaming: what events take, against what there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import Infeasible, InvalidConfig
from hep_ray.loading.stream import plan_ingest, with_streams
from tests.facts import raises

NODES = [{"CPU": 4.0, "object_store_memory": 4e6}, {"CPU": 2.0, "object_store_memory": 2e6}]


@pytest.fixture
def manifest(make_dataset: Callable[..., Path]) -> Manifest:
    """160 events of training and validation, or nearly so, of 12·12·3 float32: 1728 bytes each, and 8 of the label."""
    return Manifest.load(make_dataset(200))


def test_auto_streams_what_exceeds_the_budget(manifest: Manifest) -> None:
    held = 1736 * (manifest.rows("train") + manifest.rows("val"))
    loaded = plan_ingest(manifest, NODES)
    assert (loaded.cache, loaded.held, loaded.budget) == ("resident", held, 1_000_000)
    below = plan_ingest(manifest, NODES, budget=(held - 1) / 1e9)
    assert (below.cache, below.readers) == ("streaming", 2)
    assert plan_ingest(manifest, NODES, budget=(held + 1) / 1e9).cache == "resident"
    assert plan_ingest(manifest, NODES, "streaming").cache == "streaming"


def test_the_words_hold_the_sums(manifest: Manifest) -> None:
    assert str(plan_ingest(manifest, NODES)).endswith("the budget of a node is 0.001 GB")
    asked = with_streams(plan_ingest(manifest, NODES, "streaming", 1.0), 4)
    # A quarter of a gigabyte for each of four; an eighth of it is 31 MB, so pieces are of the largest 16 groups.
    assert (
        "4 streams of up to 0.25 GB on a node, 8192 events mixed at a time, Ray Data reads with 2 CPU"
        in str(asked)
    )
    assert "streaming (asked for)" in str(asked)


def test_blocks_shrink_with_the_budget_down_to_a_row_group(manifest: Manifest) -> None:
    # A row group takes 512 · 1736 = 888,832 bytes, and a stream holds eight blocks.
    ingest = plan_ingest(manifest, NODES, "streaming", 0.03)
    assert with_streams(ingest, 1).groups_per_block == 4
    assert with_streams(ingest, 4).groups_per_block == 1
    with raises(Infeasible, "5 streams", "0.0356 GB", "0.03 GB", "--memory-budget"):
        with_streams(ingest, 5)


def test_columns_without_zeros_count_as_they_are_held(tmp_path: Path) -> None:
    schema = EventSchema(
        task="cells", columns=(Column(name="image", shape=(10, 10)), Column(name="x")), classes=("a", "b")
    )
    values = np.zeros((200, 10, 10), np.float32)
    values[:, 0, :5] = 1
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(200)],
                "label": np.arange(200) % 2,
                "image": values,
                "x": np.arange(200, dtype=np.float32),
            }
        )
    # Five values of 4 + 2 bytes, an offset and the label of 8 each, and x of 4.
    assert writer.manifest.event_bytes == 5 * 6 + 8 + 8 + 4


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"cache": "disk"}, InvalidConfig, ["--cache", "'disk'"]),
        ({"budget": 0.0}, InvalidConfig, ["--memory-budget", "0"]),
        ({"readers": 0}, InvalidConfig, ["--readers", "0"]),
        ({"readers": 2, "cache": "resident"}, InvalidConfig, ["--readers", "2", "--cache resident"]),
        (
            {"cache": "resident", "nodes": [{"object_store_memory": 1e5}]},
            Infeasible,
            ["0.000259 GB", "0.0001 GB", "--cache"],
        ),
    ],
)
def test_what_cannot_be_is_refused(
    manifest: Manifest, options: dict[str, Any], error: type[Exception], facts: list[str]
) -> None:
    with raises(error, *facts):
        plan_ingest(manifest, **{"nodes": NODES, **options})
