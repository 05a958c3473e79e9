"""Epochs that a search spends until it has what training the whole grid would have found.

The grid was trained once (`grid/make_learning_curves.py`): every configuration in full, with its validation metric
after every epoch. Here the searcher and the scheduler of `run_search` themselves (`OptunaSearcher`,
with the journal beside it) search that grid, and each epoch they ask for is looked up. Two workers take trials as
they get free, an epoch of each lasting as long as the table says it did, so that trials end out of order as they do.

An epoch counts when it has ended. Ours is the median over seeds of the epochs until a trial shows the best value of
the whole table, exactly, all its epochs included; a seed that does not get there within a third of the grid's epochs
counts as all of them. `within_one_error` is the easier goal of anything no more than one standard error of that value
(Hanley and McNeil, from the number of validation events) below it. No trial is stopped before its third epoch, as in
the shipped searches. `--sampler random` draws at random under the same scheduler; `--sampler curves` follows learning
curves, which set their own milestones.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.progress import track

from hep_ray import Choice, Preset, Search, Space
from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.parameters import Value
from hep_ray.search.recorder import Recorder
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished

TABLE = Path(__file__).with_name("grid") / "learning_curves.csv"
METRIC = "val_auc"
WORKERS = 2
LIMIT = 1 / 3
"""Of the grid's epochs, after which a search is taken to need them all."""


@dataclass(frozen=True)
class Grid:
    """Learning curves of a whole grid.

    Attributes:
        axes: parameter → its values, in the order of the table.
        curves: values of the parameters → CPU seconds of an epoch, and the metric after each.
        error: standard error of the best metric.
    """

    axes: dict[str, list[Value]]
    curves: dict[tuple[Value, ...], tuple[float, list[float]]]
    error: float

    @property
    def best(self) -> float:
        """The best metric after any epoch of any configuration."""
        return max(max(values) for _, values in self.curves.values())

    @property
    def length(self) -> int:
        """Epochs of a configuration."""
        return len(next(iter(self.curves.values()))[1])

    @property
    def epochs(self) -> int:
        """Epochs of the whole grid."""
        return self.length * len(self.curves)


def read_grid(table: Path) -> Grid:
    """The table, and beside it the number of validation events of each class."""
    made = json.loads(table.with_suffix(".json").read_text())
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "cpu_seconds" and not name.startswith("epoch_")]
    points = [tuple(_value(row[name]) for name in names) for row in rows]
    curves = {
        point: (
            float(row["cpu_seconds"]),
            [float(value) for key, value in row.items() if key.startswith("epoch_")],
        )
        for point, row in zip(points, rows, strict=True)
    }
    axes = {name: list(dict.fromkeys(point[at] for point in points)) for at, name in enumerate(names)}
    best = max(max(values) for _, values in curves.values())
    return Grid(axes, curves, auc_error(best, *made["validation_events"].values()))


def auc_error(auc: float, background: int, signal: int) -> float:
    """Standard error of an area under the ROC curve: Hanley and McNeil, Radiology 143 (1982) 29."""
    both, one = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (signal - 1) * (both - auc**2) + (background - 1) * (one - auc**2)
    return math.sqrt(variance / (signal * background))


def _value(text: str) -> Value:
    try:
        value: Value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def replay(grid: Grid, sampler: str, seed: int, grace: int, folder: Path) -> tuple[int, int]:
    """Search the grid.

    Args:
        grid: to search.
        sampler: of the configurations.
        seed: of the draws.
        grace: epochs that no trial is stopped before.
        folder: for journal and study.

    Returns:
        Epochs until the best of the grid, and until a standard error below it; the grid's own where never.
    """
    search = Search(
        name="search_cost",
        task="susy",
        title="",
        space=Space(model="mlp", **{name: Choice(*values) for name, values in grid.axes.items()}),
        presets={},
        metric=METRIC,
    )
    early: dict[str, Any] = {} if sampler == "curves" else {"grace_epochs": grace}
    preset = Preset(epochs=grid.length, trials=grid.epochs, sampler=sampler, **early)
    goals = {grid.best: grid.epochs, grid.best - grid.error: grid.epochs}
    spent = 0
    with Journal(folder) as journal:
        recorder = Recorder(journal, search.metric, search.mode, grid.length, folder / "trials")
        searcher = searcher_of(search, preset)(
            search, preset, search.space, seed, folder / "optuna.db", recorder.state, recorder.write
        )
        recorder.listeners.append(searcher.record)

        def start() -> SimpleNamespace | None:
            suggestion = searcher.suggest("")
            if not isinstance(suggestion, dict):
                return None
            trial = SimpleNamespace(config=suggestion)
            trial.epoch = len(recorder.state.trials[trial.config["trial_id"]].history)
            trial.seconds, trial.values = grid.curves[
                tuple(trial.config["params"][name] for name in grid.axes)
            ]
            return trial

        running: list[tuple[float, int, Any]] = []
        idle = list(range(WORKERS))

        def fill(now: float) -> None:
            while idle and (trial := start()) is not None:
                heapq.heappush(running, (now + trial.seconds, idle.pop(0), trial))

        fill(0.0)
        while running and spent < LIMIT * grid.epochs and goals[grid.best] == grid.epochs:
            now, worker, trial = heapq.heappop(running)  # whose epoch ends first
            value = trial.values[trial.epoch]
            trial.epoch += 1
            spent += 1
            goals = {goal: min(epochs, spent) if value >= goal else epochs for goal, epochs in goals.items()}
            metrics = {"epoch": trial.epoch, METRIC: value}
            recorder.write(EpochFinished(time=now, trial_id=trial.config["trial_id"], metrics=metrics))
            decision = searcher.after_epoch(trial.config["trial_id"])
            if decision == "stop":
                recorder.finish(trial.config["trial_id"])
            if decision == "go on":
                heapq.heappush(running, (now + trial.seconds, worker, trial))
            else:
                idle.append(worker)
                fill(now)
    exactly, within = goals.values()
    return exactly, within


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--grace", type=int, default=3, help="epochs before any is stopped; the shipped searches have 2 or 3"
    )
    parser.add_argument("--sampler", choices=["tpe", "random", "curves"], default="tpe")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    grid = read_grid(options.table)
    memory = Path("/dev/shm")  # the disk has no part in this
    results = []
    for seed in track(range(options.seeds), description="searching", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            results.append(replay(grid, options.sampler, seed, options.grace, Path(folder)))
    exactly, within = zip(*results, strict=True)
    ours, easier = statistics.median(exactly), statistics.median(within)
    by = "curves" if options.sampler == "curves" else f"{options.sampler} and ASHA"
    line = {
        "what": f"search_cost: epochs of {by} until the best validation AUC of the whole grid, median over seeds",
        "ours": ours,
        "peer": grid.epochs,
        "ratio": round(grid.epochs / ours, 2),
        "peer_is": f"the grid: {len(grid.curves)} configurations of {grid.length} epochs",
        "ours_of_each_seed": exactly,
        "within_one_error": easier,
        "ratio_within_one_error": round(grid.epochs / easier, 1),
        "within_one_error_of_each_seed": within,
        "best": grid.best,
        "error": round(grid.error, 5),
        "grace_epochs": None if options.sampler == "curves" else options.grace,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
