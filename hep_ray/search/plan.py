"""Plan a search: check it against its dataset, the storage and the cluster, and state what it will do."""

from __future__ import annotations

import dataclasses
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hep_ray.dataset.dataset import Dataset, Hashes
from hep_ray.dataset.other_events import differs, other_datasets
from hep_ray.errors import CannotResume, InvalidConfig, StorageError, UnknownName
from hep_ray.flags import STORAGE
from hep_ray.masking import mask
from hep_ray.plugins import Plugin, differences, import_named, places, registered, summary
from hep_ray.search.constraints import ModelLimits, Share, check_limits, resumed_limits, words_of
from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.definition import Mode, Preset, Search, stated_by
from hep_ray.search.draws import budget_in_words, total_trials, why_not_ahead
from hep_ray.search.fused import OFF, chosen_fuse, seconds_shared, together_in_words
from hep_ray.search.hardware import hardware_rows, in_precision
from hep_ray.search.length_checks import check_averages, check_end, check_folds
from hep_ray.search.lessons import lessons_of
from hep_ray.search.options import EPOCH_TIMEOUT, Resume, SearchOptions, in_words, recorded_options
from hep_ray.search.own_checks import rehearse
from hep_ray.search.preflight import (
    Trials,
    check_baseline,
    check_metrics,
    check_read,
    check_sampler,
    check_yardsticks,
    configurations_of,
    most_paused,
    preflight,
)
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.sampler import JournalSearcher
from hep_ray.search.space import Space
from hep_ray.search.state import OF_MODEL, TIMES, SearchState
from hep_ray.tracking.provenance import doubts, provenance
from hep_ray.tracking.records import CodeAccepted, OptionsChanged, Record, SearchStarted
from hep_ray.training.checkpoint import KEEP_BEST
from hep_ray.training.compiled import Compile
from hep_ray.training.evaluation import ranking_variations


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(ABC):
    """Plan of trials to train: which, on what data, with which resources and until when; a search or a confirmation.

    Attributes:
        experiment: name of the search, which is that of its experiment in MLflow.
        storage: folder of all searches.
        folder: of the journal; the trials' folders lie in it.
        tracking_uri: MLflow server or database.
        dataset: training and validation split are loaded, or streamed, as the resources say.
        watched: dataset whose validation split is evaluated after each epoch and ranks nothing.
        others: of the variations that name a dataset, it: its validation split is judged after each epoch.
        resources: of one trial, how many run side by side, and how many there are in all.
        epochs: full length of a trial.
        metric: key of the per-epoch report that ranks trials and decides which epoch's model is kept.
        mode: whether more (`max`) or less (`min`) of it is better.
        keep: trials, best first, whose model stays on disk.
        epoch_timeout: seconds that an epoch may take.
        plugins: files of the user's own whose components the trials need.
        time_budget: seconds after which nothing starts, and what runs stops after its epoch; None is no limit.
        fuse: most trials that are trained as one network, `auto` or `off`.
        until: epoch after which a trial ends, with that epoch's model kept; None is the last, with the best one's.
        folds: parts of the training and validation events that take turns to validate; None where they do not.
        deterministic: whether operations without a deterministic form are refused.
        compiling: whether steps are compiled where they can be.
        to_go_on: what to type after an interruption.
    """

    experiment: str
    storage: Path
    folder: Path
    tracking_uri: str
    dataset: Dataset
    resources: ResourcePlan
    epochs: int
    metric: str
    mode: Mode
    keep: int = KEEP_BEST
    epoch_timeout: float = EPOCH_TIMEOUT
    plugins: tuple[Plugin, ...] = ()
    time_budget: float | None = None
    watched: Dataset | None = None
    others: Mapping[str, Dataset] = field(default_factory=dict)
    fuse: str = OFF
    until: int | None = None
    folds: int | None = None
    deterministic: bool = False
    compiling: Compile = "off"
    to_go_on: str = "run the same script with --resume"

    @property
    def trials(self) -> int:
        """Return the number of trials to run."""
        return self.resources.trials

    @abstractmethod
    def opening(self, state: SearchState, say: Callable[[str], None]) -> list[Record]:
        """Return the first records of this attempt, given what the journal holds; say what a user should know."""

    @abstractmethod
    def searcher(self, state: SearchState, write: Callable[[Record], None]) -> JournalSearcher:
        """Return what hands out trials, given what the journal holds and what records a new trial."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan(TrainingPlan):
    """A search that can run: dataset, space and resources agree.

    Attributes:
        search: as the script states it.
        preset: with the command line's overrides.
        space: the preset's.
        given: the options it was made from.
        paused: trials that may wait with a checkpoint at once.
        within: how many configurations at random keep the constraints; None where there are none.
        resume: go on with the search that the journal holds.
    """

    search: Search
    preset: Preset
    space: Space
    given: SearchOptions
    paused: int = 0
    within: Share | None = None
    resume: bool = False

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the plan in words: name and text of each row; a name that goes on is repeated."""
        schema = self.dataset.schema
        splits = ", ".join(f"{self.dataset.rows(split)} {split}" for split in ("train", "val"))
        yield "search", f"{self.search.name}, preset {self.given.preset}"
        splits += " events" + f", in {self.folds} parts that take turns to validate" * bool(self.folds)
        yield "data", f"{self.given.data}: {schema.task}, {' / '.join(schema.classes)}, {splits}"
        if self.watched is not None:
            watched = f"{self.watched.rows('val')} validation events of {self.given.watch}"
            yield "watched", f"{watched} after each epoch; they rank nothing"
        if unread := ", ".join(self.resources.unread):
            yield "not read", f"no model of this search reads {unread}"
        if schema.weight is not None:
            yield "weights", f"{schema.weight}, in the loss and in every metric, unless --weights off"
        if self.preset.published:
            yield from self.preset.published.rows()
        for name, parameter in self.space.parameters.items():
            yield "space", f"{name}: {parameter}"
        if self.within is not None:
            limits = words_of(self.search.limits)
            yield "constraints", f"{limits}: {self.within}; what breaks one is not trained"
        for told in summary(self.plugins):
            yield "own code", told
        for params in self.search.points_to_evaluate:
            yield "evaluated first", ", ".join(f"{name}={value}" for name, value in params.items())
        yield "budget", self.budget
        yield "goal", f"{self.mode} {self.metric}"
        yield "cluster", self.resources.cluster
        yield "resources", f"{self.resources}{together_in_words(self.fuse)}"
        yield from hardware_rows(self.deterministic, self.compiling, self.resources)
        yield "patience", f"an epoch may take {in_words(self.epoch_timeout)}"
        yield "events", str(self.resources.ingest)
        yield "storage", str(self.folder)
        yield "tracking", mask(self.tracking_uri)
        for doubt in doubts(self.provenance):
            yield "promotion", f"will be refused as things are: {doubt}"

    def _repr_html_(self) -> str:
        from hep_ray.drawing.html_table import html_rows

        return html_rows(self.rows())

    @property
    def provenance(self) -> dict[str, str]:
        """Code, versions, machine and command, as they are now."""
        return provenance(self.given.source, places(self.plugins))

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a search to be the same search after a restart."""
        preset, schema = self.preset, self.dataset.schema
        return {
            "search": self.search.name,
            "task": schema.task,
            "dataset_fingerprint": self.dataset.fingerprint,
            "metric": self.search.metric,
            "mode": self.search.mode,
            "second_objective": self.search.second_objective,
            "epochs": preset.epochs,
            "sampler": preset.sampler_name,
            **preset.early_stopping,
            **self.given.record(Resume.MUST_MATCH),
            "space": self.space.to_json(),
            "points_to_evaluate": [dict(params) for params in self.search.points_to_evaluate],
            "constraints": self.search.limits,
            "folds": preset.folds,
            "repeats": preset.repeats,
            "gain_per": self.given.gain_per or "epoch",
            "variations": ranking_variations((self.search.metric, self.search.second_objective), schema),
        }

    @property
    def budget(self) -> str:
        """In words: how much is trained, what draws it and what stops it."""
        return budget_in_words(self.search, self.preset, self.space, self.given, self.trials)

    @property
    def options(self) -> dict[str, Any]:
        """Return what the journal records of the options, for a later --resume without flags."""
        return {**self.given.record(), "cache": self.resources.ingest.cache}

    def searcher(self, state: SearchState, write: Callable[[Record], None]) -> JournalSearcher:
        """Return what draws trials and decides after each epoch whether they go on."""
        search, seed, database = self._as_begun(state), self.given.seed, self.folder / "optuna.db"
        kind = searcher_of(search, self.preset)
        return kind(search, self.preset, self.space, seed, database, state, write, self.limits(state, write))

    def limits(self, state: SearchState, write: Callable[[Record], None] | None = None) -> ModelLimits | None:
        """Return what keeps configurations within the constraints; None where there are none."""
        stated = self.search.limits
        return ModelLimits(stated, self.dataset.schema, state.records, write) if stated else None

    @property
    def known_limits(self) -> ModelLimits | None:
        """Return the same with what the journal holds so far."""
        return self.limits(SearchState.read(self.folder)) if self.search.limits else None

    def _as_begun(self, state: SearchState) -> Search:
        """Return the search; one that began when its script still counted time, with that for its second objective."""
        recorded = state.started.second_objective if state.started else None
        timed = recorded in TIMES and self.search.second_objective in OF_MODEL
        return dataclasses.replace(self.search, second_objective=recorded) if timed else self.search

    def opening(self, state: SearchState, say: Callable[[str], None]) -> list[Record]:
        """Return the first records of this attempt: a new search, or changed flags and accepted code.

        Raises:
            StorageError: the journal holds a search, and `resume` is off.
            CannotResume: it holds none, or another one than this.
        """
        if state.started is None:
            if self.resume:
                raise CannotResume(f"no search to resume: {self.folder} holds none; leave --resume out")
            return [
                SearchStarted(
                    time=time.time(),
                    search_id=uuid.uuid4().hex,
                    provenance=self.provenance,
                    options=self.options,
                    plugins=tuple(plugin.recorded for plugin in self.plugins),
                    stated=stated_by(self.search),
                    unstated={},
                    lessons=lessons_of(self.given.learn_from or (), self.preset, self.space),
                    **self.identity,
                )
            ]
        if not self.resume:
            ended = sum(trial.finished is not None for trial in state.trials.values())
            raise StorageError(
                f"{self.folder} holds a search already, of {len(state.trials)} trials, {ended} ended: type --resume to "
                "go on with it, or choose another --storage"
            )
        before, now = {key: getattr(state.started, key) for key in self.identity}, self.identity
        cost, stated = self._as_begun(state).second_objective, self.search.second_objective
        if cost != stated:
            now["second_objective"] = cost
            say(
                f"this search began with the cost {cost} and goes on with it; one started anew counts {stated}, which "
                "does not depend on what else the machine does"
            )
        weight = self.dataset.schema.weight
        if weight is not None and "weights" not in state.started.model_fields_set:
            raise CannotResume(
                f"metrics of this search counted events, and of new trials '{weight}' would weigh them: they would not "
                "be comparable; choose another --storage and start anew"
            )
        if state.started.stated is not None:
            before["baseline"], now["baseline"] = state.started.stated["baseline"], dict(self.search.baseline)
        if changes := self.space.changes_since(before.pop("space")):
            raise CannotResume(
                f"the search space has changed: {'; '.join(changes)}: state it as it was, or choose another --storage"
            )
        varied, under = before.pop("variations"), now.pop("variations")
        names = {**varied, **under} if varied else ()  # journals of before 2026-11-29 do not tell them
        before |= {f"variation '{name}'": varied.get(name) for name in names}
        now |= {f"variation '{name}'": under.get(name) for name in names}
        for key, recorded in before.items():
            if recorded != now[key]:
                raise CannotResume(
                    f"cannot resume another search; {key} was {recorded!r} and is now {now[key]!r}: resume with the "
                    "flags it was started with, or choose another --storage"
                )
        return [*self._changed_options(state, state.started.options), *self._changed_code(state)]

    def _changed_options(self, state: SearchState, before: Mapping[str, Any]) -> list[Record]:
        fewer = self.trials < len(state.trials) and not self.preset.pauses
        if fewer and self.given.trials not in (None, before.get("trials")):
            drawn = len(state.trials) - len(self.search.points_to_evaluate)
            raise CannotResume(
                f"--trials {self.given.trials} is fewer than the {drawn} drawn already, beside the references, in "
                f"{self.folder}: type --trials {drawn} to draw no more, or leave it out"
            )
        changed = any(value != before.get(key) for key, value in self.options.items())
        return [OptionsChanged(time=time.time(), options={**before, **self.options})] if changed else []

    def _changed_code(self, state: SearchState) -> list[Record]:
        changes = differences(state.plugins, self.plugins)
        if changes and not self.given.accept_changed_code:
            raise CannotResume(
                f"the code of this search has changed: {'; '.join(changes)}. Its trials would not be comparable: put "
                "the file back as it was, or type --accept-changed-code to go on, which is recorded"
            )
        now = tuple(plugin.recorded for plugin in self.plugins)
        return [CodeAccepted(time=time.time(), plugins=now, changes=tuple(changes))] if changes else []


def planned(
    search: Search, given: Mapping[str, Any], *, resume: bool = False, hashes: Hashes = "once"
) -> SearchPlan:
    """Check a search with its options, and return its plan.

    Args:
        search: as a script states it.
        given: options by field of `SearchOptions`; None where the recorded one, or the default, is meant.
        resume: go on with the search in the storage, with the options that it had.
        hashes: which of the dataset's shards are hashed, see `verify_shards`.

    Raises:
        InvalidConfig: it is no search.
        CannotResume: there is no search to resume, or one is not resumed and its changed code is accepted.
        HepRayError: see `prepare`.
    """
    if not isinstance(search, Search):
        raise InvalidConfig(
            f"what is run must be a Search, as a script states it in `search = Search(…)`; got {search!r}: import it "
            "from there"
        )
    if not isinstance(resume, bool):
        raise InvalidConfig(f"resume must be True or False; got {resume!r}")
    folder = Path(given.get("storage") or STORAGE) / search.name
    started = SearchState.read(folder).started if resume else None
    if resume and started is None:
        raise CannotResume(f"there is no search to resume in {folder}: start it without --resume")
    if given.get("learn_from") and started is not None:
        raise CannotResume(
            f"what this search learns from was read when it began ({len(started.lessons)} earlier searches) and is in "
            "its journal: leave --learn-from out, or choose another --storage"
        )
    if given.get("accept_changed_code") and not resume:
        raise CannotResume("--accept-changed-code needs --resume: type that too, or leave it out")
    recorded = recorded_options(folder, started) if started else {}
    if started is not None:
        given = {**given, "constraint": resumed_limits(given.get("constraint") or (), started)}
    options = SearchOptions.from_flags({**given, "source": script()}, recorded, search.task)
    return prepare(search, options, hashes=hashes)


def script() -> Path:
    """Return the script that runs; in a notebook, or where Python is typed, the working folder."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path.cwd() if path is None or "ipykernel" in sys.modules else Path(sys.argv[0]).resolve()


