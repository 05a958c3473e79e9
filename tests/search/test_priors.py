"""Where a user expects the best: it is begun there, a good expectation saves epochs, and a wrong one is unlearnt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hep_ray import Choice, Integer, LogUniform, Preset, Search, Space, Uniform
from hep_ray.errors import InvalidSpace
from hep_ray.search.curves import CurveSearcher
from hep_ray.search.curves_prior import PriorGuess
from hep_ray.search.curves_space import Encoding
from hep_ray.search.curves_trials import Step
from hep_ray.search.preflight import check_sampler
from tests.facts import raises
from tests.search.simulated import play

EPOCHS = 27


def space(rate: float | None = None, decay: float | None = None, units: int | None = None) -> Space:
    return Space(
        model="mlp",
        learning_rate=LogUniform(1e-4, 1e-1, prior=rate),
        weight_decay=Uniform(0, 1, prior=decay),
        batch_size=Integer(16, 512, log=True, prior=units),
        dropout=Uniform(0, 0.5),
    )


def value(params: dict[str, Any], epoch: int) -> float:
    """Best at a learning rate of 0.003, a decay of 0.2 and batches of 64, with 0.9."""
    away = 1.5 * (math.log10(params["learning_rate"] / 0.003)) ** 2 + 3 * (params["weight_decay"] - 0.2) ** 2
    away += 2 * (math.log10(params["batch_size"] / 64)) ** 2 + 8 * (params["dropout"] - 0.1) ** 2
    return 0.9 - 0.3 * math.tanh(away / 3) - 0.3 * math.exp(-epoch / 4)


RIGHT, WRONG = space(0.002, 0.25, 80), space(1e-4, 0.95, 512)


def search(where: Space, seed: int, epochs: int) -> tuple[CurveSearcher, list[float], list[Step]]:
    searcher = CurveSearcher(where, EPOCHS, seed=seed)
    return searcher, *play(searcher, value, epochs)


def until(best: list[float], goal: float) -> int:
    return next((epoch for epoch, one in enumerate(best, start=1) if one >= goal), len(best) + 1)


def test_it_begins_with_the_stated_values_and_says_so() -> None:
    steps = search(RIGHT, 0, 10)[2]
    first = steps[0].params
    assert first["learning_rate"] == pytest.approx(0.002)
    assert (first["weight_decay"], first["batch_size"]) == (pytest.approx(0.25), 80)
    assert first["dropout"] == pytest.approx(0.25)  # the middle of what has no prior
    assert "where the best is expected" in steps[0].why


def test_a_good_expectation_saves_epochs() -> None:
    told = [until(search(RIGHT, seed, 80)[1], 0.85) for seed in range(3)]
    alone = [until(search(space(), seed, 160)[1], 0.85) for seed in range(3)]
    assert np.median(told) <= np.median(alone) / 2


def test_a_wrong_one_is_unlearnt() -> None:
    """At the other end of every range: the model asks it no longer, and the best is found all the same."""
    misled = [search(WRONG, seed, 8 * EPOCHS) for seed in range(3)]
    assert min(best[-1] for _, best, _ in misled) > 0.87
    guess = PriorGuess(WRONG.priors(), Encoding(WRONG))
    for searcher, _, _ in misled:
        codes, times, values, _ = searcher._data()
        assert np.ptp(guess.about(codes, times, values)(codes, times)) < 0.2 * np.ptp(guess(codes))


def test_a_journal_restores_a_search_with_priors() -> None:
    searcher, _, steps = search(RIGHT, 4, 90)
    again = CurveSearcher(Space.from_json(json.loads(json.dumps(RIGHT.to_json()))), EPOCHS, seed=4)
    for step in steps:
        again.took(step)
        for epoch in range(step.start + 1, step.until + 1):
            again.report(step.trial, epoch, value(step.params, epoch))
    assert [again.next() for _ in range(3)] == [searcher.next() for _ in range(3)]


def test_a_space_keeps_its_priors_and_tells_a_change_of_them() -> None:
    assert RIGHT.priors() == {"learning_rate": 0.002, "weight_decay": 0.25, "batch_size": 80}
    recorded = {name: one.recorded() for name, one in RIGHT.parameters.items()}
    assert RIGHT.changes_since(recorded) == []
    assert str(recorded["learning_rate"]) == "0.0001 … 0.1 (log), best expected at 0.002"
    (change,) = RIGHT.replace(learning_rate=LogUniform(1e-4, 1e-1)).changes_since(recorded)
    assert (
        change == "learning_rate was 0.0001 … 0.1 (log), best expected at 0.002 and is now 0.0001 … 0.1 (log)"
    )
    stepped = Space(model="mlp", dropout=Uniform(0, 0.5, 0.1, prior=0.2).when(model="mlp"))
    assert Space.from_json(stepped.to_json()).parameters["dropout"] == stepped.parameters["dropout"]


@pytest.mark.parametrize("prior", [0.2, 1e-5, math.nan, True, "0.001"])
def test_a_prior_that_the_range_does_not_have_is_refused(prior: Any) -> None:
    with raises(InvalidSpace, "prior of a range", f"prior={prior!r}", "0.0001", "0.1"):
        LogUniform(1e-4, 1e-1, prior=prior)


def test_a_sampler_that_does_not_read_it_refuses_it() -> None:
    made = Search("mine", "mine", "Mine.", RIGHT, {"full": Preset(epochs=9, trials=8)}, "val_auc")
    check_sampler(Preset(epochs=9, trials=8, sampler="curves"), made)
    for sampler in ("tpe", "random"):
        with raises(InvalidSpace, "prior of 'learning_rate'", sampler, "curves"):
            check_sampler(Preset(epochs=9, trials=8, sampler=sampler), made)


MOMENTUM = Uniform(0.8, 0.99, prior=0.98)
RATE = LogUniform(1e-4, 1e-1, prior=1e-3)


@pytest.mark.parametrize("optimizers", [("sgd", "adam"), ("adam", "sgd"), ("adam", "rmsprop", "sgd")])
def test_the_prior_of_a_parameter_that_may_not_exist_says_nothing_where_it_does_not(
    optimizers: tuple[str, ...],
) -> None:
    where = Space(
        model="mlp",
        optimizer=Choice(*optimizers),
        momentum=MOMENTUM.when(optimizer="sgd"),
    )
    encoding = Encoding(where)
    guess = PriorGuess(where.priors(), encoding)

    def of(**params: Any) -> float:
        return float(guess(encoding.codes(encoding.of(params)[None]))[0])

    at, off, middle = (of(optimizer="sgd", momentum=momentum) for momentum in (0.98, 0.81, 0.895))
    assert at == pytest.approx(2.0)
    assert off < middle < of(optimizer="adam", momentum=0.98) == of(optimizer="adam") < at
    assert encoding.params(guess.first[0]) == {
        "model": "mlp",
        "optimizer": "sgd",
        "momentum": pytest.approx(0.98),
    }


@pytest.mark.parametrize("models", [("mlp", "gradient_boosting"), ("gradient_boosting", "mlp")])
def test_a_search_begins_with_a_network_where_its_learning_rate_has_a_prior(models: tuple[str, ...]) -> None:
    where = Space(model=Choice(*models), learning_rate=RATE)
    encoding = Encoding(where)
    guess = PriorGuess(where.priors(), encoding)
    first = encoding.params(guess.first[0])
    assert (first["model"], first["learning_rate"]) == ("mlp", pytest.approx(1e-3))
    assert guess(encoding.codes(guess.first[:1]))[0] == pytest.approx(2.0)


def test_a_guess_is_highest_at_the_stated_values_whatever_the_others_are() -> None:
    encoding = Encoding(RIGHT)
    guess = PriorGuess(RIGHT.priors(), encoding)
    told = encoding.of({"learning_rate": 0.002, "weight_decay": 0.25, "batch_size": 80, "dropout": 0.4})
    there: Callable[[Any], Any] = lambda genes: guess(encoding.codes(genes))  # noqa: E731
    assert there(told[None])[0] == pytest.approx(2.0)
    assert there(guess.candidates).max() <= 2.0
    assert there(guess.candidates).mean() > there(np.random.default_rng(0).random((500, 4))).mean() + 0.4
