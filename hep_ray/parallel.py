"""Independent pieces of work: in this process, or as Ray tasks of one CPU each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from hep_ray.cluster import connect, result
from hep_ray.errors import Infeasible, InvalidConfig

T = TypeVar("T")
R = TypeVar("R")


def in_tasks(
    work: Callable[[T], R], pieces: Iterable[T], workers: int | None = None
) -> Iterator[tuple[T, R]]:
    """Do every piece of work as a Ray task; pieces and results in the order in which the tasks end.

    Args:
        work: an importable function of one piece.
        pieces: taken one by one as workers get free.
        workers: tasks at a time; the CPUs of the cluster unless given.

    Raises:
        InvalidConfig: `workers` is below 1.
        Infeasible: the cluster has fewer CPUs than `workers`.
        HepRayError: whatever named error a task raises.
        WorkersLost: a task's process was lost too often.
    """
    if workers is not None and workers < 1:
        raise InvalidConfig(f"work is done by 1 worker or more; got {workers}")
    import ray

    with cluster():
        cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if workers is not None and workers > cpus:
            raise Infeasible(f"each worker takes 1 CPU; asked for {workers} of the {cpus} in the cluster")
        task = ray.remote(num_cpus=1)(work)
        waiting = iter(pieces)
        running: dict[Any, T] = {}
        try:
            while True:
                while len(running) < (workers or cpus) and (piece := next(waiting, None)) is not None:
                    running[task.remote(piece)] = piece
                if not running:
                    return
                (done,), _ = ray.wait(list(running))
                yield running.pop(done), result(done)
        finally:
            for reference in running:
                ray.cancel(reference)


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """The Ray cluster at hand, or one of this machine for as long as it is needed."""
    import ray

    if ray.is_initialized():
        yield
        return
    connect()
    try:
        yield
    finally:
        ray.shutdown()
