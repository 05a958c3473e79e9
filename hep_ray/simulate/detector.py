"""A parametrised ATLAS-like detector: tracks, calorimeter towers, energy flow, isolated leptons and photons.

Efficiencies, resolutions, granularity, isolation and thresholds are those of the ATLAS card of Delphes 3
(arXiv:1307.6346; `cards/delphes_card_ATLAS.tcl`): its modules ChargedHadronTrackingEfficiency to TrackMerger
(tracks), ECal and HCal (towers, energy flow), PhotonEfficiency to MuonIsolation (isolated objects). A particle
that the card does not name, a graviton among them, leaves all its energy in the hadronic calorimeter. Charged
particles reach the calorimeters along their helix in the card's 2 T; a track keeps the direction at the vertex.

Simplified in energy flow alone: a charged particle's energy is told by the better of tracker and calorimeter,
and what a tower holds beyond its tracks is dropped where it does not stand out of their uncertainty.
Angles: φ ∈ (−π, π], η; ΔR² = Δη² + Δφ².
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hep_ray.dataset.histogram import wrapped
from hep_ray.simulate import Array, Indices, Mask, Rows
from hep_ray.simulate.pythia import FinalState

TRACKER_ETA = 2.5
FIELD = 2.0  # T
BARREL_RADIUS, BARREL_HALF_LENGTH = 1.15, 3.51  # m
ISOLATION_RADIUS = 0.5
ISOLATION_PT = 0.5  # GeV
LEPTON_PT = 10.0  # GeV
SIGNIFICANCE = 2.0  # of a tower's energy over its uncertainty
LEAST_PT = 1e-4  # GeV; what goes down the beam pipe is never seen
LIGHT = 0.299792458  # p_T in GeV = LIGHT × charge in e × field in T × radius in m
MOST_TURN = 200.0  # a particle that curls on and on is lost to the beam pipe long before
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
# Towers by the upper edge of each row in η: the edges, and the towers around in φ of the row below each edge.
_STEPS = np.arange(1, 85) * 0.0174
_ECAL_FORWARD = (3.125, 3.3, 3.475, 3.65, 3.825, 4.0, 4.175, 4.35, 4.525, 4.7, 5.0)
_ECAL_BACKWARD = (-5.0, *(-edge for edge in reversed(_ECAL_FORWARD[:-1])), -2.958)
_HCAL_FORWARD = (2.8, 3.0, 3.2, 3.5, 3.7, 3.9, 4.1, 4.3, 4.5, 4.7, 4.9)
_HCAL_BACKWARD = (-4.9, -4.7, -4.5, -4.3, -4.1, -3.9, -3.7, -3.5, -3.3, -3.0, -2.8, -2.6)
ECAL_ROWS = sorted(
    [(edge, 360) for edge in (*np.arange(-85, 87) * 0.0174, *(_STEPS - 2.958), *(_STEPS + 1.4964))]
    + [(edge, 36) for edge in (*_ECAL_BACKWARD, *_ECAL_FORWARD)]
)
HCAL_ROWS = sorted(
    [(edge, 36) for edge in (-3.2, *np.arange(-25, 27) / 10, 3.3)]
    + [(edge, 18) for edge in (*_HCAL_BACKWARD, *_HCAL_FORWARD)]
)
TOWER_ENERGY_MIN = {True: 0.5, False: 1.0}  # GeV, electromagnetic or not
# Isolated objects: efficiency in barrel and beyond, largest |η|, largest activity around over own p_T.
IDENTIFICATION = (0.95, 0.85)
IDENTIFIED_ETA = {ELECTRON: 2.5, MUON: 2.7, PHOTON: 2.5}
ISOLATION = {ELECTRON: 0.12, MUON: 0.25, PHOTON: 0.12}


@dataclasses.dataclass(frozen=True)
class Deposits(Rows):
    """Tracks and calorimeter towers, a transverse momentum and a direction each.

    Args:
        pt: transverse momentum in GeV, shape (n,).
        eta: shape (n,).
        phi: shape (n,).
        kind: tracks are `HADRON`, `ELECTRON` or `MUON`; electromagnetic towers `PHOTON`, hadronic ones
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


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One event as the detector sees it.

    Args:
        tracks: measured by the tracker alone, as the card's `TrackMerger/tracks`.
        towers: calorimeter towers, as the card's `ECal/ecalTowers` and `HCal/hcalTowers`.
        flow: energy flow, which counts each energy once.
    """

    tracks: Deposits
    towers: Deposits
    flow: Deposits


def detect(state: FinalState, rng: np.random.Generator) -> Deposits:
    """Measure the energy flow of one event's stable particles, without a magnetic field."""
    return measure(state, rng, field=0.0).flow


