"""High-level features of events with two leptons and missing transverse momentum.

The set is that of the SUSY study in arXiv:1402.4735. Razor variables:
arXiv:1006.2727; super-razor variables: arXiv:1310.4827; M_T2: hep-ph/9906349. Leptons and the invisible
particles of M_T2 are massless. Momenta are in GeV, N events in an array.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hep_ray.dataset.histogram import wrapped
from hep_ray.simulate import Array

BISECTIONS = 45
PARALLEL = 1e-9  # sine of the angle between leptons below which M_T2 takes this value


@dataclasses.dataclass(frozen=True)
class Dileptons:
    """Two leptons and the missing transverse momentum of N events.

    Args:
        first: (px, py, pz) of one lepton, shape (N, 3).
        second: of the other, shape (N, 3).
        missing: (px, py) of the missing momentum, shape (N, 2).
    """

    first: Array
    second: Array
    missing: Array


def high_level_features(events: Dileptons) -> dict[str, Array]:
    """The ten high-level features of arXiv:1402.4735, each of shape (N,), in GeV but for ratios and angles."""
    m_r, m_tr = razor(events)
    return {
        "met_rel": met_rel(events),
        "axial_met": axial_met(events),
        "m_r": m_r,
        "m_tr_2": m_tr,
        "r": m_tr / m_r,
        "mt2": mt2(events),
        **super_razor(events),
    }


def met_rel(events: Dileptons) -> Array:
    """Missing momentum across the nearer lepton, if that is within π/2 of it, else all of it, in GeV."""
    size = _length(events.missing)
    cosine = np.max(
        [_dot(lepton[:, :2], events.missing) / _length(lepton[:, :2]) for lepton in _leptons(events)], axis=0
    ) / np.maximum(size, np.finfo(float).tiny)
    return np.asarray(size * np.sqrt(1 - np.clip(cosine, 0.0, 1.0) ** 2))


def axial_met(events: Dileptons) -> Array:
    """Component of the missing momentum along the lepton pair's p_T, in GeV; negative back to back."""
    pair = (events.first + events.second)[:, :2]
    return np.asarray(_dot(events.missing, pair) / _length(pair))


def razor(events: Dileptons) -> tuple[Array, Array]:
    """M_R and M_T^R of arXiv:1006.2727, in GeV, M_R in the form that holds for any longitudinal boost.

    M_R² = (|p₁| + |p₂|)² − (p₁z + p₂z)²; 2 (M_T^R)² = E_T^miss (p₁T + p₂T) − E⃗_T^miss · (p⃗₁T + p⃗₂T).
    """
    energy = _length(events.first) + _length(events.second)
    pair = events.first + events.second
    scalar = _length(events.first[:, :2]) + _length(events.second[:, :2])
    transverse = _length(events.missing) * scalar - _dot(events.missing, pair[:, :2])
    return np.sqrt(energy**2 - pair[:, 2] ** 2), np.sqrt(np.maximum(transverse, 0.0) / 2)


def super_razor(events: Dileptons) -> dict[str, Array]:
    """√ŝ_R, M_Δ^R, Δφ_R^β and |cos θ_(R+1)| of arXiv:1310.4827.

    The pair is boosted along z to p_z = 0, then by the recoil J = p_T,pair + p_T,miss. Taking visible and
    invisible systems for equal masses, the pair holds half of √ŝ_R in that frame R, which gives
    ŝ_R = 2 (E² − J·p + E √(E² + J² − 2 J·p)) with E, p of the pair before the boost. A last boost, by
    β = (p₁ − p₂)/(E₁ + E₂), makes the two lepton energies equal: M_Δ^R / 2 each.
    """
    leptons = [np.column_stack([_length(lepton), lepton]) for lepton in _leptons(events)]
    pair = leptons[0] + leptons[1]
    along_z = np.zeros((len(pair), 3))
    along_z[:, 2] = pair[:, 3] / pair[:, 0]
    leptons = [_boosted(lepton, along_z) for lepton in leptons]
    pair = leptons[0] + leptons[1]
    recoil = np.column_stack([pair[:, 1:3] + events.missing, np.zeros(len(pair))])
    energy, along, recoil_2 = pair[:, 0], _dot(pair[:, 1:], recoil), _dot(recoil, recoil)
    shat = 2 * (energy**2 - along + energy * np.sqrt(energy**2 + recoil_2 - 2 * along))
    to_r = recoil / np.sqrt(recoil_2 + shat)[:, None]
    first, second = (_boosted(lepton, to_r) for lepton in leptons)
    pair = first + second
    angle = np.arctan2(to_r[:, 1], to_r[:, 0]) - np.arctan2(pair[:, 2], pair[:, 1])
    to_equal = (first - second)[:, 1:] / pair[:, :1]
    equal = _boosted(first, to_equal)
    size = np.maximum(_length(equal[:, 1:]) * _length(to_equal), np.finfo(float).tiny)
    return {
        "s_r": np.sqrt(shat),
        "m_delta_r": 2 * equal[:, 0],
        "dphi_r_b": np.abs(wrapped(angle)),
        "cos_theta_r1": np.abs(_dot(equal[:, 1:], to_equal)) / size,
    }


