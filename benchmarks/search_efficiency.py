"""What a search has found after 10, 30 and 100 full trainings, beside random search, random ASHA and Optuna's TPE.

Every searcher is simulated on the surrogate of LCBench's learning curves by eight workers that take trials as they get
free (`lcbench.py` says how). Ours is the searcher and the scheduler of `run_search`, as they come: TPE and ASHA with
every default. The peers: configurations at random in full length; the same with Ray's ASHA and a grace of one epoch;
Optuna's TPE in full length; the same with Optuna's successive halving.

One line for each budget and peer: the mean normalised regret of both, 0 for the best known and 1 for a median
configuration. `ratio` is the peer's regret over ours; `difference` is ours minus the peer's, paired over tasks and
seeds, with its standard error over the tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from lcbench import (
    BUDGETS,
    EPOCHS,
    SCALE,
    WORKERS,
    Method,
    OptunaTPE,
    Ours,
    RandomASHA,
    Surrogate,
    regret,
    simulate,
)
from rich.console import Console
from rich.progress import track

from hep_ray.errors import HepRayError

OURS = "ours"
METHODS: dict[str, Callable[[int], Method]] = {
    OURS: Ours,
    "random": partial(RandomASHA, grace=EPOCHS),
    "random_asha": RandomASHA,
    "optuna_tpe": partial(OptunaTPE, halving=False),
    "optuna_tpe_halving": partial(OptunaTPE, halving=True),
}


def measure(surrogate: Surrogate, name: str, tasks: list[int], seeds: int, budgets: list[int]) -> np.ndarray:
    """(tasks, seeds, budgets) normalised regret of a method."""
    return np.array(
        [
            [
                [regret(task, seen) for seen in simulate(surrogate, task, METHODS[name](seed), budgets)]
                for seed in range(seeds)
            ]
            for task in track(tasks, description=name, console=Console(stderr=True))
        ]
    )


def main() -> int:
    """Print one JSON line for each budget and peer; 2 where there is no surrogate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks", type=int, nargs="+", choices=list(SCALE), default=list(SCALE)[:4], help="of OpenML"
    )
    parser.add_argument("--all-tasks", action="store_true", help="all seventeen of them")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--budgets",
        type=int,
        nargs="+",
        default=list(BUDGETS[:2]),
        help="epochs in all (default: %(default)s)",
    )
    parser.add_argument("--peers", nargs="+", choices=list(METHODS)[1:], default=list(METHODS)[1:])
    options = parser.parse_args()
    tasks, budgets = list(SCALE) if options.all_tasks else options.tasks, sorted(set(options.budgets))
    try:
        surrogate = Surrogate()
    except HepRayError as fault:
        print(f"error: {type(fault).__name__}: {fault}", file=sys.stderr)
        return fault.exit_code
    ours = measure(surrogate, OURS, tasks, options.seeds, budgets)
    for name in options.peers:
        peer = measure(surrogate, name, tasks, options.seeds, budgets)
        for place, budget in enumerate(budgets):
            one, other = ours[..., place], peer[..., place]
            by_task = (one - other).mean(axis=1)
            line = {
                "what": f"search_efficiency: mean normalised regret after {budget} epochs, beside {name}",
                "ours": round(float(one.mean()), 4),
                "peer": round(float(other.mean()), 4),
                "ratio": round(float(other.mean() / one.mean()), 3),
                "peer_is": name,
                "budget": budget,
                "difference": round(float(by_task.mean()), 4),
                "error": round(float(by_task.std(ddof=1) / math.sqrt(len(tasks))), 4)
                if len(tasks) > 1
                else None,
                "tasks": tasks,
                "seeds": options.seeds,
                "workers": WORKERS,
            }
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
