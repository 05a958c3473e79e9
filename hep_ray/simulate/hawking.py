"""Hawking radiation of a Schwarzschild black hole in 4 + n dimensions (Myers and Perry 1986), for fields on the brane.

The metric induced on the brane is ds² = −h dt² + dr²/h + r² dΩ² with h = 1 − (r_H/r)^(n+1). There the
radial equation of each spin takes the form of one-dimensional scattering in the tortoise coordinate,

    d²ψ/dr*² + (ω² − V) ψ = 0,    dr*/dr = 1/h,

    scalar         V = h [l(l+1)/r² + h'/r],       l = 0, 1, …
    fermion        V = W² + dW/dr*, W = κ √h / r,  κ = j + 1/2 = 1, 2, …
    gauge boson    V = h l(l+1)/r²,                l = 1, 2, …

and the greybody factor Γ is the probability to cross V. Particles emitted per time, energy and degree
of freedom: d²N/dt dω = (1/2π) Σ (2j+1) Γ(ω) / (exp(ω/T) ∓ 1). Only ω r_H enters, so one table per n
serves a hole of any mass. Source: Harris and Kanti, hep-ph/0309054 (same physics by another equation;
their relative emissivities are reproduced by our tests).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate import Array


class Spin(enum.Enum):
    """Spin of an emitted field."""

    SCALAR = 0.0
    FERMION = 0.5
    VECTOR = 1.0


@dataclasses.dataclass(frozen=True)
class EmissionSpectrum:
    """Number spectrum of one degree of freedom, in units of the horizon radius.

    Args:
        energy: grid of ω r_H.
        density: d²N/dt dω on that grid.
    """

    energy: Array
    density: Array

    @functools.cached_property
    def cumulative(self) -> Array:
        """Integral of the density up to each grid point; the last is the emission rate × r_H."""
        steps = np.diff(self.energy) * (self.density[1:] + self.density[:-1]) / 2
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def rate(self) -> float:
        """Particles emitted per degree of freedom and time, × r_H."""
        return float(self.cumulative[-1])

    @property
    def power(self) -> float:
        """Energy emitted per degree of freedom and time, × r_H²."""
        return float(np.trapezoid(self.energy * self.density, self.energy))

    def sample(self, uniform: float) -> float:
        """ω r_H at a quantile in [0, 1)."""
        return float(np.interp(uniform * self.cumulative[-1], self.cumulative, self.energy))


@functools.lru_cache(maxsize=16)
def emission_spectra(extra_dimensions: int) -> dict[Spin, EmissionSpectrum]:
    """The three spectra of a hole with n extra dimensions."""
    temperature = (extra_dimensions + 1) / (4 * math.pi)
    energy = np.linspace(0.0, 16 * temperature, 97)[1:]
    spectra = {}
    for spin in Spin:
        waves = np.arange(0, 3 + math.ceil(1.6 * energy[-1])) + (0 if spin is Spin.SCALAR else 1)
        multiplicity = 2 * waves + (0 if spin is Spin.FERMION else 1)
        crossing = transmission(extra_dimensions, spin, energy, waves)
        statistics = np.exp(energy / temperature) + (1 if spin is Spin.FERMION else -1)
        density = crossing @ multiplicity / statistics / (2 * math.pi)
        spectra[spin] = EmissionSpectrum(np.append(0.0, energy), np.append(0.0, density))
    return spectra


def transmission(extra_dimensions: int, spin: Spin, energy: Array, waves: NDArray[np.int64]) -> Array:
    """Greybody factors Γ, shape (energies, partial waves).

    A wave that only falls into the hole is integrated outwards (fourth-order Runge–Kutta) to where
    it splits into an ingoing and an outgoing part; Γ = 1 / |ingoing amplitude|².

    Args:
        extra_dimensions: n.
        spin: of the field.
        energy: ω r_H, shape (energies,).
        waves: l, or κ for fermions, shape (partial waves,).
    """
    omega = energy[:, None]
    # d/ds = (r−1)/r d/dr: even steps in ln(r−1) at the horizon and in r far away.
    start, radius_end, step = 1e-5, 30.0, 0.03
    steps = math.ceil((radius_end - 1 + math.log((radius_end - 1) / start)) / step)
    wave = np.ones((len(energy), len(waves)), dtype=np.complex128)
    slope = -1j * omega * wave
    radius = 1 + start

    def derivatives(
        r: float, psi: NDArray[np.complex128], dpsi: NDArray[np.complex128]
    ) -> tuple[float, NDArray[np.complex128], NDArray[np.complex128]]:
        pace = (r - 1) / r
        h, potential = _potential(extra_dimensions, spin, r, waves)
        return pace, dpsi * (pace / h), psi * ((potential - omega**2) * (pace / h))

    for _ in range(steps):
        k1 = derivatives(radius, wave, slope)
        k2 = derivatives(radius + step / 2 * k1[0], wave + step / 2 * k1[1], slope + step / 2 * k1[2])
        k3 = derivatives(radius + step / 2 * k2[0], wave + step / 2 * k2[1], slope + step / 2 * k2[2])
        k4 = derivatives(radius + step * k3[0], wave + step * k3[1], slope + step * k3[2])
        radius += step / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        wave = wave + step / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
        slope = slope + step / 6 * (k1[2] + 2 * k2[2] + 2 * k3[2] + k4[2])

    _, potential = _potential(extra_dimensions, spin, radius, waves)
    free = omega**2 > 2 * potential
    number = np.sqrt(np.where(free, omega**2 - potential, 1.0))
    ingoing = (np.sqrt(number) * wave + 1j * slope / np.sqrt(number)) / 2
    return np.where(free, omega / np.abs(ingoing) ** 2, 0.0)


def _potential(extra_dimensions: int, spin: Spin, r: float, waves: NDArray[np.int64]) -> tuple[float, Array]:
    h = 1 - r ** -(extra_dimensions + 1.0)
    slope = (extra_dimensions + 1) * r ** -(extra_dimensions + 2.0)
    if spin is Spin.SCALAR:
        return h, h * (waves * (waves + 1) / r**2 + slope / r)
    if spin is Spin.VECTOR:
        return h, h * waves * (waves + 1) / r**2
    root = math.sqrt(h)
    return h, waves**2 * h / r**2 + waves * h * (slope / (2 * root * r) - root / r**2)


def horizon_radius(mass: float, planck_mass: float, extra_dimensions: int) -> float:
    """Horizon radius.

    r_H = (1/M∗) [ 2ⁿ π^((n−3)/2) Γ((n+3)/2) / (n+2) · M/M∗ ]^(1/(n+1)), where M∗ is the fundamental
    scale of the Particle Data Group, M∗^(n+2) = (2π)ⁿ / (8π G). Another convention in use is
    M_P^(n+2) = 1/G (Dimopoulos and Landsberg, hep-ph/0106295); the two give different radii.

    Args:
        mass: of the hole, in GeV.
        planck_mass: M∗, in GeV.
        extra_dimensions: n.

    Returns:
        In 1/GeV.
    """
    n = extra_dimensions
    factor = 2.0**n * math.pi ** ((n - 3) / 2) * math.gamma((n + 3) / 2) / (n + 2)
    return float((factor * mass / planck_mass) ** (1 / (n + 1)) / planck_mass)


def hawking_temperature(mass: float, planck_mass: float, extra_dimensions: int) -> float:
    """Temperature T_H = (n+1) / (4π r_H), in GeV; arguments as for `horizon_radius`."""
    return (extra_dimensions + 1) / (4 * math.pi * horizon_radius(mass, planck_mass, extra_dimensions))
