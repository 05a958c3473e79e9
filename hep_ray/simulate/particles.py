"""Standard Model particles and hard events: which partons meet, what comes of them, and how colour flows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from hep_ray.simulate import Array
from hep_ray.simulate.hawking import Spin


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
        return self.pdg in {21, 22, 23, 25, 39}


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
# All its polarisations, in every dimension, as one degree of freedom.
GRAVITON = Species(39, 0.0, 0, 0, 0, Spin.GRAVITON, 1)
BY_PDG: dict[int, Species] = {species.pdg: species for species in (*SPECIES, GRAVITON)}


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
    momentum: Array
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


def outgoing(
    pdg: int, colours: tuple[int, int], momentum: Array, mothers: tuple[int, int] = (1, 2)
) -> HardParticle:
    """Return a particle that comes out of the collision, of its own mass."""
    return HardParticle(pdg, OUTGOING, mothers, colours, momentum, mass_of(pdg))


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


@dataclasses.dataclass(frozen=True)
class PartonPair:
    """Two colliding partons: PDG numbers and momentum fractions."""

    pdgs: tuple[int, int]
    fractions: tuple[float, float]

    def mass(self, energy: float) -> float:
        """Invariant mass in GeV at a collision energy in GeV."""
        return float(np.sqrt(self.fractions[0] * self.fractions[1])) * energy


class PartonLuminosity:
    """Draws pairs from dσ = d(ln τ) dy Σ x₁f(x₁) x₂f(x₂) σ̂(M), M² = τ s, above a threshold mass.

    Densities are taken at the fixed scale Q = threshold and tabulated: above a threshold of most of
    the collision energy M varies by a few per cent only.

    Args:
        density: x·f(x, Q²) of the proton as a function of (PDG number, x, Q²).
        energy: collision energy √s in GeV.
        threshold: least invariant mass in GeV.
        growth: σ̂ grows like M to this power.
        pairs: allowed (PDG, PDG).
        at_threshold: every pair has the threshold mass, and its rapidity alone is drawn.
    """

    _NODES = 512
    _BLOCK = 64

    def __init__(
        self,
        density: Callable[[int, float, float], float],
        energy: float,
        threshold: float,
        growth: float,
        pairs: Sequence[tuple[int, int]],
        *,
        at_threshold: bool = False,
    ) -> None:
        self._log_tau_min = 2 * np.log(threshold / energy)
        self._growth = growth
        self._pairs = tuple(pairs)
        self._nodes = np.linspace(self._log_tau_min, 0.0, self._NODES)
        self._tables = {
            pdg: np.array([max(0.0, density(pdg, x, threshold**2)) for x in np.exp(self._nodes)])
            for pdg in sorted({pdg for pair in self._pairs for pdg in pair})
        }
        self._log_tau_max = self._log_tau_min if at_threshold else 0.0
        log_tau = np.linspace(self._log_tau_min, self._log_tau_max, 200)[:, None]
        rapidity = log_tau / 2 * np.linspace(-1, 1, 81)
        grid = np.broadcast_to(log_tau, rapidity.shape)
        self._ceiling = 1.2 * float(self._weights(grid.ravel(), rapidity.ravel()).sum(axis=0).max())

    def sample(self, rng: np.random.Generator) -> PartonPair:
        """Draw one pair."""
        while True:
            log_tau = rng.uniform(self._log_tau_min, self._log_tau_max, self._BLOCK)
            # y is flat over the widest range; points outside that of their own τ get no weight.
            rapidity = rng.uniform(self._log_tau_min / 2, -self._log_tau_min / 2, self._BLOCK)
            weights = self._weights(log_tau, rapidity)
            accepted = np.flatnonzero(rng.random(self._BLOCK) * self._ceiling < weights.sum(axis=0))
            if len(accepted) == 0:
                continue
            point = accepted[0]
            choice = rng.choice(len(self._pairs), p=weights[:, point] / weights[:, point].sum())
            first = float(np.exp(log_tau[point] / 2 + rapidity[point]))
            second = float(np.exp(log_tau[point] / 2 - rapidity[point]))
            return PartonPair(self._pairs[choice], (first, second))

    def _weights(self, log_tau: Array, rapidity: Array) -> Array:
        """Luminosity × σ̂ of each pair, shape (pairs, points)."""
        inside = np.abs(rapidity) <= -log_tau / 2
        forward, backward = log_tau / 2 + rapidity, log_tau / 2 - rapidity
        first = {pdg: np.interp(forward, self._nodes, table) for pdg, table in self._tables.items()}
        second = {pdg: np.interp(backward, self._nodes, table) for pdg, table in self._tables.items()}
        # σ̂ relative to its value at the threshold
        factor = inside * np.exp(self._growth / 2 * (log_tau - self._log_tau_min))
        return np.stack([first[a] * second[b] * factor for a, b in self._pairs])


FIRST_TAG = 501
GLUON = 21
QUARKS = range(1, 7)


def random_flow(
    incoming: Sequence[int], produced: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, int]] | None:
    """Colour and anticolour tags of incoming, then outgoing particles.

    A flow starts where colour leaves the collision (an outgoing quark or gluon, an incoming antiquark
    or gluon) and ends where anticolour does; each start is tied to a random end, never the two ends
    of one gluon.

    Args:
        incoming: PDG numbers of the colliding partons.
        produced: PDG numbers of what they make.
        rng: source of randomness.

    Returns:
        One (colour, anticolour) per particle, 0 for none; None where no flow exists, which is when
        quark number is not conserved, or a lone gluon has nothing to be tied to.
    """
    particles = [*incoming, *produced]
    starts: list[int] = []
    ends: list[int] = []
    for index, pdg in enumerate(particles):
        crossed = -pdg if index < len(incoming) else pdg
        if pdg == GLUON or crossed in QUARKS:
            starts.append(index)
        if pdg == GLUON or -crossed in QUARKS:
            ends.append(index)
    if len(starts) != len(ends):
        return None
    order = _without_fixed_ties(starts, ends, rng)
    if order is None:
        return None
    tags = [[0, 0] for _ in particles]
    for number, (start, end) in enumerate(zip(starts, order, strict=True)):
        # An incoming particle carries in the colour that an outgoing one would carry away.
        tags[start][1 if start < len(incoming) else 0] = FIRST_TAG + number
        tags[end][0 if end < len(incoming) else 1] = FIRST_TAG + number
    return [(colour, anticolour) for colour, anticolour in tags]


def _without_fixed_ties(
    starts: list[int], ends: list[int], rng: np.random.Generator, tries: int = 64
) -> list[int] | None:
    for _ in range(tries):
        order = [ends[index] for index in rng.permutation(len(ends))]
        if all(start != end for start, end in zip(starts, order, strict=True)):
            return order
    return None
