"""Invariants of phase space, boosts, parton pairs and colour flows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hep_ray.simulate.particles import PartonLuminosity, random_flow
from hep_ray.simulate.phase_space import boost, invariant_mass, rambo

SEEDS = st.integers(0, 2**32 - 1)
MASSES = st.lists(st.sampled_from([0.0, 4.8, 91.2, 172.5]), min_size=2, max_size=10)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, masses=MASSES, total=st.floats(2000, 9000))
def test_bodies_share_the_mass_and_are_on_shell(seed: int, masses: list[float], total: float) -> None:
    momenta = rambo(total, masses, np.random.default_rng(seed))
    assert momenta.sum(axis=0) == pytest.approx([total, 0, 0, 0], abs=1e-6 * total)
    squares = momenta[:, 0] ** 2 - (momenta[:, 1:] ** 2).sum(axis=1)
    assert squares == pytest.approx(np.square(masses), abs=1e-6 * total**2)


def test_two_bodies_have_the_textbook_momentum() -> None:
    # p = √[(M² − (m₁+m₂)²)(M² − (m₁−m₂)²)] / 2M with M = 300, m₁ + m₂ = 263.7, m₁ − m₂ = −81.3:
    # √(20462.31 · 83390.31) / 600 = 41308.1 / 600 = 68.847
    momenta = rambo(300.0, [91.2, 172.5], np.random.default_rng(1))
    assert np.linalg.norm(momenta[0, 1:]) == pytest.approx(68.847, abs=1e-3)


def test_three_massless_bodies_fill_a_flat_dalitz_plot() -> None:
    # Uniform phase space: x = 2E/M has density 2x on (0, 1), mean 2/3 and mean square 1/2.
    rng = np.random.default_rng(2)
    fractions = np.array([2 * rambo(1.0, [0.0, 0.0, 0.0], rng)[0, 0] for _ in range(4000)])
    assert fractions.mean() == pytest.approx(2 / 3, abs=0.015)
    assert np.square(fractions).mean() == pytest.approx(1 / 2, abs=0.015)


def test_three_bodies_at_threshold_share_kinetic_energy_as_the_textbook_says() -> None:
    # Without relativity phase space has density ∝ √(x(1 − x)) in x = T/T_max, a Beta(3/2, 3/2): mean 1/2, mean
    # square 1/4 + 1/16 = 5/16. Of M = 3.003 m, T_max = ((M − m)² − 4m²)/2M = (2.003² − 4)/6.006 = 0.0019990 m.
    rng = np.random.default_rng(7)
    kinetic = np.array([rambo(3.003, [1.0, 1.0, 1.0], rng)[0, 0] - 1 for _ in range(4000)])
    fractions = kinetic / 0.0019990
    assert fractions.mean() == pytest.approx(1 / 2, abs=0.015)
    assert np.square(fractions).mean() == pytest.approx(5 / 16, abs=0.015)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_boosting_there_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = np.array([100.0, *rng.uniform(-50, 50, 3)])
    momentum = np.array([20.0, *rng.uniform(-10, 10, 3)])
    back = np.array([frame[0], *-frame[1:]])
    assert boost(boost(momentum, frame), back) == pytest.approx(momentum, abs=1e-9)
    assert boost(np.array([invariant_mass(frame), 0, 0, 0]), frame) == pytest.approx(frame)


def test_pairs_follow_a_luminosity_known_by_hand() -> None:
    # x f = 1 for one flavour: dσ = dlnτ dy on |y| < −lnτ/2, so −lnτ has density ∝ itself on (0, L)
    # and mean 2L/3; L = −ln(0.25) = 1.386294, mean 0.924196.
    luminosity = PartonLuminosity(lambda *_: 1.0, 2000.0, 1000.0, 0.0, [(1, 2)])
    rng = np.random.default_rng(3)
    pairs = [luminosity.sample(rng) for _ in range(3000)]
    masses = np.array([pair.mass(2000.0) for pair in pairs])
    assert masses.min() >= 1000
    assert -2 * np.log(masses / 2000).mean() == pytest.approx(0.924196, abs=0.02)
    assert all(0 < x <= 1 for pair in pairs for x in pair.fractions)


def test_a_growing_cross_section_makes_heavier_pairs() -> None:
    rng = np.random.default_rng(4)
    means = []
    for growth in (0.0, 4.0):
        luminosity = PartonLuminosity(lambda *_: 1.0, 2000.0, 1000.0, growth, [(1, 2)])
        means.append(np.mean([luminosity.sample(rng).mass(2000.0) for _ in range(500)]))
    assert means[1] > means[0] + 50


def assert_colour_closes(flow: list[tuple[int, int]], incoming: int) -> None:
    """Every tag starts once and ends once."""
    starts = [colour for colour, _ in flow[incoming:] if colour] + [a for _, a in flow[:incoming] if a]
    ends = [anti for _, anti in flow[incoming:] if anti] + [c for c, _ in flow[:incoming] if c]
    assert sorted(starts) == sorted(ends)
    assert len(set(starts)) == len(starts)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    gluons=st.integers(0, 4),
    pairs=st.integers(1, 4),
    incoming=st.sampled_from([(21, 21), (2, -2), (2, 1), (2, 21), (-1, 21)]),
)
def test_colour_closes(seed: int, gluons: int, pairs: int, incoming: tuple[int, int]) -> None:
    quarks = [pdg for pdg in incoming if pdg != 21]
    outgoing = [21] * gluons + [3, -3] * pairs + quarks + [11, 22]
    flow = random_flow(incoming, outgoing, np.random.default_rng(seed))
    assert flow is not None
    assert_colour_closes(flow, len(incoming))
    assert all(colour != anticolour or colour == 0 for colour, anticolour in flow)
    assert flow[-2:] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("incoming", "outgoing"), [((2, 2), (2, 2, 2)), ((22, 22), (21,))])
def test_no_flow_exists(incoming: tuple[int, int], outgoing: tuple[int, ...]) -> None:
    assert random_flow(incoming, outgoing, np.random.default_rng(0)) is None
