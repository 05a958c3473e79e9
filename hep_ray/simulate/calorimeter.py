"""Showers in a parametrised ATLAS-like calorimeter: a presampler, three lead–argon and three tile layers.

Electromagnetic showers: Grindhammer and Peters, hep-ex/0001020, individual showers in sampling
calorimeters. The depth t follows a Gamma profile (βt)^(α−1) β e^(−βt) / Γ(α), whose ln T (T the depth of
the maximum) and ln α are correlated normal numbers; the radius follows p·2rR_C²/(r²+R_C²)² +
(1−p)·2rR_T²/(r²+R_T²)², whose parameters change with t/T. The constants are those that Geant4's Gflash
tabulates for that paper. Photons start after an exponential path of 9/7 radiation lengths.

Hadronic showers: a start after an exponential path of one interaction length, then the two Gamma profiles
of Bock, Hansl-Kozanecka and Shah, NIM 186 (1981) 533, one in radiation and one in interaction lengths.
Those constants are quoted from memory of the paper, which was not at hand. Ours are: the share of the
electromagnetic part fluctuates by 0.2 about its mean, the rest responds as 1/1.36 (the tile calorimeter's
e/h), radii are 1.5 cm and 6 cm. Charged particles ionise until they interact; muons all the way.

Material: depths as in ATLAS' barrel at η = 0 (JINST 3 S08003), rounded, along the particle at any η.

Readout: cells are read out as images about a centre; axis 0 η, axis 1 φ, in GeV.
All cells are whole multiples or parts of the middle layer's, Δη × Δφ = 0.025 × π/128. An image has the
middle layer's pixels (strips: an eighth of that in η); a cell larger than a pixel spreads its energy evenly
over its pixels, as the cells of several layers must to share one image. Granularity: ATLAS' barrel (JINST 3
S08003), the third tile layer 0.2 wide in η. Noise: of the order of ATLAS' electronics, without pile-up.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from scipy.special import gammainc

from hep_ray.simulate import Array, Indices, Rows

ELECTRON, PHOTON, CHARGED_HADRON, NEUTRAL_HADRON, MUON = range(5)


class Layer(NamedTuple):
    """One depth layer.

    Args:
        name: of the layer.
        start: depth along the particle, in radiation lengths.
        radius: from the beam in the barrel, in cm; in the endcaps `distance` along it counts.
        ionisation: visible loss of a minimum ionising particle, in GeV per radiation length.
        stochastic: sampling term a of σ/E = a/√(E/GeV).
    """

    name: str
    start: float
    end: float
    radius: float
    distance: float
    ionisation: float
    stochastic: float


LAYERS = (
    Layer("presampler", 1.7, 2.0, 145.0, 360.0, 0.0116, 0.10),
    Layer("em1", 2.0, 6.3, 150.0, 370.0, 0.0116, 0.10),
    Layer("em2", 6.3, 22.3, 160.0, 385.0, 0.0116, 0.10),
    Layer("em3", 22.3, 24.3, 180.0, 405.0, 0.0116, 0.10),
    Layer("tile1", 27.1, 40.9, 240.0, 440.0, 0.027, 0.50),
    Layer("tile2", 40.9, 78.6, 290.0, 490.0, 0.027, 0.50),
    Layer("tile3", 78.6, 95.2, 360.0, 550.0, 0.027, 0.50),
)
EDGES = np.array([(layer.start, layer.end) for layer in LAYERS])  # X0
CENTRES = EDGES.mean(axis=1)
# Interaction lengths at depths in radiation lengths: 19 X0 are one in lead–argon, 9.2 in the tiles.
DEPTH_X0 = np.array([0.0, 24.3, 95.2])
DEPTH_LAMBDA = np.array([0.0, 24.3 / 19, 24.3 / 19 + 70.9 / 9.2])
INTERACTION_EDGES = np.interp(EDGES, DEPTH_X0, DEPTH_LAMBDA)

# 1.53 mm of lead and 4.2 mm of argon, combined as hep-ex/0001020 (section 3) does.
CRITICAL_ENERGY = 0.00995  # GeV
MOLIERE_RADIUS = 4.03  # cm
ATOMIC_NUMBER = 65.8
INVERSE_FREQUENCY = 0.303  # 1/F_S: thickness of a plate and a gap in radiation lengths
RESPONSE_DEFICIT = 1 - 1 / (1 + 0.007 * (82 - 18))  # 1 − ê
LEAST_LOG_ENERGY = 4.0  # of ln(E/E_c): below 0.5 GeV showers keep the shape they have there

HADRON_PATH = 1.0  # interaction lengths
CONVERSION_PATH = 9 / 7  # radiation lengths
BOCK_SHARE, BOCK_SHARE_SPREAD = 0.4634, 0.2
E_OVER_H = 1.36
HADRON_RADII = (1.5, 6.0)  # cm: electromagnetic and hadronic part
FARTHEST = 0.99  # quantile of the radius where showers are cut off
IONISATION_SHAPE = 6.0  # Gamma distribution of the ionisation in a layer
LEAST_SPOT = 0.001  # GeV: smaller deposits are dropped
SPOTS, MOST_SPOTS = (60.0, 12.0), 200  # per √(E/GeV): electromagnetic and hadronic


@dataclasses.dataclass(frozen=True)
class Incoming(Rows):
    """Particles that enter the calorimeters around some candidates.

    `candidate` numbers the candidate that each belongs to, `kind` is one of `ELECTRON` to `MUON`, `energy` in
    GeV, `eta` and `phi` are where its line enters; all of shape (n,).
    """

    candidate: Indices
    kind: Indices
    energy: Array
    eta: Array
    phi: Array


@dataclasses.dataclass(frozen=True)
class Spots:
    """Points where energy is deposited; `energy` in GeV, all of shape (n,)."""

    candidate: Indices
    layer: Indices
    energy: Array
    eta: Array
    phi: Array


def electromagnetic_shape(energy: Array, rng: np.random.Generator | None = None) -> tuple[Array, Array]:
    """α and the depth T of the maximum in radiation lengths, averages unless given an `rng`; shape (n,)."""
    log_energy = np.maximum(np.log(np.maximum(energy, 1e-6) / CRITICAL_ENERGY), LEAST_LOG_ENERGY)
    depth = log_energy - 0.812 - 0.55 * INVERSE_FREQUENCY - 0.69 * RESPONSE_DEFICIT
    alpha = 0.81 + (0.458 + 2.26 / ATOMIC_NUMBER) * log_energy - 0.476 * INVERSE_FREQUENCY
    if rng is None:
        return alpha, depth
    normal = rng.standard_normal((2, len(energy)))
    correlation = 0.784 - 0.023 * log_energy
    plus, minus = np.sqrt((1 + correlation) / 2), np.sqrt((1 - correlation) / 2)
    log_depth = (plus * normal[0] + minus * normal[1]) / (-2.5 + 1.25 * log_energy)
    log_alpha = (plus * normal[0] - minus * normal[1]) / (-0.82 + 0.79 * log_energy)
    return np.maximum(alpha * np.exp(log_alpha), 1.1), depth * np.exp(log_depth)


def longitudinal(alpha: Array, beta: Array, start: Array, edges: Array = EDGES) -> Array:
    """Share of a Gamma profile that begins at a depth in each layer, shape (n, layers)."""
    inside = np.maximum(edges - start[:, None, None], 0.0)
    return np.asarray(np.diff(gammainc(alpha[:, None, None], beta[:, None, None] * inside))[..., 0])


def radial_parameters(energy: Array, tau: Array) -> tuple[Array, Array, Array]:
    """R_C and R_T in Molière radii and the core's weight p, at depths τ = t/T."""
    log_energy = np.log(np.maximum(energy, 0.1))
    damped = INVERSE_FREQUENCY * np.exp(-tau)
    core = 0.0251 + 0.00319 * log_energy + (0.1162 - 0.000381 * ATOMIC_NUMBER) * tau
    core += -0.0203 * RESPONSE_DEFICIT + 0.0397 * damped
    rise = 0.3585 + 0.0412 * log_energy
    tail = (0.659 - 0.00309 * ATOMIC_NUMBER) * (np.exp(-2.59 * (tau - 0.645)) + np.exp(rise * (tau - 0.645)))
    tail += -0.14 * RESPONSE_DEFICIT - 0.495 * damped
    x = (0.401 + 0.00187 * ATOMIC_NUMBER - tau) / (1.313 - 0.0686 * log_energy)
    weight = (2.632 - 0.00094 * ATOMIC_NUMBER) * np.exp(x - np.exp(x))
    weight += RESPONSE_DEFICIT * (0.348 - 0.642 * INVERSE_FREQUENCY * np.exp(-((tau - 1) ** 2)))
    return np.maximum(core, 0.01), np.clip(tail, 0.05, 5.0), np.clip(weight, 0.0, 1.0)


