"""Find everything about trials that can be known to be wrong before one starts."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hep_ray.cluster import connect, nodes
from hep_ray.dataset.dataset import MANIFEST, Dataset
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import (
    InvalidConfig,
    InvalidSpace,
    MissingPackage,
    UnknownName,
)
from hep_ray.loading.augment import check_augmentation, check_mixing
from hep_ray.loading.batches import BatchRequest, torch_dtype
from hep_ray.loading.shards import RowGroups, ShardStream
from hep_ray.loading.stream import plan_ingest
from hep_ray.metrics.decorrelation import check_warmup, check_yardstick
from hep_ray.models import Model
from hep_ray.models.fitted import check_fit
from hep_ray.optim import OPTIMIZERS
from hep_ray.optim.wide_minima import CentredOptimizer
from hep_ray.own_code import OWN_CODE
from hep_ray.plugins import Plugin
from hep_ray.registry import check_name
from hep_ray.search.constraints import weightless
from hep_ray.search.curves_trials import milestones
from hep_ray.search.definition import Preset, Search
from hep_ray.search.local_fits import fit_here, this_machine
from hep_ray.search.named_samplers import NAMED, Named, name_of
from hep_ray.search.node_checks import check_every_node
from hep_ray.search.options import SearchOptions
from hep_ray.search.own_checks import check_plugins
from hep_ray.search.parameters import Choice, Mapped, Value
from hep_ray.search.resources import ResourcePlan, expected_nodes, plan_resources
from hep_ray.search.room import check_room, check_storage
from hep_ray.search.space import Space
from hep_ray.search.state import OF_MODEL, TIMES
from hep_ray.training.checkpoint import KEEP_BEST, MOST_PAUSED
from hep_ray.training.config import REGISTRIES, TrialConfig
from hep_ray.training.distributed import local_step
from hep_ray.training.evaluation import validation_keys, worst_keys
from hep_ray.training.length_pool import length_pool

DECIDE_BATCHES = ("batch_size", "learning_rate_scaling", "last_batch", "sync_batch_norm", "swa_start")
"""Parameters that decide how the events of an epoch are cut into batches, and which batches a model meets."""
OWN_VALUES = 32
"""Values of keys of the user's own components that are tried before the first trial, at most."""


@dataclass(frozen=True)
class Trials:
    """Trials that are asked for, before it is known that they can run.

    Attributes:
        dataset: opened.
        options: what the command line chose.
        configurations: parameters of trials, between them every model and every kind of batch.
        plugins: files of the user's own that register components.
        number: to run.
        keep: models that are kept.
        paused: trials that may wait with a checkpoint, see `most_paused`.
        beside: datasets whose validation splits are evaluated after each epoch.
        copies: of the events that are in memory, one for each fold.
        without_ray: whether whoever trains them needs no Ray where all are fitted on this machine, see `fit_here`.
    """

    dataset: Dataset
    options: SearchOptions
    configurations: Iterable[Mapping[str, Any]]
    plugins: tuple[Plugin, ...]
    number: int
    keep: int = KEEP_BEST
    paused: int = 0
    beside: tuple[Dataset, ...] = ()
    copies: int = 1
    without_ray: bool = False

    @property
    def datasets(self) -> list[Dataset]:
        """Datasets that trials read."""
        return [self.dataset, *self.beside]

    @property
    def workers(self) -> range:
        """Numbers of workers that a trial may be trained by."""
        least, most = self.options.min_workers_per_trial, self.options.workers_per_trial
        return range(most if least is None else max(least, 1), most + 1)

    @cached_property
    def built(self) -> tuple[list[Mapping[str, Any]], int]:
        """A configuration for each different model and loss, and the bytes of the largest model's weights."""
        dataset = self.dataset
        return check_configurations(self.configurations, dataset.schema, dataset.rows("train"), self.workers)

    @cached_property
    def here(self) -> bool:
        """Whether processes of this machine train them, without Ray."""
        manifests = [one.manifest for one in self.datasets]
        return self.without_ray and fit_here(self.built[0], manifests, self.options, self.plugins)

    @cached_property
    def resources(self) -> ResourcePlan:
        """Trials side by side on the cluster that this process has joined, and where their events are."""
        options, here = self.options, [this_machine()] if self.here else None
        expected = here or expected_nodes()
        beside = [one.manifest for one in self.beside]
        asked = options.cache, options.memory_budget, options.readers
        ingest = plan_ingest(self.dataset.manifest, here or nodes(), *asked, beside, copies=self.copies)
        return plan_resources(
            expected,
            self.number,
            options.cpus_per_trial,
            options.gpus_per_trial,
            workers_per_trial=options.workers_per_trial,
            min_workers_per_trial=options.min_workers_per_trial,
            ingest=dataclasses.replace(ingest, readers=options.readers or len(expected)),
        )


