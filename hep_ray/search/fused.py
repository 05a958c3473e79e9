"""Trainings of one architecture in one process, as one stacked network: what is stacked, the process, and its driver.

Stacked is what is known to be trained before anything more has ended: a confirmation's list, and the configurations of
a search whose sampler does not ask how earlier ones ended, which are drawn ahead. A scheduler may still stop some: the
survivors of several stacks are stacked again. Nothing else knows of stacks. Each training has its records, its folder
and its checkpoints, and goes on from these alone or in another stack; so where a stack's process is lost, or does not
pay, Tune trains what is left one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from hep_ray.errors import CannotConfirm, InvalidConfig
from hep_ray.files import storing
from hep_ray.plugins import load
from hep_ray.search.failures import begin_log, time_limit, write_log
from hep_ray.search.recorder import Recorder
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import TIMES, SearchState, first_line
from hep_ray.search.trial import TrialJob, TrialRun, cause_of, failure_of
from hep_ray.tracking.records import TrialsFused, TrialStarted
from hep_ray.training.config import TrialConfig
from hep_ray.training.fused import (
    FusedTrial,
    OwnRandom,
    architecture,
    measured_gain,
    run_epoch_together,
    why_alone,
)
from hep_ray.training.loop import TrialLoop

Stack = tuple[TrialStarted, ...]
AUTO, OFF = "auto", "off"
MOST = 16
"""Trainings of a stack, unless a flag says otherwise: of more, the arrays leave the processor's caches."""
PAYS = 1.2
"""Gain below which trainings are not stacked."""
AHEAD = 256
"""Configurations of a search that are drawn before the first of them has ended."""
SHRUNK = 0.5
"""Share of a stack that is left, from which on it is joined with what is left of others."""


def stacks_of(
    runs: Sequence[TrialStarted],
    state: SearchState,
    resources: ResourcePlan,
    unstated: Mapping[str, Any],
    fuse: str,
) -> list[Stack]:
    """Return which trainings are stacked: those of one architecture, as many as leave each worker some.

    Args:
        runs: all trainings.
        state: what the journal tells; trainings that have ended are left out.
        resources: of one training, which one stack has too.
        unstated: what a parameter is that a training leaves out.
        fuse: `auto`, `off`, or the most trainings of a stack.
    """
    if fuse == OFF or _prevented(resources):
        return []
    ended = {trial.trial_id for trial in state.trials.values() if trial.finished is not None}
    left = [run for run in runs if run.trial_id not in ended]
    most = min(MOST, math.ceil(len(left) / resources.concurrent)) if fuse == AUTO else int(fuse)
    alike: dict[str, list[TrialStarted]] = {}
    for run in left:
        config = TrialConfig.completed(run.params, unstated)
        if not why_alone(config):
            alike.setdefault(architecture(config), []).append(run)
    stacks = []
    for group in alike.values():
        parts = math.ceil(len(group) / most)
        stacks += [tuple(group[place::parts]) for place in range(parts)]
    return [stack for stack in stacks if len(stack) > 1]


def when_fused(fuse: str) -> str:
    """Return in words when trainings are stacked, if not `off`."""
    return "where a short measurement says that it pays" if fuse == AUTO else "as --fuse says"


def together_in_words(fuse: str) -> str:
    """Return what to say behind how many trials of a search run side by side; nothing where none are stacked."""
    return "" if fuse == OFF else f"; networks of one architecture are trained together {when_fused(fuse)}"


def _prevented(resources: ResourcePlan) -> str:
    """Return in words which resources of a training keep it from being stacked; empty where none does."""
    if resources.workers_per_trial > 1:
        return f"each training has {resources.workers_per_trial} workers"
    if resources.gpus_per_trial:
        return f"each training has {resources.gpus_per_trial:g} GPU, and networks are stacked on processors"
    if resources.ingest.cache != "resident":
        return f"the events are not in memory (--cache {resources.ingest.cache})"
    return ""


