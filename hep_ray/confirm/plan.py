"""Plan a confirmation and check it before it starts: finalists, baseline, seeds, dataset, resources."""

from __future__ import annotations

import dataclasses
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from hep_ray.addresses import located
from hep_ray.confirm.confirmation import FOLDER, made_by
from hep_ray.confirm.finalists import (
    ENSEMBLE,
    Baseline,
    Configuration,
    check_ensemble,
    choose_baseline,
    configurations,
    finalists_of,
    parse_baseline,
)
from hep_ray.dataset.dataset import Dataset, Hashes
from hep_ray.dataset.other_events import other_datasets
from hep_ray.dataset.variations import Variation
from hep_ray.errors import CannotConfirm, CannotResume, InvalidConfig, InvalidSpace, StorageError, StorageHeld
from hep_ray.metrics import is_worst
from hep_ray.metrics.decorrelation import check_contenders
from hep_ray.plugins import Plugin, differences, import_named, places, restore
from hep_ray.search.definition import Stated
from hep_ray.search.find import Found, find_search, script_of
from hep_ray.search.fused import check_fuse
from hep_ray.search.naming import count_words
from hep_ray.search.options import AfterSearch, ConfirmOptions
from hep_ray.search.plan import TrainingPlan
from hep_ray.search.preflight import Trials, preflight
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.sampler import FixedList, JournalSearcher
from hep_ray.search.state import CROSS_ENTROPY, SearchState, has_parameters, may_beat_cross_entropy
from hep_ray.tracking.client import recorded_uri
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.provenance import provenance
from hep_ray.tracking.records import Record, SearchStarted, TrialStarted
from hep_ray.training.testing import MEAN_OF, SCORES, metric_keys


def prepare_confirmation(options: ConfirmOptions, *, hashes: Hashes = "once") -> ConfirmPlan:
    """Check that a search can be confirmed, and choose whom.

    Args:
        options: of the confirmation.
        hashes: which of the dataset's shards are hashed, see `verify_shards`.

    Raises:
        UnknownSearch: no name, folder or script is the search's.
        CannotConfirm: it was never run, still runs, has no completed trial, was of another dataset, or has no such
            baseline; its metric measures each contender otherwise, see `check_contenders`; there can be no ensemble,
            see `check_ensemble`; or --fuse is a number and no two of its trainings can be stacked.
        ShardMismatch, UnreadableInput, InvalidEvents: the dataset is not whole.
        InvalidConfig: a variation names events that cannot stand for its own, see `other_datasets`.
        PluginFailed: a file that registers its components has gone or changed.
        StorageError, ClusterUnavailable, Infeasible: see `preflight`.
    """
    import_named(options.plugin or ())
    found = find_search(options.search, options.storage, options.scripts)
    name, options = found.name, dataclasses.replace(options, storage=found.storage)
    state = ended(options, name)
    assert state.started is not None
    plugins = restore(state.plugins)
    ranked = configurations(state)
    baseline = choose_baseline(ranked, _wanted(options, found.stated(state.started), ranked))
    finalists = finalists_of(ranked, baseline, state.started.constraints, options.top)
    dataset = searched_dataset(options, state.started, hashes)
    contenders = [baseline.params, *(one.params for one in finalists)]
    try:
        check_contenders(state.started.metric, contenders)
    except InvalidConfig as exc:
        raise CannotConfirm(f"contenders cannot be compared by the search's metric: {exc}") from None
    if options.ensemble:
        check_ensemble(finalists, state.started)
    trainings = len(contenders) * options.seeds
    ranking = is_worst(state.started.metric)
    tested = other_datasets(dataset, validated=ranking, hashes=hashes)
    others = tested if ranking else {}
    beside = [*others.values()]
    resources = resources_for(dataset, options, state.started, contenders, plugins, trainings, beside)
    first = 1 + max(trial.started.seed for trial in state.trials.values())
    folder = options.storage / name
    plan = ConfirmPlan(
        experiment=name,
        storage=options.storage,
        folder=folder / FOLDER,
        tracking_uri=options.tracking_uri or recorded_uri(folder, state.started),
        dataset=dataset,
        resources=resources,
        epochs=state.started.epochs,
        metric=state.started.metric,
        mode=state.started.mode,
        keep=trainings,
        epoch_timeout=options.as_in_search(state.started).epoch_timeout,
        deterministic=options.as_in_search(state.started).deterministic,
        compiling=options.as_in_search(state.started).compile,
        plugins=plugins,
        fuse=options.fuse,
        started=state.started,
        finalists=finalists,
        ranked=len(ranked),
        breaking=tuple(one.name for one in ranked if one.breaks and one is not baseline.drawn),
        baseline=baseline,
        seeds=tuple(range(first, first + options.seeds)),
        given=options,
        source=source_of(found, state.started),
        variations=dict(dataset.schema.variations),
        others=others,
        tested=tested,
    )
    check_fuse(plan.runs, resources, state.started.unstated, options.fuse)
    return plan


