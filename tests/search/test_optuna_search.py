import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from hep_ray.errors import InvalidConfig, UnknownName
from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import n_startup_trials, total_trials, why_not_ahead
from hep_ray.search.find import load_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice, LogUniform
from hep_ray.search.plan import SearchPlan
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, TrialFinished
from tests.facts import raises

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

    def __init__(
        self, folder, preset, space=SPACE, seed=0, records=(), references=(), cost=None, database="optuna.db"
    ):
        self.records = list(records)
        self.state = SearchState.fold(self.records)
        search = Search(
            name="toy",
            task="toy",
            title="",
            space=space,
            presets={},
            points_to_evaluate=references,
            second_objective=cost,
        )
        self.epochs = preset.epochs
        self.searcher = OptunaSearcher(
            search, preset, space, seed, database and folder / database, self.state, self.write
        )

    def write(self, record):
        self.records.append(record)
        self.state.apply(record)

    def epoch(self, trial_id, epoch, value):
        metrics = {"epoch": epoch, "val_accuracy": value, "epoch_seconds": 0.1}
        self.write(EpochFinished(time=time.time(), trial_id=trial_id, metrics=metrics))

    def fail(self, suggestion, failure):
        self.write(
            TrialFinished(
                time=0, trial_id=suggestion["trial_id"], status="failed", cause="x", failure=failure
            )
        )
        self.searcher.record(self.records[-1])

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


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_what_is_drawn_ahead_is_what_is_drawn_one_by_one(tmp_path, sampler):
    space = GRID if sampler == "grid" else SPACE
    preset = Preset(epochs=2, trials=6, sampler=sampler, scheduler="none")
    one_by_one = Driver(tmp_path, preset, space, database=None)
    expected = []
    while (suggestion := one_by_one.searcher.suggest("")) != "FINISHED":
        expected.append(suggestion)
        one_by_one.run(suggestion)
    assert len(expected) == 6

    driver = Driver(tmp_path, preset, space, database=None)
    ahead = driver.searcher.ahead(4)
    assert [one.kind for one in driver.records] == ["trial_started"] * 4
    assert driver.searcher.bounded
    handed = [driver.searcher.suggest("") for _ in range(5)]
    assert handed.pop() == "FINISHED"
    assert not driver.searcher.has_work()
    driver.run(handed[2])
    # Another searcher, also one of a resumed search, goes on with those that have not ended and draws the rest.
    later = Driver(tmp_path, preset, space, records=driver.records, database=None)
    rest = later.searcher.ahead(100)
    drawn = [*ahead, *rest[3:]]
    assert [one.trial_id for one in rest] == ["t0000", "t0001", "t0003", "t0004", "t0005"]
    assert [(one.trial_id, one.params, one.seed) for one in drawn] == [
        (one["trial_id"], one["params"], one["seed"]) for one in expected
    ]


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        ({"sampler": "tpe"}, "sampler tpe"),
        ({"sampler": optuna.samplers.RandomSampler(seed=1)}, "RandomSampler"),
        ({"sampler": "random", "scheduler": "asha_pausing"}, "asha_pausing"),
        ({"sampler": "random", "trials": None}, "no number of trials"),
    ],
)
def test_what_depends_on_how_others_end_is_not_drawn_ahead(tmp_path, given, fact):
    preset = Preset(**{"epochs": 4, "trials": 6, **given})
    assert fact in why_not_ahead(preset)
    driver = Driver(tmp_path, preset, database=None)
    assert driver.searcher.ahead(4) == []
    assert not driver.searcher.bounded
    assert driver.searcher.suggest("")["trial_id"] == "t0000"


