"""A trained classifier as its users see it: events in, one probability per class out.

The models of all folds of a configuration are one too, whose scores are honest on the events of the folds: an event
that was divided into the folds is known by its id, and scored by the one model that never saw it. All others are scored
by the mean probability of the models. An ensemble is the mean of models of several configurations for every event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hep_ray.dataset.schema import EVENT_ID, Column, EventSchema
from hep_ray.dataset.splits import event_hashes
from hep_ray.dataset.values import mask_of
from hep_ray.errors import CorruptModel, ModelMismatch
from hep_ray.loading.batches import Batch
from hep_ray.losses import LOSSES, Loss, build_loss
from hep_ray.metrics.roc import Scores, mean_of
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

    def scores(self, events: Any, *, batch: int = BATCH, half: bool | None = None) -> Scores:
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


@dataclass(frozen=True)
class Membership:
    """Which fold's model never saw which event.

    Attributes:
        keys: (N,) uint64, rising hashes of the events' ids.
        folds: (N,) whose test split has the event, from 0.
    """

    keys: npt.NDArray[np.uint64]
    folds: npt.NDArray[np.int16]

    @classmethod
    def of(cls, event_ids: pa.Array, folds: npt.NDArray[np.integer]) -> Membership:
        """Remember events.

        Args:
            event_ids: (N,).
            folds: (N,) of them, from 0.
        """
        keys = _keys(event_ids)
        order = np.argsort(keys)
        return cls(keys[order], folds[order].astype(np.int16))

    def dumps(self) -> bytes:
        """Return the bytes of `membership.safetensors`."""
        from safetensors.numpy import save

        return bytes(save({"keys": self.keys, "folds": self.folds}))

    @classmethod
    def loads(cls, content: bytes) -> Membership:
        """Read what `dumps` wrote.

        Raises:
            CorruptModel: it is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            keys, folds = arrays["keys"], arrays["folds"]
        except (SafetensorError, KeyError) as exc:
            raise CorruptModel(
                f"which model never saw an event is told by hashes of ids and folds: {exc}"
            ) from None
        if keys.shape != folds.shape or keys.dtype != np.uint64 or not (keys[1:] >= keys[:-1]).all():
            raise CorruptModel(f"hashes of ids rise, one for each event; got {keys.shape} and {folds.shape}")
        return cls(keys, folds)

    def __call__(self, event_ids: Any) -> npt.NDArray[np.int16]:
        """Return the fold of each event (M,); -1 of those that are in none."""
        keys = _keys(event_ids)
        if not len(self.keys):
            return np.full(len(keys), -1, np.int16)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.folds[at], -1).astype(np.int16)


def _keys(event_ids: Any) -> npt.NDArray[np.uint64]:
    if isinstance(event_ids, pa.ChunkedArray):
        event_ids = event_ids.combine_chunks()
    if not isinstance(event_ids, pa.Array):
        event_ids = [str(one) for one in event_ids]
    return event_hashes(event_ids, "folds")[:, 0]


class MeanClassifier(Classifier):
    """The mean of several models as one.

    It reads what any of them reads, in the order of the schema.

    Args:
        members: its models; each may be another one, of other columns.
        schema: of the events that they were trained on.
        calibration: map by which the mean scores become probabilities; None gives them as they are.
    """

    def __init__(
        self, members: Sequence[Classifier], schema: EventSchema, calibration: Calibration | None = None
    ) -> None:
        first = members[0]
        self.members, self._calibration = tuple(members), calibration
        self.schema, self.device, self.half = schema, first.device, any(one.half for one in members)
        read = {column.name for one in members for column in one.columns}
        alike = all(one.columns == first.columns for one in members)
        self.columns = first.columns if alike else tuple(one for one in schema.columns if one.name in read)
        self.model, self.loss = first.model, first.loss

    @property
    def words(self) -> str:
        """Return what it is in words."""
        return f"the mean of {len(self.members)} models"

    def eval(self) -> None:
        """Put every model into evaluation mode."""
        for one in self.members:
            one.eval()

    def scores(self, events: Any, *, batch: int = BATCH, half: bool | None = None) -> Scores:
        """Return the mean class probabilities of the models and their log-odds, see `Classifier.scores`."""
        inputs = {column.name: values_of(events, column) for column in self.columns}
        found = mean_of([one.scores(inputs, batch=batch, half=half) for one in self.members])
        if self._calibration is not None:
            return self._calibration(found[1]).astype(np.float32), found[1]
        return found


class FoldClassifier(MeanClassifier):
    """The models of the folds as one.

    Args:
        members: of the folds, in their order.
        schema: of the events that they were trained on.
        membership: which events each never saw.
    """

    def __init__(self, members: Sequence[Classifier], schema: EventSchema, membership: Membership) -> None:
        super().__init__(members, schema)
        self.membership = membership

    @property
    def words(self) -> str:
        """Return what it is in words."""
        return f"those of {len(self.members)} folds"

    def fold_of(self, event_ids: Any) -> npt.NDArray[np.int32]:
        """Return which model scores each event: from 1 that of the fold whose test split has it, 0 where all do."""
        return self.membership(event_ids).astype(np.int32) + 1

    def scores(self, events: Any, *, batch: int = BATCH, half: bool | None = None) -> Scores:
        """Return class probabilities and log-odds, see `Classifier.scores`.

        Events whose ids, `event_id`, are those of a fold's test split have those of its model; all others the mean
        probability of all models, and its log-odds.
        """
        inputs = {column.name: values_of(events, column) for column in self.columns}
        folds = self.membership(events[EVENT_ID]) if EVENT_ID in events else None
        lengths = {name: len(values) for name, values in inputs.items()}
        if folds is not None and set(lengths.values()) != {len(folds)}:
            raise ModelMismatch(
                f"every event has an id and values; got {len(folds)} of {EVENT_ID}, and {lengths}"
            )
        if folds is None or (folds < 0).all():
            return super().scores(inputs, batch=batch, half=half)
        probabilities = np.empty((len(folds), len(self.classes)), np.float32)
        log_odds = np.empty((len(folds), len(self.classes)), np.float64)
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            some = {name: values[rows] for name, values in inputs.items()}
            members = self.members if fold < 0 else self.members[fold : fold + 1]
            found = [one.scores(some, batch=batch, half=half) for one in members]
            probabilities[rows], log_odds[rows] = found[0] if len(found) == 1 else mean_of(found)
        return probabilities, log_odds


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
