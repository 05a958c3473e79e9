"""A search as its journal tells it: every trial, its epochs and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.plugins import Plugin
from hep_ray.tracking.client import database_file, default_uri
from hep_ray.tracking.journal import FILE_NAME, read_records
from hep_ray.tracking.records import (
    CodeAccepted,
    EpochFinished,
    OptionsChanged,
    Record,
    SearchFinished,
    SearchStarted,
    Status,
    TrialFinished,
    TrialLost,
    TrialStarted,
    TrialTested,
)

OF_MODEL = ("parameters", "flops")
"""Costs of a model, the same in every epoch."""
TIMES = ("epoch_seconds", "cpu_seconds", "gpu_seconds")
"""Costs of a training; the first depends on what else the machine does."""


@dataclass
class TrialState:
    """One trial so far.

    Attributes:
        started: its parameters.
        history: metrics per epoch, in order.
        used: `cpu_seconds`, and with a GPU `gpu_seconds`, of its epochs; empty in journals that do not tell.
        losses: times that its process or node was lost.
        finished: how it ended; None while it has not.
        tested: what the test split said of it, in a confirmation; None before, and always in a search.
    """

    started: TrialStarted
    history: list[dict[str, float]] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    losses: list[TrialLost] = field(default_factory=list)
    finished: TrialFinished | None = None
    tested: TrialTested | None = None

    @property
    def trial_id(self) -> str:
        """Name of the trial in this search."""
        return self.started.trial_id

    @property
    def status(self) -> Status:
        """How it ended, or `running`."""
        return self.finished.status if self.finished else "running"

    def take(self, record: EpochFinished) -> None:
        """Take in an epoch."""
        self.history.append(record.metrics)
        for name, seconds in record.used.items():
            self.used[name] = self.used.get(name, 0.0) + seconds

    @property
    def seconds(self) -> float:
        """Time spent in its epochs, s."""
        return self.total("epoch_seconds")

    @property
    def figures(self) -> dict[str, float]:
        """Return the known costs of the trial: `parameters`, `flops` of one event, `cpu_seconds`, `gpu_seconds`."""
        last = self.history[-1] if self.history else {}
        return {name: last[name] for name in OF_MODEL if name in last} | self.used

    def total(self, metric: str) -> float:
        """Return a cost of the model (`parameters`, `flops`) as it is, of any other metric the sum over the epochs."""
        if metric in OF_MODEL or metric in TIMES[1:]:
            return self.figures[metric]
        return sum(metrics[metric] for metrics in self.history)

    def best(self, metric: str, mode: str) -> dict[str, float] | None:
        """Metrics of the epoch with the best value of a metric (the earliest of equals), if any epoch ended."""
        if not self.history:
            return None
        pick = max if mode == "max" else min
        return pick(self.history, key=lambda metrics: metrics[metric])


@dataclass
class SearchState:
    """The journal, folded.

    Attributes:
        started: what the search is; its options are those of the last time that it was resumed with others.
        trials: by their id, in the order in which they were drawn.
        finished: whether all of them ended, and as many as were asked for.
    """

    started: SearchStarted | None = None
    trials: dict[str, TrialState] = field(default_factory=dict)
    finished: bool = False
    accepted: CodeAccepted | None = None

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Files of the user's own that register the components of its latest trials."""
        if self.accepted is not None:
            return self.accepted.plugins
        return self.started.plugins if self.started is not None else ()

    @classmethod
    def read(cls, folder: Path) -> SearchState:
        """Read the journal in a search's folder; an empty state where none was run there."""
        return cls.fold(read_records(folder)) if (folder / FILE_NAME).exists() else cls()

    @classmethod
    def fold(cls, records: Iterable[Record]) -> SearchState:
        """Return the state after these records."""
        state = cls()
        for record in records:
            state.apply(record)
        return state

    def apply(self, record: Record) -> None:
        """Take in one record."""
        if isinstance(record, SearchStarted):
            self.started = record
        elif isinstance(record, OptionsChanged):
            assert self.started is not None
            self.started = self.started.model_copy(update={"options": record.options})
            drawn = len(self.trials) - len(self.started.points_to_evaluate)
            self.finished &= (record.options.get("trials") or 0) <= drawn
        elif isinstance(record, TrialStarted):
            self.trials[record.trial_id] = TrialState(record)
            self.finished = False
        elif isinstance(record, EpochFinished):
            self.trials[record.trial_id].take(record)
        elif isinstance(record, TrialLost):
            self.trials[record.trial_id].losses.append(record)
        elif isinstance(record, TrialFinished):
            self.trials[record.trial_id].finished = record
        elif isinstance(record, TrialTested):
            self.trials[record.trial_id].tested = record
        elif isinstance(record, CodeAccepted):
            self.accepted = record
        elif isinstance(record, SearchFinished):
            self.finished = True

    def drawn(self) -> list[TrialState]:
        """Return all trials in the order in which they were drawn, as a copy: another thread may add some."""
        return list(self.trials.values())

    def unfinished(self) -> list[TrialState]:
        """Return the trials that have not ended, in the order in which they were drawn."""
        return [trial for trial in self.drawn() if trial.finished is None]

    def to_run(self, trials: int) -> int:
        """Return how many trainings a search of so many trials has before it: those begun, and those not drawn yet."""
        return len(self.unfinished()) + max(0, trials - len(self.trials))

    def ranked(self, metric: str, mode: str) -> list[TrialState]:
        """Return the trials, best first; then the failed ones, whatever they had reached; those without an epoch last.

        Of equals, and of those without a rank, the one that started last comes first: so does MLflow order them.
        """
        sign = -1 if mode == "max" else 1

        def key(trial: TrialState) -> tuple[int, float, int, int]:
            best = trial.best(metric, mode)
            failed = trial.status == "failed"
            place = 2 if best is None else int(failed)
            value = sign * best[metric] if best and not failed else 0.0
            return (place, value, -int(1000 * trial.started.time), -trial.started.number)

        return sorted(self.drawn(), key=key)


def recorded_uri(folder: Path, started: SearchStarted | None) -> str:
    """Return where MLflow holds a search: as recorded, else in the database of the storage that its folder lies in.

    Of a storage that was copied or moved with its database it is the database that lies in it now.
    """
    recorded: str | None = started.options.get("tracking_uri") if started else None
    own = default_uri(folder.parent)
    if recorded is None or _was_beside(database_file(recorded), database_file(own), folder.name):
        return own
    return recorded


def _was_beside(file: Path | None, own: Path | None, search: str) -> bool:
    """Return whether a recorded database is that of the storage that this one is a copy of, or was moved from."""
    if file is None or own is None or not own.is_file() or file.name != own.name:
        return False
    return not file.is_file() or (file.parent / search / FILE_NAME).is_file()


def searches_in(storage: Path) -> list[str]:
    """Return the names of the searches that a storage holds."""
    return sorted(path.parent.name for path in storage.glob(f"*/{FILE_NAME}"))


def search_folder(storage: Path, search: str) -> Path:
    """Return the folder of a search in a storage.

    Raises:
        StorageError: there is none of that name; those that exist are listed.
    """
    known = searches_in(storage)
    if search not in known:
        raise StorageError(f"{storage} holds no search '{search}'; it holds: {', '.join(known) or 'none'}")
    return storage / search
