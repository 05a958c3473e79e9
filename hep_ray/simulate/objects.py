"""Reconstructed objects of an event, and the η–φ images and event variables made of the event, as in the reference.

As in the ATLAS card of Delphes, jets and missing momentum are made of calorimeter towers and measured muons, and
isolated leptons and photons of energy flow. Two kinds of images: of towers and tracks, as the thesis and
arXiv:2310.15227 fill them, and of objects, as the reference's h5 files hold them. There every object fills one bin, its
energy p_T cosh η split into electromagnetic and hadronic by its towers, its p_T as track momentum where it has
tracks; muons fill the track channel alone. In the event variables the missing momentum counts as one object more:
it is part of H_T, of the number and of the leading p_T. The preselection of arXiv:2310.15227 has quantities of
its own: objects with p_T above 70 GeV and |η| below 2.4, and their S_T.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.conversion.readers.delphes import HARD_ETA, HARD_PT, RATIO_MAX
from hep_ray.dataset.histogram import DETECTOR
from hep_ray.simulate import Array
from hep_ray.simulate.detector import (
    ELECTRON,
    MUON,
    NEUTRAL_HADRON,
    PHOTON,
    Deposits,
    Measurement,
    delta_r,
    isolated,
    measure,
    missing_momentum,
    together,
)
from hep_ray.simulate.pythia import FinalState, pythia_module, quiet_stdout

TRACK_CONE = 0.5
ANTI_KT = -1
ALL_FINAL, MASSLESS = 1, 0


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects of one event, missing momentum beside them.

    Args:
        pt: transverse momentum in GeV, shape (n,).
        eta: shape (n,).
        phi: shape (n,), in (−π, π].
        electromagnetic: calorimeter energy in GeV counted as electromagnetic, shape (n,).
        hadronic: calorimeter energy in GeV counted as hadronic, shape (n,).
        tracks: whether tracks belong to it, shape (n,).
        missing: missing transverse momentum in GeV.
    """

    pt: Array
    eta: Array
    phi: Array
    electromagnetic: Array
    hadronic: Array
    tracks: NDArray[np.bool_]
    missing: float


@dataclasses.dataclass(frozen=True)
class Event:
    """One event after the detector: what it measured, and the objects found in that."""

    measured: Measurement
    objects: Objects


class Reconstruction:
    """Finds the objects of an event.

    Thresholds are those of the ATLAS card of Delphes 3, whose R is 0.6; the default is that of arXiv:2310.15227.

    Args:
        jet_radius: R of the anti-kT algorithm.
        jet_pt: least transverse momentum of a jet before the energy scale correction, in GeV.
        lost_muons: probability that a measured muon goes unseen altogether; 0 in the card.

    Raises:
        MissingPackage: Pythia, whose jet finder this is, is not installed.
    """

    def __init__(self, jet_radius: float = 0.4, jet_pt: float = 20.0, lost_muons: float = 0.0) -> None:
        module = pythia_module()
        self._lost_muons = lost_muons
        self._record: Any = module.Event()
        self._finder: Any = module.SlowJet(ANTI_KT, jet_radius, jet_pt, 5.0, ALL_FINAL, MASSLESS)
        with quiet_stdout():
            self._cluster(Deposits(np.ones(1), np.ones(1), np.ones(1), np.zeros(1, dtype=np.int64)))

    def event(self, state: FinalState, rng: np.random.Generator) -> Event:
        """Measure and reconstruct one event."""
        measured = measure(state, rng)
        if self._lost_muons > 0:
            measured = _without_muons(measured, self._lost_muons, rng)
        return Event(measured, self._objects(measured, rng))

    def _objects(self, measured: Measurement, rng: np.random.Generator) -> Objects:
        flow, tracks = measured.flow, measured.tracks
        photons, electrons, muons = (isolated(flow, kind, rng) for kind in (PHOTON, ELECTRON, MUON))
        singles = flow.chosen(np.concatenate([photons, electrons, muons]))
        muon = singles.kind == MUON
        towers = together([measured.towers, tracks.chosen(tracks.kind == MUON)])
        # A jet that holds the tower of one of these is that object seen again.
        own = np.concatenate(
            [_nearest(singles.chosen(which), towers, kind) for which, kind in ((~muon, PHOTON), (muon, MUON))]
        )
        jets = [one for one in self._cluster(towers) if not np.isin(one, own).any()]
        energy = towers.energy
        parts = [np.where(towers.kind == kind, energy, 0.0) for kind in (PHOTON, NEUTRAL_HADRON)]
        momenta = np.array([_jet_momentum(towers, members) for members in jets]).reshape(-1, 3)
        jet_energy = momenta[:, 0] * np.cosh(momenta[:, 1])
        electromagnetic, hadronic = (
            np.array([part[members].sum() for members in jets]).reshape(-1) for part in parts
        )
        share = _hadronic_share(electromagnetic, hadronic)
        seen = electromagnetic + hadronic > 0
        cone = delta_r(momenta[:, 1], momenta[:, 2], tracks.eta, tracks.phi)
        return Objects(
            pt=np.concatenate([singles.pt, momenta[:, 0]]),
            eta=np.concatenate([singles.eta, momenta[:, 1]]),
            phi=np.concatenate([singles.phi, momenta[:, 2]]),
            electromagnetic=np.concatenate([singles.energy * ~muon, jet_energy * (1 - share) * seen]),
            hadronic=np.concatenate([np.zeros(len(muon)), jet_energy * share * seen]),
            tracks=np.concatenate([singles.kind != PHOTON, (cone < TRACK_CONE).any(axis=1)]),
            missing=missing_momentum(towers),
        )

    def _cluster(self, deposits: Deposits) -> list[NDArray[np.intp]]:
        """Indices of the deposits of each jet."""
        self._record.reset()
        append = self._record.append
        for momentum in deposits.momenta.tolist():
            append(PHOTON, 1, 0, 0, *momentum)
        self._finder.analyze(self._record)
        # Pythia's record opens with a line for the event as a whole.
        return [
            np.array(self._finder.constituents(jet), dtype=np.intp) - 1
            for jet in range(self._finder.sizeJet())
        ]


