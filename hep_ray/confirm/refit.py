"""Refit a confirmed configuration: train it once more, on training and validation events, and choose nothing.

The validation events have done their work when a configuration is confirmed: they chose it, and the epoch of each of
its models. A model that learns from them too has a quarter more events or so. Nothing is left to choose its epoch by,
so it is trained for as many as the confirmed trainings found best (`best_epoch`), under the schedule of the full
length, and the model of that epoch is handed on. The test split is read once, afterwards, and chooses nothing either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from hep_ray.confirm.confirmation import (
    FOLDER,
    Confirmation,
    Contender,
    choose,
    load_confirmation,
    set_aside,
)
from hep_ray.confirm.plan import RetrainingPlan, ended, resources_for, searched_dataset, source_of
from hep_ray.confirm.refit_result import FILE_NAME, REFIT, TRIAL, Refit, best_epoch, load_refit
from hep_ray.confirm.run import train_one
from hep_ray.dataset.dataset import MANIFEST, Dataset, Hashes, Manifest, Shard
from hep_ray.dataset.other_events import other_datasets
from hep_ray.dataset.shard_file import link_shard
from hep_ray.errors import (
    CannotConfirm,
    CannotResume,
    PromotionRefused,
    ShardMismatch,
    StorageError,
    UnreadableInput,
)
from hep_ray.files import open_locked, replacing, storing, write_whole
from hep_ray.flags import typed
from hep_ray.metrics import is_worst, nominal_key
from hep_ray.plugins import import_named, restore
from hep_ray.search.find import find_search
from hep_ray.search.options import AfterSearch
from hep_ray.search.state import SearchState
from hep_ray.search.trial import SEEN
from hep_ray.tracking.client import recorded_uri
from hep_ray.tracking.records import TrialStarted
from hep_ray.training.checkpoint import BEST
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import SCORES

LEARNT = "learnt-"
"""Before the name of a shard of validation events that stands among those of training."""


@dataclass(frozen=True, kw_only=True)
class RefitPlan(RetrainingPlan):
    """A refit that can run.

    Attributes:
        options: it was made from.
        confirmation: of the search.
        candidate: its finalist that is trained, see `choose`.
        seed: of the training; neither search nor confirmation used it.
        original: the dataset of the search; `dataset` is that until the training begins, see `dataset_of_refit`.
    """

    kind: ClassVar[str] = REFIT
    options: AfterSearch
    confirmation: Confirmation
    candidate: Contender
    seed: int
    original: Dataset
    until: int

    @property
    def events(self) -> int:
        """Events that are learnt from: those of training and validation."""
        return self.original.rows("train") + self.original.rows("val")

    @property
    def best_epochs(self) -> tuple[int, ...]:
        """Epoch of each confirmed training whose model was best by validation."""
        return tuple(run.epoch for run in self.candidate.runs)

    @property
    def runs(self) -> list[TrialStarted]:
        """The one training."""
        params = {key: value for key, value in self.candidate.params.items() if key != "seed"}
        tags = {"contender": self.candidate.name, "refit": f"{self.until} of {self.epochs} epochs"}
        return [TrialStarted(time=0.0, trial_id=TRIAL, number=0, params=params, seed=self.seed, tags=tags)]

    @property
    def told(self) -> dict[str, Any]:
        """Return options, title and tags of the first record."""
        return {
            "options": {
                "data": str(self.original.folder.resolve()),
                "confirmation": self.confirmation.confirmation_id,
                "until": self.until,
            },
            "title": f"{self.started.search} (refit)",
            "tags": {"hep_ray.kind": REFIT},
        }

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a refit to be the same after a restart."""
        return {
            **super().identity,
            "sampler": "one seed",
            "seed": self.seed,
            "contenders": {self.candidate.name: self.candidate.params},
        }

    def refuse_another(self, state: SearchState) -> None:
        """Refuse to go on with the refit of another confirmation, or for other epochs, or of something else.

        Raises:
            CannotResume: the journal holds one.
            StorageError: it has been tested, and its model is not there.
        """
        trial = state.trials.get(TRIAL)
        if trial is not None and trial.status == "failed":
            return  # it is set aside first
        again = typed(
            "hep-ray", REFIT, self.experiment, "--again", storage=self.storage, data=self.options.data
        )
        before = {} if state.started is None else state.started.options
        for key, told in (("confirmation", "the confirmation"), ("until", "its last epoch")):
            now = self.told["options"][key]
            if before and before.get(key) != now:
                raise CannotResume(
                    f"{self.folder} holds another refit, of which {told} is {before.get(key)}, not {now}: type "
                    f"`{again}`, which sets it aside"
                )
        path = self.folder / "trials" / TRIAL / BEST
        if trial is not None and trial.tested is not None and not path.is_file():
            raise StorageError(f"the model of the refit is gone, {path} is not there: type `{again}`")
        if self.dataset is not self.original:  # whose fingerprint is recorded
            super().refuse_another(state)

    def divided(self) -> RefitPlan:
        """Return the plan with the dataset of the training, which is made where it is not there.

        Raises:
            CannotConfirm: the configuration cannot be trained on so many events.
            StorageError, ClusterUnavailable, Infeasible: see `preflight`.
        """
        dataset = dataset_of_refit(self.original, self.folder, weights=self.started.weights == "on")
        resources = resources_for(
            dataset, self.options, self.started, [self.candidate.params], self.plugins, 1
        )
        return dataclasses.replace(self, dataset=dataset, resources=resources)


