"""Batches that a thread makes ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import torch

from hep_ray.loading.batches import prefetched
from hep_ray.loading.copies import sent, takes_pinned
from tests.facts import raises


def test_items_come_in_order_and_the_thread_ends() -> None:
    maker = []

    def source() -> Iterator[int]:
        maker.append(threading.current_thread())
        yield from range(20)

    assert list(prefetched(source(), "cuda", 3)) == list(range(20))
    assert maker[0] is not threading.current_thread()
    assert not maker[0].is_alive()


def test_no_more_items_are_made_than_fit_and_closing_closes_their_source() -> None:
    made: list[int] = []
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    items = prefetched(source(), "cuda", 3)
    assert next(items) == 0
    while len(made) < 4:  # one given, three waiting
        time.sleep(0.01)
    items.close()  # type: ignore[attr-defined]
    assert made == [0, 1, 2, 3]
    assert closed == [True]


def test_what_the_source_raises_is_raised_where_items_are_used() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("no more")

    items = prefetched(source(), "cuda")
    assert next(items) == 1
    with raises(ZeroDivisionError, "no more"):
        next(items)


def test_copies_to_a_gpu_come_from_pinned_memory_and_those_to_a_processor_from_none() -> None:
    assert takes_pinned("cuda")
    assert takes_pinned(torch.device("cuda", 1))
    assert not takes_pinned("cpu")
    values = np.arange(6.0).reshape(2, 3)
    here = sent(values, "cpu")
    assert here.data_ptr() == values.ctypes.data  # no copy at all
    assert not here.is_pinned()
