"""Electron candidates of six origins: the process that makes each, and the particle at its core.

Categories: ATLAS, ATL-PHYS-PUB-2023-001 (six classes of electron candidates). Processes are chosen to be
rich in each: taken from minimum-bias collisions all but one class would be too rare to simulate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate.generator import EventBatch

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

ELECTRON_PDG, PHOTON_PDG = 11, 22
NEUTRINOS = (12, 14, 16)
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


def _from_heavy(batch: EventBatch, particle: int) -> bool:
    return heavy_flavoured(_origin_hadron(batch, particle))


def _from_light(batch: EventBatch, particle: int) -> bool:
    return is_hadron(_origin_hadron(batch, particle)) and _no_heavy_ancestor(batch, particle)


def _no_heavy_ancestor(batch: EventBatch, particle: int) -> bool:
    return not any(heavy_flavoured(int(batch.pdg[mother])) for mother in batch.ancestors(particle))


def _from_boson(batch: EventBatch, particle: int) -> bool:
    return any(batch.pdg[mother] == 23 for mother in batch.ancestors(particle))  # noqa: PLR2004


def _not_from_hadron(batch: EventBatch, particle: int) -> bool:
    return not is_hadron(_origin_hadron(batch, particle))


def _electrons(batch: EventBatch) -> Mask:
    return np.asarray(np.abs(batch.pdg) == ELECTRON_PDG)


def _photons(batch: EventBatch) -> Mask:
    return np.asarray(batch.pdg == PHOTON_PDG)


def _charged_hadrons(batch: EventBatch) -> Mask:
    return np.asarray((np.abs(batch.pdg) > HADRONS_FROM) & (batch.charge != 0))


ORIGINS = {
    LIGHT_HADRON: Origin(LIGHT_JETS, _charged_hadrons, _no_heavy_ancestor),
    LIGHT_EGAMMA: Origin(LIGHT_JETS, lambda batch: _electrons(batch) | _photons(batch), _from_light),
    HEAVY_FLAVOUR: Origin(B_JETS, _electrons, _from_heavy),
    CONVERSION: Origin(PROMPT_PHOTONS, _photons, _not_from_hadron),
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


def neighbourhoods(batch: EventBatch, core: Indices) -> tuple[Indices, Indices]:
    """Visible stable particles around each core, itself among them.

    Returns:
        Number of the core and index of the particle, shape (pairs,) each.
    """
    number = np.full(batch.events, -1)
    number[batch.event[core]] = np.arange(len(core))
    visible = batch.final & ~np.isin(np.abs(batch.pdg), NEUTRINOS)
    candidate = number[batch.event]
    particle = np.flatnonzero(visible & (candidate >= 0))
    candidate = candidate[particle]
    azimuth = batch.phi[particle] - batch.phi[core][candidate]
    azimuth = (azimuth + np.pi) % (2 * np.pi) - np.pi
    near = np.hypot(batch.eta[particle] - batch.eta[core][candidate], azimuth) < CLUSTER_RADIUS
    return candidate[near], particle[near].astype(np.int64)
