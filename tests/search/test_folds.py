"""Configurations that would lead are trained on every fold; means are compared with the folds allowed for."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

import numpy as np
import pytest

from hep_ray.confirm.finalists import configurations
from hep_ray.errors import InvalidConfig
from hep_ray.report.groups import groups_of
from hep_ray.search.definition import Preset, Search, Stated
from hep_ray.search.draws import IN_FOLDS, next_fold, to_repeat, trained_again, why_not_ahead
from hep_ray.search.leaderboard import leaderboard
from hep_ray.search.means import pooled
from hep_ray.search.notebook import leaderboard_html
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, Record, Status, TrialFinished, TrialStarted
from tests.facts import raises
from tests.search.simulated import RANGES, Simulated, height
from tests.search.test_constraints import started

FOLDS = 4
EASIER = {1: 0.04, 2: -0.05, 3: 0.03, 4: -0.02}
SCHEDULERS = ("none", "asha", "asha_pausing", "hyperband", "median", "curves")


def preset(scheduler: str, **given: Any) -> Preset:
    sampler = "curves" if scheduler == "curves" else given.pop("sampler", "random")
    return Preset(
        **{"epochs": 9, "trials": 24, "folds": FOLDS, "sampler": sampler, "scheduler": scheduler, **given}
    )


def played(made: Preset, records: Any = None, **given: Any) -> tuple[Simulated, list[dict[str, Any]]]:
    begun = [started(folds=made.folds, repeats=made.repeats, metric="val_accuracy", epochs=9)]
    run = Simulated(made, given.pop("space", RANGES), records or begun, noise=0.005, easier=EASIER, **given)
    return run, run.run()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_would_lead_is_trained_on_every_fold_within_the_budget(scheduler: str) -> None:
    run, _ = played(preset(scheduler))
    trials = run.state.drawn()
    for alike in run.state.alike():
        folds = [trial.started.fold for trial in alike]
        assert folds == list(range(1, len(folds) + 1))  # the first training is on fold 1, then each once
        assert len({trial.started.seed for trial in alike}) == len(alike) <= FOLDS
    best = run.state.ranked("val_accuracy", "max")[0]
    assert len(run.state.seeds_of(best)) == FOLDS
    spent, again = (
        sum(len(trial.history) for trial in trials if trial.started.repeat_of or not only)
        for only in (False, True)
    )
    assert again <= IN_FOLDS * spent + 9
    if run.searcher.pauses:
        assert spent == 24 * 9
    else:
        assert len(trials) == 24
    reasons = [trial.started.reason for trial in trials if trial.started.repeat_of]
    assert reasons
    assert all(reason.startswith("fold ") and f" of {FOLDS}: " in reason for reason in reasons)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_search_by_folds_goes_on_as_it_would_have(scheduler: str) -> None:
    made = preset(scheduler, trials=12)
    run, expected = played(made, seed=1, diverges=("t0003",))
    for cut in [*range(2, len(expected), max(1, len(expected) // 8)), len(expected) - 1]:
        assert played(made, run.state.records[:cut], seed=1, diverges=("t0003",))[1] == expected


def test_the_last_trainings_wait_for_what_leads_where_all_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight trials and as many workers: five begin, and the best of them has the three other folds."""
    monkeypatch.setattr("tests.search.simulated.WORKERS", 8)
    run, _ = played(preset("none", trials=8))
    assert [trial.started.repeat_of == "" for trial in run.state.drawn()] == [True] * 5 + [False] * 3
    best = run.state.ranked("val_accuracy", "max")[0]
    assert len(run.state.seeds_of(best)) == FOLDS


def test_what_leads_is_on_every_fold_where_time_alone_ends_the_search() -> None:
    run = Simulated(
        preset("none", trials=None, epochs=1),
        RANGES,
        [started(folds=FOLDS, repeats=FOLDS, metric="val_accuracy")],
    )
    for _ in range(20):
        run._working.append(run.searcher.suggest("")["trial_id"])
        run._epoch(run._working[0])
    best = run.state.ranked("val_accuracy", "max")[0]
    assert [one.started.fold for one in run.state.seeds_of(best)] == [1, 2, 3, 4]


def test_every_configuration_of_a_grid_is_on_every_fold_and_the_best_mean_leads() -> None:
    space = Space(model="cnn", loss="cross_entropy", optimizer="adam", learning_rate=Choice(0.01, 0.02, 0.1))
    made = preset("none", sampler="grid", trials=None)
    assert (made.seeds, made.repeats) == (FOLDS, 1)
    run, _ = played(made, space=space, value=lambda params, _: height({"momentum": 0.6, **params}))
    counts = Counter((t.started.params["learning_rate"], t.started.fold) for t in run.state.drawn())
    assert counts == {(rate, fold): 1 for rate in (0.01, 0.02, 0.1) for fold in range(1, FOLDS + 1)}
    ranked = run.state.ranked("val_accuracy", "max")
    assert [one.started.params["learning_rate"] for one in ranked] == [0.01] * 4 + [0.02] * 4 + [0.1] * 4
    assert "fold" in why_not_ahead(made)


