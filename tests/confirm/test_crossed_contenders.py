"""Whose seeds count when two contenders are compared."""

import numpy as np
import pytest

from hep_ray.confirm.comparison import compared, seedless
from hep_ray.confirm.confirmation import Contender
from hep_ray.metrics.crossed import Sampled


def contender(**params):
    return Contender(name="t0000", role="finalist", params=params, runs=(), estimates={})


@pytest.mark.parametrize(
    ("params", "alone"),
    [
        ({"model": "xgboost"}, True),
        ({"model": "xgboost", "events_per_tree": 0.5}, False),
        ({"model": "xgboost", "features_per_tree": 0.5}, False),
        ({"model": "lightgbm", "leaves": 8}, True),
        ({"model": "lightgbm", "events_per_tree": 0.5}, False),
        ({"model": "gradient_boosting"}, True),
        ({"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}, False),
    ],
)
def test_a_fit_that_draws_is_not_known_by_one_seed(params, alone):
    """Events tell a difference of 1 ± 0.05; a model that draws has the noise of its seeds too."""
    assert seedless(contender(**params)) is alone
    values = np.random.default_rng(0).normal(1, 1, (1, 400))
    against = (contender(model="likelihood"), Sampled(np.zeros((1, 400))))
    one = compared((contender(**params), Sampled(values)), against)
    assert (one is not None) is alone
    seeds = values + np.array([[0.3], [0.0], [-0.3]])
    three = compared(
        (contender(**params), Sampled(seeds if not alone else np.repeat(values, 3, axis=0))),
        (against[0], Sampled(np.zeros((3, 400)))),
    )
    assert three is not None
    assert (three.seed_error == 0) is alone
