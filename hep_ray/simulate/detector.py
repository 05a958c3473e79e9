"""A parametrised ATLAS-like detector: tracks, calorimeter cells, energy flow, isolated leptons and photons.

Efficiencies, resolutions, granularity, isolation and thresholds are those of the ATLAS card of Delphes 3
(arXiv:1307.6346). Left out: the magnetic field's bending. Simplified: a charged particle's energy is told
by the better of tracker and calorimeter, and what a cell holds beyond its tracks is dropped where it does
not stand out of their uncertainty. Angles: φ ∈ (−π, π], η; ΔR² = Δη² + Δφ².
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate import Array, Indices, Mask, Rows
from hep_ray.simulate.pythia import FinalState

TRACKER_ETA = 2.5
CALORIMETER_ETA = 4.9
ISOLATION_RADIUS = 0.5
ISOLATION_PT = 0.5  # GeV
LEPTON_PT = 10.0  # GeV
SIGNIFICANCE = 2.0  # of a cell's energy over its uncertainty
NEUTRINOS = (12, 14, 16)
ELECTRON, MUON, PHOTON = 11, 13, 22
ELECTROMAGNETIC = (11, 22, 111)
# K⁰ short and Λ leave 30 % of their energy in the electromagnetic calorimeter.
MIXED, MIXED_FRACTION = (310, 3122), 0.3
HADRON, NEUTRAL_HADRON = 0, -1

BARREL_ETA = 1.5
# Track efficiency: rows p_T above 0, 0.1, 1 and 100 GeV; columns |η| up to 1.5 and to 2.5.
TRACK_PT_EDGES = (0.1, 1.0, 100.0)
TRACK_EFFICIENCY = {
    HADRON: np.array([(0.0, 0.0), (0.70, 0.60), (0.95, 0.85), (0.95, 0.85)]),
    ELECTRON: np.array([(0.0, 0.0), (0.73, 0.50), (0.95, 0.83), (0.99, 0.90)]),
    MUON: np.array([(0.0, 0.0), (0.75, 0.70), (0.99, 0.98), (0.99, 0.98)]),
}
# Relative track resolution a ⊕ b p_T: (a, b in 1/GeV) for |η| up to 0.5, to 1.5 and beyond.
TRACK_ETA_EDGES = (0.5, 1.5)
TRACK_RESOLUTION = {
    HADRON: np.array([(0.06, 1.3e-3), (0.10, 1.7e-3), (0.25, 3.1e-3)]),
    ELECTRON: np.array([(0.03, 1.3e-3), (0.05, 1.7e-3), (0.15, 3.1e-3)]),
    MUON: np.array([(0.01, 1.0e-4), (0.015, 1.5e-4), (0.025, 3.5e-4)]),
}
# Cell resolution σ² = (a E)² + b² E + c²: (a, b in √GeV, c in GeV) for |η| below the edges and beyond.
ECAL_ETA_EDGES, HCAL_ETA_EDGES = (3.2,), (1.7, 3.2)
ECAL_RESOLUTION = np.array([(0.0017, 0.101, 0.0), (0.0350, 0.285, 0.0)])
HCAL_RESOLUTION = np.array([(0.0302, 0.5205, 1.59), (0.0500, 0.706, 0.0), (0.0942, 1.0, 0.0)])
# Cells: (Δη, Δφ) below an |η|, (Δη, Δφ) beyond, and that |η|.
ECAL_GRID = ((0.0174, math.pi / 180), (0.175, math.pi / 18), 3.0)
HCAL_GRID = ((0.1, math.pi / 18), (0.2, math.pi / 9), 2.5)
CELL_ENERGY_MIN = {True: 0.5, False: 1.0}  # GeV, electromagnetic or not
# Isolated objects: efficiency in barrel and beyond, largest |η|, largest activity around over own p_T.
IDENTIFICATION = (0.95, 0.85)
IDENTIFIED_ETA = {ELECTRON: 2.5, MUON: 2.7, PHOTON: 2.5}
ISOLATION = {ELECTRON: 0.12, MUON: 0.25, PHOTON: 0.12}


@dataclasses.dataclass(frozen=True)
class Deposits(Rows):
    """Energy flow: what tracks and calorimeter cells hold, each energy counted once.

    Args:
        pt: transverse momentum in GeV, shape (n,).
        eta: shape (n,).
        phi: shape (n,).
        kind: tracks are `HADRON`, `ELECTRON` or `MUON`, neutral cells `PHOTON` or
            `NEUTRAL_HADRON`; shape (n,).
    """

    pt: Array
    eta: Array
    phi: Array
    kind: Indices

    @property
    def energy(self) -> Array:
        """In GeV, massless."""
        return np.asarray(self.pt * np.cosh(self.eta))

    @property
    def momenta(self) -> Array:
        """(px, py, pz, E) in GeV, massless, shape (n, 4)."""
        parts = (self.pt * np.cos(self.phi), self.pt * np.sin(self.phi), self.pt * np.sinh(self.eta))
        return np.column_stack([*parts, self.energy])

    @property
    def tracks(self) -> Mask:
        """Which ones are tracks."""
        return np.isin(self.kind, (HADRON, ELECTRON, MUON))


def detect(state: FinalState, rng: np.random.Generator) -> Deposits:
    """Measure the stable particles of one event."""
    pdg = np.abs(state.pdg)
    visible = ~np.isin(pdg, NEUTRINOS)
    pdg, charged = pdg[visible], state.charge[visible] != 0
    energy, px, py, pz = state.momentum[visible].T
    pt = np.hypot(px, py)
    eta, phi = np.arcsinh(pz / np.maximum(pt, 1e-9)), np.arctan2(py, px)

    tracked = charged & (rng.random(len(pt)) < _track_efficiency(pdg, pt, eta))
    track_sigma = _track_resolution(pdg, pt, eta) * energy / pt
    calorimeter_sigma = np.where(
        pdg == ELECTRON, _cell_resolution(energy, eta, True), _cell_resolution(energy, eta, False)
    )
    # The better of the two instruments tells a charged particle's energy; muons pass the calorimeters.
    worse = (track_sigma > calorimeter_sigma) & (pdg != MUON)
    sigma = np.where(worse, calorimeter_sigma, track_sigma)
    measured = _lognormal(energy, sigma, rng)
    track_pt = (measured * pt / energy)[tracked]
    track_kind = _track_kind(pdg[tracked])

    ecal = np.isin(pdg, ELECTROMAGNETIC) + MIXED_FRACTION * np.isin(pdg, MIXED)
    hcal = np.where(pdg == MUON, 0.0, 1.0 - ecal)
    parts = [(track_pt, eta[tracked], phi[tracked], track_kind)]
    for fraction, electromagnetic in ((ecal, True), (hcal, False)):
        inside = (fraction > 0) & (np.abs(eta) < CALORIMETER_ETA)
        explained = np.where(tracked, np.where(worse, energy, measured), 0.0) * fraction
        cells = _neutral_cells(
            eta[inside],
            phi[inside],
            (energy * fraction)[inside],
            explained[inside],
            (explained * sigma / energy)[inside],
            electromagnetic,
            rng,
        )
        parts.append((*cells, np.full(len(cells[0]), PHOTON if electromagnetic else NEUTRAL_HADRON)))
    pt, eta, phi, kind = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Deposits(pt, eta, phi, kind)


def isolated(deposits: Deposits, kind: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of identified, isolated electrons, muons or photons."""
    acceptance = (deposits.pt > LEPTON_PT) & (np.abs(deposits.eta) <= IDENTIFIED_ETA[kind])
    efficiency = acceptance * np.where(np.abs(deposits.eta) <= BARREL_ETA, *IDENTIFICATION)
    candidates = np.flatnonzero((deposits.kind == kind) & (rng.random(len(efficiency)) < efficiency))
    around = (deposits.pt > ISOLATION_PT) & ~np.isin(deposits.kind, (ELECTRON, MUON))
    centres = deposits.eta[candidates], deposits.phi[candidates]
    near = delta_r(*centres, deposits.eta, deposits.phi) < ISOLATION_RADIUS
    near[np.arange(len(candidates)), candidates] = False
    activity = (near & around) @ deposits.pt
    return candidates[activity < ISOLATION[kind] * deposits.pt[candidates]]


