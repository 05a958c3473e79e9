"""Everything that can be known to be wrong before a trial starts is found here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import UnknownName
from hep_ray.plugins import Plugin, registered
from hep_ray.search.definition import Preset, Search
from hep_ray.search.options import Resume, SearchOptions
from hep_ray.search.preflight import (
    check_augmentation,
    check_batches,
    check_metrics,
    check_models,
    check_shares,
    check_storage,
    preflight,
)
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.sampler import MIXED, n_startup_trials, stops, total_trials
from hep_ray.search.space import Space
from hep_ray.tracking.provenance import provenance


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
        """Trials to run."""
        return self.resources.trials

    @property
    def provenance(self) -> dict[str, str]:
        """Code, versions, machine and command, as they are now."""
        return provenance(self.given.source, [Path(plugin.path) for plugin in self.plugins])

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a search to be the same search after a restart."""
        preset = self.preset
        return {
            "search": self.search.name,
            "task": self.dataset.schema.task,
            "dataset_fingerprint": self.dataset.fingerprint,
            "metric": self.search.metric,
            "mode": self.search.mode,
            "cost": self.search.cost,
            "epochs": preset.epochs,
            "sampler": preset.sampler,
            **preset.early_stopping,
            **self.given.record(Resume.MUST_MATCH),
            "space": self.space.to_json(),
            "references": [dict(params) for params in self.search.references],
        }

    @property
    def budget(self) -> str:
        """In words: how much is trained, what draws it and what stops it."""
        preset, drawn = self.preset, self.trials - len(self.search.references)
        at_random = min(n_startup_trials(preset, self.space), drawn)
        third = f" and one in {MIXED}" if stops(preset) else ""
        sampler = (
            f"tpe after {at_random} trials at random{third}" if preset.sampler == "tpe" else preset.sampler
        )
        idle = preset.scheduler != "none" and not stops(preset)
        nobody = ", which stops none of so few epochs" if idle else ""
        return (
            f"{self.trials} trials × {preset.epochs} epochs; sampler {sampler}, "
            f"stopping {preset.stopping}{nobody}; seed {self.given.seed}"
        )

    @property
    def options(self) -> dict[str, Any]:
        """What the journal records of the options, for a later --resume without flags."""
        return {**self.given.record(), "cache": self.resources.ingest.cache}


def prepare(search: Search, options: SearchOptions) -> SearchPlan:
    """Check a search against its dataset, the storage and the cluster.

    Raises:
        UnknownName: no such preset.
        InvalidSpace: the trainer would not read, or would refuse, a parameter, workers cannot share a batch, an
            augmentation would break the dataset's events, or a model would meet a batch of one event that it cannot
            normalise over.
        ShardMismatch, UnreadableInput, InvalidEvents: the dataset is not whole.
        InvalidConfig: a model cannot take the dataset's columns.
        StorageError: the storage cannot be written or has no room, or a node of the cluster does not share it or the
            data.
        PluginFailed: a component of the user's own cannot be brought to a node, or builds differently there.
        ClusterUnavailable: the cluster does not take this driver.
        Infeasible: the workers of a trial can never run at once, or the events do not fit as asked.
    """
    preset = _preset(search, options)
    plugins = registered()
    space = preset.space or search.space
    space.check()
    trials = total_trials(search, preset, space)
    check_storage(options.storage)
    dataset = Dataset.open(options.data)
    check_metrics(search, dataset)
    model_bytes = check_models([*space.samples(), *search.references], dataset)
    check_augmentation([*space.augmented(), *search.references], dataset.schema)
    samples = [*space.samples(), *search.references]
    resources = preflight(dataset, options, samples, plugins, trials=trials, model_bytes=model_bytes)
    check_shares(space, search.references, resources.min_workers_per_trial, resources.workers_per_trial)
    check_batches(
        space,
        search.references,
        dataset.schema,
        dataset.rows("train"),
        min_workers=resources.min_workers_per_trial,
        workers=resources.workers_per_trial,
    )
    return SearchPlan(search, preset, space, dataset, resources, options, plugins)


def _preset(search: Search, options: SearchOptions) -> Preset:
    if options.preset not in search.presets:
        raise UnknownName(
            f"unknown preset '{options.preset}'; {search.name} has: {', '.join(search.presets)}"
        )
    preset = search.presets[options.preset].with_recorded_grace(options.grace_epochs)
    return dataclasses.replace(
        preset,
        trials=preset.trials if options.trials is None else options.trials,
        epochs=preset.epochs if options.epochs is None else options.epochs,
    )