@dataclass(frozen=True)
class Draft:
    """A search as it is asked for, before it is known that it can run.

    Attributes:
        search: as the script states it.
        preset: as the options have it, `auto` resolved.
        options: that it was asked for with.
        hashes: which of the dataset's shards are hashed, see `verify_shards`.
    """

    search: Search
    preset: Preset
    options: SearchOptions
    hashes: Hashes = "once"

    @property
    def space(self) -> Space:
        """Return the preset's space, else the search's."""
        return self.preset.space or self.search.space

    @property
    def why_alone(self) -> str:
        """Return in words why trials are trained one by one, as far as it is stated; empty where nothing says so."""
        return why_not_ahead(self.preset) or seconds_shared(self.search.second_objective)

    @cached_property
    def dataset(self) -> Dataset:
        """Open the dataset when the first check needs it.

        Raises:
            ShardMismatch, UnreadableInput, InvalidEvents: it is not whole.
            InvalidConfig: weights are left out of events that have none.
        """
        dataset = Dataset.open(self.options.data, hashes=self.hashes, weights=self.options.weights == "on")
        if self.options.weights == "off" and dataset.manifest.event_schema.weight is None:
            raise InvalidConfig(
                f"--weights off leaves out nothing: the events of {self.options.data} have no weights"
            )
        return dataset

    @cached_property
    def watched(self) -> Dataset | None:
        """Open the dataset that is watched, if one is.

        Raises:
            ShardMismatch, UnreadableInput, InvalidEvents: it is not whole.
            InvalidConfig: it has other columns or classes.
        """
        if self.options.watch is None:
            return None
        watched = Dataset.open(self.options.watch, hashes=self.hashes, weights=self.options.weights == "on")
        if unlike := differs(self.dataset.schema, watched.schema, inputs=True):
            of = f"convert it by the schema of {self.options.data}"
            raise InvalidConfig(f"--watch {self.options.watch} has {unlike}: {of}")
        return watched

    @cached_property
    def others(self) -> dict[str, Dataset]:
        """Open the datasets that variations name; return those that each epoch is judged by: see `other_datasets`."""
        ranking = bool(ranking_variations([self.search.metric], self.dataset.schema))
        found = other_datasets(self.dataset, validated=ranking, hashes=self.hashes)
        return found if ranking else {}

    @cached_property
    def within(self) -> Share | None:
        """See how many configurations at random keep the constraints.

        Raises:
            InvalidSpace, InvalidConfig, PluginFailed: see `check_limits`.
        """
        limits = self.search.limits
        models = [params.get("model") for params in self.search.points_to_evaluate]
        if not limits:
            return None
        begun = SearchState.read(self.options.storage / self.search.name).records
        return check_limits(limits, self.dataset.schema, self.space, self.preset.sampler_name, models, begun)

    @property
    def decorrelated(self) -> bool:
        """Return whether every trial is decorrelated from a column."""
        drawn = self.space.parameters.get("decorrelate")
        stated = [] if drawn is None or drawn.condition else [*drawn.corners()]
        stated += [params.get("decorrelate", "") for params in self.search.points_to_evaluate if stated]
        return bool(stated) and all(stated)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Return the files of the user's own that register what a trial may state."""
        values = [value for one in self.space.parameters.values() for value in one.corners()]
        values += [value for params in self.search.points_to_evaluate for value in params.values()]
        return registered({value for value in values if isinstance(value, str)})

    @property
    def trials(self) -> Trials:
        """Return the trials that it needs."""
        search, options = self.search, self.options
        number = total_trials(search, self.preset, self.space)
        return Trials(
            self.dataset,
            options,
            configurations_of(self.space, search.points_to_evaluate, options.workers_per_trial),
            self.plugins,
            number,
            keep=KEEP_BEST * (3 if self.preset.repeats > 1 else 1),  # a mean may fall, and others rise
            paused=most_paused(self.preset, number),
            beside=(*filter(None, [self.watched]), *self.others.values()),
            copies=self.preset.folds or 1,
            without_ray=not self.preset.folds,
        )


