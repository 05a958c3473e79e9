"""Parametrised showers and the cells that read them: profiles, depths, containment, geometry."""

import numpy as np
import pytest
from scipy.stats import gamma

from hep_ray.simulate import calorimeter as calo
from hep_ray.simulate.calorimeter import CELLS, PIXEL_ETA, Centres, hottest_cells, layer_image


def showers(kind: int, energy: float, count: int = 1000, eta: float = 0.0) -> calo.Spots:
    incoming = calo.Incoming(
        np.arange(count), np.full(count, kind), np.full(count, energy), np.full(count, eta), np.zeros(count)
    )
    return calo.shower(incoming, np.random.default_rng(7))


def layer_energies(spots: calo.Spots, candidates: int) -> np.ndarray:
    """Energy in GeV per candidate and layer, shape (candidates, layers)."""
    cell = spots.candidate * len(calo.LAYERS) + spots.layer
    return np.bincount(cell, spots.energy, candidates * len(calo.LAYERS)).reshape(candidates, -1)


def mean_depth(kind: int, energy: float) -> float:
    layers = layer_energies(showers(kind, energy), 1000)
    return float(np.mean(layers @ calo.CENTRES / layers.sum(axis=1)))


def test_shower_maximum_follows_the_paper() -> None:
    """hep-ex/0001020: T = ln(E/E_c) − 0.812 − 0.55/F_S − 0.69(1 − ê).

    By hand for 50 GeV: ln(50/0.00995) = 8.522; 1/F_S = 0.303 gives −0.167; ê = 1/(1 + 0.007·64) = 0.6906
    gives −0.2135: T = 7.330.
    """
    _, depth = calo.electromagnetic_shape(np.array([50.0, 50.0 * np.e]))
    assert depth[0] == pytest.approx(7.330, abs=0.005)
    assert depth[1] - depth[0] == pytest.approx(1.0, abs=1e-9)


def test_layer_shares_are_those_of_scipys_gamma_distribution() -> None:
    shares = calo.longitudinal(np.array([4.0]), np.array([0.5]), np.array([1.0]))[0]
    for share, (start, end) in zip(shares, calo.EDGES, strict=True):
        reference = np.diff(gamma.cdf([start, end], 4.0, loc=1.0, scale=2.0))[0]
        assert share == pytest.approx(reference, abs=1e-12)


def test_fluctuating_shapes_are_correlated_and_centred() -> None:
    energy = np.full(20000, 50.0)
    alpha, depth = calo.electromagnetic_shape(energy, np.random.default_rng(1))
    mean_alpha, mean_depth_ = calo.electromagnetic_shape(energy[:1])
    assert np.log(depth).mean() == pytest.approx(np.log(mean_depth_[0]), abs=0.01)
    assert np.log(alpha).mean() == pytest.approx(np.log(mean_alpha[0]), abs=0.01)
    # ρ = 0.784 − 0.023·8.522 = 0.588; σ(ln T) = 1/(−2.5 + 1.25·8.522) = 0.1227
    assert np.corrcoef(np.log(depth), np.log(alpha))[0, 1] == pytest.approx(0.588, abs=0.02)
    assert np.log(depth).std() == pytest.approx(0.1227, rel=0.03)


def test_electrons_deepen_with_the_logarithm_of_energy() -> None:
    depths = [mean_depth(calo.ELECTRON, energy) for energy in (10.0, 40.0, 160.0)]
    first, second = np.diff(depths)
    # The centre of gravity α/β = T·α/(α − 1) moves by about ln 4 = 1.4 X0 a step; layers blur it.
    assert 0.8 < first < 1.6
    assert second == pytest.approx(first, rel=0.3)


def test_pions_shower_deeper_than_photons_and_photons_than_electrons() -> None:
    electron, photon, pion = (
        mean_depth(kind, 50.0) for kind in (calo.ELECTRON, calo.PHOTON, calo.CHARGED_HADRON)
    )
    # A photon starts 9/7 X0 later on average.
    assert photon - electron == pytest.approx(9 / 7, abs=0.3)
    assert pion > 2 * electron


