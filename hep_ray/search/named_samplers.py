"""Samplers by name or object: which there are, what each can draw from, and what `auto` chooses.

A sampler is Optuna's. The k-th configuration is drawn by a new one that is seeded by (seed, k), so that a draw depends
on the seed, on k and on what the study holds. Those that keep state beside the trials of the study (generations, a
covariance) are brought back after a restart by drawing every trial again, in the order of the journal.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from hep_ray.errors import InvalidConfig
from hep_ray.search.space import Space

SamplerFactory = Callable[[int], BaseSampler]

POPULATION = 20
"""Trials of a generation of NSGA-II and NSGA-III; Optuna's 50 leave a search of a hundred trials two generations."""
MOST_FOR_GP = 200
"""Trials up to which `auto` draws by a Gaussian process, whose time for a draw grows with them."""
LARGEST_GRID = 10_000
"""Configurations that `auto` counts at most."""
LEAST_GENERATIONS = 10
"""Generations from which on `auto` leaves two objectives to NSGA-II."""


@dataclass(frozen=True)
class Named:
    """A sampler that a preset may name.

    Attributes:
        make: seed → sampler; None where the searcher itself draws (`grid`).
        conditions: whether it draws parameters that only some configurations have; else they would be random.
        choices: whether it draws values that have no order.
        objectives: how many it can serve.
        least: parameters that it needs to draw.
        package: that it needs, beside those of hep_ray.
        replays: whether a new sampler draws on as the old one would have from the trials alone.
    """

    make: SamplerFactory | None
    conditions: bool = True
    choices: bool = True
    objectives: int = 2
    least: int = 0
    package: str = ""
    replays: bool = True