def test_a_configuration_that_is_drawn_again_is_on_another_fold() -> None:
    """Two configurations, ten draws: each is drawn again, and no fold is had twice before all are."""
    space = Space(model="cnn", loss="cross_entropy", optimizer="adam", learning_rate=Choice(0.01, 0.1))
    run, _ = played(
        preset("none", sampler="tpe", trials=8),
        space=space,
        value=lambda params, _: height({"momentum": 0.6, **params}),
    )
    for alike in run.state.alike():
        folds = [trial.started.fold for trial in alike]
        assert folds == [1, 2, 3, 4, 1, 2][: len(folds)]


def test_folds_are_allowed_for_by_least_squares() -> None:
    """By hand: value = configuration + fold. 0.83 and 0.85 with folds at −0.03, +0.01 and +0.02."""
    first, second = [(1, 0.80), (2, 0.84), (3, 0.85)], [(1, 0.82), (2, 0.86)]
    found = pooled([first, second, [(1, 0.99)]])
    assert found.effects == pytest.approx({1: -0.03, 2: 0.01, 3: 0.02})
    assert found.spread == pytest.approx(0, abs=1e-12)
    assert pooled([[(1, 0.5)]]).effects == {}
    seeds = pooled([[(0, 0.80), (0, 0.82), (0, 0.84)], [(0, 0.90), (0, 0.72)]])  # as before there were folds
    assert seeds.effects == {}
    assert seeds.spread == pytest.approx(((2 * 0.0004 + 0.0162) / 3) ** 0.5)


def test_the_fit_is_that_of_a_design_matrix_and_the_spread_that_of_its_residuals() -> None:
    random = np.random.default_rng(3)
    several = [
        [(fold, random.normal(one, 0.1) + EASIER[fold]) for fold in range(1, 1 + random.integers(2, 5))]
        for one in random.normal(0, 1, 40)
    ]
    found = pooled(several)
    rows = [(place, fold, value) for place, one in enumerate(several) for fold, value in one]
    design = np.zeros((len(rows), 40 + 3))
    for row, (place, fold, _) in enumerate(rows):
        design[row, place] = 1
        design[row, 40:] = (-1, -1, -1) if fold == 4 else np.arange(1, 4) == fold
    values = np.array([value for *_, value in rows])
    fit, *_ = np.linalg.lstsq(design, values, rcond=None)
    assert [found.effects[fold] for fold in (1, 2, 3)] == pytest.approx(fit[40:])
    squares = ((values - design @ fit) ** 2).sum()
    assert found.spread == pytest.approx((squares / (len(rows) - 43)) ** 0.5)
    assert found.spread == pytest.approx(0.1, rel=0.2)


def told(trials: dict[str, tuple[str, int, float]], stopped: tuple[str, ...] = ()) -> SearchState:
    """Trial → first of its configuration, fold and value; all completed but those that were stopped."""
    records: list[Record] = [started(folds=3, repeats=3)]
    for number, (name, (first, fold, value)) in enumerate(trials.items()):
        params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": len(first)}
        again = "" if first == name else first
        begun = TrialStarted(
            time=0, trial_id=name, number=number, params=params, seed=number, fold=fold, repeat_of=again
        )
        metrics = {"epoch": 1, "val_auc": value, "epoch_seconds": 1.0}
        records += [begun, EpochFinished(time=0, trial_id=name, metrics=metrics)]
        end: Status = "stopped" if name in stopped else "completed"
        records.append(TrialFinished(time=0, trial_id=name, status=end))
    return SearchState.fold(records)


EXACT = {
    "a": ("a", 1, 0.80),
    "a-2": ("a", 2, 0.84),
    "a-3": ("a", 3, 0.85),
    "bb": ("bb", 1, 0.82),
    "bb-2": ("bb", 2, 0.86),
    "ccc": ("ccc", 1, 0.81),
}


