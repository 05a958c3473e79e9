"""Which partons meet, and at what energy: accept–reject over parton luminosities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class PartonPair:
    """Two colliding partons: PDG numbers and momentum fractions."""

    pdgs: tuple[int, int]
    fractions: tuple[float, float]

    def mass(self, energy: float) -> float:
        """Invariant mass in GeV at a collision energy in GeV."""
        return float(np.sqrt(self.fractions[0] * self.fractions[1])) * energy


class PartonLuminosity:
    """Draws pairs from dσ = d(ln τ) dy Σ x₁f(x₁) x₂f(x₂) σ̂(M), M² = τ s, above a threshold mass.

    Densities are taken at the fixed scale Q = threshold and tabulated: above a threshold of most of
    the collision energy M varies by a few per cent only.

    Args:
        density: x·f(x, Q²) of the proton as a function of (PDG number, x, Q²).
        energy: collision energy √s in GeV.
        threshold: least invariant mass in GeV.
        growth: σ̂ grows like M to this power.
        pairs: allowed (PDG, PDG).
    """

    _NODES = 512
    _BLOCK = 64

    def __init__(
        self,
        density: Callable[[int, float, float], float],
        energy: float,
        threshold: float,
        growth: float,
        pairs: Sequence[tuple[int, int]],
    ) -> None:
        self._log_tau_min = 2 * np.log(threshold / energy)
        self._growth = growth
        self._pairs = tuple(pairs)
        self._nodes = np.linspace(self._log_tau_min, 0.0, self._NODES)
        self._tables = {
            pdg: np.array([max(0.0, density(pdg, x, threshold**2)) for x in np.exp(self._nodes)])
            for pdg in sorted({pdg for pair in self._pairs for pdg in pair})
        }
        log_tau = np.linspace(self._log_tau_min, 0.0, 200)[:, None]
        rapidity = log_tau / 2 * np.linspace(-1, 1, 81)
        grid = np.broadcast_to(log_tau, rapidity.shape)
        self._ceiling = 1.2 * float(self._weights(grid.ravel(), rapidity.ravel()).sum(axis=0).max())

    def sample(self, rng: np.random.Generator) -> PartonPair:
        """One pair."""
        while True:
            log_tau = rng.uniform(self._log_tau_min, 0.0, self._BLOCK)
            # y is flat over the widest range; points outside that of their own τ get no weight.
            rapidity = rng.uniform(self._log_tau_min / 2, -self._log_tau_min / 2, self._BLOCK)
            weights = self._weights(log_tau, rapidity)
            accepted = np.flatnonzero(rng.random(self._BLOCK) * self._ceiling < weights.sum(axis=0))
            if len(accepted) == 0:
                continue
            point = accepted[0]
            choice = rng.choice(len(self._pairs), p=weights[:, point] / weights[:, point].sum())
            first = float(np.exp(log_tau[point] / 2 + rapidity[point]))
            second = float(np.exp(log_tau[point] / 2 - rapidity[point]))
            return PartonPair(self._pairs[choice], (first, second))

    def _weights(self, log_tau: Array, rapidity: Array) -> Array:
        """Luminosity × σ̂ of each pair, shape (pairs, points)."""
        inside = np.abs(rapidity) <= -log_tau / 2
        forward, backward = log_tau / 2 + rapidity, log_tau / 2 - rapidity
        first = {pdg: np.interp(forward, self._nodes, table) for pdg, table in self._tables.items()}
        second = {pdg: np.interp(backward, self._nodes, table) for pdg, table in self._tables.items()}
        # σ̂ relative to its value at the threshold
        factor = inside * np.exp(self._growth / 2 * (log_tau - self._log_tau_min))
        return np.stack([first[a] * second[b] * factor for a, b in self._pairs])
