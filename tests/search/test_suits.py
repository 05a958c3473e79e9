"""What would break a dataset's events is refused before a search starts."""

from pathlib import Path

import numpy as np
import pytest

from hep_ray import Choice, Preset, Search, Space
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidSpace
from hep_ray.search.find import load_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.plan import prepare
from hep_ray.search.preflight import check_augmentation
from hep_ray.simulate import SIMULATIONS
from tests.facts import raises

SEARCHES = Path(__file__).parents[2] / "searches"
BASE = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
IMAGE = Column(name="image", shape=(28, 30, 1), axes=("eta", "phi"))
ANGLES = Column(name="angles", shape=(2,), elements=("met", "met_phi"))


def schema(*columns: Column) -> EventSchema:
    return EventSchema(task="toy", columns=columns, classes=("a", "b"))


def check(space: Space, *columns: Column) -> None:
    space.check()
    check_augmentation(space.augmented(), schema(*columns))


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
        check(space.replace(phi_rotation=Choice(False, True)), IMAGE, ANGLES)
    check(space.replace(phi_rotation=Choice(False, True).when(model="cnn")), IMAGE, ANGLES)


def test_it_is_asked_of_each_choice_of_inputs() -> None:
    space = Space(model="mlp", inputs=Choice("image", "image+angles"), **BASE)
    with raises(InvalidSpace, "'met_phi'", "angles"):
        check(space.replace(phi_flip=Choice(False, True)), IMAGE, ANGLES)
    check(space.replace(phi_flip=Choice(False, True).when(inputs="image")), IMAGE, ANGLES)
    check(space.replace(mixup=Choice(0.0, 0.5)), IMAGE, ANGLES)


@pytest.mark.parametrize("script", sorted(SEARCHES.glob("*.py")), ids=lambda path: path.stem)
def test_every_search_of_ours_keeps_the_events_of_its_simulation_whole(script: Path) -> None:
    search = load_search(script.stem, SEARCHES)
    if search.task in SIMULATIONS:
        for preset in search.presets.values():
            check_augmentation((preset.space or search.space).augmented(), SIMULATIONS[search.task].schema)
