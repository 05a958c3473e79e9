"""Parameters of a space: one of several values, ranges, and values that follow from another's."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from hep_ray.errors import InvalidSpace
from hep_ray.registry import takes_named_fields
from hep_ray.tracking.records import RecordedParameter

if TYPE_CHECKING:
    import optuna

Value = str | int | float | bool


@dataclass(frozen=True)
class Parameter:
    """Base of every parameter: what it may be, and the condition under which it exists."""

    condition: Mapping[str, tuple[Value, ...]] = field(default_factory=dict, kw_only=True)

    def when(self, **condition: Value | tuple[Value, ...]) -> Self:
        """Return the same parameter, present only where every named one has (one of) the given value(s)."""
        given = {
            key: tuple(one) if isinstance(one, tuple | list) else (one,) for key, one in condition.items()
        }
        conditional = copy.copy(self)
        object.__setattr__(conditional, "condition", {**self.condition, **given})
        return conditional

    def holds(self, chosen: Mapping[str, Value]) -> bool:
        """Return whether the parameter exists beside these values."""
        return all(chosen.get(key) in values for key, values in self.condition.items())

    def corners(self) -> tuple[Value, ...]:
        """Return values that, if the trainer takes them, tell that it takes all."""
        raise NotImplementedError

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        raise NotImplementedError

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Draw a value through Optuna."""
        given = self.distribution()
        if isinstance(given, FloatDistribution):
            return trial.suggest_float(name, given.low, given.high, log=given.log, step=given.step)
        if isinstance(given, IntDistribution):
            return trial.suggest_int(name, given.low, given.high, log=given.log, step=given.step)
        assert isinstance(given, CategoricalDistribution)
        value = trial.suggest_categorical(name, given.choices)
        assert value is not None
        return value

    def recorded(self) -> RecordedParameter:
        """Return the parameter as the journal keeps it."""
        distribution = json.loads(distribution_to_json(self.distribution()))
        prior = getattr(self, "prior", None)
        return RecordedParameter(distribution=distribution, prior=prior, when=dict(self.condition))

    def __str__(self) -> str:
        return str(self.recorded())


@takes_named_fields
@dataclass(frozen=True, init=False)
class Choice(Parameter):
    """One of several values.

    Raises:
        InvalidSpace: no value, one twice, or one that is neither number, text nor bool.
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        for value in cast("tuple[Any, ...]", values):
            if not isinstance(value, Value) or (isinstance(value, float) and not math.isfinite(value)):
                raise InvalidSpace(f"a Choice has finite numbers, texts and bools as values; got {value!r}")
        if not values or len(set(values)) < len(values):
            raise InvalidSpace(f"a Choice must hold at least one value, each once; got {values}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "condition", {})

    def corners(self) -> tuple[Value, ...]:
        """Return every value."""
        return self.values

    def distribution(self) -> BaseDistribution:
        """Return Optuna's categorical distribution."""
        return CategoricalDistribution(self.values)


@takes_named_fields
@dataclass(frozen=True, init=False)
class Mapped(Parameter):
    """A value that follows from that of another parameter: in a protocol with a learning rate for each optimizer, say.

        learning_rate=Mapped("optimizer", {"adam": 0.001, "sgd": 0.01})

    It exists where the other has one of the values named; a sampler draws the other alone.

    Raises:
        InvalidSpace: no value is named.
    """

    other: str
    values: Mapping[Value, Value]

    def __init__(self, other: str, values: Mapping[Value, Value]) -> None:
        if not isinstance(cast("Any", values), Mapping) or not values:
            raise InvalidSpace(
                f"a Mapped takes a dict, a value for each of some values of '{other}'; got {values!r}"
            )
        object.__setattr__(self, "other", other)
        object.__setattr__(self, "values", dict(values))
        object.__setattr__(self, "condition", {other: tuple(values)})

    def corners(self) -> tuple[Value, ...]:
        """Return every value, each once."""
        return tuple(dict.fromkeys(self.values.values()))

    def value(self, chosen: Mapping[str, Value]) -> Value:
        """Return the value beside these."""
        return self.values[chosen[self.other]]

    def recorded(self) -> RecordedParameter:
        """Return the parameter as the journal keeps it."""
        return RecordedParameter(
            follows=self.other, mapping=tuple(self.values.items()), when=dict(self.condition)
        )


