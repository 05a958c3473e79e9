"""Radius, temperature and emission spectra against hand computation and published numbers."""

import numpy as np
import pytest

from hep_ray.simulate.hawking import (
    RadiusConvention,
    Spin,
    emission_spectra,
    hawking_temperature,
    horizon_radius,
    transmission,
)


def test_radius_of_a_hole_at_the_planck_mass() -> None:
    # n = 1: 2 · π^(-1) · Γ(2) / 3 = 2/(3π) = 0.212207, square root 0.460659
    assert horizon_radius(1000.0, 1000.0, 1) == pytest.approx(0.460659e-3, rel=1e-5)


def test_radius_by_convention() -> None:
    # n = 2, M = 8 M∗: unit (8)^(1/3) = 2; Dimopoulos–Landsberg: 8 Γ(5/2) / (4 π^(3/2)) = 0.477465, ·8 = 3.819719,
    # cube root 1.563185
    radii = [
        horizon_radius(8000.0, 1000.0, 2, one)
        for one in map(RadiusConvention, ("unit", "dimopoulos_landsberg"))
    ]
    assert radii == pytest.approx([2e-3, 1.563185e-3], rel=1e-5)


def test_temperature() -> None:
    # n = 3: 8 · π⁰ · Γ(3) / 5 = 3.2; M = 2 M∗: 6.4^(1/4) = 1.590541, so r_H = 1.590541 / 4 TeV and
    # T = 4 / (4π r_H) = 4000 / (π · 1.590541) = 800.507 GeV
    assert hawking_temperature(8000.0, 4000.0, 3) == pytest.approx(800.507, rel=1e-5)


def test_heavier_holes_are_colder() -> None:
    temperatures = [hawking_temperature(mass, 4000.0, 4) for mass in (5e3, 8e3, 12e3)]
    assert temperatures == sorted(temperatures, reverse=True)


# Harris and Kanti, hep-ph/0309054: emissivities per degree of freedom relative to the scalar's, by
# number of particles and by power.
@pytest.mark.parametrize(
    ("extra_dimensions", "flux", "power"),
    [
        (0, (0.37, 0.11), (0.55, 0.23)),
        (2, (0.77, 0.69), (0.91, 0.91)),
        (4, (0.76, 0.91), (0.87, 1.04)),
        (6, (0.73, 0.99), (0.84, 1.06)),
    ],
)
def test_relative_emissivities(
    extra_dimensions: int, flux: tuple[float, float], power: tuple[float, float]
) -> None:
    spectra = emission_spectra(extra_dimensions)
    scalar = spectra[Spin.SCALAR]
    others = [spectra[Spin.FERMION], spectra[Spin.VECTOR]]
    assert [one.rate / scalar.rate for one in others] == pytest.approx(flux, abs=0.01)
    assert [one.power / scalar.power for one in others] == pytest.approx(power, abs=0.01)


def test_photon_power_of_a_four_dimensional_hole() -> None:
    # Page, Phys. Rev. D 13 (1976) 198: 3.36e-5 / M² for both helicities; r_H = 2 M
    assert 2 * emission_spectra(0)[Spin.VECTOR].power / 4 == pytest.approx(3.36e-5, rel=0.01)


# Cardoso, Cavaglia and Gualtieri, hep-th/0512002: power in gravitons of 4 + n dimensions relative to n = 0, whose
# 3.84e-6 / M² is Page's; r_H = 2 M.
@pytest.mark.parametrize(("extra_dimensions", "ratio"), [(0, 1.0), (1, 103.0), (2, 1036.0), (4, 2.0e4)])
def test_graviton_power(extra_dimensions: int, ratio: float) -> None:
    power = emission_spectra(extra_dimensions)[Spin.GRAVITON].power
    assert power == pytest.approx(ratio * 4 * 3.84e-6, rel=0.04)


def test_slow_scalars_see_the_area_of_the_horizon() -> None:
    # σ = π Γ₀ / ω² → 4π r_H², so Γ₀ → (2 ω r_H)²
    crossing = transmission(2, Spin.SCALAR, np.array([0.02]), np.array([0]))
    assert crossing[0, 0] == pytest.approx(0.04**2, rel=0.05)


@pytest.mark.parametrize("spin", [Spin.SCALAR, Spin.FERMION, Spin.VECTOR])
def test_transmission_is_a_probability_that_fast_waves_have(spin: Spin) -> None:
    crossing = transmission(4, spin, np.array([0.1, 0.5, 1.0, 2.0, 5.0]), np.array([1, 2]))
    assert (crossing >= 0).all()
    assert (crossing <= 1 + 1e-3).all()
    assert (np.diff(crossing, axis=0) >= -1e-3).all()
    assert crossing[-1, 0] == pytest.approx(1.0, abs=1e-2)


def test_sampling_follows_the_spectrum() -> None:
    spectrum = emission_spectra(4)[Spin.FERMION]
    drawn = np.array([spectrum.sample(u) for u in (np.arange(2000) + 0.5) / 2000])
    assert drawn.mean() == pytest.approx(spectrum.power / spectrum.rate, rel=0.01)
