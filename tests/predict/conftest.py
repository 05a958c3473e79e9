"""A tiny trained model and its events in every format."""

import numpy as np
import pytest
import torch

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.promote.package import Description, Package
from hep_ray.training.config import TrialConfig

ELEMENTS = ("pt", "eta", "phi")


def schema(unit="GeV", classes=("background", "signal")):
    column = Column(name="features", shape=(3,), elements=ELEMENTS, element_units=(unit, "", "rad"))
    return EventSchema(
        task="toy",
        columns=(column, Column(name="mass", unit="GeV")),
        classes=classes,
    )


def make_events(number, seed=0):
    random = np.random.default_rng(seed)
    return {
        "event_id": [f"event-{row}" for row in range(number)],
        "label": np.arange(number) % 2,
        "features": random.normal(size=(number, 3)).astype(np.float32),
        "mass": random.random(number).astype(np.float32),
    }


def packed(classes=("background", "signal"), **changed):
    params = {
        "model": "mlp",
        "hidden_layers": 1,
        "hidden_features": 8,
        "loss": "root_softmax",
        "root_index": 3,
    }
    params |= {"optimizer": "adam", "learning_rate": 1e-3, "scalar_scaling": "standardize"}
    config = TrialConfig.from_params({**params, **changed})
    torch.manual_seed(0)
    model = config.build_model(schema(classes=classes))
    model.fit(make_events(50, 7))
    description = Description(
        event_schema=schema(classes=classes), params=config.resolved(), dataset_fingerprint="f" * 64
    )
    return Package.create(description, model.state_dict())


@pytest.fixture
def make_schema():
    """A factory of the model's schema, in another unit if need be."""
    return schema


@pytest.fixture
def make_package():
    """A factory of models with other parameters."""
    return packed


@pytest.fixture
def package():
    return packed()


@pytest.fixture
def events():
    return make_events(300)


@pytest.fixture
def dataset(tmp_path, events):
    with ShardWriter(tmp_path / "data", schema(), rows_per_shard=32) as writer:
        writer.write(events)
    return tmp_path / "data"
