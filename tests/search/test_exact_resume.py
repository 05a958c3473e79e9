"""A search that is killed after any record decides as it would have: every sampler with every scheduler."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from hep_ray.errors import InvalidConfig, InvalidSpace
from hep_ray.search.definition import Preset
from hep_ray.search.parameters import Choice
from hep_ray.search.preflight import check_sampler
from hep_ray.search.scheduler import Decision, Scheduler, TakeUp
from hep_ray.search.space import Space
from tests.facts import raises
from tests.search.simulated import RANGES, Simulated, told

GRID = RANGES.replace(learning_rate=Choice(1e-3, 1e-2, 1e-1), momentum=Choice(0.1, 0.5, 0.7, 0.9))
STOPPING = ("asha", "hyperband", "median", "none")
LONGEST = ("gp", "asha_pausing")
SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random", "grid")


def preset(sampler: Any, scheduler: Any, epochs: int = 9, trials: int = 12) -> Preset:
    grace = None if scheduler in ("none", "curves") else 1
    return Preset(epochs=epochs, trials=trials, sampler=sampler, scheduler=scheduler, grace_epochs=grace)


def space_of(sampler: Any) -> Space:
    return GRID if sampler == "grid" else RANGES


def check(made: Preset, space: Space, cuts: int, **given: Any) -> list[dict[str, Any]]:
    """Run a search whole, then cut off after each of some records and resumed; returns its records."""
    whole = Simulated(made, space, **given)
    expected = whole.run()
    records = whole.state.records
    for cut in np.unique(np.linspace(0, len(records), cuts).astype(int)):
        resumed = Simulated(made, space, records[:cut], **given)
        assert resumed.run() == expected, f"cut after {cut} of {len(records)}"
    return expected


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        pytest.param(*both, marks=[pytest.mark.slow, pytest.mark.ci] if both == LONGEST else [])
        for both in itertools.product(SAMPLERS, [*STOPPING, "asha_pausing"])
    ],
)
def test_every_sampler_with_every_scheduler(sampler: str, scheduler: str) -> None:
    if scheduler == "asha_pausing" and sampler in ("nsga2", "nsga3", "cmaes"):
        return  # refused, see test_named_samplers.py
    trials = {"nsga2": 48, "nsga3": 48, "cmaes": 30, "gp": 5}.get(sampler, 12)
    epochs = 3 if sampler.startswith("nsga") else 9
    check(preset(sampler, scheduler, epochs, trials), space_of(sampler), 5, diverges=("t0001", "t0004"))


@pytest.mark.parametrize("scheduler", [*STOPPING, "asha_pausing"])
@settings(max_examples=25, deadline=None)
@given(cut=st.floats(0, 1), seed=st.integers(0, 5))
def test_every_scheduler_at_any_record(scheduler: str, cut: float, seed: int) -> None:
    made = preset("random", scheduler)
    whole = Simulated(made, RANGES, seed=seed)
    expected = whole.run()
    records = whole.state.records
    assert Simulated(made, RANGES, records[: round(cut * len(records))], seed=seed).run() == expected


class Walk(BaseSampler):
    """Wanders from the trial before; what it draws depends on all that it drew."""

    def __init__(self, seed: int) -> None:
        self._rng, self._at = np.random.default_rng(seed), {}

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        at = (self._at.get(name, 0.5) + self._rng.normal(0, 0.2)) % 1
        self._at[name] = at
        return distribution.low + at * (distribution.high - distribution.low)


@pytest.mark.parametrize(
    "sampler",
    [
        Walk(3),
        NSGAIISampler(seed=1, population_size=4),
        TPESampler(seed=2, n_startup_trials=3),
        lambda seed: NSGAIISampler(seed=seed, population_size=4),
        lambda seed: TPESampler(seed=seed, n_startup_trials=3),
    ],
    ids=["state of its own", "NSGA-II", "TPE", "factory of NSGA-II", "factory of TPE"],
)
@pytest.mark.parametrize("scheduler", ["asha", "none"])
def test_samplers_of_the_users_own(sampler: Any, scheduler: str) -> None:
    made = preset(sampler, scheduler, epochs=4, trials=16)
    check(made, RANGES, 5, diverges=("t0002",))
    assert Simulated(made, RANGES).searcher.warnings() == []


def test_a_sampler_without_a_seed_is_told_at_the_start_and_where_it_differs_after_a_restart() -> None:
    made = preset(RandomSampler(), "none", epochs=1, trials=4)
    whole = Simulated(made, RANGES)
    (warning,) = whole.searcher.warnings()
    assert "RandomSampler" in warning
    expected = whole.run()
    resumed = Simulated(made, RANGES, whole.state.records[:4])
    assert resumed.run()[:4] == expected[:4]
    (doubt,) = resumed.searcher.doubts()
    assert "t0000" in doubt


class PauseOdd(Scheduler):
    """Pauses every second trial at epoch 2, and goes on with the oldest of them when four pause."""

    pauses = True

    def start(self, goal: Any) -> None:
        super().start(goal)
        self._paused: list[str] = []

    def report(self, trial_id: str, epoch: int, metrics: Any) -> Decision:
        if epoch == 2 and int(trial_id[1:]) % 2:
            self._paused.append(trial_id)
            return "pause"
        return "stop" if epoch == 3 and metrics["val_accuracy"] < 0.3 else "go on"

    def take_up(self) -> TakeUp | None:
        return TakeUp(self._paused[0], 5, "the oldest") if len(self._paused) >= 4 else None

    def went_on(self, trial_id: str, until: int) -> None:
        self._paused.remove(trial_id)


def test_a_scheduler_of_the_users_own_pauses_and_resumes_exactly() -> None:
    records = check(preset("random", PauseOdd(), epochs=6), RANGES, 12)
    went_on = [record for record in records if record["kind"] == "trial_goes_on"]
    assert went_on
    assert {record["reason"] for record in went_on} == {"the oldest"}


@pytest.mark.parametrize("scheduler", ["asha", "median", "hyperband", "asha_pausing"])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_two_objectives_with_early_stopping(sampler: str, scheduler: str) -> None:
    records = check(preset(sampler, scheduler), RANGES, 3, second="epoch_seconds")
    ends = [record["status"] for record in records if record["kind"] == "trial_finished"]
    assert "completed" in ends
    assert "stopped" in ends


def test_pausing_spends_the_epochs_of_so_many_full_trainings_and_goes_on_with_the_best() -> None:
    made = preset("random", "asha_pausing", epochs=9, trials=10)
    whole = Simulated(made, RANGES)
    records = whole.run()
    epochs = sum(record["kind"] == "epoch_finished" for record in records)
    assert epochs == 10 * 9
    lengths = sorted(len(trial.history) for trial in whole.state.trials.values())
    assert len(lengths) > 2 * 10  # of ten full trainings' worth
    assert lengths[-1] == 9
    full = [trial for trial in whole.state.trials.values() if len(trial.history) == 9]
    assert all(trial.status == "completed" for trial in full)
    rest = [trial for trial in whole.state.trials.values() if len(trial.history) < 9]
    assert all(trial.status == "stopped" for trial in rest)
    at_first = {name: trial.history[0]["val_accuracy"] for name, trial in whole.state.trials.items()}
    ranked = sorted(at_first, key=at_first.__getitem__, reverse=True)
    beyond = {name for name, trial in whole.state.trials.items() if len(trial.history) > 1}
    assert set(ranked[:3]) <= beyond
    assert not beyond & set(ranked[-10:])


def test_references_are_trained_in_full_beside_the_budget() -> None:
    reference = {
        "model": "cnn",
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "learning_rate": 1e-4,
        "momentum": 0.1,
    }
    whole = Simulated(preset("random", "asha_pausing", trials=4), RANGES, references=(reference,))
    records = whole.run()
    assert len(whole.state.trials["t0000"].history) == 9
    assert sum(record["kind"] == "epoch_finished" for record in records) == 5 * 9
    check(preset("random", "asha_pausing", trials=4), RANGES, 20, references=(reference,))


def test_of_very_many_that_pause_the_worst_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hep_ray.search.sampler.MOST_PAUSED", 4)
    made = preset("random", "asha_pausing", trials=10)
    whole = Simulated(made, RANGES)
    most = 0
    write = whole.searcher._write

    def watch(record: Any) -> None:
        nonlocal most
        write(record)
        most = max(most, sum(trial.paused for trial in whole.state.trials.values()))

    monkeypatch.setattr(whole.searcher, "_write", watch)
    records = whole.run()
    assert most == 5  # for a moment
    given_up = [one for one in told(whole.state.records) if one.get("status") == "stopped"]
    assert len(given_up) > 10
    assert records[-1]["kind"] == "trial_finished"
    check(made, RANGES, 10)


def test_after_it_is_closed_nothing_is_handed_out_and_nothing_is_lost() -> None:
    made = preset("random", "asha_pausing", trials=4)
    whole = Simulated(made, RANGES)
    first = whole.searcher.suggest("")
    whole.searcher.close()
    assert whole.searcher.suggest("") == "FINISHED"
    assert isinstance(first, dict)
    again = Simulated(made, RANGES, whole.state.records)
    assert again.searcher.suggest("") == first


@pytest.mark.parametrize("space", [RANGES, GRID], ids=["ranges", "grid"])
def test_learning_curves_resume_exactly_and_say_why(space: Space) -> None:
    reference = {**GRID.grid()[0], "learning_rate": 1e-4}
    made = Preset(epochs=9, trials=8, scheduler="curves")
    records = check(made, space, 12, references=(reference,), diverges=("t0002",))
    epochs = [one for one in records if one["kind"] == "epoch_finished"]
    assert len(epochs) <= 9 * 9
    assert len(epochs) > 9 * 9 - 9
    reasons = [one["reason"] for one in records if one["kind"] == "trial_goes_on"]
    assert any("% to beat" in reason for reason in reasons)
    trained = {one["trial_id"] for one in epochs}
    assert len(trained) > 9
    ending = [one["ending"] for one in records if one["kind"] == "trial_paused" and one["ending"]]
    assert ending
    assert all(low <= middle <= high for low, middle, high in ending)
    ends = [one["status"] for one in records if one["kind"] == "trial_finished"]
    assert set(ends) == {"completed", "stopped", "failed"}


def test_curves_stand_alone() -> None:
    assert Preset(epochs=9, trials=1, sampler="curves").scheduler == "curves"
    with raises(InvalidConfig, "'random'", "'curves'"):
        Preset(epochs=9, trials=1, sampler="random", scheduler="curves")
    with raises(InvalidConfig, "curves", "toy", "'asha_pausing'"):
        search = Simulated(preset("random", "none"), RANGES, second="epoch_seconds").search
        check_sampler(Preset(epochs=9, trials=1, sampler="curves"), search)
    with raises(InvalidConfig, "curves", "grace_epochs", "2"):
        Preset(epochs=9, trials=1, scheduler="curves", grace_epochs=2)
    with raises(InvalidConfig, "curves", "reduction_factor", "4"):
        Preset(epochs=9, trials=1, scheduler="curves", reduction_factor=4)
    for scheduler, name in (
        ("none", "grace_epochs"),
        ("none", "reduction_factor"),
        ("median", "reduction_factor"),
    ):
        with raises(InvalidConfig, scheduler, name, 4):
            Preset(epochs=9, trials=1, scheduler=scheduler, **{name: 4})
    plain = Simulated(preset("random", "none"), RANGES).search
    constant = dataclasses.replace(plain, space=GRID.replace(learning_rate=0.1, momentum=0.5))
    with raises(InvalidSpace, "curves", "toy", "Choice", "'grid'"):
        check_sampler(Preset(epochs=9, trials=1, sampler="curves"), constant)
    assert preset("auto", "auto", 9).resolved(constant).sampler == "grid"
    assert (
        preset("auto", "auto", 9).resolved(plain).sampler == "curves"
    )  # a grace that is stated is for others
    both = Preset(epochs=9, trials=1, sampler="auto", scheduler="auto")
    assert both.resolved(plain).scheduler == "curves"
    assert both.resolved(plain, "tpe", "asha").sampler == "tpe"  # as it was begun
    assert dataclasses.replace(both, epochs=4).resolved(plain).scheduler == "asha"
