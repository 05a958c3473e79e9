"""Task `jet_images`: boosted H → bb against QCD jets, as p_T-weighted η–φ images of the leading jet.

Higgs bosons come with a Z that decays to neutrinos, so that the leading jet is the Higgs boson's. Events
pass the parametrised ATLAS-like detector of `detector.py`; jets are made of its energy flow.
fastjet: arXiv:1111.6097; anti-kT: arXiv:0802.1189; soft drop: arXiv:1402.2657.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence
from pydantic import Field

from hep_ray.dataset.histogram import EtaPhiGrid, wrapped
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import MissingPackage
from hep_ray.simulate import Array, Columns, simulation
from hep_ray.simulate.detector import Deposits, detect
from hep_ray.simulate.pythia import (
    STABLE_PIONS,
    CollisionConfig,
    draw_seed,
    generator,
    passing,
    quiet_stdout,
)

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
    for index, momentum in enumerate(deposits.momenta.tolist()):
        particle = fastjet.PseudoJet(*momentum)
        particle.set_user_index(index)
        particles.append(particle)
    sequence = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    jets = sequence.inclusive_jets(0.0)
    if not jets:
        return None
    jet = max(jets, key=lambda one: one.pt())
    rows = np.array([particle.user_index() for particle in jet.constituents()])
    return Jet(jet.pt(), jet.eta(), jet.phi_std(), jet.m(), deposits.chosen(rows))


def soft_drop_masses(jets: Sequence[Jet], radius: float, cut: float = 0.1, beta: float = 0.0) -> Array:
    """Masses in GeV of jets without their soft wide-angle parts, shape (N,).

    The Cambridge/Aachen tree is undone until min(pT₁, pT₂)/(pT₁ + pT₂) > cut (ΔR₁₂/R)^β.

    Raises:
        MissingPackage: fastjet is not installed.
    """
    import awkward as ak

    fastjet = fastjet_module()
    momenta = np.concatenate([jet.constituents.momenta for jet in jets])
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


QCD, HBB = "qcd", "hbb"
PIXELS = 30
HALF_WIDTH = 1.25  # of a side over the jet radius: the image covers ±1.0 for R = 0.8
HARD_FRACTION = 0.8  # of the least jet p_T: least p_T of the hard process
PATIENCE = 2000  # events in a row without a jet that passes

SCHEMA = EventSchema(
    task="jet_images",
    columns=(
        Column(
            name="image",
            shape=(PIXELS, PIXELS, 1),
            unit="GeV",
            elements=("pt",),
            axes=("delta_phi", "delta_eta"),
        ),
        Column(name="jet_pt", unit="GeV"),
        Column(name="jet_eta"),
        Column(name="jet_mass", unit="GeV"),
        Column(name="jet_soft_drop_mass", unit="GeV"),
    ),
    classes=(QCD, HBB),
    class_meaning={
        QCD: "the leading jet of a hard quark or gluon scattering",
        HBB: "the leading jet of an event with a Higgs boson that decays to bottom quarks",
    },
    signal=HBB,
)

PROCESSES = {
    QCD: ("HardQCD:all = on",),
    HBB: (
        "HiggsSM:ffbar2HZ = on",
        "HiggsSM:gg2H = off",
        "23:onMode = off",
        "23:onIfAny = 12 14 16",
        "25:onMode = off",
        "25:onIfAny = 5",
    ),
}


class JetImagesConfig(CollisionConfig):
    """Parameters of the task.

    Attributes:
        jet_radius: R of the anti-kT jets.
        jet_pt: least transverse momentum of the leading jet, in GeV.
        jet_eta: largest |η| of the leading jet.
        rotate: turn images so that the principal axis of the p_T lies along φ.
    """

    jet_radius: float = Field(default=0.8, gt=0, le=1.5)
    jet_pt: float = Field(default=300.0, ge=20.0)
    jet_eta: float = Field(default=2.0, gt=0, le=4.0)
    rotate: bool = False


@simulation("jet_images", JetImagesConfig, SCHEMA, requires=("pythia8mc", "fastjet"), chunk=1000)
def generate(config: JetImagesConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Boosted H → bb (p_T > 300 GeV) against QCD: 30×30 images of the leading anti-kT jet."""
    return columns_of(leading_jets(config, class_name, events, seed), config)


def leading_jets(config: JetImagesConfig, class_name: str, events: int, seed: SeedSequence) -> list[Jet]:
    """The leading jets of so many events of a class that pass the selection.

    Raises:
        MissingPackage: Pythia 8 or fastjet is not installed.
        SimulationFailed: the generator refuses the settings, or nothing passes.
    """
    hard = f"PhaseSpace:pTHatMin = {HARD_FRACTION * config.jet_pt}"
    settings = config.with_settings(STABLE_PIONS, *PROCESSES[class_name], hard)
    rng = np.random.default_rng(seed)

    def attempts() -> Iterator[list[Jet]]:
        for state in generator(settings).final_states(draw_seed(rng)):
            jet = leading_jet(detect(state, rng), config.jet_radius)
            passed = jet is not None and jet.pt > config.jet_pt and abs(jet.eta) < config.jet_eta
            yield [jet] if jet is not None and passed else []

    wanted = f"leading jet has p_T > {config.jet_pt} GeV and |η| < {config.jet_eta}"
    return list(passing(attempts(), events, PATIENCE, wanted))


def columns_of(jets: Sequence[Jet], config: JetImagesConfig) -> Columns:
    """Images of jets and their scalars, the columns of `SCHEMA`."""
    scalars = {
        "jet_pt": [jet.pt for jet in jets],
        "jet_eta": [jet.eta for jet in jets],
        "jet_mass": [max(jet.mass, 0.0) for jet in jets],
        "jet_soft_drop_mass": np.maximum(soft_drop_masses(jets, config.jet_radius), 0.0),
    }
    images = np.stack([jet_image(jet, config.jet_radius, config.rotate) for jet in jets])
    return {"image": images, **{name: np.asarray(values, np.float32) for name, values in scalars.items()}}


def jet_image(jet: Jet, radius: float, rotate: bool = False) -> npt.NDArray[np.float32]:
    """Transverse momentum of a jet's constituents per pixel, in GeV, shape (30, 30, 1).

    Axis 0 is φ, axis 1 η, ±1.25 R around the p_T-weighted centre; the jet's constituents further out, if any,
    are left out.

    Args:
        jet: with its constituents.
        radius: R of the jet.
        rotate: turn the axis of largest p_T-weighted spread to φ.
    """
    parts = jet.constituents
    eta = parts.eta - jet.eta
    phi = wrapped(parts.phi - jet.phi)
    phi = phi - np.average(phi, weights=parts.pt)
    eta = eta - np.average(eta, weights=parts.pt)
    if rotate:
        covariance = np.sum(parts.pt * phi * eta)
        angle = np.arctan2(2 * covariance, np.sum(parts.pt * (phi**2 - eta**2))) / 2
        cosine, sine = np.cos(angle), np.sin(angle)
        phi, eta = cosine * phi + sine * eta, cosine * eta - sine * phi
    half = HALF_WIDTH * radius
    return EtaPhiGrid((PIXELS, PIXELS), (-half, half), (-half, half)).image(eta, phi, parts.pt[:, None])
