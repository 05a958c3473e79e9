"""The portable form: what goes in comes out, and nothing else is taken for it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CorruptModel, InvalidEvents, ModelMismatch, UnreadableInput
from hep_ray.models.fitted import FittedModel
from hep_ray.promote.package import Description, Package, load_model
from hep_ray.training.calibration import Calibration
from hep_ray.training.config import ScaledModel, TrialConfig
from tests.facts import raises

TRAINED = {"loss": "root_softmax", "root_index": 3, "optimizer": "adam", "learning_rate": 1e-3}
IMAGES = EventSchema(
    task="toy",
    columns=(Column(name="image", shape=(28, 28, 3), unit="GeV"),),
    classes=("background", "signal"),
)
FEATURES = EventSchema(
    task="toy",
    columns=(Column(name="features", shape=(3,), elements=("pt", "eta", "phi")), Column(name="mass")),
    classes=("a", "b", "c"),
)

TWO = EventSchema(task="toy", columns=FEATURES.columns, classes=("background", "signal"))


def make_events(schema, number=40):
    random = np.random.default_rng(0)
    return {
        column.name: random.exponential(1, (number, *column.shape)).astype(np.float32)
        for column in schema.columns
    }


def build(params, schema):
    config = TrialConfig.from_params(params)
    torch.manual_seed(0)
    model, events = config.build_model(schema), make_events(schema)
    if isinstance(model, ScaledModel):
        model.fit(events)
    if isinstance(model, FittedModel):
        model.fit(events, np.arange(40) % len(schema.classes), None, 0)
    return config, model.eval()


@pytest.mark.parametrize(
    ("params", "schema"),
    [
        ({"model": "cnn", "image_scaling": "log1p", **TRAINED}, IMAGES),
        ({"model": "mlp", "scalar_scaling": "quantile_normal", "precision": "bfloat16", **TRAINED}, FEATURES),
        ({"model": "logistic_regression"}, FEATURES),
        ({"model": "gradient_boosting", "trees": 3, "leaf_events": 2}, FEATURES),
        ({"model": "xgboost", "trees": 3}, FEATURES),
        ({"model": "lightgbm", "trees": 3, "leaf_events": 2}, FEATURES),
    ],
)
def test_a_model_with_its_scalers_is_the_same_after_a_journey(tmp_path, params, schema):
    config, model = build(params, schema)
    description = Description(event_schema=schema, params=config.resolved(), dataset_fingerprint="f" * 64)
    package = Package.create(description, model.state_dict())
    package.write(tmp_path / "model", "# Card")

    classifier = load_model(tmp_path / "model")
    scores = classifier.predict(make_events(schema), batch=7)

    assert Package.read(tmp_path / "model").digest == package.digest
    assert scores.shape == (40, len(schema.classes))
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(classifier.model.state_dict()[name], tensor)


def test_a_pretrained_model_needs_no_file_of_weights_where_it_is_loaded(tmp_path):
    params = {"model": "pretrained_resnet34", "weights": "random", **TRAINED}
    config, model = build(params, IMAGES)
    resolved = {**config.resolved(), "weights": str(tmp_path / "only_here.pth")}
    description = Description(event_schema=IMAGES, params=resolved, dataset_fingerprint="f" * 64)
    Package.create(description, model.state_dict()).write(tmp_path / "model")

    classifier = load_model(tmp_path / "model")

    weight = model.state_dict()["backbone.conv1.weight"]
    assert torch.equal(classifier.model.state_dict()["backbone.conv1.weight"], weight)


@pytest.fixture
def package():
    config, model = build({"model": "mlp", **TRAINED}, FEATURES)
    description = Description(event_schema=FEATURES, params=config.resolved(), dataset_fingerprint="f" * 64)
    return Package.create(description, model.state_dict())


def test_events_come_as_arrays_or_as_a_table_with_vectors_or_with_their_elements(package):
    classifier, events = package.build(), make_events(FEATURES)
    reference = classifier.predict(events)
    nested = pd.DataFrame({"features": list(events["features"]), "mass": events["mass"], "unread": 1})
    flat = pd.DataFrame(events["features"], columns=["pt", "eta", "phi"]).assign(mass=events["mass"])

    for table in (nested, flat, flat.astype("float64")):
        np.testing.assert_allclose(classifier.predict(table), reference, rtol=0, atol=1e-6)
    assert classifier.predict({name: values[:0] for name, values in events.items()}).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "error", "facts"),
    [
        (lambda events: events.pop("mass"), ModelMismatch, ["'mass'", "features"]),
        (lambda events: events.update(mass=events["mass"][:-1]), ModelMismatch, [40, 39]),
        (
            lambda events: events.update(features=events["features"][:, :2]),
            ModelMismatch,
            ["(N, 3)", "(40, 2)"],
        ),
        (lambda events: events.update(mass=events["mass"].astype(str)), ModelMismatch, ["'mass'", "float32"]),
        (lambda events: events["mass"].__setitem__(3, np.nan), InvalidEvents, ["'mass'", "'3'"]),
    ],
)
def test_events_of_other_columns_are_refused(package, change, error, facts):
    events = make_events(FEATURES)
    change(events)
    with raises(error, *facts):
        package.build().predict(events)


def test_a_folder_that_is_no_model_is_refused(package, tmp_path):
    package.write(tmp_path / "model")
    description = tmp_path / "model" / "model.json"
    text = description.read_text()
    for spoilt, error, facts in (
        (text.replace('"format": 1', '"format": 9'), UnreadableInput, ["formats 1, 2 and 3"]),
        (text.replace('"hidden_layers": 3', '"hidden_layers": 2'), CorruptModel, ["layers.6.weight"]),
        (text[:-9], UnreadableInput, ["model.json", f"line {text[:-9].count(chr(10)) + 1}"]),
    ):
        assert spoilt != text
        description.write_text(spoilt)
        with raises(error, *facts):
            load_model(tmp_path / "model")
    with raises(UnreadableInput, "model.json"):
        load_model(tmp_path)


def test_a_calibration_travels_with_the_model_and_is_used_where_it_is_asked_for(tmp_path):
    config, model = build({"model": "mlp", **TRAINED}, TWO)
    values = {"event_schema": TWO, "params": config.resolved(), "dataset_fingerprint": "f" * 64}
    plain = Package.create(Description(**values), model.state_dict())
    steep = Calibration(method="platt", events=500, slope=2.0, intercept=-1.0)
    Package.create(Description(calibration=steep, **values), model.state_dict()).write(tmp_path / "model")
    assert "calibration" not in plain.description.dumps()  # digests of earlier models stay

    events = make_events(TWO)
    bare, odds = load_model(tmp_path / "model").scores(events)
    mapped, same = load_model(tmp_path / "model", calibrated=True).scores(events)

    np.testing.assert_array_equal(bare, plain.build().predict(events))
    np.testing.assert_allclose(mapped[:, 1], 1 / (1 + np.exp(1 - 2 * odds[:, 1])), atol=1e-6)
    np.testing.assert_array_equal(odds, same)
    with raises(ModelMismatch, "no calibration", "--calibrated"):
        dataclasses.replace(plain, calibrated=True).build()
