"""The error that a finite test split leaves, against the one of paired counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hep_ray.confirm import sample_error as module
from hep_ray.confirm.confirmation import ConfirmedRun, Contender
from hep_ray.confirm.sample_error import sample_error
from hep_ray.data.events import Column, EventSchema

SCHEMA = EventSchema(task="toy", columns=(Column(name="x"),), classes=("background", "signal"))
EVENTS = 1000


def contender(folder: Path, name: str, labels: np.ndarray, runs: list[np.ndarray]) -> Contender:
    """A contender whose runs gave these probabilities of signal."""
    made = []
    for seed, signal in enumerate(runs):
        file = f"{name}{seed}.parquet"
        columns = {"label": labels, "score_background": 1 - signal, "score_signal": signal}
        metadata = {b"hep_ray": b'{"epoch": 1, "loss": 0.5}'}
        pq.write_table(pa.table(columns, metadata=metadata), folder / file)
        made.append(
            ConfirmedRun(
                trial_id=file, seed=seed, epoch=1, metrics={}, checkpoint=f"{file}/best.pt", scores=file
            )
        )
    return Contender(name=name, role="finalist", params={}, runs=tuple(made), estimates={})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Contender, Contender]:
    random = np.random.default_rng(3)
    labels = np.arange(EVENTS) % 2
    shared = labels + random.normal(0.0, 0.6, EVENTS)

    def scores(noise: float) -> np.ndarray:
        seen = shared + random.normal(0.0, noise, EVENTS)
        return (1 / (1 + np.exp(-4 * (seen - 0.5)))).astype(np.float32)

    left = contender(tmp_path, "left", labels, [scores(0.1), scores(0.1)])
    return left, contender(tmp_path, "right", labels, [scores(0.4), scores(0.4)])


def test_it_is_the_error_of_the_paired_counts(tmp_path: Path, pair: tuple[Contender, Contender]) -> None:
    """Per event: right answers of the one minus those of the other, mean over runs; its s.d. over √N is the error."""
    labels = np.arange(EVENTS) % 2

    def right(one: Contender) -> np.ndarray:
        tables = [pq.read_table(tmp_path / run.scores) for run in one.runs]
        return np.mean([(table["score_signal"].to_numpy() > 0.5) == labels for table in tables], axis=0)

    left, other = pair
    differences = right(left) - right(other)
    expected = differences.std(ddof=1) / np.sqrt(EVENTS)
    found = sample_error(tmp_path, SCHEMA, left, other, "test_accuracy")
    assert found == pytest.approx(expected, rel=0.15)
    # Two contenders judged on events of their own would differ by more.
    apart = np.sqrt(right(left).var() + right(other).var()) / np.sqrt(EVENTS)
    assert found < 0.8 * apart
    assert 0 < (sample_error(tmp_path, SCHEMA, left, other, "test_auc") or 0) < found


def test_of_many_events_some_are_taken_and_the_error_scaled(
    tmp_path: Path, pair: tuple[Contender, Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sample_error(tmp_path, SCHEMA, *pair, "test_accuracy")
    monkeypatch.setattr(module, "MOST_EVENTS", 400)
    assert sample_error(tmp_path, SCHEMA, *pair, "test_accuracy") == pytest.approx(whole, rel=0.25)


def test_there_is_none_of_a_loss_or_of_a_handful_of_events(
    tmp_path: Path, pair: tuple[Contender, Contender]
) -> None:
    assert sample_error(tmp_path, SCHEMA, *pair, "test_loss") is None
    labels = (np.arange(100) < 10).astype(np.int64)
    few = contender(tmp_path, "few", labels, [np.full(100, 0.3, np.float32)])
    assert sample_error(tmp_path, SCHEMA, few, few, "test_accuracy") is None
