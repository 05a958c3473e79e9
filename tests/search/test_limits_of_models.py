"""Limits of models of one's own, of spaces that fitted models share, and of a search that goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hep_ray.confirm.finalists import choose_baseline, configurations, finalists_of
from hep_ray.errors import CannotConfirm, InvalidSpace, PluginFailed
from hep_ray.models import MODELS, model
from hep_ray.promote.candidate import constraints as criteria
from hep_ray.promote.gate import check_constraints
from hep_ray.report import tables
from hep_ray.report.groups import groups_of
from hep_ray.search import constraints
from hep_ray.search.constraints import ModelLimits, check_limits
from hep_ray.search.definition import Preset, Search, Stated
from hep_ray.search.estimate import _drawn
from hep_ray.search.notebook import leaderboard_html
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice, Integer, LogUniform
from hep_ray.search.plan import Draft, SearchPlan
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, words_to_confirm
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import (
    EpochFinished,
    ModelTimed,
    Record,
    TrialFinished,
    TrialStarted,
)
from tests.facts import raises
from tests.search.test_constraints import SCHEMA, SPACE, started


class Cut(nn.Module):
    """Looks at the numbers of an event."""

    def __init__(self, schema: Any, hidden: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, hidden), nn.Linear(hidden, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.abs().max().item() > 1e6:
            features = features.clamp(-1e6, 1e6)
        found: torch.Tensor = self.last(torch.relu(self.first(features)))
        return found


class Shifted(Cut):
    """Has a buffer of numbers from elsewhere."""

    def __init__(self, schema: Any, hidden: int = 8) -> None:
        super().__init__(schema, hidden)
        self.register_buffer("mean", torch.from_numpy(np.ones(3, np.float32)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.relu(self.first(features - self.mean)))
        return found


class Lazy(Cut):
    """Knows its weights after an event alone."""

    def __init__(self, schema: Any, hidden: int = 8) -> None:
        super().__init__(schema, hidden)
        self.first = nn.LazyLinear(hidden)


class Wrong(Cut):
    """Takes another number of features than there are."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(features)
        return found


@pytest.fixture(autouse=True)
def own_models() -> Iterator[None]:
    assert len(MODELS)
    models = dict(MODELS._entries)
    for kind in (Cut, Shifted, Lazy, Wrong):
        model(f"own_{kind.__name__.lower()}")(kind)
    yield
    MODELS._entries = models


def own(name: str, **hidden: Any) -> Space:
    return Space(
        model=name,
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(1e-4, 1e-1),
        hidden=hidden.get("hidden", Integer(2, 64)),
    )


@pytest.mark.parametrize("name", ["own_cut", "own_shifted", "own_lazy"])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_network_of_ones_own_is_counted_whatever_it_looks_at(name: str) -> None:
    """By hand: three features, eight hidden units, two classes; two operations for each weight, biases left out."""
    params = own(name, hidden=8).samples()[0]
    limits = ModelLimits({"parameters": 1e4, "flops": 1e6}, SCHEMA)
    assert limits.figures(params) == {"parameters": (3 + 1) * 8 + (8 + 1) * 2, "flops": 2 * (3 * 8 + 8 * 2)}
    assert ModelLimits({"parameters": 1e4}, SCHEMA).figures(params) == {"parameters": 50}
    # A hidden unit has 6 weights and 10 operations.
    share = check_limits({"parameters": 6 * 33 + 2}, SCHEMA, own(name, hidden=Choice(32, 34)), "tpe")
    assert 30 < share.keeping < 70


@pytest.mark.parametrize("limit", [{"flops": 1e6}, {"latency_ms": 50.0}])
def test_a_network_of_ones_own_that_fails_is_refused_at_its_own_line(limit: dict[str, float]) -> None:
    with raises(PluginFailed, "self.last(features)", "own_wrong", "test_limits_of_models.py, line", "shapes"):
        check_limits(limit, SCHEMA, own("own_wrong", hidden=8), "tpe")
    limits = ModelLimits(limit, SCHEMA)
    assert limits.figures(own("own_wrong", hidden=8).samples()[0]) == {}  # its trial fails, and says of what


def test_models_that_are_fitted_or_cannot_be_built_are_not_counted_as_small_enough() -> None:
    fitted = SPACE.replace(model=Choice("mlp", "gradient_boosting"))
    with raises(InvalidSpace, "no network of", "parameters<=20", "leave the networks out"):
        check_limits({"parameters": 20.0}, SCHEMA, fitted, "tpe")
    share = check_limits({"parameters": 1e9}, SCHEMA, fitted, "tpe")
    assert 30 < share.fitted < 70
    assert share.keeping == 100 - share.fitted
    assert f"{share.fitted} have a model that is fitted" in str(share)
    half = check_limits({"flops": 1e9}, SCHEMA, own(Choice("own_cut", "own_wrong"), hidden=8), "tpe")  # type: ignore[arg-type]
    assert 30 < half.failing < 70
    assert half.keeping == 100 - half.failing
    assert f"{half.failing} a model that cannot be built" in str(half)
    assert (
        check_limits({"parameters": 20.0}, SCHEMA, SPACE.replace(model="gradient_boosting"), "tpe").fitted
        == 100
    )


