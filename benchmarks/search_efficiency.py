"""What a search by learning curves has found after 10, 30 and 100 full trainings, beside what else one can install.

Every searcher is simulated on the surrogate of LCBench's learning curves by workers that take trials as they get free
(`lcbench.py` says how). Ours is `CurveSearcher` as it comes. The rivals were run by `rivals.py`, each in an
environment that has it; what they found is kept in `rivals.json`, with versions and seeds.

One line for each budget: mean normalised regrets, 0 for the best known and 1 for a median configuration, of ours and
of the best rival over the same tasks and seeds. `ratio` is ours over the rival's, with the interval of 95 % of a
bootstrap over tasks (and seeds within them), and `p` is that of Wilcoxon's signed ranks over the tasks' mean
differences. The best rival is the one to which our ratio is largest, each over the runs that it has: slow rivals have
fewer seeds, or stop at a smaller budget, and `pairs` says how many. A rival without a run of every task is left out.
`rank` is the mean over tasks and seeds of our rank among all that have the run, 1 the best; `ranks` has the mean ranks
of all over the runs that all have, which `ranked` counts.

With `--learn-from FILE` each of our searches learns from one of 1,560 epochs on each of the other open tasks. The file
keeps these searches; what it lacks is searched first. With `--keep FILE` our own runs are kept, a line each, and a
benchmark that is run again goes on with what is not there; runs of other code are left out. With `--prior good` or
`bad` each range states as its prior the value of the best, or the worst, of 25 random configurations.

With `--seconds` an epoch costs what the surrogate says, and budgets are as many 52nds of a median training's seconds;
ours then weighs gains against seconds, as it does under a time budget.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lcbench import (
    BUDGETS,
    EPOCHS,
    SCALE,
    WORKERS,
    Ours,
    Surrogate,
    expectation,
    regret,
    seconds_of_a_training,
    simulate,
)
from rich.console import Console
from rich.progress import track
from rivals import MARKS, InParts, kept, setting_of
from scipy.stats import wilcoxon

Runs = dict[tuple[int, int], dict[float, float]]
"""(task, seed) → cost → normalised regret."""
DRAWS = 2000
"""Of the bootstrap."""
COLOURED = 5
"""Rivals that the figure names."""
EPOCHS_OF_LESSONS, SEED_OF_LESSONS = 1560, 100
"""Of the searches that ours learn from; no compared run has that seed."""


def code_of_ours() -> str:
    """Hash of what decides: a run of other code is not taken for one of this."""
    import hep_ray

    folder = Path(hep_ray.__file__).parent / "search"
    files = sorted([*folder.glob("curves*.py"), folder / "lessons.py"])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def lines_of(file: Path | None) -> list[dict[str, Any]]:
    """What a file of JSON lines holds; a last line that was cut short is left out."""
    text = file.read_text() if file and file.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def add_line(file: Path | None, line: dict[str, Any]) -> None:
    """Append a line to a file of JSON lines, after whole ones."""
    if file is None:
        return
    text = file.read_text() if file.is_file() else ""
    if text and not text.endswith("\n"):
        file.write_text(text[: text.rfind("\n") + 1])
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def ours(surrogate: Surrogate, options: argparse.Namespace) -> Runs:
    """Search every task with every seed, but for what the file of our own runs has."""
    pairs = [(task, seed) for seed in range(options.seeds) for task in options.tasks]
    marks = [mark for mark in MARKS if mark <= max(options.budgets)]
    how = {
        "setting": setting_of(options),
        "lessons": bool(options.learn_from),
        "prior": options.prior or "",
        "code": code_of_ours(),
    }
    runs: Runs = {}
    for line in lines_of(options.keep):
        if all(line.get(name) == value for name, value in how.items()) and len(line["regrets"]) >= len(marks):
            runs[line["task"], line["seed"]] = dict(zip(MARKS, line["regrets"], strict=False))
    runs = {pair: runs[pair] for pair in pairs if pair in runs}
    left = [pair for pair in pairs if pair not in runs]
    scales = {
        task: seconds_of_a_training(Surrogate(), task) / EPOCHS if options.seconds else 1.0
        for task in dict.fromkeys(task for task, _ in left)
    }
    expected = {
        task: expectation(Surrogate(), task, options.prior) if options.prior else {} for task in scales
    }
    taught = lessons(surrogate, options.learn_from) if options.learn_from else {}
    for task, seed in track(left, description="ours", console=Console(stderr=True)):
        others = [lesson for other, lesson in taught.items() if other != task]
        seen = simulate(
            surrogate,
            task,
            Ours(seed, expected[task], lessons=others, per_second=options.seconds),
            [mark * scales[task] for mark in marks],
            workers=options.workers,
            seconds=options.seconds,
        )
        regrets = [round(regret(task, value), 6) for value in seen]
        add_line(options.keep, {"task": task, "seed": seed, **how, "regrets": regrets})
        runs[task, seed] = dict(zip(marks, regrets, strict=True))
    return runs


def lessons(surrogate: Surrogate, file: Path) -> dict[int, Any]:
    """Open task → what a search of it saw, from a file; searches that it lacks are made, with a seed of their own."""
    from hep_ray.tracking.records import Lesson

    stored = {int(line["search_id"]): line for line in lines_of(file)}
    left = [task for task in SCALE if task not in stored]
    for task in track(left, description="lessons", console=Console(stderr=True)):
        method = Ours(SEED_OF_LESSONS)
        simulate(surrogate, task, method, [EPOCHS_OF_LESSONS])
        stored[task] = method.lesson(task)
        add_line(file, stored[task])
    return {task: Lesson.model_validate_json(json.dumps(line)) for task, line in stored.items()}


def theirs(options: argparse.Namespace) -> dict[str, Runs]:
    """Rival → what was kept of its runs in the same setting."""
    found: dict[str, Runs] = {}
    for name, stored in kept().items():
        if options.rivals and not any(name.startswith(rival) for rival in options.rivals):
            continue
        runs: Runs = {}
        for run, values in stored.runs.get(setting_of(options), {}).items():
            task, seed = (int(part) for part in run.split("/"))
            if task in options.tasks and seed < options.seeds:
                runs[task, seed] = {mark: value / 1e4 for mark, value in zip(MARKS, values, strict=False)}
        found[name] = runs
    return found


def beside(one: Runs, other: Runs, budget: float, rng: np.random.Generator) -> dict[str, Any] | None:
    """Ratio of the mean regrets over the runs that both have; None unless those are of every task."""
    pairs = {
        key: (one[key][budget], run[budget]) for key, run in other.items() if key in one and budget in run
    }
    tasks = sorted({task for task, _ in one})
    of_task = [np.array([pair for (at, _), pair in pairs.items() if at == task]) for task in tasks]
    if not all(len(runs) for runs in of_task):
        return None
    again = np.zeros((DRAWS, len(tasks), 2))
    for place, runs in enumerate(of_task):
        again[:, place] = runs[rng.integers(len(runs), size=(DRAWS, len(runs)))].mean(1)
    drawn = rng.integers(len(tasks), size=(DRAWS, len(tasks)))
    means = np.take_along_axis(again, drawn[:, :, None], axis=1).mean(1)
    ratios = means[:, 0] / np.maximum(means[:, 1], 1e-9)
    of_tasks = np.array([runs.mean(0) for runs in of_task])
    mean = of_tasks.mean(0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    differences = of_tasks[:, 0] - of_tasks[:, 1]
    return {
        "ours": round(float(mean[0]), 4),
        "peer": round(float(mean[1]), 4),
        "ratio": round(float(mean[0] / mean[1]), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "p": float(f"{wilcoxon(differences).pvalue:.2g}") if differences.any() else 1.0,
        "pairs": len(pairs),
        "tasks_ahead": int((differences < 0).sum()),
    }


def ranks_among(all_runs: dict[str, Runs], budget: float) -> tuple[dict[str, float], int]:
    """Mean rank of each over the runs that all have, 1 the best, and how many those are."""
    having = [{key for key, run in runs.items() if budget in run} for runs in all_runs.values()]
    common = sorted(set.intersection(*having))
    if not common:
        return {}, 0
    values = np.array([[runs[key][budget] for key in common] for runs in all_runs.values()])
    ranks = 1 + (values[None] < values[:, None]).sum(1).astype(float)
    return {name: round(float(rank), 2) for name, rank in zip(all_runs, ranks.mean(1), strict=True)}, len(
        common
    )


def draw(mine: Runs, rivals: dict[str, Runs], file: Path, cost: str) -> None:
    """Draw mean regret against cost, ours with its error over the tasks, and in colour the rivals that are nearest."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    tasks = sorted({task for task, _ in mine})

    def of_tasks(runs: Runs) -> tuple[list[float], Any]:
        marks = [mark for mark in MARKS if all(mark in run for run in runs.values())]
        rows = [[run[mark] for mark in marks] for run in runs.values()]
        keys = [task for task, _ in runs]
        return list(marks), np.array(
            [
                np.mean([row for row, key in zip(rows, keys, strict=True) if key == task], axis=0)
                for task in tasks
            ]
        )

    curves = {
        name: of_tasks(runs) for name, runs in rivals.items() if {task for task, _ in runs} == set(tasks)
    }
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    means = {name: dict(zip(marks, values.mean(0), strict=True)) for name, (marks, values) in curves.items()}
    least: dict[float, float] = {
        mark: min(mean[mark] for mean in means.values() if mark in mean)
        for mark in MARKS
        if any(mark in mean for mean in means.values())
    }
    order = sorted(means, key=lambda name: min(value / least[mark] for mark, value in means[name].items()))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for place, name in reversed(list(enumerate(order))):
        marks, values = curves[name]
        style: dict[str, Any] = {"color": "0.8", "lw": 0.8, "zorder": 1}
        if place < COLOURED:
            style = {"color": f"C{place}", "lw": 1.3, "marker": ".", "label": name}
        axes.plot(marks, values.mean(0), **style)
    marks, values = of_tasks(mine)
    mean, error = values.mean(0), values.std(0, ddof=min(1, len(tasks) - 1)) / len(tasks) ** 0.5
    axes.plot(marks, mean, color="k", lw=2.2, label="learning curves (ours)")
    axes.fill_between(marks, np.maximum(mean - error, 1e-3), mean + error, color="k", alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlabel=f"{cost} in all", ylabel="mean normalised regret")
    ticks = [104, 260, 520, 1040, 1560, 2600, 5200]
    axes.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(
        fontsize="x-small", title=f"{len(order)} rivals, {len(tasks)} tasks", title_fontsize="x-small"
    )
    figure.savefig(file, dpi=150)
    plt.close(figure)


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
    parser.add_argument(
        "--learn-from", type=Path, metavar="FILE", help="ours learn from other tasks; kept there"
    )
    parser.add_argument("--prior", choices=["good", "bad"], help="ours is told where a user expects the best")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="of our own runs, to go on with")
    options = parser.parse_args()
    options.tasks = [int(task) for task in options.tasks.split(",")]
    options.rivals = [name for name in options.rivals.split(",") if name]
    if options.quick:
        options.tasks, options.seeds, options.budgets = options.tasks[:4], 1, list(BUDGETS[:2])
    try:
        surrogate = InParts()
    except FileNotFoundError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    mine, rivals = ours(surrogate, options), theirs(options)
    rng = np.random.default_rng(0)
    for budget in sorted(options.budgets):
        compared = {
            name: found for name, runs in rivals.items() if (found := beside(mine, runs, budget, rng))
        }
        best = max(compared, key=lambda name: compared[name]["ratio"], default=None)
        present = {name: runs for name, runs in rivals.items() if name in compared}
        ranks = [
            1 + sum(run[budget] < value[budget] for run in others)
            for key, value in mine.items()
            if (others := [runs[key] for runs in present.values() if budget in runs.get(key, {})])
        ]
        of_all, ranked = ranks_among({"ours": mine, **present}, budget)
        line: dict[str, Any] = {
            "what": "search_efficiency",
            "budget": budget,
            "ours": round(float(np.mean([run[budget] for run in mine.values()])), 4),
            "peer": None,
            "peer_is": best,
            "ratio": None,
            **(compared[best] if best else {}),
            "rank": round(float(np.mean(ranks)), 2) if ranks else None,
            "ranks": dict(sorted(of_all.items(), key=lambda item: item[1])),
            "ranked": ranked,
            "rivals": compared,
            "cost": "seconds" if options.seconds else "epochs",
            "tasks": options.tasks,
            "seeds": options.seeds,
            "workers": options.workers,
            "learns": bool(options.learn_from),
            "prior": options.prior or "",
        }
        print(json.dumps(line), flush=True)
    if options.figure:
        draw(
            mine,
            rivals,
            options.figure,
            "52nds of a median training's seconds" if options.seconds else "epochs",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
