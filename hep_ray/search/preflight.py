"""Everything about trials that can be known to be wrong before one starts."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from hep_ray.cluster import connect, nodes
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.manifest import MANIFEST
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidConfig, InvalidSpace, StorageError
from hep_ray.files import make_folder
from hep_ray.loading.batches import BatchRequest, torch_dtype
from hep_ray.loading.cache import plan_ingest
from hep_ray.plugins import Plugin
from hep_ray.search.definition import Search
from hep_ray.search.node_checks import check_every_node, check_plugins
from hep_ray.search.recorder import KEEP_BEST
from hep_ray.search.resources import ResourcePlan, expected_nodes, plan_resources
from hep_ray.search.space import Choice, Integer, Mapped, Space, Value
from hep_ray.search.state import OF_MODEL, TIMES
from hep_ray.training.config import TrialConfig
from hep_ray.training.distributed import local_step

if TYPE_CHECKING:
    from hep_ray.search.options import SearchOptions


def preflight(
    dataset: Dataset,
    given: SearchOptions,
    samples: Sequence[Mapping[str, Any]],
    plugins: Sequence[Plugin],
    *,
    trials: int,
    model_bytes: int,
    keep: int = KEEP_BEST,
) -> ResourcePlan:
    """Join the cluster and see that trials can run there: data, storage, code, memory, cores and disk.

    Args:
        dataset: opened.
        given: what the command line chose.
        samples: parameters of trials that name every component once.
        plugins: files of the user's own that register components.
        trials: to run.
        model_bytes: of the largest model's weights.
        keep: models that are kept.

    Raises:
        ClusterUnavailable, StorageError, PluginFailed, Infeasible: see `prepare`.
    """
    connect()
    check_every_node(given.storage, dataset.folder / MANIFEST)
    check_plugins(plugins, samples, dataset.schema)
    expected = expected_nodes()
    ingest = plan_ingest(dataset.manifest, nodes(), given.cache, given.memory_budget)
    resources = plan_resources(
        expected,
        trials,
        given.cpus_per_trial,
        given.gpus_per_trial,
        workers_per_trial=given.workers_per_trial,
        min_workers_per_trial=given.min_workers_per_trial,
        ingest=dataclasses.replace(ingest, readers=len(expected)),
    )
    check_room(given.storage, model_bytes, resources.concurrent, keep)
    return resources


def check_storage(storage: Path) -> None:
    """Make the folder of all searches, and see that it can be written.

    Raises:
        StorageError: it cannot.
    """
    probe = storage / f".probe-{os.getpid()}"
    try:
        make_folder(storage)
        probe.touch()
        probe.unlink()
    except OSError as fault:
        raise StorageError(f"the storage can be written; {storage} cannot: {fault.strerror}") from fault


DECIDE = ("batch_size", "learning_rate_scaling", "last_batch", "sync_batch_norm")


def check_shares(
    space: Space, references: Sequence[Mapping[str, Any]], min_workers: int, workers: int
) -> None:
    """Prove that every trial can be trained by each number of workers that it may get.

    A model that is fitted in one go is fitted by the first worker alone.

    Args:
        space: of the trials.
        references: configurations beside it.
        min_workers: the fewest.
        workers: the most.

    Raises:
        InvalidSpace: a batch cannot be shared equally, or the learning rate would change with the number of workers
            in mid-trial.
    """
    if workers == 1:
        return
    drawn = space.parameters.get("batch_size")
    if drawn is not None and not isinstance(drawn, Choice | Mapped):
        raise InvalidSpace(
            f"workers share batches of stated sizes; batch_size is {drawn}: make it a Choice of multiples of "
            "their number"
        )
    check_shares_of([*_varied(space), *references], min_workers, workers)


def check_shares_of(configurations: Sequence[Mapping[str, Any]], min_workers: int, workers: int) -> None:
    """The same for configurations that are known.

    Raises:
        InvalidSpace: as above.
    """
    for params in configurations if workers > 1 else ():
        config = TrialConfig.from_params(params)
        if config.fitted:
            continue
        scaling = config.training.learning_rate_scaling
        if min_workers < workers and scaling != "none":
            raise InvalidSpace(
                "a learning rate that grows with the workers needs a fixed number of them; learning_rate_scaling is "
                f"'{scaling}', the workers {min_workers} to {workers}: leave out --min-workers-per-trial"
            )
        try:
            for number in range(min_workers, workers + 1):
                local_step(config.training, number)
        except InvalidConfig as fault:
            raise InvalidSpace(str(fault)) from None


def check_batches(
    space: Space,
    references: Sequence[Mapping[str, Any]],
    schema: EventSchema,
    events: int,
    *,
    min_workers: int = 1,
    workers: int = 1,
) -> None:
    """Prove that every epoch has a batch, and none of one event for a model that cannot normalise over it.

    Args:
        space: of the trials.
        references: configurations beside it.
        schema: of the events.
        events: of the training split.
        min_workers: the fewest that train a trial.
        workers: the most.

    Raises:
        InvalidSpace: one would.
    """
    check_batches_of([*_varied(space), *references], schema, events, min_workers=min_workers, workers=workers)


def check_batches_of(
    configurations: Sequence[Mapping[str, Any]],
    schema: EventSchema,
    events: int,
    *,
    min_workers: int = 1,
    workers: int = 1,
) -> None:
    """The same for configurations that are known.

    Raises:
        InvalidSpace: as above.
    """
    refuses: dict[str, bool] = {}
    for params in configurations:
        config = TrialConfig.from_params(params)
        if config.fitted:
            continue
        for number in range(min_workers, workers + 1):
            if not _leaves_one(config, events, number):
                continue
            model = config.trainer.model
            if model not in refuses:
                refuses[model] = not _takes_one(config, schema)
            if refuses[model]:
                trainer = config.training
                of = f" shared among {number} workers" if number > 1 else ""
                raise InvalidSpace(
                    f"batch normalisation takes more than one event; {model} would meet a batch of 1, of {events} "
                    f"training events in batches of {trainer.batch_size}{of} with last_batch '{trainer.last_batch}': "
                    "choose a larger batch_size, or last_batch 'share' or 'drop'"
                )


def _leaves_one(config: TrialConfig, events: int, workers: int) -> bool:
    """Whether a pass over the training events has a batch of one event, on a worker."""
    trainer = config.training
    mine = local_step(trainer, workers)
    try:
        last = trainer.last_batch
        sizes = BatchRequest(mine.batch_size, world_size=workers, last_batch=last).sizes(events)
        # What is averaged takes its statistics from the whole batches of all events.
        whole = BatchRequest(mine.batch_size * workers, last_batch=last).sizes(events)
    except InvalidConfig as fault:
        raise InvalidSpace(f"an epoch has a batch: {fault}") from None
    together = trainer.sync_batch_norm and workers > 1
    return not together and 1 in {sizes[0], sizes[-1], whole[-1]}


def _takes_one(config: TrialConfig, schema: EventSchema) -> bool:
    """Whether the model, while it trains, takes a batch of one event; tried on shapes alone."""
    with torch.device("meta"):
        model = config.build_model(schema).train()
        columns = {column.name: column for column in schema.columns}
        inputs = [
            torch.empty((1, *columns[name].shape), dtype=torch_dtype(np.dtype(columns[name].dtype)))
            for name in model.columns
        ]
        try:
            with torch.no_grad():
                model(*inputs)
        except ValueError as fault:
            return "per channel" not in str(fault)
        except (NotImplementedError, RuntimeError):  # it looks at values, of which there are none
            return not any(isinstance(one, _BatchNorm) and one.training for one in model.modules())
    return True


def _varied(space: Space) -> Iterator[dict[str, Any]]:
    """Configurations that between them hold all that decides a share, and the batches of an epoch."""
    for sample in space.samples():
        values = [_values(space, sample, key) for key in DECIDE if key in sample]
        for combination in itertools.product(*values):
            yield {**sample, **dict(zip((key for key in DECIDE if key in sample), combination, strict=True))}


def _values(space: Space, sample: Mapping[str, Value], key: str) -> Sequence[Value]:
    parameter = space.parameters[key]
    if isinstance(parameter, Mapped):
        return (sample[key],)
    if isinstance(parameter, Integer):
        return range(parameter.low, parameter.high + 1)
    return parameter.corners()


def check_metrics(search: Search, dataset: Dataset) -> None:
    """What ranks trials is something that they report of these classes."""
    from hep_ray.training.evaluation import validation_keys

    costs = (*OF_MODEL, *TIMES[:2])
    known = (*costs, *validation_keys(dataset.schema))
    for role, name in (("metric", search.metric), ("cost", search.cost or costs[0])):
        if name not in known:
            raise InvalidConfig(
                f"the {role} of a search is reported by its trials; '{name}' is not, of events of "
                f"{len(dataset.schema.classes)} classes ({', '.join(dataset.schema.classes)}); reported are: "
                f"{', '.join(known)}"
            )


def check_models(samples: Sequence[Mapping[str, Any]], dataset: Dataset) -> int:
    """Build each model that the trials may have, without memory for its weights; bytes of the largest."""
    import torch

    largest = 0
    for name, params in {params["model"]: params for params in samples}.items():
        try:
            with torch.device("meta"):
                weights = TrialConfig.from_params(params).build_model(dataset.schema).state_dict()
            largest = max(largest, sum(one.nbytes for one in weights.values() if hasattr(one, "nbytes")))
        except InvalidConfig as fault:
            raise InvalidSpace(
                f"every model of a search takes the dataset; model '{name}' does not: {fault}"
            ) from fault
    return largest


def check_augmentation(samples: Iterable[Mapping[str, Any]], schema: EventSchema) -> None:
    """Whether every augmentation suits what the model beside it reads."""
    for params in samples:
        try:
            TrialConfig.from_params(params).check_augmentation(schema)
        except InvalidConfig as fault:
            raise InvalidSpace(
                f"the augmentations of a search suit the dataset; with model '{params['model']}': {fault}"
            ) from fault


STATES = 5
"""Models' worth of a running trial's two checkpoints: the best model, and weights, two moments and an average."""


def check_room(storage: Path, model_bytes: int, concurrent: int, keep: int = KEEP_BEST) -> None:
    """Refuse a search whose checkpoints do not fit on the storage as it is now.

    Args:
        storage: a folder that exists.
        model_bytes: of the largest model's weights.
        concurrent: trials side by side.
        keep: models that are kept when all trials have ended.

    Raises:
        StorageError: the free space is less than that.
    """
    needed = model_bytes * (keep + STATES * concurrent)
    free = shutil.disk_usage(storage).free
    if free < needed:
        raise StorageError(
            f"the storage has room for {keep} kept models and the state of {concurrent} running trials, "
            f"{_words(needed)}; {storage} has {_words(free)} free"
        )


def _words(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"  # noqa: PLR2004 - the unit's own bound
