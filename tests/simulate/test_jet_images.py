"""Jets and their images."""

import importlib.util
import math

import numpy as np
import pytest

pytest.importorskip("fastjet", reason="fastjet (extra 'sim') is not installed")

from hep_ray.simulate import SIMULATIONS
from hep_ray.simulate.detector import Deposits
from hep_ray.simulate.jet_images import HALF_WIDTH, PIXELS, jet_image, leading_jet, soft_drop_masses

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
