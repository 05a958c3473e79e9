"""Parameters of trials as places on an axis, whether they are numbers, names or absent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hep_ray.metrics.roc import Floats
from hep_ray.report.material import Material
from hep_ray.search.leaderboard import number
from hep_ray.search.state import TrialState
from hep_ray.tracking.records import RecordedParameter

FEW_VALUES = 6
"""Different numbers up to which an axis shows each by name."""
ABSENT = -0.14
"""Place of trials that do not have the parameter."""


@dataclass(frozen=True)
class Coordinate:
    """One parameter of all trials.

    Attributes:
        name: of the parameter.
        values: (N,) as numbers: the parameter itself, or the rank of its name; NaN where a trial lacks it.
        names: of the ranks; empty for numbers.
        log: whether it is drawn uniformly in its logarithm.
    """

    name: str
    values: Floats
    names: tuple[str, ...]
    log: bool

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis."""
        if self.names:
            return (-0.5, len(self.names) - 0.5)
        low, high = float(np.nanmin(self.values)), float(np.nanmax(self.values))
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    @property
    def places(self) -> Floats:
        """(N,) from 0 to 1 along the axis; `ABSENT` where a trial lacks the parameter."""
        low, high = self.limits
        values = self.values
        if self.log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return np.where(np.isnan(values), ABSENT, (values - low) / (high - low))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and words along the axis."""
        if self.names:
            return [((rank + 0.5) / len(self.names), name) for rank, name in enumerate(self.names)]
        low, high = self.limits
        middle = math.sqrt(low * high) if self.log else (low + high) / 2
        return [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]


def coordinate(name: str, trials: Sequence[TrialState], space: Mapping[str, RecordedParameter]) -> Coordinate:
    """One parameter of these trials.

    Args:
        name: of the parameter; at least one trial has it.
        trials: (N,)
        space: what was searched.
    """
    found = [trial.started.params.get(name) for trial in trials]
    present = {value for value in found if value is not None}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    log = numeric and name in space and space[name].is_log
    if numeric and (log or len(present) > FEW_VALUES):
        values = np.array([math.nan if value is None else float(value) for value in found])
        return Coordinate(name, values, (), log)
    ordered = sorted(present) if numeric else sorted(present, key=str)
    ranks = {value: rank for rank, value in enumerate(ordered)}
    values = np.array([math.nan if value is None else float(ranks[value]) for value in found])
    return Coordinate(name, values, tuple(number(value) for value in ordered), log=False)


def coordinates(material: Material, trials: Sequence[TrialState], most: int) -> list[Coordinate]:
    """The parameters that differ between trials, at most so many."""
    return [coordinate(name, trials, material.started.space) for name in material.varied[:most]]
