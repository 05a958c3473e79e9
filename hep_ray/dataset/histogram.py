"""η–φ histograms: images that simulations, the reader of Delphes and schema files fill with what an event holds.

Shape suffixes: N events, M items of all events, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
CIRCLE = 2 * math.pi
SLACK = 1e-5
"""By how much an azimuth in float32 may lie beyond the end of the circle."""


@dataclass(frozen=True)
class EtaPhiGrid:
    """Pixels over a window in φ and η.

    Attributes:
        pixels: along φ and along η.
        phi: range of φ; of the whole circle, every azimuth has its place, in any convention.
        eta: range of η.
    """

    pixels: tuple[int, int]
    phi: tuple[float, float]
    eta: tuple[float, float]

    @property
    def whole_circle(self) -> bool:
        """Whether φ goes all the way round."""
        return self.phi[1] - self.phi[0] > CIRCLE - SLACK

    def sums(
        self, event: npt.NDArray[np.intp], eta: FloatArray, phi: FloatArray, values: FloatArray, events: int
    ) -> FloatArray:
        """Sum the values of items over pixels; those beyond the window are left out.

        Args:
            event: (M,) number of the event that an item belongs to.
            eta: (M,).
            phi: (M,).
            values: (M, C).
            events: N.

        Returns:
            Shape (N, φ, η, C).
        """
        (phi_low, phi_high), (eta_low, eta_high) = self.phi, self.eta
        middle = (phi_low + phi_high) / 2
        phi = np.where(np.abs(phi - middle) > math.pi + SLACK, middle + wrapped(phi - middle), phi)
        inside = (eta >= eta_low) & (eta < eta_high)
        if not self.whole_circle:
            inside &= (phi >= phi_low) & (phi < phi_high)
        along_phi, along_eta = self.pixels
        row = ((phi[inside] - phi_low) / (phi_high - phi_low) * along_phi).astype(np.intp)
        column = ((eta[inside] - eta_low) / (eta_high - eta_low) * along_eta).astype(np.intp)
        row, column = np.clip(row, 0, along_phi - 1), np.minimum(column, along_eta - 1)
        place = (event[inside] * along_phi + row) * along_eta + column
        size = events * along_phi * along_eta
        image: FloatArray = np.empty((size, values.shape[1]))
        for channel, value in enumerate(values.T):
            image[:, channel] = np.bincount(place, value[inside], size)
        return image.reshape(events, along_phi, along_eta, values.shape[1])

    def image(self, eta: FloatArray, phi: FloatArray, values: FloatArray) -> npt.NDArray[np.float32]:
        """Sum the values (M, C) of one event over pixels, in shape (φ, η, C); see `sums`."""
        return self.sums(np.zeros(len(eta), np.intp), eta, phi, values, 1).astype(np.float32)[0, ...]


def wrapped(phi: FloatArray) -> FloatArray:
    """Return azimuths in [−π, π)."""
    return np.asarray((phi + math.pi) % CIRCLE - math.pi)


DETECTOR = EtaPhiGrid((50, 50), (-math.pi, math.pi), (-5.0, 5.0))
"""Pixels of the HVL thesis and of arXiv:2310.15227."""
