"""Several trials of one architecture trained as one stacked network, each with the numbers that it gives alone. No Ray.

A small network leaves a processor waiting: with 64 hidden features and batches of 128 most of a step are torch's calls,
not the products. Here a step of M trials is one of arrays (M, …). Nothing is shared between them but the events: each
has its own order of them, its own weights, dropout, learning rate, loss and state of the optimizer, drawn and updated
as it does alone.

The trials stay `TrialLoop`s. An epoch takes their weights and the states of their optimizers into the stack, makes all
steps, puts them back, and lets each loop validate by itself. So between epochs a trial is what it would be alone: its
checkpoints, its patience and its end know nothing of the others, and it goes on in another stack, or alone.

Everything that decides a weight is computed as alone, so that weights and validation metrics are the same to the last
bit on one thread. The sums that are reported of the steps, `train_loss` and a
weighted `train_accuracy`, are taken in another order: they agree to a relative 1e-6.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.adam import adam

from hep_ray.errors import InvalidConfig, NonFiniteLoss
from hep_ray.loading.batches import Batch, Events
from hep_ray.loading.scalers.transforms import Log1p, MeanOne, PerChannel, QuantileNormal, Standardize
from hep_ray.losses import Loss
from hep_ray.models.mlp import Mlp
from hep_ray.optim import OPTIMIZERS, norms_and_biases
from hep_ray.training.config import NONE, ScaledModel, TrainerConfig, TrialConfig
from hep_ray.training.distributed import random_state, restore_random_state
from hep_ray.training.loop import TrialLoop
from hep_ray.training.stacked_mlp import StackedMlp

T = TypeVar("T")

OPTIMIZERS_BY_ELEMENT = frozenset({"adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"})
"""Optimizers that move each number by its own gradients alone, so that stacked arrays move as single ones do."""
WIDEST = 16
"""Numbers that a processor takes at a time: what is left over at the end of an array may be rounded otherwise, so that
only arrays without such an end are joined."""
LOSSES_BY_EVENT = frozenset(
    {"cross_entropy", "root_softmax", "focal", "hinge", "mse", "binary_cross_entropy"}
)
"""Losses of an event that know nothing of the others in its batch."""
LOSSES_JOINED = frozenset({"cross_entropy", "focal", "hinge", "mse"})
"""Those among them that are taken of all trials at once. Of the others each trial's is taken by itself: powers and
logarithms of `WIDEST` numbers at a time and of what is left over at an array's end are rounded differently."""
SCALERS_JOINED = frozenset({Standardize, PerChannel, MeanOne, Log1p, QuantileNormal})
"""Scalers that scale an event alike wherever it stands in an array; any other takes each trial's events by itself."""
MODELS = frozenset({"mlp"})
"""Networks that can be stacked."""
OWN_OF_TRAINER = (
    *("loss", "schedule", "learning_rate", "patience", "patience_metric", "clip_norm", "swa_start"),
    "train_auc",
)
"""Keys of the trainer in which trials of one stack may differ."""
OWN_OF_MODEL = ("dropout",)
"""Keys of the model in which they may differ; in all of loss, optimizer and schedule they may."""


def why_alone(config: TrialConfig) -> str:
    """Return in words why a trial cannot be trained together with others; empty where it can."""
    if not isinstance(config.trainer, TrainerConfig):
        return f"'{config.trainer.model}' is fitted, not trained"
    trainer = config.trainer
    if trainer.model not in MODELS:
        return (
            f"'{trainer.model}' is not among the networks that can be stacked ({', '.join(sorted(MODELS))})"
        )
    if trainer.optimizer not in OPTIMIZERS_BY_ELEMENT:
        return f"the optimizer '{trainer.optimizer}' may not treat each weight by itself"
    if trainer.loss not in LOSSES_BY_EVENT:
        return f"the loss '{trainer.loss}' may look at other events of a batch"
    if trainer.decorrelation:
        return "its score is decorrelated over the events of a batch"
    if config.augmentation.active or trainer.augmentation != NONE:
        return "its events are augmented"
    if trainer.precision != "float32":
        return f"it is trained in {trainer.precision}"
    return ""


