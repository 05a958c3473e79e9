"""Epochs that the trials of a search have, and who pauses, summed as its records come in, not over all of them anew."""

from __future__ import annotations

from typing import Self

from hep_ray.search.state import SearchState
from hep_ray.tracking.records import OfTrial, TrialStarted


class EpochTally:
    """Sums over the trials of a search; what a sum costs does not grow with them.

    A trial has the epochs that it has trained or, while it runs, those that it is to train before its worker gets free.

    Args:
        epochs: full length of a trial.
        references: number of the first trials that are not drawn.

    Attributes:
        all: epochs of all trials.
        drawn: of those that are no references.
        again: of those that train a configuration again.
        paused: number of trials that pause.
    """

    def __init__(self, epochs: int, references: int) -> None:
        self._epochs, self._references = epochs, references
        self._seen = 0
        """Records that are counted."""
        self._of: dict[str, tuple[int, bool, bool]] = {}
        """Trial → its epochs, whether it pauses, and whether it is no reference."""
        self.all = self.drawn = self.again = self.paused = 0

    def follow(self, state: SearchState) -> Self:
        """Count the records that are new; of a journal that is told from its beginning, all."""
        new = state.records[self._seen :]
        self._seen += len(new)
        for record in new:
            if isinstance(record, TrialStarted):
                self._of[record.trial_id] = 0, False, len(self._of) >= self._references
            if isinstance(record, TrialStarted | OfTrial):
                self._count(state, record.trial_id)
        return self

    def _count(self, state: SearchState, name: str) -> None:
        trial, (epochs, paused, drawn) = state.trials[name], self._of[name]
        reached = len(trial.history)
        runs = trial.finished is None and not trial.paused
        given = max(reached, trial.until or self._epochs) if runs else reached
        self.all += given - epochs
        self.drawn += (given - epochs) * drawn
        self.again += (given - epochs) * bool(trial.started.repeat_of)
        self.paused += trial.paused - paused
        self._of[name] = given, trial.paused, drawn
