"""Electron candidates: the Z peak, what each class looks like, and how well they separate."""

import importlib.util

import numpy as np
import pytest

from hep_ray.config import parse
from hep_ray.errors import InvalidConfig, SimulationFailed
from hep_ray.simulate import SIMULATIONS, electron_id
from hep_ray.simulate.calorimeter import ELECTRON, PHOTON
from hep_ray.simulate.electron_id import ETA_EDGES, SCHEMA, SHARES, ElectronCandidatesConfig, generate
from hep_ray.simulate.electron_tracker import Flight, convert, flip, transport
from hep_ray.simulate.electron_variables import VARIABLES
from hep_ray.simulate.pythia import Generator, PythiaConfig
from tests.facts import raises

needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)
EVENTS = 60


def beam(kind: int, charge: float, pt: float, count: int) -> Flight:
    zeros = np.zeros(count)
    return Flight(
        np.arange(count),
        np.full(count, kind),
        np.full(count, charge),
        np.full(count, pt),
        np.full(count, pt),
        zeros,
        zeros,
        zeros,
        zeros,
    )


@pytest.fixture(scope="module")
def simulated():
    return {
        name: generate(ElectronCandidatesConfig(), name, EVENTS, np.random.SeedSequence(5))
        for name in SCHEMA.classes
    }


def test_signal_is_36_5_percent() -> None:
    assert SHARES[SCHEMA.signal_index] / sum(SHARES) == pytest.approx(0.365)
    assert SIMULATIONS["electron_id"].shares == SHARES


def test_conversions_share_the_photons_momentum() -> None:
    legs = convert(beam(PHOTON, 0.0, 40.0, 500), np.random.default_rng(1))
    assert legs.pt[:500] + legs.pt[500:] == pytest.approx(40.0)
    assert (legs.charge[:500] == -legs.charge[500:]).all()
    # density 1 − 4x(1−x)/3 over 7/9: ⟨(x − ½)²⟩ = (1/12 − 4/3·1/120)·9/7 = 0.0929
    assert np.var(legs.pt / 40) == pytest.approx(0.0929, rel=0.1)


def test_a_conversions_impact_parameter_is_that_of_a_touching_circle() -> None:
    """At r = 100 mm and p_T = 10 GeV in 2 T the circle's radius is 16.7 m and d0 = r²/(2ρ) = 0.3 mm.

    Radii are 30–150 mm and one leg has 5 GeV or less: |d0| is at most 150²·0.0006/(2 p_T).
    """
    legs = convert(beam(PHOTON, 0.0, 10.0, 500), np.random.default_rng(1))
    scaled = np.abs(legs.d0) * 2 * legs.pt / 0.0006
    assert scaled.min() >= 30**2 - 1e-6
    assert scaled.max() <= 150**2 + 1e-6


def test_a_flip_has_the_wrong_charge_in_front_and_keeps_momentum() -> None:
    legs = flip(beam(ELECTRON, -1.0, 40.0, 300), np.random.default_rng(1))
    momenta = legs.pt.reshape(3, 300)
    assert momenta.sum(axis=0) == pytest.approx(40.0)
    assert (momenta.argmax(axis=0) == 1).all()
    assert (legs.charge.reshape(3, 300)[1] == 1).all()


def test_transport_conserves_energy_and_bends_by_charge() -> None:
    incoming, tracks = transport(beam(ELECTRON, -1.0, 40.0, 2000), np.random.default_rng(1))
    energy = np.bincount(incoming.candidate, incoming.energy)
    assert energy == pytest.approx(40.0)
    assert (incoming.phi > 0).all()
    # 0.3 · 2 T · 1.5 m / (2 · 40 GeV) = 11.25 mrad; a photon leaves the circle earlier, an electron later
    kept = incoming.energy > 39.999
    assert incoming.phi[kept] == pytest.approx(0.01125)
    # mean of z is e^(−t), t = 0.3 radiation lengths at η = 0
    assert 1 - tracks.loss.mean() == pytest.approx(np.exp(-0.3), abs=0.03)