@dataclass(frozen=True)
class _Range(Parameter):
    low: float
    high: float
    prior: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high, given = cast("Any", (self.low, self.high, self.prior))
        if not (_is_number(low) and _is_number(high) and low < high):
            raise InvalidSpace(f"low must be below high, both finite numbers; got low={low!r}, high={high!r}")
        if given is None:
            return
        if not _is_number(given) or not low <= given <= high:
            raise InvalidSpace(
                "the prior of a range must be a value of it, where you expect the best; "
                f"got prior={given!r}, low={low}, high={high}"
            )

    def corners(self) -> tuple[Value, ...]:
        """Return both bounds."""
        return (self.low, self.high)


@takes_named_fields
@dataclass(frozen=True)
class Uniform(_Range):
    """A real number, uniform between two bounds; with a step, one of `low`, `low + step` … `high`.

    A `prior`, for any range, is the value where you expect the best: sampler `curves` begins there, and goes elsewhere
    as soon as what it sees does not bear it out.

    Raises:
        InvalidSpace: the bounds are no numbers or not whole steps apart, or the prior lies beyond them.
    """

    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None:
            _check_step(self.low, self.high, self.step)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        return FloatDistribution(self.low, self.high, step=self.step)


@takes_named_fields
@dataclass(frozen=True)
class LogUniform(_Range):
    """A positive real number, uniform in its logarithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise InvalidSpace(f"the low end of a logarithmic range must be above 0; got low={self.low}")

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        return FloatDistribution(self.low, self.high, log=True)


@takes_named_fields
@dataclass(frozen=True)
class Integer(_Range):
    """A whole number between two bounds, both included.

        Integer(16, 512, log=True)   # uniform in its logarithm, so that 16 … 32 is as likely as 256 … 512
        Integer(32, 512, step=32)    # 32, 64, 96 … 512

    Raises:
        InvalidSpace: the bounds are no whole numbers or not whole steps apart, a logarithmic range begins below 1, or
            has a step too.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high, log, step = cast("Any", (self.low, self.high, self.log, self.step))
        whole = all(isinstance(one, int) and not isinstance(one, bool) for one in (low, high, step))
        if not whole or not isinstance(log, bool):
            raise InvalidSpace(
                f"an Integer has whole bounds, log=True or False, and a whole step; got {(low, high, log, step)}"
            )
        if self.log and self.low < 1:
            raise InvalidSpace(f"the low end of a logarithmic range must be at least 1; got low={self.low}")
        if self.log and self.step != 1:
            raise InvalidSpace(f"an Integer has log=True or a step, not both; got step={self.step}")
        _check_step(self.low, self.high, self.step)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)


def _is_number(given: Any) -> bool:
    try:
        return math.isfinite(given) and not isinstance(given, bool)
    except (TypeError, OverflowError):
        return False


def _check_step(low: float, high: float, step: Any) -> None:
    steps = (high - low) / step if _is_number(step) and step > 0 else math.nan
    if not abs(steps - round(steps) if math.isfinite(steps) else math.nan) < 1e-9 * max(1.0, steps):
        raise InvalidSpace(f"high must be whole steps above low; got low={low}, high={high}, step={step!r}")


def parameter_from(recorded: RecordedParameter) -> Parameter:
    """Return the parameter that a record describes."""
    made: Any
    if recorded.follows is not None:
        return Mapped(recorded.follows, dict(recorded.mapping)).when(**recorded.when)
    found = json_to_distribution(json.dumps(recorded.distribution))
    if isinstance(found, FloatDistribution):
        if found.log:
            made = LogUniform(found.low, found.high, prior=recorded.prior)
        else:
            made = Uniform(found.low, found.high, found.step, prior=recorded.prior)
    elif isinstance(found, IntDistribution):
        made = Integer(found.low, found.high, found.log, found.step, prior=recorded.prior)
    else:
        made = Choice(*recorded.values)
    parameter: Parameter = made.when(**recorded.when)
    return parameter