def test_containment_and_resolution() -> None:
    electron = layer_energies(showers(calo.ELECTRON, 50.0), 1000)
    total = electron.sum(axis=1)
    assert total.mean() / 50 == pytest.approx(0.99, abs=0.01)
    # Sampling alone: 10 % / √50 = 1.4 %.
    assert 0.013 < total.std() / total.mean() < 0.02
    assert electron[:, 4:].sum() / electron.sum() < 0.01
    pion = layer_energies(showers(calo.CHARGED_HADRON, 50.0), 1000)
    assert 0.7 < pion.sum(axis=1).mean() / 50 < 0.95
    assert pion[:, 4:].sum() / pion.sum() > 0.4


def test_ninety_percent_of_a_shower_is_within_a_moliere_radius() -> None:
    spots = showers(calo.ELECTRON, 50.0, 300)
    middle = spots.layer == 2
    centimetres = np.hypot(spots.eta, spots.phi)[middle] * calo.LAYERS[2].radius
    inside = spots.energy[middle][centimetres < calo.MOLIERE_RADIUS].sum() / spots.energy[middle].sum()
    assert inside == pytest.approx(0.85, abs=0.08)


def test_a_muon_loses_the_same_at_any_energy() -> None:
    losses = [layer_energies(showers(calo.MUON, energy), 1000).sum(axis=1).mean() for energy in (20, 200)]
    # 22.6 X0 · 11.6 MeV + 68.1 X0 · 27 MeV = 0.262 + 1.839 = 2.10 GeV
    assert losses == pytest.approx([2.10, 2.10], rel=0.05)


@pytest.mark.parametrize("layer", range(len(CELLS)))
@pytest.mark.parametrize("eta_cell", [-3, 0, 2, 41])
def test_an_image_keeps_energy_and_place(layer: int, eta_cell: int) -> None:
    """A deposit in the central pixel: its cell lies over the centre, wherever cell borders are."""
    centres = Centres(np.array([eta_cell]), np.array([255]))  # φ wraps beyond 256 pixels
    spots = calo.Spots(
        np.zeros(1, np.int64),
        np.array([layer]),
        np.array([8.0]),
        (np.array([eta_cell]) + 0.51) * PIXEL_ETA,
        centres.phi_value - 2 * np.pi,
    )
    window = (17, 17)
    image = layer_image(spots, layer, centres, window, None)[0]
    assert image.sum() == pytest.approx(8.0)
    cell = CELLS[layer]
    pixel = 8 * cell.eta_parts + cell.eta_parts // 2
    assert image[pixel, 8] == pytest.approx(8.0 / (cell.eta_size * cell.phi_size))
    assert np.count_nonzero(image) == cell.eta_size * cell.phi_size


def test_noise_has_its_width_and_the_hottest_cell_is_found() -> None:
    empty = calo.Spots(*(np.zeros(0, np.int64) for _ in range(2)), *(np.zeros(0) for _ in range(3)))
    centres = Centres(np.zeros(400, np.int64), np.zeros(400, np.int64))
    image = layer_image(empty, 2, centres, (7, 11), np.random.default_rng(1))
    assert image.std() == pytest.approx(CELLS[2].noise, rel=0.02)
    spots = showers(calo.ELECTRON, 50.0, 50, eta=0.51)
    around = Centres(np.full(50, 18), np.full(50, 1))
    found = hottest_cells(spots, around, (7, 11))
    assert (found.eta == 20).mean() > 0.9  # 0.51 / 0.025 = 20.4


def test_the_same_generator_gives_the_same_shower() -> None:
    first, second = (showers(calo.CHARGED_HADRON, 30.0, 20) for _ in range(2))
    assert first.energy.tobytes() == second.energy.tobytes()
    assert first.eta.tobytes() == second.eta.tobytes()
