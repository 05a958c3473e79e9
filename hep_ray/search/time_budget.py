"""End a search in time: after its budget nothing starts, and what runs stops after its epoch, to go on another time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ray.tune import Stopper

from hep_ray.flags import in_words
from hep_ray.search.state import SearchState

SHOWN = 5
"""Trials that are named."""


class TimeBudget(Stopper):
    """Clock of one attempt at a search, which Tune asks after every epoch whether the trial is to stop.

    Args:
        seconds: from now on; None is no limit.

    Attributes:
        seconds: the same.
        stopped: trials that were stopped for it; in the journal they have not ended.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._close: Callable[[], None] = lambda: None
        self.stopped: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles what stops it to restore it, and here the journal restores."""
        return {}

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._deadline

    def closing(self, close: Callable[[], None]) -> TimeBudget:
        """Return this clock, which calls `close` once the time is over, before another trial is asked for."""
        self._close = close
        return self

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Tune names them
        """Tell Tune whether a trial stops after this epoch."""
        if self.spent:
            self._close()
        return self.spent

    def stop_all(self) -> bool:
        """Tell Tune to stop nothing in the midst of an epoch."""
        return False

    def words(self, state: SearchState, trials: int) -> str:
        """Return in words what was done in the time and what was not, and what to type."""
        ended = sum(trial.finished is not None for trial in state.drawn())
        names = sorted(self.stopped)
        listing = ", ".join(names[:SHOWN] + ["…"] * (len(names) > SHOWN))
        stopped = f"; {len(names)} stopped at the budget after an epoch ({listing})" if names else ""
        budget = in_words(self.seconds or 0.0)
        return (
            f"the time budget of {budget} is spent: {ended} of {trials} trials have ended{stopped}: go on with "
            f"--resume, and --time-budget {budget} for as long again"
        )
