"""How often the gate lets a candidate pass that is no better, and one that is, where it is known which is which.

Every simulated confirmation has S seeds of a candidate and of a baseline, all on one test split of N events, and goes
through the functions of `hep_ray confirm` and `promote`: `event_values` and `crossed`. The log-odds of event i under
seed s of a model m are

    x_smi = ±1 + u_i + b_mi + a_sm + c_smi,

u what all models share of an event, b what one model makes of it whatever its seed, c what differs from seed to seed,
and a, which shifts a seed's scores as a whole. Both models have the same distributions, so that neither is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_ray.metrics.crossed import crossed
from hep_ray.metrics.event_values import event_values
from hep_ray.promote.gate import LEVEL

SEEDS = (3, 5, 10)
EVENTS = (500, 5_000, 50_000)
CLASSES = ("background", "signal")
REPETITIONS = {500: 16_000, 5_000: 8_000, 50_000: 1_200}
"""Simulated confirmations for each number of events; both directions count, the candidate's and the baseline's."""
OWN, BETWEEN, SHIFT = 0.5, 0.75, 0.05
"""Standard deviations of b, c and a; that of u is 1. Of 5,000 events the seeds' spread is then about half of all."""

Floats = NDArray[np.float32]


def scores(
    random: np.random.Generator, seeds: int, signs: Floats, shared: Floats, gain: float = 0.0
) -> Floats:
    """Log-odds (seeds, N) of one model."""
    events = len(signs)
    own = shared + OWN * random.standard_normal(events, dtype=np.float32) + (1 + gain) * signs
    each = BETWEEN * random.standard_normal((seeds, events), dtype=np.float32)
    shift = SHIFT * random.standard_normal((seeds, 1), dtype=np.float32)
    return own + each + shift


def values(metric: str, labels: NDArray[np.int64], log_odds: Floats) -> NDArray[np.float64]:
    """Values (seeds, N) of the metric, as a confirmation makes them of the scores that it kept."""
    made = []
    for one in log_odds:
        both = np.stack([-one, one], axis=1)
        # An increasing function of the log-odds with 1/2 at 0: all that accuracy and ranks see of a probability.
        found = event_values(metric, labels, both, both, CLASSES, "signal")
        assert found is not None
        made.append(found)
    return np.stack(made)


def passing(
    metric: str, seeds: int, events: int, repetitions: int, gain: float = 0.0, level: float = LEVEL
) -> tuple[int, int, float]:
    """Confirmations in which the candidate passes, and in which the baseline would; the mean error of the difference.

    Args:
        metric: `accuracy` or `auc`.
        seeds: of each model.
        events: N.
        repetitions: simulated.
        gain: by which the candidate's classes lie further apart.
        level: one-sided.
    """
    random = np.random.default_rng([seeds, events, repetitions, int(1e6 * gain)])
    labels = np.arange(events) % 2
    signs = (2 * labels - 1).astype(np.float32)
    up, down, error = 0, 0, 0.0
    for _ in range(repetitions):
        shared = random.standard_normal(events, dtype=np.float32)
        candidate, baseline = (
            values(metric, labels, scores(random, seeds, signs, shared, more)) for more in (gain, 0.0)
        )
        found = crossed(candidate, baseline, paired=True)
        assert found is not None
        error += found.error / repetitions
        if found.p_value is not None and found.p_value < 2 * level:
            up, down = up + (found.difference > 0), down + (found.difference < 0)
    return up, down, error


def false_alarms(metric: str, seeds: int, events: int, repetitions: int) -> dict[str, Any]:
    """One line of `gate_false_alarms`."""
    up, down, _ = passing(metric, seeds, events, repetitions)
    share = (up + down) / (2 * repetitions)
    return {
        "metric": metric,
        "seeds": seeds,
        "events": events,
        "nominal": LEVEL,
        "measured": round(share, 5),
        "error": round(math.sqrt(max(share, 1 / repetitions) * (1 - share) / (2 * repetitions)), 5),
        "repetitions": repetitions,
    }


def gate_false_alarms() -> Iterator[dict[str, Any]]:
    """Accuracy at every number of seeds and events, the area under the ROC curve at 500 events."""
    for events in EVENTS:
        for seeds in SEEDS:
            yield false_alarms("accuracy", seeds, events, REPETITIONS[events])
    for seeds in SEEDS:
        yield false_alarms("auc", seeds, 500, 4_000)


def gate_power() -> Iterator[dict[str, Any]]:
    """A candidate whose true gain in accuracy is about three standard errors of the difference."""
    for events in EVENTS:
        for seeds in SEEDS:
            repetitions = min(1_000, max(150, REPETITIONS[events] // 8))
            _, _, error = passing("accuracy", seeds, events, 50)
            # dΦ(m/w)/dm at m = 1, w² = 1 + b² + c² + a²: accuracy per unit of the distance of the classes.
            width = math.sqrt(1 + OWN**2 + BETWEEN**2 + SHIFT**2)
            slope = math.exp(-0.5 / width**2) / (math.sqrt(2 * math.pi) * width)
            gain = 3 * error / slope
            up, _, spread = passing("accuracy", seeds, events, repetitions, gain)
            share = up / repetitions
            yield {
                "metric": "accuracy",
                "seeds": seeds,
                "events": events,
                "nominal": LEVEL,
                "gain": round(gain * slope, 5),
                "standard_errors": round(gain * slope / spread, 2),
                "measured": round(share, 4),
                "error": round(math.sqrt(share * (1 - share) / repetitions), 4),
                "repetitions": repetitions,
            }


SIMULATIONS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "gate_false_alarms": gate_false_alarms,
    "gate_power": gate_power,
}
