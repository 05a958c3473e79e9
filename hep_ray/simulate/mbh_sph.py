"""Task `mbh_sph`: microscopic black holes against sphalerons at the LHC, as η–φ images of towers and tracks.

Parameters are those of arXiv:2310.15227, of its generator cards and of the HVL thesis; the detector is the ATLAS
card of Delphes.
The signal is the black hole: the thesis searches for it and treats the sphaleron as the look-alike.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence
from pydantic import Field, field_validator, model_validator

from hep_ray.dataset.histogram import DETECTOR
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import Columns, black_hole, simulation, sphaleron
from hep_ray.simulate.hawking import RadiusConvention
from hep_ray.simulate.objects import (
    CHANNELS,
    Event,
    Reconstruction,
    event_image,
    event_variables,
    object_image,
)
from hep_ray.simulate.particles import PartonLuminosity
from hep_ray.simulate.pythia import CollisionConfig, Density, HardProcess, Shower, draw_seed

BLACK_HOLE, SPHALERON = "black_hole", "sphaleron"

SCHEMA = EventSchema(
    task="mbh_sph",
    columns=(
        Column(
            name="image",
            shape=(*DETECTOR.pixels, len(CHANNELS)),
            unit="GeV",
            elements=CHANNELS,
            axes=("phi", "eta"),
        ),
        Column(name="ht", unit="GeV"),
        Column(name="met", unit="GeV"),
        Column(name="leading_pt", unit="GeV"),
        Column(name="n_objects"),
        Column(name="st", unit="GeV"),
        Column(name="n_objects_70"),
    ),
    classes=(SPHALERON, BLACK_HOLE),
    class_meaning={
        BLACK_HOLE: "a microscopic black hole evaporates into Standard Model particles",
        SPHALERON: "a sphaleron-like transition makes at least seven antiquarks and three antileptons",
    },
    signal=BLACK_HOLE,
)


class ImagesConfig(CollisionConfig):
    """Parameters that `mbh_sph` and `six_hypotheses` share; the defaults are those of the reference sample.

    Attributes:
        multiparton_interactions: simulate further parton collisions of the same two protons.
        images: of calorimeter `towers` and tracks, as the thesis and arXiv:2310.15227 fill them, or of reconstructed
            `objects`, one bin each, as the reference's h5 files hold them.
        gravitons: let black holes emit gravitons.
        planck_mass_convention: which mass M∗ is: `unit` (r_H M∗ = (M/M∗)^(1/(n+1)), as in the reference's card), `pdg`
            or `dimopoulos_landsberg`.
        sphaleron_mass: every transition at the `threshold`, as in the reference, or at what the `partons` carry
            above it.
        parton_densities: Pythia's number of the proton's densities (`PDF:pSet`); 5 is MSTW2008 LO.
        charge_suppression: probability that a hole emits what leaves it with more electric charge, or more colour,
            than it has; 1 is without. The reference's card suppresses by factors 0.2; what they multiply there is not
            in the sources that we could read.
        lost_muons: probability that a measured muon goes unseen altogether. The card loses none; 0.6 imitates the
            reference's files, for a reason that is not known.
    """

    multiparton_interactions: bool = True
    images: Literal["towers", "objects"] = "towers"
    gravitons: bool = True
    planck_mass_convention: RadiusConvention = RadiusConvention.UNIT
    sphaleron_mass: Literal["threshold", "partons"] = "threshold"
    parton_densities: int = Field(default=5, ge=1)
    charge_suppression: float = Field(default=1.0, gt=0, le=1)
    lost_muons: float = Field(default=0.0, ge=0, le=1)


class MbhSphConfig(ImagesConfig):
    """Parameters of the task.

    Attributes:
        extra_dimensions: number n of extra dimensions, 1 to 7.
        planck_mass: fundamental scale M∗, in GeV.
        black_hole_mass_min: least mass of a hole, in GeV; above M∗.
        sphaleron_threshold: least energy of a transition, in GeV.
        sphaleron_plus: probability of ΔN_CS = +1; the reference has −1 alone.
        jet_radius: R of the anti-kT jets.
        jet_pt: least transverse momentum of a jet before calibration, in GeV.
        pythia: more settings of Pythia, `;` between them, such as `PDF:pSet = 14; PartonLevel:ISR = off`.
    """

    extra_dimensions: int = Field(default=4, ge=1, le=7)
    planck_mass: float = Field(default=4_000.0, gt=0)
    black_hole_mass_min: float = Field(default=10_000.0, gt=0)
    sphaleron_threshold: float = Field(default=9_000.0, gt=0)
    sphaleron_plus: float = Field(default=0.0, ge=0, le=1)
    jet_radius: float = Field(default=0.4, gt=0)
    jet_pt: float = Field(default=20.0, gt=0)
    pythia: tuple[str, ...] = ()

    @field_validator("pythia", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(word.strip() for word in value.split(";")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _reachable(self) -> MbhSphConfig:
        if not self.planck_mass < self.black_hole_mass_min < self.energy:
            raise ValueError(
                "planck_mass < black_hole_mass_min < energy; got "
                f"{self.planck_mass}, {self.black_hole_mass_min}, {self.energy} GeV"
            )
        if not self.sphaleron_threshold < self.energy:
            raise ValueError(
                f"sphaleron_threshold < energy; got {self.sphaleron_threshold}, {self.energy} GeV"
            )
        return self


@simulation("mbh_sph", MbhSphConfig, SCHEMA, requires=("pythia8mc",))
def generate(config: MbhSphConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Microscopic black holes (n = 4, M > 10 TeV) against sphalerons (E = 9 TeV): 50×50×3 η–φ images."""
    return as_columns(config, itertools.islice(reconstructed(config, class_name, seed), events))


def reconstructed(config: MbhSphConfig, class_name: str, seed: SeedSequence) -> Iterator[Event]:
    """Measure and reconstruct one event after another, without end."""
    shower, reconstruction = _generators(config, class_name)
    rng = np.random.default_rng(seed)
    for state in shower.events(rng, draw_seed(rng)):
        yield reconstruction.event(state, rng)


def as_columns(config: ImagesConfig, events: Iterable[Event]) -> Columns:
    """Return the columns of the schema."""
    images: list[npt.NDArray[np.float32]] = []
    variables: dict[str, list[float]] = {}
    for event in events:
        towers = config.images == "towers"
        images.append(event_image(event.measured) if towers else object_image(event.objects))
        for name, value in event_variables(event.objects).items():
            variables.setdefault(name, []).append(value)
    columns = {name: np.array(values, dtype=np.float32) for name, values in variables.items()}
    return {"image": np.stack(images), **columns}


@functools.lru_cache(maxsize=8)
def _generators(config: MbhSphConfig, class_name: str) -> tuple[Shower, Reconstruction]:
    """Built once per process; `generate` seeds them anew, so nothing passes from call to call."""
    prepare = {BLACK_HOLE: _black_holes, SPHALERON: _sphalerons}[class_name]
    settings = (f"PDF:pSet = {config.parton_densities}", *config.pythia)
    shower = Shower(functools.partial(prepare, config), config.with_settings(*settings))
    return shower, Reconstruction(config.jet_radius, config.jet_pt, config.lost_muons)


def _black_holes(config: MbhSphConfig, density: Density) -> HardProcess:
    # σ̂ = π r_H², and r_H grows like M^(1/(n+1))
    growth = 2 / (config.extra_dimensions + 1)
    luminosity = PartonLuminosity(
        density, config.energy, config.black_hole_mass_min, growth, black_hole.PAIRS
    )
    return lambda rng: black_hole.black_hole_event(
        luminosity.sample(rng),
        config.energy,
        config.planck_mass,
        config.extra_dimensions,
        rng,
        gravitons=config.gravitons,
        convention=config.planck_mass_convention,
        suppression=config.charge_suppression,
    )


def _sphalerons(config: MbhSphConfig, density: Density) -> HardProcess:
    luminosity = PartonLuminosity(
        density,
        config.energy,
        config.sphaleron_threshold,
        0.0,
        sphaleron.PAIRS,
        at_threshold=config.sphaleron_mass == "threshold",
    )
    return lambda rng: sphaleron.sphaleron_event(
        luminosity.sample(rng), config.energy, config.sphaleron_plus, rng
    )
