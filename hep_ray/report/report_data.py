"""All that a report is made of, gathered once from the journal, the study, the dataset and the confirmation."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna

from hep_ray.addresses import located
from hep_ray.confirm.confirmation import (
    FILE_NAME,
    FOLDER,
    Confirmation,
    Contender,
    earlier_uses,
    load_confirmation,
    uses_of_others,
)
from hep_ray.confirm.refit_result import FILE_NAME as REFIT_FILE
from hep_ray.confirm.refit_result import REFIT, Refit, against_confirmed, load_refit
from hep_ray.conversion.folds import open_fold
from hep_ray.dataset.dataset import Dataset, Manifest
from hep_ray.errors import (
    HepRayError,
    InvalidConfig,
    NothingCompleted,
    PluginFailed,
    StorageError,
    UnreadableInput,
)
from hep_ray.loading.batches import Events, metric_weights
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.metrics.crossed import Crossed
from hep_ray.plugins import restore
from hep_ray.report.divisions import Division, divisions_of
from hep_ray.report.groups import Group, Groups, groups_of
from hep_ray.report.scores import MOST_EVENTS, Scores, confirmed_scores, validation_scores
from hep_ray.report.study import read_state
from hep_ray.search.definition import Search, Stated
from hep_ray.search.naming import Naming, count_words
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.client import sqlite_uri
from hep_ray.tracking.records import SearchStarted
from hep_ray.training.attribution import FEWEST_STEPS, STEPS, Attributions, integrated_gradients
from hep_ray.training.checkpoint import BEST, TrainedModel, restore_model
from hep_ray.training.cost import model_cost

MOST_FLOPS = 2e12
"""Of what a figure asks the best model, about a minute of two cores: of a large model fewer events are asked for."""
MOST_ATTRIBUTED, ENOUGH_ATTRIBUTED, FEWEST_ATTRIBUTED = 1000, 50, 10
"""Events whose gradients are integrated: with as many as are enough a coarser integral buys no more of them."""


@dataclass(frozen=True)
class Refitted:
    """A refit of the confirmed candidate, beside its confirmed trainings.

    Attributes:
        found: the refit.
        candidate: the finalist, as it was confirmed.
        confirmed_events: that its confirmed trainings learnt from; None where the dataset cannot be read.
        both: refit minus confirmed, on the test split; None where scores do not tell.
    """

    found: Refit
    candidate: Contender
    confirmed_events: int | None
    both: Crossed | None


@dataclass(frozen=True)
class ReportData:
    """Content of a report.

    Attributes:
        search: as it was stated.
        folder: of the search.
        state: its journal, folded.
        started: the journal's first record.
        manifest: of its dataset; None where that cannot be read.
        confirmation: of its finalists, if there is one of this search.
        scores: what the figures of scores show; None where they cannot be had.
        study: of Optuna; None where its database is gone.
        notes: what is left out, and why, in sentences.
        moved: dataset folder that was named, for commands; None where it is that of the search.
        dataset: of the search, of whose validation split figures may read; None where it cannot be read.
        refit: of the confirmation's candidate, if there is one.
    """

    search: Search | Stated
    folder: Path
    state: SearchState
    started: SearchStarted
    manifest: Manifest | None
    confirmation: Confirmation | None
    scores: Scores | None
    study: optuna.Study | None
    notes: tuple[str, ...]
    moved: Path | None = None
    dataset: Dataset | None = None
    refit: Refitted | None = None

    @cached_property
    def groups(self) -> Groups:
        """Trials as they are drawn."""
        return groups_of(self.search, self.state)

    @cached_property
    def ranked(self) -> list[TrialState]:
        """Trials that have an epoch and did not fail, best first."""
        ranked = self.state.ranked(self.started.metric, self.started.mode)
        return [trial for trial in ranked if trial.history and trial.status != "failed"]

    @property
    def best(self) -> TrialState:
        """The first of the ranking that has completed."""
        return next(trial for trial in self.ranked if trial.status == "completed")

    @property
    def running(self) -> bool:
        """Whether the search has not ended."""
        return not self.state.finished or bool(self.state.unfinished())

    @cached_property
    def naming(self) -> Naming:
        """Names of the trials by what differs among them."""
        return self.state.naming

    @property
    def varied(self) -> tuple[str, ...]:
        """Parameters that differ among the trials that were drawn."""
        return self.naming.varied

    @cached_property
    def kept_best(self) -> tuple[str, TrainedModel, Dataset]:
        """The best model that is kept, by the name of its trial, and the dataset that judged it, see `judged`.

        That is the first finalist's of a confirmation, else the best trial's.

        Raises:
            StorageError: the dataset or the model is not there.
            CorruptCheckpoint: the model cannot be read back.
        """
        if self.dataset is None:
            raise StorageError("the dataset of the search cannot be read: name it with --data")
        named = [(trial.trial_id, self.folder / "trials" / trial.trial_id / BEST) for trial in self.ranked]
        if self.confirmation is not None:
            first = self.confirmation.finalists[0]
            if (checkpoint := first.runs[0].checkpoint) is not None:
                named.insert(0, (first.name, self.folder / FOLDER / checkpoint))
        kept = [(name, path) for name, path in named if path.is_file()]
        if not kept:
            raise StorageError(f"no model of the trials in {self.folder} is kept any more")
        trial, path = kept[0]
        of_trial = self.state.trials.get(trial)
        judged = self.dataset if self.confirmation is not None or of_trial is None else self.judged(of_trial)
        return trial, restore_model(path, self.dataset.schema), judged

    def judged(self, trial: TrialState) -> Dataset:
        """Return the dataset whose validation split judged a trial: that of the search, or of its fold.

        Raises:
            StorageError: the search's dataset cannot be read.
            ShardMismatch, UnreadableInput, CannotResume: the fold is not there, or not whole.
        """
        if self.dataset is None:
            raise StorageError("the dataset of the search cannot be read: name it with --data")
        folds, weighted = self.started.folds, self.dataset.schema.weight is not None
        if not folds:
            return self.dataset
        return open_fold(self.dataset, trial.started.fold, folds, self.folder, weights=weighted)

    def affordable(self, passes: int) -> int:
        """Return how many events may pass so often through the best model, within `MOST_FLOPS`.

        Raises:
            StorageError, CorruptCheckpoint: see `kept_best`.
        """
        _, trained, dataset = self.kept_best
        flops = trained.metrics.get("flops") or model_cost(trained.model, dataset.schema)["flops"]
        return int(MOST_FLOPS / max(1.0, flops) / passes)

    def validation_events(self, most: int) -> Events:
        """Return the first validation events, as the best model reads them.

        Raises:
            StorageError, CorruptCheckpoint: see `kept_best`.
        """
        _, trained, dataset = self.kept_best
        columns, schema = trained.model.columns, dataset.schema
        stream = ShardStream(schema, RowGroups.of(dataset, "val"), columns, class_sums(dataset, "val"))
        return stream.select(columns, metric_weights(stream, schema)).head(most)

    @cached_property
    def attributions(self) -> Attributions | None:
        """Integrated gradients of the best network that is kept, on the first validation events.

        None of a fitted model.

        Raises:
            StorageError, CorruptCheckpoint: see `kept_best`.
            InvalidConfig: the network is too large to be asked; and, as InvalidEvents, see `integrated_gradients`.
        """
        _, trained, dataset = self.kept_best
        if trained.config.fitted:
            return None
        # Of each point forwards, and backwards, which takes twice as long; then the event and its baseline.
        steps, most = STEPS, self.affordable(3 * STEPS + 2)
        while most < ENOUGH_ATTRIBUTED and steps > FEWEST_STEPS:
            steps //= 2
            most = self.affordable(3 * steps + 2)
        if most < FEWEST_ATTRIBUTED:
            raise InvalidConfig(
                f"gradients are integrated of {FEWEST_ATTRIBUTED} events or more, within {MOST_FLOPS:.0e} FLOPs, about "
                f"a minute of two cores; of this network that is {most}"
            )
        events = self.validation_events(min(most, MOST_ATTRIBUTED))
        return integrated_gradients(trained.model, trained.loss, events, dataset.schema, steps=steps)

    def count(self, status: str) -> int:
        """Trials of a status."""
        return sum(trial.status == status for trial in self.state.trials.values())

    def name_of(self, trial: TrialState) -> str:
        """A trial and what distinguishes it."""
        words = self.naming.words(trial.started.params)
        return trial.trial_id + (f" ({words})" if words else "")


def gather(
    search: Search | Stated, storage: Path, data: Path | None = None, against: Sequence[str] = ()
) -> ReportData:
    """Read everything.

    What cannot be had (a dataset that has moved, a model that is gone) is left out and noted.

    Args:
        search: as it was stated.
        storage: folder of all searches.
        data: dataset folder; that of the search unless given.
        against: quantities in whose bins efficiencies and rejections are shown, see `divisions_of`.

    Raises:
        StorageError: the search was never run there.
        NothingCompleted: no trial has completed.
        UnreadableInput: the dataset that is given is none, or is another one than the search's.
        UnknownName, InvalidConfig: a quantity does not suit the columns.
    """
    state = read_state(search, storage)
    folder = storage / search.name
    started = state.started
    assert started is not None
    if not any(trial.status == "completed" for trial in state.trials.values()):
        counts: Counter[str] = Counter(trial.status for trial in state.trials.values())
        ends = ("failed", "stopped", "running", "paused")
        words = ", ".join(f"{counts[status]} {status}" for status in ends if counts[status])
        raise NothingCompleted(
            f"a report needs a trial that has completed; {folder} has {words or 'no trial'}"
        )
    notes: list[str] = []
    try:
        restore(state.plugins)
    except PluginFailed as exc:
        notes.append(str(exc))
    dataset = _dataset(started, data, notes)
    confirmation = _confirmation(folder, started, notes)
    manifest, study = dataset.manifest if dataset else None, _study(folder, search.name, notes)
    refit = _refit(folder, confirmation, dataset, notes)
    bare = ReportData(
        search, folder, state, started, manifest, confirmation, None, study, (), data, dataset, refit
    )
    scores = None
    if dataset is not None:  # what is divided by was named, so that it is refused and not left out
        judged = _judged(bare, dataset, notes)
        divisions = _divisions(judged or dataset, against, confirmed=confirmation is not None)
        scores = None if judged is None else _scores(bare, judged, divisions, notes)
    return dataclasses.replace(bare, scores=scores, notes=tuple(notes))


def _dataset(started: SearchStarted, given: Path | None, notes: list[str]) -> Dataset | None:
    folder = located(given or str(started.options.get("data", "")))
    try:
        dataset = Dataset.open(folder, weights=started.weights == "on")
        if dataset.fingerprint != started.dataset_fingerprint:
            raise UnreadableInput(
                f"a report reads the dataset of its search, {started.dataset_fingerprint}; "
                f"{folder} is {dataset.fingerprint}"
            )
    except HepRayError as exc:
        if given is not None:
            raise
        notes.append(
            f"Classes and figures of scores are left out, for want of the dataset ({exc}); --data names it."
        )
        return None
    return dataset


def _confirmation(folder: Path, started: SearchStarted, notes: list[str]) -> Confirmation | None:
    if not (folder / FOLDER / FILE_NAME).is_file():
        return None
    confirmation = load_confirmation(folder)
    if confirmation.search_id != started.search_id:
        notes.append(
            f"The confirmation in {folder / FOLDER} is of another search ({confirmation.search_id}) and is left out."
        )
        return None
    # A test split that others looked at is no longer a fair judge.
    fingerprint = confirmation.dataset_fingerprint
    if earlier := earlier_uses(folder, fingerprint, confirmation.confirmation_id):
        notes.append(
            f"The test split had been looked at {count_words(len(earlier), 'time')} for this search before this "
            "confirmation: its finalists or seeds may have been chosen with knowledge of it."
        )
    if others := uses_of_others(folder.parent, folder.name, fingerprint):
        words = ", ".join(f"{name} ({count_words(count, 'time')})" for name, count in others.items())
        notes.append(f"Other searches in this storage looked at the same test split: {words}.")
    return confirmation


def _refit(
    folder: Path, confirmation: Confirmation | None, dataset: Dataset | None, notes: list[str]
) -> Refitted | None:
    """Read the refit of a confirmation's finalist; one of another confirmation is left out and noted."""
    if not (folder / REFIT / REFIT_FILE).is_file():
        return None
    try:
        found = load_refit(folder / REFIT)
    except HepRayError as exc:
        notes.append(f"The refit is left out: {exc}.")
        return None
    if confirmation is None:
        notes.append(f"The refit in {folder / REFIT} is left out, for want of its confirmation.")
        return None
    if not (folder / REFIT / found.checkpoint).is_file():
        notes.append(f"The refit is left out: its model {folder / REFIT / found.checkpoint} is not there.")
        return None
    candidate = next((one for one in confirmation.finalists if one.name == found.trial), None)
    if candidate is None or found.confirmation_id != confirmation.confirmation_id:
        notes.append(f"The refit in {folder / REFIT} is of another confirmation and is left out.")
        return None
    if dataset is None:
        return Refitted(found, candidate, None, None)
    both = None
    try:
        both = against_confirmed(folder, found, candidate, dataset.schema)
    except HepRayError as exc:
        notes.append(f"The refit is not compared with the confirmed trainings: {exc}.")
    return Refitted(found, candidate, dataset.rows("train"), both)


