"""Pythia 8: its own processes, and showers, hadronisation and decays of the hard events that this package makes.

The wheel `pythia8mc` is an optional extra, imported only when a generator is built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hep_ray.config import Config
from hep_ray.errors import MissingPackage, SimulationFailed
from hep_ray.simulate import Array, Indices
from hep_ray.simulate.particles import HardEvent
from hep_ray.simulate.sphaleron import GENERATION

PROTON = 2212
PROCESS = 9999
FAILURES_IN_A_ROW = 20
BATCH = 32  # events that `Generator.final_states` asks for at once

STABLE_PIONS = "111:mayDecay = off"  # a detector sees π⁰ as one deposit

Density = Callable[[int, float, float], float]
HardProcess = Callable[[np.random.Generator], HardEvent]
T = TypeVar("T")


class CollisionConfig(Config):
    """Fields common to simulated tasks.

    Attributes:
        energy: proton–proton collision energy √s, in GeV.
        multiparton_interactions: simulate further parton collisions of the same two protons.
    """

    energy: float = Field(default=13_000.0, gt=0)
    multiparton_interactions: bool = False

    def with_settings(self, *settings: str) -> PythiaConfig:
        """Return the configuration of Pythia for these collisions and settings."""
        return PythiaConfig(
            energy=self.energy, multiparton_interactions=self.multiparton_interactions, settings=settings
        )


class PythiaConfig(CollisionConfig):
    """Configuration of Pythia.

    Attributes:
        settings: process and more settings as on Pythia's own command lines, such as `PDF:pSet = 14`.
    """

    settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FinalState:
    """Stable particles of one event.

    Args:
        pdg: PDG numbers, shape (n,).
        charge: in units of e/3, shape (n,).
        momentum: (E, px, py, pz) in GeV, shape (n, 4).
    """

    pdg: Indices
    charge: Indices
    momentum: Array


def pythia_module() -> Any:
    """The module `pythia8mc`.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import pythia8mc
    except ImportError:
        raise MissingPackage(
            "simulating events needs the package pythia8mc, which is absent: pip install 'hep-ray[sim]'"
        ) from None
    return pythia8mc


def _initialise(pythia: Any, config: PythiaConfig, *settings: str, source: Any = None) -> None:
    """Read the settings, those of the configuration last, and set Pythia up."""
    for setting in (
        *("Print:quiet = on", "Next:numberCount = 0"),
        f"PartonLevel:MPI = {'on' if config.multiparton_interactions else 'off'}",
        # A detector sees K⁰ and hyperons before they decay.
        *("ParticleDecays:limitTau0 = on", "ParticleDecays:tau0Max = 10.0"),
        *settings,
        *config.settings,
    ):
        if not pythia.readString(setting):
            raise SimulationFailed(f"Pythia refuses the setting '{setting}'")
    if source is not None:
        pythia.setLHAupPtr(source)
    if not pythia.init():
        raise SimulationFailed(f"Pythia does not initialise with {config!r}")


def draw_seed(rng: np.random.Generator) -> int:
    """Draw a seed for Pythia's own generator, 1 to 900,000,000."""
    return int(rng.integers(1, 900_000_001))


def passing(attempts: Iterable[Iterable[T]], events: int, patience: int, wanted: str) -> list[T]:
    """Collect what passes a selection until there is enough.

    Args:
        attempts: what passes of one event, or of one batch, after another; without end.
        events: how many to collect.
        patience: attempts in a row that may give nothing.
        wanted: what passes, for the message.

    Raises:
        SimulationFailed: so many attempts in a row gave nothing.
    """
    found: list[T] = []
    fruitless = 0
    for passed in attempts:
        before = len(found)
        found.extend(passed)
        fruitless = fruitless + 1 if len(found) == before else 0
        if len(found) >= events:
            break
        if fruitless == patience:
            raise SimulationFailed(f"no {wanted} in {patience} attempts in a row")
    return found[:events]


