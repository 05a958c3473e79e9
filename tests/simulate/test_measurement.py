"""Detector, reconstructed objects and images, on particles placed by hand."""

import numpy as np
import pytest

from hep_ray.simulate.detector import NEUTRAL_HADRON, detect
from hep_ray.simulate.objects import (
    Objects,
    Reconstruction,
    event_image,
    event_variables,
)
from hep_ray.simulate.pythia import FinalState


def particles(*rows: tuple[int, int, float, float, float]) -> FinalState:
    """Massless particles from (PDG number, charge in e/3, p_T, η, φ)."""
    pdg, charge, pt, eta, phi = (np.array(column) for column in zip(*rows, strict=True))
    momentum = np.column_stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    return FinalState(pdg.astype(np.int64), charge.astype(np.int64), momentum)


def objects(**columns: list[float]) -> Objects:
    count = len(columns["pt"])
    filled = {name: np.array(columns.get(name, np.zeros(count))) for name in Objects.__annotations__}
    filled["tracks"] = filled["tracks"].astype(bool)
    return Objects(**{**filled, "missing": columns.get("missing", [0.0])[0]})


def test_photons_are_measured_to_their_resolution() -> None:
    # 100 GeV in a central cell: σ = √((0.0017·100)² + 0.101²·100) = 1.024 GeV
    rng = np.random.default_rng(1)
    measured = [detect(particles((22, 0, 100.0, 0.0, 1.0)), rng).energy.sum() for _ in range(1500)]
    assert np.mean(measured) == pytest.approx(100, abs=0.15)
    assert np.std(measured) == pytest.approx(1.024, rel=0.08)


def test_charged_particles_are_counted_once() -> None:
    rng = np.random.default_rng(2)
    sums = [detect(particles((211, 3, 20.0, 0.3, 0.0)), rng).energy.sum() for _ in range(600)]
    assert np.mean(sums) == pytest.approx(20 * np.cosh(0.3), rel=0.03)


def test_no_tracks_beyond_the_tracker_and_nothing_beyond_the_calorimeter() -> None:
    rng = np.random.default_rng(3)
    forward = detect(particles((211, 3, 50.0, 3.0, 0.0)), rng)
    assert forward.kind.tolist() == [NEUTRAL_HADRON]
    assert len(detect(particles((211, 3, 5.0, 5.5, 0.0)), rng).pt) == 0


def test_neutrinos_are_missing() -> None:
    state = particles((12, 0, 100.0, 0.0, 0.0), (14, 0, 100.0, 0.0, 3.0))
    assert len(detect(state, np.random.default_rng(4)).pt) == 0


def test_an_object_fills_one_bin_of_phi_and_eta() -> None:
    # φ = 0.1: (0.1 + π)/(2π)·50 = 25.796 → row 25; η = −1.3: (−1.3 + 5)/10·50 = 18.5 → column 18
    image = event_image(
        objects(pt=[10.0], phi=[0.1], eta=[-1.3], electromagnetic=[12.0], hadronic=[3.0], tracks=[1.0])
    )
    assert image.shape == (50, 50, 3)
    assert image.dtype == np.float32
    assert image[25, 18].tolist() == [12.0, 10.0, 3.0]
    assert np.count_nonzero(image) == 3


def test_objects_at_the_edges() -> None:
    image = event_image(
        objects(pt=[1.0, 2.0, 4.0], phi=[np.pi, -np.pi, 0.0], eta=[4.99, -5.0, 5.0], hadronic=[1.0, 2.0, 4.0])
    )
    assert image[49, 49, 2] == 1.0
    assert image.sum() == 1.0  # η = ±5 is outside


def test_missing_momentum_counts_as_an_object() -> None:
    values = event_variables(objects(pt=[100.0, 50.0], missing=[120.0]))
    assert values == {
        "ht": 270.0,
        "met": 120.0,
        "leading_pt": 120.0,
        "n_objects": 3.0,
        # Above 70 GeV there is one object, of 100 GeV; S_T adds the 120 GeV that are missing.
        "n_objects_70": 1.0,
        "st": 220.0,
    }


@pytest.fixture(scope="module")
def reconstruction() -> Reconstruction:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    return Reconstruction()


def test_two_jets_balance(reconstruction: Reconstruction) -> None:
    rng = np.random.default_rng(5)
    jets = [(211, 3, 40.0, 0.1 * i, 0.1 * i) for i in (-1, 0, 1)]
    others = [(130, 0, 40.0, 0.5 + 0.1 * i, np.pi + 0.1 * i) for i in (-1, 0, 1)]
    found = reconstruction.objects(particles(*jets, *others), rng)
    assert len(found.pt) == 2
    assert found.pt == pytest.approx([120, 120], rel=0.35)
    assert sorted(found.tracks.tolist()) == [False, True]
    # a jet without electromagnetic cells is hadronic but for a thousandth
    assert found.electromagnetic.sum() < 0.002 * found.hadronic.sum()


def test_an_isolated_muon_is_a_track_and_nothing_else(reconstruction: Reconstruction) -> None:
    rng = np.random.default_rng(6)
    seen = [reconstruction.objects(particles((13, -3, 200.0, 0.2, 1.0)), rng) for _ in range(40)]
    muons = [one for one in seen if len(one.pt) and one.electromagnetic.sum() + one.hadronic.sum() == 0]
    assert len(muons) >= 30  # efficiency 0.99 · 0.95, else a jet of one track
    assert np.mean([one.pt[0] for one in muons]) == pytest.approx(200, rel=0.03)


def test_soft_particles_make_no_object(reconstruction: Reconstruction) -> None:
    found = reconstruction.objects(particles((211, 3, 5.0, 0.0, 0.0)), np.random.default_rng(7))
    assert len(found.pt) == 0
    assert event_image(found).sum() == 0
