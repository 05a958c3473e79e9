"""Simulations of the searcher and the scheduler that `run_search` has, with a journal that is kept in memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hep_ray import LogUniform, Preset, Search, Space, Uniform
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, Record, TrialFinished

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

SEEDS = 24
SPACE = Space(
    model="mlp",
    learning_rate=LogUniform(1e-4, 1.0),
    weight_decay=LogUniform(1e-6, 1e-2),
    momentum=Uniform(0.0, 1.0),
    dropout=Uniform(0.0, 1.0),
)
REFERENCES = ({"model": "gradient_boosting"}, {"model": "logistic_regression"}, {"model": "likelihood"})
TASKS = (3945, 34539, 126026, 146212)
"""The first of those to develop on."""
SEEDS_OF_TASK = 5


def draw(
    seed: int,
    trials: int,
    value_of: Callable[[dict[str, Any]], float],
    references: int = 0,
    sampler: Any = "tpe",
) -> list[float]:
    """Values of the configurations that a search draws one after another; one that is not finite fails its trial."""
    search = Search(
        name="toy", task="toy", title="", space=SPACE, presets={}, points_to_evaluate=REFERENCES[:references]
    )
    state = SearchState()
    preset = Preset(epochs=1, trials=trials, sampler=sampler, scheduler="none")
    searcher = OptunaSearcher(search, preset, SPACE, seed, None, state, state.apply)

    def write(record: Record) -> None:
        state.apply(record)
        searcher.record(record)

    values = []
    while (suggestion := searcher.suggest("")) != searcher.FINISHED:
        assert isinstance(suggestion, dict)
        name, params = suggestion["trial_id"], suggestion["params"]
        value = 0.9 if len(state.trials) <= references else value_of(params)
        if math.isfinite(value):
            write(EpochFinished(time=0, trial_id=name, metrics={"epoch": 1, "val_accuracy": value}))
            write(TrialFinished(time=0, trial_id=name, status="completed"))
        else:
            write(TrialFinished(time=0, trial_id=name, status="failed", cause="NaN", failure="diverged"))
        values.append(value)
    return values[references:]


def unit(params: dict[str, Any]) -> tuple[float, float, float, float]:
    """Each parameter's place between its bounds, 0 to 1."""
    rate, decay = (math.log10(params[name]) for name in ("learning_rate", "weight_decay"))
    return (rate + 4) / 4, (decay + 6) / 4, params["momentum"], params["dropout"]


def valley(params: dict[str, Any]) -> float:
    """At most 1, along a valley: the best weight decay falls with the learning rate, the momentum with both."""
    rate, decay, momentum, dropout = unit(params)
    return (
        1
        - (rate + decay - 1) ** 2
        - (rate - 0.7) ** 2
        - (momentum + rate - 1.2) ** 2
        - 0.3 * (dropout - 0.2) ** 2
    )


def cliff(params: dict[str, Any]) -> float:
    """Better the larger the learning rate with its momentum, up to where the loss diverges: 40 % of the space."""
    rate, _, momentum, _ = unit(params)
    step = rate + 0.5 * momentum
    return step if step < EDGE else math.nan


EDGE = 0.85
"""rate + momentum / 2 > 0.85 in the unit square: ∫ (0.15 + m / 2) dm = 0.15 + 0.25 = 0.40."""


def error(values: list[float]) -> float:
    """Standard error of the mean."""
    return stdev(values) / math.sqrt(len(values))


def tpe_regret_with_references() -> Iterator[dict[str, Any]]:
    """Regret of the best of 30 draws, with references that have none of the parameters."""
    for sampler, references in (("tpe", 0), ("tpe", 1), ("tpe", 3), ("random", 0)):
        regrets = [1 - max(draw(seed, 30, valley, references, sampler)) for seed in range(SEEDS)]
        yield {
            "references": references,
            "sampler": sampler,
            "measured": round(mean(regrets), 4),
            "error": round(error(regrets), 4),
            "seeds": SEEDS,
            "draws": 30,
        }


def diverged_share() -> Iterator[dict[str, Any]]:
    """Of draws 21 to 40, where values are best at the edge beyond which the loss diverges."""
    shares = {}
    for sampler in ("tpe", "random"):
        shares[sampler] = [
            mean(math.isnan(value) for value in draw(seed, 40, cliff, sampler=sampler)[20:])
            for seed in range(SEEDS)
        ]
    yield {
        "measured": round(mean(shares["tpe"]), 4),
        "error": round(error(shares["tpe"]), 4),
        "random": round(mean(shares["random"]), 4),
        "seeds": SEEDS,
        "draws": "21-40",
    }


def default_regret() -> Iterator[dict[str, Any]]:
    """Normalised regret on LCBench's surrogate of the searcher by learning curves, and of random search with ASHA."""
    from lcbench import BUDGETS, Ours, Surrogate, regret, simulate
    from rivals import RandomASHA

    surrogate = Surrogate()
    regrets: dict[str, list[list[float]]] = {"ours": [], "random_asha": []}
    for task in TASKS:
        for seed in range(SEEDS_OF_TASK):
            for name, method in (("ours", Ours(seed)), ("random_asha", RandomASHA(seed))):
                seen = simulate(surrogate, task, method, BUDGETS)
                regrets[name].append([regret(task, value) for value in seen])
    for place, budget in enumerate(BUDGETS):
        ours, peer = ([each[place] for each in regrets[name]] for name in regrets)
        yield {
            "budget": budget,
            "ours": round(mean(ours), 4),
            "random_asha": round(mean(peer), 4),
            "difference": round(mean(ours) - mean(peer), 4),
            "error": round(error([one - other for one, other in zip(ours, peer, strict=True)]), 4),
            "tasks": TASKS,
            "seeds": SEEDS_OF_TASK,
        }


SIMULATIONS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "tpe_regret_with_references": tpe_regret_with_references,
    "diverged_share": diverged_share,
    "default_regret": default_regret,
}