def architecture(config: TrialConfig) -> str:
    """Return what trials that are trained together have in common, as one text.

    Raises:
        InvalidConfig: the trial cannot be trained together with others.
    """
    if reason := why_alone(config):
        raise InvalidConfig(f"trials that are trained together are networks of one kind; {reason}")
    trainer = config.training.model_dump(exclude=set(OWN_OF_TRAINER))
    return json.dumps(
        [trainer, config.components["model"].model_dump(exclude=set(OWN_OF_MODEL))], sort_keys=True
    )


class OwnRandom:
    """State of one trial's random numbers, where several trials share a process.

    Made right after the trial was, when torch's generators stand where its epochs begin.
    """

    def __init__(self) -> None:
        self._state = random_state()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within, torch's generators are this trial's."""
        restore_random_state(self._state)
        try:
            yield
        finally:
            self._state = random_state()

    def generator(self) -> torch.Generator:
        """Return a generator of the processor that stands where the trial does; `follow` takes in what it drew."""
        made = torch.Generator()
        made.set_state(self._state["torch"])
        return made

    def follow(self, generator: torch.Generator) -> None:
        """Stand where a generator does."""
        self._state = {**self._state, "torch": generator.get_state()}


@dataclass(frozen=True)
class FusedTrial:
    """A trial among those that are trained together.

    Attributes:
        loop: of the trial, on the processor, alone in its communicator.
        random: its own random numbers; no other trial's loop was made in between.
    """

    loop: TrialLoop
    random: OwnRandom


def run_epoch_together(
    trials: Sequence[FusedTrial], keep: Callable[[int, dict[str, float], float], None] | None = None
) -> list[dict[str, float] | Exception]:
    """Train one epoch of several trials at once, then validate each.

    A trial whose loss leaves the finite numbers ends nothing but itself.

    Args:
        trials: of one architecture and after equally many epochs.
        keep: called with place, report and processor seconds of each trial whose epoch went well, while torch's
            generators are its own.

    Returns:
        For each trial the report of its epoch, as `TrialLoop.run_epoch` returns it, or what it raised, or `keep` did.
        Of the seconds of the common steps each has an equal part.

    Raises:
        InvalidConfig: they cannot be trained together.
    """
    start, cpu = time.perf_counter(), time.process_time()
    stack = _Stack(trials)
    sums = stack.train()
    share, cpu_share = (
        seconds / len(trials) for seconds in (time.perf_counter() - start, time.process_time() - cpu)
    )
    found: list[dict[str, float] | Exception] = []
    for place, (trial, (losses, correct)) in enumerate(zip(trials, sums, strict=True)):
        start, cpu = time.perf_counter(), time.process_time()
        with trial.random():
            try:
                metrics = trial.loop.end_epoch(trial.loop.summed(losses, correct, stack.sizes))
                metrics["epoch_seconds"] = share + time.perf_counter() - start
                if keep is not None:
                    keep(place, metrics, cpu_share + time.process_time() - cpu)
            except Exception as exc:  # noqa: BLE001 - this trial's, of which the others know nothing
                found.append(exc)
            else:
                found.append(metrics)
    return found


PROBED_BATCHES, PROBES = 8, 3
"""Batches of an epoch by which is measured what training together gains, and such epochs; the shortest counts."""


def measured_gain(make: Iterable[Callable[[], TrialLoop]]) -> float:
    """Return how many times faster the steps of trials are together than one by one, by a few batches.

    Args:
        make: a loop of each trial that is to be trained together, on all events of its own: weights, scalers and a
            decorrelated column are those of the split, of which a few events may have none. The loop is of no use
            afterwards.

    Raises:
        InvalidConfig: they cannot be trained together.
    """
    trials = []
    for one in make:
        loop = one()
        assert isinstance(loop.train, Events)
        loop.train = loop.train.head(PROBED_BATCHES * loop.config.training.batch_size)
        trials.append(FusedTrial(loop, OwnRandom()))
    alone = trials[0].loop

    def shortest(epoch: Callable[[], object]) -> float:
        seconds = []
        for _ in range(1 + PROBES):  # the first warms up
            start = time.perf_counter()
            with suppress(NonFiniteLoss):  # found after the steps, which have taken their time
                epoch()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    together = shortest(lambda: _Stack(trials).train())
    return len(trials) * shortest(alone.train_epoch) / together


class _Stack:
    """The networks of several trials as one, for one epoch.

    Args:
        trials: see `run_epoch_together`.

    Attributes:
        sizes: (steps,) events of each step.
    """

    def __init__(self, trials: Sequence[FusedTrial]) -> None:
        _check([trial.loop for trial in trials])
        # Trials that are alike stand side by side, so that one optimizer, or one loss, takes them all.
        self._order = sorted(range(len(trials)), key=lambda place: _settings(trials[place].loop))
        self._trials = [trials[place] for place in self._order]
        self._loops = [trial.loop for trial in self._trials]
        self._first = self._loops[0].model
        networks = [cast("Mlp", _network(loop)) for loop in self._loops]
        self._generators = [trial.random.generator() for trial in self._trials]
        self._networks = StackedMlp(networks, self._generators)
        self._flat = networks[0].flat
        self._updates = [
            _Update(self._loops[first:last], self._networks, first)
            for first, last in _runs([_of_optimizer(loop) for loop in self._loops])
        ]
        self._losses: list[tuple[int, int, Loss]] = []
        for first, last in _runs([_of_loss(loop) for loop in self._loops]):
            joined = self._loops[first].config.training.loss in LOSSES_JOINED
            parts = [(first, last)] if joined else [(place, place + 1) for place in range(first, last)]
            self._losses += [(*part, self._loops[part[0]].loss) for part in parts]
        lengths = [loop.config.training.clip_norm for loop in self._loops]
        self._clip = {place: longest for place, longest in enumerate(lengths) if longest}
        self.sizes = np.zeros(0, np.int64)

    def train(self) -> list[tuple[np.ndarray, float]]:
        """Make all steps of an epoch.

        Returns:
            For each trial, in the order in which they were given, the loss of each step, (steps,), summed over its
            events, and the sum of the events that are right.
        """
        train = self._loops[0].train
        assert isinstance(train, Events)
        orders = [train.rows(loop.request(shuffle=True)) for loop in self._loops]
        losses, correct = [], []
        for rows in zip(*orders, strict=True):
            lost, right = self._step(train.batch(np.concatenate(rows), "cpu"))
            losses.append(lost)
            correct.append(right)
        self.sizes = np.array([len(rows) for rows in orders[0]])
        self._put_back()
        by_trial = torch.stack(losses, dim=1).double().numpy()
        right_by_trial = torch.stack(correct).sum(dim=0).tolist()
        found = dict(zip(self._order, zip(by_trial, right_by_trial, strict=True), strict=True))
        return [found[place] for place in range(len(found))]

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Update all networks by a batch of each, (M·B) events; see `train_step`."""
        features = self._features(batch)
        shape = features.shape[:2]
        logits = self._networks.forward(features).detach().requires_grad_()
        labels = batch.labels.view(shape)
        weights = None if batch.weights is None else batch.weights.view(shape)
        own = logits.split_with_sizes([last - first for first, last, _ in self._losses])
        parts = [
            loss(part.flatten(0, 1), labels[first:last].flatten()).view(last - first, -1)
            for part, (first, last, loss) in zip(own, self._losses, strict=True)
        ]
        losses = parts[0] if len(parts) == 1 else torch.cat(parts)
        if weights is not None:
            losses = losses * weights
        (gradient,) = torch.autograd.grad(losses.mean(dim=1).sum(), logits)
        logits = logits.detach()
        self._networks.backward(gradient)
        self._shorten()
        for update in self._updates:
            update.step()
        right = logits.argmax(dim=2) == labels
        counted = right if weights is None else right * weights
        return losses.detach().sum(dim=1), counted.sum(dim=1)

    def _features(self, batch: Batch) -> Tensor:
        """Features (M, B, F) of a batch of each network, as its first layer takes them."""
        inputs = [batch.inputs[column] for column in self._first.columns]
        networks = len(self._loops)
        parts: list[list[Tensor]] = [inputs]
        if isinstance(self._first, ScaledModel):
            if not {type(one) for one in self._first.scalers.values()} <= SCALERS_JOINED:
                parts = [
                    list(one) for one in zip(*(values.chunk(networks) for values in inputs), strict=True)
                ]
            parts = [self._first.scaled(*part) for part in parts]
        features = torch.cat([self._flat(*part) for part in parts])
        return features.view(networks, -1, features.shape[1])

    def _shorten(self) -> None:
        """Scale gradients down to their largest length, as `clip_grad_norm_` does for one network."""
        for place, longest in self._clip.items():
            own = [gradient[place] for gradient in self._networks.gradients.values()]
            factor = (longest / (nn.utils.get_total_norm(own) + 1e-6)).clamp(max=1.0)
            for gradient in own:
                gradient.mul_(factor)

    @torch.no_grad()
    def _put_back(self) -> None:
        """Leave every trial as if it had made its steps alone."""
        for place, (trial, generator) in enumerate(zip(self._trials, self._generators, strict=True)):
            trial.random.follow(generator)
            for name, parameter in _network(trial.loop).named_parameters():
                parameter.copy_(self._networks.weights[name][place])
                parameter.grad = None
        for update in self._updates:
            update.put_back()
        for loop in self._loops:
            loop.optimizer.step()  # without gradients it changes nothing, and tells the schedule that there were steps


