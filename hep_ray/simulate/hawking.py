"""Size and temperature of a Schwarzschild black hole in 4 + n dimensions (Myers and Perry 1986)."""

from __future__ import annotations

import math


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
