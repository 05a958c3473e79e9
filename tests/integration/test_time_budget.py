"""A search that ends in time: what ran stops after its epoch, nothing starts, and all of it goes on."""

from __future__ import annotations

import dataclasses
import io
import time
from typing import Any

import pytest
from rich.console import Console

from hep_ray.errors import InvalidConfig
from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import total_trials
from hep_ray.search.execute import run_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import LogUniform
from hep_ray.search.plan import prepare
from hep_ray.search.recorder import TimeBudget
from hep_ray.search.space import Space
from hep_ray.search.state import ENDLESS
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.records import (
    EpochFinished,
    SearchFinished,
    TimeBudgetSpent,
    TrialFinished,
    TrialStarted,
)
from tests.facts import raises, tells

SEARCH = Search(
    name="in_time",
    task="toy",
    title="A toy.",
    space=Space(
        model="mlp", inputs="image", hidden_features=4, loss="cross_entropy", optimizer="adam",
        learning_rate=LogUniform(1e-3, 1e-2), batch_size=16,
    ),
    presets={"laptop": Preset(trials=4, epochs=6, sampler="random", scheduler="none")},
)  # fmt: skip


def spend_after(patched: pytest.MonkeyPatch, epochs: int) -> list[str]:
    """Let a time budget be spent with so many epochs, whatever the time; returns the trial of each that ended."""
    reports: list[str] = []
    asked = TimeBudget.__call__

    def count(self: TimeBudget, trial_id: str, result: dict[str, Any]) -> bool:
        reports.append(trial_id)
        return asked(self, trial_id, result)

    patched.setattr(TimeBudget, "__call__", count)
    patched.setattr(TimeBudget, "spent", property(lambda self: len(reports) >= epochs))
    return reports


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
def test_a_search_stops_at_its_budget_and_goes_on(ray_session, make_dataset, tmp_path, monkeypatch) -> None:
    options = SearchOptions(
        data=make_dataset(events=96), storage=tmp_path / "runs", time_budget=3600.0, seed=3, fuse="off"
    )
    with monkeypatch.context() as patched:  # an hour that is over with the third epoch
        reports = spend_after(patched, 3)
        console = Console(file=io.StringIO(), width=400)
        result = run_search(prepare(SEARCH, options), console=console)

    records = list(read_records(tmp_path / "runs/in_time"))
    spent = records[-1]
    assert isinstance(spent, TimeBudgetSpent)
    ran = {trial.trial_id for trial in result.state.drawn() if trial.history}
    assert (spent.seconds, set(spent.stopped)) == (3600.0, ran)
    assert len(ran) <= 2
    assert not [one for one in records if isinstance(one, TrialFinished | SearchFinished)]
    assert not result.state.finished
    assert tells(
        result.out_of_time, "1h", "0 of 4 trials", f"{len(ran)} stopped", *ran, "--resume", "--time-budget 1h"
    )
    assert result.out_of_time in console.file.getvalue()  # type: ignore[attr-defined]

    last = spent.time
    plan = prepare(SEARCH, dataclasses.replace(options, time_budget=None))
    resumed = run_search(plan, resume=True, console=Console(quiet=True))
    assert resumed.out_of_time == ""
    assert resumed.state.finished
    assert [trial.status for trial in resumed.state.drawn()] == ["completed"] * 4
    for trial in resumed.state.drawn():
        assert [metrics["epoch"] for metrics in trial.history] == [1, 2, 3, 4, 5, 6]
    after = [one for one in read_records(tmp_path / "runs/in_time") if one.time > last]
    assert sum(isinstance(one, EpochFinished) for one in after) == 24 - len(reports)
    assert {one.trial_id for one in after if isinstance(one, TrialStarted)}.isdisjoint(ran)


def test_a_budget_begins_when_it_is_made() -> None:
    closed: list[bool] = []
    budget = TimeBudget(1000.0).closing(lambda: closed.append(True))
    assert not budget.spent
    assert not budget("t", {})
    assert closed == []
    over = TimeBudget(1e-9).closing(lambda: closed.append(True))
    time.sleep(0.001)
    assert over.spent
    assert over("t", {})
    assert closed == [True]
    assert not over.stop_all()
    assert not TimeBudget(None).spent


ENDLESS_SEARCH = dataclasses.replace(
    SEARCH, presets={"laptop": Preset(epochs=2, sampler="random", scheduler="none")}
)


def test_a_search_without_a_number_of_trials_asks_for_a_time_budget(make_dataset, tmp_path) -> None:
    options = SearchOptions(data=make_dataset(events=96), storage=tmp_path / "runs")
    with raises(InvalidConfig, "'laptop'", "--time-budget 2h", "--trials 20"):
        prepare(ENDLESS_SEARCH, options)
    assert not (tmp_path / "runs").exists()
    assert total_trials(ENDLESS_SEARCH, ENDLESS_SEARCH.presets["laptop"], SEARCH.space) >= ENDLESS
    for scheduler in ("asha_pausing", "curves"):
        with raises(InvalidConfig, scheduler, "state trials"):
            Preset(epochs=9, scheduler=scheduler)
    assert Preset(epochs=9, sampler="auto", scheduler="auto").resolved(SEARCH).sampler == "tpe"


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_without_a_number_of_trials_ends_by_its_time(
    ray_session, make_dataset, tmp_path, monkeypatch
) -> None:
    options = SearchOptions(
        data=make_dataset(events=96), storage=tmp_path / "runs", time_budget=3600.0, seed=3, fuse="off"
    )
    plan = prepare(ENDLESS_SEARCH, options)
    assert tells(plan.budget, "as many trials as there is time for", "2 epochs", "ends after 1h")
    assert "as many trials as there is time for" in str(plan.resources)
    with monkeypatch.context() as patched:  # an hour that is over with the eleventh epoch
        spend_after(patched, 11)
        console = Console(file=io.StringIO(), width=400)
        result = run_search(plan, console=console)
    done = [trial for trial in result.state.drawn() if trial.finished is not None]
    assert len(done) >= 4
    assert f"{len(done)} trials have ended" in result.out_of_time
    assert str(ENDLESS)[:6] not in console.file.getvalue()  # type: ignore[attr-defined]
    assert not result.state.finished

    more = len(result.state.trials) + 1
    plan = prepare(ENDLESS_SEARCH, dataclasses.replace(options, time_budget=None, trials=more))
    resumed = run_search(plan, resume=True, console=Console(quiet=True))
    assert resumed.state.finished
    assert [trial.status for trial in resumed.state.drawn()] == ["completed"] * more
