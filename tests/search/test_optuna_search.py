import time

import optuna
import pytest

from hep_ray.errors import InvalidConfig
from hep_ray.search.definition import Preset, Search
from hep_ray.search.optuna_search import OptunaSearcher, total_trials
from hep_ray.search.parameters import Choice, LogUniform
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, TrialFinished

SPACE = Space(
    model="cnn",
    loss="root_softmax",
    root_index=Choice(1, 3, 5),
    optimizer=Choice("adam", "sgd"),
    learning_rate=LogUniform(1e-4, 1e-1),
)
GRID = SPACE.replace(learning_rate=Choice(0.1))


class Driver:
    """What the recorder is to the searcher: state and records, without Tune."""

    def __init__(self, folder, preset, space=SPACE, seed=0, records=(), references=()):
        self.records = list(records)
        self.state = SearchState.fold(self.records)
        search = Search(name="toy", task="toy", title="", space=space, presets={}, references=references)
        self.epochs = preset.epochs
        self.searcher = OptunaSearcher(
            search, preset, space, seed, folder / "optuna.db", self.state, self.write
        )

    def write(self, record):
        self.records.append(record)
        self.state.apply(record)

    def epoch(self, trial_id, epoch, value):
        metrics = {"epoch": epoch, "val_accuracy": value, "epoch_seconds": 0.1}
        self.write(EpochFinished(time=time.time(), trial_id=trial_id, metrics=metrics))

    def run(self, suggestion, epochs=None, status="completed"):
        trial_id = suggestion["trial_id"]
        for epoch in range(len(self.state.trials[trial_id].history) + 1, (epochs or self.epochs) + 1):
            # A landscape with its top at learning rate 0.01 and root index 3.
            params = suggestion["params"]
            value = 1 - abs(params["learning_rate"] - 0.01) - 0.01 * abs(params["root_index"] - 3)
            self.epoch(trial_id, epoch, value + 0.001 * epoch)
        self.write(TrialFinished(time=time.time(), trial_id=trial_id, status=status))
        self.searcher.record(self.records[-1])

    def study(self, folder):
        return optuna.load_study(study_name="toy", storage=f"sqlite:///{folder / 'optuna.db'}")


def test_a_grid_runs_every_point_once_per_seed_and_then_ends(tmp_path):
    driver = Driver(tmp_path, Preset(epochs=1, sampler="grid", seeds=2), GRID, seed=5)

    drawn = []
    while (suggestion := driver.searcher.suggest(f"tune-{len(drawn)}")) != "FINISHED":
        drawn.append(suggestion)
        driver.run(suggestion)

    expected = [
        (root, optimizer, seed) for seed in (5, 6) for root in (1, 3, 5) for optimizer in ("adam", "sgd")
    ]
    assert [(s["params"]["root_index"], s["params"]["optimizer"], s["seed"]) for s in drawn] == expected


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_killed_after_any_trial_draws_what_it_would_have_drawn(tmp_path, sampler):
    preset = Preset(epochs=2, trials=14, sampler=sampler)

    def draw(folder, restarts):
        folder.mkdir()
        driver = Driver(folder, preset)
        for index in range(preset.trials):
            if index in restarts:
                driver = Driver(folder, preset, records=driver.records)
            driver.run(driver.searcher.suggest(f"tune-{index}"))
        return [trial.started.params for trial in driver.state.trials.values()]

    assert draw(tmp_path / "whole", set()) == draw(tmp_path / "killed", {1, 5, 12})


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_configuration_is_trained_twice_from_the_same_seed(tmp_path, sampler):
    """Six configurations in eight trials: each once before any comes again, and then from a seed of its own."""
    driver = Driver(tmp_path, Preset(epochs=1, trials=8, sampler=sampler), GRID, seed=5)
    for number in range(8):
        driver.run(driver.searcher.suggest(str(number)))

    started = [trial.started for trial in driver.state.trials.values()]
    assert len({tuple(one.params.items()) for one in started[:6]}) == 6
    assert {one.seed for one in started[:6]} == {5}
    assert len({(*one.params.items(), one.seed) for one in started}) == 8
    assert [one.number for one in started] == list(range(8))
    told = driver.study(tmp_path).trials  # what was drawn and given up leaves no trace
    assert [trial.params["root_index"] for trial in told] == [one.params["root_index"] for one in started]


def test_unfinished_trials_come_back_first_under_their_own_names(tmp_path):
    preset = Preset(epochs=2, trials=4)
    before = Driver(tmp_path, preset)
    first, second = before.searcher.suggest("tune-a"), before.searcher.suggest("tune-b")
    before.run(first)
    before.epoch(second["trial_id"], 1, 0.5)

    after = Driver(tmp_path, preset, records=before.records)
    again = after.searcher.suggest("tune-c")

    assert again == second
    after.run(again)
    assert after.study(tmp_path).trials[1].state == optuna.trial.TrialState.COMPLETE
    new = [after.searcher.suggest(f"tune-{n}") for n in range(3)]
    assert [suggestion["trial_id"] for suggestion in new[:2]] == ["t0002", "t0003"]
    assert new[2] == "FINISHED"