def _study(folder: Path, name: str, notes: list[str]) -> optuna.Study | None:
    path = folder / "optuna.db"
    if not path.is_file():
        notes.append(f"The importance of parameters is left out: the Optuna study {path} is not there.")
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=sqlite_uri(path))


def _judged(data: ReportData, dataset: Dataset, notes: list[str]) -> Dataset | None:
    """Return whose events scores are of: of an unconfirmed search by folds those of the best trial's fold.

    None where the fold is not there, or not whole.
    """
    if data.confirmation is not None or not data.started.folds:
        return dataset
    fold = data.best.started.fold
    try:
        judged = data.judged(data.best)
    except HepRayError as exc:
        notes.append(f"Figures of scores are left out: {exc}.")
        return None
    notes.append(f"Scores are of the events that validate in fold {fold} of {data.started.folds}.")
    return judged


def _of_fold(groups: Sequence[Group], fold: int) -> tuple[Group, ...]:
    """Return groups with those of their trials that were trained on a fold; 0 is all, where there are no folds."""
    of_fold = [tuple(trial for trial in one.trials if trial.started.fold == fold) for one in groups]
    return tuple(
        dataclasses.replace(one, trials=own) for one, own in zip(groups, of_fold, strict=True) if own
    )


def _divisions(dataset: Dataset, against: Sequence[str], *, confirmed: bool) -> tuple[Division, ...]:
    if confirmed:
        return divisions_of(dataset, "test", against=against, purpose="report")
    return divisions_of(dataset, "val", against=against, most=MOST_EVENTS)


