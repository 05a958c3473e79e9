"""Detector, reconstructed objects and images, on particles placed by hand."""

import numpy as np
import pytest

from hep_ray.simulate.detector import (
    HADRON,
    MUON,
    NEUTRAL_HADRON,
    PHOTON,
    Deposits,
    Measurement,
    detect,
    measure,
)
from hep_ray.simulate.objects import (
    Objects,
    Reconstruction,
    event_image,
    event_variables,
    object_image,
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
    image = object_image(
        objects(pt=[10.0], phi=[0.1], eta=[-1.3], electromagnetic=[12.0], hadronic=[3.0], tracks=[1.0])
    )
    assert image.shape == (50, 50, 3)
    assert image.dtype == np.float32
    assert image[25, 18].tolist() == [12.0, 3.0, 10.0]
    assert np.count_nonzero(image) == 3


def test_objects_at_the_edges() -> None:
    image = object_image(
        objects(pt=[1.0, 2.0, 4.0], phi=[np.pi, -np.pi, 0.0], eta=[4.99, -5.0, 5.0], hadronic=[1.0, 2.0, 4.0])
    )
    assert image[49, 49, 1] == 1.0
    assert image[0, 0, 1] == 2.0  # a pixel begins with its lower edges
    assert image.sum() == 3.0  # η = 5 is outside


def deposits(*rows: tuple[float, float, float, int]) -> Deposits:
    """Deposits from (p_T, η, φ, kind)."""
    pt, eta, phi, kind = (np.array(column) for column in zip(*rows, strict=True))
    return Deposits(pt, eta, phi, kind)


def test_towers_and_tracks_fill_their_channels() -> None:
    towers = deposits(
        (10.0, 1.1, 0.0, PHOTON), (2.0, 1.1, 0.0, NEUTRAL_HADRON), (4.0, -4.95, -3.1, NEUTRAL_HADRON)
    )
    tracks = deposits((3.0, 1.15, 0.05, HADRON), (5.0, 1.1, 0.0, MUON))
    image = event_image(Measurement(tracks, towers, tracks))
    # η = 1.1 and 1.15: (1.1 + 5)/0.2 = 30.5 → column 30; φ = 0 and 0.05: 25 and 25.4 → row 25. Energy is p_T cosh η.
    assert image[25, 30].tolist() == pytest.approx([10 * np.cosh(1.1), 2 * np.cosh(1.1), 8.0])
    # η = −4.95 → column 0; φ = −3.1: 0.0416·50/2π = 0.33 → row 0
    assert image[0, 0].tolist() == pytest.approx([0.0, 4 * np.cosh(4.95), 0.0])
    assert np.count_nonzero(image) == 4


def test_a_particle_hits_the_tower_that_it_points_at() -> None:
    # Hadronic towers are 0.1 × 10° centrally: η = 0.42 lies in [0.4, 0.5], φ = 1 rad = 57.3° in [50°, 60°].
    rng = np.random.default_rng(8)
    towers = [measure(particles((130, 0, 80.0, 0.42, 1.0)), rng).towers for _ in range(40)]
    assert all(one.kind.tolist() == [NEUTRAL_HADRON] for one in towers)
    eta, phi = (np.concatenate([getattr(one, name) for one in towers]) for name in ("eta", "phi"))
    assert 0.4 <= eta.min() < eta.max() <= 0.5
    assert np.radians(50) <= phi.min() < phi.max() <= np.radians(60)
    # forward, beyond |η| = 3.3, they are 20° wide
    forward = np.concatenate(
        [measure(particles((130, 0, 20.0, 3.6, 1.0)), rng).towers.phi for _ in range(60)]
    )
    assert np.radians(40) <= forward.min() < np.radians(48)
    assert np.radians(52) < forward.max() <= np.radians(60)


def test_a_graviton_is_a_hadronic_tower_and_a_neutrino_nothing() -> None:
    towers = measure(
        particles((39, 0, 500.0, 0.3, 2.0), (12, 0, 500.0, 0.3, -1.0)), np.random.default_rng(9)
    ).towers
    assert towers.kind.tolist() == [NEUTRAL_HADRON]
    assert towers.pt[0] == pytest.approx(500, rel=0.2)


def test_the_field_bends_charged_particles_alone() -> None:
    # Radius of the helix p_T / (0.3 B) = 2 GeV / 0.59958 = 3.3357 m, so φ turns by asin(1.15 / (2 · 3.3357)) = 0.1733.
    rng = np.random.default_rng(10)
    for pdg, charge, turned in ((11, -3, 0.1733), (-11, 3, -0.1733), (22, 0, 0.0)):
        towers = [measure(particles((pdg, charge, 2.0, 0.0, 1.0)), rng).towers for _ in range(60)]
        phi = np.concatenate([one.phi for one in towers])
        assert phi.mean() == pytest.approx(1.0 + turned, abs=0.01)
    track = measure(particles((13, -3, 2.0, 0.0, 1.0)), rng).tracks
    assert track.phi.tolist() == [1.0] * len(track.phi)


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


def test_the_preselection_counts_hard_central_objects() -> None:
    values = event_variables(objects(pt=[100.0, 90.0, 80.0], eta=[0.0, 2.39, -2.41], missing=[69.0]))
    assert values["n_objects_70"] == 2.0
    assert values["st"] == 190.0  # the third is beyond |η| = 2.4, and 69 GeV are not above 70


@pytest.fixture(scope="module")
def reconstruction() -> Reconstruction:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    return Reconstruction()


def found_in(reconstruction: Reconstruction, state: FinalState, rng: np.random.Generator) -> Objects:
    return reconstruction.event(state, rng).objects


def test_two_jets_balance(reconstruction: Reconstruction) -> None:
    rng = np.random.default_rng(5)
    jets = [(211, 3, 40.0, 0.1 * i, 0.1 * i) for i in (-1, 0, 1)]
    others = [(130, 0, 40.0, 0.5 + 0.1 * i, np.pi + 0.1 * i) for i in (-1, 0, 1)]
    found = found_in(reconstruction, particles(*jets, *others), rng)
    assert len(found.pt) == 2
    assert found.pt == pytest.approx([120, 120], rel=0.35)
    assert sorted(found.tracks.tolist()) == [False, True]
    # a jet without electromagnetic cells is hadronic but for a thousandth
    assert found.electromagnetic.sum() < 0.002 * found.hadronic.sum()


def test_an_isolated_muon_is_a_track_and_nothing_else(reconstruction: Reconstruction) -> None:
    rng = np.random.default_rng(6)
    seen = [found_in(reconstruction, particles((13, -3, 200.0, 0.2, 1.0)), rng) for _ in range(40)]
    muons = [one for one in seen if len(one.pt) and one.electromagnetic.sum() + one.hadronic.sum() == 0]
    assert len(muons) >= 30  # efficiency 0.99 · 0.95, else a jet of one track
    assert np.mean([one.pt[0] for one in muons]) == pytest.approx(200, rel=0.03)


def test_lost_muons_are_seen_nowhere() -> None:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    event = Reconstruction(lost_muons=1.0).event(
        particles((13, -3, 200.0, 0.2, 1.0)), np.random.default_rng(6)
    )
    assert len(event.objects.pt) == 0
    assert event.objects.missing == 0.0
    assert len(event.measured.tracks.pt) == 0


def test_soft_particles_make_no_object(reconstruction: Reconstruction) -> None:
    found = found_in(reconstruction, particles((211, 3, 5.0, 0.0, 0.0)), np.random.default_rng(7))
    assert len(found.pt) == 0
    assert object_image(found).sum() == 0
