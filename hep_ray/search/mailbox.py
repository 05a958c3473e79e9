"""What the actor of a trial and its worker group say to each other, and who holds which placement group."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from hep_ray.files import storing, write_whole
from hep_ray.search.trial_run import failure
from hep_ray.tracking.records import Failure

HELD = ".held"
"""Ends the name of a file of the ledger."""
MARKS = 2**20
"""Bytes of memory, at most, that mark what a group holds: 1 MiB."""


@dataclass(frozen=True)
class Order:
    """What the workers are to do next.

    Attributes:
        serial: counts the orders of a group's life.
        trial: `trial_id`, `params` and `seed` of the trial whose next epoch is wanted; None lets the workers go.
        told: last epoch of it whose result was heard.
    """

    serial: int
    trial: dict[str, Any] | None
    told: int = 0


class Mailbox:
    """Orders one way, answers the other; outlives the workers, so that new ones take up what the lost ones left.

    An actor of the trial's actor, on its node: it goes when that goes, and bears the name of the group in the ledger.

    Args:
        restarts: times that workers may be lost over one order before it is answered as failed.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self._news = asyncio.Condition()
        self._order: Order | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = -1
        self._taken = False
        self._losses = 0
        self._cause = ""
        self._kind: Failure = "lost"
        self._gone: str | None = None
        self._pids: dict[int, int] = {}
        self._controller: Any = None

    async def ask(self, order: Order) -> dict[str, Any]:
        """Give an order and wait for its answer.

        Returns:
            Of rank 0; a failure when it was too much for too many groups; `{"gone": cause}` without a group.
        """
        async with self._news:
            self._order, self._taken, self._losses = order, False, 0
            self._cause, self._kind = "", "lost"
            self._news.notify_all()
            await self._news.wait_for(lambda: order.serial in self._answers or self._gone is not None)
            return self._answers.pop(order.serial, {"gone": self._gone})

    async def join(self) -> int:
        """Rank 0 of a new group comes in; an order that the former group was lost over is counted against it.

        Returns:
            The last order that is answered, from which all ranks of the group go on.
        """
        async with self._news:
            if self._taken and self._order is not None and self._answered < self._order.serial:
                self._losses += 1
                if self._losses > self._restarts:
                    cause = self._cause or "no cause given: killed, or out of memory"
                    self._settle(
                        self._order.serial,
                        failure(f"workers lost {self._losses} times, the last by: {cause}", self._kind),
                    )
            self._pids.clear()
            self._cause, self._kind = "", "lost"
            return self._answered

    async def next_order(self, rank: int, pid: int, after: int) -> Order:
        """Wait for the order that follows one."""
        self._pids[rank] = pid

        def waiting() -> bool:
            return self._order is not None and self._order.serial > max(after, self._answered)

        async with self._news:
            await self._news.wait_for(waiting)
            assert self._order is not None
            self._taken = True
            return self._order

    async def answer(self, serial: int, result: dict[str, Any]) -> None:
        """Rank 0 has done what an order asked."""
        async with self._news:
            self._settle(serial, result)

    async def broke(self, cause: str, kind: Failure) -> None:
        """A rank leaves with an error; the first of a group tells why, those of its peers only that it left."""
        if not self._cause:
            self._cause, self._kind = cause, kind

    async def close(self, cause: str) -> None:
        """There will be no group any more."""
        async with self._news:
            self._gone = cause
            self._news.notify_all()

    async def introduce(self, controller: Any) -> None:
        """The actor that controls the workers tells its handle."""
        self._controller = controller

    async def controller(self) -> Any:
        """Its handle; None where no group has come in yet."""
        return self._controller

    async def pids(self) -> dict[int, int]:
        """Process of each rank that has come in."""
        return dict(self._pids)

    def _settle(self, serial: int, result: dict[str, Any]) -> None:
        if serial > self._answered:
            self._answered = serial
            self._answers[serial] = result
            self._news.notify_all()


@dataclass(frozen=True)
class Ledger:
    """Which worker group holds which placement groups, so that none outlives the actor of its trial.

    Ray frees the placement group of a Train run with the whole job, not with the actor that started the run, and its
    own cleaner asks the dashboard, which need not run (ray issues 54305, 58515, 64705). What is left would keep its
    cores until the search ends.

    No actor keeps the ledger. It is a file for each group, written before the group starts and named as its mailbox,
    of which Ray knows whether it lives. The file tells the group's mark, some bytes of memory that each of its workers
    asks for, by which Ray's own table shows what the group holds. So whoever lives can sweep, whatever process or node
    is lost, and at any moment of a group's start.

    Attributes:
        folder: on storage that every node sees.
    """

    folder: str

    def enter(self, name: str) -> int:
        """Make a mark for the workers of a group that is about to start.

        Args:
            name: of the group's mailbox, which lives.

        Raises:
            StorageError: the storage does not take it.
        """
        mark = 1 + secrets.randbelow(MARKS)
        with storing(self._place(name)):
            write_whole(self._place(name), str(mark))
        return mark

    def free(self, *names: str) -> None:
        """Remove what the workers of these names hold.

        They stay in the ledger until the search is over: a controller may outlive its trial's actor for a while, and
        start their group anew.
        """
        marks = {
            int(place.read_text(encoding="utf-8")) for name in names if (place := self._place(name)).exists()
        }
        for group in _marked(marks) if marks else ():
            remove_placement_group(group)

    def sweep(self) -> None:
        """Remove what is held by workers whose trial actor is gone."""
        self.free(*(name for name in self._names() if not alive(name)))

    def free_all(self) -> None:
        """Remove everything, and forget it: the search is over."""
        names = self._names()
        self.free(*names)
        for name in names:
            self._place(name).unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        return Path(self.folder) / f"{name}{HELD}"

    def _names(self) -> list[str]:
        return [place.name.removesuffix(HELD) for place in Path(self.folder).glob(f"*{HELD}")]


def _marked(marks: set[int]) -> list[PlacementGroup]:
    """The placement groups whose bundles ask for one of these numbers of bytes of memory."""
    identity = type(PlacementGroup.empty().id)
    return [
        PlacementGroup(identity(bytes.fromhex(number)))
        for number, group in placement_group_table().items()
        if group["state"] != "REMOVED"
        and any(bundle.get("memory") in marks for bundle in group["bundles"].values())
    ]


def alive(name: str) -> bool:
    """Whether an actor of this name lives."""
    try:
        ray.get_actor(name)
    except ValueError:  # Ray's word for an actor that is dead, or never was
        return False
    return True
