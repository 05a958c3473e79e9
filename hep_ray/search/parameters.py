"""What one parameter of a search space may be: a choice, a range, and the condition under which it exists."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from hep_ray.errors import InvalidSpace

if TYPE_CHECKING:
    import optuna

Value = str | int | float | bool


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be, and when it exists."""

    condition: Mapping[str, tuple[Value, ...]] = field(default_factory=dict, kw_only=True)

    def when(self, **condition: Value | tuple[Value, ...]) -> Self:
        """The same parameter, present only where every named parameter has (one of) the given value(s)."""
        given = {key: value if isinstance(value, tuple) else (value,) for key, value in condition.items()}
        conditional = copy.copy(self)
        object.__setattr__(conditional, "condition", {**self.condition, **given})
        return conditional

    def holds(self, chosen: Mapping[str, Value]) -> bool:
        """Whether the parameter exists beside these values."""
        return all(chosen.get(key) in values for key, values in self.condition.items())

    def corners(self) -> tuple[Value, ...]:
        """Values that, if the trainer takes them, tell that it takes all."""
        raise NotImplementedError

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Draw a value."""
        raise NotImplementedError

    def _text(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        condition = " and ".join(
            f"{key}={'|'.join(str(value) for value in values)}" for key, values in self.condition.items()
        )
        return self._text() + (f" when {condition}" if condition else "")


@dataclass(frozen=True, init=False)
class Choice(Parameter):
    """One of several values.

    Raises:
        InvalidSpace: no value, one twice, or one that is neither number, text nor bool.
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        given: tuple[Any, ...] = values
        odd = [value for value in given if not isinstance(value, Value)]
        if odd:
            raise InvalidSpace(f"a Choice is among numbers, texts and yes or no; got {odd[0]!r}")
        if not values or len(set(values)) < len(values):
            raise InvalidSpace(f"a Choice holds at least one value, each once; got {values}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "condition", {})

    def corners(self) -> tuple[Value, ...]:
        """Every value."""
        return self.values

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Draw a value through Optuna."""
        value = trial.suggest_categorical(name, self.values)
        assert value is not None
        return value

    def _text(self) -> str:
        return " | ".join(str(value) for value in self.values)


@dataclass(frozen=True, init=False)
class By(Parameter):
    """A value that follows from that of another parameter: in a protocol with a learning rate for each optimizer, say.

        learning_rate=By("optimizer", {"adam": 0.001, "sgd": 0.01})

    It exists where the other has one of the values named; a sampler draws the other alone.

    Raises:
        InvalidSpace: no value is named.
    """

    other: str
    values: Mapping[Value, Value]

    def __init__(self, other: str, values: Mapping[Value, Value]) -> None:
        if not values:
            raise InvalidSpace(f"a By names a value for some value of the other; got none for '{other}'")
        object.__setattr__(self, "other", other)
        object.__setattr__(self, "values", dict(values))
        object.__setattr__(self, "condition", {other: tuple(values)})

    def corners(self) -> tuple[Value, ...]:
        """Every value, each once."""
        return tuple(dict.fromkeys(self.values.values()))

    def value(self, chosen: Mapping[str, Value]) -> Value:
        """The value beside these."""
        return self.values[chosen[self.other]]

    def _text(self) -> str:
        return " | ".join(map(str, self.values.values()))


@dataclass(frozen=True)
class _Range(Parameter):
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidSpace(
                f"a range goes from a lower to a higher finite bound; got {self.low} … {self.high}"
            )

    def corners(self) -> tuple[Value, ...]:
        """Both bounds."""
        return (self.low, self.high)


@dataclass(frozen=True)
class Uniform(_Range):
    """A real number, uniform between two bounds."""

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Draw a value through Optuna."""
        return trial.suggest_float(name, self.low, self.high)

    def _text(self) -> str:
        return f"{self.low:g} … {self.high:g}"


@dataclass(frozen=True)
class LogUniform(_Range):
    """A positive real number, uniform in its logarithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise InvalidSpace(f"a logarithmic range starts above 0; got {self.low}")

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Draw a value through Optuna."""
        return trial.suggest_float(name, self.low, self.high, log=True)

    def _text(self) -> str:
        return f"{self.low:g} … {self.high:g} (log)"


@dataclass(frozen=True)
class Integer(_Range):
    """A whole number between two bounds, both included."""

    low: int
    high: int

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Draw a value through Optuna."""
        return trial.suggest_int(name, self.low, self.high)

    def _text(self) -> str:
        return f"{self.low} … {self.high}, whole"
