"""Electroweak sphaleron-like transitions: twelve fermions, one of each SU(2) doublet.

The vertex couples every left-handed doublet once: per generation three quarks, one of each colour, and
one lepton. With ΔN_CS = −1 they come out as antiquarks and antileptons (ΔB = ΔL = −3), and two incoming
quarks cancel two of them: at least seven antiquarks and three antileptons. With ΔN_CS = +1 twelve
fermions come out beside the two incoming quarks. Which member of each doublet appears is free but for
charge: six upper and six lower ones. Momenta fill isotropic phase space.

Sources: BaryoGEN, arXiv:1805.02786 (fermions, cancellation, colour); arXiv:2310.15227 (threshold, 13
TeV, quark–quark initial states). Colour: the three quarks of a generation form one junction, so each
generation that is not cancelled is the decay of a colour-singlet intermediate state. Simplification:
only pairs of u and d collide, which are nearly all quark pairs above 9 TeV at the LHC.
"""

from __future__ import annotations

import itertools

import numpy as np

from hep_ray.simulate import Array
from hep_ray.simulate.particles import (
    FIRST_TAG,
    INTERMEDIATE,
    HardEvent,
    HardParticle,
    PartonPair,
    incoming_pair,
    mass_of,
    outgoing,
)
from hep_ray.simulate.phase_space import boost, invariant_mass, rambo

PAIRS = tuple((first, second) for first in (1, 2) for second in (1, 2))
# PDG number of the colour-singlet sum of one generation's quarks; any number Pythia does not use.
GENERATION = 9940001
UPPER_QUARKS = (2, 4, 6)
UPPER_LEPTONS = (12, 14, 16)
DOUBLETS, COLOURS = 12, 3


def sphaleron_event(
    pair: PartonPair, energy: float, plus_probability: float, rng: np.random.Generator
) -> HardEvent:
    """Make one transition of two quarks, u or d, at √s in GeV; ΔN_CS is +1, not −1, with the given probability."""
    colours = [(FIRST_TAG, 0), (FIRST_TAG + 1, 0)]
    incoming = incoming_pair(pair.pdgs, pair.fractions, energy, colours)
    plus = rng.random() < plus_probability
    cancelled = () if plus else pair.pdgs
    quarks, leptons = doublet_members(cancelled, rng)
    sign = 1 if plus else -1
    spectators = list(pair.pdgs) if plus else []
    generations = [[sign * pdg for pdg in generation] for generation in quarks]
    pdgs = [*spectators, *itertools.chain(*generations), *(sign * pdg for pdg in leptons)]
    transition = incoming[0].momentum + incoming[1].momentum
    mass = invariant_mass(transition)
    momenta = iter(boost(rambo(mass, [mass_of(pdg) for pdg in pdgs], rng), transition))

    particles: list[HardParticle] = [*incoming]
    for pdg, colour in zip(spectators, colours, strict=False):
        particles.append(outgoing(pdg, colour, next(momenta)))
    tag = itertools.count(FIRST_TAG + 2)
    for generation in generations:
        particles.extend(_generation(generation, [next(momenta) for _ in generation], tag, len(particles)))
    particles.extend(outgoing(sign * pdg, (0, 0), next(momenta)) for pdg in leptons)
    return HardEvent(tuple(particles), scale=mass)


def doublet_members(
    cancelled: tuple[int, ...], rng: np.random.Generator
) -> tuple[list[list[int]], list[int]]:
    """A member of each doublet, six upper ones in all, less the first-generation quarks cancelled.

    Returns:
        PDG numbers of the quarks, one list per generation, and of the three leptons.
    """
    free = DOUBLETS - len(cancelled)
    upper = rng.permutation(free) < DOUBLETS // 2 - sum(pdg in UPPER_QUARKS for pdg in cancelled)
    members = iter(upper)
    counts = (COLOURS - len(cancelled), COLOURS, COLOURS)
    quarks = [
        [quark if next(members) else quark - 1 for _ in range(count)]
        for quark, count in zip(UPPER_QUARKS, counts, strict=True)
    ]
    leptons = [neutrino if next(members) else neutrino - 1 for neutrino in UPPER_LEPTONS]
    return quarks, leptons


def _generation(
    pdgs: list[int], momenta: list[Array], tag: itertools.count[int], lines: int
) -> list[HardParticle]:
    """One generation's quarks: three by way of a singlet, a cancelled generation's rest directly."""
    colours = [(next(tag), 0) if pdg > 0 else (0, next(tag)) for pdg in pdgs]
    if len(pdgs) < COLOURS:
        return list(map(outgoing, pdgs, colours, momenta))
    total = np.sum(momenta, axis=0)
    singlet = HardParticle(GENERATION, INTERMEDIATE, (1, 2), (0, 0), total, invariant_mass(total))
    return [singlet, *map(outgoing, pdgs, colours, momenta, itertools.repeat((lines + 1, lines + 1)))]