def test_a_ranking_allows_for_the_folds_that_each_had() -> None:
    """By hand: bb 0.85, ccc 0.81 + 0.03, a 0.83; their plain means would be 0.84, 0.81 and 0.83.

    a leads, as the only one that was on every fold.
    """
    state = told(EXACT)
    ranked = [trial.trial_id for trial in state.ranked("val_auc", "max")]
    assert ranked == ["a-3", "a-2", "a", "bb-2", "bb", "ccc"]
    assert [one.name for one in configurations(state)] == ["a", "bb", "ccc"]
    assert [one.value for one in configurations(state)] == pytest.approx([0.83, 0.85, 0.84])
    groups = groups_of(Stated("toy", "A toy."), state)
    assert [group.trials[0].trial_id for group in groups.ranked] == ["a", "bb", "ccc"]
    assert groups.words(groups.members) == "mean ± s.d. over 1 to 3 folds"
    rows = {one["trial_id"]: one for one in leaderboard(state, {})["trials"]}
    assert rows["a-2"]["mean"] == pytest.approx(statistics.fmean([0.80, 0.84, 0.85]))
    assert (rows["a-2"]["fold"], rows["a-2"]["seeds"], rows["a-2"]["repeat_of"]) == (2, 3, "a")
    assert rows["ccc"]["mean"] == pytest.approx(0.84)
    page = leaderboard_html(state)
    assert "mean ± s.e. (folds)" in page
    assert "0.850 ± 0.020 (2)" in page
    whole = told({**EXACT, "bb-3": ("bb", 3, 0.87)})
    assert [one.name for one in configurations(whole)] == ["bb", "a", "ccc"]
    assert (
        next(group.trials[0].trial_id for group in groups_of(Stated("toy", "A toy."), whole).ranked) == "bb"
    )
    assert whole.ranked("val_auc", "max")[0].trial_id == "bb-3"
    found = to_repeat(
        state, Search(name="toy", task="toy", title="", space=RANGES, presets={}, metric="val_auc"), 3
    )
    assert found is not None
    assert (found[0].trial_id, found[1]) == ("bb", "fold 3 of 3: 2 folds have 0.85, ahead of 0.83 of a")


TOY = Search(name="toy", task="toy", title="", space=RANGES, presets={}, metric="val_auc")


def test_a_training_that_was_stopped_is_had_again_on_its_own_fold() -> None:
    """As a time budget leaves it: three trainings on two folds lead nothing, and fold 2 is what is trained next."""
    trials = {"a": ("a", 1, 0.80), "a-2": ("a", 2, 0.90), "a-3": ("a", 3, 0.85)}
    state = told(trials, stopped=("a-2",))
    assert next_fold(state.trials["a"].started.params, 3, state) == 2
    found = to_repeat(state, TOY, 3)
    assert found is not None
    assert found[1] == "fold 3 of 3: 2 folds have 0.825, the best so far"
    assert trained_again(*found, state, 3).fold == 2
    again = told({**trials, "a-4": ("a", 1, 0.95)}, stopped=("a-2",))
    assert again.partial(again.trials["a"])
    assert to_repeat(again, TOY, 3) is not None
    behind = told(
        {**trials, "a-4": ("a", 1, 0.95), **{f"bb{k}": ("bb", k, 0.5) for k in (1, 2, 3)}}, ("a-2",)
    )
    assert behind.ranked("val_auc", "max")[0].trial_id.startswith("bb")


def test_what_was_stopped_is_in_no_mean_of_finalists() -> None:
    """By hand: a has 0.80 and 0.85; its third training, which was stopped at 0.10, ranks it nowhere."""
    state = told({"a": ("a", 1, 0.80), "a-2": ("a", 2, 0.10), "a-3": ("a", 3, 0.85)}, stopped=("a-2",))
    (one,) = configurations(state)
    assert one.value == pytest.approx(0.825)
    assert one.value == pytest.approx(state.mean(state.trials["a"], "val_auc", "max")[0])


def test_effects_of_folds_are_fitted_anew_when_a_training_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    monkeypatch.setattr("hep_ray.search.state.pooled", lambda one: fits.append(1) or pooled(one))
    state = told(EXACT)
    assert state.pooled.effects
    begun = state.trials["a"].started.model_copy(update={"trial_id": "a-4", "number": 9})
    metrics = {"epoch": 1, "val_auc": 0.8, "epoch_seconds": 1.0}
    for record in (begun, EpochFinished(time=0, trial_id="a-4", metrics=metrics)):
        state.apply(record)
        assert state.pooled.effects
    assert len(fits) == 1
    state.apply(TrialFinished(time=0, trial_id="a-4", status="completed"))
    assert state.pooled.effects
    assert len(fits) == 2


def test_folds_that_contradict_something_are_refused(tmp_path: Any) -> None:
    with raises(InvalidConfig, "folds", "at least 3", 2):
        Preset(epochs=2, trials=9, folds=2)
    with raises(InvalidConfig, "5 folds", "repeats=3"):
        Preset(epochs=2, trials=9, folds=5, repeats=3)
    with raises(InvalidConfig, "5 folds", "seeds=3"):
        Preset(epochs=2, sampler="grid", folds=5, seeds=3)
    options = SearchOptions(data=tmp_path, folds=5)
    assert Preset(epochs=2, trials=9, repeats=3).with_options(options).repeats == 5
    assert Preset(epochs=2, sampler="grid", seeds=3).with_options(options).seeds == 5
    with raises(InvalidConfig, "5 folds", "repeats=2"):
        Preset(epochs=2, trials=9).with_options(SearchOptions(data=tmp_path, folds=5, repeats=2))
