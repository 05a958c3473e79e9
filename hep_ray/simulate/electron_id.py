"""Task `electron_id`: electron candidates with calorimeter images, tracks and identification variables.

Inputs as in study 4.2 and ATL-PHYS-PUB-2023-001: a 56×11 image of the strips, 7×11 images of the six other
layers, tracks, fifteen scalars. 36.5 % signal and two classes of six that are 98.3 % of all, as published; that the
second of them is the light hadron, and how the last 1.7 % divide, is our choice.

Origins are the six classes of electron candidates of ATL-PHYS-PUB-2023-001. Processes are chosen to be rich in each:
taken from minimum-bias collisions all but one class would be too rare to simulate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.random import SeedSequence
from pydantic import Field

from hep_ray.dataset.histogram import wrapped
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import Array, Columns, Indices, Mask, simulation
from hep_ray.simulate.calorimeter import LAYERS, centres_at, hottest_cells, shower
from hep_ray.simulate.detector import NEUTRINOS
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
from hep_ray.simulate.pythia import CollisionConfig, EventBatch, draw_seed, generator, passing

ELECTRON_PDG, PHOTON_PDG = 11, 22
HADRONS_FROM = 100  # PDG numbers above are hadrons; special codes of strings and systems are 81 to 100
STRANGE = 3  # heaviest light quark
CLUSTER_RADIUS = 0.4  # ΔR about the core inside which particles are followed

ELECTRON, CHARGE_FLIP, CONVERSION = "electron", "charge_flip", "photon_conversion"
HEAVY_FLAVOUR, LIGHT_EGAMMA, LIGHT_HADRON = "heavy_flavour", "light_flavour_egamma", "light_flavour_hadron"

Z_TO_EE = ("WeakSingleBoson:ffbar2gmZ = on", "23:onMode = off", "23:onIfAny = 11", "PhaseSpace:mHatMin = 60")
B_HADRONS = (511, 521, 531, 5122)
LIGHT_JETS = (
    *(
        f"HardQCD:{name} = on"
        for name in ("gg2gg", "gg2qqbar", "qg2qg", "qq2qq", "qqbar2gg", "qqbar2qqbarNew")
    ),
    "HardQCD:nQuarkNew = 3",
    "PhaseSpace:pTHatMin = 35",
)
B_JETS = (
    "HardQCD:hardbbbar = on",
    "PhaseSpace:pTHatMin = 30",
    *(f"{hadron}:onMode = off" for hadron in B_HADRONS),
    *(f"{hadron}:onIfAny = 11" for hadron in B_HADRONS),
)
PROMPT_PHOTONS = (
    "PromptPhoton:qg2qgamma = on",
    "PromptPhoton:qqbar2ggamma = on",
    "PhaseSpace:pTHatMin = 15",
)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the candidates of one class come from.

    Args:
        process: Pythia settings.
        core: which particles can be a core, before the ancestors are looked at.
        ancestry: whether a particle's history fits.
    """

    process: tuple[str, ...]
    core: Callable[[EventBatch], Mask]
    ancestry: Callable[[EventBatch, int], bool]