@pytest.mark.parametrize("succeeds", [False, True])
def test_a_search_that_only_time_ends_gives_up_where_the_first_ten_trials_failed(tmp_path, succeeds):
    driver = Driver(tmp_path, Preset(epochs=1), database=None)
    for index in range(10):
        assert driver.searcher.has_work()
        suggestion = driver.searcher.suggest("")
        if succeeds and index == 3:
            driver.run(suggestion)
        else:
            driver.fail(suggestion, "error")
    assert driver.searcher.has_work() is succeeds
    assert (driver.searcher.suggest("") != "FINISHED") is succeeds


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_killed_after_any_trial_draws_what_it_would_have_drawn(tmp_path, sampler):
    preset = Preset(epochs=2, trials=14, sampler=sampler)

    def draw(folder, restarts):
        folder.mkdir()
        driver = Driver(folder, preset)
        for index in range(preset.trials):
            if index in restarts:
                driver = Driver(folder, preset, records=driver.records)
            suggestion = driver.searcher.suggest(f"tune-{index}")
            if index in (1, 8):
                driver.fail(suggestion, "diverged" if index == 1 else "lost")
            else:
                driver.run(suggestion, epochs=1 + index % 2, status="completed" if index % 2 else "stopped")
        return [trial.started.params for trial in driver.state.trials.values()]

    assert draw(tmp_path / "whole", set()) == draw(tmp_path / "killed", {1, 5, 9, 12})


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
    before.searcher._stored._study.enqueue_trial(
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
        {"epochs": 1, "trials": 3, "seeds": 2},
        {"epochs": 1, "trials": 3, "reduction_factor": 1},
    ],
)
def test_a_preset_that_contradicts_itself_is_refused(preset):
    with pytest.raises(InvalidConfig):
        Preset(**preset)


