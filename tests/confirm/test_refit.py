"""Refit: the epoch by hand, the events by their ids, what is refused, and a look that chose nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hep_ray.confirm.confirmation import Contender, SplitUse, earlier_uses, params_hash, record_use
from hep_ray.confirm.refit import _refuse_few_events, dataset_of_refit, prepare_refit
from hep_ray.confirm.refit_result import REFIT, Refit, best_epoch, load_refit
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.variations import Variation
from hep_ray.errors import (
    CannotConfirm,
    CannotResume,
    InputError,
    InvalidConfig,
    StorageError,
    UnknownSearch,
)
from hep_ray.metrics.crossed import one_more
from hep_ray.search.options import AfterSearch
from tests.facts import raises

EVENTS = 400


@pytest.mark.parametrize(
    ("best", "epoch"), [([7], 7), ([3, 9, 4], 4), ([3, 4], 4), ([2, 9, 4, 5], 5), ([1, 1, 20], 1)]
)
def test_it_trains_for_the_median_of_the_best_epochs(best: list[int], epoch: int) -> None:
    # Of [2, 4, 5, 9] the median is 4.5, and a half is rounded up.
    assert best_epoch(best) == epoch


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    random, labels = np.random.default_rng(3), np.arange(EVENTS) % 2
    schema = EventSchema(
        task="toy",
        columns=(Column(name="x"), Column(name="w"), Column(name="w_up")),
        classes=("b", "s"),
        weight="w",
        spectators=("w_up",),
        variations={
            "scaled": Variation(scale={"x": 1.1}),
            "weighed": Variation(weight="w_up"),
            "generator": Variation(data="../other"),
        },
    )
    weights = random.uniform(0.5, 1.5, EVENTS).astype(np.float32)
    with ShardWriter(tmp_path / "d", schema, source={"seed": 3}, rows_per_shard=64) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(EVENTS)],
                "label": labels,
                "x": random.normal(size=EVENTS).astype(np.float32),
                "w": weights,
                "w_up": 2 * weights,
            }
        )
    return Dataset.open(tmp_path / "d")


def ids(dataset: Dataset, split: Any) -> list[str]:
    return list(dataset.values("event_id", split, purpose="check").to_pylist())


def test_its_events_are_those_of_training_and_validation_and_the_same_test(
    dataset: Dataset, tmp_path: Path
) -> None:
    made = dataset_of_refit(dataset, tmp_path / "refit", weights=True)
    assert sorted(ids(made, "train")) == sorted(ids(dataset, "train") + ids(dataset, "val"))
    assert ids(made, "test") == ids(dataset, "test")
    assert ids(made, "val") == ids(dataset, "val")
    assert not set(ids(made, "train")) & set(ids(made, "test"))
    # What is expected of a class is the sum of all weights, and that of the validation events counts once.
    assert dict(made.schema.expected) == pytest.approx(dict(dataset.schema.expected))
    arrays = [dataset.arrays(split) for split in ("train", "val")]
    for number, name in enumerate(("b", "s")):
        total = sum(one["w"][one["label"] == number].sum() for one in arrays)
        assert made.weight_sums["train"][name][0] == pytest.approx(total, rel=1e-5)
    assert list(made.schema.variations) == ["scaled", "weighed"]  # others are relative to the folder
    assert made.fingerprint != dataset.fingerprint


def test_its_shards_are_links_and_other_events_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    made = dataset_of_refit(dataset, tmp_path / "refit", weights=True)
    (first, *_) = dataset.paths("val")
    assert first.samefile(made.folder / f"learnt-{first.name}")
    assert first.samefile(made.folder / first.name)
    shutil.copytree(dataset.folder, tmp_path / "moved")
    moved = Dataset.open(tmp_path / "moved")
    assert dataset_of_refit(moved, tmp_path / "refit", weights=True).fingerprint == made.fingerprint
    other = dataset.manifest.event_schema.model_copy(update={"variations": {}})
    with ShardWriter(tmp_path / "o", other, source={}, rows_per_shard=64) as writer:
        writer.write(
            {
                "event_id": [f"o{row}" for row in range(80)],
                "label": np.arange(80) % 2,
                **{name: np.ones(80, np.float32) for name in ("x", "w", "w_up")},
            }
        )
    with raises(CannotResume, "refit/data", "--again"):
        dataset_of_refit(Dataset.open(tmp_path / "o"), tmp_path / "refit", weights=True)


@pytest.mark.parametrize("damaged", ["shard", "manifest"])
def test_of_damaged_events_it_is_told_what_to_type(dataset: Dataset, tmp_path: Path, damaged: str) -> None:
    made = dataset_of_refit(dataset, tmp_path / "refit", weights=True)
    if damaged == "shard":
        made.paths("train")[0].unlink()
    else:
        (made.folder / "manifest.json").write_text("{")
    with raises(InputError, "refit/data", "--again"):
        dataset_of_refit(dataset, tmp_path / "refit", weights=True)


def test_where_there_are_no_links_its_shards_are_copies(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    made = dataset_of_refit(dataset, tmp_path / "refit", weights=False)
    assert made.schema.weight is None
    (first, *_) = dataset.paths("train")
    assert not first.samefile(made.folder / first.name)
    assert sorted(ids(made, "train")) == sorted(ids(dataset, "train") + ids(dataset, "val"))


def candidate(**params: Any) -> Contender:
    given = {
        "model": "mlp",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.1,
        "batch_size": 8,
    }
    return Contender(name="t0003", role="finalist", params={**given, **params}, runs=(), estimates={})


def test_a_configuration_of_so_many_events_has_nothing_to_refit() -> None:
    _refuse_few_events(candidate(), {})
    fitted = candidate().model_copy(update={"params": {"model": "logistic_regression"}})
    _refuse_few_events(fitted, {})
    with raises(CannotConfirm, "t0003", "train_events=50", "without --refit"):
        _refuse_few_events(candidate(train_events=50), {})
    ensemble = Contender(name="ensemble", role="finalist", params={}, runs=(), estimates={})
    with raises(CannotConfirm, "'ensemble'", "without --refit"):
        _refuse_few_events(ensemble, {})


def test_what_is_not_confirmed_is_refused_with_what_to_type(tmp_path: Path) -> None:
    with raises(UnknownSearch, "nothing"):
        prepare_refit(AfterSearch("nothing", storage=tmp_path))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/journal.jsonl").touch()
    with raises(StorageError, "confirmation.json", "hep-ray confirm toy"):
        prepare_refit(AfterSearch("toy", storage=tmp_path))
    with raises(StorageError, "refit.json", "hep-ray refit toy"):
        load_refit(tmp_path / "toy" / REFIT)
    with raises(StorageError, f"hep-ray refit toy --storage {tmp_path} --data moved"):
        load_refit(tmp_path / "toy" / REFIT, data=Path("moved"))
    (tmp_path / "toy" / REFIT).mkdir()
    (tmp_path / "toy" / REFIT / "refit.json").write_text("{")
    with raises(StorageError, "refit.json", f"type `hep-ray refit toy --storage {tmp_path}`"):
        load_refit(tmp_path / "toy" / REFIT)


def test_its_look_at_the_test_split_chose_nothing_and_any_other_counts(tmp_path: Path) -> None:
    def look(name: str, purpose: str) -> None:
        use = SplitUse(
            time=0.0,
            purpose=purpose,
            dataset_fingerprint="f",
            contenders=(params_hash(candidate().params),),
            confirmation_id=name,
        )
        record_use(tmp_path, use)

    look("first", "confirm")
    look("refit", REFIT)
    assert earlier_uses(tmp_path, "f", "first") == []
    # A second confirmation is told of the first, not of one more training of what that had chosen.
    assert [use.confirmation_id for use in earlier_uses(tmp_path, "f", "second")] == ["first"]
    look("folds", "confirm")
    assert [use.confirmation_id for use in earlier_uses(tmp_path, "f", "second")] == ["first", "folds"]


def test_a_refit_reads_back_as_it_was_written(tmp_path: Path) -> None:
    found = Refit(
        search="toy",
        search_id="1",
        confirmation_id="2",
        dataset_fingerprint="3",
        data_fingerprint="4",
        trial="t0003",
        params=candidate().params,
        seed=9,
        epoch=4,
        epochs=8,
        best_epochs=(3, 4, 9),
        events=300,
        metric="test_auc",
        metrics={"test_auc": 0.8},
        checkpoint="trials/model/best.pt",
        scores="trials/model/test_scores.parquet",
        provenance={},
    )
    (tmp_path / "refit.json").write_text(found.model_dump_json())
    assert load_refit(tmp_path) == found
    assert (found.run.epoch, found.run.seed, found.contender.name) == (4, 9, "t0003")
    values = {**json.loads(found.model_dump_json()), "checkpoint": "../best.pt"}
    (tmp_path / "refit.json").write_text(json.dumps(values))
    with raises(StorageError, "refit.json"):
        load_refit(tmp_path)


def test_one_more_training_has_the_noise_of_a_seed_and_of_the_mean_of_the_others() -> None:
    """Two earlier seeds of three events, T = [[1, 0, 2], [0, 1, 1]], and one more, L = [[2, 1, 1]].

    Their means are 1 and 2/3, so that the variance of the mean of two is (1/3)²/4 = 1/36, and of one and of that mean
    together (1 + 2)/36 = 1/12, with 1 degree. The rest of T is 4/3 with 2 degrees, σ²_AB = 2/3. Event by event L less
    the mean of T is 3/2, 1/2, −1/2, of mean 1/2 and variance 1, of which seeds explain (1 + 1/2)·2/3 = 1: 0 is left.
    """
    left, right = np.array([[2.0, 1.0, 1.0]]), np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    found = one_more(left, right)
    assert found is not None
    assert found.difference == pytest.approx(1 / 2)
    assert found.seed_error**2 == pytest.approx(1 / 12)
    assert found.event_error == pytest.approx(0, abs=1e-7)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.5 * 12**0.5, 1))
    # A fitted model has no noise of seeds: events alone: 1, 1, −1 have the variance 4/3, by 3.
    alone = one_more(left, right[:1], seedless=True)
    assert alone is not None
    assert (alone.seed_error, alone.event_error) == (0, pytest.approx(2 / 3))
    assert one_more(left, right[:1]) is None
    with raises(InvalidConfig, "(2, 3)"):
        one_more(right, right)
    with raises(InvalidConfig, "(1, 2)"):
        one_more(left[:, :2], right)


def test_one_more_training_of_the_same_configuration_is_called_worse_as_often_as_the_level_says() -> None:
    random, worse, tries = np.random.default_rng(5), 0, 600
    for _ in range(tries):
        seeds, events = 4, 100
        values = random.normal(size=(seeds + 1, events))
        values += random.normal(scale=0.15, size=(seeds + 1, 1)) + random.normal(size=(1, events))
        both = one_more(values[:1], values[1:])
        assert both is not None
        worse += stats.t.cdf(both.difference / both.error, both.degrees) < 0.025
    # Binomial of 2.5 %: 0.64 % is a standard deviation.
    assert 0.006 < worse / tries < 0.045
