"""What the driver of a search spends on a result, as trials and nodes grow: 100 nodes of 8 workers, simulated.

Journal, state, sampler, scheduler, Optuna's study in SQLite and the progress are those of a search; workers are not
there: results come in an order by chance, told as Tune tells them. Processor seconds of the driver are divided by the
results, so that work that does not grow stays the same in each line. `exponent` is the slope of log(seconds for a
result) against log(trials): 0 where a result costs the same at any size, 1 where a search costs the square of its
trials. Tune's own work and MLflow's thread are not in it (`tracking.py` measures that).
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import io
import json
import pstats
import random
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from hep_ray import LogUniform, Preset, Search, Space, Uniform
from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.execute import FollowsSearcher
from hep_ray.search.progress import Progress
from hep_ray.search.recorder import Recorder
from hep_ray.search.trial import METRICS, USED
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import SearchStarted

METRIC = "val_accuracy"
SPACE = Space(
    model="mlp",
    loss="cross_entropy",
    optimizer="sgd",
    learning_rate=LogUniform(1e-4, 1e-1),
    momentum=Uniform(0.0, 0.99),
)
KINDS: dict[str, dict[str, Any]] = {
    "random/none": {"sampler": "random", "scheduler": "none"},
    "random/asha": {"sampler": "random", "scheduler": "asha"},
    "random/median": {"sampler": "random", "scheduler": "median"},
    "random/asha_pausing": {"sampler": "random", "scheduler": "asha_pausing"},
    "random/asha, 3 seeds": {"sampler": "random", "scheduler": "asha", "repeats": 3},
    "tpe/asha": {"sampler": "tpe", "scheduler": "asha"},
}


def started(search: Search, preset: Preset) -> SearchStarted:
    """First record of such a search."""
    return SearchStarted(
        time=time.time(),
        search=search.name,
        search_id="made-up",
        dataset_fingerprint="f" * 64,
        task=search.task,
        metric=METRIC,
        mode="max",
        epochs=preset.epochs,
        sampler=preset.sampler_name,
        scheduler=preset.scheduler_name,
        seed=0,
        repeats=preset.repeats,
        options={},
        provenance={},
    )


def result(params: dict[str, Any], epoch: int, chance: random.Random) -> dict[str, Any]:
    """Result of an epoch, with the metrics of a training of three classes."""
    height = 0.9 - 0.3 * abs(params["momentum"] - 0.6) - 0.02 * abs(np.log10(params["learning_rate"]) + 2)
    value = float(height * (1 - np.exp(-epoch / 4)) + chance.gauss(0, 0.01))
    others = {f"val_metric_{place}": value / (1 + place) for place in range(12)}
    metrics = {"epoch": epoch, METRIC: value, "val_loss": 1 - value, "epoch_seconds": 1.0, **others}
    return {METRICS: tuple(metrics.items()), USED: (("cpu_seconds", 1.0),), "epoch": epoch}


def drive(folder: Path, preset: Preset, workers: int, *, in_memory: bool = False) -> tuple[float, int, int]:
    """Run a search to its end; return processor seconds of the driver, results and trials."""
    search = Search(name="many", task="toy", title="", space=SPACE, presets={}, metric=METRIC)
    chance, epochs = random.Random(0), preset.epochs
    with Journal(folder) as journal:
        begin = time.process_time()
        recorder = Recorder(journal, METRIC, "max", epochs, folder / "trials")
        recorder.write(started(search, preset))
        searcher = searcher_of(search, preset)(
            search,
            preset,
            SPACE,
            0,
            None if in_memory else folder / "optuna.db",
            recorder.state,
            recorder.write,
        )
        follows, made = FollowsSearcher(searcher, recorder.take), 0.0
        console = Console(file=io.StringIO(), force_terminal=False)
        progress = Progress(recorder.state, preset.trials or 0, epochs, METRIC, "max", console)
        working: list[tuple[float, int, Any]] = []
        results, clock, ended = 0, 0.0, False
        with progress, recorder.listening(searcher.record), recorder.listening(progress.record):
            while working or not ended:
                while len(working) < workers and not ended:
                    config = searcher.suggest("")
                    ended = config == searcher.FINISHED
                    if not isinstance(config, dict):
                        break
                    trial = SimpleNamespace(config=config, run_metadata=SimpleNamespace(num_failures=0))
                    heapq.heappush(working, (clock + chance.uniform(0.5, 2), results + len(working), trial))
                if not working:
                    continue
                clock, order, trial = heapq.heappop(working)
                name = trial.config["trial_id"]
                epoch, at = len(recorder.state.trials[name].history) + 1, time.process_time()
                trial.last_result = result(trial.config["params"], epoch, chance)
                made += time.process_time() - at
                results += 1
                decision = follows.on_trial_result(None, trial, trial.last_result)
                recorder.on_trial_result(results, [], trial, trial.last_result)
                if decision == "CONTINUE" and epoch < epochs:
                    heapq.heappush(working, (clock + chance.uniform(0.5, 2), order, trial))
                else:
                    recorder.on_trial_complete(results, [], trial)
        searcher.end()
        return time.process_time() - begin - made, results, len(recorder.state.trials)


def main() -> None:
    """Print a JSON line for each kind of search, and one for the nodes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100], help="of eight workers")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="sampler/scheduler")
    parser.add_argument("--in-memory", action="store_true", help="Optuna's study, instead of in SQLite")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # what is imported and compiled once
        drive(Path(folder), Preset(epochs=2, trials=4, **KINDS["tpe/asha"]), 2)
    for kind in options.kinds:
        for nodes in options.nodes:
            seconds, per_result, found = [], [], []
            for trials in options.trials:
                preset = Preset(epochs=options.epochs, trials=trials, **KINDS[kind])
                with tempfile.TemporaryDirectory() as folder:
                    profile = cProfile.Profile()
                    if options.profile:
                        profile.enable()
                    spent, results, begun = drive(
                        Path(folder), preset, 8 * nodes, in_memory=options.in_memory
                    )
                    profile.disable()
                    if options.profile:
                        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
                seconds.append(round(spent, 2))
                per_result.append(1000 * spent / results)
                found.append((begun, results))
            slope = np.polyfit(np.log(options.trials), np.log(per_result), 1)[0] if len(seconds) > 1 else None
            line = {
                "what": f"many_nodes: milliseconds of the driver for a result, {kind}",
                "nodes": nodes,
                "workers": 8 * nodes,
                "trials": options.trials,
                "epochs": options.epochs,
                "begun": [one for one, _ in found],
                "results": [one for _, one in found],
                "cpu_seconds": seconds,
                "ours": [round(one, 3) for one in per_result],
                "exponent": None if slope is None else round(float(slope), 2),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
