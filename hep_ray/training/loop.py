"""The life of one trial: epochs of training, validation metrics, and a state that resumes bit for bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import NonFiniteLoss
from hep_ray.loading.augment import Augmentation
from hep_ray.loading.batches import Batch, BatchRequest, EventSource, metric_weights, training_weights
from hep_ray.loading.on_device import on_device
from hep_ray.loading.varied import OtherEvents, judged_under
from hep_ray.metrics import nominal_key
from hep_ray.models import Model
from hep_ray.optim import norms_and_biases
from hep_ray.training.averaging import KeptModel
from hep_ray.training.checkpoint import check_own
from hep_ray.training.compiled import (
    Compile,
    CompiledForward,
    becomes_graphs,
    is_compiled,
    why_not_compiled,
)
from hep_ray.training.config import REGISTRIES, ScaledModel, TrialConfig
from hep_ray.training.cost import model_cost
from hep_ray.training.determinism import choose_convolutions, deterministic
from hep_ray.training.distributed import (
    ALONE,
    Communicator,
    local_step,
    random_state,
    restore_random_state,
    seed_everything,
    synchronise,
)
from hep_ray.training.evaluation import under_variations, validate, watched_metrics
from hep_ray.training.fitted import FittedLoop
from hep_ray.training.length_pool import length_pool
from hep_ray.training.step import PROBED_EVENTS, mixing_points, train_step


@dataclass(frozen=True)
class Goal:
    """Metric by which epochs are compared, and its direction.

    Attributes:
        metric: key of the per-epoch report.
        mode: which of the two.
    """

    metric: str
    mode: Literal["max", "min"]


VAL_LOSS = Goal("val_loss", "min")


def start_trial(
    config: TrialConfig,
    schema: EventSchema,
    train: EventSource,
    val: EventSource,
    *,
    epochs: int,
    seed: int,
    device: torch.device | str = "cpu",
    gpu_fraction: float = 1.0,
    communicator: Communicator = ALONE,
    goal: Goal = VAL_LOSS,
    watched: EventSource | None = None,
    others: Mapping[str, OtherEvents] | None = None,
    until: int | None = None,
    compiling: Compile = "off",
) -> TrialLoop | FittedLoop:
    """The loop that suits the model: training or one fit; arguments as those of `TrialLoop`.

    A fit is the work of one process, whatever the number of workers: only the first one asks for it.
    """
    if config.fitted:
        return FittedLoop(
            config, schema, train, val, seed=seed, watched=watched, metric=goal.metric, others=others
        )
    return TrialLoop(
        config,
        schema,
        train,
        val,
        epochs=epochs,
        seed=seed,
        device=device,
        gpu_fraction=gpu_fraction,
        communicator=communicator,
        goal=goal,
        watched=watched,
        others=others,
        until=until,
        compiling=compiling,
    )


class TrialLoop:
    """Trains one configuration on events, wherever they are.

    Everything random is seeded here: two loops of the same arguments give the same numbers on CPU,
    whatever ran before them in the same process.

    Args:
        config: resolved parameters.
        schema: classes and columns of the dataset.
        train: training split.
        val: validation split.
        epochs: full length of the trial (the schedule's horizon).
        seed: initial weights, dropout and order of events.
        device: where the model lives.
        gpu_fraction: of a GPU's memory that is this trial's; events in memory are copied there where they fit.
        communicator: of the workers that train this trial together, each with a loop of the same arguments.
        goal: of the search, which the patience waits for; that of a worst variation has every epoch validated under
            each variation of the schema too.
        watched: events that are evaluated after each epoch too, and decide nothing.
        others: of the variations that name another dataset, its validation split.
        until: epoch after which it ends, whatever its patience, with the schedule of all `epochs`; None is the last.
        compiling: whether steps are compiled where they can be.

    Attributes:
        model: that is trained.
        loss: per event.
        optimizer: of the model's parameters.
        train: training events, with their weights in the loss.

    Raises:
        InvalidConfig: the model cannot take the dataset's columns, or the workers cannot share a batch.
    """

    def __init__(
        self,
        config: TrialConfig,
        schema: EventSchema,
        train: EventSource,
        val: EventSource,
        *,
        epochs: int,
        seed: int,
        device: torch.device | str = "cpu",
        gpu_fraction: float = 1.0,
        communicator: Communicator = ALONE,
        goal: Goal = VAL_LOSS,
        watched: EventSource | None = None,
        others: Mapping[str, OtherEvents] | None = None,
        until: int | None = None,
        compiling: Compile = "off",
    ) -> None:
        seed_everything(seed)
        self.config = config
        self.schema = schema
        self.epochs = epochs
        self._until = until
        self.epoch = 0
        waits_for = goal if config.training.patience_metric == "goal" else VAL_LOSS
        self._patience = Patience(config.training.patience, waits_for)
        self._half = config.training.precision == "bfloat16"
        self._seed = seed
        self._device = torch.device(device)
        self._workers = communicator
        parts = config.components
        entries = {kind: registry[getattr(config.training, kind)] for kind, registry in REGISTRIES.items()}
        self._local = local_step(config.training, communicator.world_size)
        self.model = config.build_model(schema).to(self._device)
        choose_convolutions(self._device, [schema.column(name) for name in self.model.columns])
        if config.training.sync_batch_norm and not communicator.alone:
            synchronise(self.model, self._device)
        if config.training.train_events:
            train = train.head(config.training.train_events)
        self._decorrelation = config.decorrelation_of(schema, train)
        columns = config.trainer.beside(self.model.columns)
        weights = training_weights(
            train,
            schema,
            balanced=config.training.class_weights == "balanced",
            negative=config.training.of_negative_weights,
            flat_in=config.training.flat_columns,
            flat_bins=config.training.flat_bins,
        )
        self.train = on_device(train.select(columns, weights), self._device, gpu_fraction)
        self._train_judged: EventSource = self.train
        if weights is not None and config.training.train_auc:
            self._train_judged = train.select(columns, metric_weights(train, schema))
        judged = val.select(columns, metric_weights(val, schema))
        self._val = on_device(judged, self._device, gpu_fraction)
        self._ranked = nominal_key(goal.metric)
        variations = schema.variations if self._ranked != goal.metric else {}
        named = others or {}
        self._varied = {
            name: judged_under(val, schema, columns, one, named.get(name)) for name, one in variations.items()
        }
        self._watched = watched
        if watched is not None:
            self._watched = watched.select(self.model.columns, metric_weights(watched, schema))
        if isinstance(self.model, ScaledModel):
            self.model.fit_to(self.train)
        self._cost = model_cost(self.model, schema, self._device)
        self.loss = entries["loss"].build(parts["loss"]).to(self._device)
        self.optimizer = entries["optimizer"].build(
            parts["optimizer"],
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            self._local.learning_rate,
            exempt=norms_and_biases(self.model),
        )
        self._schedule = entries["schedule"].build(parts["schedule"], self.optimizer, epochs)
        self._kept = KeptModel(self.model, self.optimizer, epochs, config.training.swa_start)
        self._mixing_points: tuple[str, ...] = ()
        if config.augmentation.manifold_mixup:
            few = self.train.head(PROBED_EVENTS)
            self._mixing_points = mixing_points(
                self.model, next(few.batches(BatchRequest(len(few), device=self._device)))
            )
        self._forward = self._called(compiling)
        communicator.seed(seed)

    def _called(self, compiling: Compile) -> Callable[..., torch.Tensor]:
        """Return what a step calls in place of the model."""
        columns = [self.schema.column(name) for name in self.model.columns]
        why_not = why_not_compiled(
            columns,
            alone=self._workers.alone,
            mixes=bool(self._mixing_points),
            deterministic=deterministic(),
        )
        steps = self.epochs * len(self.request().sizes(len(self.train)))
        if why_not or not is_compiled(compiling, self._device, steps):
            return self._workers.parallel(self.model)
        size = self._local.batch_size
        graphs = becomes_graphs(self._device, self._cost["flops"] * size)
        return CompiledForward(self.model, size, graphs=graphs, must=compiling == "on")

    @property
    def kept(self) -> Model:
        """The model that is validated and worth keeping: the trained one, or an average of it."""
        return self._kept.model

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the patience is at its end."""
        if self._until is not None:
            return self.epoch >= self._until
        return self.epoch >= self.epochs or self._patience.ended

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch, then validate.

        Returns:
            `epoch` (from 1), `train_*` (`train_auc` where asked for), `val_*`, `parameters`, `flops` of one event,
            `learning_rate` used, `epoch_seconds`; of watched events `watched_loss`, `watched_accuracy`, `watched_auc`.

        Raises:
            NonFiniteLoss: the loss of a step, or of the validation split, is NaN or infinite.
        """
        start = time.perf_counter()
        metrics = self.end_epoch(self.train_epoch())
        return metrics | {"epoch_seconds": time.perf_counter() - start}

    def end_epoch(self, train_metrics: dict[str, float]) -> dict[str, float]:
        """Validate, once all steps of an epoch are done; return the report of `run_epoch` without its seconds.

        Args:
            train_metrics: of the steps, as `summed` returns them.

        Raises:
            NonFiniteLoss: the loss of the validation split is NaN or infinite.
        """
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._schedule.step()
        self._workers.broadcast_buffers(self.model)
        self._update_kept()
        protected = self.config.trainer.decorrelate
        val_metrics = self._evaluated(self._val, protected)
        if self._varied:
            under = {name: self._evaluated(events, protected) for name, events in self._varied.items()}
            val_metrics |= under_variations(self._ranked, val_metrics, under)
        if self.config.training.train_auc:
            train_metrics["train_auc"] = self._evaluated(self._train_judged)["val_auc"]
        watched = {} if self._watched is None else watched_metrics(partial(self._evaluated, self._watched))
        self.epoch += 1
        self._patience.see(val_metrics)
        return {
            "epoch": self.epoch,
            **train_metrics,
            **val_metrics,
            **watched,
            **self._cost,
            "learning_rate": learning_rate,
        }

    def _evaluated(self, events: EventSource, protected: str = "") -> dict[str, float]:
        """Return the metrics of the kept model on these events, under the names of the validation split."""
        return validate(
            self.kept,
            self.loss,
            events,
            self.schema,
            self._where,
            half=self._half,
            device=self._device,
            communicator=self._workers,
            protected=protected,
            decorrelation=self.config.training.decorrelation,
        )

    def train_epoch(self) -> dict[str, float]:
        """Make the steps of an epoch, which `end_epoch` ends; return their loss and accuracy.

        Raises:
            NonFiniteLoss: the loss of a step is NaN or infinite.
        """
        self.model.train()
        batches_of_epoch = self.train.batches(self.request(shuffle=True))
        columns = [self.schema.column(name) for name in self.model.columns]
        augmentation, own = self.config.augmentation, self.config.own_augmentation(columns)
        if augmentation.active or own is not None:
            augment = Augmentation(augmentation, self._seed, self.epoch, self._workers.rank, columns, own)
            batches_of_epoch = map(augment, batches_of_epoch)
        decorrelation = self._decorrelation and self._decorrelation.of_epoch(self.epoch, self.epochs)
        steps = [
            train_step(
                self.model,
                self.loss,
                self.optimizer,
                batch,
                clip_norm=self.config.training.clip_norm,
                half=self._half,
                mixing_points=self._mixing_points,
                forward=self._forward,
                draws=self._workers.same_draws(self._seed, self.epoch, number, device=self._device),
                decorrelation=decorrelation,
            )
            for number, batch in enumerate(batches_of_epoch)
        ]
        sizes = np.array([step.events for step in steps]) * self._workers.world_size
        losses = (
            self._workers.all_reduce(torch.stack([step.loss_sum for step in steps]).double()).cpu().numpy()
        )
        correct = self._workers.all_reduce(torch.stack([step.correct for step in steps]).sum()).item()
        return self.summed(losses, correct, sizes)

    def summed(
        self, losses: npt.NDArray[np.float64], correct: float, sizes: npt.NDArray[np.int64]
    ) -> dict[str, float]:
        """Return loss and accuracy of an epoch's steps.

        Args:
            losses: (steps,) summed over the events of each.
            correct: events whose most probable class is the true one, each with its weight, of all steps.
            sizes: (steps,) events.

        Raises:
            NonFiniteLoss: the loss of a step is NaN or infinite.
        """
        finite = np.isfinite(losses)
        if not finite.all():
            raise NonFiniteLoss(
                self._where(f"training loss is {losses[~finite][0]} at step {finite.argmin() + 1}")
            )
        return {
            "train_loss": float(losses.sum() / sizes.sum()),
            "train_accuracy": correct / int(sizes.sum()),
        }

    def request(self, *, shuffle: bool = False) -> BatchRequest:
        """This worker's part of every batch of the training events."""
        return BatchRequest(
            self._local.batch_size,
            seed=self._seed,
            epoch=self.epoch,
            shuffle=shuffle,
            rank=self._workers.rank,
            world_size=self._workers.world_size,
            last_batch=self.config.training.last_batch,
            length_pool=length_pool(self.config, self.model, self.schema),
            device=self._device,
        )

    def _sharded(self) -> Iterable[Batch]:
        """Whole batches of the training events, handed to the workers in turn; perhaps none for this one."""
        whole = self._local.batch_size * self._workers.world_size
        request = dataclasses.replace(self.request(), batch_size=whole, sharded=True)
        return self.train.batches(request) if len(request.counted_rows(len(self.train))) else ()

    def _update_kept(self) -> None:
        """Take in the epoch; an average gets the statistics that one worker would find, the same on every rank."""
        if self.config.training.sync_batch_norm and not self._workers.alone:
            # Each rank sees its share of every batch, and the modules themselves join what they see.
            self._kept.update(self.epoch + 1, lambda: self.train.batches(self.request()))
        else:
            self._kept.update(self.epoch + 1, self._sharded, self._workers)
        if self.kept is not self.model:
            self._workers.broadcast_buffers(self.kept)

    def _where(self, what: str) -> str:
        rate = self.config.training.learning_rate
        return f"the loss stays finite; {what} of epoch {self.epoch + 1} (learning_rate {rate:g})"

    def state_dict(self) -> dict[str, Any]:
        """All that the remaining epochs depend on; the same on every worker, all of which must ask."""
        return {
            "epoch": self.epoch,
            "params": self.config.resolved(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "kept": self._kept.state_dict(),
            "random": self._workers.all_gather(random_state()),
            "patience": self._patience.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`: the next epoch gives what it would have given without the break.

        On another number of workers all goes on but the workers' dropout, which is drawn anew.

        Raises:
            CorruptCheckpoint: the state belongs to other parameters.
        """
        check_own(state, self.config.resolved())
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._kept.load_state_dict(state["kept"])
        if len(state["random"]) == self._workers.world_size:
            restore_random_state(state["random"][self._workers.rank])
        else:
            self._workers.seed(self._seed, self.epoch)
        self._patience.load_state_dict(state["patience"])


class Patience:
    """Counts the epochs since the best one.

    Args:
        epochs: that may pass without a better one; 0 never ends.
        goal: what is compared.
    """

    def __init__(self, epochs: int, goal: Goal) -> None:
        self._epochs, self._goal = epochs, goal
        self._best: float | None = None
        self._stale = 0

    @property
    def ended(self) -> bool:
        """Whether it is at its end."""
        return 0 < self._epochs <= self._stale

    def see(self, metrics: Mapping[str, float]) -> None:
        """Take in an epoch."""
        value = metrics[self._goal.metric]
        sign = 1 if self._goal.mode == "min" else -1
        if self._best is None or sign * value < sign * self._best:
            self._best, self._stale = value, 0
        else:
            self._stale += 1

    def state_dict(self) -> dict[str, Any]:
        """To go on from."""
        return {"best": self._best, "stale_epochs": self._stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, or from one of the time when it was always the validation loss."""
        self._best = state["best"] if "best" in state else state["lowest_loss"]
        self._stale = state["stale_epochs"]
