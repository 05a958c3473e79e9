"""From the collision to the calorimeter: a 2 T field, bremsstrahlung, photon conversions, tracks.

Charged particles bend in φ and enter the calorimeter at a radius of 1.5 m. An electron keeps a fraction z
of its momentum, −ln z drawn from Γ(t/ln 2) for t radiation lengths of tracker (Bethe and Heitler's law as
Gaussian-sum filters use it), and the rest goes on as one photon from a random radius in the silicon. The
two electrons of a conversion share its energy by 1 − 4x(1−x)/3. Material, efficiency and resolutions are of
ATLAS' order (JINST 3 S08003), rounded. Only a candidate's core converts, where its class asks for it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hep_ray.simulate import Array, Indices, Rows
from hep_ray.simulate.calorimeter import (
    CHARGED_HADRON,
    ELECTRON,
    MUON,
    NEUTRAL_HADRON,
    PHOTON,
    Incoming,
)

RADIUS = 1500.0  # mm, where the calorimeter begins
CURVATURE = 0.3 * 2.0 / 1000  # GeV/mm: p_T over the radius of the circle, in 2 T
SILICON = 1 / 3  # its radius over that of the calorimeter
BEND = RADIUS * CURVATURE / 2  # GeV: Δφ at the calorimeter times p_T
MATERIAL_ETA = (0.0, 0.7, 1.5, 2.0, 2.5)
MATERIAL_X0 = (0.3, 0.4, 0.8, 1.0, 1.0)  # of the silicon
CONVERSION_RADII = (30.0, 150.0)  # mm: later conversions leave no pixel hits and seldom pass as electrons
LEAST_PT = 0.5  # GeV, of a track
RECOVERED = 0.5  # of the radiated momentum, by the track fit
EFFICIENCY = 0.9  # of hadron tracks
LEAST_BREMSSTRAHLUNG = 0.02  # softer photons stay with their electron


@dataclasses.dataclass(frozen=True)
class Flight(Rows):
    """Particles on their way out; all of shape (n,).

    Args:
        candidate: number of the candidate.
        kind: as in `Incoming`.
        charge: −1, 0 or 1.
        pt: in GeV; so is `energy`.
        energy: see `pt`.
        eta: of the momentum; so is `phi`.
        phi: see `eta`.
        d0: signed transverse impact parameter in mm; so is `z0`, along the beam.
        z0: see `d0`.
    """

    candidate: Indices
    kind: Indices
    charge: Array
    pt: Array
    energy: Array
    eta: Array
    phi: Array
    d0: Array
    z0: Array

    def joined(self, other: Flight) -> Flight:
        """These and others."""
        names = [field.name for field in dataclasses.fields(self)]
        return Flight(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    def scaled(self, fraction: Array) -> Flight:
        """With a fraction of their momentum."""
        return dataclasses.replace(self, pt=self.pt * fraction, energy=self.energy * fraction)


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Measured tracks; all of shape (n,).

    Args:
        candidate: number of the candidate.
        pt: in GeV.
        charge: −1 or 1.
        eta: at the calorimeter; so is `phi`, extrapolated with the measured momentum.
        phi: see `eta`.
        d0: in mm; so are `d0_error` and `z0`.
        d0_error: see `d0`.
        z0: see `d0`.
        loss: measured Δp/p, the fraction of momentum lost on the way.
        transition: probability of being an electron by transition radiation, 0 to 1.
    """

    candidate: Indices
    pt: Array
    charge: Array
    eta: Array
    phi: Array
    d0: Array
    d0_error: Array
    z0: Array
    loss: Array
    transition: Array


def material(eta: Array) -> Array:
    """Radiation lengths of the silicon tracker."""
    return np.interp(np.abs(eta), MATERIAL_ETA, MATERIAL_X0)


def convert(photons: Flight, rng: np.random.Generator) -> Flight:
    """Two electrons for each photon."""
    count = len(photons.pt)
    share = _sharing(count, rng)
    radius = rng.uniform(*CONVERSION_RADII, count)
    legs = []
    for fraction, charge in ((share, 1.0), (1 - share, -1.0)):
        pt = photons.pt * fraction
        offset = -charge * radius**2 * CURVATURE / (2 * pt)
        # A circle that touches the photon's line at that radius, seen as a track from the origin.
        legs.append(
            dataclasses.replace(
                photons.scaled(fraction),
                kind=np.full(count, ELECTRON),
                charge=np.full(count, charge),
                phi=photons.phi + charge * radius * CURVATURE / pt,
                d0=photons.d0 + offset,
            )
        )
    return legs[0].joined(legs[1])


