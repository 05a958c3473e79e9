"""Learning curves of LCBench from its surrogate, and searches that are simulated on them by eight workers.

The surrogate is that of YAHPO Gym (Pfisterer et al., arXiv:2109.03670) of the curves of Zimmer, Lindauer and Hutter
(2021): networks of seven parameters on OpenML's tasks, 52 epochs each. `HEP_RAY_TEST_DATA` names the folder that holds
`lcbench`, `../shared/data` by default.

Eight workers take trials as they get free; every epoch costs one unit. A searcher is judged by the best validation
accuracy that it has seen in any trial after any epoch. Its regret is normalised: (best known − that) / (best known −
median of 1,000 random configurations in full). The best known is the highest after any of three epochs of 100,000
random configurations, after any epoch of the 2,100 best of those, and in an evolutionary search of 88,000 evaluations.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from hep_ray import Integer, LogUniform, Preset, Search, Space, Uniform
from hep_ray.errors import UnreadableInput
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, Record, TrialFinished

EPOCHS = 52
WORKERS = 8
BUDGETS = (520, 1560, 5200)
"""Epochs in all: 10, 30 and 100 full trainings."""
METRIC = "val_accuracy"
SCALE = {
    3945: (99.658, 89.808),
    34539: (99.146, 83.273),
    126026: (99.749, 92.997),
    146212: (99.197, 90.299),
    167149: (99.485, 83.147),
    167161: (91.788, 67.294),
    167181: (94.285, 73.514),
    167185: (98.078, 33.768),
    167200: (90.279, 60.307),
    168329: (54.951, 4.939),
    168331: (86.881, 42.468),
    168868: (99.757, 97.211),
    168910: (88.777, 34.700),
    189862: (95.335, 76.537),
    189866: (94.697, 61.469),
    189905: (96.865, 63.590),
    189908: (95.527, 81.120),
}
"""Task of OpenML → best known and median validation accuracy, %. These are the tasks to develop on."""
SPACE = Space(
    model="mlp",
    batch_size=LogUniform(16, 512),
    learning_rate=LogUniform(1e-4, 1e-1),
    momentum=Uniform(0.1, 0.99),
    weight_decay=Uniform(1e-5, 1e-1),
    num_layers=Integer(1, 5),
    max_units=LogUniform(64, 1024),
    max_dropout=Uniform(0.0, 1.0),
)
WHOLE = ("batch_size", "max_units")
"""Whole numbers that are drawn as real ones, uniform in their logarithm."""
Curve = npt.NDArray[np.float64]


class Surrogate:
    """Validation accuracy after every epoch of any configuration, %.

    Args:
        folder: of the test data.

    Raises:
        UnreadableInput: it holds no surrogate.
    """

    def __init__(self, folder: Path | None = None) -> None:
        import onnxruntime

        data = folder or Path(os.environ.get("HEP_RAY_TEST_DATA") or "../shared/data")
        if not (data / "lcbench" / "model.onnx").is_file():
            raise UnreadableInput(
                f"the surrogate of LCBench is data of ours for tests; {data.absolute()} holds no lcbench/model.onnx: "
                "let HEP_RAY_TEST_DATA name the folder that does"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._model = onnxruntime.InferenceSession(data / "lcbench" / "model.onnx", options)
        codes = json.loads((data / "lcbench" / "encoding.json").read_text())["OpenML_task_id"]
        self._codes = {task: codes[str(task)] for task in SCALE}

    def curve(self, task: int, params: dict[str, Any]) -> Curve:
        """(52,) validation accuracy, %."""
        values = [round(params[name]) if name in WHOLE else params[name] for name in SPACE.drawn()]
        rows = np.empty((EPOCHS, 1 + len(values)), np.float32)
        rows[:, 0], rows[:, 1:] = np.arange(1, EPOCHS + 1), values
        inputs = {"x_cat": np.full((EPOCHS, 1), self._codes[task], np.int32), "x_cont": rows}
        curve: Curve = self._model.run(None, inputs)[0][:, 1].astype(np.float64)
        return curve


def regret(task: int, accuracy: float) -> float:
    """Normalised: 0 is the best known, 1 a median configuration."""
    best, median = SCALE[task]
    return (best - accuracy) / (best - median)


class Method(Protocol):
    """A searcher with its scheduler."""

    def start(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the next trial."""

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends, as it does after its last epoch."""


class Ours:
    """The searcher and the scheduler of `run_search`, with a journal that is kept in memory.

    Args:
        seed: of the draws.
        preset: what is not default: sampler, scheduler, grace and so on.
    """

    def __init__(self, seed: int, **preset: Any) -> None:
        search = Search(name="lcbench", task="lcbench", title="", space=SPACE, presets={}, metric=METRIC)
        chosen = Preset(**{"epochs": EPOCHS, "trials": BUDGETS[-1], **preset})
        self._state = SearchState()
        self._searcher = OptunaSearcher(search, chosen, SPACE, seed, None, self._state, self._write)

    def start(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the next trial."""
        config: Any = self._searcher.suggest("")
        return config["trial_id"], config["params"]

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends."""
        reported = EpochFinished(time=0, trial_id=name, metrics={"epoch": epoch, METRIC: value})
        self._write(reported)
        self._searcher.record(reported)
        ends = self._searcher.after_epoch(name) != "go on"
        if ends:
            status = "completed" if epoch == EPOCHS else "stopped"
            ended = TrialFinished(time=0, trial_id=name, status=status)
            self._write(ended)
            self._searcher.record(ended)
        return ends

    def _write(self, record: Record) -> None:
        self._state.apply(record)


class RandomASHA:
    """Ray's own ASHA over configurations drawn at random: the least that a search has to do.

    Args:
        seed: of the draws.
        grace: epochs before any trial is stopped; all of them for random search in full length.
    """

    def __init__(self, seed: int, grace: int = 1) -> None:
        self._asha: Any = ASHAScheduler(
            time_attr="epoch", metric=METRIC, mode="max", max_t=EPOCHS, grace_period=grace, reduction_factor=3
        )
        sampler = optuna.samplers.RandomSampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._drawn = 0

    def start(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the next trial."""
        name = str(self._drawn)
        self._drawn += 1
        self._asha.on_trial_add(None, SimpleNamespace(trial_id=name))
        return name, SPACE.suggest(self._study.ask())

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends."""
        result = {"epoch": epoch, METRIC: value}
        decision: str = self._asha.on_trial_result(None, SimpleNamespace(trial_id=name), result)
        return decision == TrialScheduler.STOP or epoch == EPOCHS


class OptunaTPE:
    """Optuna's TPE as it comes, in full length or with its successive halving.

    Args:
        seed: of the draws.
        halving: whether trials are stopped.
    """

    def __init__(self, seed: int, *, halving: bool) -> None:
        pruner = optuna.pruners.SuccessiveHalvingPruner() if halving else optuna.pruners.NopPruner()
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner
        )
        self._running: dict[str, optuna.Trial] = {}
        self._best: dict[str, float] = {}

    def start(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the next trial."""
        trial = self._study.ask()
        self._running[str(trial.number)] = trial
        return str(trial.number), SPACE.suggest(trial)

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends."""
        trial = self._running[name]
        self._best[name] = max(value, self._best.get(name, -np.inf))
        trial.report(value, epoch)
        if epoch == EPOCHS:
            self._study.tell(trial, self._best[name])
        elif trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            return False
        return True


def simulate(surrogate: Surrogate, task: int, method: Method, budgets: Iterable[int]) -> list[float]:
    """Search; best validation accuracy seen, %, after each of these numbers of epochs, in rising order."""
    seen, best, spent = [], -np.inf, 0
    marks = sorted(budgets)
    running: list[tuple[int, int, str, Curve, int]] = []

    def start(now: int, worker: int) -> None:
        name, params = method.start()
        heapq.heappush(running, (now + 1, worker, name, surrogate.curve(task, params), 1))

    for worker in range(WORKERS):
        start(0, worker)
    while spent < marks[-1]:
        now, worker, name, curve, epoch = heapq.heappop(running)
        value = float(curve[epoch - 1])
        best, spent = max(best, value), spent + 1
        if spent in marks:
            seen.append(best)
        if method.report(name, epoch, value):
            start(now, worker)
        else:
            heapq.heappush(running, (now + 1, worker, name, curve, epoch + 1))
    return seen
