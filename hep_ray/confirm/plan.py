"""What a confirmation will do: finalists, baseline, seeds, dataset, resources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hep_ray.confirm.confirmation import FOLDER
from hep_ray.confirm.finalists import Baseline, Configuration
from hep_ray.dataset.dataset import Dataset
from hep_ray.flags import STORAGE
from hep_ray.loading.cache import Cache
from hep_ray.plugins import Plugin
from hep_ray.search.options import EPOCH_TIMEOUT
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import recorded_uri
from hep_ray.tracking.provenance import provenance
from hep_ray.tracking.records import SearchStarted, TrialStarted

BASELINE = "baseline"
"""Name of the contender that the others are compared with."""


@dataclass(frozen=True)
class ConfirmOptions:
    """What the command line chooses.

    Attributes:
        search: its name in the storage, its folder, or its script.
        top: finalists.
        seeds: trainings of each contender.
        baseline: `KEY=VALUE,…` or `trial=ID`; None is what the search states, else cross-entropy.
        storage: folder of all searches.
        data: dataset folder; None is that of the search.
        tracking_uri: MLflow server or database; None is that of the search.
        cpus_per_trial: cores of one training; None as in the search.
        gpus_per_trial: GPUs of one training; None as in the search.
        epoch_timeout: seconds that an epoch may take; None as in the search.
        cache: where the events are; None as in the search.
        memory_budget: GB of a node that the events may take; None as in the search.
        level: of the intervals.
        allow_unfinished: confirm a search of which trials have not ended, leaving those out.
        scripts: folder of the search scripts.
    """

    search: str
    top: int = 3
    seeds: int = 5
    baseline: str | None = None
    storage: Path = STORAGE
    data: Path | None = None
    tracking_uri: str | None = None
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    epoch_timeout: float | None = None
    cache: Cache | None = None
    memory_budget: float | None = None
    level: float = 0.95
    allow_unfinished: bool = False
    scripts: Path = Path("searches")


@dataclass(frozen=True)
class ConfirmPlan:
    """A confirmation that can run.

    Attributes:
        started: first record of the search: metric, mode, full length of a trial.
        finalists: best first.
        ranked: number of distinct configurations that they were chosen from.
        baseline: what they are to beat.
        seeds: of each contender's trainings, the same for all; none was used by the search.
        dataset: opened and verified, the one that was searched on.
        resources: what runs side by side.
        given: the options it was made from.
        source: file whose git checkout is stated as provenance.
        plugins: files of the user's own that register components.
        epoch_timeout: seconds that an epoch may take.
    """

    started: SearchStarted
    finalists: tuple[Configuration, ...]
    ranked: int
    baseline: Baseline
    seeds: tuple[int, ...]
    dataset: Dataset
    resources: ResourcePlan
    given: ConfirmOptions
    source: Path
    plugins: tuple[Plugin, ...] = ()
    epoch_timeout: float = EPOCH_TIMEOUT

    @property
    def provenance(self) -> dict[str, str]:
        """Code, versions, machine and command, as they are now."""
        return provenance(self.source, [Path(plugin.path) for plugin in self.plugins])

    @property
    def search_folder(self) -> Path:
        """Folder of the search."""
        return self.given.storage / self.started.search

    @property
    def folder(self) -> Path:
        """Folder of the confirmation."""
        return self.search_folder / FOLDER

    @property
    def metric(self) -> str:
        """Of the test split, by which the finalists are compared: the search's own."""
        return of_test(self.started.metric)

    @property
    def tracking_uri(self) -> str:
        """MLflow server or database: as asked for, else that of the search."""
        return self.given.tracking_uri or recorded_uri(self.search_folder, self.started)

    @property
    def contenders(self) -> list[tuple[str, Literal["finalist", "baseline"], dict[str, Any]]]:
        """Name, role and parameters of the finalists, then of the baseline."""
        return [
            *((one.name, "finalist", one.params) for one in self.finalists),
            (BASELINE, "baseline", self.baseline.params),
        ]

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
        """What must be equal for a confirmation to be the same after a restart."""
        return {
            "search": self.started.search,
            "task": self.started.task,
            "dataset_fingerprint": self.dataset.fingerprint,
            "metric": self.started.metric,
            "mode": self.started.mode,
            "epochs": self.started.epochs,
            "sampler": f"the same {len(self.seeds)} seeds for every contender",
            "scheduler": "none",
            "seed": self.seeds[0],
            "workers_per_trial": self.started.workers_per_trial,
            "space": {name: params for name, _, params in self.contenders},
        }


def trial_id(contender: str, seed: int) -> str:
    """Name of a training within its confirmation."""
    return f"{contender}_seed{seed}"


def of_test(metric: str) -> str:
    """The metric of the test split that is one of the validation split's."""
    return "test_" + metric.removeprefix("val_")
