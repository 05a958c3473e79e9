"""Batches that the workers of a trial cannot share are refused before anything starts."""

import pytest

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidSpace
from hep_ray.search.preflight import check_batches, check_batches_of, check_shares
from hep_ray.search.space import Choice, Integer, Space
from tests.facts import raises, tells

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
    ("parameters", "counts", "facts"),
    [
        ({"batch_size": Choice(8, 10)}, (4, 4), ["batch_size 10", "4 workers", "2"]),
        ({"batch_size": Integer(8, 16)}, (2, 2), ["batch_size", "Choice"]),
        ({"batch_size": 8}, (2, 4), ["3 workers"]),
        ({"batch_size": 7, "learning_rate_scaling": Choice("linear", "none")}, (2, 2), ["batch_size 7"]),
        (
            {"batch_size": 12, "learning_rate_scaling": "sqrt"},
            (2, 4),
            ["--min-workers-per-trial"],
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(parameters, counts, facts):
    with raises(InvalidSpace, *facts):
        check_shares(space(**parameters), [], *counts)


def test_a_reference_is_checked_too():
    with raises(InvalidSpace, "batch_size 9", "2 workers"):
        check_shares(space(batch_size=8), [{**COMMON, "batch_size": 9}], 2, 2)


IMAGES = EventSchema(task="toy", columns=(Column(name="image", shape=(28, 28, 1)),), classes=("a", "b"))
BCNN = {"model": "bilinear_cnn", "batch_size": 32}  # whose last maps are of one pixel


def images(**parameters):
    return space(**{**BCNN, **parameters})


@pytest.mark.parametrize(
    ("parameters", "events", "workers", "facts"),
    [
        ({"last_batch": "keep"}, 3009, 1, ["bilinear_cnn", "batch of 1", "3009"]),
        ({"last_batch": Choice("share", "keep")}, 3009, 1, ["last_batch 'keep'", "batch_size"]),
        ({"batch_size": Choice(32, 1)}, 3000, 1, ["batches of 1"]),
        ({"batch_size": Integer(30, 40), "last_batch": "keep"}, 36 * 37 + 1, 1, ["batches of 36"]),
        (
            {"last_batch": "keep"},
            2 * (16 * 5 + 1),
            2,
            ["batches of 32", "2 workers", "last_batch 'keep'"],
        ),
        ({"last_batch": "keep", "learning_rate_scaling": "linear"}, 2 * (32 * 5 + 1), 2, ["2 workers"]),
        (
            {"last_batch": "keep"},
            32 * 5 + 1,
            2,
            ["batches of 32"],
        ),  # 80 events each; 161 in the pass of an average
        ({"last_batch": "drop"}, 31, 1, ["31 events"]),
    ],
)
def test_a_batch_of_one_event_is_refused_where_it_cannot_be_normalised(parameters, events, workers, facts):
    with raises(InvalidSpace, *facts):
        check_batches(images(**parameters), [], IMAGES, events, min_workers=workers, workers=workers)


@pytest.mark.parametrize(
    ("parameters", "events", "workers"),
    [
        ({}, 3009, 1),
        ({"last_batch": "drop"}, 3009, 1),
        ({"last_batch": "keep"}, 3010, 1),
        ({"last_batch": "keep", "model": "cnn"}, 3009, 1),  # without normalisation
        ({"last_batch": "keep", "model": "deep_cnn"}, 3009, 1),  # over maps of many pixels
        ({"last_batch": "keep", "sync_batch_norm": True}, 2 * (16 * 5 + 1), 2),
        ({"batch_size": Integer(30, 40)}, 3009, 1),
    ],
)
def test_other_batches_are_taken(parameters, events, workers):
    check_batches(images(**parameters), [], IMAGES, events, min_workers=workers, workers=workers)


def test_a_reference_with_a_batch_of_one_event_is_refused():
    reference = {**COMMON, **BCNN, "last_batch": "keep"}
    with raises(InvalidSpace, "batch of 1", "batches of 32", "3009"):
        check_batches(space(batch_size=8, model="cnn"), [reference], IMAGES, 3009)


def test_a_configuration_that_is_known_is_refused_as_one_of_a_space():
    known = dict(images(last_batch="keep", batch_size=32).samples()[0])
    check_batches_of([known], IMAGES, 3008)
    with pytest.raises(InvalidSpace) as caught:
        check_batches_of([known], IMAGES, 3009)
    assert tells(str(caught.value), "batch of 1", 3009, "batches of 32")
