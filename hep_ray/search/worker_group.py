"""Actors of Tune: one that trains trial after trial, and one that has each trained by several workers.

Those are one Ray Train run per trial actor, kept warm from trial to trial. The actor that Tune knows holds no core and
no GPU. It starts a `TorchTrainer` whose workers live in a placement group of their own and follow commands: the next
epoch of this trial, the first of another, or the end. So Tune and Train never reserve the same thing twice, a trial
that ASHA stops costs no start of processes, and what was held is released by the run itself when it ends well, else
by `PlacementGroups`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train, tune
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hep_ray.errors import InputError, NonFiniteLoss, WorkersLost
from hep_ray.files import storing, write_whole
from hep_ray.models import MODELS
from hep_ray.plugins import load
from hep_ray.search.failures import begin_log, kind_of, time_limit, write_log
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.trial import TrialJob, TrialRun, cause_of, failure, failure_of
from hep_ray.tracking.records import Failure
from hep_ray.training.distributed import Communicator, backend

RESTARTS = 3
"""Times that an epoch is tried again, from the last checkpoint, when a worker or its node is lost."""
GROUP_RESTARTS = 2 * RESTARTS
"""Times that Ray Train starts the workers of one actor anew, before Tune tries the trial with another actor."""
WAIT_SECONDS = 10
"""Between two looks for placement groups that a lost trial actor left behind, while workers cannot start."""
GOODBYE_SECONDS = 20
"""For workers to end by themselves before they are made to."""
DRIVER: dict[str, int | float] = {"memory": 1}
"""What the trial's actor asks of Tune, which refuses requests of nothing: one byte, and no part of a core."""
POLL = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""How soon Ray Train sees that a worker is lost, s; it looks every 2 s by default."""


@dataclass(frozen=True)
class GroupResources:
    """Resources of the workers of one trial.

    Attributes:
        workers: how many.
        least: how few will do, where Ray Train may start with fewer.
        cpus: cores of each.
        gpus: GPUs of each, whole ones.
        scratch: folder for Ray Train's own files, on storage that every node sees.
    """

    workers: int
    least: int
    cpus: int
    gpus: int
    scratch: str


@contextmanager
def trainable(job: TrialJob, plan: ResourcePlan, scratch: Path) -> Iterator[Any]:
    """Make what Tune is to run, with its resources; on leaving, release everything that trials still hold."""
    if plan.workers_per_trial == 1:
        alone = {"cpu": plan.cpus_per_trial, "gpu": plan.gpus_per_trial}
        yield tune.with_resources(tune.with_parameters(TrialActor, job=job), alone)
        return
    group = GroupResources(
        plan.workers_per_trial,
        plan.min_workers_per_trial,
        plan.cpus_per_trial,
        int(plan.gpus_per_trial),
        str(scratch / "train"),
    )
    placements = PlacementGroups(str(scratch / "held"))
    placements.release_all()  # of a driver that was killed; Ray has freed it with that driver's job
    try:
        yield tune.with_resources(
            tune.with_parameters(WorkerGroup, job=job, group=group, placements=placements),
            tune.PlacementGroupFactory([DRIVER]),
        )
    finally:
        placements.release_all()


class TrialActor(tune.Trainable):
    """One worker process: imports once, then trains trial after trial.

    Nothing of a trial outlives it: the loop (model, optimizer, random state) is built anew from
    the next trial's parameters. A trial whose folder holds a checkpoint goes on from there.
    """

    _failure: dict[str, Any]
    _run: TrialRun | None

    def setup(self, config: dict[str, Any], job: TrialJob) -> None:  # type: ignore[override]
        """Join the data and start the first trial."""
        self._job = job
        job.begin()
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in this process."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; a failure ends this trial, not the actor and not the search."""
        if self._run is not None:
            try:
                with time_limit(self._job.epoch_timeout):
                    return self._run.report()
            except Exception as exc:  # noqa: BLE001 - recorded as the trial's cause of failure
                self._fail(exc)
        return self._failure

    def _start(self, config: dict[str, Any]) -> None:
        self._run, self._failure = None, {}
        try:
            with storing(self._job.folder(config["trial_id"])):
                begin_log(self._job.folder(config["trial_id"]), config["trial_id"])
            with time_limit(self._job.epoch_timeout):
                self._run = TrialRun(self._job, config, "cuda" if self._job.gpu else "cpu")
        except Exception as exc:  # noqa: BLE001 - reported by the first step
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        """Keep the cause, and let go of everything that the trial held: its memory may be what it failed of."""
        self._run, self._failure = None, failure_of(exc)
        with suppress(OSError):  # of a full storage, which the result tells
            write_log(cause_of(exc))


