"""What Tune's searchers have in common here: the journal is their state, so Tune keeps and tells nothing."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher


class JournalSearcher(Searcher):
    """Hands out trials; whoever derives from it writes `suggest`, and learns from records, not from Tune."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore it, and here the journal restores."""
        return {}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to do: what a trial reports is recorded first."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: how a trial ends is recorded first."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal holds everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
