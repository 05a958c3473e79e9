"""Times that a plan tells: which configurations are timed, and how a search's time follows from them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from hep_ray.errors import InvalidConfig
from hep_ray.search.definition import Preset
from hep_ray.search.estimate import (
    SearchCost,
    Timed,
    _epochs_when_stopped,
    _kinds,
    _time,
    _whole,
)
from tests.facts import raises, tells

MLP: dict[str, Any] = {
    "model": "mlp", "inputs": "image", "hidden_features": 4, "loss": "cross_entropy", "optimizer": "adam",
    "learning_rate": 1e-3, "batch_size": 16,
}  # fmt: skip


def plan(trials: int = 8, concurrent: int = 2, **preset: Any) -> Any:
    return SimpleNamespace(
        preset=Preset(**{"trials": 4, "epochs": 27, **preset}),
        trials=trials,
        resources=SimpleNamespace(concurrent=concurrent),
        folds=None,
    )


def test_a_fold_has_more_events_to_learn_from() -> None:
    made = plan()
    timed = [Timed("mlp", 64, 2.0, 0)]
    before = _whole(made, timed, Counter(mlp=4))
    made.folds, made.dataset = 10, SimpleNamespace(rows={"train": 600, "val": 150}.get)
    assert _whole(made, timed, Counter(mlp=4)) == pytest.approx([one * 675 / 600 for one in before])


def test_each_model_is_timed_with_its_largest_and_smallest_batches_first() -> None:
    drawn = [{"model": name, "batch_size": size} for size in (64, 32, 128) for name in ("mlp", "cnn")]
    drawn.append({"model": "gradient_boosting"})
    kinds = [(one["model"], one.get("batch_size")) for one in _kinds(drawn)]
    assert kinds[:5] == [("mlp", 128), ("cnn", 128), ("gradient_boosting", None), ("mlp", 32), ("cnn", 32)]
    assert len(set(kinds)) == len(kinds) == 7


def test_trials_are_stopped_in_the_mean() -> None:
    assert _epochs_when_stopped(plan(scheduler="none")) == 27
    # Rungs at 3 and 9: all train 3, a third the next 6, a ninth the last 18.
    assert _epochs_when_stopped(plan(scheduler="asha", grace_epochs=3)) == pytest.approx(3 + 6 / 3 + 18 / 9)


def test_the_time_of_a_search_follows_from_its_epochs() -> None:
    timed = [Timed("mlp", 32, 2.0, 100), Timed("mlp", 64, 1.0, 100), Timed("gradient_boosting", 0, 8.0, 0)]
    shares = Counter({"mlp": 3, "gradient_boosting": 1})
    found = _whole(plan(scheduler="none"), timed, shares)
    # Four waves of two: of a trial three quarters are 27 epochs of 1.5 (1; 2) s, a quarter is one fit of 8 s.
    assert found == pytest.approx([4 * (0.75 * 27 * s + 0.25 * 8) for s in (1.5, 1.0, 2.0)])
    least = _whole(plan(scheduler="asha", grace_epochs=3), timed[:2], shares)[1]
    assert least == pytest.approx(4 * 3 * 1.0)


@pytest.mark.parametrize("scheduler", ["curves", "asha_pausing"])
def test_where_trials_pause_all_epochs_of_the_budget_are_trained(scheduler: str) -> None:
    timed = [Timed("mlp", 32, 2.0, 100), Timed("mlp", 64, 1.0, 100)]
    found = _whole(plan(sampler="", scheduler=scheduler), timed, Counter({"mlp": 3}))
    assert found == pytest.approx(
        [8 * 27 / 2 * seconds for seconds in (1.5, 1.0, 2.0)]
    )  # by two side by side


def test_a_few_batches_are_timed(make_dataset, monkeypatch) -> None:
    monkeypatch.setattr("hep_ray.search.estimate.SECONDS", 300.0)
    folder = make_dataset(events=300)
    kinds = [
        MLP, {"model": "gradient_boosting", "inputs": "image", "trees": 2}, {**MLP, "inputs": "tracks"},
    ]  # fmt: skip
    timed, memory, failed = _time(kinds, str(folder), (), 1, gpu=False)
    assert [(one.model, one.batch_size) for one in timed] == [("mlp", 16), ("gradient_boosting", 0)]
    assert all(0 < one.epoch_seconds < 60 for one in timed)
    weights = 432 * 4 + 4 + 2 * (4 * 4 + 4) + 4 * 2 + 2  # three hidden layers of 4, of 12 x 12 x 3 values
    assert timed[0].weight_bytes == pytest.approx(4 * weights, rel=0.02)
    assert memory > 10**7
    assert len(failed) == 1
    assert tells(failed[0], "mlp", "tracks")


def test_a_budget_shorter_than_an_epoch_is_refused() -> None:
    cost = SearchCost((Timed("mlp", 32, 12.0, 0), Timed("cnn", 32, 40.0, 0)), (1.0, 1.0, 1.0), 0, 0)
    cost.check(None)
    cost.check(12.5)
    SearchCost((), (0.0, 0.0, 0.0), 0, 0).check(0.1)  # nothing was timed
    with raises(InvalidConfig, "--time-budget", "5 s", "12 s", "4m"):
        cost.check(5.0)


def test_times_are_told_in_words() -> None:
    timed = (Timed("mlp", 32, 2.0, 100), Timed("gradient_boosting", 0, 0.5, 0))
    cost = SearchCost(
        timed, (5400.0, 59.0, 7200.0), 2 * 10**9, 3 * 10**6, ("cnn",), ("InvalidConfig of x: y",)
    )
    text = " ".join(words for _, words in cost.rows())
    assert tells(
        text,
        "1h30m",
        "59s",
        "2h",
        "mlp with batches of 32 2 s",
        "fit of gradient_boosting 0.5 s",
        "2 GB",
        "3 MB",
        "cnn",
        "of x: y",
    )
    assert cost.shortest_epoch == 2.0
    assert list(SearchCost((), (0.0, 0.0, 0.0), 0, 0).rows()) == []
