"""Pythia 8: parton showers, multiparton interactions, hadronisation and decays of our hard events.

The wheel `pythia8mc` is an optional extra, imported only when a generator is built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.config import Config
from hep_ray.errors import MissingPackage, SimulationFailed
from hep_ray.simulate.particles import HardEvent
from hep_ray.simulate.sphaleron import GENERATION

PROTON = 2212
PROCESS = 9999
FAILURES_IN_A_ROW = 20

Density = Callable[[int, float, float], float]
HardProcess = Callable[[np.random.Generator], HardEvent]


class ShowerConfig(Config):
    """Settings of Pythia.

    Attributes:
        energy: proton–proton collision energy √s, in GeV.
        multiparton_interactions: simulate further parton collisions of the same two protons.
        settings: more Pythia settings as on its own command lines, such as `PDF:pSet = 14`.
    """

    energy: float = 13_000.0
    multiparton_interactions: bool = False
    settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FinalState:
    """Stable particles of one event.

    Args:
        pdg: PDG numbers, shape (n,).
        charge: in units of e/3, shape (n,).
        momentum: (E, px, py, pz) in GeV, shape (n, 4).
    """

    pdg: NDArray[np.int64]
    charge: NDArray[np.int64]
    momentum: NDArray[np.float64]


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


class Shower:
    """Turns the hard events of one process into particles; what it makes depends on the seed alone.

    Args:
        prepare: builds the hard process from the proton's densities x·f(PDG number, x, Q²).
        config: settings.

    Raises:
        MissingPackage: Pythia is not installed.
        SimulationFailed: Pythia refuses a setting or does not initialise.
    """

    def __init__(self, prepare: Callable[[Density], HardProcess], config: ShowerConfig) -> None:
        module = pythia_module()
        self._pythia = module.Pythia("", False)
        for setting in (
            "Print:quiet = on",
            "Next:numberCount = 0",
            "Beams:frameType = 5",
            f"PartonLevel:MPI = {'on' if config.multiparton_interactions else 'off'}",
            # A detector sees π⁰ as one deposit, and K⁰ and hyperons before they decay.
            "111:mayDecay = off",
            "ParticleDecays:limitTau0 = on",
            "ParticleDecays:tau0Max = 10.0",
            f"{GENERATION}:new = sphaleron_generation void 0 0 0 1000.0 0.0 0.0 0.0 0.0",
            *config.settings,
        ):
            if not self._pythia.readString(setting):
                raise SimulationFailed(f"a setting is one that Pythia knows; it refuses '{setting}'")
        self._source = _les_houches_source(module, config.energy)
        self._pythia.setLHAupPtr(self._source)
        if not self._pythia.init():
            raise SimulationFailed(f"Pythia does not initialise with {config!r}")
        densities = self._pythia.getPDFPtr(PROTON)
        self._process = prepare(densities.xf)
        self._charges: dict[int, int] = {}

    def events(self, count: int, rng: np.random.Generator, seed: int) -> Iterator[FinalState]:
        """Simulate events.

        Args:
            count: how many.
            rng: drives the hard process.
            seed: of Pythia's own generator, 1 to 900,000,000.

        Raises:
            SimulationFailed: Pythia gives up on many events in a row.
        """
        self._pythia.rndm.init(seed)
        self._source.next_event = lambda: self._process(rng)
        failures = 0
        while count > 0:
            if self._pythia.next():
                failures, count = 0, count - 1
                yield self._final_state()
                continue
            failures += 1
            if failures == FAILURES_IN_A_ROW:
                raise SimulationFailed(
                    f"Pythia simulates most events; it gave up on {failures} in a row (seed {seed})"
                )

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
