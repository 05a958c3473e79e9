"""When a trial gives up: after so many epochs in a row that were none the better for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """What more or less is better of.

    Attributes:
        metric: key of the per-epoch report.
        mode: which of the two.
    """

    metric: str
    mode: Literal["max", "min"]


VAL_LOSS = Goal("val_loss", "min")


class Patience:
    """Counts the epochs since the best one.

    Args:
        epochs: that may pass without a better one; 0 never ends.
        goal: what is compared.
    """

    def __init__(self, epochs: int, goal: Goal) -> None:
        self._epochs, self._goal = epochs, goal
        self._best: float | None = None
        self._stale = 0

    @property
    def ended(self) -> bool:
        """Whether it is at its end."""
        return 0 < self._epochs <= self._stale

    def see(self, metrics: Mapping[str, float]) -> None:
        """Take in an epoch."""
        value = metrics[self._goal.metric]
        sign = 1 if self._goal.mode == "min" else -1
        if self._best is None or sign * value < sign * self._best:
            self._best, self._stale = value, 0
        else:
            self._stale += 1

    def state_dict(self) -> dict[str, Any]:
        """To go on from."""
        return {"best": self._best, "stale_epochs": self._stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, or from one of the time when it was always the validation loss."""
        self._best = state["best"] if "best" in state else state["lowest_loss"]
        self._stale = state["stale_epochs"]
