import dataclasses
from pathlib import Path

import pytest

from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import FollowsSearcher
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice, LogUniform
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.search.scheduler import scheduler_for
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialStarted

SEARCH = Search(
    name="toy",
    task="toy",
    title="",
    space=Space(model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(0.01, 0.1)),
    presets={},
)


def of_preset(preset):
    return scheduler_for(preset.scheduler, preset.goal(SEARCH, 0))


def scheduler(**preset):
    return of_preset(
        Preset(
            **{
                "epochs": 9,
                "trials": 9,
                "grace_epochs": None if preset.get("scheduler") == "none" else 1,
                **preset,
            }
        )
    )


def report(asha, trial_id, epoch, value):
    return asha.report(trial_id, epoch, {"epoch": epoch, "val_accuracy": value})


def records(results):
    """(trial, epoch, value) → the journal of an attempt with these results."""
    journal = []
    for trial_id, epoch, value in results:
        if epoch == 1:
            params = {"model": "cnn", "loss": "hinge", "optimizer": "adam", "learning_rate": 0.05}
            number = int(trial_id[1:])
            journal.append(TrialStarted(time=0, trial_id=trial_id, number=number, params=params, seed=0))
        metrics = {"epoch": epoch, "val_accuracy": value}
        journal.append(EpochFinished(time=0, trial_id=trial_id, metrics=metrics))
    return journal


def replayed(journal, references=(), **preset):
    """The searcher of an attempt that follows this journal, and the trials that it ends at once."""
    state = SearchState.fold(journal)
    search = dataclasses.replace(SEARCH, points_to_evaluate=references)
    made = Preset(
        **{
            "epochs": 9,
            "trials": 9,
            "grace_epochs": None if preset.get("scheduler") == "none" else 1,
            **preset,
        }
    )
    searcher = OptunaSearcher(search, made, SEARCH.space, 0, None, state, state.apply)
    ended = set()
    searcher.settle(made.epochs, ended.add)
    return searcher, ended


FIRST_RUNG = [("t0", 1, 0.9), ("t1", 1, 0.8), ("t2", 1, 0.7)]


def test_the_worse_two_thirds_stop_at_a_rung():
    asha = scheduler()

    # Rungs of 9 epochs and factor 3: epochs 1, 3, 9. At a rung a trial goes on when it is not below the
    # 2/3 quantile of those before it: of nothing, then {0.9}, then {0.8, 0.9} (0.867), then {0.7, 0.8, 0.9} (0.833).
    assert report(asha, "t0", 1, 0.9) == "go on"
    assert report(asha, "t1", 1, 0.8) == "stop"
    assert report(asha, "t2", 1, 0.7) == "stop"
    assert report(asha, "t3", 1, 0.84) == "go on"
    assert report(asha, "t0", 9, 0.9) == "go on"  # it ends by itself


def test_a_model_that_is_fitted_in_one_go_stays_outside_the_rungs():
    journal = [
        TrialStarted(time=0, trial_id="t0000", number=0, params={"model": "likelihood"}, seed=0),
        EpochFinished(time=0, trial_id="t0000", metrics={"epoch": 1, "val_accuracy": 0.99}),
    ]
    searcher, ended = replayed(journal, references=({"model": "likelihood"},))
    assert ended == set()  # to be run again: its end is not the scheduler's

    for name, value in (("t0001", 0.5), ("t0002", 0.6)):
        assert searcher.suggest("")["trial_id"] in ("t0000", "t0001", "t0002")
        assert report(searcher._scheduler, name, 1, value) == "go on"


@pytest.mark.parametrize("scheduler", ["curves", "asha_pausing"])
def test_a_model_that_is_fitted_in_one_go_does_not_pause_where_a_driver_dies_before_its_end(scheduler):
    journal = [
        TrialStarted(time=0, trial_id="t0000", number=0, params={"model": "likelihood"}, seed=0, until=1),
        EpochFinished(time=0, trial_id="t0000", metrics={"epoch": 1, "val_accuracy": 0.99}),
    ]
    state = SearchState.fold(journal)
    space = SEARCH.space.replace(model=Choice("cnn", "likelihood"))
    made = Preset(epochs=9, trials=9, scheduler=scheduler)
    searcher = searcher_of(SEARCH, made)(SEARCH, made, space, 0, None, state, state.apply)
    searcher.settle(9, lambda name: pytest.fail(f"{name} is ended as if it had been stopped"))
    assert not state.trials["t0000"].paused
    assert searcher.suggest("")["trial_id"] == "t0000"


def test_after_a_restart_the_rungs_decide_as_before():
    continued = scheduler()
    for name, _, value in FIRST_RUNG:
        report(continued, name, 1, value)
    restarted = replayed(records(FIRST_RUNG))[0]._scheduler

    for value in (0.6, 0.75, 0.83, 0.84, 0.95):
        assert report(continued, f"t{value}", 1, value) == report(restarted, f"t{value}", 1, value)


def test_a_replay_tells_which_trials_had_ended_without_a_record_of_it():
    journal = [*records(FIRST_RUNG), TrialFinished(time=0, trial_id="t1", status="stopped")]

    assert replayed(journal)[1] == {"t2"}
    assert replayed(records(FIRST_RUNG), scheduler="none", epochs=1)[1] == {"t0", "t1", "t2"}


def test_an_epoch_that_a_resumed_trial_reports_again_changes_nothing():
    asha = scheduler()
    assert report(asha, "t0", 1, 0.9) == "go on"

    assert report(asha, "t0", 1, 0.9) == "go on"
    assert report(asha, "t1", 1, 0.89) == "stop"


