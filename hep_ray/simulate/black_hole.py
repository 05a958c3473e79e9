"""Semi-classical black holes: production, Hawking evaporation, and the remnant's last decay.

Two partons whose invariant mass M exceeds a minimum merge with the geometric cross section π r_H²(M).
The hole, at rest in their centre of mass and taken as non-rotating, emits one Standard Model particle
after another: species by degrees of freedom × emission rate of its spin, energy from the greybody
spectrum at the hole's present temperature, direction isotropic in its rest frame, recoil included.
Once its mass is below M∗ two or three bodies share what is left in isotropic phase space, chosen among
those that restore the incoming partons' charge, baryon and lepton number.

Sources: Dimopoulos and Landsberg, hep-ph/0106295 (production and decay); Harris, Richardson and
Webber, hep-ph/0307305 (sequence of emissions, remnant); BlackMax, arXiv:0711.3012, whose events the
reference sample holds; parameters of arXiv:2310.15227. Simplifications: all energy of the partons
enters the hole; an energy that would leave less than nothing is drawn again for the same species; a graviton,
whose rate is that into the bulk, flies along the brane as a massless particle (PDG number 39), as an event
record can hold it.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from hep_ray.simulate import Array
from hep_ray.simulate.hawking import RadiusConvention, emission_spectra, horizon_radius
from hep_ray.simulate.particles import (
    GLUON,
    GRAVITON,
    QUARKS,
    SPECIES,
    Charges,
    HardEvent,
    PartonPair,
    charges_of,
    incoming_pair,
    mass_of,
    outgoing,
    random_flow,
)
from hep_ray.simulate.phase_space import boost, invariant_mass, isotropic_direction, rambo

PARTONS: tuple[int, ...] = (21, 1, 2, 3, 4, 5, -1, -2, -3, -4, -5)
EMITTED = (*SPECIES, GRAVITON)
DRAWS = 1000
"""Energies drawn for a species before the hole is taken to have too little mass for it."""
PAIRS = tuple((first, second) for first in PARTONS for second in PARTONS)


def black_hole_event(
    pair: PartonPair,
    energy: float,
    planck_mass: float,
    extra_dimensions: int,
    rng: np.random.Generator,
    *,
    gravitons: bool = True,
    convention: RadiusConvention = RadiusConvention.PDG,
    suppression: float = 1.0,
) -> HardEvent:
    """Make one hole, from the merging partons to its last particles; √s and M∗ in GeV."""
    first, second = incoming_pair(pair.pdgs, pair.fractions, energy, [(0, 0), (0, 0)])
    hole = first.momentum + second.momentum
    total = charges_of(pair.pdgs[0]) + charges_of(pair.pdgs[1])
    while True:
        emitted, momenta, remnant = evaporate(
            hole,
            planck_mass,
            extra_dimensions,
            rng,
            gravitons=gravitons,
            convention=convention,
            partons=pair.pdgs,
            suppression=suppression,
        )
        missing = total
        for pdg in emitted:
            missing = missing - charges_of(pdg)
        last = remnant_bodies(missing, extra_dimensions, rng)
        if last is None or sum(map(mass_of, last)) >= invariant_mass(remnant):
            continue
        pdgs = [*emitted, *last]
        flow = random_flow(pair.pdgs, pdgs, rng)
        if flow is not None:
            break
    bodies = boost(rambo(invariant_mass(remnant), [mass_of(pdg) for pdg in last], rng), remnant)
    coloured = incoming_pair(pair.pdgs, pair.fractions, energy, flow[:2])
    made = map(outgoing, pdgs, flow[2:], [*momenta, *bodies])
    return HardEvent((*coloured, *made), scale=invariant_mass(hole))


def evaporate(
    hole: Array,
    planck_mass: float,
    extra_dimensions: int,
    rng: np.random.Generator,
    *,
    gravitons: bool = True,
    convention: RadiusConvention = RadiusConvention.PDG,
    partons: tuple[int, ...] = (),
    suppression: float = 1.0,
) -> tuple[list[int], list[Array], Array]:
    """Let a hole of that four-momentum emit until its mass is below M∗.

    Args:
        hole: its four-momentum.
        planck_mass: M∗ in GeV.
        extra_dimensions: n.
        rng: source of randomness.
        gravitons: whether it emits some.
        convention: which mass M∗ is.
        partons: PDG numbers of what merged, whose charge and colour the hole has.
        suppression: probability that an emission comes about which leaves the hole with more charge, or with more
            colour, than it has; the colour of each quark and gluon is random.

    Returns:
        PDG numbers and four-momenta of what was emitted, and the remnant's four-momentum, (E, px, py, pz) in GeV.
    """
    spectra = emission_spectra(extra_dimensions)
    cumulative = np.cumsum(_emission_weights(extra_dimensions, gravitons))
    emitted: list[int] = []
    momenta: list[Array] = []
    held = np.sum([_held(pdg, rng) for pdg in partons], axis=0) if suppression < 1 else None
    while (mass := invariant_mass(hole)) > planck_mass:
        species = EMITTED[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]
        pdg = species.pdg
        if held is not None:
            pdg = pdg if species.self_conjugate or rng.integers(2) else -pdg
            left = held - _held(pdg, rng)
            raised = abs(left[0]) > abs(held[0]) or left[1:] @ left[1:] > held[1:] @ held[1:]
            if raised and rng.random() >= suppression:
                continue
        radius = horizon_radius(mass, planck_mass, extra_dimensions, convention)
        # A body of mass m takes at most (M² + m²)/2M from a hole of mass M, and leaves it massless.
        most = (mass**2 + species.mass**2) / (2 * mass)
        draws = (spectra[species.spin].sample(rng.random()) / radius for _ in range(DRAWS))
        energy = next((drawn for drawn in draws if species.mass < drawn < most), None)
        if energy is None:
            continue  # a light hole is too hot for a graviton in many dimensions: it emits something else
        momentum = np.sqrt(energy**2 - species.mass**2) * isotropic_direction(rng)
        particle = boost(np.array([energy, *momentum]), hole)
        hole = hole - particle
        if held is None:
            pdg = pdg if species.self_conjugate or rng.integers(2) else -pdg
        else:
            held = left
        emitted.append(pdg)
        momenta.append(particle)
    return emitted, momenta, hole


def _held(pdg: int, rng: np.random.Generator) -> Array:
    """Return electric charge (e/3) and a random colour of a particle, (charge, red, green, blue)."""
    held = np.array([charges_of(pdg).charge, 0.0, 0.0, 0.0])
    first, second = 1 + rng.permutation(3)[:2]
    if pdg == GLUON:
        held[first], held[second] = 1, -1
    elif abs(pdg) in QUARKS:
        held[first] = 1 if pdg > 0 else -1
    return held


def remnant_bodies(
    missing: Charges, extra_dimensions: int, rng: np.random.Generator
) -> tuple[int, ...] | None:
    """Two or three bodies that carry the missing quantum numbers, None where no such set exists.

    Each set is as likely as it would be among independent draws by emission weight.
    """
    sets = _closing_sets(extra_dimensions).get(missing)
    if sets is None:
        return None
    bodies, cumulative = sets
    return bodies[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]


@functools.lru_cache(maxsize=16)
def _emission_weights(extra_dimensions: int, gravitons: bool) -> tuple[float, ...]:
    """Return the share of each of `EMITTED` in what a hole emits."""
    spectra = emission_spectra(extra_dimensions)
    rates = [species.freedom * spectra[species.spin].rate for species in EMITTED]
    weights = np.array(rates) * [gravitons or species is not GRAVITON for species in EMITTED]
    return tuple(weights / weights.sum())


@functools.lru_cache(maxsize=16)
def _closing_sets(extra_dimensions: int) -> dict[Charges, tuple[list[tuple[int, ...]], Array]]:
    weights: dict[int, float] = {}
    for species, weight in zip(EMITTED[:-1], _emission_weights(extra_dimensions, False)[:-1], strict=True):
        if species.self_conjugate:
            weights[species.pdg] = weight
        else:
            weights[species.pdg] = weights[-species.pdg] = weight / 2
    charges = {pdg: charges_of(pdg) for pdg in weights}
    found: dict[Charges, tuple[list[tuple[int, ...]], list[float]]] = {}
    for count in (2, 3):
        for bodies in itertools.product(weights, repeat=count):
            total = functools.reduce(Charges.__add__, (charges[pdg] for pdg in bodies))
            sets, likelihoods = found.setdefault(total, ([], []))
            sets.append(bodies)
            likelihoods.append(float(np.prod([weights[pdg] for pdg in bodies])))
    return {total: (sets, np.cumsum(likelihoods)) for total, (sets, likelihoods) in found.items()}
