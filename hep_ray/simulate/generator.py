"""Pythia 8's own processes: events in batches, as flat arrays with the history of each particle.

`Shower` serves the hard events that this package makes itself; here Pythia makes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.config import Config
from hep_ray.errors import SimulationFailed
from hep_ray.simulate.shower import pythia_module

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class GeneratorConfig(Config):
    """Settings of Pythia.

    Attributes:
        energy: proton–proton collision energy √s, in GeV.
        multiparton_interactions: simulate further parton collisions of the same two protons.
        settings: process and more settings as on Pythia's own command lines.
    """

    energy: float = 13_000.0
    multiparton_interactions: bool = False
    settings: tuple[str, ...] = ()


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

    def __init__(self, config: GeneratorConfig) -> None:
        self._pythia = pythia_module().Pythia("", False)
        for setting in (
            "Print:quiet = on",
            "Next:numberCount = 0",
            f"Beams:eCM = {config.energy}",
            f"PartonLevel:MPI = {'on' if config.multiparton_interactions else 'off'}",
            "ParticleDecays:limitTau0 = on",
            "ParticleDecays:tau0Max = 10.0",
            *config.settings,
        ):
            if not self._pythia.readString(setting):
                raise SimulationFailed(f"a setting is one that Pythia knows; it refuses '{setting}'")
        if not self._pythia.init():
            raise SimulationFailed(f"Pythia does not initialise with {config!r}")

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
            raise SimulationFailed(
                f"Pythia simulates most events; it gave up on {size} in a row (seed {seed})"
            )
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
