"""Task `atlas_objects`: calorimeter sub-images of electrons, muons, hadronic tau decays and jets.

After Islam and Ramachandra, who cut sub-images in two channels, electromagnetic and hadronic, around the
true leptons and jets of Z → ee, Z → µµ, Z → ττ with two jets. Their window is not known to us: ours is
16 × 16 pixels of 0.05 × π/64, so ±0.4 in η and φ, a jet's radius. Jets come from light QCD processes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence
from pydantic import Field

from hep_ray.dataset.histogram import wrapped
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import Columns, Indices, simulation
from hep_ray.simulate.calorimeter import (
    CELLS,
    LAYERS,
    Centres,
    Incoming,
    Spots,
    centres_at,
    layer_image,
    shower,
)
from hep_ray.simulate.electron_id import HADRONS_FROM, visible_around
from hep_ray.simulate.electron_tracker import BEND, kinds
from hep_ray.simulate.pythia import CollisionConfig, EventBatch, draw_seed, generator, passing

PIXELS = 16
JET, TAU, MUON, ELECTRON = "jet", "tau", "muon", "electron"
LEPTONS = {ELECTRON: 11, MUON: 13, TAU: 15}
Z_BOSON = ("WeakSingleBoson:ffbar2gmZ = on", "23:onMode = off", "PhaseSpace:mHatMin = 60")
PROCESSES = {
    JET: (
        *(f"HardQCD:{name} = on" for name in ("gg2gg", "gg2qqbar", "qg2qg", "qq2qq", "qqbar2gg")),
        "PhaseSpace:pTHatMin = 20",
    ),
    TAU: (*Z_BOSON, "23:onIfAny = 15", "15:offIfAny = 11 13"),
    MUON: (*Z_BOSON, "23:onIfAny = 13"),
    ELECTRON: (*Z_BOSON, "23:onIfAny = 11"),
}
OUTGOING_PARTON = -23  # Pythia's status
RADIUS = 0.4  # ΔR of the particles that make an object's direction
FOLLOWED = 0.8  # ΔR of the particles that enter the image
BATCH = 25
FRUITLESS_BATCHES = 100

SCHEMA = EventSchema(
    task="atlas_objects",
    columns=(
        Column(
            name="image",
            shape=(PIXELS, PIXELS, 2),
            unit="GeV",
            elements=("electromagnetic", "hadronic"),
            axes=("delta_eta", "delta_phi"),
        ),
    ),
    classes=(JET, TAU, MUON, ELECTRON),
    class_meaning={
        JET: "a jet of a light quark or gluon",
        TAU: "a tau from a Z that decays into hadrons",
        MUON: "a muon from a Z",
        ELECTRON: "an electron from a Z",
    },
    signal=ELECTRON,
)


class AtlasObjectsConfig(CollisionConfig):
    """Parameters of the task.

    Attributes:
        pt_min: least visible transverse momentum of an object, in GeV.
        eta_max: largest |η| of an object.
    """

    pt_min: float = Field(default=20.0, ge=5, le=40)
    eta_max: float = Field(default=2.5, gt=0, le=2.5)


@simulation("atlas_objects", AtlasObjectsConfig, SCHEMA, requires=("pythia8mc", "awkward"), chunk=200)
def generate(config: AtlasObjectsConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Electrons, muons, hadronic taus and jets: 16×16 calorimeter images, electromagnetic and hadronic."""
    rng = np.random.default_rng(seed)
    batches = generator(config.with_settings(*PROCESSES[class_name])).batches(BATCH, draw_seed(rng))
    attempts = (_images(batch, _seeds(batch, class_name), config, rng) for batch in batches)
    wanted = f"object {class_name} of {config!r} among {BATCH} collisions"
    return {"image": np.stack(passing(attempts, events, FRUITLESS_BATCHES, wanted))}


def _seeds(batch: EventBatch, class_name: str) -> Indices:
    """The hardest true lepton, or parton of the hard process, of each event."""
    if class_name == JET:
        fits = batch.status == OUTGOING_PARTON
    elif class_name == TAU:
        fits = (np.abs(batch.pdg) == LEPTONS[TAU]) & ~batch.final
    else:
        not_from_hadron = np.abs(batch.pdg[batch.mother]) < HADRONS_FROM
        fits = (np.abs(batch.pdg) == LEPTONS[class_name]) & batch.final & not_from_hadron
    index = np.flatnonzero(fits)
    index = index[np.lexsort((-batch.pt[index], batch.event[index]))]
    _, first = np.unique(batch.event[index], return_index=True)
    return index[first].astype(np.int64)


def _images(
    batch: EventBatch, seeds: Indices, config: AtlasObjectsConfig, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Images about the visible direction of each object that is hard and central enough."""
    owner, particle, distance = visible_around(batch, seeds)
    pt, eta, phi = batch.pt[particle], batch.eta[particle], batch.phi[particle]
    seed_phi = batch.phi[seeds]
    azimuth = wrapped(phi - seed_phi[owner])

    weight = np.where(distance < RADIUS, pt, 0.0)
    visible_pt = np.bincount(owner, weight, minlength=len(seeds))
    scale = np.maximum(visible_pt, 1e-9)
    object_eta = np.bincount(owner, weight * eta, minlength=len(seeds)) / scale
    object_phi = seed_phi + np.bincount(owner, weight * azimuth, minlength=len(seeds)) / scale
    passed = (visible_pt > config.pt_min) & (np.abs(object_eta) < config.eta_max)

    renumbered = np.cumsum(passed) - 1
    charge = np.sign(batch.charge[particle])
    reaches = (charge == 0) | (pt > BEND)
    entering = passed[owner] & reaches & (distance < FOLLOWED)
    incoming = Incoming(
        renumbered[owner][entering],
        kinds(batch.pdg[particle], charge)[entering],
        batch.momentum[particle, 0][entering],
        eta[entering],
        (phi - charge * BEND / np.maximum(pt, 1e-9))[entering],
    )
    spots = shower(incoming, rng)
    return two_channels(spots, centres_at(object_eta[passed], object_phi[passed]), rng)


def two_channels(spots: Spots, centres: Centres, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Electromagnetic and hadronic energy about each centre, shape (n, 16 η, 16 φ, 2), GeV."""
    fine = 2 * PIXELS + 1
    channels = [np.zeros((len(centres.eta), PIXELS, PIXELS)) for _ in range(2)]
    for index, layer in enumerate(LAYERS):
        image = layer_image(spots, index, centres, (fine, fine), rng)
        image = image.reshape(len(image), fine, CELLS[index].eta_parts, fine).sum(axis=2)[:, :-1, :-1]
        blocks = image.reshape(len(image), PIXELS, 2, PIXELS, 2).sum(axis=(2, 4))
        channels[layer.name.startswith("tile")] += blocks
    return np.stack(channels, axis=-1).astype(np.float32)