def seconds_shared(cost: str | None) -> str:
    """Return in words why a second objective keeps trials from being stacked; empty where it does not.

    Seconds of a stack are told in equal parts, so they would not tell a slow configuration from a fast one.
    """
    return f"the second objective, {cost}, is of time, which a stack shares out" if cost in TIMES else ""


def chosen_fuse(
    fuse: str, why_not: str, configurations: Iterable[Mapping[str, Any]], resources: ResourcePlan
) -> str:
    """Return how a search stacks its trials: as it is asked to, or `off` where none could be.

    Args:
        fuse: `auto`, `off`, or the most trials of a stack.
        why_not: in words, why its trials are not known before others have ended, or not to be stacked; else empty.
        configurations: one for each set of components that it may draw.
        resources: of one trial.

    Raises:
        InvalidConfig: a number is asked for, and none could be; with the reason.
    """
    if fuse == OFF or (fuse == AUTO and resources.trials <= resources.concurrent):
        return OFF
    why = why_not or _prevented(resources)
    if not why:
        reasons = {why_alone(TrialConfig.from_params(params)) for params in configurations}
        if "" in reasons:
            return fuse
        why = "; ".join(sorted(reasons))
    if fuse != AUTO:
        raise InvalidConfig(
            f"no trials can be stacked as --fuse {fuse} asks: {why}; type --fuse off, or leave it out"
        )
    return OFF


def check_fuse(
    runs: Sequence[TrialStarted], resources: ResourcePlan, unstated: Mapping[str, Any], fuse: str
) -> None:
    """Refuse a number of trainings to stack where none can be; arguments as those of `stacks_of`.

    Raises:
        CannotConfirm: with the reason.
    """
    if fuse in (AUTO, OFF) or stacks_of(runs, SearchState(), resources, unstated, fuse):
        return
    reasons = {why_alone(TrialConfig.completed(run.params, unstated)) for run in runs} - {""}
    why = _prevented(resources) or "; ".join(sorted(reasons)) or "no two trainings are of one architecture"
    raise CannotConfirm(
        f"no trainings can be stacked as --fuse {fuse} asks: {why}; type --fuse off, or leave it out"
    )


@dataclass(frozen=True)
class Begun:
    """How a stack begins.

    Attributes:
        gain: seconds of its steps one by one, over those together; None where it was not measured.
        fused: whether it is trained.
        unmeasured: why the gain could not be measured, so that it is not trained.
        failed: results of the trainings that could not begin, by their ids.
    """

    gain: float | None
    fused: bool
    unmeasured: str = ""
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)