def mt2(events: Dileptons) -> Array:
    """M_T2 of hep-ph/9906349, in GeV: least over all splits of the larger transverse mass.

    Bisection in M. A split q of the missing momentum with m_T(p, q) ≤ M lies within a parabola of axis p and
    focus 0: |q| − q·p̂ ≤ M²/(2p). For both leptons there is one if a point of the first one's rim,
    (k (t² − 1)/2, k t), is within the second's; that condition is a quartic in t, which is tried at its
    stationary points. M_T2 = 0 where the missing momentum is between the leptons.
    """
    p1, p2 = (_length(lepton[:, :2]) for lepton in _leptons(events))
    unit = events.first[:, :2] / p1[:, None]
    # Components along the first lepton and across it.
    (qx, qy), (ux, uy) = (
        (_dot(unit, vector), unit[:, 0] * vector[:, 1] - unit[:, 1] * vector[:, 0])
        for vector in (events.missing, events.second[:, :2])
    )
    ux, uy = ux / p2, uy / p2
    uy = np.where(np.abs(uy) < PARALLEL, PARALLEL, uy)
    share = qy / uy
    between = (share >= 0) & (qx >= share * ux)
    half = events.missing / 2
    high = np.max(
        [
            np.sqrt(2 * np.maximum(p * _length(half) - _dot(lepton[:, :2], half), 0.0))
            for p, lepton in zip((p1, p2), _leptons(events), strict=True)
        ],
        axis=0,
    )
    high = np.where(between, 0.0, high)
    low, unsolved = np.zeros_like(high), high > 0
    for _ in range(BISECTIONS):
        middle = (low + high)[unsolved] / 2
        square = middle**2
        possible = _compatible(
            square / (2 * p1[unsolved]),
            square / (2 * p2[unsolved]),
            np.stack([qx, qy, ux, uy])[:, unsolved],
        )
        high[unsolved] = np.where(possible, middle, high[unsolved])
        low[unsolved] = np.where(possible, low[unsolved], middle)
    return high


def _compatible(k1: Array, k2: Array, geometry: Array) -> NDArray[np.bool_]:
    """Whether the two parabolas of parameters k meet."""
    qx, qy, ux, uy = geometry
    # Across (c) and along (d) the second lepton, of its share of the missing momentum: powers of t.
    c = np.stack([ux * qy - uy * (qx + k1 / 2), -ux * k1, uy * k1 / 2])
    d = np.stack([ux * (qx + k1 / 2) + uy * qy, -uy * k1, -ux * k1 / 2])
    quartic = np.stack(
        [
            c[0] ** 2 - k2**2 - 2 * k2 * d[0],
            2 * c[0] * c[1] - 2 * k2 * d[1],
            c[1] ** 2 + 2 * c[0] * c[2] - 2 * k2 * d[2],
            2 * c[1] * c[2],
            c[2] ** 2,
        ]
    )
    companion = np.zeros((len(k1), 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1.0
    companion[:, :, 2] = -(quartic[1:4] * np.arange(1, 4)[:, None] / (4 * quartic[4])).T
    t = np.linalg.eigvals(companion).real.T
    value = np.polynomial.polynomial.polyval(t, quartic[:, None, :], tensor=False)
    return np.asarray((value <= 0).any(axis=0))


def _leptons(events: Dileptons) -> tuple[Array, Array]:
    return events.first, events.second


def _boosted(momentum: Array, velocity: Array) -> Array:
    """(E, px, py, pz) seen from a frame that moves with a velocity, shapes (N, 4) and (N, 3)."""
    gamma = 1 / np.sqrt(1 - _dot(velocity, velocity))
    along = _dot(velocity, momentum[:, 1:])
    energy = gamma * (momentum[:, 0] - along)
    shift = gamma * (gamma * along / (1 + gamma) - momentum[:, 0])
    return np.column_stack([energy, momentum[:, 1:] + shift[:, None] * velocity])


def _dot(one: Array, other: Array) -> Array:
    return np.asarray(np.einsum("ni,ni->n", one, other))


def _length(vector: Array) -> Array:
    return np.sqrt(_dot(vector, vector))