class _Update:
    """The optimizer of trials whose settings are the same, on their part of the stacked weights.

    Args:
        loops: of these trials.
        networks: of all trials.
        first: place of the first of these trials among them.
    """

    def __init__(self, loops: Sequence[TrialLoop], networks: StackedMlp, first: int) -> None:
        config, model = loops[0].config, _network(loops[0])
        exempt = {id(one) for one in norms_and_biases(model)}
        names = {name for name, one in model.named_parameters() if id(one) in exempt}
        self._own: list[tuple[nn.Parameter, list[tuple[TrialLoop, nn.Parameter]]]] = []
        held = []
        members = [(loop, dict(_network(loop).named_parameters())) for loop in loops]
        for name, weight in networks.weights.items():
            parts: list[slice | int] = [slice(first, first + len(loops))]
            if weight[0].numel() % WIDEST:
                parts = list(range(first, first + len(loops)))
            for part in parts:
                own = nn.Parameter(weight[part])
                own.grad = networks.gradients[name][part]
                mine = members if isinstance(part, slice) else [members[part - first]]
                self._own.append((own, [(loop, parameters[name]) for loop, parameters in mine]))
                held += [own] if name in names else []
        self._optimizer = OPTIMIZERS[config.training.optimizer].build(
            config.components["optimizer"],
            [own for own, _ in self._own],
            config.training.learning_rate,
            exempt=held,
        )
        for group, other in zip(self._optimizer.param_groups, loops[0].optimizer.param_groups, strict=True):
            group.update({key: value for key, value in other.items() if key != "params"})
        for own, trained in self._own:
            states = [loop.optimizer.state.get(parameter, {}) for loop, parameter in trained]
            if states[0]:
                self._optimizer.state[own] = {
                    key: _joined([state[key] for state in states], own) for key in states[0]
                }

        self._adam: list[Callable[[], None]] = []
        penalised = getattr(config.components["optimizer"], "l1_penalty", 0.0)
        self._plain = type(self._optimizer) in (Adam, AdamW) and not penalised

    def step(self) -> None:
        """Update the weights by their gradients."""
        if self._adam:
            with torch.no_grad():
                for update in self._adam:
                    update()
            return
        self._optimizer.step()
        if self._plain:  # every tensor has its state now
            self._adam = [_adam_of(group, self._optimizer.state) for group in self._optimizer.param_groups]

    def put_back(self) -> None:
        """Give every trial's optimizer its part of the state."""
        for own, trained in self._own:
            for place, (loop, parameter) in enumerate(trained):
                loop.optimizer.state[parameter] = {
                    key: _part(value, place, own.ndim > parameter.ndim)
                    for key, value in self._optimizer.state[own].items()
                }


