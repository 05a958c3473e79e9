"""Orders and answers between a trial's actor and its workers, with both ends played here."""

import asyncio

from hep_ray.search.trial import FAILURE, FAILURE_KIND
from hep_ray.search.worker_group import Command, Coordinator

TRIAL = {"trial_id": "t0000", "params": {}, "seed": 0}


async def begun(coordinator, serial=1):
    """An command that waits for its answer."""
    asked = asyncio.create_task(coordinator.ask(Command(serial, TRIAL)))
    await asyncio.sleep(0)
    return asked


def test_every_rank_gets_the_order_and_rank_0_answers():
    async def play():
        coordinator = Coordinator(restarts=3)
        done = await coordinator.join()
        waiting = [asyncio.create_task(coordinator.next_command(rank, 10 + rank, done)) for rank in (0, 1)]
        asked = await begun(coordinator)
        orders = await asyncio.gather(*waiting)
        await coordinator.answer(1, {"epoch": 1})
        return orders, await asked, await coordinator.pids()

    orders, answer, pids = asyncio.run(play())
    assert [command.serial for command in orders] == [1, 1]
    assert answer == {"epoch": 1}
    assert pids == {0: 10, 1: 11}


def test_new_workers_take_up_the_order_that_lost_ones_left_and_not_one_that_is_answered():
    async def play():
        coordinator = Coordinator(restarts=3)
        asked = await begun(coordinator)
        await coordinator.next_command(0, 1, await coordinator.join())
        again = await coordinator.next_command(0, 2, await coordinator.join())
        await coordinator.answer(again.serial, {"epoch": 1})
        first = await asked
        following = asyncio.create_task(coordinator.next_command(0, 3, await coordinator.join()))
        await asyncio.sleep(0)
        idle = not following.done()
        asked = await begun(coordinator, serial=2)
        command = await following
        await coordinator.answer(2, {"epoch": 2})
        return again.serial, first, idle, command.serial, await asked

    assert asyncio.run(play()) == (1, {"epoch": 1}, True, 2, {"epoch": 2})


def test_an_order_that_costs_too_many_groups_is_answered_as_failed_with_the_first_cause():
    async def play():
        coordinator = Coordinator(restarts=1)
        asked = await begun(coordinator)
        for _ in range(2):
            await coordinator.next_command(0, 1, await coordinator.join())
            await coordinator.broke("OutOfMemoryError: tried to allocate 3 GiB", "out_of_memory")
            await coordinator.broke("RuntimeError: connection closed by peer", "lost")
        await coordinator.join()
        return await asked

    answer = asyncio.run(play())
    assert answer["done"]
    assert "lost 2 times" in answer[FAILURE]
    assert "OutOfMemoryError" in answer[FAILURE]
    assert "closed by peer" not in answer[FAILURE]
    assert answer[FAILURE_KIND] == "out_of_memory"


def test_workers_that_start_for_the_first_time_have_lost_nothing():
    async def play():
        coordinator = Coordinator(restarts=0)
        asked = await begun(coordinator)
        await coordinator.next_command(0, 1, await coordinator.join())
        await coordinator.answer(1, {"epoch": 1})
        return await asked

    assert asyncio.run(play()) == {"epoch": 1}


def test_without_a_group_the_answer_says_why():
    async def play():
        coordinator = Coordinator(restarts=0)
        asked = await begun(coordinator)
        await coordinator.close("no node left")
        return await asked

    assert asyncio.run(play()) == {"gone": "no node left"}