def shower(incoming: Incoming, rng: np.random.Generator) -> Spots:
    """Deposits of all particles, with fluctuations of shape, sampling and number of spots."""
    electromagnetic = np.isin(incoming.kind, (ELECTRON, PHOTON))
    hadronic = np.isin(incoming.kind, (CHARGED_HADRON, NEUTRAL_HADRON))
    parts = [
        _electromagnetic(incoming.chosen(electromagnetic), rng),
        *_hadronic(incoming.chosen(hadronic), rng),
        _ionising(incoming.chosen(incoming.kind == MUON), None, rng),
    ]
    return Spots(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


SpotArrays = tuple[Indices, Indices, Array, Array, Array]


def _electromagnetic(incoming: Incoming, rng: np.random.Generator) -> SpotArrays:
    energy = incoming.energy
    alpha, depth = electromagnetic_shape(energy, rng)
    path = rng.exponential(CONVERSION_PATH, len(energy)) * (incoming.kind == PHOTON)
    deposits = energy[:, None] * longitudinal(alpha, (alpha - 1) / depth, path)
    tau = np.clip((CENTRES - path[:, None]) / depth[:, None], 0.05, 3.0)
    core, tail, weight = radial_parameters(energy[:, None], tau)
    return _spread(incoming, deposits, (core, tail, weight), SPOTS[0], rng)


def _hadronic(incoming: Incoming, rng: np.random.Generator) -> list[SpotArrays]:
    count = len(incoming.energy)
    path = rng.exponential(HADRON_PATH, count)
    path_x0 = np.interp(path, DEPTH_LAMBDA, DEPTH_X0, right=np.inf)
    log_energy = np.log(np.maximum(incoming.energy, 1.0))
    alpha = 0.6165 + 0.3193 * log_energy
    size = BOCK_SHARE * (1 - BOCK_SHARE) / BOCK_SHARE_SPREAD**2 - 1
    share = rng.beta(BOCK_SHARE * size, (1 - BOCK_SHARE) * size, count)
    fast = longitudinal(alpha, np.full(count, 0.2198), path_x0)
    slow = longitudinal(alpha, 0.9099 - 0.0237 * log_energy, path, INTERACTION_EDGES)
    parts = (share * incoming.energy, (1 - share) * incoming.energy / E_OVER_H)
    ionising = incoming.chosen(incoming.kind == CHARGED_HADRON)
    return [
        _spread(incoming, part[:, None] * profile, _one_radius(radius), SPOTS[1], rng)
        for part, profile, radius in zip(parts, (fast, slow), HADRON_RADII, strict=True)
    ] + [_ionising(ionising, path_x0[incoming.kind == CHARGED_HADRON], rng)]


def _ionising(incoming: Incoming, stop: Array | None, rng: np.random.Generator) -> SpotArrays:
    """Ionisation until the depth `stop` in radiation lengths, or all the way."""
    last = np.full(len(incoming.energy), np.inf) if stop is None else stop
    lengths = np.clip(last[:, None] - EDGES[:, 0], 0.0, np.diff(EDGES)[:, 0])
    loss = lengths * np.array([layer.ionisation for layer in LAYERS])
    deposits = loss * rng.gamma(IONISATION_SHAPE, 1 / IONISATION_SHAPE, loss.shape)
    return _spread(incoming, deposits, _one_radius(0.1), 1.0, rng)


def _one_radius(centimetres: float) -> tuple[Array, Array, Array]:
    radius = np.full((1, len(LAYERS)), centimetres / MOLIERE_RADIUS)
    return radius, radius, np.ones_like(radius)


def _spread(
    incoming: Incoming,
    deposits: Array,
    radial: tuple[Array, Array, Array],
    spots_per_root: float,
    rng: np.random.Generator,
) -> SpotArrays:
    """Distributes the energies of shape (n, layers) over spots, after the sampling fluctuation."""
    sampling = np.array([layer.stochastic for layer in LAYERS]) ** 2
    kept = deposits > LEAST_SPOT
    particle, layer = np.nonzero(kept)
    energy = sampling[layer] * rng.gamma(deposits[kept] / sampling[layer])
    core, tail, weight = (np.broadcast_to(values, deposits.shape)[kept] for values in radial)
    counts = np.clip(spots_per_root * np.sqrt(energy), 3, MOST_SPOTS).astype(np.int64)
    spot = np.repeat(np.arange(len(counts)), counts)
    quantile, choice, angle = rng.random((3, len(spot)))
    quantile *= FARTHEST
    radius = np.where(choice < weight[spot], core[spot], tail[spot]) * np.sqrt(quantile / (1 - quantile))
    barrel = np.array([one.radius for one in LAYERS])
    endcap = np.array([one.distance for one in LAYERS])
    eta, phi = incoming.eta[particle], incoming.phi[particle]
    from_beam = np.minimum(barrel[layer], endcap[layer] / np.maximum(np.sinh(np.abs(eta)), 0.1))
    step = radius * MOLIERE_RADIUS / from_beam[spot]
    turn = 2 * math.pi * angle
    return (
        incoming.candidate[particle][spot],
        layer.astype(np.int64)[spot],
        (energy / counts)[spot],
        eta[spot] + step * np.cos(turn),
        phi[spot] + step * np.sin(turn),
    )


PIXEL_ETA = 0.025
PIXEL_PHI = math.pi / 128
PIXELS_AROUND = 256
STRIPS_PER_PIXEL = 8


class Cells(NamedTuple):
    """Readout of one layer.

    Args:
        eta_parts: pixels of its image per middle-layer cell in η.
        eta_size: of a cell in pixels of its image; so is `phi_size`.
        phi_size: see `eta_size`; a divisor of the pixels around.
        noise: standard deviation per cell, in GeV.
    """

    eta_parts: int
    eta_size: int
    phi_size: int
    noise: float


CELLS = (
    Cells(1, 1, 4, 0.040),
    Cells(STRIPS_PER_PIXEL, 1, 4, 0.010),
    Cells(1, 1, 1, 0.030),
    Cells(1, 2, 1, 0.020),
    Cells(1, 4, 4, 0.025),
    Cells(1, 4, 4, 0.025),
    Cells(1, 8, 4, 0.025),
)
EM2 = [layer.name for layer in LAYERS].index("em2")


class Centres(NamedTuple):
    """Middle-layer cells at which windows are centred, counted from η = 0 and φ = 0; shape (n,) each."""

    eta: Indices
    phi: Indices

    @property
    def eta_value(self) -> Array:
        """η of the cells' centres."""
        return np.asarray((self.eta + 0.5) * PIXEL_ETA)

    @property
    def phi_value(self) -> Array:
        """φ of the cells' centres, not wrapped."""
        return np.asarray((self.phi + 0.5) * PIXEL_PHI)


def centres_at(eta: Array, phi: Array) -> Centres:
    """The cells that hold these directions."""
    return Centres(np.floor(eta / PIXEL_ETA).astype(np.int64), np.floor(phi / PIXEL_PHI).astype(np.int64))


def hottest_cells(spots: Spots, around: Centres, window: tuple[int, int]) -> Centres:
    """The middle-layer cell with most energy in a window about each centre."""
    image = layer_image(spots, EM2, around, window, None)
    eta, phi = np.unravel_index(image.reshape(len(image), math.prod(window)).argmax(axis=1), window)
    return Centres(around.eta - window[0] // 2 + eta, around.phi - window[1] // 2 + phi)


def layer_image(
    spots: Spots,
    layer: int,
    centres: Centres,
    window: tuple[int, int],
    rng: np.random.Generator | None,
) -> Array:
    """One layer's image about each centre.

    Args:
        spots: deposits; `candidate` indexes the centres.
        layer: index into `LAYERS`.
        centres: of the windows.
        window: middle-layer cells in η and φ, odd numbers.
        rng: draws the noise; none without it.

    Returns:
        Shape (n, η pixels, φ pixels), GeV.
    """
    cells = CELLS[layer]
    start_eta = (centres.eta - window[0] // 2) * cells.eta_parts
    start_phi = centres.phi - window[1] // 2
    pixels = (window[0] * cells.eta_parts, window[1])
    first_eta, first_phi = start_eta // cells.eta_size, start_phi // cells.phi_size
    shape = (len(centres.eta), pixels[0] // cells.eta_size + 2, pixels[1] // cells.phi_size + 2)

    chosen = spots.layer == layer
    candidate = spots.candidate[chosen]
    eta = np.floor(spots.eta[chosen] / PIXEL_ETA * cells.eta_parts).astype(np.int64) // cells.eta_size
    phi = np.floor(spots.phi[chosen] / PIXEL_PHI).astype(np.int64) // cells.phi_size
    around = PIXELS_AROUND // cells.phi_size
    eta = eta - first_eta[candidate]
    phi = (phi - first_phi[candidate]) % around
    inside = (eta >= 0) & (eta < shape[1]) & (phi < shape[2])
    where = np.ravel_multi_index((candidate[inside], eta[inside], phi[inside]), shape)
    energy = np.bincount(where, spots.energy[chosen][inside], minlength=math.prod(shape))
    grid = energy.astype(np.float64).reshape(shape)
    if rng is not None:
        grid += rng.normal(0.0, cells.noise, shape)

    rows = (start_eta[:, None] + np.arange(pixels[0])) // cells.eta_size - first_eta[:, None]
    columns = (start_phi[:, None] + np.arange(pixels[1])) // cells.phi_size - first_phi[:, None]
    each = np.arange(shape[0])[:, None, None]
    return np.asarray(grid[each, rows[:, :, None], columns[:, None, :]] / (cells.eta_size * cells.phi_size))
