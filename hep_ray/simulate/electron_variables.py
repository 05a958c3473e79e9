"""Measurement of electron candidates: clusters, tracks, and fifteen identification variables.

Definitions: ATLAS, arXiv:1902.04655 (Table 1), on our cells.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hep_ray.dataset.histogram import wrapped
from hep_ray.simulate import Array, Indices, Rows
from hep_ray.simulate.calorimeter import (
    LAYERS,
    PIXEL_ETA,
    PIXEL_PHI,
    STRIPS_PER_PIXEL,
    Centres,
    Spots,
    layer_image,
)
from hep_ray.simulate.electron_tracker import Tracks

WINDOW = (7, 11)
STRIPS = (WINDOW[0] * STRIPS_PER_PIXEL, WINDOW[1])
MOST_TRACKS = 15
TRACK_WINDOW = (0.1, 0.2)  # |Δη|, |Δφ| of the tracks that are kept
MATCH_WINDOW = (0.05, 0.1)  # and of the one that makes an electron candidate
LEAST_ENERGY = 0.1  # GeV: denominators
STRIP_REACH = 10  # strips on each side of the hottest that count in its width

VARIABLES = {
    "r_had": "",
    "r_eta": "",
    "r_phi": "",
    "w_eta2": "",
    "w_stot": "strips",
    "e_ratio": "",
    "f1": "",
    "f3": "",
    "d0": "mm",
    "d0_significance": "",
    "delta_p_over_p": "",
    "delta_eta1": "",
    "delta_phi_res": "rad",
    "e_over_p": "",
    "e_probability_ht": "",
}
"""Name of each variable and its unit."""
TRACK_FEATURES = {"pt_ratio": "", "delta_eta": "", "delta_phi": "rad", "d0": "mm", "z0": "mm"}


@dataclasses.dataclass(frozen=True)
class Clusters(Rows):
    """Calorimeter measurement of n candidates.

    Args:
        strips: first layer's image, shape (n, 56, 11), GeV.
        layers: the other layers' images, shape (n, 7, 11, 6), GeV.
        energy: of the electromagnetic layers in 3 × 7 cells, in GeV, shape (n,).
        eta: of the middle layer's centre of energy; so is `phi`, not wrapped.
        phi: see `eta`.
        strips_eta: of the strips' centre of energy.
    """

    strips: Array
    layers: Array
    energy: Array
    eta: Array
    phi: Array
    strips_eta: Array

    @property
    def pt(self) -> Array:
        """Transverse energy in GeV."""
        return np.asarray(self.energy / np.cosh(self.eta))


def clusters(spots: Spots, centres: Centres, rng: np.random.Generator) -> Clusters:
    """Reads the cells about each centre, noise included."""
    images = [layer_image(spots, layer, centres, WINDOW, rng) for layer in range(len(LAYERS))]
    strips = images.pop(1)
    layers = np.stack(images, axis=-1)
    core = np.clip(layers[:, 2:5, 2:9, 1], 0.0, None)  # 3 × 7 of the middle layer
    total = np.maximum(core.sum(axis=(1, 2)), LEAST_ENERGY)
    eta = centres.eta_value + (core.sum(axis=2) @ np.arange(-1, 2)) / total * PIXEL_ETA
    phi = centres.phi_value + (core.sum(axis=1) @ np.arange(-3, 4)) / total * PIXEL_PHI
    profile, hottest = _strip_profile(strips)
    near = np.abs(np.arange(STRIPS[0]) - hottest[:, None]) <= 1
    weight = np.clip(profile, 0.0, None) * near
    strip = (weight @ np.arange(STRIPS[0])) / np.maximum(weight.sum(axis=1), 1e-6)
    width = PIXEL_ETA / STRIPS_PER_PIXEL
    strips_eta = (centres.eta - WINDOW[0] // 2) * PIXEL_ETA + (strip + 0.5) * width
    energy = layers[:, 2:5, 2:9, :3].sum(axis=(1, 2, 3)) + strips[:, 16:40, 2:9].sum(axis=(1, 2))
    return Clusters(strips, layers, energy, eta, phi, strips_eta)


def matched(found: Clusters, tracks: Tracks) -> tuple[Array, Indices]:
    """Tracks about each cluster.

    Returns:
        Features, hardest track first, zeros after the last, shape (n, 15, 5); and the index of the hardest
        track that matches the cluster closely, −1 if none does, shape (n,).
    """
    delta_eta = found.eta[tracks.candidate] - tracks.eta
    azimuth = wrapped(found.phi[tracks.candidate] - tracks.phi)
    kept = (np.abs(delta_eta) < TRACK_WINDOW[0]) & (np.abs(azimuth) < TRACK_WINDOW[1])
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-tracks.pt[order], tracks.candidate[order]))]
    owner = tracks.candidate[order]
    rank = np.arange(len(order)) - np.searchsorted(owner, owner)
    matrix = np.column_stack(
        [
            tracks.pt / np.maximum(found.pt[tracks.candidate], LEAST_ENERGY),
            delta_eta,
            tracks.charge * azimuth,
            tracks.d0,
            tracks.z0,
        ]
    )
    features = np.zeros((len(found.energy), MOST_TRACKS, len(TRACK_FEATURES)))
    few = rank < MOST_TRACKS
    features[owner[few], rank[few]] = matrix[order[few]]
    close = (np.abs(delta_eta) < MATCH_WINDOW[0]) & (np.abs(azimuth) < MATCH_WINDOW[1])
    best = np.full(len(found.energy), -1)
    matching = order[close[order]][::-1]
    best[tracks.candidate[matching]] = matching  # the hardest is written last
    return features, best


def identification(found: Clusters, tracks: Tracks, best: Indices) -> Array:
    """The variables in the order of `VARIABLES`, shape (n, 15); `best` indexes each candidate's track."""
    middle = found.layers[..., 1]
    total = np.maximum(found.energy, LEAST_ENERGY)
    strips_energy = found.strips[:, 16:40, 2:9].sum(axis=(1, 2))
    back = found.layers[:, 2:5, 2:9, 2].sum(axis=(1, 2))
    broad = np.maximum(middle[:, :, 2:9].sum(axis=(1, 2)), LEAST_ENERGY)
    narrow = np.maximum(middle[:, 2:5, 2:9].sum(axis=(1, 2)), LEAST_ENERGY)
    momentum = tracks.pt[best] * np.cosh(tracks.eta[best])
    rescaled = wrapped(found.phi - tracks.phi[best])
    columns = {
        "r_had": found.layers[..., 3:].sum(axis=(1, 2, 3)) / total,
        "r_eta": narrow / broad,
        "r_phi": middle[:, 2:5, 4:7].sum(axis=(1, 2)) / narrow,
        "w_eta2": _width(np.clip(middle[:, 2:5, 3:8], 0.0, None).sum(axis=2)) * PIXEL_ETA,
        **_strip_shape(found.strips),
        "f1": strips_energy / total,
        "f3": back / total,
        "d0": tracks.d0[best],
        "d0_significance": np.abs(tracks.d0[best]) / tracks.d0_error[best],
        "delta_p_over_p": tracks.loss[best],
        "delta_eta1": found.strips_eta - tracks.eta[best],
        "delta_phi_res": tracks.charge[best] * rescaled,
        "e_over_p": found.energy / momentum,
        "e_probability_ht": tracks.transition[best],
    }
    return np.column_stack([columns[name] for name in VARIABLES])