def _wanted(options: ConfirmOptions, stated: Stated, ranked: Sequence[Configuration]) -> dict[str, Any]:
    """Return what the finalists are to beat; empty for cross-entropy, the default of a search that states none."""
    if options.baseline is not None:
        return parse_baseline(options.baseline)
    if stated.known and stated.baseline:
        return dict(stated.baseline)
    example = next((one.name for one in ranked[1:]), ranked[0].name)
    if not stated.known:
        raise CannotConfirm(
            f"what finalists are to beat is stated by the search; the journal of {stated.name} is of an earlier "
            "version and does not tell, and there is no script of that name: name the script, or the baseline, such as "
            f"--baseline trial={example}"
        )
    if has_parameters(ranked[0].params, CROSS_ENTROPY):
        raise CannotConfirm(
            f"the best configuration cannot be what it is to beat; {stated.name} states no baseline, and its best, "
            f"{ranked[0].name}, has the default one, loss=cross_entropy: say what it is to beat, such as "
            f"--baseline trial={example}"
        )
    if not may_beat_cross_entropy([one.params for one in ranked]):
        raise CannotConfirm(
            f"no configuration has the default baseline, loss=cross_entropy; {stated.name} states none, and its best, "
            f"{ranked[0].name}, is fitted and has no loss to replace: say what it is to beat, such as "
            f"--baseline trial={example}"
        )
    return {}


def source_of(found: Found, started: SearchStarted) -> Path:
    """Return the search's script where it still is, else the folder that the command is typed in."""
    places = (found.script, Path(started.provenance.get("script", "")), script_of(found.name, found.scripts))
    return next((place.resolve() for place in places if place is not None and place.is_file()), Path.cwd())


def ended(options: AfterSearch, name: str) -> SearchState:
    """Return the state of a search that has ended, with a completed trial.

    Raises:
        CannotConfirm: it still runs, has trials that have not ended, or none that completed.
    """
    try:
        with Journal(options.storage / name) as journal:
            state = SearchState.fold(journal)
    except StorageHeld as exc:
        raise CannotConfirm(f"{name} still runs ({exc}): a search is confirmed when it has ended") from None
    unfinished = [trial.trial_id for trial in state.unfinished()]
    if unfinished and not options.allow_unfinished:
        raise CannotConfirm(
            f"a search is confirmed when it has ended; {', '.join(unfinished)} of {name} "
            f"{'has' if len(unfinished) == 1 else 'have'} not: resume it, or leave out what has not ended with "
            "--allow-unfinished"
        )
    if state.started is None or not any(trial.status == "completed" for trial in state.trials.values()):
        raise CannotConfirm(
            f"a search with a completed trial can be confirmed; {name} has "
            f"{count_words(len(state.trials), 'trial')} and none completed"
        )
    return state