def delta_r(eta: Array, phi: Array, other_eta: Array, other_phi: Array) -> Array:
    """ΔR of every one to every other, shape (n, m)."""
    azimuth = np.abs(phi[:, None] - other_phi)
    azimuth = np.minimum(azimuth, 2 * math.pi - azimuth)
    return np.hypot(eta[:, None] - other_eta, azimuth)


def missing_momentum(deposits: Deposits) -> float:
    """Size of the vector sum of all transverse momenta, in GeV."""
    return float(
        np.hypot(np.sum(deposits.pt * np.cos(deposits.phi)), np.sum(deposits.pt * np.sin(deposits.phi)))
    )


def _lognormal(mean: Array, sigma: Array, rng: np.random.Generator) -> Array:
    """Positive numbers of the given mean and standard deviation."""
    width = np.log1p((sigma / mean) ** 2)
    return np.asarray(mean * np.exp(np.sqrt(width) * rng.standard_normal(len(mean)) - width / 2))


def _track_kind(pdg: Indices) -> Indices:
    return np.where(np.isin(pdg, (ELECTRON, MUON)), pdg, HADRON)


def _track_efficiency(pdg: Indices, pt: Array, eta: Array) -> Array:
    row, column = np.digitize(pt, TRACK_PT_EDGES), (np.abs(eta) > BARREL_ETA).astype(np.intp)
    efficiency = np.zeros(len(pt))
    for kind, table in TRACK_EFFICIENCY.items():
        efficiency = np.where(_track_kind(pdg) == kind, table[row, column], efficiency)
    return np.where(np.abs(eta) <= TRACKER_ETA, efficiency, 0.0)


