"""Sub-images of electrons, muons, taus and jets: energies, centring, separability."""

import importlib.util

import numpy as np
import pytest

from hep_ray.simulate.atlas_objects import PIXELS, SCHEMA, AtlasObjectsConfig, generate

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)
EVENTS = 60


@pytest.fixture(scope="module")
def images():
    return {
        name: generate(AtlasObjectsConfig(), name, EVENTS, np.random.SeedSequence(5))["image"]
        for name in SCHEMA.classes
    }


def core(image: np.ndarray) -> np.ndarray:
    """Energy in GeV of the central 4 × 4 pixels, shape (n, 2)."""
    half = PIXELS // 2
    return image[:, half - 2 : half + 2, half - 2 : half + 2].sum(axis=(1, 2))


def test_electrons_stay_electromagnetic_and_muons_leave_little(images) -> None:
    electron, muon = core(images["electron"]), core(images["muon"])
    assert np.median(electron[:, 1] / electron.sum(axis=1)) < 0.03
    assert np.median(electron[:, 0]) > 25
    # ionisation: 0.26 GeV electromagnetic, 1.84 GeV hadronic
    assert np.median(muon[:, 0]) == pytest.approx(0.3, abs=0.4)
    assert np.median(muon[:, 1]) == pytest.approx(1.8, abs=0.6)


def test_taus_and_jets_reach_the_hadronic_layers_and_jets_are_broader(images) -> None:
    def narrowness(name: str) -> float:
        image = images[name]
        return float(np.median(core(image).sum(axis=1) / image.sum(axis=(1, 2, 3))))

    for name in ("tau", "jet"):
        fraction = core(images[name])[:, 1] / core(images[name]).sum(axis=1)
        assert np.median(fraction) > 0.05
    assert narrowness("electron") > narrowness("tau") > narrowness("jet")


def test_objects_are_in_the_middle(images) -> None:
    for name in ("electron", "tau", "jet"):
        profile = images[name].sum(axis=-1).mean(axis=0)
        eta, phi = np.unravel_index(profile.argmax(), profile.shape)
        assert abs(eta - PIXELS // 2) <= 1
        assert abs(phi - PIXELS // 2) <= 1


def test_boosted_trees_tell_the_four_apart(images) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_val_score

    values = np.concatenate(
        [
            np.column_stack([core(image), image.sum(axis=(1, 2)), image.max(axis=(1, 2))])
            for image in images.values()
        ]
    )
    labels = np.repeat(np.arange(len(images)), EVENTS)
    accuracy = cross_val_score(HistGradientBoostingClassifier(max_iter=40), values, labels, cv=3).mean()
    assert 0.7 < accuracy < 0.999


def test_same_seed_same_bytes(images) -> None:
    again = generate(AtlasObjectsConfig(), "jet", 5, np.random.SeedSequence(5))["image"]
    assert again.tobytes() == images["jet"][:5].tobytes()
