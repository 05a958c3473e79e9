"""Losses: one file per loss, each with its equation and source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from hep_ray.config import Config, parse
from hep_ray.registry import Registry


class Loss(nn.Module):
    """A classification loss with the class probabilities that go with it."""

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each event.

        Args:
            logits: (N, C) floating point.
            target: (N,) int64, the true class, 0 … C - 1.

        Returns:
            (N,), not averaged.
        """

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (N, C), each row summing to one, of logits (N, C)."""


@dataclass(frozen=True)
class LossEntry:
    """One registered loss.

    Attributes:
        name: what a search calls it.
        config: its configuration class.
        build: makes the loss from a configuration.
    """

    name: str
    config: type[Config]
    build: Callable[[Any], Loss]


LOSSES: Registry[LossEntry] = Registry("loss", __name__)

L = TypeVar("L", bound=type[Loss])


def loss(name: str, config: type[Config]) -> Callable[[L], L]:
    """Register a class whose `__init__` takes (config).

    Args:
        name: what a search calls the loss.
        config: the loss' configuration class.

    Raises:
        DuplicateName: another loss has the name.
    """

    def register(cls: L) -> L:
        LOSSES.add(name, LossEntry(name, config, cls))
        return cls

    return register


def build_loss(name: str, config_values: Mapping[str, Any]) -> Loss:
    """Build a loss from plain values.

    Raises:
        UnknownName: no loss has that name.
        InvalidConfig: a field is unknown or refused.
    """
    entry = LOSSES[name]
    return entry.build(parse(entry.config, config_values, f"loss '{name}'"))
