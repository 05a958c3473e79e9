"""A trained classifier as its users see it: events in, one probability per class out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import mask_of
from hep_ray.errors import ModelMismatch
from hep_ray.loading.batches import Batch
from hep_ray.losses import LOSSES, Loss, build_loss
from hep_ray.models import MODELS, Model
from hep_ray.training.calibration import Calibration
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import BATCH, evaluate
from hep_ray.training.testing import LOG_ODDS, SCORE


class Classifier:
    """A model with its scalers, its loss' probabilities and the schema of its events.

    Args:
        params: of the trial that trained it.
        schema: of the events that it was trained on.
        state: of its weights; loaded strictly.
        device: where it computes.
        calibration: map by which its scores become probabilities; None gives them as they are.

    Raises:
        RuntimeError: the weights are those of another model.

    Attributes:
        schema: columns, units and classes.
        columns: those of them that the model reads, in its order.
        half: whether it was trained, and scores, in bfloat16 (autocast); its weights are float32.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        schema: EventSchema,
        state: Mapping[str, torch.Tensor],
        device: torch.device | str = "cpu",
        calibration: Calibration | None = None,
    ) -> None:
        # Weights are at hand: no pretrained file is needed.
        config = TrialConfig.from_params({**params, **MODELS[params["model"]].example})
        self.schema, self._calibration = schema, calibration
        self.device = torch.device(device)
        self.model: Model = config.build_model(schema)
        self.model.load_state_dict(dict(state))
        self.model.to(self.device).eval()
        # A fitted model has no loss, and its outputs are those of a cross-entropy.
        if (of_loss := config.components.get("loss")) is None:
            loss: Loss = build_loss("cross_entropy", {})
        else:
            loss = LOSSES[config.resolved()["loss"]].build(of_loss)
        self.loss: Loss = loss.to(self.device)
        self.columns: tuple[Column, ...] = tuple(schema.column(name) for name in self.model.columns)
        self.half: bool = config.resolved().get("precision") == "bfloat16"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.schema.classes

    @property
    def score_names(self) -> tuple[str, ...]:
        """`score_<class>` of every class."""
        return tuple(SCORE + name for name in self.classes)

    @property
    def rank_names(self) -> tuple[str, ...]:
        """`log_odds_<class>` of every class."""
        return tuple(LOG_ODDS + name for name in self.classes)

    def eval(self) -> None:
        """Put the model into evaluation mode."""
        self.model.eval()

    def fold_of(self, event_ids: Any) -> npt.NDArray[np.int32] | None:  # noqa: ARG002
        """Return, of the models of folds, which one scores each event; None of a single model."""
        return None

    def __call__(self, events: Any) -> npt.NDArray[np.float32]:
        """Class probabilities (N, C) of events, as `predict`; a model of one column also takes its array."""
        if isinstance(events, np.ndarray) and len(self.columns) == 1:
            events = {self.columns[0].name: events}
        return self.predict(events)

    def predict(
        self, events: Any, *, batch: int = BATCH, half: bool | None = None
    ) -> npt.NDArray[np.float32]:
        """Return class probabilities (N, C) of events; see `scores`."""
        return self.scores(events, batch=batch, half=half)[0]

    def scores(
        self, events: Any, *, batch: int = BATCH, half: bool | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Return class probabilities p (N, C) of events, and log-odds ln p − ln(1 − p) of each class, to cut on.

        Calibrated where the classifier was built so; log-odds stay as they are, so that cuts keep their meaning.
        Beyond odds of 3·10⁷ all probabilities are 1 in single precision; log-odds still tell events apart.

        Args:
            events: a mapping or a pandas DataFrame: for each of `columns` its values (N, *shape). Where a vector's
                column is absent, scalars named as its elements are taken. What the model does not read is ignored.
            batch: events per forward pass.
            half: compute in bfloat16; None does as in training.

        Raises:
            ModelMismatch: a column is absent, or has another shape or kind of number.
            InvalidEvents: a value is NaN or infinite.
        """
        inputs = {column.name: values_of(events, column) for column in self.columns}
        lengths = {name: len(values) for name, values in inputs.items()}
        if len(set(lengths.values())) > 1:
            raise ModelMismatch(f"every column has a value for each event; got {lengths}")
        total = next(iter(lengths.values()))
        rows = np.arange(total).astype(str).astype(object)
        for column in self.columns:
            column.checked(inputs[column.name], rows)
        if not total:
            return np.empty((0, len(self.classes)), np.float32), np.empty((0, len(self.classes)))
        batches = self._batches(inputs, total, batch)
        found = evaluate(self.model, self.loss, batches, half=self.half if half is None else half)
        if self._calibration is not None:
            return self._calibration(found.log_odds).astype(np.float32), found.log_odds
        return found.probabilities, found.log_odds

    def _batches(self, inputs: Mapping[str, npt.NDArray[Any]], total: int, size: int) -> Iterator[Batch]:
        lists = {column.name for column in self.columns if column.lists}
        for start in range(0, total, size):
            part = {
                name: torch.from_numpy(_trimmed(np.array(values[start : start + size]), name in lists)).to(
                    self.device
                )
                for name, values in inputs.items()
            }
            labels = torch.zeros(min(size, total - start), dtype=torch.int64, device=self.device)
            yield Batch(part, labels)


def _trimmed(values: npt.NDArray[Any], lists: bool) -> npt.NDArray[Any]:
    """Return lists (N, L, F) without the places that no event of them has; other values as they are."""
    return values[:, : max(1, int(mask_of(values).sum(axis=1).max(initial=0)))] if lists else values


def values_of(events: Any, column: Column) -> npt.NDArray[Any]:
    """Return one column's values (N, *shape) in its dtype, out of a mapping or a DataFrame.

    Raises:
        ModelMismatch: it is absent, or has another shape or kind of number.
    """
    if column.name in events and column.lists:
        return _lists(events[column.name], column)
    if column.name in events:
        values = _stacked(events[column.name])
    elif column.elements and all(element in events for element in column.elements):
        values = np.stack([_stacked(events[element]) for element in column.elements], axis=-1)
    else:
        elements = f" (or its elements {', '.join(column.elements)})" if column.elements else ""
        raise ModelMismatch(
            f"the model reads the column '{column.name}' {column.shape or 'scalar'}{elements}; "
            f"the events have {', '.join(map(str, events.keys())) or 'none'}"
        )
    dtype = np.dtype(column.dtype)
    shapes = {tuple(column.shape), (int(np.prod(column.shape)),) if column.shape else ()}
    if values.dtype.kind not in ("fiu" if dtype.kind == "f" else "iu") or values.shape[1:] not in shapes:
        raise ModelMismatch(
            f"column '{column.name}' is {column.dtype} of shape (N, {', '.join(map(str, column.shape))}); "
            f"got {values.dtype} {values.shape}"
        )
    return values.reshape(len(values), *column.shape).astype(dtype, copy=False)


def _lists(values: Any, column: Column) -> npt.NDArray[Any]:
    """Return lists (N, L, F) in the column's dtype, L the greatest length of the schema, absent items NaN.

    Raises:
        ModelMismatch: they are neither an array (N, l, F) with NaN behind the items, nor one (l, F) for each event, or
            a list is longer than the column's.
    """
    most, size = column.shape
    arrays = [np.asarray(one) for one in values]
    wrong = [one.shape for one in arrays if one.shape != (0,) and one.shape[1:] != (size,)]
    if wrong:
        raise ModelMismatch(
            f"column '{column.name}' is lists of items of {size} values: an array (N, L, {size}) with NaN behind the "
            f"items, or one (L, {size}) for each event; an event has {wrong[0]}"
        )
    rows = [one.reshape(-1, size).astype(column.dtype) for one in arrays]
    result = np.full((len(rows), most, size), np.nan, column.dtype)
    for row, items in enumerate(rows):
        present = items if len(items) <= most else items[~np.isnan(items).all(axis=1)]
        if len(present) > most:
            raise ModelMismatch(
                f"column '{column.name}' has at most {most} items, as the events that the model was trained on; event "
                f"{row} has {len(present)}"
            )
        result[row, : len(present)] = present
    return result


def _stacked(values: Any) -> npt.NDArray[Any]:
    """An array of what may be a column of lists or arrays."""
    array = np.asarray(values)
    if array.dtype == object and len(array):
        try:
            return np.stack([np.asarray(value) for value in array])
        except ValueError:
            return array
    return array
