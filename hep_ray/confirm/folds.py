"""Cross-validate a configuration of a search: every event is scored by a model that never saw it.

Events are divided into K parts by the hash that decides their split. Part k is the test split of fold k, the next part
chooses the epoch, all others are learnt from; groups (`split_by`) stay whole. Each fold is a dataset of its own, so
its training is one like any other: journal, checkpoints, resume and MLflow are those of a confirmation.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from hep_ray.addresses import Address
from hep_ray.config import Config
from hep_ray.confirm.confirmation import FILE_NAME as CONFIRMATION
from hep_ray.confirm.confirmation import FOLDER as CONFIRM
from hep_ray.confirm.confirmation import choose, load_confirmation, read_record, set_aside
from hep_ray.confirm.finalists import Configuration, configurations
from hep_ray.confirm.plan import RetrainingPlan, ended, of_test, resources_for, searched_dataset, source_of
from hep_ray.confirm.run import train_one
from hep_ray.conversion.convert import convert
from hep_ray.dataset.dataset import MANIFEST, Dataset, Hashes
from hep_ray.dataset.empty_folds import refuse_empty_folds
from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule
from hep_ray.errors import (
    CannotConfirm,
    CannotResume,
    InvalidEvents,
    PromotionRefused,
    StorageError,
)
from hep_ray.files import open_locked, storing, whole, write_whole
from hep_ray.metrics import is_worst, nominal_key
from hep_ray.plugins import Plugin, import_named, restore
from hep_ray.search.execute import SearchResult
from hep_ray.search.find import find_search
from hep_ray.search.leaderboard import leaderboard, write_leaderboard
from hep_ray.search.options import FoldOptions
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import recorded_uri
from hep_ray.tracking.records import SearchStarted, TrialStarted
from hep_ray.training.compiled import Compile
from hep_ray.training.testing import LOSS, METADATA, SCORES, WEIGHT, KeptScores, read_scores

Floats = NDArray[np.float64]
FILE_NAME = "folds.json"
OF_ALL = "scores.parquet"
"""Scores of every event, with the columns of a test's scores and `fold`, from 1, whose model gave them."""
TRIAL = "model"


class Fold(Config):
    """One fold: a model, and what it scored.

    Attributes:
        events: in its test split.
        epoch: of the training, whose model it is, chosen by validation.
        metrics: of its test split, `test_accuracy` and so on.
        checkpoint: its model, relative to the folder of the folds.
        dataset_fingerprint: of the dataset of the fold.
    """

    events: int
    epoch: int
    metrics: dict[str, float]
    checkpoint: str
    dataset_fingerprint: str


class CrossValidation(Config):
    """Everything that K folds found of one configuration.

    Attributes:
        search: name.
        search_id: of the search whose configuration it is.
        dataset_fingerprint: of the dataset of the search, whose events were divided anew.
        trial: of the search, the first of its configuration.
        params: of the configuration.
        seed: of every training.
        metric: of the test split, the search's own.
        folds: in their order.
        metrics: of all events together, each scored by the model that never saw it.
        held_out: of those events alone that the search itself kept for its test.
        scores: Parquet file of all events, relative to the folder of the folds.
        provenance: of the first fold's training, as of a search.
    """

    search: str
    search_id: str
    dataset_fingerprint: str
    trial: str
    params: dict[str, Any]
    seed: int
    metric: str
    folds: tuple[Fold, ...]
    metrics: dict[str, float]
    held_out: dict[str, float]
    scores: str
    provenance: dict[str, str]

    def of_folds(self, metric: str) -> tuple[float, float]:
        """Return mean and sample standard deviation of a metric over the folds."""
        values = [fold.metrics[metric] for fold in self.folds]
        return statistics.fmean(values), statistics.stdev(values)


