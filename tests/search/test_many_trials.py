"""What the driver keeps so that a result costs the same for any number of trials: as if all were looked at anew."""

import random

import numpy as np
import pytest
from optuna.storages._rdb.storage import RDBStorage

from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import Draws
from hep_ray.search.epochs import EpochTally
from hep_ray.search.parameters import Choice
from hep_ray.search.scheduler import MedianStopping, PromotingASHA, SearchGoal
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.search.study import StoredStudy
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialStarted
from tests.search.simulated import RANGES, Simulated

SEARCH = Search(name="toy", task="toy", title="", space=RANGES, presets={})
GOAL = SearchGoal("val_accuracy", "max", epochs=9, grace=1)
PARAMS = {"model": "cnn", "loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.5}


def events(trials, chance):
    """(trial, epoch, value) by chance, and (trial, 0, 0) where one ends; values are of tenths: many are equal."""
    reached = dict.fromkeys(range(trials), 0)
    while reached:
        trial = chance.choice(sorted(reached))
        reached[trial] += 1
        if chance.random() < 0.04 or reached[trial] > GOAL.epochs:
            del reached[trial]
            yield f"t{trial}", 0, 0.0
        else:
            yield f"t{trial}", reached[trial], chance.randrange(10) / 10


@pytest.mark.parametrize("seed", range(4))
def test_the_median_is_that_of_the_means_of_all_others(seed):
    rule, curves, decided = MedianStopping(), {}, set()
    rule.start(GOAL)
    for name, epoch, value in events(25, random.Random(seed)):
        if not epoch:
            rule.end(name, "failed")
            curves.pop(name, None)
            continue
        curves.setdefault(name, []).append(value)
        others = [
            sum(one[:epoch]) / epoch for other, one in curves.items() if other != name and len(one) >= epoch
        ]
        stops = len(others) >= 5 and max(curves[name]) < np.median(others)
        decided.add(stops)
        assert rule.report(name, epoch, {"val_accuracy": value}) == ("stop" if stops else "go on")
    assert decided == {True, False}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_promoted_is_the_best_of_a_whole_ranking(seed):
    rule, chance = PromotingASHA(), random.Random(seed)
    rule.start(GOAL)
    values, promoted, gone, taken = {1: {}, 3: {}, 9: {}}, {1: set(), 3: set()}, set(), []
    for name, epoch, value in events(30, chance):
        if epoch:
            rule.report(name, epoch, {"val_accuracy": value})
            values.get(epoch, {}).setdefault(name, value)
        else:
            status = chance.choice(["failed", "stopped"])
            rule.end(name, status)
            gone.add(name)
            for reached in values.values() if status == "failed" else ():
                reached.pop(name, None)
        expected = None
        for rung, until in ((1, 3), (3, 9)):  # so that the highest rung with one is the last to be taken
            best = sorted(values[rung], key=lambda one: -values[rung][one])[: len(values[rung]) // 3]
            left = [one for one in best if one not in promoted[rung] | gone]
            if left:
                expected = left[0], until, f"number {best.index(left[0]) + 1} of {len(values[rung])}"
        found = rule.take_up()
        assert (found is None) == (expected is None)
        if found is not None:
            assert (found.trial_id, found.until) == expected[:2]
            assert found.reason.startswith(expected[2])
            if chance.random() < 0.5:
                highest = max(rung for rung in values if found.trial_id in values[rung])
                rule.went_on(found.trial_id, found.until)
                promoted.get(highest, set()).add(found.trial_id)
                taken.append(found.until)
    assert set(taken) == {3, 9}


@pytest.mark.parametrize(
    "preset",
    [
        Preset(epochs=9, trials=12, sampler="random", scheduler="asha_pausing", grace_epochs=1),
        Preset(epochs=4, trials=14, sampler="random", scheduler="asha", grace_epochs=1, repeats=3),
    ],
)
def test_the_epochs_that_are_spent_are_those_of_all_trials(preset):
    run = Simulated(preset, RANGES, references=(PARAMS,), diverges=("t0003",), noise=0.05)
    run.run()
    tally, state, seen = EpochTally(preset.epochs, references=1), SearchState(), set()
    for record in run.state.records:
        state.apply(record)
        trials = state.drawn()
        given = [
            max(len(one.history), one.until or preset.epochs) if one.status == "running" else len(one.history)
            for one in trials
        ]
        tally.follow(state)
        assert tally.all == sum(given)
        assert tally.drawn == sum(given[1:])
        again = sum(epochs for one, epochs in zip(trials, given, strict=True) if one.started.repeat_of)
        assert tally.again == again
        assert tally.paused == sum(one.paused for one in trials)
        seen |= {name for name in ("paused", "again") if getattr(tally, name)}
    assert seen == ({"paused"} if preset.repeats == 1 else {"again"})
    assert vars(EpochTally(preset.epochs, references=1).follow(state)) == vars(tally)


@pytest.mark.parametrize("status", ["completed", "stopped"])
def test_the_end_of_a_trial_reads_no_other_that_runs_from_the_database(tmp_path, monkeypatch, status):
    """On 100 nodes 800 run: Optuna reads all of them from SQLite where it is asked for its trials."""
    read, build = [], RDBStorage._build_frozen_trial_from_trial_model

    def counted(self, trial):
        read.append(trial.trial_id)
        return build(self, trial)

    monkeypatch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", counted)
    state, preset = SearchState(), Preset(epochs=2, trials=20, sampler="random", scheduler="none")
    study = StoredStudy(SEARCH, RANGES, tmp_path / "optuna.db", state)
    draws = Draws(SEARCH, preset, RANGES, 0)
    for place in range(12):
        drawn, name = draws.next(state), f"t{place:04d}"
        number = study.add(drawn.frozen)
        state.apply(TrialStarted(time=0, trial_id=name, number=number, params=drawn.params, seed=0))
    metrics = {"epoch": 1, "val_accuracy": 0.5, "epoch_seconds": 1.0}
    state.apply(EpochFinished(time=0, trial_id="t0005", metrics=metrics))
    state.apply(TrialFinished(time=0, trial_id="t0005", status=status))
    read.clear()
    study.tell(state.trials["t0005"])
    study.tell(state.trials["t0005"])
    assert set(read) == {6}  # in a database the first is 1
    ended = [one for one in study._study.get_trials() if one.state.is_finished()]
    assert [(one.number, one.value) for one in ended] == [(5, 0.5)]


def test_a_configuration_was_tried_whichever_numbers_and_lists_it_is_written_with():
    space = Space(model="mlp", loss="hinge", optimizer="adam", width=Choice(1, 2), learning_rate=Choice(0.1))
    draws = Draws(SEARCH, Preset(epochs=2, trials=9, sampler="random", scheduler="none"), space, 0)
    state = SearchState()
    for place, value in enumerate((1, 1.0, True, [1, 2], (1, 2), [1.0, 2], {"a": [1]}, None)):
        params = {"model": "mlp", "x": value}
        state.apply(TrialStarted(time=0, trial_id=f"t{place}", number=place, params=params, seed=0))
    # Equal are 1, 1.0 and True, and [1, 2] and [1.0, 2]; a list is no tuple.
    assert sorted(draws._tried_in(state).values()) == [1, 1, 1, 2, 3]
    state.apply(TrialStarted(time=0, trial_id="t8", number=8, params={"x": 1.0, "model": "mlp"}, seed=0))
    assert sorted(draws._tried_in(state).values()) == [1, 1, 1, 2, 4]
