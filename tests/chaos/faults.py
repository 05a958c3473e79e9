"""What is killed, what a person then starts again, and when the search has got over it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.rig import Rig, tree

LONGEST_AWAY = 3.0
"""Seconds, at most, until somebody starts again what was killed."""


@dataclass
class Fault:
    """One that was injected.

    Attributes:
        kind: a key of `KINDS`.
        victim: what was killed, in words.
        seconds: from the kill until the search had got over it.
        before: epochs that the journal held at the kill.
        interrupted: trials that were being trained.
    """

    kind: str
    victim: str = ""
    seconds: float = 0.0
    before: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    interrupted: set[str] = field(default_factory=set)


def inject(kind: str, rig: Rig, dice: random.Random) -> Fault | None:
    """Kill, start again, wait until all goes on; None where the search ended before there was anything to kill.

    Raises:
        Stuck: it does not go on.
    """
    rig.until(lambda: bool(rig.running()) or _over(rig), "a trial is being trained")
    time.sleep(dice.uniform(0, 1.0))
    fault = Fault(kind)
    if _over(rig):
        return None
    fault.before = rig.epochs()
    start = time.time()
    back = KINDS[kind](rig, dice, fault)
    rig.until(lambda: back(start) or _over(rig), f"{kind} {fault.victim} is got over")
    fault.seconds = time.time() - start
    return fault


def _over(rig: Rig) -> bool:
    assert rig.driver is not None
    return rig.driver.poll() == 0


def _away(dice: random.Random) -> None:
    time.sleep(dice.uniform(0.5, LONGEST_AWAY))


Back = Callable[[float], bool]


def _actor(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """A process that trains a trial; over when that trial tells of its next epoch, or of its end."""
    running = rig.running()
    fault.victim = dice.choice(sorted(running)) if running else "none"
    if running:
        os.kill(running[fault.victim], signal.SIGKILL)
        fault.interrupted = {fault.victim}
    return lambda since: rig.moved_on(fault.interrupted, since)


def _node(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """A worker node with its trials; over when each of those tells of its next epoch, or of its end."""
    node = next(iter(rig.cluster.worker_nodes))
    members = {
        process.pid
        for some in node.all_processes.values()
        for process in tree(one.process.pid for one in some)
    }
    fault.interrupted = {trial for trial, pid in rig.running().items() if pid in members}
    fault.victim = f"with {', '.join(sorted(fault.interrupted)) or 'no trial'}"
    rig.kill_nodes([node])
    _away(dice)
    rig.add_node()
    return lambda since: rig.moved_on(fault.interrupted, since)


def _server(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """MLflow's server; over when it holds every epoch that the journal held when it was killed."""
    rig.server.kill()
    _away(dice)
    rig.server.start()
    return lambda _: rig.tracked(fault.before)


def _driver(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """The search's own process, started again with --resume; over when a trial tells of an epoch."""
    fault.interrupted = set(rig.running())
    rig.kill_driver()
    _away(dice)
    rig.start_driver()
    return lambda since: rig.moved_on(None, since)


def _head(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """The head node; the driver has to end by itself, the cluster is started anew, and the search with --resume."""
    fault.interrupted = set(rig.running())
    rig.kill_nodes([rig.cluster.head_node])
    assert rig.driver is not None
    driver = rig.driver
    rig.until(lambda: driver.poll() is not None, "the driver ends, its cluster being gone", tend=False)
    fault.victim = f"noticed by the driver, exit code {driver.poll()}"
    rig.kill_nodes(list(rig.cluster.worker_nodes))
    rig.cluster.head_node = None
    rig.start_cluster()
    rig.start_driver()
    return lambda since: rig.moved_on(None, since)


def _machine(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """Driver, server and all nodes at once; over when a trial tells of an epoch."""
    fault.interrupted = set(rig.running())
    rig.stop_machine()
    _away(dice)
    rig.server.start()
    rig.start_cluster()
    rig.start_driver()
    return lambda since: rig.moved_on(None, since)


KINDS: dict[str, Callable[[Rig, random.Random, Fault], Back]] = {
    "actor": _actor,
    "node": _node,
    "server": _server,
    "driver": _driver,
    "machine": _machine,
    "head": _head,
}
USUAL = ("actor", "node", "server", "driver", "machine")
