"""Orders and answers between a trial's actor and its workers, with both ends played here."""

import asyncio

from hep_ray.search.recorder import FAILURE, FAILURE_KIND
from hep_ray.search.worker_group import Mailbox, Order

TRIAL = {"trial_id": "t0000", "params": {}, "seed": 0}


async def begun(mailbox, serial=1):
    """An order that waits for its answer."""
    asked = asyncio.create_task(mailbox.ask(Order(serial, TRIAL)))
    await asyncio.sleep(0)
    return asked


def test_every_rank_gets_the_order_and_rank_0_answers():
    async def play():
        mailbox = Mailbox(restarts=3)
        done = await mailbox.join()
        waiting = [asyncio.create_task(mailbox.next_order(rank, 10 + rank, done)) for rank in (0, 1)]
        asked = await begun(mailbox)
        orders = await asyncio.gather(*waiting)
        await mailbox.answer(1, {"epoch": 1})
        return orders, await asked, await mailbox.pids()

    orders, answer, pids = asyncio.run(play())
    assert [order.serial for order in orders] == [1, 1]
    assert answer == {"epoch": 1}
    assert pids == {0: 10, 1: 11}


def test_new_workers_take_up_the_order_that_lost_ones_left_and_not_one_that_is_answered():
    async def play():
        mailbox = Mailbox(restarts=3)
        asked = await begun(mailbox)
        await mailbox.next_order(0, 1, await mailbox.join())
        again = await mailbox.next_order(0, 2, await mailbox.join())
        await mailbox.answer(again.serial, {"epoch": 1})
        first = await asked
        following = asyncio.create_task(mailbox.next_order(0, 3, await mailbox.join()))
        await asyncio.sleep(0)
        idle = not following.done()
        asked = await begun(mailbox, serial=2)
        order = await following
        await mailbox.answer(2, {"epoch": 2})
        return again.serial, first, idle, order.serial, await asked

    assert asyncio.run(play()) == (1, {"epoch": 1}, True, 2, {"epoch": 2})


def test_an_order_that_costs_too_many_groups_is_answered_as_failed_with_the_first_cause():
    async def play():
        mailbox = Mailbox(restarts=1)
        asked = await begun(mailbox)
        for _ in range(2):
            await mailbox.next_order(0, 1, await mailbox.join())
            await mailbox.broke("OutOfMemoryError: tried to allocate 3 GiB", "out_of_memory")
            await mailbox.broke("RuntimeError: connection closed by peer", "lost")
        await mailbox.join()
        return await asked

    answer = asyncio.run(play())
    assert answer["done"]
    assert "lost 2 times" in answer[FAILURE]
    assert "OutOfMemoryError" in answer[FAILURE]
    assert "closed by peer" not in answer[FAILURE]
    assert answer[FAILURE_KIND] == "out_of_memory"


def test_workers_that_start_for_the_first_time_have_lost_nothing():
    async def play():
        mailbox = Mailbox(restarts=0)
        asked = await begun(mailbox)
        await mailbox.next_order(0, 1, await mailbox.join())
        await mailbox.answer(1, {"epoch": 1})
        return await asked

    assert asyncio.run(play()) == {"epoch": 1}


def test_without_a_group_the_answer_says_why():
    async def play():
        mailbox = Mailbox(restarts=0)
        asked = await begun(mailbox)
        await mailbox.close("no node left")
        return await asked

    assert asyncio.run(play()) == {"gone": "no node left"}