class WorkerGroup(tune.Trainable):
    """Actor that trains trial after trial with several workers, as `TrialActor` does alone."""

    _driver: threading.Thread
    _heard: int

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], job: TrialJob, group: GroupResources, placements: PlacementGroups
    ) -> None:
        """Start the workers and give them their first trial."""
        self._job, self._group, self._placements = job, group, placements
        self._name = uuid.uuid4().hex
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        coordinator = ray.remote(num_cpus=0)(Coordinator).options(name=self._name, scheduling_strategy=beside)
        self._coordinator: Any = coordinator.remote(RESTARTS)
        self._serial = 0
        self._take(config)
        self._mark = placements.register(self._name)
        placements.release_orphans()
        self._driver = threading.Thread(target=self._drive, daemon=True)
        self._driver.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Give the workers another trial."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; a failure ends this trial, not the workers and not the search.

        Raises:
            WorkersLost: Ray Train gave up, or the coordinator died.
        """
        self._serial += 1
        answer = self._coordinator.ask.remote(Command(self._serial, self._config, self._heard))
        while not ray.wait([answer], timeout=WAIT_SECONDS)[0]:
            self._placements.release_orphans()
        try:
            result: dict[str, Any] = ray.get(answer)
        except RayActorError as exc:
            told = str(exc).replace("\n", " ")
            raise WorkersLost(f"the coordinator of a trial's workers died: {told}") from None
        if "gone" in result:
            raise WorkersLost(f"Ray Train ended the workers of a trial: {result['gone']}")
        self._heard = result["epoch"]
        return result

    def cleanup(self) -> None:
        """Let the workers go and release what they held."""
        self._coordinator.ask.remote(Command(self._serial + 1, None))
        # Without a coordinator nobody tells them: they end with this process.
        self._driver.join(GOODBYE_SECONDS if alive(self._name) else 0)
        if self._driver.is_alive():
            with suppress(RayActorError):
                controller = ray.get(self._coordinator.controller.remote())
                if controller is not None:
                    ray.kill(controller)
        self._placements.release(self._name)

    def pids(self) -> dict[int, int]:
        """Return the process of each worker, by rank."""
        pids: dict[int, int] = ray.get(self._coordinator.pids.remote())
        return pids

    def _take(self, config: dict[str, Any]) -> None:
        self._config, self._heard = config, 0

    def _drive(self) -> None:
        for key, value in POLL.items():
            os.environ.setdefault(key, value)
        group = self._group
        workers: Any = group.workers if group.least == group.workers else (group.least, group.workers)
        resources = {"CPU": group.cpus, "memory": self._mark} | ({"GPU": group.gpus} if group.gpus else {})
        trainer = TorchTrainer(
            follow_commands,
            train_loop_config={"job": self._job, "coordinator": self._coordinator},
            scaling_config=train.ScalingConfig(
                num_workers=workers, use_gpu=group.gpus > 0, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend=backend(group.gpus)),
            run_config=train.RunConfig(
                name=self._name,
                storage_path=group.scratch,
                failure_config=train.FailureConfig(max_failures=GROUP_RESTARTS),
                callbacks=[TellController(self._coordinator)],  # type: ignore[list-item]  # typed as in Train V1
            ),
        )
        cause = "they were let go"
        try:
            trainer.fit()
        except Exception as exc:  # noqa: BLE001 - told to whoever waits for an answer
            cause = cause_of(exc)
        with suppress(RayActorError):  # without a coordinator nobody waits
            ray.get(self._coordinator.close.remote(cause))


class TellController(train.UserCallback):
    """Callback of Ray Train that tells the coordinator which actor controls the run."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:  # noqa: ARG002
        """Tell it, once per group: its workers begin with a report."""
        self._coordinator.introduce.remote(ray.get_runtime_context().current_actor)


