"""How long a search will take, how much memory a trial, how much disk: from a few timed batches, before any trial.

A worker, with the cores and the GPU that a trial's worker gets, trains a few batches of every kind of configuration:
each model with its smallest and its largest batches. What it takes for an event is scaled to the splits.
"""

from __future__ import annotations

import random
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import ray
import torch

from hep_ray.cluster import result
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Events
from hep_ray.loading.shards import RowGroups, ShardStream
from hep_ray.plugins import Plugin, load
from hep_ray.search.options import in_words
from hep_ray.search.room import disk_bytes, size_words
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop, start_trial

if TYPE_CHECKING:
    from hep_ray.search.plan import SearchPlan

DRAWS = 60
"""Configurations that are drawn to see how often each model is, and of which those that are timed are taken."""
FEW, MORE = 3, (9, 30, 100)
"""Batches of two short epochs whose difference is timed; more of them as long as that is too short to be told."""
LONG_ENOUGH = 0.3
"""Seconds."""
VALIDATED = 1024
"""Events that are validated meanwhile."""
FITTED_EVENTS = 2000
"""Events on which a model that is fitted in one go is timed."""
SECONDS = 8.0
"""In which no further configuration is begun."""
LONGEST = 20.0
"""Seconds after which a plan is told without times: no node started the worker, or a configuration took too long."""


@dataclass(frozen=True)
class Timed:
    """One configuration, as it was timed.

    Attributes:
        model: its name.
        batch_size: of it; 0 for a model that is fitted in one go.
        epoch_seconds: an epoch, or the fit, takes on the whole splits.
        weight_bytes: of the model.
    """

    model: str
    batch_size: int
    epoch_seconds: float
    weight_bytes: int


