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

Gravitons leave the brane: they have the same equation with the potentials of Kodama and Ishibashi (hep-th/0305147) for
tensor, vector and scalar perturbations of the hole in all 4 + n dimensions, and the multiplicities of harmonics on
the sphere of N = n + 2 dimensions. With x = (r_H/r)^(N−1) and Λ = l(l+N−1), l = 2, 3, …

    tensor         V = h/r² [Λ + N(N−2)/4 + N² x/4],      N ≥ 3 alone
    vector         V = h/r² [Λ + N(N−2)/4 − 3 N² x/4]
    scalar         V = h Q / (16 r² H²),  H = m + N(N+1) x/2,  m = Λ − N, and Q a cubic polynomial of x

For N = 2 the latter two are those of Regge and Wheeler and of Zerilli.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hep_ray.simulate import Array, Indices

Complex = npt.NDArray[np.complex128]
SPHERE_OF_SPACE = 2  # dimensions of a sphere about a hole in ordinary space; it has no tensor harmonics


class Spin(enum.Enum):
    """Spin of an emitted field."""

    SCALAR = 0.0
    FERMION = 0.5
    VECTOR = 1.0
    GRAVITON = 2.0


@dataclasses.dataclass(frozen=True)
class EmissionSpectrum:
    """Number spectrum of one degree of freedom, of a graviton all together, in units of the horizon radius.

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
    """Return the spectra of a hole with n extra dimensions."""
    temperature = (extra_dimensions + 1) / (4 * math.pi)
    energy = np.linspace(0.0, 16 * temperature, 97)[1:]
    spectra = {}
    for spin in Spin:
        waves, multiplicity, potential = _waves(extra_dimensions, spin, 3 + math.ceil(1.6 * energy[-1]))
        crossing = _transmission(potential, energy, len(waves))
        statistics = np.exp(energy / temperature) + (1 if spin is Spin.FERMION else -1)
        density = crossing @ multiplicity / statistics / (2 * math.pi)
        spectra[spin] = EmissionSpectrum(np.append(0.0, energy), np.append(0.0, density))
    return spectra


def transmission(extra_dimensions: int, spin: Spin, energy: Array, waves: Indices) -> Array:
    """Return greybody factors Γ of a field on the brane, shape (energies, partial waves).

    Args:
        extra_dimensions: n.
        spin: of the field.
        energy: ω r_H, shape (energies,).
        waves: l, or κ for fermions, shape (partial waves,).
    """
    return _transmission(_on_brane(extra_dimensions, spin, waves), energy, len(waves))


Potential = Callable[[float], tuple[float, Array]]
"""h and V at a radius, the latter of shape (partial waves,)."""


def _waves(extra_dimensions: int, spin: Spin, count: int) -> tuple[Indices, Array, Potential]:
    """Partial waves, how many states each stands for, and their potential."""
    if spin is not Spin.GRAVITON:
        waves = np.arange(count, dtype=np.int64) + (0 if spin is Spin.SCALAR else 1)
        multiplicity: Array = np.asarray(2.0 * waves + (0 if spin is Spin.FERMION else 1))
        return waves, multiplicity, _on_brane(extra_dimensions, spin, waves)
    waves = np.arange(2, count + 2, dtype=np.int64)
    kinds = [_harmonics(extra_dimensions + 2, int(wave)) for wave in waves]
    multiplicity = np.asarray(np.array(kinds, dtype=np.float64).T.ravel())  # tensor, vector, scalar
    return np.tile(waves, 3), multiplicity, _in_bulk(extra_dimensions, waves)


def _harmonics(sphere: int, wave: int) -> tuple[float, float, float]:
    """Numbers of tensor, vector and scalar harmonics of order l on the sphere of N dimensions."""
    n, order, factorial = sphere, wave, math.factorial
    common = 2 * order + n - 1
    scalar = common * factorial(order + n - 2) / (factorial(order) * factorial(n - 1))
    vector = float(order * (order + n - 1) * common * factorial(order + n - 3))
    vector /= factorial(order + 1) * factorial(n - 2)
    tensor = 0.0
    if n > SPHERE_OF_SPACE:
        tensor = float((n + 1) * (n - 2) * (order + n) * (order - 1) * common * factorial(order + n - 3))
        tensor /= 2 * factorial(order + 1) * factorial(n - 1)
    return tensor, vector, scalar


def _transmission(potential: Potential, energy: Array, waves: int) -> Array:
    """Greybody factors, shape (energies, partial waves).

    A wave that only falls into the hole is integrated outwards (fourth-order Runge–Kutta) to where
    it splits into an ingoing and an outgoing part; Γ = 1 / |ingoing amplitude|².
    """
    omega = energy[:, None]
    # d/ds = (r−1)/r d/dr: even steps in ln(r−1) at the horizon and in r far away.
    start, radius_end, step = 1e-5, 30.0, 0.03
    steps = math.ceil((radius_end - 1 + math.log((radius_end - 1) / start)) / step)
    wave = np.ones((len(energy), waves), dtype=np.complex128)
    slope = -1j * omega * wave
    radius = 1 + start

    def derivatives(r: float, psi: Complex, dpsi: Complex) -> tuple[float, Complex, Complex]:
        pace = (r - 1) / r
        h, barrier = potential(r)
        return pace, dpsi * (pace / h), psi * ((barrier - omega**2) * (pace / h))

    for _ in range(steps):
        k1 = derivatives(radius, wave, slope)
        k2 = derivatives(radius + step / 2 * k1[0], wave + step / 2 * k1[1], slope + step / 2 * k1[2])
        k3 = derivatives(radius + step / 2 * k2[0], wave + step / 2 * k2[1], slope + step / 2 * k2[2])
        k4 = derivatives(radius + step * k3[0], wave + step * k3[1], slope + step * k3[2])
        radius += step / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        wave = wave + step / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
        slope = slope + step / 6 * (k1[2] + 2 * k2[2] + 2 * k3[2] + k4[2])

    _, barrier = potential(radius)
    free = omega**2 > 2 * barrier
    number = np.sqrt(np.where(free, omega**2 - barrier, 1.0))
    ingoing = (np.sqrt(number) * wave + 1j * slope / np.sqrt(number)) / 2
    return np.where(free, omega / np.abs(ingoing) ** 2, 0.0)


def _on_brane(extra_dimensions: int, spin: Spin, waves: Indices) -> Potential:
    def potential(r: float) -> tuple[float, Array]:
        h = 1 - r ** -(extra_dimensions + 1.0)
        slope = (extra_dimensions + 1) * r ** -(extra_dimensions + 2.0)
        if spin is Spin.SCALAR:
            return h, h * (waves * (waves + 1) / r**2 + slope / r)
        if spin is Spin.VECTOR:
            return h, h * waves * (waves + 1) / r**2
        root = math.sqrt(h)
        return h, waves**2 * h / r**2 + waves * h * (slope / (2 * root * r) - root / r**2)

    return potential


def _in_bulk(extra_dimensions: int, waves: Indices) -> Potential:
    """Return the potential of tensor, vector and scalar gravitons, one after another."""
    n = extra_dimensions + 2
    product = (waves * (waves + n - 1)).astype(np.float64)
    m = product - n

    def potential(r: float) -> tuple[float, Array]:
        x = r ** -(extra_dimensions + 1.0)
        h = 1 - x
        centrifugal = product + n * (n - 2) / 4
        cubic = (
            n**4 * (n + 1) ** 2 * x**3
            + n * (n + 1) * (4 * (2 * n**2 - 3 * n + 4) * m + n * (n - 2) * (n - 4) * (n + 1)) * x**2
            - 12 * n * ((n - 4) * m + n * (n + 1) * (n - 2)) * m * x
            + 16 * m**3
            + 4 * n * (n + 2) * m**2
        )
        scalar = cubic / (16 * (m + n * (n + 1) / 2 * x) ** 2)
        parts = (centrifugal + n**2 * x / 4, centrifugal - 3 * n**2 * x / 4, scalar)
        return h, h / r**2 * np.concatenate(parts)

    return potential


class RadiusConvention(enum.StrEnum):
    """Which mass M∗ is: r_H = (1/M∗) (k M/M∗)^(1/(n+1)), and conventions differ in k.

    `PDG`: k = 2ⁿ π^((n−3)/2) Γ((n+3)/2) / (n+2), the Particle Data Group's M∗^(n+2) = (2π)ⁿ / (8π G).
    `DIMOPOULOS_LANDSBERG`: k = 8 π^(−(n+1)/2) Γ((n+3)/2) / (n+2), M∗^(n+2) = 1/G (hep-ph/0106295).
    `UNIT`: k = 1, as the card of the reference sample has it ("put in by hand", coefficient 1).
    """

    UNIT = "unit"
    PDG = "pdg"
    DIMOPOULOS_LANDSBERG = "dimopoulos_landsberg"

    def factor(self, n: int) -> float:
        """Return k for n extra dimensions."""
        gamma = math.gamma((n + 3) / 2) / (n + 2)
        match self:
            case RadiusConvention.PDG:
                return float(2.0**n * math.pi ** ((n - 3) / 2) * gamma)
            case RadiusConvention.DIMOPOULOS_LANDSBERG:
                return float(8 * math.pi ** (-(n + 1) / 2) * gamma)
            case RadiusConvention.UNIT:
                return 1.0


def horizon_radius(
    mass: float,
    planck_mass: float,
    extra_dimensions: int,
    convention: RadiusConvention = RadiusConvention.PDG,
) -> float:
    """Return the horizon radius in 1/GeV.

    Args:
        mass: of the hole, in GeV.
        planck_mass: M∗, in GeV.
        extra_dimensions: n.
        convention: which mass M∗ is.
    """
    factor = convention.factor(extra_dimensions)
    return float((factor * mass / planck_mass) ** (1 / (extra_dimensions + 1)) / planck_mass)


def hawking_temperature(mass: float, planck_mass: float, extra_dimensions: int) -> float:
    """Return the temperature T_H = (n+1) / (4π r_H), in GeV; arguments as for `horizon_radius`."""
    return (extra_dimensions + 1) / (4 * math.pi * horizon_radius(mass, planck_mass, extra_dimensions))