@pytest.mark.parametrize(
    ("pdg", "heavy"),
    [(211, False), (321, False), (3122, False), (411, True), (-521, True), (5122, True), (11, False)],
)
def test_heavy_flavour_is_read_from_the_number(pdg: int, heavy: bool) -> None:
    assert electron_id.heavy_flavoured(pdg) is heavy


@needs_pythia
def test_z_mass_peak() -> None:
    batch = next(Generator(PythiaConfig(settings=electron_id.Z_TO_EE)).batches(400, 3))
    fits = batch.final & (np.abs(batch.pdg) == 11) & (batch.pt > 15)
    masses = []
    for event in range(batch.events):
        leptons = np.flatnonzero(fits & (batch.event == event))
        if len(leptons) == 2:
            energy, *momentum = batch.momentum[leptons].sum(axis=0)
            masses.append(np.sqrt(energy**2 - np.dot(momentum, momentum)))
    # The pole is at 91.19 GeV; photons radiated by the electrons pull the median down. A Breit–Wigner of
    # Γ = 2.5 GeV has 2/π·atan(5/1.25) = 0.84 of its area within 5 GeV, before radiation.
    assert np.median(masses) == pytest.approx(90.7, abs=0.8)
    assert np.mean(np.abs(np.array(masses) - 91.19) < 5) > 0.65


@needs_pythia
def test_columns_hold_what_they_say(simulated) -> None:
    for columns in simulated.values():
        assert (columns["pt"] > 15).all()
        assert (np.abs(columns["eta"]) < 2.47).all()
        assert (columns["eta_region"] == np.digitize(np.abs(columns["eta"]), ETA_EDGES)).all()
        present = columns["tracks"][..., 0] > 0
        assert present[:, 0].all()
        assert (present[:, 1:] <= present[:, :-1]).all()  # no gaps before the padding
        assert (columns["tracks"][~present] == 0).all()
        assert (np.diff(np.where(present, columns["tracks"][..., 0], -1), axis=1) <= 0).all()


@needs_pythia
def test_classes_differ_as_physics_says(simulated) -> None:
    def median(name: str, variable: str) -> float:
        return float(np.median(simulated[name]["scalars"][:, list(VARIABLES).index(variable)]))

    assert median("electron", "r_had") < 0.02
    assert median("light_flavour_hadron", "r_had") > 0.2
    assert median("electron", "r_eta") > median("light_flavour_hadron", "r_eta")
    assert median("electron", "e_ratio") > 0.9 > median("light_flavour_hadron", "e_ratio")
    assert median("electron", "d0_significance") < 1.5 < median("heavy_flavour", "d0_significance")
    assert median("photon_conversion", "d0_significance") > 3
    assert median("electron", "e_over_p") == pytest.approx(1.0, abs=0.25)
    assert median("charge_flip", "e_over_p") > 1.5


@needs_pythia
def test_boosted_trees_tell_signal_from_background(simulated) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_val_predict

    values = np.concatenate([columns["scalars"] for columns in simulated.values()])
    signal = np.repeat([name == SCHEMA.signal for name in simulated], EVENTS)
    predicted = cross_val_predict(HistGradientBoostingClassifier(max_iter=40), values, signal, cv=3)
    balanced = (predicted[signal].mean() + 1 - predicted[~signal].mean()) / 2
    assert 0.75 < balanced < 0.999


@needs_pythia
def test_same_seed_same_bytes_and_the_start_does_not_depend_on_the_number(simulated) -> None:
    again = generate(ElectronCandidatesConfig(), "electron", 5, np.random.SeedSequence(5))
    for name, values in again.items():
        assert values.tobytes() == simulated["electron"][name][:5].tobytes()


def test_bad_settings_are_refused() -> None:
    with raises(InvalidConfig, "pt_min", 50):
        parse(ElectronCandidatesConfig, {"pt_min": 50}, "settings")


@needs_pythia
def test_a_process_pythia_does_not_know_is_refused(capfd) -> None:
    with raises(SimulationFailed, "'No:such = on'"):
        Generator(PythiaConfig(settings=("No:such = on",)))
    capfd.readouterr()