def _of(make: Callable[..., BaseSampler], **given: Any) -> SamplerFactory:
    """Return a function seed → sampler; some are experimental to Optuna, whose versions are bounded here."""

    def made(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return make(seed=seed, **given)

    return made


NAMED: dict[str, Named] = {
    "tpe": Named(_of(TPESampler, n_startup_trials=0, multivariate=True, group=True, constant_liar=True)),
    "gp": Named(_of(GPSampler, n_startup_trials=1, warn_independent_sampling=False), conditions=False),
    "cmaes": Named(
        _of(CmaEsSampler, warn_independent_sampling=False),
        conditions=False,
        choices=False,
        objectives=1,
        least=2,
        package="cmaes",
        replays=False,
    ),
    "nsga2": Named(_of(NSGAIISampler, population_size=POPULATION), conditions=False, replays=False),
    "nsga3": Named(_of(NSGAIIISampler, population_size=POPULATION), conditions=False, replays=False),
    "qmc": Named(None),
    "random": Named(_of(RandomSampler)),
    "grid": Named(None),
}
"""Name in a preset → sampler, beside `auto`, and `curves`, which chooses the epochs too."""


class SobolSampler(BaseSampler):
    """The k-th point of a scrambled Sobol sequence (Owen, J. Complexity 14 (1998) 466), one dimension a parameter.

    Optuna's own keeps its place in a study and leaves parameters with a condition to chance; here the place is k, and a
    parameter that a configuration lacks leaves its coordinate unused.

    Args:
        names: of the parameters, in their order.
        seed: of the scrambling, the same for all draws of a search.
        place: k, from 0.
    """

    def __init__(self, names: list[str], seed: int, place: int) -> None:
        from scipy.stats import qmc  # which takes a second

        engine = qmc.Sobol(max(len(names), 1), scramble=True, rng=seed)
        if place:
            engine.fast_forward(place)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of balance, which numbers that are no powers of 2 lack
            self._point = dict(zip(names, engine.random(1)[0], strict=False))

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        """Return nothing: each parameter has a coordinate of its own."""
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,  # noqa: ARG002 - Optuna names it
        trial: FrozenTrial,  # noqa: ARG002
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value at the parameter's coordinate."""
        return at_fraction(param_distribution, self._point.get(param_name, 0.0))


def at_fraction(distribution: BaseDistribution, fraction: float) -> Any:
    """Return the value below which a fraction (0 to 1, without 1) of the draws from a distribution lies."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(fraction * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if isinstance(distribution, IntDistribution):
        half = 0.5 * (1 if distribution.log else distribution.step)
        low, high = low - half, high + half
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        steps = round((high - low) / distribution.step) + 1
        return min(low + int(fraction * steps) * distribution.step, high)
    if distribution.log:
        value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
    else:
        value = low + fraction * (high - low)
    if isinstance(distribution, FloatDistribution):
        return min(max(value, distribution.low), distribution.high)
    whole = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    return int(min(max(whole, distribution.low), distribution.high))


def name_of(sampler: str | BaseSampler | SamplerFactory) -> str:
    """Return what the journal calls a sampler: its name, or where the object's class, or the factory, is defined."""
    if isinstance(sampler, str):
        return sampler
    made = type(sampler) if isinstance(sampler, BaseSampler) else sampler
    return f"{made.__module__}.{getattr(made, '__qualname__', type(made).__qualname__)}"


def chosen(space: Space, trials: int | None, *, two_objectives: bool, in_full: bool) -> tuple[str, str]:
    """Return the sampler that `auto` takes, and why.

    A grid where the trials suffice for every configuration, or where their number is not stated and a grid is small;
    NSGA-II for two objectives and ten generations or more; a Gaussian process where every trial is trained in full, no
    parameter has a condition and one is a range; else TPE.

    Args:
        space: what is drawn.
        trials: that are drawn; None where their number is not stated.
        two_objectives: whether the search has a second one.
        in_full: whether no trial is stopped early.
    """
    conditional = space.conditional()
    if trials is None:
        if space.finite and _at_most(space) <= LARGEST_GRID:
            return "grid", "no number of trials is stated, and every parameter has values"
        return "tpe", "no number of trials is stated, and a grid does not end in time"
    if two_objectives:
        if trials >= LEAST_GENERATIONS * POPULATION and not conditional:
            return "nsga2", f"two objectives, {LEAST_GENERATIONS} generations of {POPULATION} or more"
        return "tpe", "two objectives"
    if space.finite and _at_most(space) <= LARGEST_GRID and len(space.grid()) <= trials:
        return "grid", f"{trials} trials suffice for all {len(space.grid())} configurations"
    if in_full and trials <= MOST_FOR_GP and not conditional and not space.finite:
        return (
            "gp",
            f"every trial is trained in full, at most {MOST_FOR_GP} of them, and no parameter has a condition",
        )
    return "tpe", "trials are stopped early, parameters have conditions, or there are many trials"


def _at_most(space: Space) -> int:
    return math.prod(len(space.parameters[name].corners()) for name in space.drawn())


class SamplerOfDraws:
    """The sampler of each draw of a search.

    Args:
        sampler: of a preset, `auto` resolved.
        space: what is drawn.
        seed: of the search.
    """

    def __init__(self, sampler: str | BaseSampler | SamplerFactory, space: Space, seed: int) -> None:
        self._given, self._names, self._seed = sampler, space.drawn(), seed
        self._own = copy.deepcopy(sampler) if isinstance(sampler, BaseSampler) else None

    @property
    def replays(self) -> bool:
        """Whether the trials alone bring a sampler back; else every trial is drawn again."""
        return isinstance(self._given, str) and NAMED[self._given].replays

    def __call__(self, place: int, seed: int) -> BaseSampler:
        """Return the sampler of the k-th draw, whose seed this is."""
        if self._own is not None:
            return self._own
        if self._given == "qmc":
            return SobolSampler(self._names, self._seed, place)
        make = NAMED[self._given].make if isinstance(self._given, str) else self._given
        assert callable(make)
        made = make(seed)
        if not isinstance(made, BaseSampler):
            raise InvalidConfig(
                f"a function that makes a sampler returns one of Optuna's; {name_of(self._given)} returned {made!r}"
            )
        return made


def draws_alike(sampler: str | BaseSampler | SamplerFactory, space: Space) -> bool:
    """Return whether two copies of a sampler draw the same, as a resumed search needs it."""
    if isinstance(sampler, str):
        return True
    drawn = []
    for _ in range(2):
        of_draws = SamplerOfDraws(sampler, space, 0)
        study = optuna.create_study(sampler=of_draws(0, 0))
        drawn.append(space.suggest(study.ask()))
    return drawn[0] == drawn[1]
