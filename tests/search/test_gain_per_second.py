"""Gain per second: where an epoch of one configuration takes a hundred times as long as another's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.errors import InvalidConfig
from hep_ray.search.curves import CurveSearcher
from hep_ray.search.curves_pace import Pace
from hep_ray.search.curves_space import Encoding
from hep_ray.search.curves_trials import CurveTable
from hep_ray.search.definition import Preset
from hep_ray.search.options import SearchOptions, recorded_options
from hep_ray.search.parameters import Choice, Integer, LogUniform, Uniform
from hep_ray.search.preflight import check_read
from hep_ray.search.space import Space
from hep_ray.tracking.records import SearchStarted
from tests.facts import raises
from tests.search.simulated import Simulated

EPOCHS = 27
SPACE = Space(
    model=Choice("mlp", "cnn"),
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=LogUniform(1e-4, 1e-1),
    weight_decay=Uniform(0, 1),
    hidden_features=Integer(8, 800, log=True).when(model="mlp"),
)


def seconds(params: dict[str, Any]) -> float:
    """Of an epoch: a hundredth for the narrowest network, 1 for the widest and for every CNN."""
    return float(params.get("hidden_features", 800)) / 800


def value(params: dict[str, Any], epoch: int) -> float:
    """Value that does not depend on what costs: the best are as good in every size."""
    away = (math.log10(params["learning_rate"]) + 2.3) ** 2 + params["weight_decay"] ** 2
    return 0.9 - 0.3 * math.tanh(away) - 0.4 * math.exp(-epoch / 4)


def wide_is_better(params: dict[str, Any], epoch: int) -> float:
    """Value that only the widest networks reach."""
    return value(params, epoch) + 0.1 * math.log10(seconds(params))


def regret_after(spend: float, made: Any, best: float, *, seed: int, per_second: bool) -> float:
    """One worker, which stops in the midst of an epoch when so many seconds are spent."""
    searcher = CurveSearcher(SPACE, EPOCHS, seed=seed, per_second=per_second)
    top, spent = -math.inf, 0.0
    while True:
        step = searcher.next()
        assert step is not None
        for epoch in range(step.start + 1, step.until + 1):
            spent += seconds(step.params)
            if spent > spend:
                return best - top
            shown = made(step.params, epoch)
            top = max(top, shown)
            searcher.report(step.trial, epoch, shown, seconds(step.params))


def test_where_cheap_configurations_are_as_good_the_gain_comes_sooner() -> None:
    """Of the regret that a search by gain per epoch has left after as many seconds, a third at most; four seeds."""
    best = value({"learning_rate": 10**-2.3, "weight_decay": 0.0}, EPOCHS)
    left = {
        per_second: [regret_after(30.0, value, best, seed=seed, per_second=per_second) for seed in range(4)]
        for per_second in (True, False)
    }
    assert np.median(left[True]) < np.median(left[False]) / 3


@pytest.mark.slow
@pytest.mark.ci
def test_what_takes_long_is_still_found_where_it_alone_is_best() -> None:
    """The widest networks, five times as good a value away as the narrowest, after a dozen of their full trainings."""
    best = value({"learning_rate": 10**-2.3, "weight_decay": 0.0}, EPOCHS)
    spend = 12.0 * EPOCHS
    left = [regret_after(spend, wide_is_better, best, seed=seed, per_second=True) for seed in range(2)]
    assert np.median(left) < 0.03


def test_seconds_of_configurations_are_learnt_from_those_that_were_trained() -> None:
    rng = np.random.default_rng(0)
    codes, asked = rng.random((40, 3)), rng.random((20, 3))
    pace = Pace(np.arange(3), np.ones(3, bool))
    assert pace.of(asked).tolist() == [1.0] * 20
    pace.learn(codes[:2], np.array([2.0, 8.0]))
    assert pace.of(asked) == pytest.approx(np.full(20, 4.0))  # of two, the mean of their logarithms
    pace.learn(codes, 0.01 * 100 ** codes[:, 1])
    assert pace.of(asked) == pytest.approx(0.01 * 100 ** asked[:, 1], rel=0.2)


@pytest.mark.parametrize("models", [("mlp", "gradient_boosting"), ("mlp", "cnn", "gradient_boosting")])
def test_a_fit_in_one_go_costs_its_seconds_once(models: tuple[str, ...]) -> None:
    space = SPACE.replace(model=Choice(*models), leaves=Integer(2, 200).when(model="gradient_boosting"))
    encoding = Encoding(space)
    genes = np.random.default_rng(0).random((50, encoding.genes))
    fitted = [encoding.params(row)["model"] == "gradient_boosting" for row in genes]
    assert encoding.fits(encoding.codes(genes)).tolist() == fitted
    assert not Encoding(SPACE).fits(genes[:, :1]).any()
    table = CurveTable(encoding.genes, encoding.columns, np.array([1, EPOCHS]))
    for number, model in enumerate(("gradient_boosting", "mlp", "mlp")):
        table.add({"model": model}, genes[0], encoding.codes(genes[:1])[0])
        for epoch in range(1, (1, 3, 1)[number] + 1):
            table.took(number, (30.0, 1.0, 2.0)[number])
            table.saw(number, epoch, 0.5)
    table.saw(0, EPOCHS, 0.5)
    table.train(2, 9)
    assert (table.costs * table.seconds).tolist() == [30.0, 3.0, 18.0]
    assert table.usual_seconds == 1.5


def test_the_journal_decides_what_a_gain_is_weighed_against_and_a_resume_is_exact() -> None:
    """Seconds are those of the records, so a machine that is slower when the search is resumed changes nothing."""
    made = Preset(epochs=9, trials=12, sampler="curves")
    space = SPACE.replace(model="mlp", momentum=Uniform(0.0, 0.99), optimizer="sgd", hidden_features=100)

    def begun(gain_per: Any) -> SearchStarted:
        return SearchStarted(
            time=0, search="toy", search_id="a", dataset_fingerprint="f", task="toy", metric="val_accuracy",
            mode="max", epochs=9, sampler="curves", scheduler="curves", seed=0, provenance={}, options={},
            gain_per=gain_per,
        )  # fmt: skip

    whole = Simulated(made, space, [begun("second")])
    expected = whole.run()
    records = whole.state.records
    for cut in (1, len(records) // 3, 2 * len(records) // 3):
        assert Simulated(made, space, records[:cut]).run() == expected
    assert Simulated(made, space, [begun("epoch")]).run()[1:] != expected[1:]
    of_old = begun("epoch").model_dump(exclude={"gain_per"})
    assert SearchStarted.model_validate(of_old).gain_per == "epoch"


def test_seconds_count_where_time_ends_the_search() -> None:
    curves, tpe = Preset(epochs=9, trials=4, sampler="curves"), Preset(epochs=9, trials=4)

    def options(**given: Any) -> SearchOptions:
        return SearchOptions(data=".", **given)  # type: ignore[arg-type]

    assert options().with_gain_per("curves").gain_per == "epoch"
    assert options(time_budget=60.0).with_gain_per("curves").gain_per == "second"
    assert options(time_budget=60.0).with_gain_per("tpe").gain_per is None
    assert options(time_budget=60.0, gain_per="epoch").with_gain_per("curves").gain_per == "epoch"
    check_read(curves, options(gain_per="second"))
    for typed in ("epoch", "second"):
        with raises(InvalidConfig, f"--gain-per {typed}", "'tpe'", "curves"):
            check_read(tpe, options(gain_per=typed).with_gain_per("tpe"))
    check_read(tpe, options().with_gain_per("tpe"))


def test_a_resumed_search_by_another_sampler_was_given_no_gain(tmp_path: Path) -> None:
    """The journal of each search names one, and only of those by curves it is an option."""
    for sampler, gain_per in (("curves", "epoch"), ("tpe", None)):
        started = SearchStarted(
            time=0, search="toy", search_id="a", dataset_fingerprint="f", task="toy", metric="val_accuracy",
            mode="max", epochs=9, sampler=sampler, scheduler="none", seed=0, provenance={}, options={},
        )  # fmt: skip
        assert recorded_options(tmp_path, started)["gain_per"] == gain_per
