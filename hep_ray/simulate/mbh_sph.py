"""Task `mbh_sph`: microscopic black holes against sphalerons at the LHC, as η–φ images.

Parameters are those of arXiv:2310.15227 and of the HVL thesis; the detector is the ATLAS card of Delphes.
The signal is the black hole: the thesis searches for it and treats the sphaleron as the look-alike.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence
from pydantic import Field, field_validator, model_validator

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import Columns, black_hole, simulation, sphaleron
from hep_ray.simulate.objects import (
    CHANNELS,
    PIXELS,
    Objects,
    Reconstruction,
    event_image,
    event_variables,
)
from hep_ray.simulate.particles import PartonLuminosity
from hep_ray.simulate.pythia import CollisionConfig, Density, HardProcess, Shower, draw_seed

BLACK_HOLE, SPHALERON = "black_hole", "sphaleron"

SCHEMA = EventSchema(
    task="mbh_sph",
    columns=(
        Column(
            name="image",
            shape=(PIXELS, PIXELS, len(CHANNELS)),
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


class MbhSphConfig(CollisionConfig):
    """Parameters of the task.

    Attributes:
        extra_dimensions: number n of extra dimensions, 1 to 7.
        planck_mass: fundamental scale M∗ (Particle Data Group convention), in GeV.
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
    """Microscopic black holes (n = 4, M > 10 TeV) against sphalerons (E > 9 TeV): 50×50×3 η–φ images."""
    return as_columns(itertools.islice(reconstructed(config, class_name, seed), events))


def reconstructed(config: MbhSphConfig, class_name: str, seed: SeedSequence) -> Iterator[Objects]:
    """Reconstructed objects of one event after another, without end."""
    shower, reconstruction = _generators(config, class_name)
    rng = np.random.default_rng(seed)
    for state in shower.events(rng, draw_seed(rng)):
        yield reconstruction.objects(state, rng)


def as_columns(events: Iterable[Objects]) -> Columns:
    """Columns of the schema."""
    images: list[npt.NDArray[np.float32]] = []
    variables: dict[str, list[float]] = {}
    for objects in events:
        images.append(event_image(objects))
        for name, value in event_variables(objects).items():
            variables.setdefault(name, []).append(value)
    columns = {name: np.array(values, dtype=np.float32) for name, values in variables.items()}
    return {"image": np.stack(images), **columns}


@functools.lru_cache(maxsize=8)
def _generators(config: MbhSphConfig, class_name: str) -> tuple[Shower, Reconstruction]:
    """Built once per process; `generate` seeds them anew, so nothing passes from call to call."""
    prepare = {BLACK_HOLE: _black_holes, SPHALERON: _sphalerons}[class_name]
    shower = Shower(functools.partial(prepare, config), config.with_settings(*config.pythia))
    return shower, Reconstruction(config.jet_radius, config.jet_pt)


def _black_holes(config: MbhSphConfig, density: Density) -> HardProcess:
    # σ̂ = π r_H², and r_H grows like M^(1/(n+1))
    growth = 2 / (config.extra_dimensions + 1)
    luminosity = PartonLuminosity(
        density, config.energy, config.black_hole_mass_min, growth, black_hole.PAIRS
    )
    return lambda rng: black_hole.black_hole_event(
        luminosity.sample(rng), config.energy, config.planck_mass, config.extra_dimensions, rng
    )


def _sphalerons(config: MbhSphConfig, density: Density) -> HardProcess:
    luminosity = PartonLuminosity(density, config.energy, config.sphaleron_threshold, 0.0, sphaleron.PAIRS)
    return lambda rng: sphaleron.sphaleron_event(
        luminosity.sample(rng), config.energy, config.sphaleron_plus, rng
    )
