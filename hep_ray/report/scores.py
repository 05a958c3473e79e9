"""Scores of models to draw: of the confirmation's test split or, before it, of the validation split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hep_ray.confirm.confirmation import FOLDER, Confirmation
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import LABEL, EventSchema
from hep_ray.errors import InvalidEvents, StorageError
from hep_ray.loading.batches import Batch, BatchRequest, Events
from hep_ray.report.performance import Performance, performance_of
from hep_ray.search.state import TrialState
from hep_ray.training.checkpoint import BEST
from hep_ray.training.restore import restore_model
from hep_ray.training.step import evaluate
from hep_ray.training.testing import read_scores
from hep_ray.training.validation import BATCH

MOST_EVENTS = 100_000
"""Events of the validation split that are evaluated, at most."""


@dataclass(frozen=True)
class Scored:
    """A configuration with its evaluations, one per seed.

    Attributes:
        name: of the contender, or of the trial.
        baseline: whether it is the one to beat.
        runs: at least one.
    """

    name: str
    baseline: bool
    runs: tuple[Performance, ...]


@dataclass(frozen=True)
class Scores:
    """Everything that is drawn of scores.

    Attributes:
        split: in words, such as `test split`.
        task: of the dataset.
        classes: names, in the order of the labels.
        signal: label of the signal class.
        contenders: best first.
        confirmed: whether they are of the test split, from a confirmation.
        choice: which events these are, where they are not all of the split.
    """

    split: str
    task: str
    classes: tuple[str, ...]
    signal: int
    contenders: tuple[Scored, ...]
    confirmed: bool
    choice: str = ""

    @property
    def events(self) -> int:
        """Events of each evaluation."""
        return int(self.contenders[0].runs[0].confusion.sum())

    @property
    def seeds(self) -> int:
        """Runs of a contender."""
        return len(self.contenders[0].runs)

    @property
    def shown(self) -> tuple[Scored, ...]:
        """The best finalist and the baseline, where there is one: what is drawn one by one."""
        finalists = [one for one in self.contenders if not one.baseline]
        baselines = [one for one in self.contenders if one.baseline]
        return (*finalists[:1], *baselines[:1])

    def place(self, scored: Scored) -> int:
        """Of a contender, and so its colour in every figure."""
        return [one.name for one in self.contenders].index(scored.name)

    @property
    def where(self) -> str:
        """Split, events and seeds, for a caption."""
        runs = f"mean over {self.seeds} seeds" if self.seeds > 1 else "one training"
        chosen = f" ({self.choice})" if self.choice else ""
        biased = "" if self.confirmed else ", by which the trial was chosen"
        return f"{self.split}{biased}: {self.events:,} events{chosen}; {runs}"


def confirmed_scores(confirmation: Confirmation, folder: Path, schema: EventSchema) -> Scores:
    """The scores that a confirmation left, which were made once, on the test split.

    Args:
        confirmation: of the search.
        folder: of the search.
        schema: of its dataset.

    Raises:
        StorageError: a file of scores is absent or holds other classes.
        InvalidEvents: scores are not finite, or a class has no event.
    """

    def read(name: str) -> Performance:
        kept = read_scores(folder / FOLDER / name, schema)
        return performance_of(
            kept.probabilities.astype(np.float64), kept.labels, schema.signal_index, kept.log_odds
        )

    contenders = tuple(
        Scored(one.name, one.role == "baseline", tuple(read(run.scores) for run in one.runs))
        for one in (*confirmation.finalists, confirmation.baseline)
    )
    return Scores("test split", schema.task, schema.classes, schema.signal_index, contenders, confirmed=True)


def validation_scores(trial: TrialState, folder: Path, dataset: Dataset) -> Scores:
    """Evaluate a trial's best model on the validation split.

    Args:
        trial: of the search.
        folder: of the search.
        dataset: that it was trained on.

    Raises:
        StorageError: its model is no longer there.
        CorruptCheckpoint: its model cannot be read back.
        InvalidEvents: a class is absent, or a probability is not finite.
    """
    path = folder / "trials" / trial.trial_id / BEST
    if not path.is_file():
        raise StorageError(f"the model of a trial lies in its folder; {path} is not there")
    schema = dataset.schema
    trained = restore_model(path, schema)
    of_model = _batches(dataset, trained.model.columns)
    found = evaluate(trained.model, trained.loss, of_model, half=trained.half)
    if not np.isfinite(found.probabilities).all():
        raise InvalidEvents(f"probabilities are finite; those of {path} on the validation split are not")
    run = performance_of(
        found.probabilities.astype(np.float64), found.labels, schema.signal_index, found.log_odds
    )
    rows = dataset.rows("val")
    choice = f"of {rows:,}, the first by a hash of their ids" if rows > MOST_EVENTS else ""
    return Scores(
        "validation split",
        schema.task,
        schema.classes,
        schema.signal_index,
        (Scored(trial.trial_id, baseline=False, runs=(run,)),),
        confirmed=False,
        choice=choice,
    )


def _batches(dataset: Dataset, columns: tuple[str, ...]) -> Iterator[Batch]:
    """The validation split, a shard in memory at a time."""
    left = MOST_EVENTS
    for path in dataset.paths("val"):
        for arrays in _shard(path, dataset.schema, columns):
            labels = arrays.pop(LABEL)[:left]
            if not len(labels):
                return
            left -= len(labels)
            inputs = {name: values[: len(labels)] for name, values in arrays.items()}
            yield from Events.from_arrays(inputs, labels).batches(BatchRequest(BATCH))


def _shard(
    path: Path, schema: EventSchema, columns: tuple[str, ...]
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    for batch in pq.read_table(path, columns=[LABEL, *columns]).to_batches():
        values = {name: schema.column(name).to_numpy(batch.column(name)) for name in columns}
        yield {LABEL: batch.column(LABEL).to_numpy(), **values}