@dataclass(frozen=True, kw_only=True)
class FoldPlan(RetrainingPlan):
    """One fold that can run: its dataset, and the training of the configuration on it.

    Attributes:
        configuration: that is trained.
        seed: of the training; none was used by the search.
        rule: by which the fold's dataset is divided.
    """

    kind: ClassVar[str] = "fold"
    configuration: Configuration
    seed: int
    rule: SplitRule

    @property
    def name(self) -> str:
        """In words, as `fold 2 of 5`."""
        return f"fold {self.rule.fold + 1} of {self.rule.folds}"

    @property
    def runs(self) -> list[TrialStarted]:
        """The one training."""
        tags = {"fold": str(self.rule.fold + 1), "contender": self.configuration.name}
        params = self.configuration.params
        return [TrialStarted(time=0.0, trial_id=TRIAL, number=0, params=params, seed=self.seed, tags=tags)]

    @property
    def told(self) -> dict[str, Any]:
        """Return options, title and tags of the first record."""
        return {
            "options": {"folds": self.rule.folds, "data": str(self.dataset.folder.resolve())},
            "title": f"{self.started.search} ({self.name})",
            "tags": {"hep_ray.kind": "fold"},
        }

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a fold to be the same after a restart."""
        return {
            **super().identity,
            "sampler": "one seed",
            "seed": self.seed,
            "contenders": {self.configuration.name: self.configuration.params},
        }


@dataclass(frozen=True, kw_only=True)
class FoldsPlan:
    """Cross-validation that can run.

    Attributes:
        folder: of all folds.
        dataset: of the search.
        configuration: that is trained.
        candidate: of the search's confirmation, the id of its first trial; empty where it is not confirmed, or where
            the candidate is the mean of several.
        ranked: number of distinct configurations of the search.
        started: first record of the search.
        rules: of the folds, in their order.
        seed: of every training.
        options: it was made from.
        resources: of a training, and where the events are.
        plugins: files of the user's own whose components the trainings need.
        source: file whose git checkout is stated as provenance.
    """

    folder: Path
    dataset: Dataset
    configuration: Configuration
    candidate: str
    ranked: int
    started: SearchStarted
    rules: tuple[SplitRule, ...]
    seed: int
    options: FoldOptions
    resources: ResourcePlan
    plugins: tuple[Plugin, ...]
    source: Path

    @property
    def metric(self) -> str:
        """Metric of the test split that stands first: the search's own, of events as they are."""
        return nominal_key(of_test(self.started.metric))

    @property
    def tracking_uri(self) -> str:
        """MLflow server or database."""
        of_search = self.options.storage / self.started.search
        return self.options.tracking_uri or recorded_uri(of_search, self.started)

    @property
    def epoch_timeout(self) -> float:
        """Seconds that an epoch may take."""
        return self.options.as_in_search(self.started).epoch_timeout

    @property
    def deterministic(self) -> bool:
        """Whether operations without a deterministic form are refused."""
        return self.options.as_in_search(self.started).deterministic

    @property
    def compiling(self) -> Compile:
        """Whether steps are compiled where they can be."""
        return self.options.as_in_search(self.started).compile

    def fold(self, rule: SplitRule) -> FoldPlan:
        """Return the plan of a fold, whose dataset is made where it is not there.

        Raises:
            CannotConfirm: the configuration cannot be trained.
            StorageError, ClusterUnavailable, Infeasible: see `preflight`.
        """
        dataset = dataset_of_fold(self.dataset, rule, self.folder, weights=self.started.weights == "on")
        resources = resources_for(
            dataset, self.options, self.started, [self.configuration.params], self.plugins, 1
        )
        return FoldPlan(
            experiment=self.started.search,
            storage=self.options.storage,
            folder=self.folder / f"fold_{rule.fold + 1}",
            tracking_uri=self.tracking_uri,
            dataset=dataset,
            resources=resources,
            epochs=self.started.epochs,
            metric=self.started.metric,
            mode=self.started.mode,
            keep=1,
            epoch_timeout=self.epoch_timeout,
            deterministic=self.deterministic,
            compiling=self.compiling,
            plugins=self.plugins,
            started=self.started,
            source=self.source,
            configuration=self.configuration,
            seed=self.seed,
            rule=rule,
        )

    def refuse_another(self) -> None:
        """Refuse to go on with folds that are there and are not these; nothing is made.

        Raises:
            CannotResume: they are of another configuration or of other events; the message says what differs.
            ShardMismatch: the dataset of one is not whole.
        """
        _refuse_other_events(self.dataset, self.folder)
        for rule in self.rules:
            if (_folder_of(rule, self.folder) / MANIFEST).is_file():
                fold = self.fold(rule)
                fold.refuse_another(SearchState.read(fold.folder))