def _adam_of(
    group: Mapping[str, Any], state: Mapping[Tensor, MutableMapping[str, Tensor]]
) -> Callable[[], None]:
    """Return torch's own step of Adam for one group of parameters, with all that it takes looked up once.

    A step by the optimizer's method looks up each tensor and its device anew, which for a small network takes several
    times as long as the arithmetic; and trials of different learning rates have an optimizer each.
    """
    own = group["params"]
    beta1, beta2 = group["betas"]
    decoupled = group["decoupled_weight_decay"]
    first, second = ([state[one][key] for one in own] for key in ("exp_avg", "exp_avg_sq"))
    steps = [state[one]["step"] for one in own]
    settings = {key: group[key] for key in ("lr", "eps", "weight_decay", "amsgrad", "maximize")}
    settings |= {"beta1": beta1, "beta2": beta2}
    gradients = [one.grad for one in own]
    if not own or not group["fused"] or group["amsgrad"] or any(one != steps[0] for one in steps):
        others = {key: group[key] for key in ("foreach", "capturable", "differentiable", "fused")}
        return partial(
            adam,
            own,
            gradients,
            first,
            second,
            [],
            steps,
            decoupled_weight_decay=decoupled,
            **settings,
            **others,
        )
    count = steps[0]  # of steps, the same for all: to count it once takes a tenth of the time
    for one in own:
        state[one]["step"] = count
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
    update = partial(kernel, own, gradients, first, second, [], [count] * len(own), **settings)

    def step() -> None:
        count.add_(1)
        update()

    return step


