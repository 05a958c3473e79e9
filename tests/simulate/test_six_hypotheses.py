"""Six hypotheses: which events of `mbh_sph` they are, and that all pass the preselection."""

import importlib.util

import numpy as np
import pytest

from hep_ray.config import parse
from hep_ray.errors import InvalidConfig, SimulationFailed
from hep_ray.simulate import SIMULATIONS, mbh_sph, six_hypotheses
from hep_ray.simulate.six_hypotheses import SixHypothesesConfig, generate
from tests.facts import raises

needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)


def test_classes_are_those_of_the_paper() -> None:
    config = SixHypothesesConfig()
    made = {name: config.of_class(name) for name in six_hypotheses.HOLES}
    assert {name: (one.extra_dimensions, one.black_hole_mass_min) for name, one in made.items()} == {
        "bh_n2_m10": (2, 10_000),
        "bh_n4_m8": (4, 8_000),
        "bh_n4_m10": (4, 10_000),
        "bh_n4_m12": (4, 12_000),
        "bh_n6_m10": (6, 10_000),
    }
    assert SIMULATIONS["six_hypotheses"].schema.classes == ("sphaleron", *made)


def test_a_threshold_that_no_collision_reaches_is_refused() -> None:
    with raises(InvalidConfig, "sphaleron_threshold", 14000):
        parse(SixHypothesesConfig, {"sphaleron_threshold": 14_000}, "settings")
    with raises(InvalidConfig, "planck_mass", 9000):
        parse(SixHypothesesConfig, {"planck_mass": 9_000}, "settings")


@needs_pythia
@pytest.mark.parametrize(("class_name", "kind"), [("sphaleron", "sphaleron"), ("bh_n4_m12", "black_hole")])
def test_events_are_those_of_mbh_sph_that_pass(class_name: str, kind: str) -> None:
    config = SixHypothesesConfig()
    every = mbh_sph.generate(config.of_class(class_name), kind, 40, np.random.SeedSequence(7))
    passed = (every["n_objects_70"] >= 5) & (every["st"] >= 7000)
    assert 3 < passed.sum() < 40
    ours = generate(config, class_name, int(passed.sum()), np.random.SeedSequence(7))
    assert ours.keys() == every.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, every[name][passed])


@needs_pythia
def test_a_preselection_that_nothing_passes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(six_hypotheses, "PATIENCE", 5)
    with raises(SimulationFailed, "S_T", 13000):
        generate(SixHypothesesConfig(st_min=13_000), "sphaleron", 1, np.random.SeedSequence(1))
