"""The life of one trial: epochs of training, validation metrics, and a state that resumes bit for bit."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.data.augment import Augmentation
from hep_ray.data.batches import Batch, Events, batches
from hep_ray.data.events import EventSchema
from hep_ray.errors import CorruptCheckpoint, InvalidEvents, NonFiniteLoss
from hep_ray.metrics import classification_metrics
from hep_ray.training.config import REGISTRIES, TrialConfig
from hep_ray.training.scaled import ScaledModel
from hep_ray.training.step import evaluate, train_step

VALIDATION_BATCH = 512
"""Events per forward pass in validation; changes speed and memory, never the result's meaning."""


class TrialLoop:
    """Trains one configuration on events held in memory.

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

    Raises:
        InvalidConfig: the model cannot take the dataset's columns.
    """

    def __init__(
        self,
        config: TrialConfig,
        schema: EventSchema,
        train: Events,
        val: Events,
        *,
        epochs: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        seed_everything(seed)
        self.config = config
        self.schema = schema
        self.epochs = epochs
        self.epoch = 0
        self._lowest_loss = math.inf
        self._stale_epochs = 0
        self._half = config.trainer.precision == "bfloat16"
        self._seed = seed
        self._device = torch.device(device)
        parts = config.components
        entries = {kind: registry[getattr(config.trainer, kind)] for kind, registry in REGISTRIES.items()}
        self.model = config.build_model(schema).to(self._device)
        weights = training_weights(train, schema, balanced=config.trainer.class_weights == "balanced")
        self._train, self._val = (
            Events({column: split.inputs[column] for column in self.model.columns}, split.labels, of_events)
            for split, of_events in ((train, weights), (val, None))
        )
        if isinstance(self.model, ScaledModel):
            self.model.fit(self._train.inputs)
        self.loss = entries["loss"].build(parts["loss"]).to(self._device)
        self._optimizer = entries["optimizer"].build(
            parts["optimizer"],
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            config.trainer.learning_rate,
        )
        self._schedule = entries["schedule"].build(parts["schedule"], self._optimizer, epochs)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the patience is at its end."""
        patience = self.config.trainer.patience
        return self.epoch >= self.epochs or 0 < patience <= self._stale_epochs

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch, then validate.

        Returns:
            `epoch` (from 1), `train_*`, `val_*`, `learning_rate` used, `epoch_seconds`.

        Raises:
            NonFiniteLoss: the loss of a step, or of the validation split, is NaN or infinite.
        """
        start = time.perf_counter()
        learning_rate = self._optimizer.param_groups[0]["lr"]
        train_metrics = self._train_epoch()
        self._schedule.step()
        val_metrics = self._validate()
        self.epoch += 1
        self._stale_epochs = 0 if val_metrics["val_loss"] < self._lowest_loss else self._stale_epochs + 1
        self._lowest_loss = min(self._lowest_loss, val_metrics["val_loss"])
        return {
            "epoch": self.epoch,
            **train_metrics,
            **val_metrics,
            "learning_rate": learning_rate,
            "epoch_seconds": time.perf_counter() - start,
        }

    def _train_epoch(self) -> dict[str, float]:
        self.model.train()
        batches_of_epoch = self._batches(self._train, self.config.trainer.batch_size, shuffle=True)
        if self.config.augmentation.active:
            augment = Augmentation(self.config.augmentation, self._seed, self.epoch)
            batches_of_epoch = map(augment, batches_of_epoch)
        clip_norm = self.config.trainer.clip_norm
        steps = [
            train_step(self.model, self.loss, self._optimizer, batch, clip_norm=clip_norm, half=self._half)
            for batch in batches_of_epoch
        ]
        sizes = np.array([step.events for step in steps])
        losses = torch.stack([step.loss_sum for step in steps]).double().cpu().numpy()
        finite = np.isfinite(losses)
        if not finite.all():
            raise NonFiniteLoss(
                self._where(f"training loss is {losses[~finite][0]} at step {finite.argmin() + 1}")
            )
        correct = int(torch.stack([step.correct for step in steps]).sum())
        return {
            "train_loss": float(losses.sum() / sizes.sum()),
            "train_accuracy": correct / int(sizes.sum()),
        }

    def _validate(self) -> dict[str, float]:
        batches_of_split = self._batches(self._val, VALIDATION_BATCH, shuffle=False)
        result = evaluate(self.model, self.loss, batches_of_split, half=self._half)
        if not math.isfinite(result.loss) or not np.isfinite(result.probabilities).all():
            raise NonFiniteLoss(self._where(f"validation loss is {result.loss}"))
        metrics = classification_metrics(
            result.probabilities, result.labels, self.schema.classes, self.schema.signal
        )
        return {"val_loss": result.loss} | {f"val_{key}": value for key, value in metrics.items()}

    def _batches(self, events: Events, size: int, *, shuffle: bool) -> Iterator[Batch]:
        return batches(events, size, seed=self._seed, epoch=self.epoch, shuffle=shuffle, device=self._device)

    def _where(self, what: str) -> str:
        rate = self.config.trainer.learning_rate
        return f"the loss stays finite; {what} of epoch {self.epoch + 1} (learning_rate {rate:g})"

    def state_dict(self) -> dict[str, Any]:
        """All that the remaining epochs depend on."""
        return {
            "epoch": self.epoch,
            "params": self.config.resolved(),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": random_state(),
            "patience": {"lowest_loss": self._lowest_loss, "stale_epochs": self._stale_epochs},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`: the next epoch gives what it would have given without the break.

        Raises:
            CorruptCheckpoint: the state belongs to other parameters.
        """
        if state["params"] != self.config.resolved():
            raise CorruptCheckpoint(
                f"a trial resumes its own checkpoint; this one holds {state['params']}, "
                f"the trial is {self.config.resolved()}"
            )
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        restore_random_state(state["random"])
        self._lowest_loss = state["patience"]["lowest_loss"]
        self._stale_epochs = state["patience"]["stale_epochs"]


def training_weights(train: Events, schema: EventSchema, *, balanced: bool) -> npt.NDArray[np.float32] | None:
    """Weights of the training events in the loss, with mean 1; None where all are alike.

    The schema's weight column, and with `balanced` a factor that gives every class the same sum. Metrics count
    every event once, whatever its weight.

    Raises:
        InvalidEvents: all events of a class have weight 0.
    """
    if schema.weight is None and not balanced:
        return None
    weights = np.ones(len(train)) if schema.weight is None else train.inputs[schema.weight].astype(np.float64)
    sums = np.bincount(train.labels, weights, minlength=len(schema.classes))
    if not sums.all():
        raise InvalidEvents(
            f"every class has a training event of weight above 0; the sums are {sums.tolist()}"
        )
    if balanced:
        weights = weights / sums[train.labels]
    normalised: npt.NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return normalised


def seed_everything(seed: int) -> None:
    """Seed every generator that a model or augmentation may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from the global generator
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of torch's generators, as tensors that a weights-only load accepts."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put `random_state` back; generators of GPUs that this machine lacks are left out."""
    torch.set_rng_state(state["torch"].cpu())
    for index, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), index)
