"""A trial of several workers: one Ray Train run per trial actor, kept warm from trial to trial.

The actor that Tune knows holds no core and no GPU. It starts a `TorchTrainer` whose workers live in a placement group
of their own and take orders: the next epoch of this trial, the first of another, or to go. So Tune and Train never
reserve the same thing twice, a trial that ASHA stops costs no start of processes, and what was held is given back by
the run itself when it ends in good order, else by the ledger.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train, tune
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hep_ray.errors import InputError, NonFiniteLoss, WorkersLost
from hep_ray.models import MODELS
from hep_ray.plugins import load
from hep_ray.search import trial_log
from hep_ray.search.failures import kind_of
from hep_ray.search.mailbox import Ledger, Mailbox, Order, alive
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.trial import TrialActor
from hep_ray.search.trial_run import TrialJob, TrialRun, cause_of, failure_of
from hep_ray.training.distributed import Communicator, backend

RESTARTS = 3
"""Times that an epoch is tried again, from the last checkpoint, when a worker or its node is lost."""
GROUP_RESTARTS = 2 * RESTARTS
"""Times that Ray Train starts the workers of one actor anew, before Tune tries the trial with another actor."""
WAIT_SECONDS = 10
"""Between two looks for placement groups that a lost trial actor left behind, while workers cannot start."""
GOODBYE_SECONDS = 20
"""For workers to end in good order before they are made to."""
DRIVER: dict[str, int | float] = {"memory": 1}
"""What the trial's actor asks of Tune, which refuses requests of nothing: one byte, and no part of a core."""
POLL = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""How soon Ray Train sees that a worker is lost, s; it looks every 2 s by default."""


@dataclass(frozen=True)
class WorkerGroup:
    """What the workers of one trial hold.

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
    """What Tune is to run, with its resources; on leaving, everything that trials still held is freed."""
    if plan.workers_per_trial == 1:
        alone = {"cpu": plan.cpus_per_trial, "gpu": plan.gpus_per_trial}
        yield tune.with_resources(tune.with_parameters(TrialActor, job=job), alone)
        return
    group = WorkerGroup(
        plan.workers_per_trial,
        plan.min_workers_per_trial,
        plan.cpus_per_trial,
        int(plan.gpus_per_trial),
        str(scratch / "train"),
    )
    ledger = Ledger(str(scratch / "held"))
    ledger.free_all()  # of a driver that was killed; Ray has freed it with that driver's job
    try:
        yield tune.with_resources(
            tune.with_parameters(GroupActor, job=job, group=group, ledger=ledger),
            tune.PlacementGroupFactory([DRIVER]),
        )
    finally:
        ledger.free_all()


