"""Run what else one can install on the surrogate of LCBench, and keep what it found in `rivals.json`.

    python benchmarks/rivals.py --list
    python benchmarks/rivals.py --rivals dehb --seeds 5 --own-environment

Each rival at the settings that its documentation recommends for a search of 52 epochs (`rival_methods.py` states
them). Most need an environment of their own: `--list` says what is installed there, and of hep_ray nothing is needed.
A run that is in the file is not run again. Kept of each run are its regrets after each cost of `MARKS`, and of each
rival the CPU seconds of a decision (what to train next, and taking in what came of it).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lcbench import (
    EPOCHS,
    RANGES,
    SCALE,
    WHOLE,
    WORKERS,
    Method,
    Surrogate,
    drawn,
    regret,
    seconds_of_a_training,
    simulate,
)
from rival_methods import DEHB, HEBO, SMAC, Ax, NePS, Optuna, RayTune, SyneTune

FILE = Path(__file__).with_name("rivals.json")
MARKS = (104, 156, 260, 364, 520, 780, 1040, 1560, 2080, 3120, 5200)
"""Epochs in all after which the regret is kept; with `--seconds`, as many 52nds of a median training."""
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


@dataclass(frozen=True)
class Rival:
    """What is run.

    Attributes:
        make: seed → method.
        install: what its environment needs beside onnxruntime, as pip is told; the first is whose version is kept.
    """

    make: Callable[[int], Method]
    install: tuple[str, ...] = ("numpy",)


OPTUNA = ("optuna>=5", "scipy", "torch", "greenlet")
SYNE = ("syne-tune[gpsearchers]==0.13.0",)
NEPS = ("neural-pipeline-search",)
RIVALS: dict[str, Rival] = {
    "random": Rival(partial(RandomASHA, rungs=(EPOCHS,))),
    "random_asha": Rival(RandomASHA),
    "random_asha_stopping": Rival(partial(RandomASHA, pausing=False)),
    "optuna_tpe": Rival(partial(Optuna, sampler="TPESampler"), OPTUNA),
    "optuna_tpe_halving": Rival(
        partial(Optuna, sampler="TPESampler", pruner="SuccessiveHalvingPruner"), OPTUNA
    ),
    "optuna_tpe_hyperband": Rival(partial(Optuna, sampler="TPESampler", pruner="HyperbandPruner"), OPTUNA),
    "optuna_gp": Rival(partial(Optuna, sampler="GPSampler"), OPTUNA),
    "optuna_gp_halving": Rival(
        partial(Optuna, sampler="GPSampler", pruner="SuccessiveHalvingPruner"), OPTUNA
    ),
    "ray_optuna_asha": Rival(RayTune, ("ray[tune]", "optuna>=5")),
    "dehb": Rival(DEHB, ("dehb",)),
    "smac_multifidelity": Rival(SMAC, ("smac",)),
    "smac": Rival(partial(SMAC, facade="HyperparameterOptimizationFacade"), ("smac",)),
    "syne_asha": Rival(partial(SyneTune, scheduler="ASHA"), ("syne-tune",)),
    "syne_bohb": Rival(partial(SyneTune, scheduler="BOHB"), ("syne-tune",)),
    "syne_asha_cqr": Rival(partial(SyneTune, scheduler="ASHACQR"), ("syne-tune",)),
    "syne_botorch": Rival(partial(SyneTune, scheduler="BOTorch", epochs=False), ("syne-tune", "botorch")),
    "syne_mobster": Rival(partial(SyneTune, scheduler="MOBSTER", pausing=True, type="promotion"), SYNE),
    "syne_hypertune": Rival(
        partial(SyneTune, scheduler="HyperTune", pausing=True, type="promotion", brackets=4), SYNE
    ),
    "syne_dyhpo": Rival(partial(SyneTune, scheduler="DyHPO", pausing=True), SYNE),
    "neps_asha": Rival(partial(NePS, algorithm="asha"), NEPS),
    "neps_hyperband": Rival(partial(NePS, algorithm="hyperband"), NEPS),
    "neps_priorband": Rival(partial(NePS, algorithm="priorband"), NEPS),
    "neps_ifbo": Rival(partial(NePS, algorithm="ifbo"), NEPS),
    "hebo": Rival(HEBO, ("HEBO", "GPy>=1.13")),
    "ax": Rival(Ax, ("ax-platform",)),
}
"""Name → how it is made and what it needs."""


class InParts(Surrogate):
    """The surrogate, asked for no more of a curve than is trained: most trials of a halving stop early."""

    def curve_and_seconds(self, task: int, params: dict[str, Any]) -> Any:
        """Two rows (52,), of which each part is worked out when its first value is read."""
        values = [round(params[name]) if name in WHOLE else params[name] for name in RANGES]
        rows = np.empty((EPOCHS, 1 + len(values)), np.float32)
        rows[:, 0], rows[:, 1:] = np.arange(1, EPOCHS + 1), values
        seen = np.empty((2, 0))

        def read(row: int, place: int) -> float:
            nonlocal seen
            if place >= seen.shape[1]:
                part = rows[seen.shape[1] : next(rung for rung in RUNGS if rung > place)]
                inputs = {"x_cat": np.full((len(part), 1), self._codes[task], np.int32), "x_cont": part}
                made = self._model.run(None, inputs)[0].T[[1, 0]].astype(np.float64)
                seen = np.append(seen, made, axis=1)
                seen[1] = np.maximum.accumulate(seen[1])
            return float(seen[row, place])

        return Row(partial(read, 0)), Row(partial(read, 1))


@dataclass(frozen=True)
class Row:
    """What can be read at a place alone."""

    read: Callable[[int], float]

    def __getitem__(self, place: int) -> float:
        """Value after epoch `place` + 1."""
        return self.read(place)


def setting_of(options: argparse.Namespace) -> str:
    """How the workers and the cost of a run are named in the file."""
    return f"{options.workers}s" if options.seconds else f"{options.workers}"


class Timed:
    """A method, with the CPU seconds that it takes for its decisions.

    Args:
        method: that is timed.
    """

    def __init__(self, method: Method) -> None:
        self.method, self.seconds, self.decisions = method, 0.0, 0

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Pass the next piece of work on."""
        began = time.process_time()
        work = self.method.start()
        self.seconds += time.process_time() - began
        self.decisions += work is not None
        return work

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Pass a result on."""
        began = time.process_time()
        free = self.method.report(name, epoch, value)
        self.seconds += time.process_time() - began
        return free


def run(name: str, task: int, seed: int, surrogate: Surrogate, options: argparse.Namespace) -> dict[str, Any]:
    """Search once, and say what it found and what it took."""
    rival = RIVALS[name]
    marks = [mark for mark in MARKS if mark <= options.budget]
    scale = seconds_of_a_training(Surrogate(), task) / EPOCHS if options.seconds else 1.0
    method = Timed(rival.make(seed))
    seen = simulate(
        surrogate,
        task,
        method,
        [mark * scale for mark in marks],
        workers=options.workers,
        seconds=options.seconds,
    )
    distribution = rival.install[0].partition(">")[0].partition("=")[0].partition("[")[0]
    return {
        "rival": name,
        "version": f"{distribution} {importlib.metadata.version(distribution)}",
        "run": f"{task}/{seed}",
        "setting": setting_of(options),
        "regrets": [round(1e4 * regret(task, value)) for value in seen],
        "decision": method.seconds / max(1, method.decisions),
    }


@dataclass
class Kept:
    """What is kept of a rival.

    Attributes:
        version: of its library.
        decision: CPU seconds, the mean over its runs with eight workers.
        runs: setting (workers, and `s` where epochs cost seconds) → "task/seed" → regrets in 1e-4 at each mark reached.
    """

    version: str
    decision: float
    runs: dict[str, dict[str, list[int]]] = field(default_factory=dict)


def kept(file: Path = FILE) -> dict[str, Kept]:
    """Rival → what the file has of it."""
    if not file.is_file():
        return {}
    return {name: Kept(**stored) for name, stored in json.loads(file.read_text()).items()}


def gather(files: list[Path]) -> None:
    """Add runs that were written line by line to what is kept."""
    stored = kept(FILE)
    times: dict[str, list[float]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            one = json.loads(line)
            of_it = stored.setdefault(one["rival"], Kept(one["version"], 0.0))
            of_it.version = one["version"]
            runs = of_it.runs.setdefault(one["setting"], {})
            if len(one["regrets"]) >= len(runs.get(one["run"], [])):
                runs[one["run"]] = one["regrets"]
            if one["setting"] == str(WORKERS):
                times.setdefault(one["rival"], []).append(one["decision"])
    for name, taken in times.items():
        stored[name].decision = float(f"{np.mean(taken):.2g}")
    write(stored)


def write(stored: dict[str, Kept]) -> None:
    """Write the file, a line for each task of a rival."""
    rivals = []
    for name, of_it in sorted(stored.items()):
        settings = []
        for setting, runs in sorted(of_it.runs.items()):
            order = sorted(runs, key=lambda key: [int(part) for part in key.split("/")])
            lines: dict[str, list[str]] = {}
            for key in order:
                short = json.dumps(runs[key], separators=(",", ":"))
                lines.setdefault(key.partition("/")[0], []).append(f'"{key}":{short}')
            text = ",\n".join(", ".join(line) for line in lines.values())
            settings.append(f'"{setting}": {{\n{text}\n}}')
        rivals.append(
            f'"{name}": {{"version": {json.dumps(of_it.version)}, "decision": {of_it.decision}, "runs": {{'
            + ", ".join(settings)
            + "}}"
        )
    FILE.write_text("{\n" + ",\n".join(rivals) + "\n}\n")


def in_own_environment(name: str, given: list[str]) -> int:
    """Run this again for one rival, in an environment made for what it needs; its exit status."""
    home = FILE.parents[1] / f".venv-rival-{RIVALS[name].install[0].partition('>')[0].partition('[')[0]}"
    python = home / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        needs = ["onnxruntime", *RIVALS[name].install]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needs], check=True)
    return subprocess.run([python, __file__, "--rivals", name, *given], check=False).returncode


def main() -> int:
    """Run what is not there yet, gather runs, or say what can be run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=["random", "random_asha"])
    parser.add_argument("--tasks", type=int, nargs="+", choices=list(SCALE), default=list(SCALE))
    parser.add_argument("--seeds", type=int, default=1, help="run those from 0 on (default: %(default)s)")
    parser.add_argument("--budget", type=int, default=MARKS[-1], help="epochs in all (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seconds", action="store_true", help="epochs cost the surrogate's seconds")
    parser.add_argument("--into", type=Path, help="file of lines, instead of rivals.json")
    parser.add_argument("--gather", type=Path, nargs="+", help="files of lines, to be added to rivals.json")
    parser.add_argument("--anew", action="store_true", help="run also what the file has, and replace it")
    parser.add_argument(
        "--own-environment", action="store_true", help="make .venv-rival-… for each rival and run it there"
    )
    parser.add_argument("--list", action="store_true", help="of rivals, with what each needs")
    options = parser.parse_args()
    if options.list:
        for name, rival in RIVALS.items():
            print(f"{name}: pip install onnxruntime {' '.join(rival.install)}")
    elif options.gather:
        gather(options.gather)
    elif options.own_environment:
        given = [f"--seeds={options.seeds}", f"--budget={options.budget}", f"--workers={options.workers}"]
        given += [
            "--tasks",
            *map(str, options.tasks),
            *["--seconds"] * options.seconds,
            *["--anew"] * options.anew,
        ]
        return max(in_own_environment(name, given) for name in options.rivals)
    else:
        search(options)
    return 0


def search(options: argparse.Namespace) -> None:
    """Run what is not there yet, and keep it."""
    into = options.into or FILE.with_suffix(".jsonl")
    surrogate = InParts()
    marks = [mark for mark in MARKS if mark <= options.budget]
    setting = setting_of(options)
    stored = {} if options.anew else kept()
    done = {name: of_it.runs.get(setting, {}) for name, of_it in stored.items()}
    for line in into.read_text().splitlines() if into.is_file() else []:
        one = json.loads(line)
        if one["setting"] == setting:
            done.setdefault(one["rival"], {})[one["run"]] = one["regrets"]
    for seed in range(options.seeds):
        for name in options.rivals:
            for task in options.tasks:
                if len(done.get(name, {}).get(f"{task}/{seed}", [])) >= len(marks):
                    continue
                with into.open("a") as lines:
                    lines.write(json.dumps(run(name, task, seed, surrogate, options)) + "\n")
    if not options.into and into.is_file():
        gather([into])
        into.unlink()


if __name__ == "__main__":
    sys.exit(main())
