"""Task `electron_id`: electron candidates with calorimeter images, tracks and identification variables.

Inputs as in study 4.2 and ATL-PHYS-PUB-2023-001: a 56×11 image of the strips, 7×11 images of the six other
layers, tracks, fifteen scalars. 36.5 % signal as published; how the rest divides is our choice.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hep_ray.config import Config
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import SimulationFailed
from hep_ray.simulate import electron_candidates as candidates
from hep_ray.simulate import simulation
from hep_ray.simulate.calorimeter import LAYERS, shower
from hep_ray.simulate.calorimeter_cells import centres_at, hottest_cells
from hep_ray.simulate.electron_tracker import BEND, Flight, convert, flip, kinds, transport
from hep_ray.simulate.electron_variables import (
    MOST_TRACKS,
    STRIPS,
    TRACK_FEATURES,
    VARIABLES,
    WINDOW,
    clusters,
    identification,
    matched,
)
from hep_ray.simulate.generator import EventBatch, Generator, GeneratorConfig

Columns = dict[str, npt.NDArray[Any]]

BATCH = 50  # events
FRUITLESS_BATCHES = 100
SEARCH_WINDOW = (7, 15)
ETA_EDGES = (0.65, 1.15, 1.37, 1.52, 1.81, 2.01, 2.37)
LAYER_NAMES = tuple(layer.name for layer in LAYERS if layer.name != "em1")

SCHEMA = EventSchema(
    task="electron_id",
    columns=(
        Column(name="em1_image", shape=STRIPS, unit="GeV", axes=("delta_eta", "delta_phi")),
        Column(
            name="layer_images",
            shape=(*WINDOW, len(LAYER_NAMES)),
            unit="GeV",
            elements=LAYER_NAMES,
            axes=("delta_eta", "delta_phi"),
        ),
        Column(
            name="tracks",
            shape=(MOST_TRACKS, len(TRACK_FEATURES)),
            elements=tuple(TRACK_FEATURES),
            element_units=tuple(TRACK_FEATURES.values()),
        ),
        Column(
            name="scalars",
            shape=(len(VARIABLES),),
            elements=tuple(VARIABLES),
            element_units=tuple(VARIABLES.values()),
        ),
        Column(name="eta"),
        Column(name="pt", unit="GeV"),
        Column(name="eta_region", dtype="int64"),
    ),
    classes=tuple(candidates.ORIGINS),
    class_meaning={
        candidates.LIGHT_HADRON: "a charged hadron of a light jet that looks like an electron",
        candidates.LIGHT_EGAMMA: "an electron or a converted photon from the decay of a light hadron",
        candidates.HEAVY_FLAVOUR: "an electron from the decay of a bottom or charm hadron",
        candidates.CONVERSION: "a prompt photon that converts in the tracker",
        candidates.CHARGE_FLIP: "an electron from a Z whose hardest track has the wrong charge",
        candidates.ELECTRON: "an electron from a Z decay",
    },
    signal=candidates.ELECTRON,
    group="eta_region",
)
SHARES = (0.270, 0.140, 0.050, 0.150, 0.025, 0.365)


class ElectronIdConfig(Config):
    """Parameters of the task.

    Attributes:
        energy: proton–proton collision energy √s, in GeV.
        pt_min: least transverse momentum of the core particle and of the cluster, in GeV.
        eta_max: largest |η| of a candidate.
        multiparton_interactions: simulate further parton collisions of the same two protons.
    """

    energy: float = Field(default=13_000.0, gt=0)
    pt_min: float = Field(default=15.0, ge=5, le=30)
    eta_max: float = Field(default=2.47, gt=0, le=2.47)
    multiparton_interactions: bool = False


@simulation(
    "electron_id", ElectronIdConfig, SCHEMA, requires=("pythia8mc", "awkward"), shares=SHARES, chunk=200
)
def generate(config: ElectronIdConfig, class_name: str, events: int, seed: np.random.SeedSequence) -> Columns:
    """Electron candidates of six origins: seven calorimeter images, tracks and fifteen scalars.

    Args:
        config: parameters.
        class_name: one of the schema's.
        events: how many candidates; one collision gives at most one.
        seed: decides everything, with the config and the class.

    Raises:
        MissingPackage: Pythia is not installed.
        SimulationFailed: Pythia refuses the settings, or no collision gives a candidate.
    """
    generator = _generator(config, class_name)
    rng = np.random.default_rng(seed)
    batches = generator.batches(BATCH, int(rng.integers(1, 900_000_001)))
    parts: list[Columns] = []
    have = fruitless = 0
    while have < events:
        batch = next(batches)
        core = candidates.cores(batch, candidates.ORIGINS[class_name], config.pt_min, config.eta_max)
        if len(core):
            parts.append(_measured(batch, core, class_name, config, rng))
        passed = len(parts[-1]["pt"]) if len(core) else 0
        have += passed
        fruitless = 0 if passed else fruitless + 1
        if fruitless == FRUITLESS_BATCHES:
            raise SimulationFailed(
                f"some of {fruitless * BATCH} collisions give a candidate {class_name}; none did with {config!r}"
            )
    return {name: np.concatenate([part[name] for part in parts])[:events] for name in parts[0]}


@functools.lru_cache(maxsize=6)
def _generator(config: ElectronIdConfig, class_name: str) -> Generator:
    """Built once per process; `generate` seeds it anew, so nothing passes from call to call."""
    return Generator(
        GeneratorConfig(
            energy=config.energy,
            multiparton_interactions=config.multiparton_interactions,
            settings=candidates.ORIGINS[class_name].process,
        )
    )


def _measured(
    batch: EventBatch,
    core: npt.NDArray[np.int64],
    class_name: str,
    config: ElectronIdConfig,
    rng: np.random.Generator,
) -> Columns:
    """What is measured of the candidates around these cores, of those that pass the selection."""
    flight = _special(_flight(batch, core), class_name, rng)
    incoming, tracks = transport(flight, rng)
    spots = shower(incoming, rng)
    charge = np.sign(batch.charge[core])
    aim = centres_at(batch.eta[core], batch.phi[core] - charge * BEND / batch.pt[core])
    found = clusters(spots, hottest_cells(spots, aim, SEARCH_WINDOW), rng)
    features, best = matched(found, tracks)
    passed = (best >= 0) & (found.pt > config.pt_min) & (np.abs(found.eta) < config.eta_max)
    found, best = found.chosen(passed), best[passed]
    columns = {
        "em1_image": found.strips,
        "layer_images": found.layers,
        "tracks": features[passed],
        "scalars": identification(found, tracks, best),
        "eta": found.eta,
        "pt": found.pt,
    }
    region = np.digitize(np.abs(found.eta), ETA_EDGES).astype(np.int64)
    return {**{name: values.astype(np.float32) for name, values in columns.items()}, "eta_region": region}


def _flight(batch: EventBatch, core: npt.NDArray[np.int64]) -> tuple[Flight, npt.NDArray[np.bool_]]:
    """Particles around the cores, and which of them are cores."""
    candidate, particle = candidates.neighbourhoods(batch, core)
    phi = batch.phi[particle]
    x, y, z = batch.vertex[particle].T
    flight = Flight(
        candidate=candidate,
        kind=kinds(batch.pdg[particle], batch.charge[particle]),
        charge=np.sign(batch.charge[particle]).astype(np.float64),
        pt=batch.pt[particle],
        energy=batch.momentum[particle, 0],
        eta=batch.eta[particle],
        phi=phi,
        d0=y * np.cos(phi) - x * np.sin(phi),
        z0=z,
    )
    return flight, particle == core[candidate]


def _special(
    flight_and_cores: tuple[Flight, npt.NDArray[np.bool_]], class_name: str, rng: np.random.Generator
) -> Flight:
    """Lets core photons convert, and core electrons change their charge, where the class asks for it."""
    flight, is_core = flight_and_cores
    if class_name == candidates.CHARGE_FLIP:
        return flight.chosen(~is_core).joined(flip(flight.chosen(is_core), rng))
    photons = is_core & (flight.charge == 0)
    if not photons.any():
        return flight
    return flight.chosen(~photons).joined(convert(flight.chosen(photons), rng))
