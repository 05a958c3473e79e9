"""Task `jet_images`: boosted H → bb against QCD jets, as p_T-weighted η–φ images of the leading jet.

Higgs bosons come with a Z that decays to neutrinos, so that the leading jet is the Higgs boson's. Events
pass the parametrised ATLAS-like detector of `detector.py`; jets are made of its energy flow.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hep_ray.config import Config
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import SimulationFailed
from hep_ray.simulate import simulation
from hep_ray.simulate.detector import detect
from hep_ray.simulate.generator import GeneratorConfig
from hep_ray.simulate.jets import Jet, leading_jet, soft_drop_masses
from hep_ray.simulate.processes import Process

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
            dtype="float32",
            unit="GeV",
            elements=("pt",),
            axes=("delta_phi", "delta_eta"),
        ),
        Column(name="jet_pt", dtype="float32", unit="GeV"),
        Column(name="jet_eta", dtype="float32"),
        Column(name="jet_mass", dtype="float32", unit="GeV"),
        Column(name="jet_soft_drop_mass", dtype="float32", unit="GeV"),
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


class JetImagesConfig(Config):
    """Parameters of the task.

    Attributes:
        energy: proton–proton collision energy √s, in GeV.
        jet_radius: R of the anti-kT jets.
        jet_pt: least transverse momentum of the leading jet, in GeV.
        jet_eta: largest |η| of the leading jet.
        rotate: turn images so that the principal axis of the p_T lies along φ.
        multiparton_interactions: simulate further parton collisions of the same two protons.
    """

    energy: float = Field(default=13_000.0, gt=0)
    jet_radius: float = Field(default=0.8, gt=0, le=1.5)
    jet_pt: float = Field(default=300.0, ge=20.0)
    jet_eta: float = Field(default=2.0, gt=0, le=4.0)
    rotate: bool = False
    multiparton_interactions: bool = False


@simulation("jet_images", JetImagesConfig, SCHEMA, requires=("pythia8mc", "fastjet"), chunk=1000)
def generate(
    config: JetImagesConfig, class_name: str, events: int, seed: np.random.SeedSequence
) -> dict[str, npt.NDArray[Any]]:
    """Boosted H → bb (p_T > 300 GeV) against QCD: 30×30 images of the leading anti-kT jet.

    Args:
        config: parameters.
        class_name: `hbb` or `qcd`.
        events: how many.
        seed: decides everything, with the config and the class.

    Raises:
        MissingPackage: Pythia or fastjet is not installed.
        SimulationFailed: Pythia refuses the settings, or no jet passes the requirements.
    """
    process = _process(config, class_name)
    rng = np.random.default_rng(seed)
    jets: list[Jet] = []
    rejected = 0
    for state in process.events(int(rng.integers(1, 900_000_001))):
        jet = leading_jet(detect(state, rng), config.jet_radius)
        if jet is not None and jet.pt > config.jet_pt and abs(jet.eta) < config.jet_eta:
            jets.append(jet)
            rejected = 0
        else:
            rejected += 1
        if len(jets) == events:
            break
        if rejected == PATIENCE:
            raise SimulationFailed(
                f"a leading jet passes within {PATIENCE} events; none has p_T > {config.jet_pt} GeV and "
                f"|η| < {config.jet_eta}"
            )
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
    phi = (parts.phi - jet.phi + math.pi) % (2 * math.pi) - math.pi
    phi = phi - np.average(phi, weights=parts.pt)
    eta = eta - np.average(eta, weights=parts.pt)
    if rotate:
        covariance = np.sum(parts.pt * phi * eta)
        angle = np.arctan2(2 * covariance, np.sum(parts.pt * (phi**2 - eta**2))) / 2
        cosine, sine = np.cos(angle), np.sin(angle)
        phi, eta = cosine * phi + sine * eta, cosine * eta - sine * phi
    half = HALF_WIDTH * radius
    image = np.histogram2d(phi, eta, bins=PIXELS, range=[(-half, half)] * 2, weights=parts.pt)[0]
    return image[:, :, None].astype(np.float32)


@functools.lru_cache(maxsize=4)
def _process(config: JetImagesConfig, class_name: str) -> Process:
    """Built once per process; `generate` seeds it anew, so nothing passes from call to call."""
    return Process(
        GeneratorConfig(
            energy=config.energy,
            multiparton_interactions=config.multiparton_interactions,
            settings=(*PROCESSES[class_name], f"PhaseSpace:pTHatMin = {HARD_FRACTION * config.jet_pt}"),
        )
    )
