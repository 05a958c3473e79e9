"""What the actor of a trial and its worker group say to each other, and who holds which placement group."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from hep_ray.search.trial_run import failure
from hep_ray.tracking.records import Failure

PING_SECONDS = 10


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

    An actor of the trial's actor: it goes when that goes.

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

    async def ping(self) -> None:
        """Answer, being alive."""

    def _settle(self, serial: int, result: dict[str, Any]) -> None:
        if serial > self._answered:
            self._answered = serial
            self._answers[serial] = result
            self._news.notify_all()


class Ledger:
    """Which worker group holds which placement group, so that none outlives the actor of its trial.

    Ray frees the placement group of a Train run with the whole job, not with the actor that started the run, and its
    own cleaner asks the dashboard, which need not run (ray issues 54305, 58515, 64705). A group is known from its first
    worker's coming in on; what it held is freed with the job if its actor is lost before that.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[Any, PlacementGroup]] = {}

    def register(self, name: str, mailbox: Any, group: PlacementGroup) -> None:
        """Workers started in this placement group, instead of a former one; they live as long as their mailbox."""
        self.free(name)
        self._held[name] = (mailbox, group)

    def free(self, name: str) -> None:
        """Remove what the workers of this name hold, if anything."""
        if name in self._held:
            remove_placement_group(self._held.pop(name)[1])

    def sweep(self) -> None:
        """Remove what is held by workers whose trial actor is gone."""
        for name in [name for name, (mailbox, _) in self._held.items() if not _alive(mailbox)]:
            self.free(name)

    def free_all(self) -> None:
        """Remove everything: the search is over."""
        for name in list(self._held):
            self.free(name)


def _alive(mailbox: Any) -> bool:
    try:
        ray.get(mailbox.ping.remote(), timeout=PING_SECONDS)
    except RayActorError:
        return False
    except GetTimeoutError:
        return True
    return True
