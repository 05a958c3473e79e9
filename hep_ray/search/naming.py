"""Words of trials: the parameters that tell them apart, and values with their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_ERROR = 1e-9
"""An error below this share of its value, or of one where that is less, is the rounding of equal numbers."""


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


def decimals(mean: float, error: float | None) -> int | None:
    """Return the decimals that show two digits of an error, below 0 for one from 100 on; None where there is none."""
    if error is None or not NO_ERROR * max(abs(mean), 1.0) < error < math.inf:
        return None
    return 1 - int(f"{error:.1e}".partition("e")[2])


def plus_minus(mean: float, error: float | None, sign: str = "") -> str:
    """Return a value with its error, to two digits of the error; without one to four digits of its own.

    Args:
        mean: the value.
        error: of it.
        sign: `+` shows that of a positive value too.
    """
    digits = decimals(mean, error)
    if digits is None:
        return f"{mean:{sign}.4g}"
    return f"{fixed(mean, digits, sign)} ± {fixed(error or 0.0, digits)}"


def interval(low: float, high: float, digits: int | None, sign: str = "") -> str:
    """Return such as `[0.90, 0.92]`; to four digits of its own where the number of decimals is not given."""
    if digits is None:
        return f"[{low:{sign}.4g}, {high:{sign}.4g}]"
    return f"[{fixed(low, digits, sign)}, {fixed(high, digits, sign)}]"


def estimated(mean: float, sd: float, low: float, high: float, sign: str = "") -> str:
    """Return a mean over seeds with its s.d. and its interval, such as `0.912 ± 0.013 [0.880, 0.944]`."""
    return f"{plus_minus(mean, sd, sign)} {interval(low, high, decimals(mean, sd), sign)}"


def fixed(value: float, digits: int, sign: str = "") -> str:
    """Return a number to `digits` decimals, below 0 to whole tens, hundreds and so on."""
    return f"{round(value, digits):{sign}.{max(0, digits)}f}"


def count_words(count: int, what: str) -> str:
    """Return a number with its noun: `1 trial`, `3 trials`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
