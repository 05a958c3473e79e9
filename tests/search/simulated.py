"""A search without Ray: workers that train along made curves, whose next step follows from the journal alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from hep_ray.search.constraints import ModelLimits
from hep_ray.search.curves import CurveSearcher
from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.curves_trials import Step
from hep_ray.search.definition import Preset, Search
from hep_ray.search.parameters import LogUniform, Uniform
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, Record, TrialFinished

WORKERS = 3
RANGES = Space(
    model="cnn",
    loss="cross_entropy",
    optimizer="sgd",
    learning_rate=LogUniform(1e-4, 1e-1),
    momentum=Uniform(0.0, 0.99),
)


def height(params: dict[str, Any]) -> float:
    """Where the curve of a configuration ends."""
    rate, momentum = math.log10(params["learning_rate"]), params["momentum"]
    return 0.9 - 0.05 * (rate + 2) ** 2 - 0.2 * (momentum - 0.6) ** 2


def accuracy(params: dict[str, Any], epoch: int) -> float:
    """A curve that rises to a height which the parameters decide, with its own noise."""
    noise = random.Random(f"{params} {epoch}").gauss(0, 0.01)
    return height(params) * (1 - math.exp(-epoch / 3)) + noise


def play(
    searcher: CurveSearcher, value: Callable[[dict[str, Any], int], float], epochs: int
) -> tuple[list[float], list[Step]]:
    """One worker; the best value after each epoch, and what was decided."""
    best: list[float] = []
    steps: list[Step] = []
    while len(best) < epochs:
        step = searcher.next()
        assert step is not None
        steps.append(step)
        for epoch in range(step.start + 1, step.until + 1):
            shown = value(step.params, epoch)
            searcher.report(step.trial, epoch, shown)
            best.append(max(shown, best[-1] if best else -math.inf))
    return best, steps


class Simulated:
    """Runs a search, from the records of an earlier attempt on, until it ends or has so many records.

    Args:
        preset: how it is run.
        space: of the search.
        records: of an earlier attempt, whose driver died after the last.
        references: trained first.
        second: second objective.
        diverges: trials whose epoch 2 is not finite.
        searcher: class in the place of the preset's own.
        limits: of the models.
        value: of the metric, of a configuration after an epoch.
        error: statistical, of the metric; None where it reports none.
        noise: standard deviation of the value over seeds, the same after every epoch of a trial.
        easier: fold → what its events add to the value.
    """

    def __init__(
        self,
        preset: Preset,
        space: Space,
        records: Iterable[Record] = (),
        *,
        seed: int = 0,
        references: tuple[dict[str, Any], ...] = (),
        second: str | None = None,
        diverges: tuple[str, ...] = (),
        searcher: Any = None,
        limits: ModelLimits | None = None,
        value: Callable[[dict[str, Any], int], float] = accuracy,
        error: float | None = None,
        noise: float = 0.0,
        easier: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        self.state = SearchState.fold(records)
        self.search = Search(
            name="toy",
            task="toy",
            title="",
            space=space,
            presets={},
            points_to_evaluate=references,
            second_objective=second,
        )
        self.preset, self._diverges, self._value, self._noise = preset, diverges, value, noise
        self._easier = easier
        self._error = {} if error is None else {"val_accuracy_error": error}
        kind = searcher or searcher_of(self.search, preset)
        self.searcher = kind(self.search, preset, space, seed, None, self.state, self._write, limits)
        self._working: list[str] = []

    def run(self) -> list[dict[str, Any]]:
        """Run to the end; returns all records without their times."""
        self.searcher.settle(self.preset.epochs, self._finish)
        finished = False
        while not finished or self._working:
            while not finished and len(self._working) < WORKERS:
                suggestion = self.searcher.suggest("")
                if suggestion == "FINISHED":
                    finished = not self.state.running()
                    break
                if suggestion is None:
                    break
                self._working.append(suggestion["trial_id"])
            if self._working:
                self._epoch(self._next())
        assert not self.searcher.has_work()
        self.searcher.end()
        return told(self.state.records)

    def _next(self) -> str:
        """Whose epoch ends next: of those that run, by the number of epochs so far."""
        epochs = sum(isinstance(record, EpochFinished) for record in self.state.records)
        return random.Random(epochs).choice(sorted(self._working))

    def _epoch(self, name: str) -> None:
        trial = self.state.trials[name]
        epoch = len(trial.history) + 1
        if name in self._diverges and epoch == 2:
            self._working.remove(name)
            self._write(
                TrialFinished(time=0, trial_id=name, status="failed", cause="NaN", failure="diverged")
            )
            return
        value = self._value(trial.started.params, epoch)
        value += self._easier.get(trial.started.fold, 0.0)
        value += random.Random(f"{trial.started.params} {trial.started.seed}").gauss(0, self._noise)
        metrics = {
            "epoch": epoch,
            "val_accuracy": value,
            **self._error,
            "epoch_seconds": 1 + trial.started.params.get("momentum", 0.0),
        }
        self._write(EpochFinished(time=0, trial_id=name, metrics=metrics))
        decision = self.searcher.after_epoch(name)
        if decision != "go on":
            self._working.remove(name)
            if decision == "stop":
                self._finish(name)

    def _finish(self, name: str) -> None:
        whole = len(self.state.trials[name].history) >= self.preset.epochs
        self._write(TrialFinished(time=0, trial_id=name, status="completed" if whole else "stopped"))

    def _write(self, record: Record) -> None:
        self.state.apply(record)
        if hasattr(self, "searcher"):
            self.searcher.record(record)


def told(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Records as plain values, without their times."""
    return [record.model_dump(exclude={"time"}) for record in records]
