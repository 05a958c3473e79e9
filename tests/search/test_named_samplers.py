"""Samplers by name: what each can draw from, what `auto` takes, and what is refused before any trial."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from hep_ray.errors import HepRayError, InvalidConfig, InvalidSpace, MissingPackage
from hep_ray.search.definition import Preset, Search
from hep_ray.search.named_samplers import SobolSampler, at_fraction
from hep_ray.search.parameters import Choice, Integer, LogUniform, Uniform
from hep_ray.search.plan import SearchPlan
from hep_ray.search.preflight import check_sampler
from hep_ray.search.space import Space
from tests.facts import raises

RANGES = Space(
    model="cnn", optimizer="sgd", learning_rate=LogUniform(1e-4, 1e-1), momentum=Uniform(0.0, 0.99)
)
CONDITION = RANGES.replace(optimizer=Choice("adam", "sgd"), momentum=Uniform(0.0, 0.9).when(optimizer="sgd"))
CHOICE = RANGES.replace(batch_size=Choice(32, 64))
FINITE = Space(model="cnn", optimizer=Choice("adam", "sgd"), batch_size=Choice(32, 64))


def search(space: Space = RANGES, second: str | None = None) -> Search:
    return Search(name="toy", task="toy", title="", space=space, presets={}, second_objective=second)


@pytest.mark.parametrize(
    ("preset", "space", "second", "expected"),
    [
        ({"trials": 4}, FINITE, None, "grid"),
        ({"trials": 3}, FINITE, None, "tpe"),
        ({"trials": 20, "scheduler": "none"}, RANGES, None, "gp"),
        ({"trials": 20, "scheduler": "none"}, CONDITION, None, "tpe"),
        ({"trials": 201, "scheduler": "none"}, RANGES, None, "tpe"),
        ({"trials": 20, "scheduler": "asha"}, RANGES, None, "tpe"),
        ({"trials": 199, "scheduler": "none"}, RANGES, "flops", "tpe"),
        ({"trials": 200, "scheduler": "none"}, RANGES, "flops", "nsga2"),
        ({"trials": 200, "scheduler": "none"}, CONDITION, "flops", "tpe"),
    ],
)
def test_auto_chooses_by_space_and_budget_and_says_why(
    preset: dict[str, Any], space: Space, second: str | None, expected: str
) -> None:
    made = Preset(epochs=9, sampler="auto", **preset)
    resolved = made.resolved(search(space, second))
    assert resolved.sampler == expected
    assert resolved.why
    assert made.resolved(search(space, second), sampler="random").sampler == "random"  # as it was begun


def test_what_is_stated_is_taken_as_it_is() -> None:
    made = Preset(epochs=9, trials=4, sampler="random", scheduler="promoting").resolved(search(FINITE))
    assert (made.sampler, made.scheduler, made.why) == ("random", "asha_pausing", "")
    assert made.pauses


@pytest.mark.parametrize(
    ("sampler", "scheduler", "space", "second", "error", "facts"),
    [
        ("gp", "none", CONDITION, None, InvalidSpace, ["'gp'", "'momentum'", "'tpe'"]),
        ("nsga2", "none", CONDITION, None, InvalidSpace, ["'nsga2'", "'momentum'"]),
        ("nsga3", "asha_pausing", RANGES, None, InvalidConfig, ["'nsga3'", "'asha_pausing'", "'tpe'"]),
        (
            RandomSampler(seed=1),
            "asha_pausing",
            RANGES,
            None,
            InvalidConfig,
            ["RandomSampler", "'asha_pausing'"],
        ),
    ],
)
def test_a_sampler_that_cannot_draw_from_the_space_is_refused(
    sampler: Any, scheduler: str, space: Space, second: str | None, error: type[HepRayError], facts: list[str]
) -> None:
    with raises(error, *facts):
        check_sampler(Preset(epochs=9, trials=9, sampler=sampler, scheduler=scheduler), search(space, second))


def test_cma_es_asks_for_its_package_and_for_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Preset(epochs=9, trials=9, sampler="cmaes", scheduler="none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(MissingPackage, "'cmaes'", "pip install cmaes"):
        check_sampler(made, search())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_sampler(made, search())
    with raises(InvalidSpace, "'cmaes'", "'batch_size'"):
        check_sampler(made, search(CHOICE))
    with raises(InvalidSpace, "'cmaes'", "at least 2", "1"):
        check_sampler(made, search(RANGES.replace(momentum=0.9)))
    with raises(InvalidConfig, "'cmaes'", "toy"):
        check_sampler(made, search(second="flops"))


@pytest.mark.parametrize("sampler", ["gp", "tpe", "qmc", "random"])
def test_what_can_draw_from_choices_is_taken(sampler: str) -> None:
    check_sampler(Preset(epochs=9, trials=9, sampler=sampler), search(CHOICE))


@pytest.mark.parametrize("wrong", [3, RandomSampler, object()])
def test_an_object_that_is_no_sampler_and_no_scheduler_is_refused(wrong: Any) -> None:
    with raises(InvalidConfig, "sampler", "tpe"):
        Preset(epochs=1, trials=1, sampler=wrong if wrong is not object else 3)
    with raises(InvalidConfig, "scheduler", "asha"):
        Preset(epochs=1, trials=1, scheduler=wrong)


def test_a_factory_that_makes_no_sampler_is_refused() -> None:
    from tests.search.simulated import Simulated

    with raises(InvalidConfig, "sampler", "5"):
        Simulated(Preset(epochs=1, trials=1, sampler=lambda _: 5), RANGES)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (FloatDistribution(0.0, 4.0), [0.0, 1.0, 3.96]),
        (FloatDistribution(1.0, 10000.0, log=True), [1.0, 10.0, 10000**0.99]),
        (FloatDistribution(0.0, 0.75, step=0.25), [0.0, 0.25, 0.75]),
        (IntDistribution(1, 4), [1, 2, 4]),  # a quarter each
        (IntDistribution(0, 30, step=10), [0, 10, 30]),
        (IntDistribution(1, 1000, log=True), [1, 3, 927]),  # 0.5 · 2001^0.25 = 3.34; 0.5 · 2001^0.99 = 927.2
        (CategoricalDistribution(["a", "b", "c", "d"]), ["a", "b", "d"]),
    ],
)
def test_a_fraction_of_a_distribution(distribution: Any, expected: list[Any]) -> None:
    found = [at_fraction(distribution, fraction) for fraction in (0.0, 0.25, 0.99)]
    if isinstance(expected[2], float):
        assert found == pytest.approx(expected)
    else:
        assert [found[0], found[2]] == [expected[0], pytest.approx(expected[2], abs=1)] or found == expected


def test_sobol_points_fill_the_space_and_follow_from_seed_and_place() -> None:
    """Sixteen points of two dimensions: one in each half of a half of each, four in each quarter of a square."""

    def drawn(place: int, seed: int = 7) -> dict[str, Any]:
        study = optuna.create_study(sampler=SobolSampler(["learning_rate", "momentum"], seed, place))
        return RANGES.suggest(study.ask())

    points = np.array(
        [[(np.log10(p["learning_rate"]) + 4) / 3, p["momentum"] / 0.99] for p in map(drawn, range(16))]
    )
    for dimension in range(2):
        assert sorted(np.floor(16 * points[:, dimension]).astype(int)) == list(range(16))
    assert np.array_equal(np.histogram2d(*points.T, bins=2, range=[[0, 1], [0, 1]])[0], [[4, 4], [4, 4]])
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(3, seed=8)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "words"),
    [
        ("tpe", "none", ["sampler tpe after 3", "stopping none"]),
        ("qmc", "median", ["sampler qmc", "stopping median, grace 3"]),
        ("random", "asha_pausing", ["= 81 epochs", "pausing asha_pausing, grace 3, factor 3"]),
        (RandomSampler(seed=1), "hyperband", ["optuna.samplers._random.RandomSampler", "stopping hyperband"]),
    ],
)
def test_the_budget_says_what_draws_and_what_stops(sampler: Any, scheduler: str, words: list[str]) -> None:
    from types import SimpleNamespace

    made = Preset(epochs=9, trials=9, sampler=sampler, scheduler=scheduler)
    given = SimpleNamespace(seed=0, learn_from=None, until_no_gain=False, gain_per="epoch", time_budget=None)
    plan: Any = SimpleNamespace(preset=made, space=RANGES, search=search(), trials=9, given=given)
    text = SearchPlan.budget.fget(plan)  # type: ignore[attr-defined]
    assert all(word in text for word in words), text


def test_whole_numbers_on_a_logarithmic_scale_and_in_steps() -> None:
    space = Space(
        model="mlp",
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=0.001,
        hidden_features=Integer(16, 512, log=True),
        batch_size=Integer(32, 256, step=32),
        dropout=Uniform(0, 0.5, 0.1),
    )
    assert [str(space.parameters[name]) for name in ("hidden_features", "batch_size", "dropout")] == [
        "16 … 512, whole (log)",
        "32 … 256 in steps of 32",
        "0 … 0.5 in steps of 0.1",
    ]
    again = Space.from_json(space.to_json())
    assert again.parameters == space.parameters
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    drawn = [space.suggest(study.ask()) for _ in range(400)]
    assert {one["batch_size"] for one in drawn} == set(range(32, 257, 32))
    assert {round(10 * one["dropout"]) for one in drawn} == set(range(6))
    below = np.mean([one["hidden_features"] < 91 for one in drawn])
    assert 0.4 < below < 0.6  # √(16 · 512) = 90.5
    assert len(list(space.varied(["batch_size"]))) == 8


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: Integer(0, 8, log=True), ["low=0"]),
        (lambda: Integer(1, 8, log=True, step=2), ["step=2"]),
        (lambda: Integer(1, 8, step=2), ["low=1", "high=8", "step=2"]),
        (lambda: Integer(1, 9, step=0), ["step=0"]),
        (lambda: Integer(1.5, 8), ["1.5"]),  # type: ignore[arg-type]
        (lambda: Uniform(0, 1, 0.3), ["step=0.3"]),
    ],
)
def test_steps_that_do_not_fit_are_refused(make: Any, facts: list[str]) -> None:
    with raises(InvalidSpace, *facts):
        make()
