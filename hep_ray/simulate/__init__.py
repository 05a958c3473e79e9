"""Simulated events: a simulation makes the events of one task, class by class, from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence

from hep_ray.config import Config
from hep_ray.dataset.schema import EventSchema
from hep_ray.registry import Registry

Columns = dict[str, npt.NDArray[Any]]
Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Rows:
    """A dataclass of arrays (n, …): the same n things, one property in each."""

    def chosen(self, which: Mask | Indices) -> Self:
        """Return those of a mask or of some indices."""
        return type(self)(*(getattr(self, one.name)[which] for one in dataclasses.fields(self)))  # type: ignore[arg-type]


class Generate(Protocol):
    """Makes events of one class.

    The same arguments give the same bytes in any process and in any order of calls.
    """

    def __call__(self, config: Any, class_name: str, events: int, seed: SeedSequence) -> Columns:
        """Return the columns of the schema, one array of `events` rows each.

        Args:
            config: parameters of the task.
            class_name: one of the schema's classes.
            events: how many that pass the selection; one collision gives at most one.
            seed: decides everything, with the config and the class.

        Raises:
            MissingPackage: a package that the simulation requires is not installed.
            SimulationFailed: the generator refuses the settings, or nothing passes the selection.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A registered simulation.

    Args:
        name: of the task.
        config: class of its parameters.
        schema: of its events.
        generate: makes them.
        requires: importable packages that it needs; their versions go into the manifest.
        shares: relative number of events of each class, in the schema's order; equal ones unless given.
        chunk: events of a class that are simulated together by default; about ten seconds of work.
    """

    name: str
    config: type[Config]
    schema: EventSchema
    generate: Generate
    requires: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None
    chunk: int = 100

    @property
    def summary(self) -> str:
        """First line of the generating function's docstring, if it has one."""
        return (self.generate.__doc__ or "").strip().partition("\n")[0]


SIMULATIONS: Registry[Simulation] = Registry("simulation", __name__)

G = TypeVar("G", bound=Generate)


def simulation(
    name: str,
    config: type[Config],
    schema: EventSchema,
    requires: tuple[str, ...] = (),
    shares: tuple[float, ...] | None = None,
    chunk: int = 100,
) -> Callable[[G], G]:
    """Register a generating function under a name, with what else a `Simulation` states."""
    return SIMULATIONS.decorator(
        name, lambda generate: Simulation(name, config, schema, generate, requires, shares, chunk)
    )