def test_the_study_is_told_how_each_trial_ended(tmp_path):
    driver = Driver(tmp_path, Preset(epochs=3, trials=3))
    completed, stopped, failed = (driver.searcher.suggest(str(n)) for n in range(3))
    driver.run(completed)
    driver.run(stopped, epochs=1, status="stopped")
    driver.run(failed, epochs=1, status="failed")

    told = driver.study(tmp_path).trials
    assert [trial.state.name for trial in told] == ["COMPLETE", "PRUNED", "FAIL"]
    best = max(metrics["val_accuracy"] for metrics in driver.state.trials["t0000"].history)
    assert told[0].value == pytest.approx(best)
    assert list(told[1].intermediate_values) == [1]


def test_a_trial_drawn_but_not_recorded_is_given_up_and_an_unheard_end_is_told(tmp_path):
    preset = Preset(epochs=1, trials=4)
    before = Driver(tmp_path, preset)
    before.searcher.suggest("tune-a")
    before.epoch("t0000", 1, 0.5)
    before.write(
        TrialFinished(time=0, trial_id="t0000", status="completed")
    )  # killed before the study was told
    before.searcher.suggest("tune-b")
    lost = [record for record in before.records if getattr(record, "trial_id", "") != "t0001"]

    after = Driver(tmp_path, preset, records=lost)

    assert [trial.state.name for trial in after.study(tmp_path).trials] == ["COMPLETE", "FAIL"]
    assert after.searcher.suggest("tune-c")["trial_id"] == "t0001"


def test_a_point_enqueued_but_not_drawn_is_not_handed_out_in_place_of_another(tmp_path):
    preset = Preset(epochs=1, sampler="grid")
    before = Driver(tmp_path, preset, GRID)
    first = before.searcher.suggest("tune-a")
    before.searcher._study.enqueue_trial(
        {**first["params"], "root_index": 5}
    )  # killed before it was asked for

    after = Driver(tmp_path, preset, GRID, records=before.records)
    after.run(after.searcher.suggest("tune-b"))
    second = after.searcher.suggest("tune-c")

    assert (second["params"]["root_index"], second["params"]["optimizer"]) == (1, "sgd")
    told = [trial.state.name for trial in after.study(tmp_path).trials]
    assert told == ["COMPLETE", "FAIL", "RUNNING"]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_that_was_lost_is_made_again_from_the_journal(tmp_path, sampler):
    preset = Preset(epochs=2, trials=14, sampler=sampler)
    reference = {
        "model": "cnn",
        "loss": "root_softmax",
        "root_index": 3,
        "optimizer": "adam",
        "learning_rate": 0.3,
    }

    def draw(folder, restarts):
        folder.mkdir()
        driver = Driver(folder, preset, references=(reference,))
        for index in range(preset.trials + 1):
            if index in restarts:
                (folder / "optuna.db").unlink()
                driver = Driver(folder, preset, records=driver.records, references=(reference,))
            driver.run(driver.searcher.suggest(f"tune-{index}"))
        study = driver.study(folder).trials
        return [(trial.number, trial.state, trial.params, trial.values) for trial in study]

    assert draw(tmp_path / "whole", set()) == draw(tmp_path / "lost", {1, 12})


@pytest.mark.parametrize(
    "preset",
    [
        {"epochs": 0, "trials": 1},
        {"epochs": 1, "trials": 0},
        {"epochs": 1},
        {"epochs": 1, "trials": 3, "seeds": 2},
        {"epochs": 1, "trials": 3, "reduction_factor": 1},
    ],
)
def test_a_preset_that_contradicts_itself_is_refused(preset):
    with pytest.raises(InvalidConfig):
        Preset(**preset)


def test_trials_may_cut_a_grid_short():
    search = Search(
        name="toy", task="toy", title="", space=GRID, presets={}, references=({"model": "likelihood"},)
    )
    assert total_trials(search, Preset(epochs=1, sampler="grid", seeds=3), GRID) == 1 + 18
    assert total_trials(search, Preset(epochs=1, sampler="grid", seeds=3, trials=4), GRID) == 1 + 4
    assert total_trials(search, Preset(epochs=1, trials=4), SPACE) == 1 + 4


@pytest.mark.parametrize(("preset", "space"), [({"sampler": "grid"}, GRID), ({"trials": 6}, SPACE)])
def test_references_run_first_and_once(tmp_path, preset, space):
    references = ({"model": "likelihood", "bins": 10}, {"model": "logistic_regression"})
    driver = Driver(tmp_path, Preset(epochs=1, **preset), space, references=references)
    suggestions = [driver.searcher.suggest(str(n)) for n in range(9)]

    assert [one["params"] for one in suggestions[:2]] == list(references)
    drawn = [one["params"] for one in suggestions[2:8]]
    assert all(params["model"] == "cnn" for params in drawn)
    if space is GRID:
        assert sorted(map(str, drawn)) == sorted(map(str, GRID.grid()))
    assert suggestions[8] == "FINISHED"
    again = Driver(tmp_path, Preset(epochs=1, **preset), space, records=driver.records, references=references)
    assert again.searcher.suggest("x")["params"] == references[0]
