"""Trials that could not be trained are refused before anything starts."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hep_ray import Preset, Search
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSpace, StorageError
from hep_ray.own_code import OWN_CODE
from hep_ray.search.curves_trials import milestones
from hep_ray.search.find import load_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice, Integer, LogUniform
from hep_ray.search.plan import prepare
from hep_ray.search.preflight import (
    check_configurations,
    check_decorrelated,
    check_metrics,
    check_yardsticks,
    configurations_of,
    most_paused,
    unread_columns,
)
from hep_ray.search.room import check_room
from hep_ray.search.space import Space
from hep_ray.simulate import SIMULATIONS
from tests.facts import raises, tells

COMMON = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}


VECTORS = EventSchema(task="toy", columns=(Column(name="x", shape=(3,)),), classes=("a", "b"))


def space(**parameters):
    return Space(**{**COMMON, **parameters})


def check(space, references=(), schema=VECTORS, events=4800, *, least=1, most=1):
    workers = range(least, most + 1)
    return check_configurations(configurations_of(space, references, most), schema, events, workers)


def test_each_value_of_ones_own_components_is_to_be_tried(monkeypatch):
    layers = space(hidden_layers=Choice(1, 2, 3), optimizer="sgd", momentum=Choice(0.1, 0.5))
    assert len(check(layers)[0]) == 1
    monkeypatch.setitem(OWN_CODE, "mine", ["model 'mlp'", "optimizer 'sgd'"])
    samples, _ = check(layers)
    assert {one["hidden_layers"] for one in samples} == {1, 2, 3}
    assert {one["momentum"] for one in samples} == {0.1, 0.5}
    assert len(samples) == 1 + 2 + 1  # the first values of all; then one of each other value


def test_equal_shares_and_whole_batches_are_taken():
    check(space(batch_size=Choice(8, 12)), [], least=4, most=4)
    check(space(batch_size=7), [], least=1, most=1)
    check(space(batch_size=7, learning_rate_scaling="linear"), [], least=2, most=2)
    check(space(batch_size=12), [], least=2, most=4)
    check(space(batch_size=8), [{"model": "logistic_regression"}], least=4, most=4)


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
        check(space(**parameters), least=counts[0], most=counts[1])


def test_a_reference_is_checked_too():
    with raises(InvalidSpace, "batch_size 9", "2 workers"):
        check(space(batch_size=8), [{**COMMON, "batch_size": 9}], least=2, most=2)


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
        # 80 events each; 161 in the pass of an average
        ({"last_batch": "keep", "swa_start": Choice(1.0, 0.5)}, 32 * 5 + 1, 2, ["batches of 32"]),
        ({"last_batch": "keep", "optimizer": "entropy_sgd"}, 32 * 5 + 1, 2, ["batches of 32"]),
        ({"last_batch": "drop"}, 31, 1, ["31 events"]),
    ],
)
def test_a_batch_of_one_event_is_refused_where_it_cannot_be_normalised(parameters, events, workers, facts):
    with raises(InvalidSpace, *facts):
        check(images(**parameters), [], IMAGES, events, least=workers, most=workers)


@pytest.mark.parametrize(
    ("parameters", "events", "workers"),
    [
        ({}, 3009, 1),
        ({"last_batch": "drop"}, 3009, 1),
        ({"last_batch": "keep"}, 3010, 1),
        ({"last_batch": "keep", "model": "cnn"}, 3009, 1),  # without normalisation
        ({"last_batch": "keep", "model": "deep_cnn"}, 3009, 1),  # over maps of many pixels
        ({"last_batch": "keep"}, 32 * 5 + 1, 2),  # 80 events each, and nothing is averaged
        ({"last_batch": "keep", "sync_batch_norm": True}, 2 * (16 * 5 + 1), 2),
        ({"batch_size": Integer(30, 40)}, 3009, 1),
    ],
)
def test_other_batches_are_taken(parameters, events, workers):
    check(images(**parameters), [], IMAGES, events, least=workers, most=workers)


def test_a_reference_with_a_batch_of_one_event_is_refused():
    reference = {**COMMON, **BCNN, "last_batch": "keep"}
    with raises(InvalidSpace, "batch of 1", "batches of 32", "3009"):
        check(space(batch_size=8, model="cnn"), [reference], IMAGES, 3009)


def test_a_configuration_that_is_known_is_refused_as_one_of_a_space():
    known = dict(images(last_batch="keep", batch_size=32).samples()[0])
    check_configurations([known], IMAGES, 3008)
    with pytest.raises(InvalidSpace) as caught:
        check_configurations([known], IMAGES, 3009)
    assert tells(str(caught.value), "batch of 1", 3009, "batches of 32")


SEARCHES = Path(__file__).parents[2] / "searches"
BASE = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
IMAGE_COLUMN = Column(name="image", shape=(28, 30, 1), axes=("eta", "phi"))
ANGLES = Column(name="angles", shape=(2,), elements=("met", "met_phi"))


def schema(*columns: Column) -> EventSchema:
    return EventSchema(task="toy", columns=columns, classes=("a", "b"))


def check_events(space: Space, *columns: Column) -> None:
    space.check()
    check(space, schema=schema(*columns))


def test_a_search_whose_augmentation_would_break_events_is_refused_before_it_starts(tmp_path: Path) -> None:
    unsaid = Column(name="image", shape=(28, 30, 1))
    with ShardWriter(tmp_path / "data", schema(unsaid)) as writer:
        writer.write(
            {
                "event_id": [f"event-{row}" for row in range(60)],
                "label": np.arange(60) % 2,
                "image": np.ones((60, 28, 30, 1), np.float32),
            }
        )
    space = Space(model="mlp", inputs="image", **BASE, phi_rotation=Choice(False, True))
    search = Search("toy", "toy", "toy", space, {"smoke": Preset(trials=1, epochs=1)})
    with raises(InvalidSpace, "'mlp'", "'image'", "axes = ['phi', 'eta']"):
        prepare(search, SearchOptions(data=tmp_path / "data", storage=tmp_path / "runs", preset="smoke"))
    assert not (tmp_path / "runs" / "toy").exists()


def test_it_is_asked_of_what_each_model_reads() -> None:
    space = Space(model=Choice("cnn", "mlp"), **BASE, inputs=Choice("angles").when(model="mlp"))
    with raises(InvalidSpace, "'mlp'", "angles"):
        check_events(space.replace(phi_rotation=Choice(False, True)), IMAGE_COLUMN, ANGLES)
    check_events(space.replace(phi_rotation=Choice(False, True).when(model="cnn")), IMAGE_COLUMN, ANGLES)


def test_it_is_asked_of_each_choice_of_inputs() -> None:
    space = Space(model="mlp", inputs=Choice("image", "image+angles"), **BASE)
    with raises(InvalidSpace, "'met_phi'", "angles"):
        check_events(space.replace(phi_flip=Choice(False, True)), IMAGE_COLUMN, ANGLES)
    check_events(space.replace(phi_flip=Choice(False, True).when(inputs="image")), IMAGE_COLUMN, ANGLES)
    check_events(space.replace(mixup=Choice(0.0, 0.5)), IMAGE_COLUMN, ANGLES)


@pytest.mark.parametrize("script", sorted(SEARCHES.glob("*.py")), ids=lambda path: path.stem)
def test_every_search_of_ours_keeps_the_events_of_its_simulation_whole(script: Path) -> None:
    search = load_search(script.stem, SEARCHES)
    if search.task in SIMULATIONS:
        for preset in search.presets.values():
            check_configurations(
                (preset.space or search.space).augmented(), SIMULATIONS[search.task].schema, 4800
            )


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ({"scheduler": "asha"}, 0),
        ({"scheduler": "none"}, 0),
        # Ten times 27 epochs; a trial pauses after 3 at the earliest.
        ({"scheduler": "asha_pausing", "grace_epochs": 3}, 90),
        ({"scheduler": "asha_pausing", "grace_epochs": 27}, 10),
        ({"scheduler": "curves"}, 270 // milestones(27)[0]),
    ],
)
def test_trials_that_pause_are_bounded_by_the_budget(preset, expected):
    assert most_paused(Preset(epochs=27, trials=10, **preset), 10) == min(expected, 100)


def test_room_is_counted_for_trials_that_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300))
    check_room(tmp_path, 1, 2, keep=10, paused=56)
    with raises(StorageError, "56 that pause", "0.0006 MB", tmp_path):  # 2 * (10 + 5 * (2 + 56))
        check_room(tmp_path, 2, 2, keep=10, paused=56)


def test_columns_that_no_model_reads_are_named():
    columns = (
        Column(name="x", shape=(3,)),
        Column(name="met"),
        Column(name="tracks", shape=(15, 4)),
        Column(name="w"),
    )
    schema = EventSchema(task="toy", columns=columns, classes=("a", "b"), weight="w")
    samples, _ = check(space(batch_size=8), [{"model": "logistic_regression", "inputs": "x"}], schema)
    assert unread_columns(samples, schema) == ("tracks",)  # the mlp takes scalars and vectors
    assert unread_columns([{"model": "logistic_regression", "inputs": "met"}], schema) == ("x", "tracks")


def test_what_trials_are_decorrelated_from_is_looked_at_before_the_first(tmp_path):
    columns = (*VECTORS.columns, Column(name="mass"), Column(name="run"))
    schema = EventSchema(
        task="toy", columns=columns, classes=("a", "b"), signal="b", spectators=("mass", "run")
    )
    with ShardWriter(tmp_path / "data", schema, source={}) as writer:
        random = np.random.default_rng(0)
        writer.write(
            {
                "event_id": [str(row) for row in range(400)],
                "label": np.arange(400) % 2,
                "x": random.normal(size=(400, 3)).astype(np.float32),
                "mass": random.normal(size=400).astype(np.float32),
                "run": np.ones(400, np.float32),
            }
        )
    dataset = Dataset.open(tmp_path / "data")
    mass, both = space(decorrelate="mass"), space(decorrelate=Choice("mass", "run"))
    check_decorrelated(check(mass, schema=schema)[0], dataset)
    samples, _ = check(both, schema=schema)
    assert {one["decorrelate"] for one in samples} == {"mass", "run"}
    with raises(InvalidEvents, "'run'", "1 in all"):
        check_decorrelated(samples, dataset)
    with raises(InvalidSpace, "'tau21'", "mass"):
        check(space(decorrelate="tau21"), schema=schema)
    check_metrics("val_decorrelated_loss", None, schema, protected=True)
    with raises(InvalidConfig, "'val_decorrelated_loss'"):
        check_metrics("val_decorrelated_loss", None, schema)


@pytest.mark.parametrize(
    ("drawn", "stated", "facts"),
    [
        ({"decorrelation": Choice(0.0, 10.0)}, {}, ["0.0, 10.0"]),
        ({"decorrelation": LogUniform(0.1, 10.0)}, {}, ["0.1, 10.0"]),
        ({"decorrelation": 10.0}, {"baseline": {"decorrelation": 0.0}}, ["0.0, 10.0"]),
        (
            {"decorrelation": 10.0},
            {"points_to_evaluate": ({"model": "gradient_boosting", "decorrelate": "mass"},)},
            ["0.0, 10.0"],
        ),
        (
            {"model": Choice("mlp", "gradient_boosting"), "decorrelation": Choice(10.0).when(model="mlp")},
            {},
            ["0.0, 10.0"],
        ),
    ],
)
def test_a_loss_with_its_term_ranks_no_trials_of_different_strengths(drawn, stated, facts):
    """With λ·dCor² of the trial's own λ the smallest λ wins, whatever was learnt."""

    def search(metric, second=None, **parameters):
        given = space(**{"decorrelate": "mass", **drawn, **parameters})
        return Search("s", "t", "t", given, {}, metric=metric, second_objective=second, **stated)

    for one in (search("val_decorrelated_loss"), search("val_auc", "val_decorrelated_loss")):
        with raises(InvalidConfig, "val_decorrelated_loss", *facts, "val_auc", "val_background_jsd_at_50"):
            check_yardsticks(one, one.space)
    for other in ("val_auc", "val_background_jsd_at_50"):
        check_yardsticks(search(other), search(other).space)
    if not stated and "model" not in drawn:
        of_one = search("val_decorrelated_loss", decorrelation=10.0)
        check_yardsticks(of_one, of_one.space)
    both = search("val_background_jsd_at_50", decorrelate=Choice("mass", "run"))
    with raises(InvalidConfig, "val_background_jsd_at_50", "'mass', 'run'", "val_auc"):
        check_yardsticks(both, both.space)