def test_trials_may_cut_a_grid_short():
    search = Search(
        name="toy",
        task="toy",
        title="",
        space=GRID,
        presets={},
        points_to_evaluate=({"model": "likelihood"},),
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


def test_a_search_draws_with_references_what_it_draws_without(tmp_path):
    """A reference has no parameter of the space; TPE draws jointly over what all its trials have."""
    fitted = [{"model": "likelihood"}, {"model": "logistic_regression"}, {"model": "gradient_boosting"}]
    drawn = {}
    for number in (0, 1, 3):
        driver = Driver(
            tmp_path / "x", Preset(epochs=1, trials=16), references=tuple(fitted[:number]), database=None
        )
        for _ in range(number):
            name = driver.searcher.suggest("")["trial_id"]
            driver.epoch(name, 1, 2.0)
            driver.write(TrialFinished(time=0, trial_id=name, status="completed"))
            driver.searcher.record(driver.records[-1])
        for _ in range(16):
            driver.run(driver.searcher.suggest(""))
        drawn[number] = [trial.started.params for trial in driver.state.trials.values()][number:]
    assert drawn[0] == drawn[1] == drawn[3]


def test_a_trial_with_the_parameters_of_a_reference_is_made_again_as_what_it_was(tmp_path):
    """A grid draws the reference's configuration, and the database is lost: one trial with parameters, one without."""
    reference = GRID.grid()[0]
    preset = Preset(epochs=1, sampler="grid")
    driver = Driver(tmp_path, preset, GRID, references=(reference,))
    for number in range(2):
        driver.run(driver.searcher.suggest(str(number)))
    (tmp_path / "optuna.db").unlink()

    again = Driver(tmp_path, preset, GRID, records=driver.records, references=(reference,))
    assert [trial.params for trial in again.study(tmp_path).trials] == [{}, reference]


def learnt(driver):
    """State of each trial that draws, and whether it counts as worse than any value."""
    trials = driver.searcher._draws._study.trials
    return [(trial.state.name, bool(trial.constraints)) for trial in trials]


@pytest.mark.parametrize("cost", [None, "epoch_seconds"])
def test_a_failure_of_the_parameters_is_told_as_worse_than_any_value_and_a_loss_as_nothing(tmp_path, cost):
    kinds = ["diverged", "out_of_memory", "error", "timeout", "lost", None]  # None: in a journal of old
    driver = Driver(tmp_path, Preset(epochs=1, trials=20, scheduler="none"), cost=cost)
    suggestions = [driver.searcher.suggest("") for _ in range(7)]
    for suggestion, kind in zip(suggestions, kinds, strict=False):
        driver.fail(suggestion, kind)
    driver.run(suggestions[6])

    assert learnt(driver) == [("PRUNED", True)] * 4 + [("FAIL", False)] * 2 + [("COMPLETE", False)]
    assert [trial.state.name for trial in driver.study(tmp_path).trials] == ["FAIL"] * 6 + ["COMPLETE"]
    after = Driver(tmp_path, Preset(epochs=1, trials=20, scheduler="none"), records=driver.records, cost=cost)
    assert learnt(after) == learnt(driver)
    for _ in range(13):  # also while hardly anything but failures is known
        driver.run(driver.searcher.suggest(""))
    assert driver.searcher.suggest("") == "FINISHED"


def test_draws_keep_away_from_where_trials_fail(tmp_path):
    """Above a learning rate of 0.01 trials fail, a third of the space, and below it values rise towards it."""
    failed = 0
    for seed in range(6):
        driver = Driver(tmp_path, Preset(epochs=1, trials=40), seed=seed, database=None)
        for index in range(40):
            suggestion = driver.searcher.suggest("")
            fails = suggestion["params"]["learning_rate"] > 0.01
            failed += fails and index >= 20
            if fails:
                driver.fail(suggestion, "diverged")
            else:
                driver.run(suggestion)
    assert failed / (6 * 20) < 1 / 2  # 48 of 120; 117 where a failure is told as nothing


@pytest.mark.parametrize(
    ("space", "trials", "expected"),
    [
        (SPACE, 40, 4),  # root index, optimizer and learning rate, and one more
        (SPACE, 6, 3),  # half of them
        (SPACE, 2, 1),
        (GRID, 40, 3),  # of two parameters
        (Space(model="cnn", **{f"x{n}": LogUniform(1e-4, 1e-1) for n in range(20)}), 200, 10),
    ],
)
def test_tpe_starts_by_the_size_of_the_space(tmp_path, space, trials, expected):
    preset = Preset(epochs=1, trials=trials)
    assert n_startup_trials(preset, space) == expected

    driver = Driver(tmp_path, preset, space, database=None)
    names = []
    for _ in range(min(trials, expected + 1)):
        names.append(type(driver.searcher._draws._sampler_of(len(names), driver.state)).__name__)
        suggestion = driver.searcher.suggest("")
        suggestion["params"] |= {"learning_rate": 0.1, "root_index": 1}
        driver.run(suggestion)
    assert names == (["RandomSampler"] * expected + ["TPESampler"])[:trials]


@pytest.mark.parametrize(("epochs", "third"), [(9, "RandomSampler"), (3, "TPESampler")])
def test_where_trials_are_stopped_every_third_draw_is_random(tmp_path, epochs, third):
    """Of three epochs none is stopped, since the grace is three; references are no draws."""
    driver = Driver(
        tmp_path, Preset(epochs=epochs, trials=40), references=({"model": "likelihood"},), database=None
    )
    driver.fail(driver.searcher.suggest(""), "lost")
    for _ in range(12):
        driver.run(driver.searcher.suggest(""))
    names = [type(driver.searcher._draws._sampler_of(draw, driver.state)).__name__ for draw in range(12, 18)]
    assert names == ["TPESampler", "TPESampler", third] * 2


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        (
            {"epochs": 8, "trials": 12},
            "13 trials × 8 epochs; sampler tpe after 4 trials at random and one in 3, stopping asha, grace 3, factor 3",
        ),
        (
            {"epochs": 2, "trials": 6},
            (
                "7 trials × 2 epochs; sampler tpe after 3 trials at random, stopping asha, grace 2, factor 3, "
                "which stops none of so few epochs"
            ),
        ),
        (
            {"epochs": 8, "trials": 6, "sampler": "random", "scheduler": "none"},
            "7 trials × 8 epochs; sampler random, stopping none",
        ),
    ],
)
def test_a_dry_run_says_what_draws_and_what_stops(preset, told):
    made = Preset(**preset)
    search = Search(
        name="toy",
        task="toy",
        title="",
        space=SPACE,
        presets={},
        points_to_evaluate=({"model": "likelihood"},),
    )
    resources = SimpleNamespace(trials=total_trials(search, made, SPACE))
    plan = SearchPlan(
        experiment="toy",
        storage=Path(),
        folder=Path("toy"),
        tracking_uri="",
        dataset=None,
        resources=resources,
        epochs=made.epochs,
        metric=search.metric,
        mode=search.mode,
        search=search,
        preset=made,
        space=SPACE,
        given=SearchOptions(data=Path(), seed=7),
    )
    assert plan.budget == f"{told}; seed 7"