def prepare_refit(options: AfterSearch, *, hashes: Hashes = "once") -> RefitPlan:
    """Check that the candidate of a confirmation can be trained on training and validation events.

    Raises:
        UnknownSearch: no name, folder or script is the search's.
        StorageError: it is not confirmed.
        CannotConfirm: the search still runs, is another than the confirmed one, or of another dataset; no finalist is a
            candidate, or it is the mean of several configurations; or it learns from a stated number of events.
        PluginFailed: a file that registers its components has gone or changed since the confirmation.
        StorageError, ClusterUnavailable, Infeasible: see `preflight`.
    """
    import_named(options.plugin or ())
    found = find_search(options.search, options.storage, options.scripts)
    options = dataclasses.replace(options, storage=found.storage)
    confirmation = load_confirmation(found.folder)
    state = ended(options, found.name)
    started = state.started
    assert started is not None
    again = typed("hep-ray", "confirm", found.name, "--again", storage=found.storage, data=options.data)
    if confirmation.search_id != started.search_id:
        raise CannotConfirm(
            f"the confirmation of {found.name} is of another search of that name "
            f"({confirmation.search_id[:12]}, not {started.search_id[:12]}): type `{again}`"
        )
    try:
        candidate, _ = choose(confirmation)
    except PromotionRefused as exc:
        raise CannotConfirm(str(exc)) from None
    _refuse_few_events(candidate, started.unstated)
    plugins = restore(SearchState.read(found.folder / FOLDER).plugins)
    dataset = searched_dataset(options, started, hashes)
    ranking = is_worst(started.metric)
    used = (*confirmation.seeds, *(trial.started.seed for trial in state.trials.values()))
    return RefitPlan(
        experiment=found.name,
        storage=found.storage,
        folder=found.folder / REFIT,
        tracking_uri=options.tracking_uri or recorded_uri(found.folder, started),
        dataset=dataset,
        resources=resources_for(dataset, options, started, [candidate.params], plugins, 1),
        epochs=confirmation.epochs,
        metric=SEEN + nominal_key(started.metric).removeprefix("val_"),
        mode=started.mode,
        keep=1,
        epoch_timeout=options.as_in_search(started).epoch_timeout,
        deterministic=options.as_in_search(started).deterministic,
        compiling=options.as_in_search(started).compile,
        plugins=plugins,
        until=best_epoch([run.epoch for run in candidate.runs]),
        started=started,
        source=source_of(found, started),
        variations=dict(dataset.schema.variations) if ranking else {},
        tested=other_datasets(dataset, validated=False, hashes=hashes) if ranking else {},
        options=options,
        confirmation=confirmation,
        candidate=candidate,
        seed=1 + max(used),
        original=dataset,
    )


def _refuse_few_events(candidate: Contender, unstated: Mapping[str, Any]) -> None:
    """Refuse a configuration that would not learn from more events than before, and what is no configuration.

    Raises:
        CannotConfirm: it states how many training events it learns from, or is the mean of several configurations.
    """
    if not candidate.params:
        raise CannotConfirm(
            f"one configuration is refit, and the candidate '{candidate.name}' is the mean of several: promote it "
            "without --refit, or confirm with --again and without --ensemble, which reads the test split once more"
        )
    params = {key: value for key, value in candidate.params.items() if key != "seed"}
    config = TrialConfig.completed(params, unstated)
    few = 0 if config.fitted else config.training.train_events
    if few:
        raise CannotConfirm(
            f"the configuration of {candidate.name} learns from the first {few} training events (train_events={few}), "
            "and would do so of more: there is nothing to refit; promote it without --refit"
        )