def searched_dataset(options: AfterSearch, started: SearchStarted, hashes: Hashes) -> Dataset:
    """Return the dataset of a search, which has what a comparison on its test split needs.

    Raises:
        CannotConfirm: it is another dataset, or its test split lacks a class or the search's metric.
    """
    folder = located(options.data or started.options["data"])
    dataset = Dataset.open(folder, hashes=hashes, weights=started.weights == "on")
    if dataset.fingerprint != started.dataset_fingerprint:
        raise CannotConfirm(
            f"a search is confirmed on the dataset that it searched; its fingerprint was {started.dataset_fingerprint} "
            f"and {folder} has {dataset.fingerprint}: name the right folder with --data, or run the search again"
        )
    counts = dataset.manifest.class_counts("test")
    if not all(counts.values()):
        raise CannotConfirm(f"the test split has events of every class; that of {folder} has {counts}")
    metric = of_test(started.metric)
    if metric not in metric_keys(dataset.schema):
        raise CannotConfirm(
            f"finalists are compared by a metric of every model; the test split has no '{metric}' of the search's "
            f"{started.metric}"
        )
    return dataset


def resources_for(
    dataset: Dataset,
    options: AfterSearch,
    started: SearchStarted,
    contenders: Sequence[Mapping[str, Any]],
    plugins: tuple[Plugin, ...],
    trainings: int,
    beside: Sequence[Dataset] = (),
) -> ResourcePlan:
    """Return what trainings of configurations take on the cluster, once it is known that they can run there.

    Raises:
        CannotConfirm: a configuration cannot be trained.
        StorageError, ClusterUnavailable, Infeasible: see `preflight`.
    """
    given = dataclasses.replace(options.as_in_search(started), data=dataset.folder)
    asked = Trials(
        dataset,
        given,
        contenders,
        plugins,
        trainings,
        keep=trainings,
        beside=tuple(beside),
        without_ray=True,
    )
    try:
        return preflight(asked)
    except InvalidSpace as exc:
        raise CannotConfirm(f"a contender cannot be trained: {exc}") from exc


