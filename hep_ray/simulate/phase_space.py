"""Isotropic n-body phase space and Lorentz boosts. Four-momenta are (E, px, py, pz) in GeV."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hep_ray.simulate import Array


def isotropic_direction(rng: np.random.Generator) -> Array:
    """A unit vector, uniform on the sphere, shape (3,)."""
    cosine, azimuth = rng.uniform(-1, 1), rng.uniform(0, 2 * math.pi)
    sine = math.sqrt(1 - cosine**2)
    return np.array([sine * math.cos(azimuth), sine * math.sin(azimuth), cosine])


def boost(momenta: Array, frame: Array) -> Array:
    """Carry momenta from the rest frame of `frame` to the frame where it has that four-momentum.

    Args:
        momenta: shape (..., 4).
        frame: timelike four-momentum, shape (4,).
    """
    mass = invariant_mass(frame)
    along = momenta[..., 1:] @ frame[1:]
    energy = (momenta[..., 0] * frame[0] + along) / mass
    stretch = (momenta[..., 0] + energy) / (frame[0] + mass)
    return np.concatenate([energy[..., None], momenta[..., 1:] + stretch[..., None] * frame[1:]], axis=-1)


def invariant_mass(momentum: Array) -> float:
    """√(E² − p²) of one four-momentum, 0 where rounding makes it imaginary."""
    return math.sqrt(max(0.0, float(momentum[0] ** 2 - momentum[1:] @ momentum[1:])))


def rambo(mass: float, masses: Sequence[float], rng: np.random.Generator) -> Array:
    """Momenta of n ≥ 2 bodies, uniform in Lorentz-invariant phase space, in the rest frame of their sum.

    Massless momenta by RAMBO (Kleiss, Stirling, Ellis, Comput. Phys. Commun. 40 (1986) 359), whose
    weight is constant, are rescaled to the given masses (section 4 there) and kept with a probability in
    proportion to the weight that this brings. The weight is compared with a bound that shrinks with the room
    above threshold: Σ|k| ≤ √(M² − (Σm)²) by Minkowski's inequality, Σ|k| / Σβ|k| ≤ 1 / min β, and no β exceeds
    that of a body which recoils against all the others at rest with each other.

    Args:
        mass: of the decaying system, in GeV; exceeds the sum of `masses`.
        masses: of the bodies, in GeV.
        rng: source of randomness.

    Returns:
        Shape (n, 4), in GeV.
    """
    squares = np.square(np.asarray(masses, dtype=np.float64))
    longest = math.sqrt(mass**2 - math.fsum(masses) ** 2)
    fastest = np.sort(_velocities_of_recoil(mass, masses))
    while True:
        momenta = _massless(mass, len(squares), rng)
        if not squares.any():
            return momenta
        lengths = momenta[:, 0]
        scale = _rescaling(lengths, squares, mass)
        energies = np.sqrt(squares + (scale * lengths) ** 2)
        lengths = scale * lengths
        weight = (
            (lengths.sum() / longest) ** (2 * len(squares) - 4)
            * np.prod(lengths / energies)
            * lengths.sum()
            / np.sum(lengths**2 / energies)
            / np.prod(fastest[1:])
        )
        if rng.random() < weight:
            return np.column_stack([energies, scale * momenta[:, 1:]])


def _velocities_of_recoil(mass: float, masses: Sequence[float]) -> Array:
    bodies = np.asarray(masses, dtype=np.float64)
    others = bodies.sum() - bodies
    energies = (mass**2 + bodies**2 - others**2) / (2 * mass)
    return np.asarray(np.sqrt(1 - (bodies / energies) ** 2))


def _massless(mass: float, count: int, rng: np.random.Generator) -> Array:
    cosine = rng.uniform(-1, 1, count)
    azimuth = rng.uniform(0, 2 * math.pi, count)
    energy = rng.gamma(2.0, size=count)
    sine = np.sqrt(1 - cosine**2)
    momenta = energy[:, None] * np.column_stack(
        [np.ones(count), sine * np.cos(azimuth), sine * np.sin(azimuth), cosine]
    )
    total = momenta.sum(axis=0)
    total_mass = invariant_mass(total)
    rest = boost(momenta, np.concatenate([total[:1], -total[1:]]))
    return np.asarray(rest * (mass / total_mass))


def _rescaling(lengths: Array, squares: Array, mass: float) -> float:
    """The factor by which three-momenta shrink to make room for the masses (Newton's method)."""
    scale = math.sqrt(1 - (np.sqrt(squares).sum() / mass) ** 2)
    for _ in range(50):
        energies = np.sqrt(squares + (scale * lengths) ** 2)
        excess = energies.sum() - mass
        if abs(excess) < 1e-12 * mass:
            break
        scale -= excess / float(np.sum(scale * lengths**2 / energies))
    return scale