JOINTLY = {
    ("atlas_objects", "laptop"): [
        {
            "second_features",
            "second_image_dropout",
            "activation",
            "loss",
            "optimizer",
            "image_dropout",
            "dropout",
        }
        | {"learning_rate", "schedule", "batch_size"},
        {"decay_rate"},  # where the schedule is that of inverse time
    ],
    ("cnn_loss", "smoke"): [{"dropout", "root_index", "optimizer", "learning_rate"}],
    ("cnn_loss", "laptop"): [{"dropout", "root_index", "optimizer", "learning_rate"}],
    ("electron_id", "smoke"): [
        {
            "conv_layers",
            "conv_features",
            "dense_layers",
            "dense_features",
            "dropout",
            "conv_dropout",
            "track_form",
        }
        | {"kernel_size", "stride", "scalar_scaling", "sequence_scaling"}
        | {"class_weights", "optimizer", "weight_decay", "learning_rate"},
        {"momentum"},  # where the optimizer is SGD
    ],
    ("electron_id", "laptop"): [
        {
            "conv_layers",
            "conv_features",
            "dense_layers",
            "dense_features",
            "dropout",
            "conv_dropout",
            "track_form",
        }
        | {"kernel_size", "stride", "scalar_scaling", "sequence_scaling"}
        | {"class_weights", "optimizer", "weight_decay", "learning_rate"},
        {"momentum"},  # where the optimizer is SGD
    ],
    ("flat_minima", "laptop"): [
        {"optimizer", "learning_rate", "manifold_mixup"},
        {"swa_start"},  # where the optimizer is Adam
        {"inner_steps"},  # where it is Entropy-SGD
    ],
    ("jet_clouds", "tune"): [
        {"model", "weight_decay", "learning_rate", "batch_size"},
        {"embed_features", "particle_blocks"},  # where the model is the Particle Transformer
        {"latent_features"},  # PFN
        {"neighbours"},  # ParticleNet
    ],
    ("jet_decorrelation", "tune"): [{"learning_rate"}],
    ("jet_images", "laptop"): [{"dropout", "weight_decay", "learning_rate", "swa_start", "phi_flip"}],
    ("jet_images", "networks"): [
        {"model", "optimizer", "weight_decay", "learning_rate", "phi_flip", "eta_flip"}
    ],
    ("jet_images", "bcnn_search"): [
        {"input_transform", "optimizer", "weight_decay", "learning_rate", "schedule", "phi_flip", "eta_flip"}
        | {"batch_size"}
    ],
    ("outlook", "laptop"): [
        {"model", "root_index", "weight_decay", "learning_rate", "phi_rotation", "phi_flip", "eta_flip"},
        {"dropout"},
    ],
    ("particle_id", "smoke"): [
        {"scalar_scaling", "hidden_layers", "hidden_features", "dropout", "learning_rate", "batch_size"}
    ],
    ("particle_id", "laptop"): [
        {"scalar_scaling", "hidden_layers", "hidden_features", "dropout", "learning_rate", "batch_size"}
    ],
    ("resnet_loss", "smoke"): [{"root_index", "optimizer", "learning_rate"}],
    ("resnet_loss", "laptop"): [{"root_index", "optimizer", "learning_rate"}],
    ("six_hypotheses", "laptop"): [
        {"model", "label_smoothing", "optimizer", "weight_decay", "learning_rate", "phi_rotation"}
    ],
    ("susy", "smoke"): [
        {"scalar_scaling", "hidden_layers", "hidden_features", "activation", "dropout", "optimizer"}
        | {"weight_decay", "learning_rate"}
    ],
    ("susy", "laptop"): [
        {"scalar_scaling", "hidden_layers", "hidden_features", "dropout", "optimizer"}
        | {"weight_decay", "learning_rate"}
    ],
}
"""Search and preset that draw by TPE → the parameters that are drawn together; a condition parts them."""