BASELINE = "baseline"
"""Name of the contender that the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class RetrainingPlan(TrainingPlan):
    """Plan of trainings at full length of configurations of a search: a confirmation, or a fold.

    Attributes:
        started: first record of the search.
        source: file whose git checkout is stated as provenance.
        variations: systematic ones, under which each model is tested too.
        tested: of those that name a dataset, it.
    """

    started: SearchStarted
    source: Path
    variations: Mapping[str, Variation] = field(default_factory=dict)
    tested: Mapping[str, Dataset] = field(default_factory=dict)
    to_go_on: str = "type the same command again, without --again"
    kind: ClassVar[str] = "confirmation"
    deciding: ClassVar[tuple[str, ...]] = ()
    """Flags, recorded among the options, that decide what is trained."""

    @property
    def ranks_worst(self) -> bool:
        """Return whether the search ranks by the worst value under variations, so that they are validated under too."""
        return is_worst(self.metric)

    @property
    def as_before(self) -> str:
        """Return what to type to go on with what is in the folder."""
        return "type the same as before"

    @property
    @abstractmethod
    def runs(self) -> list[TrialStarted]:
        """Every training."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for these trainings to be the same after a restart: here what all kinds have."""
        return {
            "search": self.started.search,
            "task": self.started.task,
            "dataset_fingerprint": self.dataset.fingerprint,
            "metric": self.metric,
            "mode": self.mode,
            "epochs": self.epochs,
            "scheduler": "none",
            "workers_per_trial": self.started.workers_per_trial,
            "weights": self.started.weights,
            "deterministic": self.deterministic,
        }

    @property
    @abstractmethod
    def told(self) -> dict[str, Any]:
        """Return options, title and tags of the first record."""

    @property
    def provenance(self) -> dict[str, str]:
        """Code, versions, machine and command, as they are now."""
        return provenance(self.source, places(self.plugins))

    @property
    def test_metric(self) -> str:
        """Metric of the test split by which configurations are compared: the search's own."""
        return of_test(self.started.metric)

    def opening(self, state: SearchState, say: Callable[[str], None]) -> list[Record]:  # noqa: ARG002
        """Return the first record of new trainings; none of those that go on.

        Raises:
            CannotResume: see `refuse_another`.
        """
        self.refuse_another(state)
        if state.started is not None:
            return []
        return [
            SearchStarted(
                time=time.time(),
                search_id=uuid.uuid4().hex,
                provenance={**self.provenance, "confirms": self.started.search_id},
                plugins=tuple(plugin.recorded for plugin in self.plugins),
                unstated=self.started.unstated,
                **self.told,
                **self.identity,
            )
        ]

    def refuse_another(self, state: SearchState) -> None:
        """Refuse to go on with trainings, of which the journal is in the folder, that are not these.

        Raises:
            CannotResume: they are others; the message says what differs.
        """
        started = state.started
        if started is None:
            return
        if changes := differences(started.plugins, self.plugins):
            raise CannotResume(
                f"the code of {self.told['title']} has changed: {'; '.join(changes)}: put it back, or type --again"
            )
        now = {**self.identity, "confirms": self.started.search_id}
        recorded = {key: getattr(started, key) for key in self.identity}
        recorded["confirms"] = started.provenance["confirms"]
        names = {
            "contenders": "the contenders",
            "sampler": "the seeds",
            "seed": "the first seed",
            "confirms": "the search",
            "variations": "the variations",
        }
        changes = [
            change
            for key, value in now.items()
            for change in _changes(names.get(key, key), recorded[key], value)
        ]
        if changes:
            was, given = started.options, self.told["options"]
            flags = [
                f"--{flag} was {_as_typed(was.get(flag))} and is {_as_typed(given.get(flag))} now"
                for flag in self.deciding
                if was.get(flag) != given.get(flag)
            ]
            raise CannotResume(
                f"{self.folder} holds another {self.kind}; {'; '.join(flags or changes)}: {self.as_before}, or --again "
                "to set it aside and start anew"
            )

    def searcher(self, state: SearchState, write: Callable[[Record], None]) -> JournalSearcher:
        """Return what hands out the trainings, in their order."""
        return FixedList(self.runs, state, write)