@pytest.mark.parametrize(
    ("preset", "grace"),
    [
        ({"epochs": 2}, 2),  # so none is stopped
        ({"epochs": 8}, 3),
        ({"epochs": 27}, 3),
        ({"epochs": 28}, 4),  # a ninth, rounded up
        ({"epochs": 52}, 6),
        ({"epochs": 52, "grace_epochs": 1}, 1),
        ({"epochs": 5, "grace_epochs": 9}, 5),
        ({"epochs": 9, "scheduler": "none"}, 9),
    ],
)
def test_the_grace_follows_the_length_of_the_training_and_is_stated_as_it_runs(preset, grace):
    made = Preset(trials=9, **preset)
    assert made.grace == grace
    stops = grace < preset["epochs"]
    words = f"asha, grace {preset.get('grace_epochs', grace)}, factor 3"
    assert made.stopping == ("none" if preset.get("scheduler") == "none" else words)
    asha = of_preset(made)
    for name, value in (("t0", 0.9), ("t1", 0.1)):
        decisions = [report(asha, name, epoch, value) for epoch in range(1, preset["epochs"])]
    assert decisions == ["go on"] * (grace - 1) + ["stop"] * stops + decisions[grace:]


def test_a_search_of_old_goes_on_with_the_grace_that_it_was_started_with():
    """One epoch, where a preset stated none."""
    old = "asha, grace 1, factor 3"
    recorded = SearchOptions(data=Path(), grace_epochs=1)
    assert Preset(epochs=9, trials=1).with_options(recorded).stopping == old
    assert Preset(epochs=9, trials=1, grace_epochs=2).with_options(recorded).grace == 2
    assert Preset(epochs=9, trials=1).with_options(SearchOptions(data=Path())).grace == 3


def climb(asha, name, first, last):
    """A trial of nine epochs, whose values at epochs 1 and 3 are these; the epochs that it is given."""
    for epoch, value in ((1, first), (2, first), (3, last)):
        if report(asha, name, epoch, value) == "stop":
            return epoch
    return epoch


def test_a_rung_whose_ranking_means_nothing_stops_no_trial_until_it_does():
    """Eight trials of which each is as good at epoch 1 as the one before it, and worse at epoch 3."""
    asha = scheduler()
    for number in range(8):
        assert climb(asha, f"t{number}", 0.5 + number / 100, 0.9 - number / 100) == 3
    assert asha.agreement(1) == (pytest.approx(-1), 8)
    assert climb(asha, "low", 0.1, 0.2) == 3
    # Ranks at epoch 1: low is 1, then t0 ... t7 are 2 ... 9; at epoch 3: low 1, t7 ... t0 2 ... 9.
    # Differences 0, -7, -5, ..., 7: 6 Σd² / (n³ - n) = 6 · 168 / 720 = 1.4, so rho = 1 - 1.4.
    assert asha.agreement(1) == (pytest.approx(-0.4), 9)
    (doubt,) = asha.doubts()
    assert "at epoch 1" in doubt
    assert "rank correlation -0.40" in doubt

    for number in range(30):
        climb(asha, f"u{number}", 0.6 + number / 1000, 0.91 + number / 1000)
    assert asha.agreement(1)[0] > 0.3
    assert asha.doubts() == []
    assert climb(asha, "lower", 0.2, 0.9) == 1


@pytest.mark.parametrize("epoch", range(1, 9))
def test_without_a_scheduler_no_trial_stops_early(epoch):
    asha = scheduler(scheduler="none")
    assert report(asha, "t0", epoch, 0.9) == "go on"
    assert report(asha, "t1", epoch, 0.1) == "go on"


def test_no_trial_takes_the_worker_of_another_while_its_own_starts():
    """Tune gives the first free worker to the trial named here, and kills the one that is starting for it."""
    assert FollowsSearcher(replayed([])[0], lambda *_: None).choose_trial_to_run(None) is None


@pytest.mark.parametrize("name", ["asha", "hyperband"])
def test_a_trial_that_failed_stops_no_other(name):
    """Of nine epochs and factor 3 the first bracket of hyperband has the rungs of ASHA."""
    asha = scheduler(scheduler=name)
    for trial in ("t0", "t1"):
        asha.begin(trial, {})
    assert report(asha, "t0", 1, 0.9) == "go on"
    asha.end("t0", "failed")
    assert report(asha, "t1", 1, 0.5) == "go on"


def test_a_trial_that_failed_is_no_part_of_the_median():
    made = scheduler(scheduler="median")
    for number in range(5):
        report(made, f"t{number}", 1, 0.9)
    report(made, "t5", 1, 0.3)
    report(made, "t6", 1, 0.2)
    for number in range(4):
        made.end(f"t{number}", "failed")
    # t4, t5 and t6 are left, then t7 and t8: of the five others of t9 the median is 0.4.
    report(made, "t7", 1, 0.4)
    report(made, "t8", 1, 0.45)
    assert report(made, "t9", 1, 0.41) == "go on"
    assert report(made, "t10", 1, 0.35) == "stop"


def test_a_trial_that_failed_takes_no_promotion_from_another():
    made = scheduler(scheduler="asha_pausing")
    for number, value in enumerate((0.9, 0.8, 0.7, 0.6)):
        made.begin(f"t{number}", {})
        assert report(made, f"t{number}", 1, value) == "pause"
    made.went_on("t0", 3)
    assert made.take_up() is None  # one of four, a third, is promoted
    made.end("t0", "failed")
    assert made.take_up().trial_id == "t1"  # the best of the three that are left
