"""Trials that Ray's memory monitor ends are lost processes, which Tune does not know by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

HOOK = "_actor_task_failed"
"""Tune's method that is given each error of an actor; there is no public place to tell it apart."""


@contextmanager
def memory_kills_are_losses() -> Iterator[None]:
    """Let Tune take a process that was ended for its node's memory as it takes any that died.

    Ray raises `OutOfMemoryError` for it, which is no `RayActorError`; Tune (2.60) knows no other error of an actor, and
    ends the whole search with a `RuntimeError`.
    """
    failed = getattr(RayActorManager, HOOK)

    def as_loss(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    setattr(RayActorManager, HOOK, as_loss)
    try:
        yield
    finally:
        setattr(RayActorManager, HOOK, failed)