class Shower:
    """Turns the hard events of one process into particles; what it makes depends on the seed alone.

    Args:
        prepare: builds the hard process from the proton's densities x·f(PDG number, x, Q²).
        config: settings.

    Raises:
        MissingPackage: Pythia is not installed.
        SimulationFailed: Pythia refuses a setting or does not initialise.
    """

    def __init__(self, prepare: Callable[[Density], HardProcess], config: PythiaConfig) -> None:
        module = pythia_module()
        self._pythia = module.Pythia("", False)
        self._source = _les_houches_source(module, config.energy)
        generation = f"{GENERATION}:new = sphaleron_generation void 0 0 0 1000.0 0.0 0.0 0.0 0.0"
        _initialise(self._pythia, config, "Beams:frameType = 5", generation, source=self._source)
        densities = self._pythia.getPDFPtr(PROTON)
        self._process = prepare(densities.xf)
        self._charges: dict[int, int] = {}

    def events(self, rng: np.random.Generator, seed: int) -> Iterator[FinalState]:
        """Simulate event after event, without end.

        Args:
            rng: drives the hard process.
            seed: of Pythia's own generator, 1 to 900,000,000.

        Raises:
            SimulationFailed: Pythia gives up on many events in a row.
        """
        self._pythia.rndm.init(seed)
        self._source.next_event = lambda: self._process(rng)
        failures = 0
        while True:
            if self._pythia.next():
                failures = 0
                yield self._final_state()
                continue
            failures += 1
            if failures == FAILURES_IN_A_ROW:
                raise SimulationFailed(f"Pythia gave up on {failures} events in a row (seed {seed})")

    def _final_state(self) -> FinalState:
        rows = [
            (particle.id(), particle.e(), particle.px(), particle.py(), particle.pz())
            for particle in self._pythia.event.particles()
            if particle.isFinal()
        ]
        table = np.array(rows, dtype=np.float64)
        pdg = table[:, 0].astype(np.int64)
        charge = np.array([self._charge(number) for number in pdg.tolist()], dtype=np.int64)
        return FinalState(pdg, charge, table[:, 1:])

    def _charge(self, pdg: int) -> int:
        if pdg not in self._charges:
            self._charges[pdg] = self._pythia.particleData.chargeType(pdg)
        return self._charges[pdg]


