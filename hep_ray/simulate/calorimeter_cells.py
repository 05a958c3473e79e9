"""Calorimeter cells read out as images about a centre; axis 0 η, axis 1 φ, in GeV.

All cells are whole multiples or parts of the middle layer's, Δη × Δφ = 0.025 × π/128. An image has the
middle layer's pixels (strips: an eighth of that in η); a cell larger than a pixel spreads its energy evenly
over its pixels, as the cells of several layers must to share one image. Granularity: ATLAS' barrel (JINST 3
S08003), the third tile layer 0.2 wide in η. Noise: of the order of ATLAS' electronics, without pile-up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate.calorimeter import LAYERS, Spots

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

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
