"""Standard Model particles as a hole or a sphaleron emits them, and the record of one hard event."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate.greybody import Spin


@dataclasses.dataclass(frozen=True)
class Species:
    """One particle (not its antiparticle).

    Args:
        pdg: PDG Monte Carlo number.
        mass: in GeV; zero for those whose mass does not matter at TeV energies.
        charge: electric charge in units of e/3.
        quarks: quark number, three times the baryon number.
        leptons: lepton number.
        spin: of the emitted field.
        freedom: helicity and colour states, particle and antiparticle together.
    """

    pdg: int
    mass: float
    charge: int
    quarks: int
    leptons: int
    spin: Spin
    freedom: int

    @property
    def self_conjugate(self) -> bool:
        """Whether particle and antiparticle are the same."""
        return self.pdg in {21, 22, 23, 25}


# Masses: Particle Data Group. W and Z count their longitudinal state as gauge bosons, which with one
# Higgs scalar and left-handed neutrinos makes 118 degrees of freedom.
SPECIES: tuple[Species, ...] = (
    Species(1, 0.0, -1, 1, 0, Spin.FERMION, 12),
    Species(2, 0.0, 2, 1, 0, Spin.FERMION, 12),
    Species(3, 0.0, -1, 1, 0, Spin.FERMION, 12),
    Species(4, 1.5, 2, 1, 0, Spin.FERMION, 12),
    Species(5, 4.8, -1, 1, 0, Spin.FERMION, 12),
    Species(6, 172.5, 2, 1, 0, Spin.FERMION, 12),
    Species(11, 0.000511, -3, 0, 1, Spin.FERMION, 4),
    Species(13, 0.10566, -3, 0, 1, Spin.FERMION, 4),
    Species(15, 1.77686, -3, 0, 1, Spin.FERMION, 4),
    Species(12, 0.0, 0, 0, 1, Spin.FERMION, 2),
    Species(14, 0.0, 0, 0, 1, Spin.FERMION, 2),
    Species(16, 0.0, 0, 0, 1, Spin.FERMION, 2),
    Species(21, 0.0, 0, 0, 0, Spin.VECTOR, 16),
    Species(22, 0.0, 0, 0, 0, Spin.VECTOR, 2),
    Species(23, 91.188, 0, 0, 0, Spin.VECTOR, 3),
    Species(24, 80.369, 3, 0, 0, Spin.VECTOR, 6),
    Species(25, 125.2, 0, 0, 0, Spin.SCALAR, 1),
)
BY_PDG: dict[int, Species] = {species.pdg: species for species in SPECIES}


@dataclasses.dataclass(frozen=True)
class Charges:
    """Additive quantum numbers: electric charge (e/3), quark number, lepton number."""

    charge: int = 0
    quarks: int = 0
    leptons: int = 0

    def __add__(self, other: Charges) -> Charges:
        return Charges(self.charge + other.charge, self.quarks + other.quarks, self.leptons + other.leptons)

    def __sub__(self, other: Charges) -> Charges:
        return Charges(self.charge - other.charge, self.quarks - other.quarks, self.leptons - other.leptons)


def charges_of(pdg: int) -> Charges:
    """Quantum numbers of a particle or, with a negative number, an antiparticle."""
    species = BY_PDG[abs(pdg)]
    sign = 1 if pdg > 0 else -1
    return Charges(sign * species.charge, sign * species.quarks, sign * species.leptons)


def mass_of(pdg: int) -> float:
    """Mass in GeV."""
    return BY_PDG[abs(pdg)].mass


INCOMING, OUTGOING, INTERMEDIATE = -1, 1, 2


@dataclasses.dataclass(frozen=True)
class HardParticle:
    """One line of a hard event, in the terms of the Les Houches accord (hep-ph/0609017).

    Args:
        pdg: PDG number; for an intermediate state the number it is recorded under.
        status: INCOMING, OUTGOING or INTERMEDIATE.
        mothers: first and last mother, counted from 1; (0, 0) for incoming partons.
        colours: colour and anticolour tag; 0 for none.
        momentum: (E, px, py, pz) in GeV, shape (4,).
        mass: in GeV.
    """

    pdg: int
    status: int
    mothers: tuple[int, int]
    colours: tuple[int, int]
    momentum: NDArray[np.float64]
    mass: float


@dataclasses.dataclass(frozen=True)
class HardEvent:
    """Incoming partons first, then what comes of them; scale in GeV is where parton showers start."""

    particles: tuple[HardParticle, ...]
    scale: float

    @property
    def incoming(self) -> tuple[HardParticle, ...]:
        """The two colliding partons."""
        return tuple(one for one in self.particles if one.status == INCOMING)

    @property
    def outgoing(self) -> tuple[HardParticle, ...]:
        """Everything that showers, decays or reaches the detector."""
        return tuple(one for one in self.particles if one.status == OUTGOING)


def incoming_pair(
    pdgs: tuple[int, int], fractions: tuple[float, float], energy: float, colours: list[tuple[int, int]]
) -> tuple[HardParticle, HardParticle]:
    """Two massless partons along +z and −z that carry the given fractions of half the collision energy."""
    first, second = (
        HardParticle(
            pdg,
            INCOMING,
            (0, 0),
            colours[index],
            np.array([1.0, 0.0, 0.0, direction]) * fractions[index] * energy / 2,
            0.0,
        )
        for index, (pdg, direction) in enumerate(zip(pdgs, (1.0, -1.0), strict=True))
    )
    return first, second