def _track_resolution(pdg: Indices, pt: Array, eta: Array) -> Array:
    """σ(p_T) in GeV."""
    region = np.digitize(np.abs(eta), TRACK_ETA_EDGES)
    terms = np.zeros((len(pt), 2))
    for kind, table in TRACK_RESOLUTION.items():
        terms = np.where((_track_kind(pdg) == kind)[:, None], table[region], terms)
    return np.asarray(pt * np.hypot(terms[:, 0], terms[:, 1] * pt))


def _neutral_cells(
    eta: Array,
    phi: Array,
    energy: Array,
    explained: Array,
    uncertainty: Array,
    electromagnetic: bool,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Transverse momentum, η and φ of what cells hold beyond the tracks that point at them."""
    fine, coarse, edge = ECAL_GRID if electromagnetic else HCAL_GRID
    central = np.abs(eta) < edge
    eta_width = np.where(central, fine[0], coarse[0])
    phi_width = np.where(central, fine[1], coarse[1])
    eta_cell, phi_cell = np.floor(eta / eta_width), np.floor(phi / phi_width)
    key = (eta_cell + 1024) * 4096 + phi_cell + 1024 + np.where(central, 0.0, 2.0**24)
    _, first, cell = np.unique(key, return_index=True, return_inverse=True)
    true_energy = np.bincount(cell, energy, minlength=len(first)).astype(np.float64)
    tracks = np.bincount(cell, explained, minlength=len(first))
    track_variance = np.bincount(cell, uncertainty**2, minlength=len(first))
    spread = rng.random((2, len(first)))
    eta_at = (eta_cell[first] + spread[0]) * eta_width[first]
    phi_at = (phi_cell[first] + spread[1]) * phi_width[first]
    resolution = _cell_resolution(true_energy, eta_at, electromagnetic)
    measured = _lognormal(np.maximum(true_energy, 1e-6), resolution, rng)
    sigma = np.sqrt(_cell_resolution(measured, eta_at, electromagnetic) ** 2 + track_variance)
    neutral = measured - tracks
    kept = (neutral > CELL_ENERGY_MIN[electromagnetic]) & (neutral > SIGNIFICANCE * sigma)
    eta_at = eta_at[kept]
    return neutral[kept] / np.cosh(eta_at), eta_at, phi_at[kept]


def _cell_resolution(energy: Array, eta: Array, electromagnetic: bool) -> Array:
    """σ(E) in GeV of a cell."""
    edges, table = (ECAL_ETA_EDGES, ECAL_RESOLUTION) if electromagnetic else (HCAL_ETA_EDGES, HCAL_RESOLUTION)
    constant, stochastic, noise = table[np.digitize(np.abs(eta), edges)].T
    return np.asarray(np.sqrt((constant * energy) ** 2 + stochastic**2 * energy + noise**2))