def preflight(trials: Trials) -> ResourcePlan:
    """Check that trials can be trained, then join the cluster, where they need one, and check that they can run there.

    Raises:
        InvalidSpace: a trial could not be trained, see `check_configurations`.
        StorageError: the storage cannot be written or has no room, or a node does not share it or the data.
        PluginFailed: a component of the user's own cannot be brought to a node, or builds differently there.
        ClusterUnavailable: the cluster does not take this driver.
        Infeasible: the workers of a trial can never run at once, or the events do not fit as asked.
    """
    for check in CHECKS:
        check(trials)
    unread = unread_columns(trials.built[0], trials.dataset.schema)
    return dataclasses.replace(trials.resources, unread=unread, here=trials.here)


def _check_nodes(trials: Trials) -> None:
    if not trials.here:
        connect()
        check_every_node(trials.options.storage, [one.folder / MANIFEST for one in trials.datasets])


CHECKS: tuple[Callable[[Trials], object], ...] = (
    lambda trials: check_storage(trials.options.storage),
    lambda trials: trials.built,
    lambda trials: check_decorrelated(trials.built[0], trials.dataset),
    _check_nodes,
    lambda trials: check_plugins(trials.plugins, trials.built[0], trials.dataset),
    lambda trials: check_room(
        trials.options.storage, trials.built[1], trials.resources.concurrent, trials.keep, trials.paused
    ),
)
"""What trials are refused for, in this order: the storage, a model, the cluster, its nodes, own code, no room."""


