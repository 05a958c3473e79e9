"""Classifiers, one file per family, each registered with the configuration beside it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import nn

from hep_ray.config import Config, parse
from hep_ray.errors import InvalidConfig
from hep_ray.registry import Registry
from hep_ray.signature import component_of


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

    A column of lists comes as (N, L, F), L the longest list of the batch, absent items NaN at the end.

    A model of several members in one, such as `tabm`, returns the logits of each, (N, members, n_classes), while it is
    in training mode, and in evaluation `mean_of_members` of them: each member is trained by its own loss.

    Attributes:
        columns: names of the schema's columns that `forward` takes, in its order.
        takes_lists: columns of lists may be among them; others take values of one shape.
        unscaled: those of them that no scaler may change before, since the model works with their units.
        members: of whose logits each is trained by itself, stated by the class too; 0 where the model answers once.
    """

    columns: tuple[str, ...]
    takes_lists: bool = False
    unscaled: tuple[str, ...] = ()
    members: int = 0


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
        members: it is several networks in one, each trained by its own loss.
    """

    name: str
    config: type[Config]
    build: Callable[[Any, SchemaLike], Model]
    example: Mapping[str, Any] = field(default_factory=dict)
    fitted: bool = False
    members: bool = False


MODELS: Registry[ModelEntry] = Registry("model", __name__)


def is_fitted(model: object) -> bool:
    """Return whether that is the name of a model that is fitted in one go, so that a trial of it has one epoch."""
    return model in MODELS and MODELS[str(model)].fitted


M = TypeVar("M", bound=Callable[..., nn.Module])


def model(
    name: str, config: type[Config] | None = None, *, example: Mapping[str, Any] | None = None
) -> Callable[[M], M]:
    """Register a network.

    With a configuration class, a class whose `__init__` takes (config, schema). Without one, any `nn.Module` whose
    `__init__` takes `schema` and annotated parameters, or a function that returns one: `hidden: int = 64` is a key of
    every space that offers the model. What its `forward` takes are the columns of the parameters' names or, where these
    are no columns, all columns that a model may read, in their order; or it sets `self.columns`.

    Args:
        name: what a search calls the model.
        config: the model's configuration class; None takes the keys from the signature.
        example: fields with which the model builds anywhere; none where its defaults do.

    Raises:
        DuplicateName: another model has the name.
        InvalidConfig: a parameter is not annotated, or not with what a space can state.
    """

    def entry(made: Any) -> ModelEntry:
        keys, build = (config, made) if config is not None else _plain(name, made)
        ours = config is not None or (inspect.isclass(made) and issubclass(made, Model))
        fitted, members = ours and hasattr(made, "fit"), bool(members_of(made))
        return ModelEntry(name, keys, build, example or {}, fitted, members)

    return MODELS.decorator(name, entry)


def _plain(name: str, made: Any) -> tuple[type[Config], Callable[[Any, SchemaLike], Any]]:
    """Configuration and builder of a module, or of a function that returns one, whose keys are its parameters."""
    what = f"model '{name}'"
    keys, make = component_of(made, what, leaving_out=1)

    @functools.wraps(made, updated=())
    def build(config: Config, schema: SchemaLike) -> Any:
        module = make(config, schema)
        if not isinstance(module, nn.Module):
            raise InvalidConfig(
                f"{what} is a {type(module).__name__}: it must be an nn.Module, or return one"
            )
        if not hasattr(module, "columns"):
            setattr(module, "columns", _columns_of(module, what, schema))  # noqa: B010 - of any module
        return module

    return keys, build


def _columns_of(module: nn.Module, what: str, schema: SchemaLike) -> tuple[str, ...]:
    """Names of the columns that `forward` takes, by the names of its parameters, else all that may be read."""
    inputs = tuple(column.name for column in schema.inputs)
    taken = list(inspect.signature(module.forward).parameters.values())
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in taken):
        return inputs
    names = tuple(one.name for one in taken if one.default is inspect.Parameter.empty)
    if names and set(names) <= set(inputs):
        return names
    if len(names) == len(inputs):
        return inputs
    raise InvalidConfig(
        f"forward of {what} takes {len(names)} tensors ({', '.join(names) or 'none'}), and the events have "
        f"{len(inputs)} columns to read ({', '.join(inputs)}): name its parameters as the columns it reads, take "
        "*columns, or set self.columns in __init__"
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
    return as_promised(
        name, entry.build(parse(entry.config, config_values, f"model '{name}'"), schema), schema
    )


def members_of(model: object) -> int:
    """Return the number of members that a model, or its class, states; 0 where `members` is something of its own."""
    stated = getattr(model, "members", 0)
    return stated if type(stated) is int else 0


def as_promised(name: str, built: Model, schema: SchemaLike) -> Model:
    """Return a model, once it is known to take columns of lists where it reads some, and to have told of its members.

    Raises:
        InvalidConfig: it reads lists as if all events had values of one shape, or has members that its class does not.
    """
    if members_of(built) and not MODELS[name].members:
        raise InvalidConfig(
            f"model '{name}' has {members_of(built)} members, of which a search must know before it is built: "
            "register a class, and state members there too, members = 16"
        )
    lists = {column.name for column in schema.inputs if getattr(column, "lists", False)}
    read = [column for column in built.columns if column in lists]
    if read and not getattr(built, "takes_lists", False):
        raise InvalidConfig(
            f"model '{name}' takes values of one shape, and '{read[0]}' is lists of varying length: name other "
            "columns, choose a model of particle clouds such as 'pfn', or set self.takes_lists = True in a model of "
            "your own, which is given (N, L, F) with NaN where no item is"
        )
    return built