def prepare_folds(options: FoldOptions, *, hashes: Hashes = "once") -> FoldsPlan:
    """Check that a configuration of a search can be cross-validated, and choose it.

    Unless a trial is named it is the candidate of the search's confirmation, whose models a promotion would take;
    without one it is the first of the search's ranking.

    Raises:
        UnknownSearch: no name, folder or script is the search's.
        CannotConfirm: it was never run, still runs, has no completed trial, was of another dataset, or has no such
            trial; or an expression divides its events, so that folds of all would not be its task.
        InvalidConfig: there are too few folds.
        InvalidEvents: there are fewer groups than folds, or a fold without an event of some class.
        PluginFailed: a file that registers its components has gone or changed.
        StorageError, ClusterUnavailable, Infeasible: see `preflight`.
    """
    import_named(options.plugin or ())
    found = find_search(options.search, options.storage, options.scripts)
    options = dataclasses.replace(options, storage=found.storage)
    state = ended(options, found.name)
    assert state.started is not None
    plugins = restore(state.plugins)
    ranked = configurations(state)
    of_trial = {trial.trial_id: one for one in ranked for trial in one.trials}
    if options.trial is not None and options.trial not in of_trial:
        raise CannotConfirm(f"no trial '{options.trial}' has a result; known: {', '.join(of_trial)}")
    candidate = _candidate(found.folder, state.started.search_id)
    chosen = of_trial[options.trial or candidate or ranked[0].name]
    dataset = searched_dataset(options, state.started, hashes)
    if isinstance(dataset.folder, Address):
        raise CannotConfirm(
            f"folds are made of the events of {dataset.folder}, divided anew, and what is made anew is read of a disk: "
            "copy the dataset to one, and name it with --data"
        )
    before = dataset.manifest.split_rule
    if before.train_where is not None:
        raise CannotConfirm(
            f"events of {dataset.folder} are divided by '{before.train_where}', and their test is another domain; "
            "folds divide all events alike"
        )
    rules = tuple(
        SplitRule.of_fold(fold, options.folds, before.salt, stratified=before.stratified)
        for fold in range(options.folds)
    )
    named = [name for name, one in dataset.schema.variations.items() if one.data is not None]
    if named and is_worst(state.started.metric):
        raise CannotConfirm(
            f"{state.started.metric} counts the variation '{named[0]}', which names another dataset: its events are "
            "divided once, and folds divide the nominal ones anew; confirm the search instead"
        )
    refuse_empty_folds(dataset, rules[0])
    resources = resources_for(dataset, options, state.started, [chosen.params], plugins, 1)
    return FoldsPlan(
        folder=found.folder / f"folds{options.folds}",
        dataset=dataset,
        configuration=chosen,
        candidate=candidate,
        ranked=len(ranked),
        started=state.started,
        rules=rules,
        seed=1 + max(trial.started.seed for trial in state.trials.values()),
        options=options,
        resources=resources,
        plugins=plugins,
        source=source_of(found, state.started),
    )


def _candidate(folder: Path, search_id: str) -> str:
    """Return the trial whose models a promotion would take; empty where none is confirmed."""
    if not (folder / CONFIRM / CONFIRMATION).is_file():
        return ""
    confirmation = load_confirmation(folder)
    try:
        candidate, _ = choose(confirmation)
    except PromotionRefused:
        return ""
    return candidate.name if confirmation.search_id == search_id and not candidate.members else ""


def _folder_of(rule: SplitRule, folder: Path) -> Path:
    """Return where the dataset of a fold lies."""
    assert rule.folds is not None
    return folder / "data" / f"fold_{rule.fold + 1}"