def measure(state: FinalState, rng: np.random.Generator, field: float = FIELD) -> Measurement:
    """Measure the stable particles of one event in a magnetic field in T."""
    pdg = np.abs(state.pdg)
    pt = np.hypot(state.momentum[:, 1], state.momentum[:, 2])
    seen = ~np.isin(pdg, NEUTRINOS) & (pt > LEAST_PT)
    pdg, charge, pt = pdg[seen], state.charge[seen], pt[seen]
    energy, px, py, pz = state.momentum[seen].T
    eta, phi = np.arcsinh(pz / pt), np.arctan2(py, px)
    eta_at, phi_at = _at_calorimeter(pt, eta, phi, charge / 3 * field)

    tracked = (charge != 0) & (rng.random(len(pt)) < _track_efficiency(pdg, pt, eta))
    resolution = np.minimum(_track_resolution(pdg, pt, eta), 1.0)
    tracker_energy = _lognormal(energy, resolution * energy, rng)
    calorimeter_sigma = np.where(
        pdg == ELECTRON, _tower_resolution(energy, eta, True), _tower_resolution(energy, eta, False)
    )
    # The better of the two instruments tells a charged particle's energy; muons pass the calorimeters.
    worse = (resolution * energy > calorimeter_sigma) & (pdg != MUON)
    sigma = np.where(worse, calorimeter_sigma, resolution * energy)
    best = np.where(worse, _lognormal(energy, calorimeter_sigma, rng), tracker_energy)
    kinds = _track_kind(pdg[tracked])
    tracks, flow = (
        Deposits((measured * pt / energy)[tracked], eta[tracked], phi[tracked], kinds)
        for measured in (tracker_energy, best)
    )

    ecal = np.isin(pdg, ELECTROMAGNETIC) + MIXED_FRACTION * np.isin(pdg, MIXED)
    hcal = np.where(pdg == MUON, 0.0, 1.0 - ecal)
    towers, remains = [], [flow]
    for fraction, electromagnetic in ((ecal, True), (hcal, False)):
        hit = fraction > 0
        explained = np.where(tracked, np.where(worse, energy, best), 0.0) * fraction
        whole, neutral = _towers(
            eta_at[hit],
            phi_at[hit],
            (energy * fraction)[hit],
            explained[hit],
            (explained * sigma / energy)[hit],
            electromagnetic,
            rng,
        )
        towers.append(whole)
        remains.append(neutral)
    return Measurement(tracks, together(towers), together(remains))


