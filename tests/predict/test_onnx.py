"""A model as ONNX gives what torch gives."""

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import ExportFailed, InvalidConfig, MissingPackage, ModelMismatch, StorageError
from hep_ray.predict import onnx_export
from hep_ray.predict.onnx_export import export_onnx
from hep_ray.promote.classifier import Classifier
from hep_ray.training.config import TrialConfig
from tests.facts import raises, tells

SLOW = [pytest.mark.slow, pytest.mark.ci]


def test_an_exported_model_gives_the_probabilities_of_any_number_of_events(tmp_path, package, events):
    package.write(tmp_path / "model")

    done = CliRunner().invoke(app, ["predict", str(tmp_path / "model"), "--onnx", str(tmp_path / "toy.onnx")])

    assert done.exit_code == 0, done.output
    assert "differ by" in done.output
    session = onnxruntime.InferenceSession(str(tmp_path / "toy.onnx"))
    assert [one.name for one in session.get_inputs()] == ["features", "mass"]
    for number in (1, 5, 300):
        inputs = {name: events[name][:number] for name in ("features", "mass")}
        (found,) = session.run(["probabilities"], inputs)
        np.testing.assert_allclose(found, package.build().predict(inputs), rtol=0, atol=1e-5)
    with raises(StorageError, tmp_path / "toy.onnx"):
        export_onnx(package.build(), tmp_path / "toy.onnx")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_precision_of_training_is_exported_and_compared_in_float32(
    tmp_path, make_package, events, precision
):
    made = make_package(precision=precision, hidden_features=256)
    made.write(tmp_path / "model")

    done = CliRunner().invoke(app, ["predict", str(tmp_path / "model"), "--onnx", str(tmp_path / "toy.onnx")])

    assert done.exit_code == 0, done.output
    assert ("trained and confirmed in bfloat16" in done.output) == (precision == "bfloat16")
    inputs = {name: events[name] for name in ("features", "mass")}
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "toy.onnx")).run(["probabilities"], inputs)
    # The same weights in a model that was trained in float32 are the independent answer.
    in_float32 = make_package(hidden_features=256)
    np.testing.assert_array_equal(in_float32.weights, made.weights)
    np.testing.assert_allclose(found, in_float32.build().predict(inputs), rtol=0, atol=1e-5)
    rounded = np.abs(found - made.build().predict(inputs)).max()
    assert (rounded > 1e-5) == (precision == "bfloat16")


@pytest.mark.parametrize(
    "name",
    ["pfn", *(pytest.param(name, marks=SLOW) for name in ("particlenet", "particle_transformer"))],
)
def test_clouds_of_any_length_give_the_probabilities_of_torch(tmp_path, name):
    named = ("pt", "energy", "delta_eta", "delta_phi")
    lists = Column(name="particles", shape=(30, 4), elements=named, lists=True)
    schema = EventSchema(task="toy", columns=(lists,), classes=("qcd", "hbb"))
    params = {"model": name, "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    config = TrialConfig.from_params(params)
    torch.manual_seed(0)
    model = config.build_model(schema)
    classifier = Classifier(config.resolved(), schema, model.state_dict())
    assert export_onnx(classifier, tmp_path / "cloud.onnx") <= 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "cloud.onnx"))
    assert [(one.name, one.shape[2]) for one in session.get_inputs()] == [("particles", 4)]
    random = np.random.default_rng(1)
    for number, length in ((1, 1), (5, 3), (70, 30)):
        jets = [
            random.random((count, 4)).astype(np.float32) for count in random.integers(0, length + 1, number)
        ]
        filled = np.full((number, length, 4), np.nan, np.float32)
        for row, jet in enumerate(jets):
            filled[row, : len(jet)] = jet
        (found,) = session.run(["probabilities"], {"particles": filled})
        for given in (jets, filled):  # lists of any length, or filled up
            np.testing.assert_allclose(found, classifier.predict({"particles": given}), rtol=0, atol=1e-5)
    with raises(ModelMismatch, "'particles'", "30", "31"):
        classifier.predict({"particles": [random.random((31, 4))]})
    with raises(ModelMismatch, "'particles'", "(7, 3)"):
        classifier.predict({"particles": [random.random((7, 3))]})


@pytest.mark.slow
@pytest.mark.ci
def test_what_onnx_lacks_is_refused_and_leaves_nothing(tmp_path, make_package):
    with raises(ExportFailed, "ONNX"):
        export_onnx(make_package(scalar_scaling="quantile_normal").build(), tmp_path / "toy.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_differs_is_refused_and_leaves_nothing(tmp_path, package, monkeypatch):
    monkeypatch.setattr(onnx_export, "_write", lambda _, path: path.touch())
    monkeypatch.setattr(onnx_export, "_difference", lambda *_: 1e-3)
    with raises(ExportFailed, "1e-05", "1.0e-03"):
        export_onnx(package.build(), tmp_path / "toy.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_command_that_installs_it_is_told(tmp_path, package, monkeypatch):
    monkeypatch.setattr(onnx_export, "PACKAGES", ("onnx", "no_such_package"))
    with raises(MissingPackage, "no_such_package", "pip install 'hep-ray[onnx]'"):
        export_onnx(package.build(), tmp_path / "toy.onnx")


@pytest.mark.parametrize("words", [[], ["data"], ["--out", "scores"], ["data", "--onnx", "toy.onnx"]])
def test_inputs_and_out_belong_together(words):
    done = CliRunner().invoke(app, ["predict", "model", *words])
    assert isinstance(done.exception, InvalidConfig)


@pytest.mark.parametrize("words", [["--batch", "512"], ["--workers", "2", "--set", "a=1"]])
def test_an_export_alone_refuses_flags_of_scoring(words, tmp_path):
    done = CliRunner().invoke(app, ["predict", "model", "--onnx", str(tmp_path / "toy.onnx"), *words])
    assert isinstance(done.exception, InvalidConfig)
    assert tells(str(done.exception), *(word for word in words if word.startswith("--")))
