"""Try the components that are not hep_ray's own on a few events, on every node, before any trial."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.exceptions import RayTaskError

from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError, InvalidConfig, PluginFailed
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.loading.scalers import SCALERS
from hep_ray.loading.shards import RowGroups, ShardStream
from hep_ray.losses import LOSSES, event_losses
from hep_ray.metrics import METRICS, Predictions
from hep_ray.models import Model, members_of
from hep_ray.models.members import mean_of_members
from hep_ray.optim import OPTIMIZERS, SCHEDULES
from hep_ray.own_code import blaming, defined_at
from hep_ray.plugins import Plugin, load
from hep_ray.registry import implementation
from hep_ray.search.definition import Preset, Search
from hep_ray.search.node_checks import ask, living_nodes, one_line
from hep_ray.search.space import Space
from hep_ray.search.state import OF_MODEL, TIMES, SearchState
from hep_ray.tracking.records import EpochFinished, Record, Status, TrialFinished
from hep_ray.training.config import REGISTRIES, ScaledModel, TrialConfig
from hep_ray.training.distributed import seed_everything
from hep_ray.training.evaluation import validation_keys

if TYPE_CHECKING:
    from hep_ray.search.sampler import OptunaSearcher

PATIENCE = 600.0
"""Seconds in which a node imports torch, and builds and trains what is tried: large networks on a busy node."""
EVENTS = 8
"""On which components are tried."""
SCORED = 64
"""Events of each class, made up, on which metrics are tried."""
SEED = 20241
REHEARSED = 8
"""Legs of made-up trials on which a scheduler of the user's own decides."""
OF_TRAINING = ("train_loss", "train_accuracy", "train_auc", "learning_rate")

Shapes = list[tuple[str, tuple[int, ...]]]


def check_plugins(plugins: Sequence[Plugin], samples: Sequence[Mapping[str, Any]], dataset: Dataset) -> None:
    """Import the user's own components on every node; build there what trials may state, and do a step with it.

    Args:
        plugins: files that register them; nothing is asked where there is none.
        samples: parameters of trials that name every component once.
        dataset: whose first training events are taken.

    Raises:
        PluginFailed: a node cannot import one or cannot train with it, or what is built is not the same each time.
    """
    if not plugins:
        return
    nodes, schema = living_nodes(), dataset.schema
    work = (tried, tuple(plugins), list(samples), schema, first_events(dataset))
    answers = ask(nodes, *work, patience=PATIENCE)
    faults: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(answer := answers[node.node_id], Exception):
            faults.setdefault(_told(answer), []).append(node.address)
    if faults:
        raise PluginFailed("; ".join(f"{fault} (on {', '.join(at)})" for fault, at in faults.items()))
    if len({str(answer) for answer in answers.values()}) > 1:
        files = ", ".join(plugin.path for plugin in plugins if plugin.registers)
        raise PluginFailed(f"{files} builds other networks on other nodes; a trial may run on any")


def rehearse(search: Search, preset: Preset, space: Space, schema: EventSchema) -> None:
    """Let a scheduler or a sampler of the user's own decide on a few trials that are made up, before any is trained.

    Args:
        search: what is optimised.
        preset: with what decides; nothing is asked where both are names.
        space: what may vary.
        schema: of the events, which decides what trials report.

    Raises:
        PluginFailed: it raised; the error begins with the user's own line.
        InvalidConfig: it answered what nobody could follow.
    """
    if isinstance(preset.sampler, str) and isinstance(preset.scheduler, str):
        return
    from hep_ray.search.sampler import OptunaSearcher  # with most of Ray

    state = SearchState()
    listeners: list[OptunaSearcher] = []

    def write(record: Record) -> None:
        state.apply(record)
        for listener in listeners:
            listener.record(record)

    searcher = OptunaSearcher(search, preset, space, SEED, None, state, write)
    listeners.append(searcher)
    for place in range(REHEARSED):
        suggestion = searcher.suggest("")
        if not isinstance(suggestion, dict):
            break
        name, decision = suggestion["trial_id"], "go on"
        while decision == "go on":
            epoch = len(state.trials[name].history) + 1
            rising = 0.5 + 0.01 * (3 * place % REHEARSED) + 0.4 * (1 - 1 / epoch)
            keys = (*OF_TRAINING, *OF_MODEL, *TIMES, *validation_keys(schema, protected=True))
            reported = dict.fromkeys(keys, rising)
            write(EpochFinished(time=0, trial_id=name, metrics={**reported, "epoch": epoch}))
            decision = searcher.after_epoch(name)
        if decision == "stop":
            ended: Status = "completed" if epoch >= preset.epochs else "stopped"
            write(TrialFinished(time=0, trial_id=name, status=ended))
    searcher.doubts()


