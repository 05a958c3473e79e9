"""Names of trials: the parameters that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Naming:
    """Names of trials by the parameters that differ among those that were drawn.

    Configurations that the search states beside its space (`points_to_evaluate`) decide nothing here: they are called
    by what no drawn trial has.

    Attributes:
        varied: parameters of which drawn trials have different values.
        shared: value of each other parameter that they have.
    """

    varied: tuple[str, ...]
    shared: Mapping[str, Any]

    @classmethod
    def among(cls, everyone: Sequence[Mapping[str, Any]]) -> Naming:
        """Return the naming of these configurations.

        A parameter that only some of them have, always with the same value, follows from another and tells nothing.
        """
        found: dict[str, list[Any]] = {}
        for params in everyone:
            for name, value in params.items():
                found.setdefault(name, []).append(value)
        varied = tuple(name for name, values in found.items() if len(set(values)) > 1)
        return cls(varied, {name: values[0] for name, values in found.items() if name not in varied})

    def words(self, params: Mapping[str, Any]) -> str:
        """Return such as `root_index=3, learning_rate=0.001`; empty where nothing tells it from the others."""
        told = {name: params[name] for name in self.varied if name in params}
        return _words({**self._apart(params), **told})

    def apart(self, params: Mapping[str, Any]) -> str:
        """Return in words what tells it from every drawn trial; empty of a drawn one."""
        return _words(self._apart(params))

    def _apart(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in params.items()
            if name not in self.varied and (name not in self.shared or self.shared[name] != value)
        }


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={number(value)}" for name, value in params.items())


def number(value: Any) -> str:
    """Format a value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
