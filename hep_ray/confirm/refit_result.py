"""Keep what a refit found: one model, trained on training and validation events, beside the confirmed ones.

Read by the commands that print it, promote it and report it; `confirm/refit.py` makes it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from hep_ray.config import Config
from hep_ray.confirm.comparison import seedless, values_of
from hep_ray.confirm.confirmation import FOLDER, INSIDE, ConfirmedRun, Contender, read_record
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import StorageError
from hep_ray.flags import typed
from hep_ray.metrics.crossed import Crossed, aligned, one_more
from hep_ray.search.naming import count_words, plus_minus

REFIT = "refit"
"""Folder of a refit within that of its search, and purpose of its look at the test split."""
FILE_NAME = "refit.json"
TRIAL = "model"


class Refit(Config):
    """Everything that a refit found: one model, trained on training and validation events.

    Attributes:
        search: name.
        search_id: of the search.
        confirmation_id: of the confirmation whose candidate it is.
        dataset_fingerprint: of the dataset of the search, whose events it was trained and tested on.
        data_fingerprint: of the same events as they were divided for it, in `data/`.
        trial: the finalist, as the confirmation names it.
        params: of the configuration, without the seed.
        seed: of the training; neither search nor confirmation used it.
        epoch: after which it ended, whose model it is.
        epochs: full length, which the schedule is of.
        best_epochs: of the confirmed trainings, from which `epoch` follows, see `best_epoch`.
        events: that it learnt from.
        metric: of the test split, by which the confirmation judges.
        metrics: of the test split, `test_accuracy` and so on; no event of it was learnt from.
        checkpoint: its model, relative to the folder of the refit.
        scores: Parquet file of the test split, relative to the same.
        provenance: of the training, as of a search.
        mlflow_run_id: of the training; None where it has none.
    """

    search: str
    search_id: str
    confirmation_id: str
    dataset_fingerprint: str
    data_fingerprint: str
    trial: str
    params: dict[str, Any]
    seed: int
    epoch: int
    epochs: int
    best_epochs: tuple[int, ...]
    events: int
    metric: str
    metrics: dict[str, float]
    checkpoint: str = Field(pattern=INSIDE)
    scores: str = Field(pattern=INSIDE)
    provenance: dict[str, str]
    mlflow_run_id: str | None = None

    @property
    def run(self) -> ConfirmedRun:
        """The training, as a confirmation tells one of its own."""
        return ConfirmedRun(
            trial_id=TRIAL,
            seed=self.seed,
            epoch=self.epoch,
            metrics=self.metrics,
            checkpoint=self.checkpoint,
            scores=self.scores,
            mlflow_run_id=self.mlflow_run_id,
        )

    @property
    def contender(self) -> Contender:
        """The configuration with this training alone."""
        return Contender(name=self.trial, role="finalist", params=self.params, runs=(self.run,), estimates={})


def best_epoch(epochs: Sequence[int]) -> int:
    """Return for how many epochs to train where nothing tells the best one: the median, a half rounded up.

    Args:
        epochs: the best ones by validation, of trainings of the same configuration and length.

    >>> best_epoch([3, 9, 4]), best_epoch([3, 4])
    (4, 4)
    """
    return math.floor(statistics.median(epochs) + 0.5)


def load_refit(folder: Path, *, data: Path | None = None) -> Refit:
    """Load what a refit found, from its folder such as `runs/susy/refit`.

    Args:
        folder: of the refit.
        data: the dataset, where it is no longer where the search found it; for what to type where there is none.

    Raises:
        StorageError: there is none, or the file is not one.
    """
    path = folder / FILE_NAME
    command = typed("hep-ray", REFIT, folder.parent.name, storage=folder.parent.parent, data=data)
    if not path.is_file():
        raise StorageError(f"there is no refit, {path} is not there: type `{command}`")
    try:
        return read_record(Refit, path)
    except StorageError as exc:
        raise StorageError(f"{exc}: type `{command}`, which writes it again") from None


def against_confirmed(
    folder: Path, found: Refit, candidate: Contender, schema: EventSchema
) -> Crossed | None:
    """Compare a refit with the confirmed trainings of its configuration on the test split, paired by event.

    Args:
        folder: of the search.
        found: the refit.
        candidate: the finalist, as it was confirmed.
        schema: of the dataset of the search.

    Returns:
        Refit minus the mean of the confirmed, see `one_more`; None where their scores do not tell.

    Raises:
        StorageError: scores cannot be read, or are of different events.
    """
    ours = values_of(folder / REFIT, schema, found.contender, found.metric)
    theirs = values_of(folder / FOLDER, schema, candidate, found.metric)
    if ours is None or theirs is None:
        return None
    return one_more(*aligned(ours, theirs), seedless=seedless(candidate))


def refit_rows(
    found: Refit, candidate: Contender, confirmed_events: int | None
) -> tuple[list[str], list[list[str]]]:
    """Tabulate metrics of the test split: of the confirmed trainings, and of the refit.

    Args:
        found: the refit.
        candidate: the finalist, as it was confirmed.
        confirmed_events: that its confirmed trainings learnt from; None where they are not known.

    Returns:
        Heads of the columns, and a row for each of the two.
    """
    names = dict.fromkeys((found.metric, "test_auc", "test_accuracy", "test_loss"))
    shown = [name for name in names if name in found.metrics and name in candidate.estimates]
    estimates = [candidate.estimates[name] for name in shown]
    seeds = len(candidate.runs)
    few = "" if confirmed_events is None else f", {confirmed_events} events"
    confirmed = [plus_minus(one.mean, one.sd if seeds > 1 else None) for one in estimates]
    refitted = [plus_minus(found.metrics[name], found.metrics.get(f"{name}_error")) for name in shown]
    return ["", *(name.removeprefix("test_").replace("_", " ") for name in shown)], [
        [f"confirmed, {count_words(seeds, 'seed')}, mean ± s.d.{few}", *confirmed],
        [f"refit, epoch {found.epoch}, ± test sample, {found.events} events", *refitted],
    ]


WHAT_SPEAKS = (
    "Neither learnt from the test split. The refit did from the validation events: it has no value by validation, and "
    "what speaks for the configuration is its confirmation."
)
"""Stands below the table of a refit."""


def refit_difference(found: Refit, both: Crossed | None, level: float) -> str:
    """Say in a sentence how a refit differs from the confirmed trainings, see `against_confirmed`."""
    if both is None:
        return (
            f"The difference in {found.metric} has no error: scores of single events do not tell it, or one confirmed "
            "seed tells no noise of seeds."
        )
    interval = both.interval(level)
    return (
        f"Refit minus confirmed: {found.metric} {both.difference:+.4f} ± {both.error:.4f} "
        f"[{interval.low:+.4f}, {interval.high:+.4f}] at {100 * level:g} %, paired by event "
        f"(seeds ± {both.seed_error:.2g}, test events ± {both.event_error:.2g})."
    )