@dataclass(frozen=True)
class SearchCost:
    """Time, memory and disk that a search will take.

    Attributes:
        timed: every configuration that was timed, or begun.
        seconds: that the whole search takes: expected, least and most.
        memory: bytes of a worker's process, or of its GPU where it has one.
        disk: bytes of the checkpoints, at most.
        untimed: models that were not reached in the time.
        failed: what a configuration raised that could not be timed; it would end the trial too.
    """

    timed: tuple[Timed, ...]
    seconds: tuple[float, float, float]
    memory: int
    disk: int
    untimed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def shortest_epoch(self) -> float:
        """Seconds of an epoch of the fastest configuration that is trained epoch by epoch; 0 where none was timed."""
        return min((one.epoch_seconds for one in self.timed if one.batch_size), default=0.0)

    def check(self, seconds: float | None) -> None:
        """Refuse a time budget in which no trial could end an epoch.

        Raises:
            InvalidConfig: it is shorter than the shortest epoch that was timed.
        """
        shortest = self.shortest_epoch
        if seconds is not None and seconds < shortest:
            raise InvalidConfig(
                f"a --time-budget of {seconds:g} s is shorter than one epoch, of which the fastest that was timed "
                f"takes about {shortest:.2g} s: type a longer one, such as --time-budget {in_words(20 * shortest)}"
            )

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the estimate in words, as rows of a plan."""
        if self.timed:
            expected, least, most = (in_words(one) for one in self.seconds)
            trained = sorted((one for one in self.timed if one.batch_size), key=lambda one: one.epoch_seconds)
            parts = [
                f"an epoch of {one.model} with batches of {one.batch_size} {one.epoch_seconds:.2g} s"
                for one in dict.fromkeys((*trained[:1], *trained[-1:]))
            ]
            fits = {one.model: one.epoch_seconds for one in self.timed if not one.batch_size}
            parts += [f"the fit of {model} {seconds:.2g} s" for model, seconds in fits.items()]
            by = f"by a few batches of {len(self.timed)} configurations"
            yield "time", f"about {expected} ({least} to {most}), {by}: {', '.join(parts)}"
            yield (
                "memory",
                f"{size_words(self.memory)} for each worker, events apart; checkpoints {size_words(self.disk)}",
            )
        if self.untimed:
            yield "time", f"not timed within {LONGEST:g} s: {', '.join(self.untimed)}"
        for cause in self.failed:
            yield "time", f"not timed, since it failed: {cause}"


def estimate(plan: SearchPlan) -> SearchCost:
    """Time a few batches of each kind of configuration on the cluster, for at most `LONGEST` seconds.

    Fits without Ray are timed in this process.

    Raises:
        WorkersLost: the worker's node was lost again and again.
    """
    drawn = _drawn(plan)
    kinds = list(_kinds(drawn))
    resources, folder = plan.resources, str(plan.dataset.folder.resolve())
    if resources.here:
        return _cost(plan, drawn, *_time(kinds, folder, plan.plugins, resources.cpus_per_trial, gpu=False))
    remote: Any = ray.remote
    work = remote(_time).options(
        num_cpus=resources.cpus_per_trial, num_gpus=min(resources.gpus_per_trial, 1), max_retries=1
    )
    task = work.remote(
        kinds, folder, plan.plugins, resources.cpus_per_trial, gpu=resources.gpus_per_trial > 0
    )
    ready, _ = ray.wait([task], timeout=LONGEST)
    if not ready:
        ray.cancel(task, force=True)
        return SearchCost(
            (), (0.0, 0.0, 0.0), 0, 0, untimed=tuple(sorted({str(one["model"]) for one in kinds}))
        )
    return _cost(plan, drawn, *result(task))


def _cost(
    plan: SearchPlan,
    drawn: Sequence[Mapping[str, Any]],
    timed: Sequence[Timed],
    memory: int,
    failed: Sequence[str],
) -> SearchCost:
    """Scale what was timed to the whole search."""
    shares = Counter(str(params["model"]) for params in drawn)
    known = {one.model for one in timed}
    largest = max((one.weight_bytes for one in timed), default=0)
    return SearchCost(
        tuple(timed),
        _whole(plan, timed, shares),
        memory,
        disk_bytes(largest, plan.resources.concurrent, plan.keep, plan.paused),
        tuple(sorted(shares.keys() - known)),
        tuple(failed),
    )


def _drawn(plan: SearchPlan) -> list[Mapping[str, Any]]:
    """Return configurations as the search will draw them, with its references."""
    references = list(plan.search.points_to_evaluate)
    if plan.preset.sampler == "grid":
        grid = plan.space.grid()
        return references + random.Random(0).sample(grid, min(DRAWS, len(grid)))  # noqa: S311 - no secret
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [plan.space.suggest(study.ask()) for _ in range(DRAWS)]
    limits = plan.known_limits
    within = [params for params in drawn if limits is None or limits.margin(params) <= 0]
    return references + (within or drawn)


def _kinds(drawn: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield of each model the configurations with the largest batches, then with the smallest, then a few others."""
    by_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for params in drawn:
        by_model[str(params["model"])].append(params)
    ordered = [sorted(own, key=lambda one: int(one.get("batch_size", 0))) for own in by_model.values()]
    for own in ordered:
        yield own[-1]
    for own in ordered:
        if own[0] != own[-1]:
            yield own[0]
    for own in ordered:  # others, which tell how much the rest of the parameters matters
        yield from own[1:-1:16]


def _time(
    kinds: Sequence[Mapping[str, Any]], folder: str, plugins: Sequence[Plugin], cpus: int, *, gpu: bool
) -> tuple[list[Timed], int, list[str]]:
    """Time configurations, as long as there is time; runs on a worker.

    Returns:
        What was timed, bytes of memory, and causes of those that failed.
    """
    load(plugins)
    torch.set_num_threads(cpus)
    dataset = Dataset.open(folder, verify=False, weights=False)
    started = time.monotonic()
    timed, failed = [], []
    for params in kinds:
        if time.monotonic() - started > SECONDS:
            break
        try:
            timed.append(_time_one(params, dataset, "cuda" if gpu else "cpu"))
        except Exception as exc:  # noqa: BLE001 - told; it ends a trial, and no plan
            failed.append(f"{type(exc).__name__} of {params['model']}: {exc}"[:300])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return timed, torch.cuda.max_memory_reserved() if gpu else used, failed


