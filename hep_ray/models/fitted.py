"""Classifiers without a network: fitted in one go, and from then on models like any other.

What a fit finds is held in buffers, so it is saved, resumed and handed on as the weights of a network are.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig, InvalidEvents, MissingPackage, NotFitted
from hep_ray.models import Model, SchemaLike
from hep_ray.models.flat import ALL, FlatInput

ROWS = 8192
"""Events turned into features at once."""

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32] | None


class Sliceable(Protocol):
    """A column of which consecutive events can be had as an array: one, or a column without its zeros."""

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        """(…, *shape)."""


class FittedConfig(Config):
    """Fields common to baselines.

    Attributes:
        inputs: columns to read, joined by `+`; `all` is every scalar and vector column.
    """

    inputs: str = ALL

    @property
    def seedless(self) -> bool:
        """Whether no seed changes what is fitted."""
        return True


class FittedModel(Model):
    """A classifier of plain features that is fitted instead of trained.

    Args:
        inputs: columns to read.
        schema: events with these columns.

    Attributes:
        fitted: scalar bool tensor; part of the state.
        classes: number of classes.
        signal: index of the signal class, None where there is none.

    Raises:
        InvalidConfig: there is no such column.
    """

    fitted: Tensor
    takes_missing = False
    """Whether the fit takes NaN for a value that is missing; else the median of the training events stands for it."""
    takes_negative = True
    """Whether the fit takes weights below 0."""
    multiplies = True
    """Whether a forward pass may have matrix products, which are counted as it runs; else `operations` counts all."""
    package = ""
    """What is imported for the fit and not for the model that it leaves; empty where hep_ray itself needs it."""
    system_package = ""
    """Debian's name of what that package wants of the system."""

    def __init__(self, inputs: str, schema: SchemaLike) -> None:
        super().__init__()
        self.flat = FlatInput(inputs, schema)
        self.columns = self.flat.columns
        self.classes = len(schema.classes)
        self.signal = None if schema.signal is None else schema.classes.index(schema.signal)
        self.register_buffer("fitted", torch.tensor(False))
        read = [column for column in schema.columns if column.name in self.columns]
        self.has_missing = any(getattr(column, "missing", False) for column in read)
        if self.has_missing and not self.takes_missing:
            self.register_buffer("filling", torch.zeros(self.flat.features))

    def fit(self, inputs: Mapping[str, Sliceable], labels: Labels, weights: Weights, seed: int) -> None:
        """Fit to the training split.

        Args:
            inputs: column → (N, *shape).
            labels: (N,).
            weights: (N,) of the events; None where all are alike.
            seed: of whatever is drawn.

        Raises:
            InvalidEvents: a feature is NaN or infinite.
            InvalidConfig: a weight is below 0, and the model takes none.
            MissingPackage: what fits the model is not installed, or wants a library that is not.
        """
        check_fit(self, negative=weights is not None and bool((weights < 0).any()))
        features = np.concatenate(list(self._features(inputs, len(labels))))
        if self.has_missing and not self.takes_missing:
            filling = medians(features, "+".join(self.columns))
            self._keep(filling=filling)
            features = np.where(np.isnan(features), filling, features)
        if not (np.isfinite(features) | (self.has_missing & np.isnan(features))).all():
            column = int(np.argwhere(~np.isfinite(features))[0, 1])
            raise InvalidEvents(
                f"feature {column} of {'+'.join(self.columns)} is {features[~np.isfinite(features)][0]}: "
                f"{type(self).__name__} is fitted to finite features"
            )
        from threadpoolctl import threadpool_limits

        with threadpool_limits(torch.get_num_threads()):  # a trial's cores, not the machine's
            self._fit(features, labels, weights, seed)
        self.fitted.fill_(True)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (N, n_classes) of one tensor (N, *shape) per column; their softmax is the probabilities.

        Raises:
            NotFitted: neither `fit` was called nor a fitted state loaded.
        """
        if not torch.compiler.is_exporting() and not bool(self.fitted):
            raise NotFitted(
                f"this {type(self).__name__} is not fitted: a baseline is fitted before it is used"
            )
        features = self.flat(*inputs)
        if self.has_missing and not self.takes_missing:
            features = torch.where(torch.isnan(features), self.get_buffer("filling"), features)
        return self._logits(features)

    def cuts(self) -> dict[str, float]:
        """Working points: name → least log-odds of the signal class; none by default."""
        return {}

    def operations(self) -> int:
        """Comparisons, look-ups and sums of one event, beside matrix products that are counted; none by default."""
        return 0

    def _keep(self, **values: npt.NDArray[Any]) -> None:
        """Put what a fit found into the buffers of these names."""
        for name, found in values.items():
            self.get_buffer(name).copy_(torch.from_numpy(found))

    def _features(self, inputs: Mapping[str, Sliceable], events: int) -> Iterator[Floats]:
        for start in range(0, events, ROWS):
            rows = [torch.from_numpy(inputs[name][start : start + ROWS]) for name in self.columns]
            features: Floats = self.flat(*rows).double().numpy()
            yield features

    @abstractmethod
    def _fit(self, features: Floats, labels: Labels, weights: Weights, seed: int) -> None: ...

    @abstractmethod
    def _logits(self, features: Tensor) -> Tensor: ...


def check_fit(model: object, *, negative: bool = False) -> None:
    """Check that a model, where it is a fitted one, can be fitted.

    Args:
        model: not yet fitted.
        negative: there may be weights below 0.

    Raises:
        InvalidConfig: it takes no such weights.
        MissingPackage: what fits it is not installed, or wants a library of the system that is not.
    """
    if not isinstance(model, FittedModel):
        return
    name = type(model).__name__
    if model.package and importlib.util.find_spec(model.package) is None:
        raise MissingPackage(
            f"fitting the model '{name}' needs the package {model.package}, which is not installed: type "
            "pip install 'hep-ray[trees]'"
        )
    if model.package:
        try:
            importlib.import_module(model.package)
        except OSError as exc:  # a library of the system that its own is linked to
            wanted = f": type apt-get install {model.system_package}" if model.system_package else ""
            raise MissingPackage(
                f"fitting the model '{name}' needs the package {model.package}, which is installed and cannot be "
                f"loaded, since a library is missing ({exc}){wanted}"
            ) from exc
    if negative and not model.takes_negative:
        raise InvalidConfig(
            f"{name} takes no weights below 0: state negative_weights='absolute' or 'zero' in place of 'signed'"
        )


def medians(features: Floats, named: str) -> Floats:
    """Return the median (F,) of each feature over the events that have a value.

    Args:
        features: (N, F), NaN where a value is missing.
        named: columns, for the message.

    Raises:
        InvalidEvents: no event has a value of one.
    """
    absent = np.isnan(features).all(axis=0)
    if absent.any():
        raise InvalidEvents(
            f"feature {int(absent.argmax())} of {named} has no value in any of {len(features)} training events: "
            "convert without the column"
        )
    found: Floats = np.nanmedian(features, axis=0)
    return found