def _refuse_other_events(dataset: Dataset, folder: Path) -> Path:
    """Return the file that names the events of the folds in a folder.

    Raises:
        CannotResume: it names others.
    """
    origin = folder / "data" / "dataset"
    if origin.exists() and (other := origin.read_text(encoding="utf-8").strip()) != dataset.fingerprint:
        raise CannotResume(
            f"{folder} holds folds of other events (fingerprint {other[:12]}, not {dataset.fingerprint[:12]}): type "
            "--again to set it aside"
        )
    return origin


def dataset_of_fold(dataset: Dataset, rule: SplitRule, folder: Path, *, weights: bool) -> Dataset:
    """Return the events of a dataset divided as a fold, made in `folder/data/` where they are not there.

    Raises:
        CannotResume: there are folds of other events.
        InvalidEvents: a split of the fold lacks a class.
        ShardMismatch: the fold's dataset is not whole.
    """
    out, origin = _folder_of(rule, folder), _refuse_other_events(dataset, folder)
    if not (out / MANIFEST).is_file():
        with storing(origin):
            origin.parent.mkdir(parents=True, exist_ok=True)
            write_whole(origin, dataset.fingerprint + "\n")
        convert([str(dataset.folder)], "parquet", None, out, rule=rule, every_class=True)
    made = Dataset.open(out, weights=weights)
    if made.manifest.split_rule.without_cuts != rule or sum(map(made.rows, SPLITS)) != sum(
        map(dataset.rows, SPLITS)
    ):
        raise CannotResume(f"{out} is not fold {rule.fold + 1} of {rule.folds}: type --again to set it aside")
    return made


def run_folds(plan: FoldsPlan, *, again: bool = False, console: Console | None = None) -> CrossValidation:
    """Train and test the folds that have not been, one after the other, and put their scores together.

    Typed again, it goes on: a fold that ended is not repeated, a training that was cut off goes on from its checkpoint.

    Args:
        plan: checked by `prepare_folds`.
        again: set earlier folds aside, into a folder beside them, and start anew.
        console: where progress is shown.

    Raises:
        CannotResume: the folder holds folds of another configuration or of other events.
        StorageError: another process is at work in it.
        TrackingUnavailable, Interrupted, SearchFailed: see `execute`.
    """
    console = console or Console(stderr=True)
    rule = f"the folds of {plan.started.search} are made by one command at a time"
    with open_locked(plan.folder.with_name(f".{plan.folder.name}.lock"), rule):
        if again and plan.folder.exists():
            set_aside(plan.folder)
        folds = [plan.fold(one) for one in plan.rules]
        done = [_trained(one, console) for one in folds]
        return _published(plan, folds, done)


def _trained(fold: FoldPlan, console: Console) -> SearchResult:
    """Train and test one fold; a training that failed the last time is set aside and begun anew.

    Raises:
        SearchFailed: the training failed.
    """
    before = SearchState.read(fold.folder).trials.get(TRIAL)
    if before is not None and before.status == "failed":
        set_aside(fold.folder)
    console.print(f"{fold.name}: {fold.dataset.rows('train')} events to learn from", highlight=False)
    return train_one(
        fold,
        console,
        partial(_leaderboard, fold),
        purpose="confirm" if fold.rule.fold == 0 else None,  # the first fold records the look for all
        name=fold.name,
        others=" and keeps the others",
    )


def _published(plan: FoldsPlan, folds: Sequence[FoldPlan], done: Sequence[SearchResult]) -> CrossValidation:
    """Put the scores of all folds together, and write what was found."""
    schema, found = folds[0].dataset.schema, []
    for fold, result in zip(folds, done, strict=True):
        tested = result.state.trials[TRIAL].tested
        assert tested is not None
        found.append(
            Fold(
                events=fold.dataset.rows("test"),
                epoch=tested.epoch,
                metrics=tested.metrics,
                checkpoint=f"{fold.folder.name}/trials/{TRIAL}/best.pt",
                dataset_fingerprint=fold.dataset.fingerprint,
            )
        )
    ids = put_together(
        [fold.folder / "trials" / TRIAL / SCORES for fold in folds], plan.folder / OF_ALL, schema
    )
    scores = read_scores(plan.folder / OF_ALL, schema)
    tested = plan.dataset.values(EVENT_ID, "test", purpose="confirm").combine_chunks()
    held_out = pc.is_in(ids, tested).to_numpy(zero_copy_only=False)
    assert done[0].state.started is not None
    made = CrossValidation(
        search=plan.started.search,
        search_id=plan.started.search_id,
        dataset_fingerprint=plan.dataset.fingerprint,
        trial=plan.configuration.name,
        params=plan.configuration.params,
        seed=plan.seed,
        metric=plan.metric,
        folds=tuple(found),
        metrics=scores.metrics(schema),
        held_out=_of(scores, held_out, schema).metrics(schema),
        scores=OF_ALL,
        provenance=done[0].state.started.provenance,
    )
    with storing(plan.folder / FILE_NAME):
        write_whole(plan.folder / FILE_NAME, made.model_dump_json(indent=1) + "\n")
    return made