def _jet_momentum(deposits: Deposits, members: NDArray[np.intp]) -> tuple[float, float, float]:
    """p_T after the energy scale correction √((3 − 0.2|η|)²/p_T + 1), η and φ of a jet."""
    pt, eta, phi = deposits.pt[members], deposits.eta[members], deposits.phi[members]
    px, py, pz = (pt * np.cos(phi)).sum(), (pt * np.sin(phi)).sum(), (pt * np.sinh(eta)).sum()
    raw = float(np.hypot(px, py))
    direction = float(np.arcsinh(pz / raw))
    scale = float(np.sqrt((3 - 0.2 * abs(direction)) ** 2 / raw + 1))
    return raw * scale, direction, float(np.arctan2(py, px))


def _hadronic_share(electromagnetic: Array, hadronic: Array) -> Array:
    """Return h / (1 + h) of the ratio h of hadronic to electromagnetic energy, capped as Delphes caps it."""
    ratio = np.full(len(hadronic), RATIO_MAX)
    np.divide(hadronic, electromagnetic, out=ratio, where=electromagnetic > 0)
    ratio = np.minimum(ratio, RATIO_MAX)
    return np.asarray(ratio / (1 + ratio))


def _nearest(found: Deposits, towers: Deposits, kind: int) -> NDArray[np.intp]:
    """Indices of the towers of that kind that are nearest to each of some deposits."""
    candidates = np.flatnonzero(towers.kind == kind)
    if len(candidates) == 0 or len(found.pt) == 0:
        return np.zeros(0, dtype=np.intp)
    there = towers.chosen(candidates)
    return np.asarray(candidates[delta_r(found.eta, found.phi, there.eta, there.phi).argmin(axis=1)])


def _without_muons(measured: Measurement, lost: float, rng: np.random.Generator) -> Measurement:
    """Drop muons with the given probability; tracks and energy flow list the same muons in the same order."""
    tracks, flow = measured.tracks, measured.flow
    kept = rng.random(int((tracks.kind == MUON).sum())) >= lost
    without = []
    for deposits in (tracks, flow):
        which = np.ones(len(deposits.pt), dtype=np.bool_)
        which[deposits.kind == MUON] = kept
        without.append(deposits.chosen(which))
    return Measurement(without[0], measured.towers, without[1])


CHANNELS = ("electromagnetic", "hadronic", "tracks")  # as in the thesis' own images


def event_image(measured: Measurement) -> NDArray[np.float32]:
    """Fill a histogram with towers and tracks.

    Returns:
        Tower energy in GeV and track p_T in GeV, shape (50 φ ∈ [−π, π], 50 η ∈ [−5, 5], 3 channels as in `CHANNELS`).
    """
    towers, tracks = measured.towers, measured.tracks
    energy = towers.energy
    seen = together([towers, tracks])
    values = np.zeros((len(seen.pt), len(CHANNELS)))
    values[: len(energy), 0] = energy * (towers.kind == PHOTON)
    values[: len(energy), 1] = energy * (towers.kind == NEUTRAL_HADRON)
    values[len(energy) :, 2] = tracks.pt
    return DETECTOR.image(seen.eta, seen.phi, values)


def object_image(objects: Objects) -> NDArray[np.float32]:
    """Fill a histogram with one bin per object; shape and channels as of `event_image`."""
    values = np.column_stack([objects.electromagnetic, objects.hadronic, objects.pt * objects.tracks])
    return DETECTOR.image(objects.eta, objects.phi, values)


def event_variables(objects: Objects) -> dict[str, float]:
    """Quantities of an event as a whole.

    Returns:
        `ht`, `met` and `leading_pt` in GeV, `n_objects`, with missing momentum as an object; `st` in GeV,
        the sum of the p_T of the objects above 70 GeV and below |η| = 2.4, and of the missing momentum where
        it is above 70 GeV; `n_objects_70`, how many such objects, without missing momentum. The preselection is
        `n_objects_70 >= 5 and st >= 7000`.
    """
    momenta = np.append(objects.pt, objects.missing)
    hard = objects.pt[(objects.pt > HARD_PT) & (np.abs(objects.eta) < HARD_ETA)]
    return {
        "ht": float(momenta.sum()),
        "met": objects.missing,
        "leading_pt": float(momenta.max()),
        "n_objects": float(len(momenta)),
        "st": float(hard.sum()) + objects.missing * (objects.missing > HARD_PT),
        "n_objects_70": float(len(hard)),
    }
