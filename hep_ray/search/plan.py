"""Plan a search: check it against its dataset, the storage and the cluster, and state what it will do."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hep_ray.dataset.dataset import Dataset, Hashes
from hep_ray.errors import CannotResume, StorageError, UnknownName
from hep_ray.flags import in_words
from hep_ray.plugins import Plugin, differences, import_named, places, registered
from hep_ray.registry import check_name
from hep_ray.search.definition import Mode, Preset, Search
from hep_ray.search.draws import MIXED, WAITING, n_startup_trials, stops, total_trials
from hep_ray.search.find import stated_by
from hep_ray.search.named_samplers import check_sampler
from hep_ray.search.options import EPOCH_TIMEOUT, Resume, SearchOptions
from hep_ray.search.own_checks import rehearse
from hep_ray.search.preflight import check_metrics, configurations_of, most_paused, preflight
from hep_ray.search.recorder import KEEP_BEST
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import default_uri
from hep_ray.tracking.provenance import provenance
from hep_ray.tracking.records import CodeAccepted, OptionsChanged, Record, SearchStarted


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Plan of trials to train: which, on what data, with which resources and until when; a search or a confirmation.

    Attributes:
        experiment: name of the search, which is that of its experiment in MLflow.
        storage: folder of all searches.
        folder: of the journal; the trials' folders lie in it.
        tracking_uri: MLflow server or database.
        dataset: training and validation split are loaded, or streamed, as the resources say.
        resources: of one trial, how many run side by side, and how many there are in all.
        epochs: full length of a trial.
        metric: key of the per-epoch report that ranks trials and decides which epoch's model is kept.
        mode: whether more (`max`) or less (`min`) of it is better.
        keep: trials, best first, whose model stays on disk.
        epoch_timeout: seconds that an epoch may take.
        plugins: files of the user's own whose components the trials need.
        time_budget: seconds after which nothing starts, and what runs stops after its epoch; None is no limit.
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
    to_go_on: str = "run the same script with --resume"

    @property
    def trials(self) -> int:
        """Return the number of trials to run."""
        return self.resources.trials


@dataclass(frozen=True)
class SearchPlan:
    """A search that can run: dataset, space and resources agree.

    Attributes:
        search: as the script states it.
        preset: with the command line's overrides.
        space: the preset's.
        dataset: opened and verified.
        resources: what runs side by side.
        given: the options it was made from.
        plugins: files of the user's own that register components.
    """

    search: Search
    preset: Preset
    space: Space
    dataset: Dataset
    resources: ResourcePlan
    given: SearchOptions
    plugins: tuple[Plugin, ...] = ()

    @property
    def storage(self) -> Path:
        """Folder of all searches."""
        return self.given.storage

    @property
    def folder(self) -> Path:
        """Folder of this search."""
        return self.given.storage / self.search.name

    @property
    def trials(self) -> int:
        """Return the number of trials to run."""
        return self.resources.trials

    @property
    def tracking_uri(self) -> str:
        """MLflow server or database."""
        return self.given.tracking_uri or default_uri(self.storage)

    def _repr_html_(self) -> str:
        from hep_ray.search.notebook import html_rows
        from hep_ray.search.start import plan_rows

        return html_rows(plan_rows(self))

    @property
    def training(self) -> TrainingPlan:
        """Return what `execute` trains."""
        return TrainingPlan(
            experiment=self.search.name,
            storage=self.storage,
            folder=self.folder,
            tracking_uri=self.tracking_uri,
            dataset=self.dataset,
            resources=self.resources,
            epochs=self.preset.epochs,
            metric=self.search.metric,
            mode=self.search.mode,
            epoch_timeout=self.given.epoch_timeout,
            plugins=self.plugins,
            time_budget=self.given.time_budget,
        )

    @property
    def provenance(self) -> dict[str, str]:
        """Code, versions, machine and command, as they are now."""
        return provenance(self.given.source, places(self.plugins))

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a search to be the same search after a restart."""
        preset = self.preset
        return {
            "search": self.search.name,
            "task": self.dataset.schema.task,
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
        }

    @property
    def budget(self) -> str:
        """In words: how much is trained, what draws it and what stops it."""
        preset, drawn = self.preset, self.trials - len(self.search.points_to_evaluate)
        at_random = min(n_startup_trials(preset, self.space), drawn)
        third = f" and one in {MIXED}" if stops(preset) else ""
        sampler = preset.sampler_name
        if sampler in WAITING:
            sampler += f" after {at_random} trials at random{third}"
        chosen = f" (chosen by auto: {preset.why})" if preset.why else ""
        idle = preset.scheduler != "none" and not stops(preset)
        nobody = ", which stops none of so few epochs" if idle else ""
        shared = f" = {drawn * preset.epochs} epochs, shared among trials that pause" if preset.pauses else ""
        limit = self.given.time_budget
        in_time = (
            ""
            if limit is None
            else f"; ends after {in_words(limit)}, with what runs stopping after its epoch"
        )
        return (
            f"{self.trials} trials × {preset.epochs} epochs{shared}; sampler {sampler}{chosen}, "
            f"{'pausing' if preset.pauses else 'stopping'} {preset.stopping}{nobody}; seed {self.given.seed}{in_time}"
        )

    @property
    def options(self) -> dict[str, Any]:
        """Return what the journal records of the options, for a later --resume without flags."""
        return {**self.given.record(), "cache": self.resources.ingest.cache}

    def opening(self, state: SearchState, *, resume: bool) -> list[Record]:
        """Return the first records of this attempt: a new search, or changed flags and accepted code.

        Args:
            state: what the journal holds.
            resume: go on with the search that it holds.

        Raises:
            StorageError: it holds a search, and `resume` is off.
            CannotResume: it holds none, or another one than this.
        """
        if state.started is None:
            if resume:
                raise CannotResume(
                    f"no search to resume: {self.folder} holds none; start it without --resume"
                )
            return [
                SearchStarted(
                    time=time.time(),
                    search_id=uuid.uuid4().hex,
                    provenance=self.provenance,
                    options=self.options,
                    plugins=tuple(plugin.recorded for plugin in self.plugins),
                    stated=stated_by(self.search),
                    unstated={},
                    **self.identity,
                )
            ]
        if not resume:
            ended = sum(trial.finished is not None for trial in state.trials.values())
            raise StorageError(
                f"{self.folder} holds a search already, of {len(state.trials)} trials, {ended} ended: type --resume to "
                "go on with it, or choose another --storage"
            )
        before, now = {key: getattr(state.started, key) for key in self.identity}, self.identity
        if state.started.stated is not None:
            before["baseline"], now["baseline"] = state.started.stated["baseline"], dict(self.search.baseline)
        if changes := self.space.changes_since(before.pop("space")):
            raise CannotResume(
                f"the search space has changed: {'; '.join(changes)}. A resumed search is the same search: state the "
                "space as it was, or choose another --storage"
            )
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