def load_folds(folder: Path) -> CrossValidation:
    """Load what a cross-validation found, from its folder such as `runs/susy/folds5`.

    Raises:
        StorageError: there is none, or the file is not one.
    """
    return read_record(CrossValidation, folder / FILE_NAME)


def _leaderboard(plan: FoldPlan, state: SearchState, run_ids: Mapping[str, str]) -> Path:
    return write_leaderboard(plan.folder, leaderboard(state, run_ids))


def put_together(files: Sequence[Path], out: Path, schema: EventSchema) -> pa.Array:
    """Write the scores of all folds as one file, whole or not at all; return the ids of its events.

    Each fold weighs its test split to the events expected of the whole dataset; here all folds together do.

    Args:
        files: of scores, one for each fold in their order.
        out: the file that is written.
        schema: of the folds' datasets.

    Raises:
        InvalidEvents: an event was scored twice.
        StorageError: a file is not one of scores, or `out` cannot be written.
    """
    tables: list[pa.Table] = []
    facts: dict[str, Any] = {}
    for number, file in enumerate(files, 1):
        try:
            table = pq.read_table(file)
            facts = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
            table = table.replace_schema_metadata(None)
        except (OSError, pa.ArrowException, ValueError) as exc:
            raise StorageError(f"cannot read the scores {file} of a fold: {exc}: type --again") from exc
        tables.append(table.append_column("fold", pa.repeat(pa.scalar(number, pa.int32()), len(table))))
    made = pa.concat_tables(tables)
    ids = made[EVENT_ID].combine_chunks()
    if (different := len(ids.unique())) != len(ids):
        raise InvalidEvents(f"every event is scored once; {len(ids)} scores are of {different} events")
    weights = None
    if WEIGHT in made.column_names:
        weights = _expected(made[WEIGHT].to_numpy(), made[LABEL].to_numpy(), schema)
        made = made.set_column(made.column_names.index(WEIGHT), WEIGHT, pa.array(weights))
    facts["loss"] = float(np.average(made[LOSS].to_numpy(), weights=weights))
    facts.pop("epoch", None)  # each fold has its own
    with storing(out), whole(out) as filling:
        pq.write_table(made.replace_schema_metadata({METADATA: json.dumps(facts)}), filling)
    return ids


def _expected(weights: Floats, labels: NDArray[np.integer], schema: EventSchema) -> Floats:
    """Scale the weights so that those of each class sum to the events expected of it."""
    sums = np.bincount(labels, weights, len(schema.classes)).astype(np.float64)
    return np.asarray(weights * schema.to_expected(sums)[labels])


def _of(scores: KeptScores, chosen: NDArray[np.bool_], schema: EventSchema) -> KeptScores:
    """Return the scores of some events."""
    labels, losses, weights = scores.labels[chosen], scores.losses, scores.weights
    if weights is not None:
        weights = _expected(weights[chosen], labels, schema)
    assert losses is not None
    return dataclasses.replace(
        scores,
        event_ids=None,
        labels=labels,
        probabilities=scores.probabilities[chosen],
        log_odds=scores.log_odds[chosen],
        losses=losses[chosen],
        facts={**scores.facts, "loss": float(np.average(losses[chosen], weights=weights))},
        weights=weights,
        protected=None if scores.protected is None else scores.protected[chosen],
    )