def _changes(what: str, before: Any, now: Any) -> Iterator[str]:
    """Yield in words how a recorded value differs from that of now; of what has names, only what differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            if name not in now:
                yield f"{what} had '{name}', which is not there now"
            elif name not in before:
                yield f"{what} had no '{name}', which is there now"
            else:
                yield from _changes(f"{what}, '{name}'", before[name], now[name])
    elif before != now:
        yield f"{what}: recorded is {before!r}, now it is {now!r}"


def _as_typed(value: Any) -> str:
    """Return in words how a flag was typed: whether, or with what."""
    return "left out" if value is None else "typed" if value is True else str(value)


@dataclass(frozen=True, kw_only=True)
class ConfirmPlan(RetrainingPlan):
    """A confirmation that can run: every contender is trained at full length.

    Attributes:
        finalists: best first.
        ranked: number of distinct configurations that they were chosen from.
        breaking: those among them that break a constraint of the search, by which they are no finalists.
        baseline: what they are to beat.
        seeds: of each contender's trainings, the same for all; none was used by the search.
        given: the options it was made from.
    """

    finalists: tuple[Configuration, ...]
    ranked: int
    baseline: Baseline
    seeds: tuple[int, ...]
    given: ConfirmOptions
    breaking: tuple[str, ...] = ()
    deciding: ClassVar[tuple[str, ...]] = ("top", "seeds", "baseline", "ensemble", "deterministic")

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the finalists whose mean is a contender too; none where no ensemble is asked for."""
        return tuple(one.name for one in self.finalists) if self.given.ensemble else ()

    @property
    def search_folder(self) -> Path:
        """Folder of the search."""
        return self.storage / self.experiment

    @property
    def as_before(self) -> str:
        """Return what to type to go on with the confirmation that is in the folder."""
        return f"type `{made_by(self.search_folder, data=self.given.data)}`"

    def refuse_another(self, state: SearchState) -> None:
        """Refuse to go on with another confirmation, or with one whose scores have gone.

        Raises:
            CannotResume: it is another; the message says what differs.
            StorageError: a model has been tested, and its scores are not there, without which its noise is not known.
        """
        super().refuse_another(state)
        tested = [name for name, trial in state.trials.items() if trial.tested is not None]
        paths = [self.folder / "trials" / name / SCORES for name in tested]
        gone = [path for path in paths if not path.is_file()]
        if gone:
            more = f", nor are {len(gone) - 1} more" if len(gone) > 1 else ""
            raise StorageError(
                f"scores on the test split have gone, {gone[0]} is not there{more}: put them back, or read the test "
                f"split once more with `{made_by(self.search_folder, '--again', data=self.given.data)}`"
            )

    @property
    def told(self) -> dict[str, Any]:
        """Return options, title and tags of the first record."""
        deterministic = self.given.deterministic
        return {
            "options": {
                "top": self.given.top,
                "seeds": self.given.seeds,
                "baseline": self.given.baseline,
                "level": self.given.level,
                **({"ensemble": True} if self.members else {}),
                **({} if deterministic is None else {"deterministic": deterministic}),
                "data": str(self.dataset.folder.resolve()),
            },
            "title": f"{self.started.search} (confirmation)",
            "tags": {"hep_ray.kind": "confirmation"},
        }

    @property
    def contenders(self) -> list[tuple[str, Literal["finalist", "baseline"], dict[str, Any]]]:
        """Name, role and parameters of what is trained: the finalists, then the baseline."""
        return [
            *((one.name, "finalist", one.params) for one in self.finalists),
            (BASELINE, "baseline", self.baseline.params),
        ]

    @property
    def ensemble(self) -> dict[str, dict[str, Any]]:
        """Return what is recorded of an ensemble: its name, and whose mean it is; empty without one."""
        return {ENSEMBLE: {MEAN_OF: list(self.members)}} if self.members else {}

    @property
    def trials_of_search(self) -> dict[str, list[str]]:
        """Contender → trials of the search that it is; the baseline may be none of them."""
        drawn = {one.name: one for one in self.finalists}
        if self.baseline.drawn is not None:
            drawn[BASELINE] = self.baseline.drawn
        return {name: [trial.trial_id for trial in one.trials] for name, one in drawn.items()}

    @property
    def runs(self) -> list[TrialStarted]:
        """Every training, seed by seed, so that pairs are complete early."""
        planned = [
            (name, role, params, seed) for seed in self.seeds for name, role, params in self.contenders
        ]
        return [
            TrialStarted(
                time=0.0,
                trial_id=trial_id(name, seed),
                number=number,
                params=params,
                seed=seed,
                tags={"role": role, "contender": name, "seed": str(seed)},
            )
            for number, (name, role, params, seed) in enumerate(planned)
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a confirmation to be the same after a restart."""
        return {
            **super().identity,
            "sampler": f"the same {len(self.seeds)} seeds for every contender",
            "seed": self.seeds[0],
            "contenders": {name: params for name, _, params in self.contenders} | self.ensemble,
            "variations": {name: one.model_dump(mode="json") for name, one in self.variations.items()},
        }


def trial_id(contender: str, seed: int) -> str:
    """Name of a training within its confirmation."""
    return f"{contender}_seed{seed}"


def of_test(metric: str) -> str:
    """Return the metric of the test split for one of the validation split."""
    return "test_" + metric.removeprefix("val_")
