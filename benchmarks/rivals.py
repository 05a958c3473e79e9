"""Run what else one can install on the surrogate of LCBench, and keep what it found in `rivals.json`.

    python benchmarks/rivals.py --rivals optuna_tpe random_asha --seeds 5

Each rival at its own defaults for a search of 52 epochs; the Hyperbands with a factor of 3. `random` and `random_asha`
(promotion to epochs 1, 3, 9, 27 and 52 by thirds) are written here, the others are libraries: run this in an
environment that has the library, numpy and onnxruntime; nothing of hep_ray is needed. A run that is in the file already
is not run again. Kept of each run: the best validation accuracy after each cost of `MARKS`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lcbench import EPOCHS, RANGES, SCALE, WORKERS, Method, Surrogate, drawn, simulate

FILE = Path(__file__).with_name("rivals.json")
MARKS = (104, 156, 260, 364, 520, 780, 1040, 1560, 2080, 3120, 5200)
"""Epochs in all after which the best value is kept."""
RUNGS = (1, 3, 9, 27, EPOCHS)


class RandomASHA:
    """Random configurations with asynchronous successive halving: the least that a search has to do.

    Args:
        seed: of the draws.
        rungs: epochs at which one in three goes on; the last alone for random search in full length.
        pausing: the best third of a rung goes on later (Li et al., arXiv:1810.05934); else a trial that is not among
            the best third of those so far is stopped for good.
    """

    def __init__(self, seed: int, rungs: tuple[int, ...] = RUNGS, *, pausing: bool = True) -> None:
        self._rng = np.random.default_rng(seed)
        self._rungs, self._pausing = rungs, pausing
        self._seen: dict[int, dict[str, float]] = {rung: {} for rung in rungs}
        self._promoted: dict[int, set[str]] = {rung: set() for rung in rungs}
        self._params: list[dict[str, Any]] = []
        self._until: dict[str, int] = {}

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of what a free worker trains next."""
        if self._pausing:
            for place in range(len(self._rungs) - 2, -1, -1):
                rung = self._rungs[place]
                order = sorted(self._seen[rung], key=lambda name: -self._seen[rung][name])
                for name in order[: len(order) // 3]:
                    if name not in self._promoted[rung]:
                        self._promoted[rung].add(name)
                        self._until[name] = self._rungs[place + 1]
                        return name, self._params[int(name)], rung
        name = str(len(self._params))
        self._params.append(drawn(self._rng))
        self._until[name] = self._rungs[0]
        return name, self._params[-1], 0

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the worker gets free."""
        if epoch < self._until[name]:
            return False
        self._seen[epoch][name] = value
        if self._pausing or epoch == EPOCHS:
            return True
        others = sorted(self._seen[epoch].values(), reverse=True)
        if value < others[max(0, len(others) // 3 - 1)]:
            return True
        self._until[name] = self._rungs[self._rungs.index(epoch) + 1]
        return False


class Optuna:
    """Optuna's samplers and pruners.

    Args:
        seed: of the draws.
        sampler: name of its class.
        pruner: name of its class; empty trains in full.
    """

    def __init__(self, seed: int, sampler: str, pruner: str = "") -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore")
        given = {"HyperbandPruner": {"min_resource": 1, "max_resource": EPOCHS}}.get(pruner, {})
        self._optuna = optuna
        self._study = optuna.create_study(
            direction="maximize",
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            pruner=getattr(optuna.pruners, pruner or "NopPruner")(**given),
        )
        self._running: dict[str, Any] = {}
        self._best: dict[str, float] = {}

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of the next trial."""
        trial = self._study.ask()
        params = {
            name: trial.suggest_int(name, int(low), int(high))
            if kind == "whole"
            else trial.suggest_float(name, low, high, log=kind == "log")
            for name, (low, high, kind) in RANGES.items()
        }
        self._running[str(trial.number)] = trial
        return str(trial.number), params, 0

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends."""
        trial = self._running[name]
        self._best[name] = max(value, self._best.get(name, -np.inf))
        trial.report(value, epoch)
        if epoch == EPOCHS:
            self._study.tell(trial, self._best[name])
        elif trial.should_prune():
            self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            return False
        return True


class DEHB:
    """DEHB (Awad, Mallik and Hutter, arXiv:2105.09821), which begins a configuration anew at each of its budgets.

    It is given what it asks for without that: a configuration of a larger budget goes on where it was.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int) -> None:
        ConfigSpace: Any = importlib.import_module("ConfigSpace")  # noqa: N806 - a module
        Search: Any = importlib.import_module("dehb").DEHB  # noqa: N806 - a class

        space = ConfigSpace.ConfigurationSpace(seed=seed)
        for name, (low, high, kind) in RANGES.items():
            one: Any = (
                ConfigSpace.UniformIntegerHyperparameter(name, int(low), int(high))
                if kind == "whole"
                else ConfigSpace.UniformFloatHyperparameter(name, low, high, log=kind == "log")
            )
            space.add(one)
        self._search = Search(
            f=None, cs=space, dimensions=len(RANGES), min_fidelity=1, max_fidelity=EPOCHS, eta=3, n_workers=WORKERS,
            seed=seed, log_level="ERROR", output_path=f"/tmp/dehb_{seed}_{time.time_ns()}",
        )  # fmt: skip
        self._asked: dict[str, tuple[dict[str, Any], int, float]] = {}
        self._trained: dict[str, int] = {}

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of the next evaluation."""
        while True:
            asked = self._search.ask()
            params = dict(asked["config"])
            name = json.dumps(params, sort_keys=True, default=float)
            until = max(1, round(asked["fidelity"]))
            if name not in self._asked and self._trained.get(name, 0) < until:
                self._asked[name] = asked, until, -np.inf
                return name, params, self._trained.get(name, 0)
            self._search.tell(asked, {"fitness": 100.0, "cost": 1.0})

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the evaluation ends."""
        asked, until, best = self._asked[name]
        self._trained[name] = epoch
        self._asked[name] = asked, until, max(best, value)
        if epoch < until:
            return False
        del self._asked[name]
        self._search.tell(asked, {"fitness": 100 - max(best, value), "cost": float(until)})
        return True