def together(parts: Sequence[Deposits]) -> Deposits:
    """Return all deposits of several sets, one after another."""
    names = [one.name for one in dataclasses.fields(Deposits)]
    return Deposits(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


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
    """Return the size of the vector sum of all transverse momenta, in GeV."""
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
    """σ(p_T) / p_T."""
    region = np.digitize(np.abs(eta), TRACK_ETA_EDGES)
    terms = np.zeros((len(pt), 2))
    for kind, table in TRACK_RESOLUTION.items():
        terms = np.where((_track_kind(pdg) == kind)[:, None], table[region], terms)
    return np.asarray(np.hypot(terms[:, 0], terms[:, 1] * pt))


def _at_calorimeter(pt: Array, eta: Array, phi: Array, bend: Array) -> tuple[Array, Array]:
    """η and φ where particles from the origin leave the field's cylinder; `bend` is charge in e × field in T."""
    curved = np.abs(bend) > 0
    radius = pt / (LIGHT * np.where(curved, np.abs(bend), 1.0))  # of the helix, in m
    half_chord = np.minimum(BARREL_RADIUS / (2 * radius), 1.0)
    # A helix narrower than the cylinder leaves by its ends.
    sides = np.where(2 * radius >= BARREL_RADIUS, 2 * np.arcsin(half_chord), np.inf)
    ends = BARREL_HALF_LENGTH / np.maximum(radius * np.abs(np.sinh(eta)), 1e-9)
    turn = np.minimum(np.minimum(sides, ends), MOST_TURN)
    across = 2 * radius * np.sin(turn / 2)  # signed distance from the beam, along φ ∓ turn / 2
    eta_at = np.arcsinh(radius * turn * np.sinh(eta) / np.maximum(np.abs(across), 1e-6))
    phi_at = phi - np.sign(bend) * turn / 2 + np.where(across < 0, math.pi, 0.0)
    return np.where(curved, eta_at, eta), np.where(curved, wrapped(phi_at), phi)


def _towers(
    eta: Array,
    phi: Array,
    energy: Array,
    explained: Array,
    uncertainty: Array,
    electromagnetic: bool,
    rng: np.random.Generator,
) -> tuple[Deposits, Deposits]:
    """Towers as a whole, and what they hold beyond the tracks that point at them."""
    rows = ECAL_ROWS if electromagnetic else HCAL_ROWS
    edges, around = (np.array(column) for column in zip(*rows, strict=True))
    row = np.searchsorted(edges, eta)  # number of the upper edge
    inside = (row > 0) & (row < len(edges))
    row, phi = row[inside], phi[inside]
    column = ((phi + math.pi) / (2 * math.pi) * around[row]).astype(np.int64) % around[row]
    _, first, tower = np.unique(row * 1024 + column, return_index=True, return_inverse=True)
    true_energy, tracks, track_variance = (
        np.bincount(tower, values[inside], minlength=len(first)).astype(np.float64)
        for values in (energy, explained, uncertainty**2)
    )
    row, column = row[first], column[first]
    spread = rng.random((2, len(first)))
    low, high = edges[row - 1], edges[row]
    eta_at = low + spread[0] * (high - low)
    phi_at = -math.pi + (column + spread[1]) * 2 * math.pi / around[row]
    centre = (low + high) / 2
    measured = _lognormal(
        np.maximum(true_energy, 1e-6), _tower_resolution(true_energy, centre, electromagnetic), rng
    )
    sigma = _tower_resolution(measured, centre, electromagnetic)
    kind = np.full(len(first), PHOTON if electromagnetic else NEUTRAL_HADRON)
    made = []
    for held, deviation in ((measured, sigma), (measured - tracks, np.sqrt(sigma**2 + track_variance))):
        kept = (held > TOWER_ENERGY_MIN[electromagnetic]) & (held > SIGNIFICANCE * deviation)
        made.append(Deposits(held / np.cosh(eta_at), eta_at, phi_at, kind).chosen(kept))
    return made[0], made[1]


def _tower_resolution(energy: Array, eta: Array, electromagnetic: bool) -> Array:
    """σ(E) in GeV of a tower."""
    edges, table = (ECAL_ETA_EDGES, ECAL_RESOLUTION) if electromagnetic else (HCAL_ETA_EDGES, HCAL_RESOLUTION)
    constant, stochastic, noise = table[np.digitize(np.abs(eta), edges)].T
    return np.asarray(np.sqrt((constant * energy) ** 2 + stochastic**2 * energy + noise**2))