def first_events(dataset: Dataset) -> Events:
    """Return the first training events, with all columns that a model may read."""
    names = tuple(column.name for column in dataset.schema.inputs)
    return ShardStream(dataset.schema, RowGroups.of(dataset, "train"), names, {}).head(EVENTS)


def _told(exc: Exception) -> str:
    """Return a node's answer: a named error as it was raised there, of another one the last line."""
    cause = exc.cause if isinstance(exc, RayTaskError) else exc
    return str(cause) if isinstance(cause, HepRayError) else one_line(exc)


def tried(
    plugins: Sequence[Plugin], samples: Sequence[Mapping[str, Any]], schema: EventSchema, events: Events
) -> list[Shapes]:
    """Import plug-ins and try what they register; return the names and shapes of the weights of every sample's model.

    Raises:
        PluginFailed: a component raises an exception, does not find a file, or a model is another one each time.
        InvalidConfig: a component gives something else than it must.
    """
    with _in_a_folder_of_its_own():
        load(plugins)
        own = {one for plugin in plugins for one in plugin.registers}
        for name in METRICS:
            if f"metric '{name}'" in own:
                _try_metric(name, schema)
        return [_try_sample(params, schema, events, own) for params in samples]


@contextmanager
def _in_a_folder_of_its_own() -> Iterator[None]:
    """Work in an empty folder, as trials do in theirs: what lies in the user's is not there.

    Raises:
        PluginFailed: code of the user's own does not find a file.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            yield
        except PluginFailed as exc:
            if not isinstance(exc.__cause__, FileNotFoundError):
                raise
            raise PluginFailed(
                f"{exc}; a trial runs in a folder of its own: name the file by Path(__file__).with_name(…) or in "
                "full, where every node sees it"
            ) from exc


def _try_metric(name: str, schema: EventSchema) -> None:
    classes, metric = len(schema.classes), METRICS[name]
    random = np.random.default_rng(SEED)
    labels = np.arange(SCORED * classes) % classes
    scores = random.dirichlet(np.ones(classes), len(labels)).astype(np.float32)
    signal = schema.signal_index
    odds = np.log(scores.astype(np.float64)) - np.log1p(-scores.astype(np.float64))
    found = Predictions(scores, labels, np.ones(len(labels)), schema.classes, signal, odds)
    for key, value in metric.values(found):
        if not math.isfinite(value):
            raise InvalidConfig(
                f"{defined_at(metric.compute)}metric '{name}' is {value} ({key}) for {len(labels)} events of random "
                "scores: it must be a finite number"
            )


def _try_sample(params: Mapping[str, Any], schema: EventSchema, events: Events, own: set[str]) -> Shapes:
    config = TrialConfig.from_params(params)
    name = config.trainer.model
    if f"model '{name}'" in own:
        model = _built_twice(config, schema)
    else:
        with torch.device("meta"):
            model = config.build_model(schema)
    shapes = [(key, tuple(getattr(one, "shape", ()))) for key, one in model.state_dict().items()]
    if not config.fitted:
        stated = {f"{kind} '{getattr(config.training, kind)}'" for kind in REGISTRIES}
        scalers = {f"scaler '{one}'" for one in config.training.scaling_by_rank.values() if one in SCALERS}
        if own & (stated | scalers):
            _try_step(config, schema, events)
    return shapes


def _built_twice(config: TrialConfig, schema: EventSchema) -> Model:
    """Build a model twice from one seed, as a trial that is resumed does, and compare."""
    states = []
    for _ in range(2):
        seed_everything(SEED)
        with blaming(f"building model '{config.trainer.model}'"):
            model = config.build_model(schema)
        states.append(model.state_dict())
    first, second = states
    other = [
        key
        for key in first.keys() | second.keys()
        if key not in first or key not in second or not _same(first[key], second[key])
    ]
    if other:
        raise PluginFailed(
            f"{_where('model', config.trainer.model)}model '{config.trainer.model}' is another network each time it is "
            f"built from {config.components['model']!r}: {min(other)} differs; draw its numbers from torch's or "
            "numpy's global generator, which a trial seeds"
        )
    return model


def _same(one: Any, other: Any) -> bool:
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return bool(one == other)
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _try_step(config: TrialConfig, schema: EventSchema, events: Events) -> None:
    """Train one step on a few events, as a trial would."""
    training, parts = config.training, config.components
    seed_everything(SEED)
    model = config.build_model(schema)
    if isinstance(model, ScaledModel):
        with blaming("fitting a scaler"):
            model.fit({name: events.inputs[name] for name in model.columns})
    with blaming(f"building loss '{training.loss}'"):
        loss = LOSSES[training.loss].build(parts["loss"])
    weights = [one for one in model.parameters() if one.requires_grad]
    with blaming(f"building optimizer '{training.optimizer}'"):
        optimizer = OPTIMIZERS[training.optimizer].build(parts["optimizer"], weights, training.learning_rate)
    with blaming(f"building schedule '{training.schedule}'"):
        schedule = SCHEDULES[training.schedule].build(parts["schedule"], optimizer, 1)
    batch = next(iter(events.select(model.columns).batches(BatchRequest(len(events)))))
    inputs = _augmented(config, batch.inputs, [schema.column(name) for name in model.columns])
    logits = _logits(model.train(), [inputs[name] for name in model.columns], config, schema)
    with blaming(f"computing loss '{training.loss}'"):
        losses = event_losses(loss, logits, batch.labels)
    at = _where("loss", training.loss)
    if losses.shape != batch.labels.shape:
        raise InvalidConfig(
            f"{at}loss '{training.loss}' returned {tuple(losses.shape)} for {len(batch)} events: it must return one "
            f"loss per event, ({len(batch)},)"
        )
    # A mean over a class may be none where the few events lack one.
    every_class = len(set(batch.labels.tolist())) == len(schema.classes)
    if every_class and not torch.isfinite(losses).all():
        raise InvalidConfig(
            f"{at}loss '{training.loss}' is {losses.detach().tolist()} for {len(batch)} events that model "
            f"'{training.model}' has not trained on yet: each must be finite"
        )
    if not losses.requires_grad:
        raise InvalidConfig(
            f"{at}loss '{training.loss}' has no gradient for model '{training.model}': compute it from the logits with "
            "torch, without detach(), item() or numpy"
        )
    with blaming(f"the gradient of loss '{training.loss}'"):
        torch.autograd.backward(losses.mean())
    with blaming(f"a step of optimizer '{training.optimizer}'"):
        optimizer.step()
    with blaming(f"a step of schedule '{training.schedule}'"):
        schedule.step()
    with torch.inference_mode():
        _logits(model.eval(), [batch.inputs[name] for name in model.columns], config, schema)
    with torch.inference_mode(), blaming(f"probabilities of loss '{training.loss}'"):
        together = mean_of_members(logits.detach())
        loss.probabilities(together)
        loss.log_odds(together)


def _augmented(
    config: TrialConfig, inputs: Mapping[str, torch.Tensor], columns: Sequence[Column]
) -> dict[str, torch.Tensor]:
    """Augment a batch twice from one seed, as a trial that is resumed does, and compare."""
    own, name = config.own_augmentation(columns), config.training.augmentation
    before = {column: values.clone() for column, values in inputs.items()}
    if own is None:
        return before
    seed_everything(SEED)
    first = own(dict(inputs), SEED)
    second = own({column: values.clone() for column, values in before.items()}, SEED)
    at = f"{_where('augmentation', name)}augmentation '{name}'"
    for column, values in before.items():
        if not _same(values, inputs[column]):
            raise PluginFailed(
                f"{at} changes '{column}' in place, and with it the events of every later epoch: return a new tensor, "
                "as values + … or values.clone() does"
            )
        if not _same(first[column], second[column]):
            raise PluginFailed(
                f"{at} gives another '{column}' each time for one seed: draw from the generator that it is given, as "
                "torch.rand(…, generator=generator, device=generator.device) does"
            )
        if not torch.isfinite(first[column]).all():
            raise InvalidConfig(f"{at} gives NaN or infinite values of '{column}'")
    return first


def _logits(
    model: Model, inputs: Sequence[torch.Tensor], config: TrialConfig, schema: EventSchema
) -> torch.Tensor:
    name, events, classes = config.trainer.model, len(inputs[0]), len(schema.classes)
    shapes = ", ".join(
        f"{column} {tuple(one.shape)}" for column, one in zip(model.columns, inputs, strict=True)
    )
    members = members_of(model) if model.training else 0
    wanted = (events, members, classes) if members else (events, classes)
    with blaming(f"model '{name}' with {shapes}"):
        logits: Any = model(*inputs)
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted or not logits.is_floating_point():
        is_tensor = isinstance(logits, torch.Tensor)
        got = f"{tuple(logits.shape)} of {logits.dtype}" if is_tensor else type(logits).__name__
        raise InvalidConfig(
            f"{_where('model', name)}model '{name}' returned {got} for {shapes}: it must return logits {wanted}, one "
            f"for each of {', '.join(schema.classes)}"
        )
    return logits


def _where(kind: str, name: str) -> str:
    return defined_at(implementation(REGISTRIES[kind][name]))
