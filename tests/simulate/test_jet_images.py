"""Jets and their images."""

import importlib.util
import math

import numpy as np
import pytest

pytest.importorskip("fastjet", reason="fastjet (extra 'sim') is not installed")

from hep_ray.dataset.values import mask_of
from hep_ray.errors import SimulationFailed
from hep_ray.simulate import SIMULATIONS
from hep_ray.simulate.detector import Deposits
from hep_ray.simulate.jet_clouds import constituents_of
from hep_ray.simulate.jet_images import (
    HALF_WIDTH,
    PIXELS,
    Jet,
    jet_image,
    leading_jet,
    soft_drop_masses,
)
from tests.facts import raises

needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)
RADIUS = 0.8


def deposits(*rows: tuple[float, float, float]) -> Deposits:
    pt, eta, phi = np.array(rows, dtype=float).reshape(-1, 3).T
    return Deposits(pt, eta, phi, np.zeros(len(pt), dtype=np.int64))


def test_a_jet_of_two_prongs_by_hand() -> None:
    """m² = 2 p₁ p₂ (cosh Δη − cos Δφ) = 2·200·100 (cosh 0 − cos 0.5); the far deposit stays outside."""
    jet = leading_jet(deposits((200, 0, 3.0), (100, 0, 3.5 - 2 * math.pi), (50, 2, 0)), RADIUS)
    assert jet is not None
    assert len(jet.constituents.pt) == 2
    assert jet.mass == pytest.approx(math.sqrt(2 * 200 * 100 * (1 - math.cos(0.5))))
    # |p⃗|² = 200² + 100² + 2·200·100 cos 0.5
    assert jet.pt == pytest.approx(math.sqrt(50_000 + 40_000 * math.cos(0.5)))


def test_nothing_makes_no_jet() -> None:
    assert leading_jet(deposits(), RADIUS) is None


def test_soft_drop_keeps_hard_prongs_and_drops_a_soft_one() -> None:
    """20 of 220 GeV is less than a tenth: dropped, and one massless prong stays; 60 of 260 is kept."""
    jets = [leading_jet(deposits((200, 0, 0), (soft, 0.4, 0)), RADIUS) for soft in (20, 60)]
    dropped, kept = soft_drop_masses(jets, RADIUS)
    assert dropped == pytest.approx(0, abs=1e-3)
    assert kept == pytest.approx(jets[1].mass, rel=1e-6)


@pytest.mark.parametrize("rotate", [False, True])
def test_images_are_centred_and_hold_the_jet(rotate: bool) -> None:
    rng = np.random.default_rng(2)
    rows = np.column_stack([rng.exponential(20, 60), rng.normal(1, 0.15, 60), rng.normal(3.1, 0.05, 60)])
    rows[:, 2] = (rows[:, 2] + math.pi) % (2 * math.pi) - math.pi
    jet = leading_jet(deposits(*rows.tolist()), RADIUS)
    image = jet_image(jet, RADIUS, rotate)[:, :, 0].astype(float)
    assert image.sum() == pytest.approx(jet.constituents.pt.sum(), rel=1e-6)
    pixel = 2 * HALF_WIDTH * RADIUS / PIXELS
    centres = (np.arange(PIXELS) + 0.5 - PIXELS / 2) * pixel
    phi, eta = image.sum(1) @ centres / image.sum(), image.sum(0) @ centres / image.sum()
    assert max(abs(phi), abs(eta)) < pixel / 2
    spread = [np.sqrt(image.sum(axis) @ (centres**2) / image.sum()) for axis in (1, 0)]
    wide, narrow = spread if rotate else reversed(spread)
    assert wide > 2 * narrow


def test_constituents_are_those_of_the_jet_from_the_largest_pt_on() -> None:
    parts = Deposits(
        np.array([20.0, 50.0, 30.0]),
        np.array([0.1, 0.0, -0.1]),
        np.array([3.1, 3.0, -3.1]),
        np.array([22, 0, -1]),
    )
    jets = [Jet(100.0, 0.05, 3.0, 10.0, parts), Jet(50.0, 0.0, 3.0, 0.0, parts.chosen(np.array([1])))]
    values = constituents_of(jets)
    assert values.shape == (2, 256, 9)
    assert mask_of(values).sum(axis=1).tolist() == [3, 1]
    # Δφ of the second is −3.1 − 3.0 + 2π; E = p_T cosh η; charged hadron, neutral hadron, photon.
    expected = [
        [50, 50, -0.05, 0.0, 1, 0, 0, 0, 0],
        [30, 30 * math.cosh(0.1), -0.15, 2 * math.pi - 6.1, 0, 0, 0, 0, 1],
        [20, 20 * math.cosh(0.1), 0.05, 0.1, 0, 0, 0, 1, 0],
    ]
    np.testing.assert_allclose(values[0, :3], expected, rtol=1e-5, atol=1e-6)
    many = Deposits(*(np.zeros(257) for _ in range(3)), np.zeros(257, np.int64))
    with raises(SimulationFailed, "257", "256"):
        constituents_of([Jet(1.0, 0.0, 0.0, 0.0, many)])


@needs_pythia
def test_both_tasks_have_the_same_jets() -> None:
    clouds, images = (
        SIMULATIONS[name].generate(SIMULATIONS[name].config(), "qcd", 10, np.random.SeedSequence(4))
        for name in ("jet_clouds", "jet_images")
    )
    for name, values in images.items():
        np.testing.assert_array_equal(clouds[name], values)
    # The image holds the p_T of the constituents, but for the few beyond its edge.
    held = np.nansum(clouds["constituents"][..., 0], axis=1) / images["image"].sum(axis=(1, 2, 3))
    assert held.min() >= 1 - 1e-5
    assert held.max() < 1.1


@needs_pythia
def test_higgs_jets_weigh_125_gev_and_qcd_jets_less() -> None:
    entry = SIMULATIONS["jet_images"]
    made = {
        name: entry.generate(entry.config(), name, 120, np.random.SeedSequence(6))
        for name in entry.schema.classes
    }
    window = {
        name: np.mean(np.abs(columns["jet_soft_drop_mass"] - 120) < 20) for name, columns in made.items()
    }
    assert window["hbb"] > 0.4
    assert window["qcd"] < 0.2
    for columns in made.values():
        assert columns["jet_pt"].min() > 300
        # A jet's p_T is the size of a vector sum, the image holds the scalar sum.
        held = columns["image"].sum(axis=(1, 2, 3)) / columns["jet_pt"]
        assert np.percentile(held, 5) > 0.98
        assert held.max() < 1.2