RIVALS: dict[str, tuple[Callable[[int], Method], str]] = {
    "random": (partial(RandomASHA, rungs=(EPOCHS,)), "numpy"),
    "random_asha": (RandomASHA, "numpy"),
    "random_asha_stopping": (partial(RandomASHA, pausing=False), "numpy"),
    "optuna_tpe": (partial(Optuna, sampler="TPESampler"), "optuna"),
    "optuna_tpe_halving": (partial(Optuna, sampler="TPESampler", pruner="SuccessiveHalvingPruner"), "optuna"),
    "optuna_tpe_hyperband": (partial(Optuna, sampler="TPESampler", pruner="HyperbandPruner"), "optuna"),
    "optuna_gp": (partial(Optuna, sampler="GPSampler"), "optuna"),
    "optuna_gp_halving": (partial(Optuna, sampler="GPSampler", pruner="SuccessiveHalvingPruner"), "optuna"),
    "dehb": (DEHB, "dehb"),
}
"""Name → how it is made, and the distribution whose version is kept."""


def kept() -> dict[str, Any]:
    """Rival → {version, runs: {"task/seed/workers": best accuracy at each mark that it reached}}."""
    stored: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return stored


def main() -> None:
    """Run what is not in the file, and write it there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=["random", "random_asha"])
    parser.add_argument("--tasks", type=int, nargs="+", choices=list(SCALE), default=list(SCALE))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budget", type=int, default=MARKS[-1], help="epochs in all (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=WORKERS)
    options = parser.parse_args()
    surrogate = Surrogate()
    marks = [mark for mark in MARKS if mark <= options.budget]
    for seed in range(options.seeds):
        for name in options.rivals:
            make, distribution = RIVALS[name]
            for task in options.tasks:
                run = f"{task}/{seed}/{options.workers}"
                if len(kept().get(name, {"runs": {}})["runs"].get(run, [])) >= len(marks):
                    continue
                began = time.process_time()
                seen = simulate(surrogate, task, make(seed), marks, workers=options.workers)
                print(
                    name,
                    run,
                    [round(one, 3) for one in seen],
                    round(time.process_time() - began, 1),
                    flush=True,
                )
                stored = kept()
                of_it = stored.setdefault(name, {"version": "", "runs": {}})
                of_it["version"] = f"{distribution} {importlib.metadata.version(distribution)}"
                of_it["runs"][run] = [round(one, 4) for one in seen]
                lines = ",\n".join(
                    f'"{rival}": {{"version": {json.dumps(it["version"])}, "runs": {{\n'
                    + ",\n".join(f'  "{key}": {json.dumps(runs)}' for key, runs in sorted(it["runs"].items()))
                    + "\n}}"
                    for rival, it in sorted(stored.items())
                )
                FILE.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
