"""Jets of fastjet (arXiv:1111.6097), anti-kT (arXiv:0802.1189) and soft drop (arXiv:1402.2657)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import MissingPackage
from hep_ray.simulate.detector import Array, Deposits
from hep_ray.simulate.shower import quiet_stdout

WHOLE_JET = 10.0  # radius within which all constituents of one jet are clustered again


@dataclasses.dataclass(frozen=True)
class Jet:
    """One jet.

    Args:
        pt: transverse momentum in GeV.
        eta: pseudorapidity.
        phi: azimuth in (−π, π].
        mass: in GeV.
        constituents: what it is made of.
    """

    pt: float
    eta: float
    phi: float
    mass: float
    constituents: Deposits


def leading_jet(deposits: Deposits, radius: float) -> Jet | None:
    """The anti-kT jet of largest transverse momentum, if there is anything to cluster.

    Raises:
        MissingPackage: fastjet is not installed.
    """
    fastjet = fastjet_module()
    particles = []
    for index, momentum in enumerate(_momenta(deposits).tolist()):
        particle = fastjet.PseudoJet(*momentum)
        particle.set_user_index(index)
        particles.append(particle)
    sequence = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    jets = sequence.inclusive_jets(0.0)
    if not jets:
        return None
    jet = max(jets, key=lambda one: one.pt())
    rows = np.array([particle.user_index() for particle in jet.constituents()])
    return Jet(jet.pt(), jet.eta(), jet.phi_std(), jet.m(), _rows(deposits, rows))


def soft_drop_masses(jets: Sequence[Jet], radius: float, cut: float = 0.1, beta: float = 0.0) -> Array:
    """Masses in GeV of jets without their soft wide-angle parts, shape (N,).

    The Cambridge/Aachen tree is undone until min(pT₁, pT₂)/(pT₁ + pT₂) > cut (ΔR₁₂/R)^β.

    Raises:
        MissingPackage: fastjet is not installed.
    """
    import awkward as ak

    fastjet = fastjet_module()
    momenta = np.concatenate([_momenta(jet.constituents) for jet in jets])
    columns = {name: momenta[:, axis] for axis, name in enumerate(("px", "py", "pz", "E"))}
    particles = ak.unflatten(
        ak.zip(columns, with_name="Momentum4D"), [len(jet.constituents.pt) for jet in jets]
    )
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, WHOLE_JET)
    groomed = fastjet.ClusterSequence(particles, definition).exclusive_jets_softdrop_grooming(
        1, beta=beta, symmetry_cut=cut, R0=radius
    )
    return np.asarray(ak.to_numpy(ak.flatten(groomed.msoftdrop, axis=None)), dtype=np.float64)


@functools.cache
def fastjet_module() -> Any:
    """The module `fastjet`, its banner printed to nowhere.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import fastjet
    except ImportError:
        raise MissingPackage(
            "clustering jets needs the package fastjet, which is absent: pip install 'hep-ray[sim]'"
        ) from None
    with quiet_stdout():
        definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4)
        fastjet.ClusterSequence([fastjet.PseudoJet(1.0, 0.0, 0.0, 1.0)], definition)
    return fastjet


def _momenta(deposits: Deposits) -> NDArray[np.float64]:
    """(px, py, pz, E) in GeV, massless, shape (n, 4)."""
    pt, phi = deposits.pt, deposits.phi
    return np.column_stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(deposits.eta), deposits.energy])


def _rows(deposits: Deposits, rows: NDArray[np.int64]) -> Deposits:
    return Deposits(deposits.pt[rows], deposits.eta[rows], deposits.phi[rows], deposits.kind[rows])