@pytest.mark.parametrize("metric", ["val_auc", "val_loss", "val_background_jsd_at_50"])
def test_a_warm_up_keeps_no_epoch_from_before_the_term(metric):
    """Of trials whose λ rises, the epoch of the best AUC is one that knows the mass."""

    def search(key, warmup, baseline=None):
        given = space(decorrelate="mass", decorrelation=5.0, decorrelation_warmup=warmup)
        return Search("s", "t", "t", given, {}, metric=key, baseline=baseline or {})

    for one in (
        search(metric, 0.35),
        search(metric, Choice(0.0, 0.35)),
        search(metric, 0.0, {"decorrelation_warmup": 0.35}),
    ):
        with raises(InvalidConfig, metric, "0.35", "val_decorrelated_loss"):
            check_yardsticks(one, one.space)
    without = search(metric, 0.0)
    check_yardsticks(without, without.space)
    judged = search("val_decorrelated_loss", Choice(0.0, 0.35))
    check_yardsticks(judged, judged.space)


def test_a_fit_that_takes_no_weights_below_zero_is_refused_where_they_stay():
    for treatment in ("auto", "absolute", "zero"):
        check(Space(model="xgboost", negative_weights=treatment))
    check(Space(model="gradient_boosting", negative_weights="signed"))
    for name in ("xgboost", "lightgbm"):
        with raises(InvalidSpace, f"'{name}'", "no weights below 0", "'zero' in place of 'signed'"):
            check(Space(model=Choice(name, "gradient_boosting"), negative_weights="signed"))
