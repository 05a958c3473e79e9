"""Batches that the workers of a trial cannot share are refused before anything starts."""

import pytest

from hep_ray.errors import InvalidSpace
from hep_ray.search.parameters import Choice, Integer
from hep_ray.search.shares import check_shares
from hep_ray.search.space import Space

COMMON = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}


def space(**parameters):
    return Space(**{**COMMON, **parameters})


def test_equal_shares_and_whole_batches_are_taken():
    check_shares(space(batch_size=Choice(8, 12)), [], 4, 4)
    check_shares(space(batch_size=7), [], 1, 1)
    check_shares(space(batch_size=7, learning_rate_scaling="linear"), [], 2, 2)
    check_shares(space(batch_size=12), [], 2, 4)
    check_shares(space(batch_size=8), [{"model": "logistic_regression"}], 4, 4)


@pytest.mark.parametrize(
    ("parameters", "counts", "words"),
    [
        ({"batch_size": Choice(8, 10)}, (4, 4), "batch_size 10 among 4 workers leaves 2"),
        ({"batch_size": Integer(8, 16)}, (2, 2), "make it a Choice"),
        ({"batch_size": 8}, (2, 4), "among 3 workers"),
        ({"batch_size": 7, "learning_rate_scaling": Choice("linear", "none")}, (2, 2), "batch_size 7"),
        ({"batch_size": 12, "learning_rate_scaling": "sqrt"}, (2, 4), "fixed number"),
    ],
)
def test_what_cannot_be_shared_is_refused(parameters, counts, words):
    with pytest.raises(InvalidSpace, match=words):
        check_shares(space(**parameters), [], *counts)


def test_a_reference_is_checked_too():
    with pytest.raises(InvalidSpace, match="batch_size 9"):
        check_shares(space(batch_size=8), [{**COMMON, "batch_size": 9}], 2, 2)