CHECKS: tuple[Callable[[Draft], object], ...] = (
    lambda draft: draft.space.check(),
    lambda draft: check_baseline(draft.search),
    lambda draft: check_sampler(draft.preset, draft.search),
    lambda draft: check_end(draft.preset, draft.options),
    lambda draft: check_read(draft.preset, draft.options),
    lambda draft: check_averages(draft.search, draft.preset, draft.space, draft.options),
    lambda draft: lessons_of(draft.options.learn_from or (), draft.preset, draft.space),
    lambda draft: total_trials(draft.search, draft.preset, draft.space),  # no grid over a range
    lambda draft: check_metrics(
        draft.search.metric, draft.search.second_objective, draft.dataset.schema, protected=draft.decorrelated
    ),
    lambda draft: check_yardsticks(draft.search, draft.space),
    lambda draft: (draft.watched, draft.others),
    lambda draft: check_folds(draft.preset, draft.search, draft.space, draft.dataset),
    lambda draft: draft.within,
    lambda draft: rehearse(draft.search, draft.preset, draft.space, draft.dataset.schema),
)
"""What a search is refused for by itself, then by its events, in this order; `preflight.CHECKS` is what follows."""


def prepare(search: Search, options: SearchOptions, *, hashes: Hashes = "once") -> SearchPlan:
    """Check a search against its dataset, the storage and the cluster.

    Args:
        search: as a script states it.
        options: of the search.
        hashes: which of the dataset's shards are hashed, see `verify_shards`.

    Raises:
        UnknownName: no such preset, or the baseline names a parameter that no trial has.
        InvalidSpace: the trainer refuses a parameter, weights would average one epoch, or all break the constraints.
        MissingPackage, InvalidSpace, InvalidConfig: the sampler cannot draw from the space, see `check_sampler`.
        InvalidConfig, SearchFailed: it cannot learn from an earlier search, see `lessons_of`.
        ShardMismatch, UnreadableInput, InvalidEvents: the dataset is not whole.
        InvalidConfig: nothing ends it, an option does nothing, trials lack the metric, or the processor the precision.
        InvalidConfig, PluginFailed: a module of the user's own cannot be imported, or fails, see `rehearse`.
        InvalidSpace, StorageError, PluginFailed, ClusterUnavailable, Infeasible: see `preflight`.
    """
    import_named(options.plugin or ())
    search = search.with_direction()
    if options.constraint:
        search = dataclasses.replace(search, constraints=(*search.constraints, *options.constraint))
    if options.preset not in search.presets:
        raise UnknownName(
            f"unknown preset '{options.preset}'; {search.name} has: {', '.join(search.presets) or 'none'}"
        )
    asked = search.presets[options.preset].with_options(options)
    preset = asked.resolved(search, options.sampler, options.scheduler)
    search, preset, options = in_precision(search, preset, options.with_gain_per(preset.sampler))
    draft = Draft(search, preset, options, hashes)
    for check in CHECKS:
        check(draft)
    trials = draft.trials
    return SearchPlan(
        experiment=search.name,
        storage=options.storage,
        folder=options.storage / search.name,
        tracking_uri=options.tracking,
        dataset=draft.dataset,
        resources=preflight(trials),
        epochs=preset.epochs,
        metric=search.metric,
        mode=search.mode,
        keep=trials.keep,
        epoch_timeout=options.epoch_timeout,
        plugins=trials.plugins,
        time_budget=options.time_budget,
        watched=draft.watched,
        others=draft.others,
        fuse=chosen_fuse(options.fuse, draft.why_alone, trials.built[0], trials.resources),
        folds=preset.folds,
        deterministic=options.deterministic,
        compiling=options.compile,
        search=search,
        preset=preset,
        space=draft.space,
        given=options,
        paused=trials.paused,
        within=draft.within,
    )