def follow_commands(config: dict[str, Any]) -> None:
    """Run a worker until it is told to end.

    An error that every rank meets alike (a loss that is not finite, parameters that cannot be trained) is the trial's
    answer. Any other leaves the ranks out of step, so this one leaves too, and Ray Train starts the group anew.
    """
    job, coordinator = config["job"], config["coordinator"]
    load(job.plugins)
    communicator = Communicator.of_process_group()
    job.begin()
    first = communicator.rank == 0
    train.report({})
    done: int = communicator.all_gather(ray.get(coordinator.join.remote()) if first else None)[0]  # type: ignore[assignment]
    run: tuple[str, TrialRun] | None = None
    while True:
        command: Command = ray.get(coordinator.next_command.remote(communicator.rank, os.getpid(), done))
        done = command.serial
        if command.trial is None:
            return
        try:
            if not first and MODELS[command.trial["params"]["model"]].fitted:
                continue
            name = command.trial["trial_id"]
            with time_limit(job.epoch_timeout):
                if run is None or run[0] != name:
                    run = None
                    begin_log(job.folder(name), name)
                    run = (name, TrialRun(job, command.trial, get_device(), communicator, command.heard))
                result = run[1].report()
        except (NonFiniteLoss, InputError) as exc:
            run, result = None, failure_of(exc)
        except Exception as exc:
            ray.get(coordinator.broke.remote(cause_of(exc), kind_of(exc)))
            raise
        if first:
            ray.get(coordinator.answer.remote(done, result))


HELD = ".held"
"""Ends the name of a file of `PlacementGroups`."""
MARKS = 2**20
"""Bytes of memory, at most, that mark what a group holds: 1 MiB."""


@dataclass(frozen=True)
class Command:
    """Next command to the workers.

    Attributes:
        serial: counts the commands of a group's life.
        trial: `trial_id`, `params` and `seed` of the trial whose next epoch is wanted; None lets the workers go.
        heard: last epoch of it whose result was heard.
    """

    serial: int
    trial: dict[str, Any] | None
    heard: int = 0


class Coordinator:
    """Hold the current command of a worker group, so that restarted workers can resume it.

    An actor beside the trial's actor, on its node: it ends when that ends, and bears the name of the group in
    `PlacementGroups`.

    Args:
        restarts: times that workers may be lost over one command before it is answered as failed.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self._news = asyncio.Condition()
        self._command: Command | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = -1
        self._taken = False
        self._losses = 0
        self._cause = ""
        self._kind: Failure = "lost"
        self._gone: str | None = None
        self._pids: dict[int, int] = {}
        self._controller: Any = None

    async def ask(self, command: Command) -> dict[str, Any]:
        """Give a command and wait for its answer.

        Returns:
            Rank 0's; a failure when too many groups were lost over it; `{"gone": cause}` without a group.
        """
        async with self._news:
            self._command, self._taken, self._losses = command, False, 0
            self._cause, self._kind = "", "lost"
            self._news.notify_all()
            await self._news.wait_for(lambda: command.serial in self._answers or self._gone is not None)
            return self._answers.pop(command.serial, {"gone": self._gone})

    async def join(self) -> int:
        """Register rank 0 of a new group; a command over which the former group was lost is counted against.

        Returns:
            The last command that is answered, from which all ranks of the group go on.
        """
        async with self._news:
            if self._taken and self._command is not None and self._answered < self._command.serial:
                self._losses += 1
                if self._losses > self._restarts:
                    cause = self._cause or "no cause given: killed, or out of memory"
                    self._settle(
                        self._command.serial,
                        failure(f"workers lost {self._losses} times, the last by: {cause}", self._kind),
                    )
            self._pids.clear()
            self._cause, self._kind = "", "lost"
            return self._answered

    async def next_command(self, rank: int, pid: int, after: int) -> Command:
        """Wait for the command that follows one."""
        self._pids[rank] = pid

        def waiting() -> bool:
            return self._command is not None and self._command.serial > max(after, self._answered)

        async with self._news:
            await self._news.wait_for(waiting)
            assert self._command is not None
            self._taken = True
            return self._command

    async def answer(self, serial: int, result: dict[str, Any]) -> None:
        """Take rank 0's result of a command."""
        async with self._news:
            self._settle(serial, result)

    async def broke(self, cause: str, kind: Failure) -> None:
        """Note why a rank leaves; the first of a group tells why, its peers only that it left."""
        if not self._cause:
            self._cause, self._kind = cause, kind

    async def close(self, cause: str) -> None:
        """End: there will be no group any more."""
        async with self._news:
            self._gone = cause
            self._news.notify_all()

    async def introduce(self, controller: Any) -> None:
        """Keep the handle of the actor that controls the workers."""
        self._controller = controller

    async def controller(self) -> Any:
        """Return that handle; None where no group has come in yet."""
        return self._controller

    async def pids(self) -> dict[int, int]:
        """Return the process of each rank that has come in."""
        return dict(self._pids)

    def _settle(self, serial: int, result: dict[str, Any]) -> None:
        if serial > self._answered:
            self._answered = serial
            self._answers[serial] = result
            self._news.notify_all()


