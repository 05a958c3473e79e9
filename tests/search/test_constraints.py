"""Limits of models: what breaks one is not trained, whatever draws, and a resumed search draws as it would have."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from hep_ray.confirm.finalists import configurations
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CannotResume, InvalidConfig, InvalidSpace
from hep_ray.search import constraints
from hep_ray.search.constraints import ModelLimits, check_limits, limits_of, resumed_limits, words_of
from hep_ray.search.curves_limits import WithinLimits
from hep_ray.search.curves_space import Encoding
from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import Draws
from hep_ray.search.leaderboard import leaderboard
from hep_ray.search.parameters import Choice, Integer, LogUniform, Uniform
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, pareto_front
from hep_ray.tracking.records import (
    EpochFinished,
    ModelTimed,
    Record,
    SearchStarted,
    TrialFinished,
    TrialStarted,
)
from tests.facts import raises
from tests.search.simulated import Simulated

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="features", shape=(3,)),),
    classes=("background", "signal"),
    signal="signal",
)
SPACE = Space(
    model="mlp",
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=LogUniform(1e-4, 1e-1),
    hidden_layers=Integer(1, 4),
    hidden_features=Integer(8, 256, log=True),
)
LIMITS = {"parameters": 5000.0}


def weights(params: dict[str, Any]) -> int:
    """Parameters of the network, counted by hand: three inputs, two outputs, a bias for each unit."""
    width, layers = params["hidden_features"], params["hidden_layers"]
    return (3 * width + width) + (layers - 1) * (width * width + width) + (2 * width + 2)


def larger_is_better(params: dict[str, Any], epoch: int) -> float:
    """Value that rises with the size of the network, so that all that is good lies beyond the limit."""
    rate = math.log10(params["learning_rate"])
    return (0.1 * math.log(weights(params)) - 0.02 * (rate + 2) ** 2) * (1 - math.exp(-epoch / 3))


def started(**given: Any) -> SearchStarted:
    stated: dict[str, Any] = {
        "search": "toy", "search_id": "a", "dataset_fingerprint": "f", "task": "toy", "metric": "val_auc",
        "mode": "max", "epochs": 1,
        "sampler": "random", "scheduler": "none", "seed": 5, "provenance": {}, "options": {},
    }  # fmt: skip
    return SearchStarted(time=0, **{**stated, **given})


def test_figures_are_those_of_the_network_and_of_one_event() -> None:
    params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    params |= {"hidden_layers": 2, "hidden_features": 16}
    limits = ModelLimits({"parameters": 100, "flops": 1e6}, SCHEMA)
    plain = 3 * 16 + 16 * 16 + 16 * 2
    figures = limits.figures(params)
    assert figures == {"parameters": weights(params), "flops": 2 * plain}
    assert limits.margin(params) == pytest.approx(math.log(weights(params) / 100))
    assert limits.margin({"model": "gradient_boosting"}) == -math.inf  # has its figures after the fit


def test_limits_are_read_as_they_are_typed_and_said_so() -> None:
    assert limits_of([" parameters <= 1e5", "latency_ms<=0.25", "parameters<=100000"]) == {
        "latency_ms": 0.25,
        "parameters": 1e5,
    }
    assert (
        words_of(limits_of(["parameters<=1e5", "latency_ms<=0.25"])) == "latency_ms<=0.25, parameters<=100000"
    )


@pytest.mark.parametrize(
    "text",
    ["params<=1e5", "parameters<1e5", "parameters>=5", "flops<=many", "flops<=nan", "flops<=-1", "", "flops"],
)
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with raises(InvalidConfig, f"'{text}'", "parameters<=1e5", "latency_ms", "flops"):
        limits_of([text])


def test_constraints_of_script_and_flags_are_joined_unless_they_contradict_each_other() -> None:
    search = Search(
        name="toy", task="toy", title="", space=SPACE, presets={}, constraints=("parameters<=1e5",)
    )
    both = dataclasses.replace(search, constraints=(*search.constraints, "flops<=1e6", "parameters<=100000"))
    assert both.limits == {"flops": 1e6, "parameters": 1e5}
    with raises(InvalidConfig, "parameters", "100000", "5", "--constraint"):
        dataclasses.replace(search, constraints=(*search.constraints, "parameters<=5"))
    with raises(InvalidConfig, "constraints of a Search", "parameters<=1e5"):
        Search(name="toy", task="toy", title="", space=SPACE, presets={}, constraints=(5,))  # type: ignore[arg-type]


def test_a_resumed_search_keeps_its_constraints() -> None:
    begun = started(constraints={"parameters": 1e5})
    assert resumed_limits((), begun) == ["parameters<=100000"]
    assert resumed_limits(("parameters<=1e5",), begun) == ["parameters<=100000"]
    with raises(CannotResume, "parameters<=100000", "parameters<=5"):
        resumed_limits(("parameters<=5",), begun)
    with raises(CannotResume, "flops<=5", "without a limit"):
        resumed_limits(("flops<=5",), started())


@pytest.mark.parametrize(
    ("sampler", "scheduler", "trials"),
    [
        ("curves", "curves", 12),
        ("tpe", "asha", 20),
        ("random", "asha_pausing", 12),
        ("gp", "none", 6),
        ("qmc", "median", 12),
        ("nsga2", "none", 30),
    ],
)
def test_nothing_that_breaks_a_limit_is_trained_and_a_resume_is_exact(
    sampler: str, scheduler: str, trials: int
) -> None:
    made = Preset(epochs=9, trials=trials, sampler=sampler, scheduler=scheduler)
    limits = ModelLimits(LIMITS, SCHEMA)
    whole = Simulated(made, SPACE, limits=limits, value=larger_is_better)
    expected = whole.run()
    trained = [trial.started for trial in whole.state.trials.values()]
    assert len(trained) >= trials
    assert all(weights(one.params) <= 5000 for one in trained)
    assert all(one.figures == {"parameters": weights(one.params)} for one in trained)
    records = whole.state.records
    again = ModelLimits(LIMITS, SCHEMA)
    for cut in (len(records) // 3, 2 * len(records) // 3):
        assert Simulated(made, SPACE, records[:cut], limits=again, value=larger_is_better).run() == expected


@pytest.mark.slow
@pytest.mark.ci
def test_learning_curves_find_the_best_that_keeps_the_limit() -> None:
    """The best of 20,000 configurations at random that keep it, but for a little; a third of the space keeps it."""
    made = Preset(epochs=9, trials=20, sampler="curves")
    run = Simulated(made, SPACE, limits=ModelLimits(LIMITS, SCHEMA), value=larger_is_better)
    run.run()
    sizes = [weights(trial.started.params) for trial in run.state.trials.values()]
    assert max(sizes) > 4500
    best = max(epoch["val_accuracy"] for trial in run.state.trials.values() for epoch in trial.history)
    assert best > 0.995 * 0.1 * math.log(5000) * (1 - math.exp(-3))


def test_a_small_space_is_searched_within_its_limits_alone() -> None:
    space = SPACE.replace(
        learning_rate=1e-3, hidden_layers=Choice(1, 2, 3), hidden_features=Choice(8, 16, 32, 64, 128)
    )
    made = Preset(epochs=9, trials=30, sampler="curves")
    run = Simulated(made, space, limits=ModelLimits(LIMITS, SCHEMA), value=larger_is_better)
    run.run()
    trained = {
        (one.started.params["hidden_layers"], one.started.params["hidden_features"])
        for one in run.state.drawn()
    }
    every = [(layers, width) for layers in (1, 2, 3) for width in (8, 16, 32, 64, 128)]
    keep = {
        (layers, width)
        for layers, width in every
        if weights({"hidden_layers": layers, "hidden_features": width}) <= 5000
    }
    assert trained == keep
    assert len(keep) == 12


def test_hardly_a_configuration_that_keeps_a_limit_is_refused_unseen_in_many_dimensions() -> None:
    space = SPACE.replace(
        clip_norm=Uniform(0, 1),
        patience=Integer(0, 9),
        swa_start=Uniform(0, 1),
        batch_size=Integer(10, 500),
        flat_bins=Integer(2, 40),
        decorrelation_warmup=Uniform(0, 0.9),
        activation=Choice("relu", "tanh", "selu"),
        momentum=Uniform(0, 1),
    )
    encoding = Encoding(space)
    assert encoding.columns == 13
    limits = WithinLimits(lambda params: math.log(weights(params) / 300), encoding)
    genes = np.random.default_rng(5).random((2000, encoding.genes))
    margins = np.array([limits.of(row) for row in genes])
    keeping = genes[np.argsort(-margins)][np.sort(-margins) >= 0]
    likely = {row.tobytes() for row in limits.likely(genes)}
    refused = [row.tobytes() not in likely for row in keeping]
    assert len(keeping) > 300
    assert sum(refused) < 0.02 * len(keeping)
    assert sum(refused[:50]) < 5
    assert len(likely) < 0.5 * len(genes)  # and what is far beyond is not built
    (may, looks), (others, more) = limits.parts(genes)
    assert {row.tobytes() for row in may} == likely
    assert len(others) == pytest.approx((len(genes) - len(may)) / 4, abs=1)
    assert (looks, more) == (40, 10)


@pytest.mark.parametrize("width", [128, 512])
def test_a_small_space_is_searched_whatever_references_break(width: int) -> None:
    space = SPACE.replace(learning_rate=1e-3, hidden_layers=Choice(1, 2), hidden_features=Choice(32, width))
    limits = ModelLimits({"parameters": 300.0}, SCHEMA)
    reference = {**space.samples()[0], "hidden_layers": 2, "hidden_features": width}
    made = Preset(epochs=9, trials=4, sampler="curves")
    run = Simulated(made, space, limits=limits, value=larger_is_better, references=(reference,))
    run.run()
    drawn = [trial.started.params for trial in run.state.drawn()[1:]]
    assert [(one["hidden_layers"], one["hidden_features"]) for one in drawn] == [(1, 32)]


def test_draws_that_break_a_limit_do_not_use_up_those_of_repeats() -> None:
    """An eighth of 64 configurations keeps the limit: six trials are six of them."""
    widths = (8, 12, 64, 80, 96, 112, 128, 160)
    space = SPACE.replace(
        learning_rate=Choice(1e-3, 1e-2), hidden_layers=Choice(1, 2, 3, 4), hidden_features=Choice(*widths)
    )
    made = Preset(epochs=2, trials=6, sampler="random", scheduler="none")
    for seed in range(4):
        limits = ModelLimits({"parameters": 200.0}, SCHEMA)
        run = Simulated(made, space, seed=seed, limits=limits, value=larger_is_better)
        run.run()
        drawn = [trial.started.params for trial in run.state.drawn()]
        assert max(weights(params) for params in drawn) <= 200
        assert len({str(params) for params in drawn}) == 6


@pytest.mark.parametrize(("sampler", "scheduler"), [("gp", "none"), ("tpe", "asha_pausing")])
def test_a_fitted_model_that_breaks_a_limit_has_the_worst_value_for_what_draws(
    sampler: str, scheduler: str
) -> None:
    space = Space(model="gradient_boosting", leaves=Integer(2, 200), trees=Integer(10, 500))
    search = Search(name="toy", task="toy", title="", space=space, presets={})
    made = Preset(epochs=3, trials=8, sampler=sampler, scheduler=scheduler).resolved(search)
    draws, state = Draws(search, made, space, 0, ModelLimits({"parameters": 5000.0}, SCHEMA)), SearchState()
    known: list[bool] = []
    for place, size in enumerate((100.0, 100.0, 1e6, 1e6, 100.0)):
        drawn, name = draws.next(state), f"t{place:04d}"
        metrics = {"epoch": 1, "val_accuracy": 0.5 + place / 10, "parameters": size, "epoch_seconds": 1.0}
        for record in (
            TrialStarted(time=0, trial_id=name, number=place, params=drawn.params, seed=0),
            EpochFinished(time=0, trial_id=name, metrics=metrics),
            TrialFinished(time=0, trial_id=name, status="completed"),
        ):
            state.apply(record)
        draws.end(state.trials[name])
        known.append(draws._knows_enough(state))
    study = draws._at_equal_epochs(state)
    assert [trial.value for trial in study.get_trials()] == pytest.approx([0.5, 0.6, 0.5, 0.5, 0.9])
    assert known == [False] * 4 + [True]  # three have to keep the limit


def test_what_is_timed_is_recorded_and_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    written: list[ModelTimed] = []
    limits = ModelLimits({"latency_ms": 1e6}, SCHEMA, write=written.append)
    milliseconds = limits.figures(params)["latency_ms"]
    assert 0 < milliseconds < 1e6
    assert limits.figures({**params, "learning_rate": 1e-2}) == {
        "latency_ms": milliseconds
    }  # the same network
    assert [one.milliseconds for one in written] == [milliseconds]
    monkeypatch.setattr(constraints, "latency", lambda *_: 1 / 0)
    assert ModelLimits({"latency_ms": 1e6}, SCHEMA, written).figures(params) == {"latency_ms": milliseconds}


def test_a_reference_that_breaks_a_limit_is_trained_and_ranks_behind() -> None:
    records: list[Record] = [started(constraints={"parameters": 100.0}, second_objective="epoch_seconds")]
    for name, size, value in (("large", 500.0, 0.9), ("small", 90.0, 0.7), ("other", 80.0, 0.8)):
        records += [
            TrialStarted(
                time=0, trial_id=name, number=len(records), params={"model": "mlp", "width": size}, seed=0
            ),
            EpochFinished(
                time=0,
                trial_id=name,
                metrics={"epoch": 1, "val_auc": value, "parameters": size, "epoch_seconds": 1.0},
            ),
            TrialFinished(time=0, trial_id=name, status="completed"),
        ]
    records += [
        TrialStarted(time=0, trial_id="failed", number=99, params={"model": "mlp"}, seed=0),
        TrialFinished(time=0, trial_id="failed", status="failed", cause="NaN"),
    ]
    state = SearchState.fold(records)
    assert [trial.trial_id for trial in state.ranked("val_auc", "max")] == [
        "other",
        "small",
        "large",
        "failed",
    ]
    assert pareto_front(state) == {"other"}
    assert [one.name for one in configurations(state)] == ["other", "small", "large"]
    told = {one["trial_id"]: one["breaks_constraint"] for one in leaderboard(state, {})["trials"]}
    assert told == {"other": False, "small": False, "large": True, "failed": False}


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_reference_that_breaks_a_limit_stops_no_trial_that_may_win(scheduler: str) -> None:
    """Six large references are far ahead: a drawn trial beats no rung that they are part of."""
    made = Preset(epochs=9, trials=9, sampler="random", scheduler=scheduler, grace_epochs=1)
    large = [{**SPACE.samples()[0], "hidden_layers": 4, "hidden_features": size} for size in range(250, 256)]
    limits = ModelLimits(LIMITS, SCHEMA)
    run = Simulated(made, SPACE, limits=limits, value=larger_is_better, references=tuple(large))
    told = run.run()
    lengths = [len(trial.history) for trial in run.state.drawn()]
    assert lengths[:6] == [9] * 6
    drawn = lengths[6:]
    assert max(drawn) == 9
    assert min(drawn) < 9
    again = Simulated(
        made,
        SPACE,
        run.state.records[: len(told) // 2],
        limits=limits,
        value=larger_is_better,
        references=tuple(large),
    )
    assert again.run() == told


def test_a_fitted_model_that_turns_out_too_large_is_no_aim() -> None:
    """Every reference is large and best; a search that aimed at its value would have nothing to improve on."""
    reference = {**SPACE.samples()[0], "hidden_layers": 4, "hidden_features": 256, "learning_rate": 0.01}
    made = Preset(epochs=9, trials=6, sampler="curves")
    limits = ModelLimits(LIMITS, SCHEMA)
    run = Simulated(made, SPACE, references=(reference,), limits=limits, value=larger_is_better)
    run.run()
    assert len(run.state.trials["t0000"].history) == 9
    assert sum(len(trial.history) for trial in run.state.drawn()) == 7 * 9
    reasons = [trial.started.reason for trial in run.state.drawn()] + [
        record.reason for record in run.state.records if record.kind == "trial_goes_on"
    ]
    aims = {float(reason.split()[-1]) for reason in reasons if "to beat" in reason}
    assert aims
    assert max(aims) < larger_is_better(reference, 9) - 0.1


def test_a_reference_that_breaks_a_limit_does_not_teach_that_its_other_parameters_fail() -> None:
    """The best learning rate and momentum, in a network that is too large: they are expected to be good still."""
    space = SPACE.replace(optimizer="sgd", momentum=Uniform(0.0, 0.99), hidden_layers=2, hidden_features=16)
    reference = {**space.samples()[0], "hidden_features": 512, "learning_rate": 1e-2, "momentum": 0.6}
    made, limits = Preset(epochs=9, trials=8, sampler="curves"), ModelLimits({"parameters": 1000.0}, SCHEMA)
    run = Simulated(made, space, limits=limits, references=(reference,))
    run.run()
    curves = run.searcher._curves
    ending = curves.prediction(0)
    assert ending is not None
    assert ending.mean > 0.7  # 0.85 it would be


def test_constraints_that_cannot_be_kept_are_refused_before_any_trial() -> None:
    with raises(InvalidSpace, "parameters<=20", "nearest", "allow more"):
        check_limits({"parameters": 20.0}, SCHEMA, SPACE, "tpe")
    with raises(InvalidConfig, "grid", "parameters<=5000", "random"):
        check_limits(LIMITS, SCHEMA, SPACE, "grid")
    with raises(InvalidConfig, "latency_ms", "gradient_boosting", "flops"):
        check_limits({"latency_ms": 1.0}, SCHEMA, SPACE, "tpe", ["gradient_boosting"])
    share = check_limits(LIMITS, SCHEMA, SPACE, "curves")
    assert share.drawn == 100
    assert 30 < share.keeping < 80
    assert str(share) == f"{share.keeping} of 100 configurations at random keep it"
    auto = Preset(epochs=3, trials=99, sampler="auto", scheduler="none")
    space = SPACE.replace(learning_rate=1e-3, hidden_layers=1, hidden_features=Choice(8, 16))
    search = Search(name="toy", task="toy", title="", space=space, presets={}, constraints="flops<=1e5")  # type: ignore[arg-type]
    assert auto.resolved(search).sampler == "tpe"
