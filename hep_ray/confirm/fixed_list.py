"""Tune's searcher where nothing is drawn: a list of trainings, each run once, whatever breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hep_ray.search.searcher import JournalSearcher
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import Record, TrialStarted


class FixedList(JournalSearcher):
    """Hands out trainings that an earlier attempt left unfinished, then those that it had not begun.

    Args:
        runs: what is to be trained, in order; the time of each is set when it is begun.
        state: what the journal tells.
        write: records a training before it runs.
    """

    def __init__(
        self, runs: Sequence[TrialStarted], state: SearchState, write: Callable[[Record], None]
    ) -> None:
        super().__init__()
        self._pending = [trial.started for trial in state.unfinished()]
        self._pending += [run for run in runs if run.trial_id not in state.trials]
        self._begun = set(state.trials)
        self._write = write

    def __len__(self) -> int:
        return len(self._pending)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # noqa: ARG002 - Tune names it
        """The next training, or that there is none."""
        if not self._pending:
            finished: str = self.FINISHED
            return finished
        run = self._pending.pop(0)
        if run.trial_id not in self._begun:
            self._write(run.model_copy(update={"time": time.time()}))
        return {"trial_id": run.trial_id, "params": run.params, "seed": run.seed}
