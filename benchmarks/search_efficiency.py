"""What a search by learning curves has found after 10, 30 and 100 full trainings, beside what else one can install.

Every searcher is simulated on the surrogate of LCBench's learning curves by workers that take trials as they get free
(`lcbench.py` says how). Ours is `CurveSearcher` as it comes. The rivals were run by `rivals.py`, each in an environment
that has it; what they found is kept in `rivals.json`, with versions and seeds.

One line for each budget: mean normalised regrets, 0 for the best known and 1 for a median configuration, of ours and of
the best rival over the same tasks and seeds. `ratio` is ours over the rival's, with the interval of 95 % of a bootstrap
over tasks (and seeds within them); `rank` is the mean over tasks and seeds of our rank among all, 1 the best. A rival
counts where it was run for every task and seed that is asked for, or for the fewer seeds that `rivals` states; its
ratio is then that of the pairs it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lcbench import BUDGETS, SCALE, WORKERS, Ours, Surrogate, regret, seconds_of_a_training, simulate
from rich.console import Console
from rich.progress import track
from rivals import MARKS, kept

Runs = dict[tuple[int, int], dict[float, float]]
"""(task, seed) → cost → normalised regret."""
DRAWS = 2000
"""Of the bootstrap."""


def ours(surrogate: Surrogate, options: argparse.Namespace, known: Any = None) -> Runs:
    """Search every task with every seed."""
    pairs = [(task, seed) for seed in range(options.seeds) for task in options.tasks]
    runs: Runs = {}
    marks = [mark for mark in MARKS if mark <= max(options.budgets)]
    for task, seed in track(pairs, description="ours", console=Console(stderr=True)):
        scale = seconds_of_a_training(surrogate, task) / 52 if options.seconds else 1.0
        seen = simulate(
            surrogate,
            task,
            Ours(seed, **({"known": known(task)} if known else {})),
            [mark * scale for mark in marks],
            workers=options.workers,
            seconds=options.seconds,
        )
        runs[task, seed] = {mark: regret(task, value) for mark, value in zip(marks, seen, strict=True)}
    return runs


def theirs(options: argparse.Namespace) -> dict[str, Runs]:
    """Rival → what was kept of its runs with as many workers."""
    found: dict[str, Runs] = {}
    for name, stored in kept().items():
        if options.rivals and not any(name.startswith(rival) for rival in options.rivals):
            continue
        runs: Runs = {}
        for run, values in stored["runs"].items():
            task, seed, workers = (int(part) for part in run.split("/"))
            if workers == options.workers and task in options.tasks and seed < options.seeds:
                runs[task, seed] = {
                    mark: regret(task, value) for mark, value in zip(MARKS, values, strict=False)
                }
        found[name] = runs
    return found


def beside(one: Runs, other: Runs, budget: float, rng: np.random.Generator) -> dict[str, Any] | None:
    """Ratio of the mean regrets over the runs that both have; None unless those are of every task."""
    pairs = {
        key: (one[key][budget], run[budget]) for key, run in other.items() if key in one and budget in run
    }
    tasks = sorted({task for task, _ in one})
    of_task = [[pair for (at, _), pair in pairs.items() if at == task] for task in tasks]
    if not all(of_task):
        return None
    ratios = []
    for _ in range(DRAWS):
        drawn = [of_task[place] for place in rng.integers(len(tasks), size=len(tasks))]
        again = np.array(
            [np.mean([runs[at] for at in rng.integers(len(runs), size=len(runs))], axis=0) for runs in drawn]
        )
        ratios.append(again[:, 0].mean() / max(again[:, 1].mean(), 1e-9))
    mean = np.mean([np.mean(runs, axis=0) for runs in of_task], axis=0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "ours": round(float(mean[0]), 4),
        "peer": round(float(mean[1]), 4),
        "ratio": round(float(mean[0] / mean[1]), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pairs": len(pairs),
    }


def draw(mine: Runs, rivals: dict[str, Runs], file: Path) -> None:
    """Draw mean regret against epochs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, runs in [("learning curves (ours)", mine), *rivals.items()]:
        marks = [mark for mark in MARKS if all(mark in run for run in runs.values())] if runs else []
        if marks:
            values = np.array([[run[mark] for mark in marks] for run in runs.values()])
            axes.plot(marks, values.mean(0), marker=".", lw=2.5 if runs is mine else 1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="epochs in all", ylabel="mean normalised regret")
    axes.legend(fontsize="x-small")
    figure.savefig(file)


def main() -> int:
    """Print one JSON line for each budget; 2 where there is no surrogate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = ",".join(str(task) for task in SCALE)
    parser.add_argument(
        "--tasks", default=tasks, help="of OpenML, with commas between (default: all open ones)"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--rivals", default="", help="names or their beginnings, with commas between (default: all)"
    )
    parser.add_argument(
        "--budgets", type=int, nargs="+", choices=MARKS, default=list(BUDGETS), help="epochs in all"
    )
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seconds", action="store_true", help="epochs cost the surrogate's seconds")
    parser.add_argument("--quick", action="store_true", help="4 tasks, 1 seed, the first two budgets")
    parser.add_argument("--figure", type=Path, help="of regret against epochs")
    parser.add_argument("--keep", type=Path, help="file for our own runs")
    options = parser.parse_args()
    options.tasks = [int(task) for task in options.tasks.split(",")]
    options.rivals = [name for name in options.rivals.split(",") if name]
    if options.quick:
        options.tasks, options.seeds, options.budgets = options.tasks[:4], 1, list(BUDGETS[:2])
    try:
        surrogate = Surrogate()
    except FileNotFoundError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    mine, rivals = ours(surrogate, options), {} if options.seconds else theirs(options)
    if options.keep:
        kept_runs = [[task, seed, run] for (task, seed), run in mine.items()]
        options.keep.write_text(json.dumps(kept_runs))
    rng = np.random.default_rng(0)
    for budget in sorted(options.budgets):
        compared = {
            name: found for name, runs in rivals.items() if (found := beside(mine, runs, budget, rng))
        }
        best = min(compared, key=lambda name: compared[name]["peer"], default=None)
        ranks = [
            1 + sum(run[budget] < value[budget] for run in others)
            for key, value in mine.items()
            if (others := [rivals[name][key] for name in compared if budget in rivals[name].get(key, {})])
        ]
        line: dict[str, Any] = {
            "what": "search_efficiency",
            "budget": budget,
            "ours": round(float(np.mean([run[budget] for run in mine.values()])), 4),
            "peer": None,
            "peer_is": best,
            "ratio": None,
            **(compared[best] if best else {}),
            "rank": round(float(np.mean(ranks)), 2) if ranks else None,
            "rivals": compared,
            "cost": "seconds" if options.seconds else "epochs",
            "tasks": options.tasks,
            "seeds": options.seeds,
            "workers": options.workers,
        }
        print(json.dumps(line), flush=True)
    if options.figure:
        draw(mine, rivals, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