MOST_ROWS = 5
"""Rows of a study's table whose models are evaluated before a confirmation, at most."""


def _contenders(data: ReportData) -> tuple[tuple[Group, ...], str]:
    """Return the best trial alone or, where a study's table names the groups, its best rows, best first.

    The row to beat is among them; its name follows, unless it is the best. Of a row whose trials differ in more than
    the seed the best trial stands for it.
    """
    groups = data.groups
    if not groups.of_study:
        return (Group(data.best.trial_id, (data.best,), "trial"),), ""
    leading = groups.leading(MOST_ROWS)
    chosen = tuple(group for group in groups.ranked if group in leading)
    beaten = groups.to_beat if groups.to_beat in chosen[1:] else None
    rows = tuple(
        group
        if group.kind != "trials"
        else Group(group.name, tuple(trial for trial in data.ranked if trial in group.trials)[:1], "trial")
        for group in chosen
    )
    return rows, beaten.name if beaten else ""


def _scores(
    data: ReportData, dataset: Dataset, divisions: tuple[Division, ...], notes: list[str]
) -> Scores | None:
    try:
        if data.confirmation is not None:
            scores = confirmed_scores(data.confirmation, data.folder, dataset, divisions)
            if divisions and not scores.divisions:
                notes.append(
                    "Efficiencies in bins are left out: the confirmation's scores are not of this test split."
                )
            if scores.uncalibrated:
                notes.append(f"Calibrated scores are left out: {scores.uncalibrated}.")
            return scores
        chosen, to_beat = _contenders(data)
        chosen = _of_fold(chosen, data.best.started.fold)
        return validation_scores(chosen, data.folder, dataset, divisions, to_beat)
    except HepRayError as exc:
        notes.append(f"Figures of scores are left out: {exc}.")
        return None