def _time_one(params: Mapping[str, Any], dataset: Dataset, device: str) -> Timed:
    config = TrialConfig.from_params(params)
    val, rows, rows_val = _events(dataset, VALIDATED), dataset.rows("train"), dataset.rows("val")
    if config.fitted:
        events = _events(dataset, FITTED_EVENTS)
        seconds = _epoch(config, dataset.schema, events, val, device)[0]
        return Timed(str(params["model"]), 0, seconds * rows / len(events), 0)
    batch = config.training.batch_size
    _epoch(config, dataset.schema, _events(dataset, batch), val, device)  # warms up
    few, model_bytes = _epoch(config, dataset.schema, _events(dataset, FEW * batch), val, device)
    for batches in MORE:
        more, _ = _epoch(config, dataset.schema, _events(dataset, batches * batch), val, device)
        per_batch = max(more - few, 0.0) / (batches - FEW)
        if more - few > LONG_ENOUGH:
            break
    validation = max(few - FEW * per_batch, 0.0) * rows_val / len(val)
    return Timed(str(params["model"]), batch, per_batch * rows / batch + validation, model_bytes)


def _epoch(
    config: TrialConfig, schema: EventSchema, train: Events, val: Events, device: str
) -> tuple[float, int]:
    """Train one epoch; returns its seconds and the bytes of the model's weights."""
    loop = start_trial(config, schema, train, val, epochs=1, seed=0, device=device)
    start = time.perf_counter()
    loop.run_epoch()
    seconds = time.perf_counter() - start
    if not isinstance(loop, TrialLoop):
        return seconds, 0
    return seconds, sum(one.nbytes for one in loop.kept.state_dict().values() if hasattr(one, "nbytes"))


def _events(dataset: Dataset, number: int) -> Events:
    """Return so many training events, from the first shards; their labels take turns, so that no class is absent."""
    schema = dataset.schema
    names = tuple(column.name for column in schema.columns)
    inputs = ShardStream(schema, RowGroups.of(dataset, "train"), names, {}).head(number).inputs
    repeated = {name: np.resize(values, (number, *values.shape[1:])) for name, values in inputs.items()}
    return Events.from_arrays(repeated, np.arange(number) % len(schema.classes))


def _whole(plan: SearchPlan, timed: Sequence[Timed], shares: Mapping[str, int]) -> tuple[float, float, float]:
    """Return seconds of the whole search: expected, least and most.

    Least has the fastest configurations of each model, and every trial stopped early that may be; most has the slowest,
    all trained in full; expected the mean ones, and trials stopped as the scheduler does it in the mean. Where trials
    pause, the epochs of so many trials in full are all trained, whatever the trials that share them.
    """
    by_model: dict[str, list[float]] = defaultdict(list)
    fitted = {one.model for one in timed if not one.batch_size}
    for one in timed:
        by_model[one.model].append(one.epoch_seconds)
    total = sum(shares[name] for name in by_model) or 1
    epochs, stopped = plan.preset.epochs, _epochs_when_stopped(plan)
    sums = [0.0, 0.0, 0.0]
    for name, seconds in by_model.items():
        part = shares[name] / total
        lengths = (1, 1, 1) if name in fitted else (stopped, min(plan.preset.grace, epochs), epochs)
        if plan.preset.pauses:
            lengths = (epochs, epochs, epochs)
        for place, epoch in enumerate((sum(seconds) / len(seconds), min(seconds), max(seconds))):
            sums[place] += part * epoch * lengths[place]
    if plan.preset.endless:
        return (plan.time_budget or 0.0,) * 3
    waves = plan.trials / plan.resources.concurrent * _of_fold(plan)
    return (waves * sums[0], waves * sums[1], waves * sums[2])


def _of_fold(plan: SearchPlan) -> float:
    """Return the training events of a fold over those of the training split, which were timed; 1 without folds."""
    if plan.folds is None:
        return 1.0
    train, val = (plan.dataset.rows(split) for split in ("train", "val"))
    return (1 - 1 / plan.folds) * (train + val) / train


def _epochs_when_stopped(plan: SearchPlan) -> float:
    """Return the epochs of a trial in the mean, where at each rung one in so many goes on."""
    epochs, rung, share = plan.preset.epochs, plan.preset.grace, 1.0
    mean = 0.0
    before = 0
    while rung < epochs:
        mean += share * (rung - before)
        before, rung, share = rung, rung * plan.preset.reduction_factor, share / plan.preset.reduction_factor
    return mean + share * (epochs - before)