def most_paused(preset: Preset, trials: int) -> int:
    """Return how many trials may wait with a checkpoint at once; 0 where none pauses.

    Args:
        preset: with its scheduler, `auto` resolved.
        trials: as many as that in full are the budget.
    """
    if not preset.pauses:
        return 0
    firsts = {"curves": milestones(preset.epochs)[0], "asha_pausing": preset.grace}
    return min(MOST_PAUSED, trials * preset.epochs // firsts.get(preset.scheduler_name, 1))


def check_sampler(preset: Preset, search: Search) -> None:
    """Check that a preset's sampler can draw from its space, before any trial.

    Raises:
        MissingPackage: a package that it needs is not installed.
        InvalidSpace: it would leave some parameter to chance, has too few to draw, or does not read a prior.
        InvalidConfig: it serves one objective, or repeats do, and the search has two; or it cannot learn from trials
            that pause.
    """
    name, space = preset.sampler, preset.space or search.space
    if preset.repeats > 1 and search.second_objective is not None:
        raise InvalidConfig(
            f"repeats choose by the mean of one metric, and {search.name} has two objectives, so that no configuration "
            "leads: leave repeats out"
        )
    if name != "curves" and (priors := space.priors()):
        raise InvalidSpace(
            f"the prior of '{next(iter(priors))}' would do nothing, sampler '{preset.sampler_name}' does not read it: "
            "leave prior out, or take sampler 'curves'"
        )
    if not isinstance(name, str):
        if preset.pauses:
            raise InvalidConfig(
                f"the sampler {name_of(name)} cannot learn from trials that pause, which scheduler "
                f"'{preset.scheduler_name}' makes: take 'tpe', 'gp', 'qmc', 'random' or 'grid', or another scheduler"
            )
        return
    if name == "curves" and not space.drawn():
        raise InvalidSpace(
            f"curves has nothing to draw: every parameter of {search.name} has one value; state a range or a Choice, "
            "or take sampler 'grid'"
        )
    if name == "curves" and search.second_objective is not None:
        raise InvalidConfig(
            f"curves serves one objective, and {search.name} has two: take sampler 'tpe' with scheduler 'asha_pausing'"
        )
    _check_named(name, preset, search, space)


def _check_named(name: str, preset: Preset, search: Search, space: Space) -> None:
    sampler = NAMED.get(name)
    if sampler is None:
        return
    if sampler.package and importlib.util.find_spec(sampler.package) is None:
        raise MissingPackage(
            f"sampler '{name}' needs the package {sampler.package}, which is not installed: type pip install "
            f"{sampler.package}, or take another sampler"
        )
    if sampler.objectives < 2 and search.second_objective is not None:  # noqa: PLR2004 - of two objectives
        raise InvalidConfig(
            f"sampler '{name}' serves one objective, and {search.name} has two: take 'tpe', 'gp' or 'nsga2'"
        )
    if preset.pauses and not sampler.replays:
        raise InvalidConfig(
            f"sampler '{name}' learns from generations of ended trials, and scheduler '{preset.scheduler_name}' pauses "
            "them: take 'tpe', 'gp', 'qmc', 'random' or 'grid', or another scheduler"
        )
    _check_drawn(name, sampler, space)


def _check_drawn(name: str, sampler: Named, space: Space) -> None:
    if not sampler.conditions and (conditional := space.conditional()):
        raise InvalidSpace(
            f"sampler '{name}' cannot draw '{conditional[0]}', which only some configurations have: take 'tpe', 'qmc' "
            "or 'random', or drop the condition"
        )
    unordered = [one for one in space.drawn() if isinstance(space.parameters[one], Choice)]
    if not sampler.choices and unordered:
        raise InvalidSpace(
            f"sampler '{name}' draws numbers alone, and '{unordered[0]}' is {space.parameters[unordered[0]]}: take "
            "'tpe' or 'gp', or state a range"
        )
    if len(space.drawn()) < sampler.least:
        raise InvalidSpace(
            f"sampler '{name}' needs at least {sampler.least} parameters to draw, got {len(space.drawn())}: take 'tpe'"
        )


def check_metrics(metric: str, cost: str | None, schema: EventSchema, *, protected: bool = False) -> None:
    """Check that trials on these classes report what ranks them.

    Args:
        metric: key of the per-epoch report.
        cost: second objective; None where there is none.
        schema: of the events.
        protected: whether every trial is decorrelated from a column.

    Raises:
        InvalidConfig: they do not report the metric, or the cost; what they report is listed.
    """
    costs = (*OF_MODEL, *TIMES[:2])
    known = (*costs, *validation_keys(schema, protected=protected), *worst_keys(metric, schema))
    for role, name in (("metric", metric), ("cost", cost or costs[0])):
        if name not in known:
            raise InvalidConfig(
                f"{role} '{name}' is not reported by trials on events of {len(schema.classes)} classes "
                f"({', '.join(schema.classes)}); reported are: {', '.join(known)}"
            )


def check_yardsticks(search: Search, space: Space) -> None:
    """Check that what ranks trials measures all of them alike, references and the baseline too.

    Raises:
        InvalidConfig: the metric or the second objective is of λ or of a column in which trials differ, or the metric
            chooses epochs of a warm-up, see `check_warmup`.
    """
    columns, strengths = (
        _stated(name, absent, search, space) for name, absent in (("decorrelate", ""), ("decorrelation", 0.0))
    )
    for key in filter(None, (search.metric, search.second_objective)):
        check_yardstick(key, columns, strengths)
    check_warmup(search.metric, _stated("decorrelation_warmup", 0.0, search, space))


def _stated(name: str, absent: Value, search: Search, space: Space) -> set[Value]:
    """Return the values (of a range both ends) that trials have of a parameter, `absent` for those without it."""
    own = space.parameters.get(name)
    values = {absent} if own is None or own.condition else set[Value]()
    values.update(() if own is None else own.corners())
    values.update(one.get(name, absent) for one in (*space.samples(), *search.points_to_evaluate))
    return values | ({search.baseline[name]} if name in search.baseline else set())


def configurations_of(
    space: Space, references: Sequence[Mapping[str, Any]], workers: int = 1
) -> Iterator[Mapping[str, Any]]:
    """Configurations that between them have every model, augmentation and kind of batch that a search may draw.

    Of components of the user's own each value of each key is among them too, up to `OWN_VALUES`.

    Args:
        space: of the trials.
        references: configurations beside it.
        workers: that train a trial together.

    Raises:
        InvalidSpace: workers would share batches of sizes that are not stated.
    """
    drawn = space.parameters.get("batch_size")
    if workers > 1 and drawn is not None and not isinstance(drawn, Choice | Mapped):
        raise InvalidSpace(
            f"batch_size is {drawn}, and the {workers} workers of a trial share batches of stated sizes: make it a "
            "Choice of multiples of their number"
        )
    yield from space.varied((*DECIDE_BATCHES, "decorrelate"))
    yield from space.augmented()
    yield from space.each_value({one for names in OWN_CODE.values() for one in names}, OWN_VALUES)
    yield from references


def check_baseline(search: Search) -> None:
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


def check_read(preset: Preset, options: SearchOptions) -> None:
    """Refuse an option that only sampler curves reads, beside another.

    Raises:
        InvalidConfig: it would do nothing.
    """
    if options.gain_per is not None and preset.sampler != "curves":
        raise InvalidConfig(
            f"--gain-per {options.gain_per} would do nothing, sampler '{preset.sampler_name}' weighs no gain against "
            "its cost: leave it out, or take sampler 'curves'"
        )
    if options.until_no_gain and preset.sampler != "curves":
        raise InvalidConfig(
            f"--until-no-gain would do nothing, sampler '{preset.sampler_name}' does not know what is left to gain: "
            "leave it out, or take sampler 'curves'"
        )


def check_configurations(
    configurations: Iterable[Mapping[str, Any]],
    schema: EventSchema,
    events: int,
    workers: range = range(1, 2),
) -> tuple[list[Mapping[str, Any]], int]:
    """Check that each configuration can be trained: its model built, its augmentation applied, its batches shared.

    Models are built without memory for their weights.

    Args:
        configurations: parameters of trials.
        schema: of the events.
        events: of the training split.
        workers: numbers of workers that a trial may be trained by.

    Returns:
        A configuration for each different set of components, and the bytes of the largest model's weights.

    Raises:
        InvalidSpace: a model does not take the dataset; an augmentation would break its events; a batch cannot be
            shared equally, or has one event that the model cannot normalise over; or the learning rate would change
            with the number of workers in mid-trial.
        MissingPackage: what fits a model is not installed.
    """
    samples: dict[tuple[str, ...], Mapping[str, Any]] = {}
    models: dict[str, Model] = {}
    for params in configurations:
        try:
            config = TrialConfig.from_params(params)
            scaling = "" if config.fitted else repr(config.training.scaling_by_rank)
            built = f"{config.trainer.model} {config.components['model']!r} {scaling}"
            config.trainer.check_columns(schema)
            if built not in models:
                models[built] = weightless(config, schema)
            check_fit(models[built], negative=config.trainer.of_negative_weights == "signed")
        except (InvalidConfig, UnknownName) as exc:
            raise InvalidSpace(f"model '{params['model']}' cannot be trained on this dataset: {exc}") from exc
        others = [
            f"{params.get(kind)} {config.components.get(kind)}" for kind in REGISTRIES if kind != "model"
        ]
        samples.setdefault((built, *others, config.trainer.decorrelate), params)
        if not config.fitted:
            try:
                read = [schema.column(name) for name in models[built].columns]
                check_mixing(config.augmentation, read)
                check_augmentation(config.augmentation.on_images, read)
                config.own_augmentation(read)
            except InvalidConfig as exc:
                raise InvalidSpace(
                    f"augmentation does not suit the dataset with model '{params['model']}': {exc}"
                ) from exc
        if not config.fitted:
            try:
                length_pool(config, models[built], schema)
            except InvalidConfig as exc:
                raise InvalidSpace(f"model '{params['model']}' cannot be trained so: {exc}") from exc
            _check_batches(config, models[built], schema, events, workers)
    weights = [model.state_dict().values() for model in models.values()]
    return list(samples.values()), max(
        (sum(one.nbytes for one in state if hasattr(one, "nbytes")) for state in weights), default=0
    )


def check_decorrelated(configurations: Iterable[Mapping[str, Any]], dataset: Dataset) -> None:
    """Check that what trials are decorrelated from differs among the training background.

    Raises:
        InvalidEvents: it does not, or there is no background.
    """
    named = {config.trainer.decorrelate: config for config in map(TrialConfig.from_params, configurations)}
    for config in named.values():
        config.check_background(
            dataset.schema, ShardStream(dataset.schema, RowGroups.of(dataset, "train"), (), {})
        )


def unread_columns(configurations: Iterable[Mapping[str, Any]], schema: EventSchema) -> tuple[str, ...]:
    """Return the columns that a model might read and that none of these configurations' models reads.

    Args:
        configurations: that can be trained.
        schema: of the events.
    """
    configs = [TrialConfig.from_params(params) for params in configurations]
    different = {f"{one.trainer.model} {one.components['model']!r}": one for one in configs}
    read = {name for one in different.values() for name in weightless(one, schema).columns}
    return tuple(column.name for column in schema.inputs if column.name not in read)


def _check_batches(
    config: TrialConfig, model: Model, schema: EventSchema, events: int, workers: range
) -> None:
    """Check that each number of workers can share the batches, and that the model takes the smallest."""
    training = config.training
    if len(workers) > 1 and training.learning_rate_scaling != "none":
        raise InvalidSpace(
            f"learning_rate_scaling '{training.learning_rate_scaling}' needs a fixed number of workers, got "
            f"{workers[0]} to {workers[-1]}: leave out --min-workers-per-trial"
        )
    averaged = workers[-1] > 1 and _averages(config)
    for number in workers:
        try:
            own = local_step(training, number).batch_size
            last = training.last_batch
            sizes = BatchRequest(own, world_size=number, last_batch=last).sizes(events)
            smallest = min(sizes[0], sizes[-1])
            if number > 1 and averaged:  # takes its statistics from the whole batches of all events
                smallest = min(smallest, BatchRequest(own * number, last_batch=last).sizes(events)[-1])
        except InvalidConfig as exc:
            raise InvalidSpace(str(exc)) from None
        together = training.sync_batch_norm and number > 1
        if smallest == 1 and not together and not _takes_one_event(model, schema):
            of = f" shared among {number} workers" if number > 1 else ""
            raise InvalidSpace(
                f"batch normalisation needs more than one event; {training.model} would meet a batch of 1, of {events} "
                f"training events in batches of {training.batch_size}{of} with last_batch '{training.last_batch}': "
                "choose a larger batch_size, or last_batch 'share' or 'drop'"
            )


def _averages(config: TrialConfig) -> bool:
    """Return whether the model that is validated has averaged weights."""
    entry = OPTIMIZERS[config.training.optimizer]
    optimizer = entry.build(config.components["optimizer"], [nn.Parameter(torch.zeros(1))], 1.0)
    return config.training.swa_start < 1 or isinstance(optimizer, CentredOptimizer)


def _takes_one_event(model: Model, schema: EventSchema) -> bool:
    """Return whether a model on the meta device, in training mode, takes a batch of one event."""
    columns = {column.name: column for column in schema.columns}
    single: list[nn.Module] = []
    was_training = model.training
    normalisations = [one for one in model.train().modules() if isinstance(one, _BatchNorm) and one.training]

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:  # one value per channel
            single.append(module)

    hooks = [one.register_forward_pre_hook(note) for one in normalisations]
    try:
        with torch.device("meta"), torch.no_grad():
            model(
                *(
                    torch.empty((1, *columns[name].shape), dtype=torch_dtype(np.dtype(columns[name].dtype)))
                    for name in model.columns
                )
            )
    except (NotImplementedError, RuntimeError):  # it looks at values, of which there are none
        return not normalisations
    except ValueError:
        return not single
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return not single