def dataset_of_refit(dataset: Dataset, folder: Path, *, weights: bool) -> Dataset:
    """Return the events of a dataset whose training split has those of validation too, in `folder/data`.

    Its shards are those of the dataset under other names (hard links; copies where the file system has none, or of an
    address). The
    validation split is there once more, since a training needs one; the test split is the same.

    Args:
        dataset: of the search, opened.
        folder: of the refit.
        weights: use the events' weights.

    Raises:
        CannotResume: there are other events.
        ShardMismatch, UnreadableInput: what is there is not whole.
        StorageError: it cannot be written.
    """
    out = folder / "data"
    manifest, sources = _with_validation(dataset)
    if not (out / MANIFEST).is_file():
        with replacing(out) as filling, storing(out):
            for shard, source in zip(manifest.shards, sources, strict=True):
                link_shard(source, filling / shard.file)
            write_whole(filling / MANIFEST, manifest.dumps())
    try:
        made = Dataset.open(out, weights=weights)
    except (ShardMismatch, UnreadableInput) as exc:
        raise type(exc)(f"{exc}: type --again to set the refit aside, which makes these files anew") from None
    if made.fingerprint != manifest.fingerprint:
        raise CannotResume(
            f"{out} holds other events (fingerprint {made.fingerprint[:12]}, not {manifest.fingerprint[:12]}): type "
            "--again to set it aside"
        )
    return made


def _with_validation(dataset: Dataset) -> tuple[Manifest, list[Path]]:
    """Return the manifest of a refit's dataset, and where each of its shards lies."""
    before = dataset.manifest
    shards: list[Shard] = []
    sources: list[Path] = []
    for split in ("train", "val", "test"):
        for shard in before.shards:
            learnt = split == "train" and shard.split == "val"
            if learnt or shard.split == split:
                name = f"{LEARNT}{shard.file}" if learnt else shard.file
                shards.append(shard.model_copy(update={"file": name, "split": split}))
                sources.append(dataset.folder / shard.file)
    sums = dict(before.weights)
    if sums:
        sums["train"] = {
            name: (sums["train"][name][0] + signed, sums["train"][name][1] + size)
            for name, (signed, size) in sums["val"].items()
        }
    return dataset.rearranged(shards, sums, {"train_and_val_of": dataset.fingerprint}), sources


def run_refit(plan: RefitPlan, *, again: bool = False, console: Console | None = None) -> Refit:
    """Train the model that has not been trained yet, and test it once.

    Typed again, it goes on; a refit that has ended only tells its result again.

    Args:
        plan: checked by `prepare_refit`.
        again: set an earlier refit aside, into a folder beside it, and start anew.
        console: where progress is shown.

    Raises:
        CannotResume: the folder holds another refit.
        StorageError: another process is at work in it, or its model is gone.
        TrackingUnavailable, Interrupted, SearchFailed: see `execute`.
    """
    console = console or Console(stderr=True)
    rule = f"the refit of {plan.started.search} is made by one command at a time"
    with open_locked(plan.folder.with_name(f".{plan.folder.name}.lock"), rule):
        before = SearchState.read(plan.folder)
        failed = TRIAL in before.trials and before.trials[TRIAL].status == "failed"
        if again or failed:
            set_aside(plan.folder)
        elif before.started is not None:
            plan.refuse_another(before)  # before anything is written
        divided = plan.divided()
        train_one(divided, console, partial(_publish, divided), purpose=REFIT, name="the refit")
    return load_refit(plan.folder)


def _publish(plan: RefitPlan, state: SearchState, run_ids: Mapping[str, str]) -> Path | None:
    """Write what was found, once the model has been tested."""
    trial = state.trials.get(TRIAL)
    if not state.finished or trial is None or trial.tested is None:
        return None
    assert state.started is not None
    made = Refit(
        search=plan.started.search,
        search_id=plan.started.search_id,
        confirmation_id=plan.confirmation.confirmation_id,
        dataset_fingerprint=plan.original.fingerprint,
        data_fingerprint=plan.dataset.fingerprint,
        trial=plan.candidate.name,
        params=plan.candidate.params,
        seed=plan.seed,
        epoch=trial.tested.epoch,
        epochs=plan.epochs,
        best_epochs=plan.best_epochs,
        events=plan.events,
        metric=plan.test_metric,
        metrics=trial.tested.metrics,
        checkpoint=f"trials/{TRIAL}/{BEST}",
        scores=f"trials/{TRIAL}/{SCORES}",
        provenance=state.started.provenance,
        mlflow_run_id=run_ids.get(TRIAL),
    )
    path = plan.folder / FILE_NAME
    with storing(path):
        write_whole(path, made.model_dump_json(indent=1) + "\n")
    return path