def prepare(search: Search, options: SearchOptions, *, hashes: Hashes = "once") -> SearchPlan:
    """Check a search against its dataset, the storage and the cluster.

    Args:
        search: as a script states it.
        options: of the search.
        hashes: which of the dataset's shards are hashed, see `verify_shards`.

    Raises:
        UnknownName: no such preset, or the baseline names a parameter that no trial has.
        InvalidConfig: no trial has a value of the baseline.
        PluginFailed: a module that --plugin names cannot be imported.
        MissingPackage, InvalidSpace, InvalidConfig: the sampler cannot draw from the space, see `check_sampler`.
        InvalidSpace: the trainer would not read, or would refuse, a parameter.
        ShardMismatch, UnreadableInput, InvalidEvents: the dataset is not whole.
        InvalidConfig: trials on this dataset do not report the metric.
        InvalidConfig, PluginFailed: a scheduler or a sampler of the user's own fails, see `rehearse`.
        InvalidSpace, StorageError, PluginFailed, ClusterUnavailable, Infeasible: see `preflight`.
    """
    import_named(options.plugin or ())
    search = search.with_direction()
    preset = _preset(search, options)
    space = preset.space or search.space
    plugins = registered(_words(search, space))
    space.check()
    _check_baseline(search)
    check_sampler(preset, search)
    trials = total_trials(search, preset, space)
    dataset = Dataset.open(options.data, hashes=hashes)
    check_metrics(search.metric, search.second_objective, dataset.schema)
    rehearse(search, preset, space, dataset.schema)
    configurations = configurations_of(space, search.points_to_evaluate, options.workers_per_trial)
    paused = most_paused(preset, trials)
    resources = preflight(dataset, options, configurations, plugins, trials=trials, paused=paused)
    return SearchPlan(search, preset, space, dataset, resources, options, plugins)


def _check_baseline(search: Search) -> None:
    """Refuse a baseline of parameters that no trial has; one that is outside the space is trained by `confirm` anew.

    Raises:
        UnknownName: it names such a parameter.
    """
    spaces = [one for one in (search.space, *(preset.space for preset in search.presets.values())) if one]
    known = {
        name for one in (*(space.parameters for space in spaces), *search.points_to_evaluate) for name in one
    }
    for name in search.baseline:
        check_name("parameter in the baseline", name, sorted(known))


def _words(search: Search, space: Space) -> set[str]:
    """Every word that a trial may state, among them the names of its components."""
    values = [value for one in space.parameters.values() for value in one.corners()]
    values += [value for params in search.points_to_evaluate for value in params.values()]
    return {value for value in values if isinstance(value, str)}


def _preset(search: Search, options: SearchOptions) -> Preset:
    if options.preset not in search.presets:
        raise UnknownName(
            f"unknown preset '{options.preset}'; {search.name} has: {', '.join(search.presets) or 'none'}"
        )
    preset = search.presets[options.preset].with_recorded_grace(options.grace_epochs)
    preset = dataclasses.replace(
        preset,
        trials=preset.trials if options.trials is None else options.trials,
        epochs=preset.epochs if options.epochs is None else options.epochs,
    )
    return preset.resolved(search, options.sampler, options.scheduler)
