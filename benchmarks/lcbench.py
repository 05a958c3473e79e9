"""Learning curves of LCBench from its surrogate, and searches that are simulated on them by asynchronous workers.

The surrogate is that of YAHPO Gym (Pfisterer et al., arXiv:2109.03670) of the curves of Zimmer, Lindauer and Hutter
(2021): networks of seven parameters on OpenML's tasks, 52 epochs each. `HEP_RAY_TEST_DATA` names the folder that holds
`lcbench`, `../shared/data` by default.

Eight workers take work as they get free; every epoch costs one unit, or the surrogate's own seconds. A searcher is
judged by the best validation accuracy that it has seen in any trial after any epoch. Its regret is normalised: (best
known − that) / (best known − median of 1,000 random configurations in full). The best known is the highest after any of
three epochs of 100,000 random configurations, after any epoch of the 2,100 best of those, and in an evolutionary search
of 88,000 evaluations.

Nothing of hep_ray is imported here: rivals run in environments of their own.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
RANGES: dict[str, tuple[float, float, str]] = {
    "batch_size": (16, 512, "log"),
    "learning_rate": (1e-4, 1e-1, "log"),
    "momentum": (0.1, 0.99, "real"),
    "weight_decay": (1e-5, 1e-1, "real"),
    "num_layers": (1, 5, "whole"),
    "max_units": (64, 1024, "log"),
    "max_dropout": (0.0, 1.0, "real"),
}
"""Parameter → bounds, and whether it is uniform in its logarithm, real or whole."""
WHOLE = ("batch_size", "max_units")
"""Whole numbers that are drawn as real ones, uniform in their logarithm."""
Curve = npt.NDArray[np.float64]


class Surrogate:
    """Validation accuracy after every epoch of any configuration, %, and the seconds until then.

    Args:
        folder: of the test data.

    Raises:
        FileNotFoundError: it holds no surrogate.
    """

    def __init__(self, folder: Path | None = None) -> None:
        import onnxruntime

        data = folder or Path(os.environ.get("HEP_RAY_TEST_DATA") or "../shared/data")
        if not (data / "lcbench" / "model.onnx").is_file():
            raise FileNotFoundError(
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
        return self.curve_and_seconds(task, params)[0]

    def curve_and_seconds(self, task: int, params: dict[str, Any]) -> tuple[Curve, Curve]:
        """(52,) validation accuracy, %, and (52,) seconds since the start."""
        values = [round(params[name]) if name in WHOLE else params[name] for name in RANGES]
        rows = np.empty((EPOCHS, 1 + len(values)), np.float32)
        rows[:, 0], rows[:, 1:] = np.arange(1, EPOCHS + 1), values
        inputs = {"x_cat": np.full((EPOCHS, 1), self._codes[task], np.int32), "x_cont": rows}
        seen = self._model.run(None, inputs)[0].astype(np.float64)
        return seen[:, 1], np.maximum.accumulate(seen[:, 0])


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """A configuration at random."""
    params: dict[str, Any] = {}
    for name, (low, high, kind) in RANGES.items():
        if kind == "whole":
            params[name] = int(rng.integers(int(low), int(high) + 1))
        elif kind == "log":
            params[name] = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        else:
            params[name] = float(rng.uniform(low, high))
    return params


def regret(task: int, accuracy: float) -> float:
    """Normalised: 0 is the best known, 1 a median configuration."""
    best, median = SCALE[task]
    return (best - accuracy) / (best - median)


class Method(Protocol):
    """A searcher with its scheduler."""

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of what a free worker trains next; None: nothing for now."""

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the worker gets free, as it does after the last epoch."""


class Ours:
    """The searcher of learning curves, as a search has it by default.

    Args:
        seed: of the draws.
        priors: parameter → value where the best is expected.
        given: other arguments of `CurveSearcher`.
    """

    def __init__(self, seed: int, priors: Mapping[str, Any] | None = None, **given: Any) -> None:
        from hep_ray import Integer, LogUniform, Space, Uniform
        from hep_ray.search.curves import CurveSearcher

        kinds: dict[str, Any] = {"log": LogUniform, "real": Uniform, "whole": Integer}
        expected = priors or {}
        space = {
            name: kinds[kind](low, high, prior=expected.get(name))
            for name, (low, high, kind) in RANGES.items()
        }
        self.searcher = CurveSearcher(Space(model="mlp", **space), EPOCHS, seed=seed, **given)
        self._seconds = 1.0
        self._until: dict[str, int] = {}
        self._seen: dict[str, tuple[dict[str, Any], dict[int, float]]] = {}

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of the next decision."""
        step = self.searcher.next()
        if step is None:
            return None
        self._until[str(step.trial)] = step.until
        self._seen.setdefault(str(step.trial), (step.params, {}))
        return str(step.trial), step.params, step.start

    def took(self, seconds: float) -> None:
        """Take in what the epoch that is reported next took."""
        self._seconds = seconds

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial pauses or ends."""
        self.searcher.report(int(name), epoch, value, self._seconds)
        curve = self._seen[name][1]
        curve[epoch] = max(value, curve.get(epoch - 1, value))
        return epoch == self._until[name]

    def lesson(self, task: int) -> dict[str, Any]:
        """Return what another search can learn from this one, as the fields of a `Lesson`."""
        kept = {round(1.6**step) for step in range(9)}
        trials = [
            (params, {epoch: best for epoch, best in curve.items() if epoch in kept or epoch == len(curve)})
            for params, curve in self._seen.values()
            if curve
        ]
        names = {"search": "lcbench", "search_id": str(task), "metric": METRIC, "mode": "max"}
        return {**names, "epochs": EPOCHS, "trials": trials}


def simulate(
    surrogate: Surrogate,
    task: int,
    method: Method,
    budgets: Iterable[float],
    *,
    workers: int = WORKERS,
    seconds: bool = False,
) -> list[float]:
    """Search; best validation accuracy seen, %, after each of these costs, in rising order.

    Args:
        surrogate: of the curves.
        task: of OpenML.
        method: that searches.
        budgets: epochs in all, or seconds in all.
        workers: that train at once.
        seconds: an epoch costs what the surrogate says, not one unit.
    """
    seen: list[float] = []
    best, spent = -np.inf, 0.0
    marks = sorted(budgets)
    curves: dict[str, tuple[Curve, Curve]] = {}
    running: list[tuple[float, int, str, int]] = []
    idle = list(range(workers))

    def cost(name: str, epoch: int) -> float:
        if not seconds:
            return 1.0
        since = curves[name][1]
        return max(1e-3, float(since[epoch - 1] - (since[epoch - 2] if epoch > 1 else 0.0)))

    def start(now: float) -> None:
        while idle and (work := method.start()) is not None:
            name, params, epoch = work
            if name not in curves:
                curves[name] = surrogate.curve_and_seconds(task, params)
            heapq.heappush(running, (now + cost(name, epoch + 1), idle.pop(0), name, epoch + 1))

    start(0)
    while len(seen) < len(marks):
        now, worker, name, epoch = heapq.heappop(running)
        value = float(curves[name][0][epoch - 1])
        best, spent = max(best, value), spent + cost(name, epoch)
        if isinstance(method, Ours):
            method.took(cost(name, epoch))
        while len(seen) < len(marks) and spent >= marks[len(seen)]:
            seen.append(best)
        if method.report(name, epoch, value):
            idle.append(worker)
            start(now)
        else:
            heapq.heappush(running, (now + cost(name, epoch + 1), worker, name, epoch + 1))
    return seen


def seconds_of_a_training(surrogate: Surrogate, task: int) -> float:
    """Median over 100 random configurations of the seconds of a training in full."""
    rng = np.random.default_rng(0)
    return float(np.median([surrogate.curve_and_seconds(task, drawn(rng))[1][-1] for _ in range(100)]))


def expectation(surrogate: Surrogate, task: int, which: str) -> dict[str, Any]:
    """Return the `good` or the `bad` of what a user may expect to be best.

    They are the best and the worst of 25 random configurations trained in full; Mallik et al. (arXiv:2306.12370) test
    priors of both kinds.
    """
    rng = np.random.default_rng(task)
    configurations = [drawn(rng) for _ in range(25)]
    order = sorted(configurations, key=lambda one: float(max(surrogate.curve_and_seconds(task, one)[0])))
    return order[-1] if which == "good" else order[0]
