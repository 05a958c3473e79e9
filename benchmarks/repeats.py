"""Whether a search finds more where it trains again, with other seeds, what would lead (`--repeats`).

Searches are simulated on the surrogate of LCBench (`lcbench.py`), as `search_efficiency.py` does, by the searcher that
`run_search` itself has. Each training has an offset that its seed decides and a jitter of every epoch, both normal with
the stated share of (best known − median) for their standard deviation. 0.1 is the jitter of the real grid
(`grid/learning_curves.csv`): among the best third of its 216 networks the AUC of neighbouring epochs, from the ninth
on, differs by √2 · 0.10 of (best − median).

What counts is the regret of the chosen configuration without noise, in full: that is its mean over all seeds.
`search_without_repeats` chooses the best training, `repeats` the best mean. `shown` is how much better a search shows
its choice than that is, by the same scale.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
from typing import Any

from lcbench import EPOCHS, METRIC, RANGES, SCALE, WORKERS, Surrogate, regret
from rich.console import Console
from rich.progress import track
from scipy import stats

from hep_ray import Integer, LogUniform, Preset, Search, Space, Uniform
from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, Record, SearchStarted, TrialFinished

KINDS: dict[str, Any] = {"log": LogUniform, "real": Uniform, "whole": Integer}
SPACE = Space(model="mlp", **{name: KINDS[kind](low, high) for name, (low, high, kind) in RANGES.items()})
SEARCH = Search(name="repeats", task="lcbench", title="", space=SPACE, presets={}, metric=METRIC)


def searched(
    surrogate: Surrogate, task: int, preset: Preset, seed: int, noise: float
) -> tuple[float, float, int]:
    """Search with noise.

    Returns:
        Regret of the chosen configuration, how much less regret it shows, and its trainings.
    """
    best, median = SCALE[task]
    begun: dict[str, Any] = {
        "search": "repeats",
        "search_id": "0",
        "dataset_fingerprint": "",
        "task": "lcbench",
    }
    begun |= {
        "metric": METRIC,
        "mode": "max",
        "epochs": EPOCHS,
        "seed": seed,
        "provenance": {},
        "options": {},
    }
    begun |= {"sampler": preset.sampler_name, "scheduler": preset.scheduler_name, "repeats": preset.repeats}
    state = SearchState.fold([SearchStarted(time=0, **begun)])

    def write(record: Record) -> None:
        state.apply(record)
        searcher.record(record)

    searcher = searcher_of(SEARCH, preset)(SEARCH, preset, SPACE, seed, None, state, write)
    curves: dict[str, Any] = {}
    running: list[tuple[float, int, str]] = []
    idle = list(range(WORKERS))

    def fill(now: float) -> None:
        while idle:
            work = searcher.suggest("")
            if not isinstance(work, dict):
                return
            params, name = work["params"], work["trial_id"]
            if name not in curves:
                drawn = random.Random(f"{task} {sorted(params.items())} {work['seed']}")
                offset = drawn.gauss(0, noise)
                curve = surrogate.curve(task, params)
                scatter = [offset + drawn.gauss(0, noise) for _ in curve]
                curves[name] = [
                    float(value) + (best - median) * away for value, away in zip(curve, scatter, strict=True)
                ]
            heapq.heappush(running, (now + 1, idle.pop(0), name))

    fill(0)
    while running:
        now, worker, name = heapq.heappop(running)
        epoch = len(state.trials[name].history) + 1
        write(
            EpochFinished(time=now, trial_id=name, metrics={"epoch": epoch, METRIC: curves[name][epoch - 1]})
        )
        decision = searcher.after_epoch(name)
        if decision == "go on":
            heapq.heappush(running, (now + 1, worker, name))
            continue
        if decision == "stop":
            whole = len(state.trials[name].history) >= EPOCHS
            write(TrialFinished(time=now, trial_id=name, status="completed" if whole else "stopped"))
        idle.append(worker)
        fill(now)
    searcher.end()
    chosen = state.ranked(METRIC, "max")[0]
    shown, _, seeds = state.mean(chosen, METRIC, "max")
    true = regret(task, float(surrogate.curve(task, chosen.started.params).max()))
    return true, true - regret(task, shown), seeds


def main() -> None:
    """Print one JSON line for each budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(map(str, SCALE)))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--trials", default="10,30", help="full trainings that a search has, references aside"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--sampler", default="curves")
    options = parser.parse_args()
    surrogate = Surrogate()
    runs = [(int(task), seed) for seed in range(options.seeds) for task in options.tasks.split(",")]
    scheduler = "curves" if options.sampler == "curves" else "none"
    for trials in map(int, options.trials.split(",")):
        found: dict[int, list[tuple[float, float, int]]] = {1: [], options.repeats: []}
        for task, seed in track(runs, description=f"{trials} trainings", console=Console(stderr=True)):
            for repeats, results in found.items():
                made = Preset(
                    epochs=EPOCHS,
                    trials=trials,
                    sampler=options.sampler,
                    scheduler=scheduler,
                    repeats=repeats,
                )
                results.append(searched(surrogate, task, made, seed, options.noise))
        without, with_repeats = ([one[0] for one in results] for results in found.values())
        differences = [ours - theirs for ours, theirs in zip(with_repeats, without, strict=True)]
        line = {
            "what": "repeats: regret of the chosen configuration, its mean over all seeds",
            "sampler": options.sampler,
            "budget": trials * EPOCHS,
            "noise": options.noise,
            "repeats": options.repeats,
            "ours": round(statistics.fmean(with_repeats), 4),
            "peer": round(statistics.fmean(without), 4),
            "peer_is": "the same search without repeats",
            "difference": round(statistics.fmean(differences), 4),
            "difference_error": round(statistics.stdev(differences) / math.sqrt(len(runs)), 4),
            "better_and_worse": [sum(sign * one > 0 for one in differences) for sign in (-1, 1)],
            "p": round(float(stats.wilcoxon(differences).pvalue), 4) if any(differences) else 1.0,
            "shown": [
                round(statistics.fmean(one[1] for one in found[key]), 4) for key in (options.repeats, 1)
            ],
            "seeds": round(statistics.fmean(one[2] for one in found[options.repeats]), 2),
            "runs": len(runs),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