class GroupActor(tune.Trainable):
    """Tune's end of a worker group; trains trial after trial with it, as `TrialActor` does alone."""

    _driver: threading.Thread
    _told: int

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], job: TrialJob, group: WorkerGroup, ledger: Ledger
    ) -> None:
        """Start the workers and give them their first trial."""
        self._job, self._group, self._ledger = job, group, ledger
        self._name = uuid.uuid4().hex
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(num_cpus=0)(Mailbox).options(name=self._name, scheduling_strategy=beside)
        self._mailbox: Any = mailbox.remote(RESTARTS)
        self._serial = 0
        self._take(config)
        self._mark = ledger.enter(self._name)
        ledger.sweep()
        self._driver = threading.Thread(target=self._drive, daemon=True)
        self._driver.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Give the workers another trial."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; a failure ends this trial, not the workers and not the search.

        Raises:
            WorkersLost: Ray Train gave up, or the mailbox died.
        """
        self._serial += 1
        answer = self._mailbox.ask.remote(Order(self._serial, self._config, self._told))
        while not ray.wait([answer], timeout=WAIT_SECONDS)[0]:
            self._ledger.sweep()
        try:
            result: dict[str, Any] = ray.get(answer)
        except RayActorError as fault:
            told = str(fault).replace("\n", " ")
            raise WorkersLost(
                f"a trial talks to its workers through a mailbox beside it; it died: {told}"
            ) from None
        if "gone" in result:
            raise WorkersLost(f"a trial needs its workers; Ray Train ended them: {result['gone']}")
        self._told = result["epoch"]
        return result

    def cleanup(self) -> None:
        """Let the workers go and give back what they held."""
        self._mailbox.ask.remote(Order(self._serial + 1, None))
        # Without a mailbox nobody tells them: they end with this process.
        self._driver.join(GOODBYE_SECONDS if alive(self._name) else 0)
        if self._driver.is_alive():
            with suppress(RayActorError):
                controller = ray.get(self._mailbox.controller.remote())
                if controller is not None:
                    ray.kill(controller)
        self._ledger.free(self._name)

    def pids(self) -> dict[int, int]:
        """Process of each worker, by rank."""
        pids: dict[int, int] = ray.get(self._mailbox.pids.remote())
        return pids

    def _take(self, config: dict[str, Any]) -> None:
        self._config, self._told = config, 0

    def _drive(self) -> None:
        for key, value in POLL.items():
            os.environ.setdefault(key, value)
        group = self._group
        workers: Any = group.workers if group.least == group.workers else (group.least, group.workers)
        resources = {"CPU": group.cpus, "memory": self._mark} | ({"GPU": group.gpus} if group.gpus else {})
        trainer = TorchTrainer(
            serve,
            train_loop_config={
                "job": self._job,
                "mailbox": self._mailbox,
            },
            scaling_config=train.ScalingConfig(
                num_workers=workers, use_gpu=group.gpus > 0, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend=backend(group.gpus)),
            run_config=train.RunConfig(
                name=self._name,
                storage_path=group.scratch,
                failure_config=train.FailureConfig(max_failures=GROUP_RESTARTS),
                callbacks=[Introduce(self._mailbox)],  # type: ignore[list-item]  # typed as in Train V1
            ),
        )
        cause = "they were let go"
        try:
            trainer.fit()
        except Exception as fault:  # noqa: BLE001 - told to whoever waits for an answer
            cause = cause_of(fault)
        with suppress(RayActorError):  # without a mailbox nobody waits
            ray.get(self._mailbox.close.remote(cause))


class Introduce(train.UserCallback):
    """Tells the mailbox, from within it, which actor controls the Train run."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:  # noqa: ARG002
        """Called once per group, for the report with which its workers begin."""
        self._mailbox.introduce.remote(ray.get_runtime_context().current_actor)


def serve(config: dict[str, Any]) -> None:
    """A worker's life: do as the orders say, until the one to go.

    An error that every rank meets alike (a loss that is not finite, parameters that cannot be trained) is the trial's
    answer. Any other leaves the ranks out of step, so this one leaves too, and Ray Train starts the group anew.
    """
    job, mailbox = config["job"], config["mailbox"]
    load(job.plugins)
    communicator = Communicator.of_process_group()
    torch.set_num_threads(job.cpus)
    first = communicator.rank == 0
    train.report({})
    done: int = communicator.everyone(ray.get(mailbox.join.remote()) if first else None)[0]  # type: ignore[assignment]
    run: tuple[str, TrialRun] | None = None
    while True:
        order: Order = ray.get(mailbox.next_order.remote(communicator.rank, os.getpid(), done))
        done = order.serial
        if order.trial is None:
            return
        try:
            if not first and MODELS[order.trial["params"]["model"]].fitted:
                continue
            name = order.trial["trial_id"]
            with trial_log.time_limit(job.epoch_timeout):
                if run is None or run[0] != name:
                    run = None
                    trial_log.begin(job.folder(name), name)
                    run = (name, TrialRun(job, order.trial, get_device(), communicator, order.told))
                result = run[1].report()
        except (NonFiniteLoss, InputError) as fault:
            run, result = None, failure_of(fault)
        except Exception as fault:
            ray.get(mailbox.broke.remote(cause_of(fault), kind_of(fault)))
            raise
        if first:
            ray.get(mailbox.answer.remote(done, result))
