"""Classifiers, one file per family, each registered with the configuration beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import nn

from hep_ray.config import Config, parse
from hep_ray.registry import Registry


class ColumnLike(Protocol):
    """One column of an event schema, as a model reads it."""

    @property
    def name(self) -> str:
        """Name of the column."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one event's value; () is a scalar."""


class SchemaLike(Protocol):
    """An event schema, as a model reads it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels and of the logits."""

    @property
    def columns(self) -> Sequence[ColumnLike]:
        """Columns of one event."""

    @property
    def signal(self) -> str | None:
        """The class whose probability is the score of the signal, if there is one."""

    @property
    def inputs(self) -> Sequence[ColumnLike]:
        """Those of them that a model may read: neither the weight nor the group."""


class Model(nn.Module):
    """A classifier: `forward` takes one tensor per name in `columns` and returns logits (N, n_classes).

    The tensors come as they are stored, events first; an image is (N, φ, η, channel), float32.

    Attributes:
        columns: names of the schema's columns that `forward` takes, in its order.
    """

    columns: tuple[str, ...]


@dataclass(frozen=True)
class ModelEntry:
    """One registered model.

    Attributes:
        name: what a search calls it.
        config: its configuration class.
        build: makes the model from a configuration and an event schema; it raises `InvalidConfig`
            when the schema does not hold the columns or shapes that the model needs.
        example: fields with which it builds anywhere, where its defaults need something from outside.
        fitted: it is fitted in one go, without loss and optimizer.
    """

    name: str
    config: type[Config]
    build: Callable[[Any, SchemaLike], Model]
    example: Mapping[str, Any] = field(default_factory=dict)
    fitted: bool = False


MODELS: Registry[ModelEntry] = Registry("model", __name__)

M = TypeVar("M", bound=type[Model])


def model(name: str, config: type[Config], *, example: Mapping[str, Any] | None = None) -> Callable[[M], M]:
    """Register a class whose `__init__` takes (config, schema).

    Args:
        name: what a search calls the model.
        config: the model's configuration class.
        example: fields with which the model builds anywhere; none where its defaults do.

    Raises:
        DuplicateName: another model has the name.
    """
    return MODELS.decorator(
        name, lambda cls: ModelEntry(name, config, cls, example or {}, fitted=hasattr(cls, "fit"))
    )


def build_model(name: str, config_values: Mapping[str, Any], schema: SchemaLike) -> Model:
    """Build a model from plain values.

    Args:
        name: a name in `MODELS`.
        config_values: fields of the model's configuration.
        schema: the events that the model will read.

    Raises:
        UnknownName: no model has that name.
        InvalidConfig: a field is unknown or refused, or the model cannot take these events.
    """
    entry = MODELS[name]
    return entry.build(parse(entry.config, config_values, f"model '{name}'"), schema)