def flip(electrons: Flight, rng: np.random.Generator) -> Flight:
    """Replaces electrons by tridents whose hardest particle has the other charge.

    The electron radiates most of its energy, the photon converts, and the wrong-sign electron takes more
    than either other: of the flips in nature those that a track's charge cannot reveal.
    """
    count = len(electrons.pt)
    kept = np.empty(count)
    share = np.empty(count)
    open_ = np.arange(count)
    while len(open_):
        loss = rng.uniform(0.0, 1.0, len(open_))
        kept[open_], share[open_] = 1 - loss, _sharing(len(open_), rng)
        wrong = (1 - kept[open_]) * share[open_]
        lost = wrong < np.maximum(kept[open_], (1 - kept[open_]) * (1 - share[open_]))
        open_ = open_[lost | (kept[open_] < LEAST_BREMSSTRAHLUNG)]
    parts = [(kept, 1.0), ((1 - kept) * share, -1.0), ((1 - kept) * (1 - share), 1.0)]
    made = [
        dataclasses.replace(electrons.scaled(fraction), charge=sign * electrons.charge)
        for fraction, sign in parts
    ]
    return made[0].joined(made[1]).joined(made[2])


def transport(flight: Flight, rng: np.random.Generator) -> tuple[Incoming, Tracks]:
    """Particles at the calorimeter, and the tracks that were measured."""
    count = len(flight.pt)
    radiates = (flight.kind == ELECTRON) & (flight.pt > LEAST_PT)
    spent = rng.gamma(np.where(radiates, material(flight.eta) / np.log(2), 1.0))
    kept = np.where(radiates, np.exp(-spent), 1.0)
    kept = np.where(kept > 1 - LEAST_BREMSSTRAHLUNG, 1.0, np.maximum(kept, LEAST_BREMSSTRAHLUNG))
    where = rng.uniform(0.0, SILICON, count)  # radius of the emission over that of the calorimeter
    bend = -flight.charge * BEND / np.maximum(flight.pt, 1e-6)
    straight = flight.phi + bend * (2 * where - where**2)
    phi = np.where(kept < 1, straight + bend * (1 - where) ** 2 / kept, flight.phi + bend)
    reaches = (flight.charge == 0) | (flight.pt * kept > BEND)
    emits = kept < 1
    incoming = Incoming(
        np.concatenate([flight.candidate[reaches], flight.candidate[emits]]),
        np.concatenate([flight.kind[reaches], np.full(int(emits.sum()), PHOTON)]),
        np.concatenate([(flight.energy * kept)[reaches], (flight.energy * (1 - kept))[emits]]),
        np.concatenate([flight.eta[reaches], flight.eta[emits]]),
        np.concatenate([phi[reaches], straight[emits]]),
    )
    lepton = np.isin(flight.kind, (ELECTRON, MUON))
    found = (flight.charge != 0) & (flight.pt > LEAST_PT) & (lepton | (rng.random(count) < EFFICIENCY))
    return incoming, _measured(flight.chosen(found), kept[found], rng)


def _measured(flight: Flight, kept: Array, rng: np.random.Generator) -> Tracks:
    count = len(flight.pt)
    noise = rng.standard_normal((5, count))
    true = flight.pt * (RECOVERED + (1 - RECOVERED) * kept)
    pt = true / np.maximum(1 + np.hypot(0.015, 0.0004 * true) * noise[0], 0.2)
    d0_error = np.hypot(0.012, 0.12 / flight.pt)
    z0_error = np.hypot(0.06, 0.2 / flight.pt)
    electron = flight.kind == ELECTRON
    likely, unlikely = rng.beta(6.0, 1.5, count), rng.beta(1.5, 6.0, count)
    return Tracks(
        candidate=flight.candidate,
        pt=pt,
        charge=flight.charge,
        eta=flight.eta + 0.0006 * noise[1],
        phi=flight.phi - flight.charge * BEND / pt + 0.0005 * noise[2],
        d0=flight.d0 + d0_error * noise[3],
        d0_error=d0_error,
        z0=flight.z0 + z0_error * noise[4],
        loss=np.clip(1 - kept + 0.08 * rng.standard_normal(count), -0.5, 1.0),
        transition=np.where(electron, likely, unlikely),
    )


def _sharing(count: int, rng: np.random.Generator) -> Array:
    """Energy fractions of one electron of a conversion, density ∝ 1 − 4x(1−x)/3."""
    quantile = rng.random(count)
    # The integral is inverted on a grid of thousandths.
    x = np.linspace(0.001, 0.999, 999)
    integral = np.cumsum(1 - 4 / 3 * x * (1 - x))
    return np.interp(quantile, integral / integral[-1], x)


KINDS = {11: ELECTRON, 22: PHOTON, 13: MUON}


def kinds(pdg: Indices, charge: Indices) -> Indices:
    """Calorimeter kinds of PDG numbers."""
    kind = np.where(charge != 0, CHARGED_HADRON, NEUTRAL_HADRON)
    for number, value in KINDS.items():
        kind = np.where(np.abs(pdg) == number, value, kind)
    return kind.astype(np.int64)