class FusedProcess:
    """Actor that trains the trainings of one stack after another together, as `TrialActor` does one.

    Args:
        job: what all trainings share.
    """

    def __init__(self, job: TrialJob) -> None:
        load(job.plugins)
        job.begin()
        self._job = job
        self._runs: dict[str, tuple[TrialRun, OwnRandom]] = {}

    def begin(self, stack: Stack, *, measure: bool) -> Begun:
        """Take up the trainings of a stack, each from its checkpoint where it has one.

        Args:
            stack: of trainings of one architecture.
            measure: train a few batches first, and take up nothing where it does not pay.
        """
        self._runs.clear()
        with time_limit(self._job.epoch_timeout * len(stack)):
            try:
                gain = self._gain(stack) if measure else None
            except Exception as exc:  # noqa: BLE001 - recorded; one by one a training tells it as its own, if it is
                return Begun(None, fused=False, unmeasured=first_line(cause_of(exc)))
            if gain is not None and gain < PAYS:
                return Begun(gain, fused=False)
            failed = {}
            for run in reversed(
                stack
            ):  # so that the log of the first has what the process writes from now on
                try:
                    self._log(run.trial_id)
                    made = TrialRun(self._job, run.config, "cpu")
                    self._runs[run.trial_id] = made, OwnRandom()
                except Exception as exc:  # noqa: BLE001 - recorded as this training's cause of failure
                    failed[run.trial_id] = self._failed(run.trial_id, exc)
            return Begun(gain, fused=True, failed=failed)

    def epoch(self, ended: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Train an epoch of those that have done the fewest, and return their results by their ids.

        After a resume first those of the checkpoints, which may be unheard.

        Args:
            ended: trainings that are not to go on.
        """
        for name in ended:
            del self._runs[name]
        with time_limit(self._job.epoch_timeout * len(self._runs)):
            found = {name: run.unheard() for name, (run, _) in self._runs.items()}
            results = {name: result for name, result in found.items() if result is not None}
            if not results:
                fewest = min(run.loop.epoch for run, _ in self._runs.values())
                results = self._train(
                    [name for name, (run, _) in self._runs.items() if run.loop.epoch == fewest]
                )
        for name, result in results.items():
            if result["done"]:
                del self._runs[name]
        return results

    def _train(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        runs = [self._runs[name] for name in names]
        trials = [FusedTrial(_loop(run), random) for run, random in runs]
        results: dict[str, dict[str, Any]] = {}

        def keep(place: int, metrics: dict[str, float], cpu_seconds: float) -> None:
            results[names[place]] = runs[place][0].keep(metrics, {"cpu_seconds": cpu_seconds})

        for name, found in zip(names, run_epoch_together(trials, keep), strict=True):
            if isinstance(found, Exception):
                results[name] = self._failed(name, found)
        return results

    def _gain(self, stack: Stack) -> float:
        job = self._job
        train, val = job.data.events("train"), job.data.events("val")

        def maker(run: TrialStarted) -> Callable[[], TrialLoop]:
            config = TrialConfig.completed(run.params, job.unstated)
            return lambda: TrialLoop(config, job.schema, train, val, epochs=job.epochs, seed=run.seed)

        return measured_gain(maker(run) for run in stack)

    def _log(self, trial_id: str) -> None:
        folder = self._job.folder(trial_id)
        with storing(folder):
            begin_log(folder, trial_id)

    def _failed(self, trial_id: str, exc: Exception) -> dict[str, Any]:
        with suppress(OSError):  # of a full storage, which the result tells
            begin_log(self._job.folder(trial_id), trial_id)
            write_log(cause_of(exc))
        return failure_of(exc)


def _loop(run: TrialRun) -> TrialLoop:
    assert isinstance(run.loop, TrialLoop)
    return run.loop


class StackTrainer:
    """Train stacks side by side until the trainings of each have ended, or are left to be trained one by one.

    Args:
        job: what all trainings share.
        resources: of one training, which each stack gets.
        recorder: told everything, as by Tune.
        decide: says after each epoch of a training, once it is recorded, whether it goes on.
        fuse: the most trainings of a stack; `auto` leaves those alone that a short measurement says are not faster.
        say: what a user should know.
    """

    def __init__(
        self,
        job: TrialJob,
        resources: ResourcePlan,
        recorder: Recorder,
        decide: Callable[[str], str],
        *,
        fuse: str,
        say: Callable[[str], None],
    ) -> None:
        remote: Any = ray.remote
        self._process = remote(num_cpus=resources.cpus_per_trial)(FusedProcess)
        self._job, self._recorder = job, recorder
        self._resources, self._decide, self._fuse, self._say = resources, decide, fuse, say
        self._waiting: list[Stack] = []
        self._survivors: list[TrialStarted] = []
        """Trainings of stacks of which most have ended, until they are stacked again."""
        self._paid: set[str] = set()
        """Trainings that were among these: what they gain is known."""
        self._working: dict[Any, tuple[Any, Stack]] = {}
        """Answer that is awaited → process, and its stack."""

    def train(self, runs: Sequence[TrialStarted]) -> set[str]:
        """Train those that can be stacked, begun or not; return the ids of all that were.

        Once the time budget is over no stack begins, and those that run end after their epoch.

        Raises:
            StorageError: the storage takes no more.
        """
        self._waiting = self._stacked(runs)
        trained = {run.trial_id for stack in self._waiting for run in stack}
        actors: list[Any] = []
        try:
            while self._working or self._waiting:
                while self._to_begin() and len(self._working) < self._resources.concurrent:
                    actors.append(self._process.remote(self._job))
                    self._take_next(actors[-1])
                if not self._working:
                    break
                (answer, *_), _ = ray.wait(list(self._working))
                actor, stack = self._working.pop(answer)
                try:
                    found = ray.get(answer)
                except RayTaskError as exc:
                    fault = exc.cause if isinstance(exc.cause, Exception) else exc
                    self._lost(actor, stack, f"it was ended after {cause_of(fault)}")
                except RayError as exc:
                    self._lost(actor, stack, str(exc))
                else:
                    self._hear(actor, stack, found)
        finally:
            for actor in actors:
                ray.kill(actor)
        if self._recorder.budget.spent:
            self._stop(self._paid)
        return trained

    def _stacked(self, runs: Sequence[TrialStarted]) -> list[Stack]:
        return stacks_of(runs, self._recorder.state, self._resources, self._job.unstated, self._fuse)

    def _to_begin(self) -> bool:
        """Return whether a stack waits that is to begin: none does once the time is over."""
        if self._recorder.budget.spent:
            self._waiting.clear()
            self._survivors.clear()
        return bool(self._waiting)

    def _stop(self, names: Iterable[str]) -> None:
        """Name those that have not ended as stopped at the budget, if they have trained at all."""
        trials = self._recorder.state.trials
        self._recorder.budget.stopped.update(
            name for name in names if trials[name].finished is None and trials[name].history
        )

    def _take_next(self, actor: Any) -> None:
        """Give a process the next stack, if there is one."""
        if not self._waiting:
            self._waiting = self._stacked(self._survivors)
            self._survivors.clear()
        if not self._to_begin():
            return
        stack = self._waiting.pop(0)
        measure = self._fuse == AUTO and not self._paid.issuperset(run.trial_id for run in stack)
        for run in stack:
            if run.trial_id not in self._recorder.state.trials:
                self._recorder.write(run.model_copy(update={"time": time.time()}))
        self._working[actor.begin.remote(stack, measure=measure)] = actor, stack

    def _hear(self, actor: Any, stack: Stack, found: Begun | dict[str, dict[str, Any]]) -> None:
        """Record what a process answers, and give it what is next."""
        if isinstance(found, Begun):
            names = tuple(run.trial_id for run in stack)
            self._recorder.write(
                TrialsFused(
                    time=time.time(),
                    trial_ids=names,
                    gain=found.gain,
                    fused=found.fused,
                    unmeasured=found.unmeasured,
                )
            )
            if found.unmeasured:
                self._say(
                    f"{len(stack)} networks of one shape are trained one by one; what they gain together could not be "
                    f"measured: {found.unmeasured}"
                )
            if found.gain is not None:
                how = "together" if found.fused else "one by one"
                self._say(
                    f"{len(stack)} networks of one shape are trained {how}: together {found.gain:.1f}× as fast"
                )
            if not found.fused:
                self._take_next(actor)
                return
        stopped = []
        for name, result in (found.failed if isinstance(found, Begun) else found).items():
            self._recorder.hear(name, result)
            if result["done"]:
                self._recorder.end(name, result)
            elif self._decide(name) == "stop":
                self._recorder.end(name, result)
                stopped.append(name)
        left = self._left(stack)
        if self._recorder.budget.spent:
            self._stop(left)
        elif left and (len(left) > SHRUNK * len(stack) or not (self._waiting or self._survivors)):
            self._working[actor.epoch.remote(stopped)] = actor, stack
        else:
            self._survivors += [run for run in stack if run.trial_id in left]
            self._paid.update(left)
            self._take_next(actor)

    def _lost(self, actor: Any, stack: Stack, told: str) -> None:
        """End a process that is lost, or that raised, and leave its trainings to be trained one by one."""
        ray.kill(actor)  # one that raised would keep its cores from that of the next stack
        left = self._left(stack)
        cause = self._recorder.lose(left, told)
        self._say(f"the process of {len(left)} trainings was lost, which go on one by one: {cause}")

    def _left(self, stack: Stack) -> list[str]:
        """Return the trainings of a stack that have not ended."""
        trials = self._recorder.state.trials
        return [run.trial_id for run in stack if trials[run.trial_id].finished is None]
