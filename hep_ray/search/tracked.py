"""A search and its tracker: what MLflow does not take is told when everything else is done, and stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from hep_ray.errors import TrackingUnavailable
from hep_ray.tracking.mlflow import MlflowTracker


def aside(console: Console) -> Callable[[str], None]:
    """A way to tell something beside the progress display."""
    return partial(console.print, highlight=False, soft_wrap=True, markup=False)


def close(tracker: MlflowTracker) -> TrackingUnavailable | None:
    """Flush the tracker; its fault is told only after the leaderboard is written."""
    try:
        tracker.close()
    except TrackingUnavailable as fault:
        return fault
    return None


def attach(tracker: MlflowTracker, artifact: Path) -> TrackingUnavailable | None:
    """Store a file with the tracker's parent run; its fault is told later."""
    try:
        tracker.attach(artifact)
    except TrackingUnavailable as fault:
        return fault
    return None
