"""What the command line of a search chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hep_ray.errors import InvalidConfig
from hep_ray.flags import STORAGE
from hep_ray.loading.cache import Cache

EPOCH_TIMEOUT = 6 * 3600.0
"""Seconds that an epoch may take unless the search is told another time: what takes longer hangs."""
LONGEST_EPOCH = 366 * 86400.0
"""Seconds; Python's own alarm takes no infinity."""


@dataclass(frozen=True)
class SearchOptions:
    """What the command line chooses.

    Attributes:
        data: dataset folder.
        storage: folder under which every search has its own.
        preset: name of one of the search's presets.
        trials: overrides the preset's number of trials.
        epochs: overrides the preset's number of epochs.
        seed: of draws, initial weights and order of events.
        tracking_uri: MLflow server or database; None is SQLite in the storage.
        cpus_per_trial: cores of each worker of a trial.
        gpus_per_trial: GPUs of each worker of a trial.
        workers_per_trial: processes that train a trial together.
        min_workers_per_trial: how few of them will do while the cluster has no room for all; None is all of them.
        epoch_timeout: seconds that an epoch may take before its trial is ended.
        cache: `resident` loads events into memory, `streaming` reads them in every epoch, `auto` decides.
        memory_budget: GB of a node that the events may take; None is half of the smallest object store.
        grace_epochs: of the search that is resumed, which keeps it where the preset leaves it open.
        source: the search script.
        accept_changed_code: go on although files that register components have changed since the search began.
    """

    data: Path
    storage: Path = STORAGE
    preset: str = "laptop"
    trials: int | None = None
    epochs: int | None = None
    seed: int = 0
    tracking_uri: str | None = None
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0
    workers_per_trial: int = 1
    min_workers_per_trial: int | None = None
    epoch_timeout: float = EPOCH_TIMEOUT
    cache: Cache = "auto"
    memory_budget: float | None = None
    grace_epochs: int | None = None
    source: Path = Path()
    accept_changed_code: bool = False


def check_epoch_timeout(seconds: float) -> None:
    """Refuse a time that no epoch can have.

    Raises:
        InvalidConfig: it is not above 0, or not finite.
    """
    if not 0 < seconds <= LONGEST_EPOCH:
        raise InvalidConfig(
            f"an epoch may take more than 0 s and up to {LONGEST_EPOCH:.0f} s (a year); got --epoch-timeout "
            f"{seconds:g}: give the largest for no limit"
        )