def _les_houches_source(module: Any, energy: float) -> Any:
    """An object that hands hard events to Pythia in the terms of the Les Houches accord."""

    class Source(module.LHAup):  # type: ignore[misc]
        next_event: Callable[[], HardEvent]

        def __init__(self) -> None:
            module.LHAup.__init__(self, 3)  # strategy 3: events have unit weight

        def setInit(self) -> bool:  # noqa: N802 (Pythia's name)
            self.setBeamA(PROTON, energy / 2)
            self.setBeamB(PROTON, energy / 2)
            self.addProcess(PROCESS, 1.0, 1.0, 1.0)
            return True

        def setEvent(self, _process: int = 0) -> bool:  # noqa: N802 (Pythia's name)
            event = self.next_event()
            self.setProcess(PROCESS, 1.0, event.scale)
            for one in event.particles:
                e, px, py, pz = one.momentum.tolist()
                self.addParticle(
                    one.pdg, one.status, *one.mothers, *one.colours, px, py, pz, e, one.mass, 0.0, 9.0, -1.0
                )
            first, second = event.incoming
            fractions = [2 * float(parton.momentum[0]) / energy for parton in (first, second)]
            self.setIdX(first.pdg, second.pdg, *fractions)
            return True

    return Source()


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Drops what C++ writes to standard output, such as banners."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as void:
            os.dup2(void.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@dataclasses.dataclass(frozen=True)
class EventBatch:
    """All particles of some events, one after another; every array has shape (n,) unless said.

    Args:
        event: number of the event within the batch.
        pdg: PDG number.
        status: Pythia's; positive for stable particles.
        mother: index of the first mother in these arrays; that of the event's first entry for none.
        charge: in units of e/3.
        momentum: (E, px, py, pz) in GeV, shape (n, 4).
        vertex: (x, y, z) of the production point in mm, shape (n, 3).
        events: number of events.
    """

    event: Indices
    pdg: Indices
    status: Indices
    mother: Indices
    charge: Indices
    momentum: Array
    vertex: Array
    events: int

    @property
    def final(self) -> NDArray[np.bool_]:
        """Which particles are stable."""
        return self.status > 0

    @property
    def pt(self) -> Array:
        """Transverse momentum in GeV."""
        return np.hypot(self.momentum[:, 1], self.momentum[:, 2])

    @property
    def eta(self) -> Array:
        """Pseudorapidity of the momentum."""
        return np.arcsinh(self.momentum[:, 3] / np.maximum(self.pt, 1e-9))

    @property
    def phi(self) -> Array:
        """Azimuth of the momentum."""
        return np.arctan2(self.momentum[:, 2], self.momentum[:, 1])

    def ancestors(self, particle: int) -> Iterator[int]:
        """Indices of the particle's mother, its mother's, and so on along first mothers."""
        while (mother := int(self.mother[particle])) < particle and self.status[mother] not in {-11, -12}:
            yield mother
            particle = mother


class Generator:
    """Events of processes that Pythia knows; what it makes depends on the seed alone.

    Args:
        config: settings.

    Raises:
        MissingPackage: Pythia is not installed.
        SimulationFailed: Pythia refuses a setting or does not initialise.
    """

    def __init__(self, config: PythiaConfig) -> None:
        self._pythia = pythia_module().Pythia("", False)
        _initialise(self._pythia, config, f"Beams:eCM = {config.energy}")

    def batches(self, size: int, seed: int) -> Iterator[EventBatch]:
        """Simulate batch after batch, without end.

        Args:
            size: events of a batch; those that Pythia gives up on are left out.
            seed: 1 to 900,000,000.

        Raises:
            SimulationFailed: Pythia gives up on a whole batch.
        """
        self._pythia.rndm.init(seed)
        while True:
            yield self._batch(size, seed)

    def _batch(self, size: int, seed: int) -> EventBatch:
        import awkward as ak

        records = self._pythia.nextBatch(size)
        if len(records) == 0:
            raise SimulationFailed(f"Pythia gave up on {size} events in a row (seed {seed})")
        particles = records.prt

        def flat(values: Any) -> Array:
            return np.ma.filled(ak.to_numpy(ak.flatten(values)), 0.0).astype(np.float64)

        lengths = ak.to_numpy(ak.num(particles.id))
        event = np.repeat(np.arange(len(lengths)), lengths)
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        pdg = flat(particles.id).astype(np.int64)
        return EventBatch(
            event=event,
            pdg=pdg,
            status=flat(particles.status).astype(np.int64),
            mother=first[event] + flat(particles.mother1).astype(np.int64),
            charge=self._charges(pdg),
            momentum=np.column_stack([flat(particles.p[axis]) for axis in ("e", "px", "py", "pz")]),
            vertex=np.column_stack([flat(particles.vProd[axis]) for axis in ("px", "py", "pz")]),
            events=len(lengths),
        )

    def _charges(self, pdg: Indices) -> Indices:
        numbers, where = np.unique(pdg, return_inverse=True)
        charge_type = self._pythia.particleData.chargeType
        return np.array([charge_type(number) for number in numbers.tolist()], dtype=np.int64)[where]

    def final_states(self, seed: int) -> Iterator[FinalState]:
        """Simulate the stable particles of event after event, without end; arguments and errors as of `batches`."""
        for batch in self.batches(BATCH, seed):
            final = np.flatnonzero(batch.final)
            starts = np.searchsorted(batch.event[final], np.arange(1, batch.events))
            for kept in np.split(final, starts):
                yield FinalState(batch.pdg[kept], batch.charge[kept], batch.momentum[kept])


@functools.lru_cache(maxsize=8)
def generator(config: PythiaConfig) -> Generator:
    """Return the generator of these settings, built once; seeded anew at each use, so nothing passes between uses."""
    return Generator(config)
