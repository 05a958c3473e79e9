"""Fit a model that is no network: a trial of one fit, one validation, one report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hep_ray.dataset.schema import EventSchema
from hep_ray.dataset.values import ListColumn
from hep_ray.dataset.variations import Variation
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import BatchRequest, EventSource, training_weights
from hep_ray.loading.varied import OtherEvents, judged_under
from hep_ray.losses import build_loss
from hep_ray.metrics import nominal_key
from hep_ray.metrics.roc import passing
from hep_ray.models import Model
from hep_ray.models.fitted import FittedModel
from hep_ray.training.checkpoint import check_own
from hep_ray.training.config import TrialConfig
from hep_ray.training.cost import model_cost
from hep_ray.training.distributed import seed_everything
from hep_ray.training.evaluation import (
    BATCH,
    Evaluation,
    evaluate,
    under_variations,
    validation_metrics,
    watched_metrics,
)


class FittedLoop:
    """A trial whose model is fitted; seen from outside like `TrialLoop`, with one epoch.

    Args:
        config: resolved parameters; its model is fitted.
        schema: classes and columns of the dataset.
        train: training split.
        val: validation split.
        seed: of whatever the fit draws.
        watched: events that are evaluated too, and decide nothing.
        others: of the variations that name another dataset, its validation split.

    Raises:
        InvalidConfig: the model cannot take the dataset's columns.
    """

    def __init__(
        self,
        config: TrialConfig,
        schema: EventSchema,
        train: EventSource,
        val: EventSource,
        *,
        seed: int,
        watched: EventSource | None = None,
        metric: str = "val_loss",
        others: Mapping[str, OtherEvents] | None = None,
    ) -> None:
        seed_everything(seed)
        built = config.build_model(schema)
        if not isinstance(built, FittedModel):
            raise InvalidConfig(f"only a fitted model is fitted; got '{config.trainer.model}'")
        self.config = config
        self.model = built
        self.epoch = 0
        self._schema, self._train, self._val, self._seed = schema, train, val, seed
        self._watched = watched
        self._ranked = nominal_key(metric)
        self._variations = schema.variations if self._ranked != metric else {}
        self._others = others or {}

    @property
    def kept(self) -> Model:
        """The fitted model."""
        return self.model

    @property
    def finished(self) -> bool:
        """Whether it is fitted."""
        return self.epoch > 0

    def run_epoch(self) -> dict[str, float]:
        """Fit, then validate.

        Events that are streamed are fitted to as far as the memory budget holds them, from the first on.

        Returns:
            `epoch` 1, `val_*` of the cross-entropy, `parameters`, `flops` of one event,
            `epoch_seconds`; `train_events`, where not all were fitted to;
            for each working point of the model `val_signal_efficiency_<name>` and `val_background_rejection_<name>`.
        """
        start = time.perf_counter()
        weights = training_weights(
            self._train,
            self._schema,
            balanced=self.config.trainer.class_weights == "balanced",
            negative=self.config.trainer.of_negative_weights,
            flat_in=self.config.trainer.flat_columns,
            flat_bins=self.config.trainer.flat_bins,
        )
        self.config.check_background(self._schema, self._train)
        train = self._train.select(self.model.columns, weights).head(self._most_events())
        # No fitted model reads lists.
        inputs = {name: one for name, one in train.inputs.items() if not isinstance(one, ListColumn)}
        self.model.fit(inputs, train.labels, train.weights, self._seed)
        result = self._evaluated(self._val, self.config.trainer.decorrelate)
        metrics = validation_metrics(result, self._schema, str)
        if self._variations:
            answers = {
                name: self._evaluated(self._val, self.config.trainer.decorrelate, one, self._others.get(name))
                for name, one in self._variations.items()
            }
            under = {name: validation_metrics(one, self._schema, str) for name, one in answers.items()}
            metrics |= under_variations(self._ranked, metrics, under)
        if self._watched is not None:
            watched = self._watched
            metrics |= watched_metrics(
                lambda: validation_metrics(self._evaluated(watched), self._schema, str)
            )
        signal = self._schema.signal_index
        for name, cut in self.model.cuts().items():
            efficiency, mistaken = passing(
                result.log_odds[:, signal], result.labels == signal, cut, result.weights
            )
            metrics[f"val_signal_efficiency_{name}"] = efficiency
            metrics[f"val_background_rejection_{name}"] = 1 / mistaken
        if len(train) < len(self._train):
            metrics["train_events"] = len(train)
        self.epoch = 1
        metrics |= model_cost(self.model, self._schema)
        return {"epoch": 1, **metrics, "epoch_seconds": time.perf_counter() - start}

    def _evaluated(
        self,
        events: EventSource,
        protected: str = "",
        variation: Variation | None = None,
        other: OtherEvents | None = None,
    ) -> Evaluation:
        """Return the fitted model's answer on these events, by the cross-entropy."""
        columns = self.config.trainer.beside(self.model.columns)
        batches = judged_under(events, self._schema, columns, variation, other).batches(BatchRequest(BATCH))
        return evaluate(self.model, build_loss("cross_entropy", {}), batches, protected=protected)

    def _most_events(self) -> int:
        """Training events that are fitted to: all in memory, of streamed ones those whose features it holds."""
        if self._train.memory is None:
            return len(self._train)
        columns = [column for column in self._schema.columns if column.name in self.model.columns]
        row = sum(column.nbytes + 8 * int(np.prod(column.shape)) for column in columns)
        return max(1, self._train.memory // row)

    def state_dict(self) -> dict[str, Any]:
        """The fitted model."""
        return {"epoch": self.epoch, "params": self.config.resolved(), "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            CorruptCheckpoint: the state belongs to other parameters.
        """
        check_own(state, self.config.resolved())
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
