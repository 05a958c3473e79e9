"""Seeds and events crossed: the analysis of variance by arithmetic, placements against pairs, degrees of freedom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hep_ray.errors import InvalidConfig
from hep_ray.metrics import classification_metrics
from hep_ray.metrics.crossed import Variance, crossed, degrees
from hep_ray.metrics.event_values import event_values, placements
from tests.facts import raises

CLASSES = ("background", "signal")


def test_the_variances_of_a_small_table_by_hand() -> None:
    """Two seeds, three events: D = [[1, 0, 2], [0, 1, 1]].

    Means of seeds 1 and 2/3, of events 1/2, 1/2, 3/2, of all 5/6. Seeds: 3·2·(1/6)²/1 = 1/6. Events:
    2·(2·(1/3)² + (2/3)²)/2 = 2/3. All squares: 7/6 + 9·… : Σ(D − 5/6)² = 7 − 6·25/36 = 17/6, so that the rest is
    17/6 − 1/6 − 4/3 = 4/3 with 2 degrees: 2/3. Events beyond the rest: 2/3 − 2/3 = 0.
    """
    values = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    found = crossed(values, np.zeros_like(values), paired=True)
    assert found is not None
    assert found.difference == pytest.approx(5 / 6)
    assert found.seed_error**2 == pytest.approx(1 / 6 / 6)
    assert found.event_error == pytest.approx(0, abs=1e-9)
    # Nothing but seeds: the paired t-test over seeds.
    assert found.p_value == pytest.approx(stats.ttest_1samp([1.0, 2 / 3], 0).pvalue)


def test_seeds_of_equal_means_leave_the_error_of_what_they_differ_in_event_by_event() -> None:
    """Two seeds that are right in other events, three quarters each: D = [[1, 1, 1, 0], [0, 1, 1, 1]].

    Means of seeds 3/4, of events 1/2, 1, 1, 1/2, of all 3/4. Seeds: 0. Events: 2·4·(1/4)² = 1/2 with 3 degrees: 1/6.
    All squares: 8·3/4·1/4 = 3/2, so that the rest is 3/2 − 1/2 = 1 with 3 degrees: 1/3. Events beyond the rest:
    1/12 − 1/6 < 0. The error is √((1/3)/8), where that of the seeds' means would be 0.
    """
    values = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    found = crossed(values, np.zeros_like(values), paired=True)
    assert found is not None
    assert found.event_error == 0.0
    assert found.seed_error == pytest.approx(math.sqrt(1 / 24))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.75 / math.sqrt(1 / 24), 3))
    half = found.interval(0.95).high - 0.75
    assert half == pytest.approx(3.182446 * math.sqrt(1 / 24), rel=1e-6)  # t of 97.5 % with 3 degrees


def test_events_that_every_seed_sees_alike_are_the_noise_of_a_paired_test_over_events() -> None:
    of_events = np.random.default_rng(1).normal(0.1, 1.0, 400)
    values = np.tile(of_events, (4, 1))
    found = crossed(values, np.zeros_like(values), paired=True)
    assert found is not None
    assert found.seed_error == pytest.approx(0, abs=1e-12)
    assert found.p_value == pytest.approx(stats.ttest_1samp(of_events, 0).pvalue, rel=1e-6)
    # A fitted model needs one seed for that, a network is not known by one.
    single = crossed(of_events[None], np.zeros((1, 400)), paired=True, seedless=(True, True))
    assert single is not None
    assert single.p_value == pytest.approx(found.p_value)
    assert crossed(of_events[None], np.zeros((1, 400)), paired=True, seedless=(True, False)) is None


def test_the_errors_are_those_that_were_put_in() -> None:
    """σ_A = 0.05, σ_B = 1, σ_AB = 2, S = 8, N = 1000: seeds (0.0025 + 4/1000)/8, events 1/1000."""
    random = np.random.default_rng(2)
    found = [
        crossed(
            0.05 * random.normal(size=(8, 1)) + random.normal(size=1000) + 2 * random.normal(size=(8, 1000)),
            np.zeros((8, 1000)),
            paired=True,
        )
        for _ in range(300)
    ]
    seeds = np.mean([one.seed_error**2 for one in found if one])
    events = np.mean([one.event_error**2 for one in found if one])
    assert seeds == pytest.approx((0.0025 + 0.004) / 8, rel=0.1)  # 2/√(2·7·300) is 3 %
    assert events == pytest.approx(0.001, rel=0.03)
    assert np.var([one.difference for one in found if one]) == pytest.approx(seeds + events, rel=0.25)


def test_seeds_that_are_no_pairs_add_up() -> None:
    """Welch over seeds where no event differs from another but by seed: Var = s²/S + t²/T."""
    left = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]) * [[1, 1]]
    right = np.array([[3.0, 3.0], [5.0, 5.0]])
    found = crossed(left, right, paired=False)
    assert found is not None
    assert (found.difference, found.event_error) == (-3.0, 0.0)
    assert found.seed_error**2 == pytest.approx(1 / 3 + 2 / 2)


def test_degrees_of_freedom() -> None:
    assert degrees([Variance(2.0, 4), Variance(0.0, 99)]) == pytest.approx(4)
    assert degrees([Variance(0.0, 4), Variance(1.0, 99)]) == pytest.approx(99)
    # Shares of a half with ν = 4 and ∞: 1/f = 0.25·(1 + 4.5/4·0.5)/4.
    assert degrees([Variance(1.0, 4), Variance(1.0, math.inf)]) == pytest.approx(16 / (1 + 4.5 / 8))
    assert degrees([Variance(1.0, 1), Variance(1.0, math.inf)]) == pytest.approx(4 / (1 + 12 / 2))


def test_models_without_any_noise_have_no_p_value() -> None:
    same = np.full((3, 50), 0.7)
    found = crossed(same, same, paired=True)
    assert found is not None
    assert found.p_value is None
    assert found.interval().low == 0


def test_models_are_compared_on_the_same_events() -> None:
    with raises(InvalidConfig, "(2, 5)", "(2, 6)"):
        crossed(np.zeros((2, 5)), np.zeros((2, 6)), paired=True)
    with raises(InvalidConfig, "(2, 5)", "(3, 5)"):
        crossed(np.zeros((2, 5)), np.zeros((3, 5)), paired=True)


def test_placements_are_shares_of_pairs() -> None:
    """Every pair of signal and background by brute force, ties half."""
    random = np.random.default_rng(3)
    labels = random.random(80) < 0.3
    scores = (random.normal(size=80) + labels).round(1)
    wins = (scores[labels][:, None] > scores[~labels]) + 0.5 * (scores[labels][:, None] == scores[~labels])
    area, share = wins.mean(), labels.mean()
    found = placements(scores, labels)
    assert found.mean() == pytest.approx(area)
    np.testing.assert_allclose(found[labels], area + (wins.mean(axis=1) - area) / share)
    np.testing.assert_allclose(found[~labels], area + (wins.mean(axis=0) - area) / (1 - share))
    # DeLong's variance of the area, S₁₀/m + S₀₁/n, up to 1/N.
    delong = wins.mean(axis=1).var(ddof=1) / labels.sum() + wins.mean(axis=0).var(ddof=1) / (~labels).sum()
    assert found.var(ddof=1) / 80 == pytest.approx(delong, rel=0.05)


@pytest.mark.parametrize(
    "metric", ["accuracy", "auc", "f1", "background_rejection_at_50", "calibration_error"]
)
def test_values_have_the_metric_as_their_mean(metric: str) -> None:
    random = np.random.default_rng(4)
    labels = np.arange(600) % 2
    log_odds = random.normal(2.0 * labels - 1, 1.5)
    both = np.stack([-log_odds, log_odds], axis=1)
    probabilities = 1 / (1 + np.exp(-both))
    values = event_values(metric, labels, probabilities, both, CLASSES, "signal")
    assert values is not None
    whole = classification_metrics(probabilities, labels, CLASSES, "signal", both)
    assert values.mean() == pytest.approx(whole[metric])
    assert len(values) == (600 if metric in {"accuracy", "auc"} else 50)


@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [
        ("background_distance_correlation", 0.6, 1.6),
        ("decorrelated_loss", 0.6, 1.6),
        (
            "background_jsd_at_50",
            0.7,
            2.2,
        ),  # a quantile's, and of few events a bin: too large rather than too small
    ],
)
def test_what_is_known_of_a_protected_column_has_the_error_that_repetition_gives(
    metric: str, least: float, most: float
) -> None:
    random, wholes, errors = np.random.default_rng(6), [], []
    for _ in range(20):
        labels = np.arange(600) % 2
        mass, weights = random.normal(size=600), random.uniform(0.5, 1.5, 600)
        log_odds = random.normal(2.0 * labels - 1, 1.5) + mass
        both = np.stack([-log_odds, log_odds], axis=1)
        p = 1 / (1 + np.exp(-both))
        losses = -np.log(p[np.arange(600), labels])
        values = event_values(
            metric, labels, p, both, CLASSES, "signal", losses, weights, protected=mass, decorrelation=2.0
        )
        assert values is not None
        found = classification_metrics(p, labels, CLASSES, "signal", both, weights, protected=mass)
        term = 2 * found["background_distance_correlation"] ** 2
        whole = {"decorrelated_loss": np.average(losses, weights=weights) + term, **found}[metric]
        assert values.mean() == pytest.approx(whole)
        wholes.append(whole)
        errors.append(values.std(ddof=1) / math.sqrt(len(values)))
    assert least < np.mean(errors) / np.std(wholes, ddof=1) < most
    assert event_values(metric, labels, p, both, CLASSES, "signal", losses) is None


def test_the_jackknife_gives_the_error_of_a_recall() -> None:
    """Recall of a class is a share: √(r(1 − r)/n)."""
    random = np.random.default_rng(5)
    labels = np.arange(4000) % 2
    log_odds = random.normal(2.0 * labels - 1, 1.5)
    both = np.stack([-log_odds, log_odds], axis=1)
    values = event_values("accuracy_signal", labels, 1 / (1 + np.exp(-both)), both, CLASSES, "signal")
    assert values is not None
    recall = values.mean()
    assert values.std(ddof=1) / math.sqrt(50) == pytest.approx(
        math.sqrt(recall * (1 - recall) / 2000), rel=0.3
    )


def test_there_are_none_of_a_handful_of_events_or_of_an_unknown_loss() -> None:
    labels = (np.arange(100) < 10).astype(np.int64)
    flat = np.full((100, 2), 0.5)
    assert event_values("accuracy", labels, flat, flat * 0, CLASSES, "signal") is None
    assert event_values("loss", np.arange(100) % 2, flat, flat * 0, CLASSES, "signal") is None
    assert event_values("loss", np.arange(100) % 2, flat, flat * 0, CLASSES, "signal", flat[:, 0]) is not None