def test_a_search_that_goes_on_is_not_refused_on_a_slower_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = SPACE.replace(hidden_layers=1, hidden_features=Choice(8, 16), learning_rate=1e-3)
    search = Search(
        name="toy", task="toy", title="", space=space, presets={}, constraints=("latency_ms<=0.2",)
    )
    made = Preset(epochs=9, trials=4, sampler="tpe")
    dataset = SimpleNamespace(schema=SCHEMA)

    def draft(space: Space) -> Draft:
        found = Draft(search, dataclasses.replace(made, space=space), SearchOptions(Path(), storage=tmp_path))
        found.__dict__["dataset"] = dataset
        return found

    monkeypatch.setattr(constraints, "latency", lambda *_: 0.3)
    with raises(InvalidSpace, "latency_ms<=0.2", "0.3"):
        _ = draft(space).within
    timed: list[ModelTimed] = []
    monkeypatch.setattr(constraints, "latency", lambda *_: 0.1)
    limits = ModelLimits(search.limits, SCHEMA, write=timed.append)
    for width in (8, 16):
        limits.figures({**space.samples()[0], "hidden_features": width})
    assert len(timed) == 2
    with Journal(tmp_path / "toy") as journal:
        for record in (started(constraints=search.limits), *timed):
            journal.append(record)
    monkeypatch.setattr(constraints, "latency", lambda *_: 0.3)
    assert draft(space).within == (100, 100, 0, 0)
    # What was not timed when it began may break the limit today; the search goes on with what keeps it.
    assert draft(SPACE.replace(hidden_layers=2)).within == (0, 100, 0, 0)
    plan: Any = SimpleNamespace(
        search=search, preset=made, space=space, folder=tmp_path / "toy", dataset=dataset
    )
    plan.limits = lambda state: SearchPlan.limits(plan, state)
    plan.known_limits = plan.limits(SearchState.read(plan.folder))
    monkeypatch.setattr(constraints, "latency", lambda *_: 1 / 0)
    assert len(_drawn(plan)) == 60


def test_what_breaks_a_constraint_is_said_wherever_trials_are_told() -> None:
    trials = {"large": (500.0, 0.9), "small": (90.0, 0.7), "other": (80.0, 0.8)}
    records: list[Record] = [started(constraints={"parameters": 100.0})]
    for number, (name, (size, value)) in enumerate(trials.items()):
        metrics = {"epoch": 1, "val_auc": value, "parameters": size}
        params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": size}
        records += [
            TrialStarted(time=0, trial_id=name, number=number, params=params, seed=0),
            EpochFinished(time=0, trial_id=name, metrics=metrics),
            TrialFinished(time=0, trial_id=name, status="completed"),
        ]
    state = SearchState.fold(records)
    groups = groups_of(Stated("toy", "A toy."), state)
    assert [group.trials[0].trial_id for group in groups.ranked] == ["other", "small", "large"]
    assert [group.breaks for group in groups.ranked] == [False, False, True]
    assert leaderboard_html(state).count("breaks a constraint") == 1
    data: Any = SimpleNamespace(state=state, started=state.started, varied=(), naming=state.naming)
    ends = [row[tables.leaderboard(data).head.index("end")] for row in tables.leaderboard(data).rows]
    assert ends == ["completed", "completed", "completed, breaks a constraint"]
    ranked = configurations(state)
    small, large = (choose_baseline(ranked, {"trial": name}) for name in ("small", "large"))
    assert [one.name for one in finalists_of(ranked, small, {"parameters": 100.0}, 3)] == ["other"]
    assert [one.name for one in finalists_of(ranked, large, {"parameters": 100.0}, 3)] == ["other", "small"]
    with raises(CannotConfirm, "parameters<=100", "large"):
        finalists_of(
            [ranked[0], ranked[2]], choose_baseline(ranked, {"trial": "other"}), {"parameters": 100.0}, 3
        )
    assert words_to_confirm(state, Stated("toy", "A toy.")) == ["confirm", "toy", "--baseline", "trial=small"]
    alone = SearchState.fold([*records[:4], *records[7:]])
    assert (
        words_to_confirm(alone, Stated("toy", "A toy.")) is None
    )  # nothing but what breaks it is left to compare


def test_a_model_that_breaks_a_constraint_is_not_promoted() -> None:
    limits = {"parameters": 100.0, "latency_ms": 0.2}
    kept = check_constraints(limits, {"parameters": 100.0, "latency_ms": 0.1, "flops": 9.0})
    assert kept.line == "pass  constraints: parameters 100 of at most 100, latency_ms 0.1 of at most 0.2"
    assert not check_constraints(limits, {"parameters": 101.0, "latency_ms": 0.1}).passed
    assert not check_constraints(limits, {"parameters": 100.0}).passed  # nobody knows
    params = {"model": "mlp"}
    searched, retrained = SearchState.fold([started(constraints=limits)]), SearchState()
    own = {"parameters": 90.0, "latency_ms": 0.1}
    searched.apply(TrialStarted(time=0, trial_id="t0", number=0, params=params, seed=0, figures=own))
    retrained.apply(TrialStarted(time=0, trial_id="t0_seed1", number=0, params=params, seed=1))
    one_model = SimpleNamespace(trained=lambda contender, run: [(contender, run)])
    candidate, run = SimpleNamespace(name="t0"), SimpleNamespace(trial_id="t0_seed1")
    told: Any = (searched, retrained, one_model, candidate, run)
    assert [one.passed for one in criteria(*told)] == [True]
    metrics = {"epoch": 1, "parameters": 130.0}  # it was fitted with another seed, and grew
    retrained.apply(EpochFinished(time=0, trial_id="t0_seed1", metrics=metrics))
    assert [one.passed for one in criteria(*told)] == [False]
    assert list(criteria(SearchState.fold([started()]), *told[1:])) == []