@dataclass(frozen=True)
class PlacementGroups:
    """Know which worker group holds which placement groups, so that none outlives the actor of its trial.

    Ray frees the placement group of a Train run with the whole job, not with the actor that started the run, and its
    own cleaner asks the dashboard, which need not run (ray issues 54305, 58515, 64705). What is left would keep its
    cores until the search ends.

    No actor keeps this. It is a file for each group, written before the group starts and named as its coordinator, of
    which Ray knows whether it lives. The file tells the mark of the group, some bytes of memory that each worker asks
    for, by which Ray's own table shows what the group holds. So whoever lives can release it, whatever process or node
    is lost, and at any moment of a group's start.

    Attributes:
        folder: on storage that every node sees.
    """

    folder: str

    def register(self, name: str) -> int:
        """Return a mark for the workers of a group that is about to start.

        Args:
            name: of the group's coordinator, which lives.

        Raises:
            StorageError: the storage does not take it.
        """
        mark = 1 + secrets.randbelow(MARKS)
        with storing(self._place(name)):
            write_whole(self._place(name), str(mark))
        return mark

    def release(self, *names: str) -> None:
        """Remove what the workers of these names hold.

        Their files stay until the search is over: a controller may outlive its trial's actor for a while, and start
        their group anew.
        """
        marks = {
            int(place.read_text(encoding="utf-8")) for name in names if (place := self._place(name)).exists()
        }
        for group in _marked(marks) if marks else ():
            remove_placement_group(group)

    def release_orphans(self) -> None:
        """Remove what is held by workers whose trial actor is gone."""
        self.release(*(name for name in self._names() if not alive(name)))

    def release_all(self) -> None:
        """Remove everything, and forget it: the search is over."""
        names = self._names()
        self.release(*names)
        for name in names:
            self._place(name).unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        return Path(self.folder) / f"{name}{HELD}"

    def _names(self) -> list[str]:
        return [place.name.removesuffix(HELD) for place in Path(self.folder).glob(f"*{HELD}")]


def _marked(marks: set[int]) -> list[PlacementGroup]:
    """Return the placement groups whose bundles ask for one of these numbers of bytes of memory."""
    identity = type(PlacementGroup.empty().id)
    return [
        PlacementGroup(identity(bytes.fromhex(number)))
        for number, group in placement_group_table().items()
        if group["state"] != "REMOVED"
        and any(bundle.get("memory") in marks for bundle in group["bundles"].values())
    ]


def alive(name: str) -> bool:
    """Return whether an actor of this name lives."""
    try:
        ray.get_actor(name)
    except ValueError:  # Ray's word for an actor that is dead, or never was
        return False
    return True