def drawn_together(driver):
    """What TPE draws jointly, asked of Optuna's sampler."""
    draws = driver.searcher._draws
    study, sampler = draws._study, draws._sampler_of(len(draws._drawn_as), driver.state)
    drawn = sampler.infer_relative_search_space(study, study.trials[-1])
    groups = (set(group) & set(drawn) for group in sampler._search_space_group.search_spaces)
    return [group for group in groups if group]


def test_every_shipped_search_draws_its_parameters_jointly_beside_its_references(tmp_path):
    found = {}
    for script in (Path(__file__).parents[2] / "searches").glob("*.py"):
        search = load_search(str(script))
        for name, preset in search.presets.items():
            if preset.sampler != "tpe":
                continue
            longer, space = dataclasses.replace(preset, trials=40), preset.space or search.space
            driver = Driver(tmp_path, longer, space, references=search.points_to_evaluate, database=None)
            while len(driver.state.trials) < 30 + len(search.points_to_evaluate):
                trial = driver.searcher.suggest("")["trial_id"]
                driver.epoch(trial, 1, len(driver.state.trials) % 7)
                driver.write(TrialFinished(time=0, trial_id=trial, status="completed"))
                driver.searcher.record(driver.records[-1])
            found[script.stem, name] = sorted(drawn_together(driver), key=len, reverse=True)

    expected = {key: sorted(groups, key=len, reverse=True) for key, groups in JOINTLY.items()}
    assert {key: {frozenset(one) for one in groups} for key, groups in found.items()} == {
        key: {frozenset(one) for one in groups} for key, groups in expected.items()
    }


def test_a_fitted_model_among_the_choices_leaves_the_others_joint(tmp_path):
    space = Space(
        model=Choice("cnn", "likelihood"),
        loss="cross_entropy",
        optimizer=Choice("adam", "sgd"),
        learning_rate=LogUniform(1e-4, 1e-1),
        batch_size=Choice(32, 64, 128),
    )
    driver = Driver(tmp_path, Preset(epochs=1, trials=30), space, database=None)
    models = set()
    for _ in range(20):
        suggestion = driver.searcher.suggest("")
        models.add(suggestion["params"]["model"])
        suggestion["params"] |= {"learning_rate": 0.1, "root_index": 1}
        driver.run(suggestion)
    assert models == {"cnn", "likelihood"}
    groups = {frozenset(group) for group in drawn_together(driver)}
    assert groups == {frozenset({"model"}), frozenset({"optimizer", "learning_rate", "batch_size"})}


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (
            lambda: Preset(epochs=1, trials=1, sampler="cmeas"),
            ["'cmeas'", "'cmaes'", "tpe, gp, cmaes"],
        ),
        (
            lambda: Preset(epochs=1, trials=1, scheduler="medium"),
            ["'medium'", "'median'", "asha, asha_pausing"],
        ),
        (
            lambda: Preset(epochs=1, trials=1, scheduler=None),
            ["'None'", "hyperband, median, none"],
        ),
        (
            lambda: Search(name="toy", task="toy", title="", space=SPACE, presets={}, mode="maximum"),
            ["'maximum'", "'max'", "max, min"],
        ),
    ],
)
def test_a_name_that_there_is_not_is_refused_where_it_is_stated(make, facts):
    with raises(UnknownName, *facts):
        make()
