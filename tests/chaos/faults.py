"""What is killed, what a person then starts again, and when the search has got over it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.rig import Rig, tree

TRIES = 40
LATEST = 5
"""Epoch, of eight, after which a trial counts as about to end."""
LOST = ("actor", "node")
"""Faults of which the journal tells what they interrupted."""
LONGEST_AWAY = 3.0
"""Seconds, at most, until somebody starts again what was killed."""


@dataclass
class Fault:
    """One that was injected.

    Attributes:
        kind: a key of `KINDS`.
        victim: what was killed, in words.
        at: time of the kill.
        seconds: from the kill until the search had got over it.
        before: epochs that the journal held at the kill.
        interrupted: trials that were being trained.
    """

    kind: str
    victim: str = ""
    at: float = 0.0
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
    back = KINDS[kind](rig, dice, fault)
    rig.until(lambda: back(fault.at) or _over(rig), f"{kind} {fault.victim} is got over")
    fault.seconds = time.time() - fault.at
    if rig.stacked and kind in LOST:  # a stack's trial that waits for another stack is no longer its process'
        fault.interrupted &= rig.lost(fault.at)
    return fault


def _over(rig: Rig) -> bool:
    assert rig.driver is not None
    return rig.driver.poll() == 0


def _away(dice: random.Random) -> None:
    time.sleep(dice.uniform(0.5, LONGEST_AWAY))


Back = Callable[[float], bool]


def _actor(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """A process that trains a trial, or a stack; over when each of those tells of its next epoch, or of its end."""
    running = _training(rig)
    fault.victim = dice.choice(sorted(running)) if running else "no trial"
    if running:
        killed = running[fault.victim]
        os.kill(killed, signal.SIGKILL)
        fault.interrupted = {name for name, pid in running.items() if pid == killed}
    fault.at = time.time()
    return _each_goes_on(rig, fault)


def _node(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """A worker node with its trials; over when each of those tells of its next epoch, or of its end."""
    node = next(iter(rig.cluster.worker_nodes))
    for _ in range(TRIES):
        running = _training(rig)
        pids = [one.process.pid for some in node.all_processes.values() for one in some]
        members = {process.pid for process in tree(pids)}
        fault.interrupted = {trial for trial, pid in running.items() if pid in members}
        if fault.interrupted:
            break
        time.sleep(0.5)
    fault.victim = f"with {', '.join(sorted(fault.interrupted)) or 'no trial'}"
    rig.kill_nodes([node])
    fault.at = time.time()
    _away(dice)
    rig.add_node()
    return _each_goes_on(rig, fault)


def _each_goes_on(rig: Rig, fault: Fault) -> Back:
    """Over when each trial that was interrupted tells of its next epoch, or of its end.

    Of stacks when the journal tells a loss and any trial goes on: those that are lost wait until the other stacks have
    ended, and one that waited for another stack is its old process' no longer.
    """

    def over(since: float) -> bool:
        if rig.stacked:
            return bool(rig.lost(since)) and rig.moved_on(since)
        return rig.got_over(fault.interrupted, since)

    return over


def _training(rig: Rig) -> dict[str, int]:
    """Trials in mid-life with their processes, waited for a while: one that ends while it is killed tells nothing."""
    for _ in range(TRIES):
        histories = {one.trial_id: len(one.history) for one in rig.state().unfinished()}
        running = {name: pid for name, pid in rig.running().items() if 1 <= histories.get(name, 0) <= LATEST}
        if running:
            return running
        time.sleep(0.2)
    return {}


def _server(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """MLflow's server; over when it holds every epoch that the journal held when it was killed."""
    rig.server.kill()
    fault.at = time.time()
    _away(dice)
    rig.server.start()
    return lambda _: rig.tracked(fault.before)


def _driver(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """The search's own process, started again with --resume; over when a trial tells of an epoch."""
    fault.interrupted = set(rig.running())
    rig.kill_driver()
    fault.at = time.time()
    _away(dice)
    rig.start_driver()
    return rig.moved_on


def _head(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """The head node; the driver has to end by itself, the cluster is started anew, and the search with --resume."""
    fault.interrupted = set(rig.running())
    rig.kill_nodes([rig.cluster.head_node])
    fault.at = time.time()
    assert rig.driver is not None
    driver = rig.driver
    rig.until(lambda: driver.poll() is not None, "the driver ends, its cluster being gone", tend=False)
    fault.victim = f"noticed by the driver, exit code {driver.poll()}"
    rig.kill_nodes(list(rig.cluster.worker_nodes))
    rig.cluster.head_node = None
    rig.start_cluster()
    rig.start_driver()
    return rig.moved_on


def _machine(rig: Rig, dice: random.Random, fault: Fault) -> Back:
    """Driver, server and all nodes at once; over when a trial tells of an epoch."""
    fault.interrupted = set(rig.running())
    rig.stop_machine()
    fault.at = time.time()
    _away(dice)
    rig.server.start()
    rig.start_cluster()
    rig.start_driver()
    return rig.moved_on


KINDS: dict[str, Callable[[Rig, random.Random, Fault], Back]] = {
    "actor": _actor,
    "node": _node,
    "server": _server,
    "driver": _driver,
    "machine": _machine,
    "head": _head,
}
USUAL = ("actor", "node", "server", "driver", "machine")
