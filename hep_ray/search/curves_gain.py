"""How much a search by learning curves has left to gain, and when that is noise.

What is left to gain is the expected regret of stopping: over draws of all values together from a model, the mean of how
far the highest in full lies above that of the best trial. The highest of a draw stands for a search that went on for
ever, so this does not depend on the epochs that are left. To stop where a bound of the regret falls below the noise of
a value is of Makarova et al., arXiv:2104.08166; to take an expected regret, of Ishibashi et al., A stopping criterion
for Bayesian optimization by the gap of expected minimum simple regrets, AISTATS 2023.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hep_ray.search.curves_gp import Array, Process, Warp

DRAWS = 512
"""Of all candidates together."""
JITTER = 1e-6


def gain_left(
    process: Process, codes: Array, times: Array, back: Callable[[float], float], rng: np.random.Generator
) -> float:
    """Return how much higher than the best trial the highest is expected to be, in units of the metric.

    Args:
        process: over configurations and epochs.
        codes: (n, columns) of configurations that may be trained, the best trial's last.
        times: (n,) after which their values count: the last epoch, of the best trial that which it has reached.
        back: value that lies so far above the best, in units of the process.
        rng: of the draws.
    """
    mean, covariance = process.joint(codes, times)
    covariance[np.diag_indices(len(codes))] += JITTER
    lower = np.linalg.cholesky(covariance)
    drawn = mean[:, None] + lower @ rng.normal(size=(len(codes), DRAWS))
    rises = drawn.max(0) - drawn[-1]
    return float(np.mean([back(float(rise)) for rise in rises]) - back(0.0))


def noise_of(process: Process, warp: Warp, best: float) -> float:
    """Return by how much a value as good as the best is off by chance, as the model finds it in all curves.

    Args:
        process: over configurations and epochs.
        warp: of values.
        best: the best value so far, in units of the metric, larger is better.
    """
    return best - warp.back(float(warp(np.array(best))) - process.noise)