def _joined(values: Sequence[Tensor | None], own: Tensor) -> Tensor | None:
    """Stack what optimizers hold of one parameter; a count of steps is the same for all."""
    tensors = [one for one in values if one is not None]
    if not tensors:
        return None
    first = tensors[0]
    return torch.stack(tensors) if first.ndim and first.ndim < own.ndim else first.clone()


def _part(value: Tensor | None, place: int, stacked: bool) -> Tensor | None:
    if value is None:
        return None
    return (value[place] if stacked and value.ndim else value).clone()


def _network(loop: TrialLoop) -> nn.Module:
    """Return what is trained, within its scalers."""
    return loop.model.model if isinstance(loop.model, ScaledModel) else loop.model


def _check(loops: Sequence[TrialLoop]) -> None:
    """Refuse trials that one stack cannot hold.

    Raises:
        InvalidConfig: they are of several architectures, events or epochs, not on the processor, or streamed.
    """
    kinds = {architecture(loop.config) for loop in loops}
    if len(kinds) > 1:
        raise InvalidConfig(
            f"trials that are trained together are of one architecture; these are of {len(kinds)}: "
            f"{' and '.join(sorted(kinds))}"
        )
    epochs = sorted({loop.epoch for loop in loops})
    if len(epochs) > 1:
        raise InvalidConfig(
            f"trials that are trained together are at the same epoch; these have done {epochs}: train those that are "
            "behind first"
        )
    first = loops[0]
    buffers = dict(first.model.named_buffers())
    for loop in loops:
        where = next(loop.model.parameters()).device.type
        if not isinstance(loop.train, Events) or where != "cpu":
            raise InvalidConfig(
                f"trials that are trained together have their events in memory and train on processors; got "
                f"{type(loop.train).__name__} on {where}"
            )
        same = all(torch.equal(buffers[name], one) for name, one in loop.model.named_buffers())
        if not np.array_equal(loop.train.labels, first.train.labels) or not same:
            raise InvalidConfig("trials that are trained together learn from the same events")


def _settings(loop: TrialLoop) -> tuple[str, str]:
    return _of_optimizer(loop), _of_loss(loop)


def _of_optimizer(loop: TrialLoop) -> str:
    """Everything that decides how the optimizer moves weights, as it stands now."""
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in loop.optimizer.param_groups
    ]
    return repr((groups, loop.config.components["optimizer"].model_dump()))


def _of_loss(loop: TrialLoop) -> str:
    return repr((loop.config.training.loss, loop.config.components["loss"].model_dump()))


def _runs(values: Sequence[T]) -> list[tuple[int, int]]:
    """Return first place, and that behind the last, of each stretch of equal values."""
    lengths = [len(list(equal)) for _, equal in itertools.groupby(values)]
    ends = list(itertools.accumulate(lengths))
    return list(zip([0, *ends[:-1]], ends, strict=True))
