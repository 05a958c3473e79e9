"""Reconstructed objects of an event, and the η–φ images and event variables made of them, as in the reference sample.

What the reference holds was worked out from its files: every object fills one bin, its energy p_T cosh η
split into electromagnetic and hadronic by the ratio of its neutral calorimeter cells, its p_T as track
momentum where it has tracks; muons fill the track channel alone. In the event variables the missing
momentum counts as one object more: it is part of H_T, of the number and of the leading p_T.
The preselection of arXiv:2310.15227 has quantities of its own: objects with p_T above 70 GeV, and their S_T.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate import Array
from hep_ray.simulate.detector import (
    ELECTRON,
    MUON,
    NEUTRAL_HADRON,
    PHOTON,
    Deposits,
    delta_r,
    detect,
    isolated,
    missing_momentum,
)
from hep_ray.simulate.pythia import FinalState, pythia_module, quiet_stdout

TRACK_CONE = 0.5
RATIO_MAX = 999.9
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


class Reconstruction:
    """Finds the objects in a detector's energy flow.

    The defaults are those of the ATLAS card of Delphes 3.

    Args:
        jet_radius: R of the anti-kT algorithm.
        jet_pt: least transverse momentum of a jet before the energy scale correction, in GeV.

    Raises:
        MissingPackage: Pythia, whose jet finder this is, is not installed.
    """

    def __init__(self, jet_radius: float = 0.4, jet_pt: float = 20.0) -> None:
        module = pythia_module()
        self._record: Any = module.Event()
        self._finder: Any = module.SlowJet(ANTI_KT, jet_radius, jet_pt, 5.0, ALL_FINAL, MASSLESS)
        with quiet_stdout():
            self._cluster(Deposits(np.ones(1), np.ones(1), np.ones(1), np.zeros(1, dtype=np.int64)))

    def objects(self, state: FinalState, rng: np.random.Generator) -> Objects:
        """Measure and reconstruct one event."""
        deposits = detect(state, rng)
        photons, electrons, muons = (isolated(deposits, kind, rng) for kind in (PHOTON, ELECTRON, MUON))
        singles = np.concatenate([photons, electrons, muons])
        # A jet that holds one of these is that object seen again.
        jets = [one for one in self._cluster(deposits) if not np.isin(one, singles).any()]
        energy = deposits.energy
        neutral = [np.where(deposits.kind == kind, energy, 0.0) for kind in (PHOTON, NEUTRAL_HADRON)]
        momenta = np.array([_jet_momentum(deposits, members) for members in jets]).reshape(-1, 3)
        jet_energy = momenta[:, 0] * np.cosh(momenta[:, 1])
        share = np.array([_hadronic_share(*(cells[members].sum() for cells in neutral)) for members in jets])
        tracked = deposits.tracks
        cone = delta_r(momenta[:, 1], momenta[:, 2], deposits.eta[tracked], deposits.phi[tracked])
        seen = energy[singles] * (deposits.kind[singles] != MUON)
        return Objects(
            pt=np.concatenate([deposits.pt[singles], momenta[:, 0]]),
            eta=np.concatenate([deposits.eta[singles], momenta[:, 1]]),
            phi=np.concatenate([deposits.phi[singles], momenta[:, 2]]),
            electromagnetic=np.concatenate([seen, jet_energy * (1 - share)]),
            hadronic=np.concatenate([np.zeros(len(singles)), jet_energy * share]),
            tracks=np.concatenate([deposits.kind[singles] != PHOTON, (cone < TRACK_CONE).any(axis=1)]),
            missing=missing_momentum(deposits),
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


def _hadronic_share(electromagnetic: float, hadronic: float) -> float:
    """Gives h / (1 + h) from the ratio h of hadronic to electromagnetic energy, capped as Delphes caps it."""
    ratio = hadronic / electromagnetic if electromagnetic > 0 else RATIO_MAX
    return min(ratio, RATIO_MAX) / (1 + min(ratio, RATIO_MAX))


PIXELS = 50
ETA_MAX = 5.0
HARD_PT = 70.0  # GeV
CHANNELS = ("electromagnetic", "tracks", "hadronic")


def event_image(objects: Objects) -> NDArray[np.float32]:
    """Histogram in GeV, shape (50 φ ∈ [−π, π], 50 η ∈ [−5, 5], 3 channels as in `CHANNELS`)."""
    image = np.zeros((PIXELS, PIXELS, len(CHANNELS)), dtype=np.float64)
    inside = np.abs(objects.eta) < ETA_MAX
    phi = np.minimum(((objects.phi + math.pi) / (2 * math.pi) * PIXELS).astype(np.intp), PIXELS - 1)
    eta = ((objects.eta + ETA_MAX) / (2 * ETA_MAX) * PIXELS).astype(np.intp)
    values = np.column_stack([objects.electromagnetic, objects.pt * objects.tracks, objects.hadronic])
    np.add.at(image, (phi[inside], eta[inside]), values[inside])
    return image.astype(np.float32)


def event_variables(objects: Objects) -> dict[str, float]:
    """Quantities of an event as a whole.

    Returns:
        `ht`, `met` and `leading_pt` in GeV, `n_objects`, with missing momentum as an object; `st` in GeV,
        the sum of the p_T above 70 GeV and of missing momentum; `n_objects_70`, the objects above 70 GeV
        without it. The preselection is `n_objects_70 >= 5 and st >= 7000`.
    """
    momenta = np.append(objects.pt, objects.missing)
    hard = objects.pt[objects.pt > HARD_PT]
    return {
        "ht": float(momenta.sum()),
        "met": objects.missing,
        "leading_pt": float(momenta.max()),
        "n_objects": float(len(momenta)),
        "st": float(hard.sum()) + objects.missing,
        "n_objects_70": float(len(hard)),
    }