def _strip_profile(strips: Array) -> tuple[Array, NDArray[np.intp]]:
    profile = strips[:, :, 2:9].sum(axis=2)
    central = profile[:, 16:40]
    return profile, central.argmax(axis=1) + 16


def _strip_shape(strips: Array) -> dict[str, Array]:
    profile, hottest = _strip_profile(strips)
    place = np.arange(STRIPS[0])
    near = np.abs(place - hottest[:, None]) <= STRIP_REACH
    first = np.take_along_axis(profile, hottest[:, None], axis=1)[:, 0]
    edges = np.pad(profile, ((0, 0), (1, 1)), constant_values=np.inf)
    peaks = (profile > edges[:, :-2]) & (profile > edges[:, 2:]) & (place != hottest[:, None])
    second = np.where(peaks, profile, 0.0).max(axis=1)
    return {
        "w_stot": _width(np.clip(profile, 0.0, None) * near),
        "e_ratio": (first - second) / np.maximum(first + second, LEAST_ENERGY),
    }


def _width(profile: Array) -> Array:
    """Standard deviation in cells of positive profiles, shape (n, cells)."""
    place = np.arange(profile.shape[1])
    total = np.maximum(profile.sum(axis=1), 1e-6)
    mean = (profile @ place) / total
    return np.asarray(np.sqrt(np.maximum((profile @ place**2) / total - mean**2, 0.0)))