def heavy_flavoured(pdg: int) -> bool:
    """Whether a PDG number is a hadron's with a charm or bottom quark."""
    number = abs(pdg)
    return number > HADRONS_FROM and max(number // 100 % 10, number // 1000 % 10) > STRANGE


def is_hadron(pdg: int) -> bool:
    """Whether a PDG number is a hadron's."""
    return abs(pdg) > HADRONS_FROM


def _origin_hadron(batch: EventBatch, particle: int) -> int:
    """PDG number of what a lepton or photon comes from, past its own copies; 0 for the hard process."""
    own = batch.pdg[particle]
    for mother in batch.ancestors(particle):
        if batch.pdg[mother] != own:
            return int(batch.pdg[mother])
    return 0


def _from_light(batch: EventBatch, particle: int) -> bool:
    return is_hadron(_origin_hadron(batch, particle)) and _no_heavy_ancestor(batch, particle)


def _no_heavy_ancestor(batch: EventBatch, particle: int) -> bool:
    return not any(heavy_flavoured(int(batch.pdg[mother])) for mother in batch.ancestors(particle))


def _from_boson(batch: EventBatch, particle: int) -> bool:
    return any(batch.pdg[mother] == 23 for mother in batch.ancestors(particle))  # noqa: PLR2004


def _electrons(batch: EventBatch) -> Mask:
    return np.asarray(np.abs(batch.pdg) == ELECTRON_PDG)


def _photons(batch: EventBatch) -> Mask:
    return np.asarray(batch.pdg == PHOTON_PDG)


def _charged_hadrons(batch: EventBatch) -> Mask:
    return np.asarray((np.abs(batch.pdg) > HADRONS_FROM) & (batch.charge != 0))


ORIGINS = {
    LIGHT_HADRON: Origin(LIGHT_JETS, _charged_hadrons, _no_heavy_ancestor),
    LIGHT_EGAMMA: Origin(LIGHT_JETS, lambda batch: _electrons(batch) | _photons(batch), _from_light),
    HEAVY_FLAVOUR: Origin(B_JETS, _electrons, lambda batch, one: heavy_flavoured(_origin_hadron(batch, one))),
    CONVERSION: Origin(
        PROMPT_PHOTONS, _photons, lambda batch, one: not is_hadron(_origin_hadron(batch, one))
    ),
    CHARGE_FLIP: Origin(Z_TO_EE, _electrons, _from_boson),
    ELECTRON: Origin(Z_TO_EE, _electrons, _from_boson),
}


def cores(batch: EventBatch, origin: Origin, least_pt: float, largest_eta: float) -> Indices:
    """The hardest fitting particle of each event that has one.

    Args:
        batch: events.
        origin: what fits.
        least_pt: in GeV.
        largest_eta: of |η|.
    """
    pt = batch.pt
    fits = batch.final & origin.core(batch) & (pt > least_pt) & (np.abs(batch.eta) < largest_eta)
    chosen: dict[int, int] = {}
    for particle in sorted(np.flatnonzero(fits).tolist(), key=lambda one: -pt[one]):
        event = int(batch.event[particle])
        if event not in chosen and origin.ancestry(batch, particle):
            chosen[event] = particle
    return np.array([chosen[event] for event in sorted(chosen)], dtype=np.int64)


def visible_around(batch: EventBatch, core: Indices) -> tuple[Indices, Indices, Array]:
    """Return the visible stable particles of the events of some cores, themselves among them.

    Returns:
        Number of the core, index of the particle and ΔR between the two, shape (pairs,) each.
    """
    number = np.full(batch.events, -1)
    number[batch.event[core]] = np.arange(len(core))
    visible = batch.final & ~np.isin(np.abs(batch.pdg), NEUTRINOS)
    particle = np.flatnonzero(visible & (number[batch.event] >= 0))
    owner = number[batch.event[particle]]
    azimuth = wrapped(batch.phi[particle] - batch.phi[core][owner])
    return owner, particle, np.hypot(batch.eta[particle] - batch.eta[core][owner], azimuth)


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
    classes=tuple(ORIGINS),
    class_meaning={
        LIGHT_HADRON: "a charged hadron of a light jet that looks like an electron",
        LIGHT_EGAMMA: "an electron or a converted photon from the decay of a light hadron",
        HEAVY_FLAVOUR: "an electron from the decay of a bottom or charm hadron",
        CONVERSION: "a prompt photon that converts in the tracker",
        CHARGE_FLIP: "an electron from a Z whose hardest track has the wrong charge",
        ELECTRON: "an electron from a Z decay",
    },
    signal=ELECTRON,
    group="eta_region",
)
SHARES = (0.618, 0.005, 0.004, 0.004, 0.004, 0.365)
"""Of the classes in their order: signal and light hadrons are 98.3 % of the study's candidates."""


class ElectronCandidatesConfig(CollisionConfig):
    """Parameters of the task.

    Attributes:
        pt_min: least transverse momentum of the core particle and of the cluster, in GeV.
        eta_max: largest |η| of a candidate.
    """

    pt_min: float = Field(default=15.0, ge=5, le=30)
    eta_max: float = Field(default=2.47, gt=0, le=2.47)


@simulation(
    "electron_id",
    ElectronCandidatesConfig,
    SCHEMA,
    requires=("pythia8mc", "awkward"),
    shares=SHARES,
    chunk=200,
)
def generate(config: ElectronCandidatesConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Electron candidates of six origins: seven calorimeter images, tracks and fifteen scalars."""
    rng = np.random.default_rng(seed)
    origin = ORIGINS[class_name]
    batches = generator(config.with_settings(*origin.process)).batches(BATCH, draw_seed(rng))

    def attempts() -> Iterator[list[tuple[Any, ...]]]:
        for batch in batches:
            core = cores(batch, origin, config.pt_min, config.eta_max)
            columns = _measured(batch, core, class_name, config, rng) if len(core) else {}
            yield list(zip(*(columns[name] for name in names if columns), strict=True))

    names = [column.name for column in SCHEMA.columns]
    wanted = f"candidate {class_name} of {config!r} among {BATCH} collisions"
    rows = passing(attempts(), events, FRUITLESS_BATCHES, wanted)
    return {name: np.stack(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _measured(
    batch: EventBatch,
    core: Indices,
    class_name: str,
    config: ElectronCandidatesConfig,
    rng: np.random.Generator,
) -> Columns:
    """Return the columns of the candidates around these cores, of those that pass the selection."""
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


def _flight(batch: EventBatch, core: Indices) -> tuple[Flight, Mask]:
    """Particles around the cores, and which of them are cores."""
    candidate, particle, distance = visible_around(batch, core)
    near = distance < CLUSTER_RADIUS
    candidate, particle = candidate[near], particle[near]
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


def _special(flight_and_cores: tuple[Flight, Mask], class_name: str, rng: np.random.Generator) -> Flight:
    """Lets core photons convert, and core electrons change their charge, where the class asks for it."""
    flight, is_core = flight_and_cores
    if class_name == CHARGE_FLIP:
        return flight.chosen(~is_core).joined(flip(flight.chosen(is_core), rng))
    photons = is_core & (flight.charge == 0)
    if not photons.any():
        return flight
    return flight.chosen(~photons).joined(convert(flight.chosen(photons), rng))
