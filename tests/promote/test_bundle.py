"""A model is handed on as a folder that is checked with onnxruntime and numpy alone."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from confirmed import SEEDS, params, write_dataset, xor_events
from typer.testing import CliRunner

from hep_ray import plugins, sources
from hep_ray.bundle import check, write
from hep_ray.bundle.hepdata import HepDataTable, Variable, table_of_metrics, tables_of_scores, write_tables
from hep_ray.bundle.write import c_type, write_bundle
from hep_ray.cli import app
from hep_ray.confirm.confirmation import load_confirmation
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import (
    ExportFailed,
    InvalidConfig,
    ModelMismatch,
    StorageError,
    TrackingUnavailable,
    UntrustedCode,
)
from hep_ray.metrics import classification_metrics
from hep_ray.models import MODELS
from hep_ray.plugins import Plugin, load
from hep_ray.predict.onnx_export import export_onnx
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.package import Description, Package
from hep_ray.promote.run import Wishes, promote
from hep_ray.registry import OWN_CODE
from hep_ray.report.scores import Scored, Scores, performance_of
from hep_ray.training.config import TrialConfig
from tests.facts import raises, tells


def packed(dataset, **changed):
    """A model that learnt nothing and was never confirmed."""
    config = TrialConfig.from_params(params(**changed))
    torch.manual_seed(0)
    model = config.build_model(dataset.schema)
    columns = {one.name: dataset.values(one.name, "val") for one in dataset.schema.columns if not one.lists}
    if not columns.keys() - {"features"} and columns:
        model.fit({"features": xor_events(300, 1)["features"]})
    description = Description(
        event_schema=dataset.schema, params=config.resolved(), dataset_fingerprint=dataset.fingerprint
    )
    return Package.create(description, model.state_dict())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("toy") / "data"))


@pytest.fixture(scope="module")
def handed_on(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("handed") / "on"
    write_bundle(packed(dataset), "toy", dataset, out, events=50)
    return out


@pytest.fixture
def folder(handed_on, tmp_path):
    """A copy of a bundle, to be spoilt."""
    shutil.copytree(handed_on, tmp_path / "bundle")
    return tmp_path / "bundle"


def sealed(folder):
    """Have the sums be those of the files as they are now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture(scope="module")
def champion(searches, tracking_uri, tmp_path_factory):
    """A promoted model that was handed on by the command line: its storage, what the gate said, and the bundle."""
    place = tmp_path_factory.mktemp("champion")
    shutil.copytree(searches / "runs", place / "runs")
    done = promote(place / "runs" / "deep", Wishes(tracking_uri=tracking_uri, name="handed_on"))
    words = ["bundle", "models:/handed_on@champion", "--out", str(place / "bundle"), "--events", "100"]
    words += ["--storage", str(place / "runs"), "--tracking-uri", tracking_uri]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert tells(told.output, "100 validation events", f"python {place / 'bundle' / 'check.py'}")
    return place / "runs", done.verdict.run, place / "bundle"


def test_a_champion_is_handed_on_with_validation_events_and_their_scores(champion, searches):
    _, _, out = champion
    assert check.check(out)
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["name"] == "models:/handed_on/1"
    assert metadata["inputs"][0]["unit"] == "GeV"
    own = onnxruntime.InferenceSession(str(out / "model.onnx")).get_modelmeta().custom_metadata_map
    assert own["dataset_fingerprint"] == Dataset.open(searches / "data").fingerprint
    assert json.loads(own["classes"]) == ["background", "signal"]
    with np.load(out / "events.npz") as file:
        events = dict(file)
    of_split = pq.read_table(searches / "data" / "val-00000.parquet")["event_id"].to_pylist()
    assert set(events["event_id"]) <= set(of_split)
    model = Package.read(out / "hep_ray_model").build()
    np.testing.assert_allclose(
        events["probabilities"], model.predict({"features": events["input_features"]}), rtol=0, atol=1e-6
    )
    made = xor_events(1200)
    rows = [made["event_id"].index(name) for name in events["event_id"]]
    np.testing.assert_array_equal(events["input_features"], made["features"][rows])
    np.testing.assert_array_equal(events["label"], made["label"][rows])


def test_a_champion_is_handed_on_with_what_its_confirmation_found(champion):
    storage, run, out = champion
    first, *tables = yaml.safe_load_all((out / "hepdata" / "submission.yaml").read_text())
    assert first["comment"]
    named = {"Metrics", "ROC curve", "Working points", "Scores", "Confusion matrix"}
    assert {one["name"] for one in tables} == named
    metrics = yaml.safe_load((out / "hepdata" / "metrics.yaml").read_text())
    place = [one["value"] for one in metrics["independent_variables"][0]["values"]].index("accuracy")
    mine, configuration, baseline = metrics["dependent_variables"]
    confirmation = load_confirmation(storage / "deep")
    for variable, contender in (
        (configuration, confirmation.finalists[0]),
        (baseline, confirmation.baseline),
    ):
        estimate = contender.estimates["test_accuracy"]
        assert variable["values"][place]["value"] == pytest.approx(estimate.mean, rel=1e-5)
        assert variable["values"][place]["errors"] == [
            {"symerror": pytest.approx(estimate.sd, rel=1e-5), "label": f"s.d. over {len(SEEDS)} seeds"}
        ]
    assert mine["values"][place]["value"] == pytest.approx(run.metrics["test_accuracy"], rel=1e-5)
    # Once more, from the kept scores.
    scores = pq.read_table(storage / "deep" / "confirm" / run.scores).to_pandas()
    signal = scores[scores["label"] == 1]
    matrix = yaml.safe_load((out / "hepdata" / "confusion_matrix.yaml").read_text())
    shares = [one["value"] for one in matrix["dependent_variables"][0]["values"]]
    assert shares[3] == pytest.approx(float((signal["score_signal"] > 0.5).mean()), rel=1e-5)
    assert {path.name for path in (out / "figures").iterdir()} >= {"roc.png", "roc.pdf", "confirmed.pdf"}
    card = (out / "MODEL_CARD.md").read_text()
    assert tells(card, "Why it was promoted", "models:/handed_on@champion", "c0ffee" * 6 + "dead")
    assert not tells(card, "| host |")
    assert not tells(card, "hep-ray confirm toy")


def test_scores_of_another_confirmation_are_not_told_of_a_model(champion, searches, tmp_path, monkeypatch):
    storage, _, out = champion

    def copied(_, path):
        shutil.copyfile(out / "model.onnx", path)
        return 0.0

    monkeypatch.setattr(write, "export_onnx", copied)
    (tmp_path / "elsewhere").mkdir()
    words = ["bundle", str(out / "hep_ray_model"), "--out", str(tmp_path / "other"), "--storage"]
    told = CliRunner().invoke(app, [*words, str(tmp_path / "elsewhere")])
    assert isinstance(told.exception, InvalidConfig)
    assert tells(str(told.exception), "--data")
    told = CliRunner().invoke(
        app, [*words, str(tmp_path / "elsewhere"), "--data", str(searches / "data"), "--events", "5"]
    )
    assert told.exit_code == 0, told.output
    assert tells(told.output, "5 validation events", "left out", "--storage")
    assert not (tmp_path / "other" / "figures").exists()
    assert [path.name for path in sorted((tmp_path / "other" / "hepdata").iterdir())] == [
        *("metrics.yaml", "submission.yaml")
    ]
    assert json.loads((tmp_path / "other" / "metadata.json").read_text())["name"] == "toy"
    shutil.copytree(storage, tmp_path / "again")
    shutil.copytree(
        storage / "shallow" / "confirm", tmp_path / "again" / "deep" / "confirm", dirs_exist_ok=True
    )
    words[3] = str(tmp_path / "third")
    told = CliRunner().invoke(app, [*words, str(tmp_path / "again")])
    assert tells(told.output, "confirmed again since")
    note = (tmp_path / "third" / "README.md").read_text()
    assert tells(note, "deep was confirmed again since")
    assert str(tmp_path) not in note


def test_the_check_imports_nothing_but_the_standard_library_numpy_and_onnxruntime():
    import ast

    tree = ast.parse(Path(check.__file__).read_text())
    named = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([one.name for one in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert named - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_a_whole_bundle_passes(folder, capsys):
    assert check.check(folder)
    assert tells(capsys.readouterr().out, "14 events in batches of 1:", "50 events in batches of 256:")


def change_weights(folder):
    model = onnx.load(str(folder / "model.onnx"))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 100:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), tensor.name))
    onnx.save(model, str(folder / "model.onnx"))


def change_scores(folder):
    with np.load(folder / "events.npz") as file:
        events = dict(file)
    events["probabilities"][33] += [1e-3, -1e-3]
    events["probabilities"][40] = np.nan
    np.savez_compressed(folder / "events.npz", **events)


def change_log_odds(folder):
    with np.load(folder / "events.npz") as file:
        events = dict(file)
    events["log_odds"][33] *= 1.01
    np.savez_compressed(folder / "events.npz", **events)


def change_metadata(folder):
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_digest": "another"}))


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (change_weights, ["14 events in batches of 1:", "14 events in batches of 7:"]),
        (change_scores, ["50 events in batches of 256:", "nan"]),
        (change_log_odds, ["50 events in batches of 256:", "log-odds"]),
        (change_metadata, ["model_digest", "another"]),
    ],
)
def test_what_is_not_as_it_was_handed_on_is_told(folder, capsys, spoil, facts):
    spoil(folder)
    assert not check.check(folder)
    assert tells(capsys.readouterr().out, "is not as it was written")
    sealed(folder)
    assert not check.check(folder)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert tells("\n".join(told), *facts)


@pytest.mark.parametrize("left", [None, 0.5])
def test_every_file_that_is_gone_or_half_is_told(folder, capsys, left):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) > 8
    for path in files:
        whole = path.read_bytes()
        if left is None:
            path.unlink()
        else:
            path.write_bytes(whole[: int(left * len(whole))])
        assert not check.check(folder), path
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
        assert path.relative_to(folder).as_posix() in "".join(told)
        path.write_bytes(whole)
    assert check.check(folder)


def test_a_file_that_was_not_handed_on_is_named(folder, capsys):
    (folder / "other.onnx").write_bytes(b"")
    assert check.check(folder)
    assert tells(capsys.readouterr().out, "was not handed on: other.onnx")


def test_no_file_has_paths_of_this_machine(handed_on, champion, tmp_path_factory):
    places = [tmp_path_factory.getbasetemp(), Path(write.__file__).parents[2], sys.prefix]
    places += [Path(torch.__file__).parents[1]]
    for out in (handed_on, champion[2]):
        for path in out.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert [place for place in places if str(place).encode() in content] == [], path


def data_of(folder, features, missing=False):
    column = Column(name="features", shape=(features.shape[1],), missing=missing)
    with ShardWriter(folder, EventSchema(task="t", columns=(column,), classes=("b", "s"))) as writer:
        count = len(features)
        writer.write(
            {"event_id": [f"e{i}" for i in range(count)], "label": np.arange(count) % 2, "features": features}
        )
    return Dataset.open(folder)


def fitted(dataset, params, fit):
    config = TrialConfig.from_params(params)
    model = config.build_model(dataset.schema)
    with torch.no_grad():
        fit(model)
    description = Description(
        event_schema=dataset.schema, params=config.resolved(), dataset_fingerprint=dataset.fingerprint
    )
    return Package.create(description, model.state_dict())


@pytest.mark.parametrize(
    "params",
    [
        {"model": "gradient_boosting", "trees": 2, "tree_depth": 2},
        {"model": "xgboost", "trees": 2, "tree_depth": 2},
        {"model": "lightgbm", "trees": 2, "tree_depth": 2},
        {"model": "logistic_regression"},
    ],
    ids=["trees", "xgboost", "lightgbm", "linear"],
)
def test_a_baseline_is_handed_on_with_missing_values(tmp_path, params):
    random = np.random.default_rng(0)
    features = random.normal(np.arange(400)[:, None] % 2, 1, (400, 2)).astype(np.float32)
    features[random.random((400, 2)) < 0.2] = np.nan
    dataset = data_of(tmp_path / "data", features, missing=True)
    package = fitted(
        dataset, params, lambda model: model.fit({"features": features}, np.arange(400) % 2, None, 0)
    )
    write_bundle(package, "t", dataset, tmp_path / "bundle")
    assert check.check(tmp_path / "bundle")
    with np.load(tmp_path / "bundle" / "events.npz") as file:
        assert np.isnan(file["input_features"]).any()


def test_a_model_that_onnx_runtime_rounds_otherwise_on_real_events_is_not_handed_on(tmp_path):
    """A difference of two hyperbolic tangents, of which torch and ONNX Runtime round each in its own way, times 10,000.

    Of random events, near 0, both are -1 without rounding.
    """
    random = np.random.default_rng(0)
    first = 500 + random.normal(0, 10, 1200)
    features = np.stack([first, first + random.normal(0, 1e-3, 1200)], 1).astype(np.float32)
    dataset = data_of(tmp_path / "data", features)

    def fit(model):
        model.layers[0].weight.copy_(torch.eye(2) / 10)
        model.layers[0].bias.fill_(-50.0)
        model.layers[-1].weight.copy_(torch.tensor([[0.0, 0.0], [10_000.0, -10_000.0]]))

    chosen = params(hidden_layers=1, hidden_features=2, activation="tanh", scalar_scaling="none")
    package = fitted(dataset, chosen, fit)
    with raises(ExportFailed, "batches of 1:", "1e-05"):
        write_bundle(package, "t", dataset, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_column_with_the_name_of_an_output_is_refused(tmp_path):
    schema = EventSchema(task="t", columns=(Column(name="log_odds"), Column(name="x")), classes=("b", "s"))
    config = TrialConfig.from_params(params(scalar_scaling="none"))
    classifier = Classifier(config.resolved(), schema, config.build_model(schema).state_dict())
    with raises(ExportFailed, "'log_odds'", "another name"):
        export_onnx(classifier, tmp_path / "model.onnx")


def test_a_float16_has_the_type_of_onnx_runtime_in_cpp():
    assert c_type("float16") == "Ort::Float16_t"


def test_lists_are_handed_on_with_nan_behind_their_items(tmp_path):
    named = ("pt", "energy", "delta_eta", "delta_phi")
    schema = EventSchema(
        task="clouds",
        columns=(Column(name="particles", shape=(30, 4), elements=named, lists=True),),
        classes=("qcd", "hbb"),
    )
    random = np.random.default_rng(2)
    lengths = random.integers(0, 9, 120)
    lengths[0] = 8
    values = random.random((120, 30, 4)).astype(np.float32)
    values[np.arange(30) >= lengths[:, None]] = np.nan
    with ShardWriter(tmp_path / "data", schema) as writer:
        writer.write(
            {"event_id": [f"e{i}" for i in range(120)], "label": np.arange(120) % 2, "particles": values}
        )
    dataset = Dataset.open(tmp_path / "data")
    made = write_bundle(
        packed(dataset, model="pfn", scalar_scaling="none"), "clouds", dataset, tmp_path / "bundle"
    )
    assert made.events == dataset.rows("val")
    assert check.check(tmp_path / "bundle")
    with np.load(tmp_path / "bundle" / "events.npz") as file:
        kept = file["input_particles"]
    assert kept.shape[1] <= 8
    assert np.isnan(kept).any()
    assert tells((tmp_path / "bundle" / "README.md").read_text(), "(N, L, 4)", "filled up with NaN")
    first = json.loads((tmp_path / "bundle" / "metadata.json").read_text())["inputs"][0]
    assert (first["lists"], first["shape"]) == (True, [30, 4])


def test_bad_input_is_named_and_leaves_nothing(dataset, tmp_path):
    package = packed(dataset)
    other = Dataset.open(write_dataset(tmp_path / "other", seed=5))
    with raises(ModelMismatch, other.fingerprint[:12], dataset.fingerprint[:12], "--data"):
        write_bundle(package, "toy", other, tmp_path / "bundle")
    with raises(InvalidConfig, "--events 0"):
        write_bundle(package, "toy", dataset, tmp_path / "bundle", events=0)
    (tmp_path / "there").mkdir()
    with raises(StorageError, tmp_path / "there", "--out"):
        write_bundle(package, "toy", dataset, tmp_path / "there")
    assert {path.name for path in tmp_path.iterdir()} == {"other", "there"}


OWN = """
from torch import nn
from hep_ray.models import model


@model("squared_of_a_test")
class Squared(nn.Module):
    def __init__(self, schema, width: int = 5):
        super().__init__()
        self.first = nn.Linear(2, width)
        self.last = nn.Linear(width, len(schema.classes))

    def forward(self, features):
        return self.last(self.first(features**2).tanh())
"""


@pytest.fixture
def own_code():
    """A file of a user's own, as a model carries it; what was registered is forgotten by calling it, and at the end."""
    MODELS._discover()
    modules, entries, own = set(sys.modules), dict(MODELS._entries), dict(OWN_CODE)
    named, texts = dict(plugins._NAMED), dict(sources._TEXTS)

    def forget():
        plugins._NAMED, sources._TEXTS = dict(named), dict(texts)
        for name in set(sys.modules) - modules:
            if name.startswith("bundled_of_a_test"):
                sys.modules.pop(name)
        MODELS._entries = dict(entries)
        OWN_CODE.clear()
        OWN_CODE.update(own)

    digest = hashlib.sha256(OWN.encode()).hexdigest()
    registers = ("model 'squared_of_a_test'",)
    yield (
        Plugin(module="bundled_of_a_test", path="nets.py", sha256=digest, registers=registers, source=OWN),
        forget,
    )
    forget()


@pytest.mark.slow
@pytest.mark.ci
def test_a_network_of_ones_own_is_handed_on_where_its_code_is_trusted(
    dataset, own_code, tmp_path, monkeypatch
):
    monkeypatch.delenv("HEP_RAY_TRUST_CODE", raising=False)
    plugin, forget = own_code
    load([plugin])
    config = TrialConfig.from_params(
        {"model": "squared_of_a_test", "width": 3, "loss": "cross_entropy", "optimizer": "adam",
         "learning_rate": 0.01, "scalar_scaling": "none"}
    )  # fmt: skip
    torch.manual_seed(4)
    state = config.build_model(dataset.schema).state_dict()
    described = Description(
        event_schema=dataset.schema, params=config.resolved(), dataset_fingerprint=dataset.fingerprint,
        plugins=(plugin,),
    )  # fmt: skip
    Package.create(described, state).write(tmp_path / "model")
    forget()
    assert "squared_of_a_test" not in MODELS
    out = tmp_path / "bundle"
    words = ["bundle", str(tmp_path / "model"), "--data", str(dataset.folder), "--out", str(out)]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, UntrustedCode)
    assert not out.exists()
    told = CliRunner().invoke(app, [*words, "--plugin", "no_such_file.py"])
    assert tells(str(told.exception), "no_such_file.py")
    made = CliRunner().invoke(app, [*words, "--trust-code"])
    assert made.exit_code == 0, made.output
    assert check.check(out)
    with np.load(out / "events.npz") as file:
        features, probabilities = file["input_features"].astype(np.float64), file["probabilities"]
    arrays = {name: one.double().numpy() for name, one in state.items()}
    (w1, b1, w2, b2) = (
        next(one for name, one in arrays.items() if name.endswith(end))
        for end in ("first.weight", "first.bias", "last.weight", "last.bias")
    )
    logits = np.tanh(features**2 @ w1.T + b1) @ w2.T + b2  # by hand, of the weights alone
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    uri = ["--tracking-uri", "http://127.0.0.1:9"]
    asked = CliRunner().invoke(app, ["bundle", "models:/toy@champion", "--out", str(tmp_path / "b"), *uri])
    assert isinstance(asked.exception, TrackingUnavailable)


def test_a_table_is_as_hepdata_has_it(tmp_path):
    table = HepDataTable(
        "Toy",
        "toy.yaml",
        "A toy.",
        (Variable("x", [(0, 0.5), (0.5, 1), (1, 2)]),),
        (Variable("y", [1 / 3, float("nan"), 0], [0.01234567, 1, 0], qualifiers={"of": "it"}),),
    )
    write_tables(tmp_path / "tables", [table], "All.")
    assert yaml.safe_load((tmp_path / "tables" / "toy.yaml").read_text()) == {
        "independent_variables": [
            {
                "header": {"name": "x"},
                "values": [{"low": 0.0, "high": 0.5}, {"low": 0.5, "high": 1.0}, {"low": 1.0, "high": 2.0}],
            }
        ],
        "dependent_variables": [
            {
                "header": {"name": "y"},
                "values": [
                    {"value": 0.333333, "errors": [{"symerror": 0.0123457, "label": "stat"}]},
                    {"value": "-"},
                    {"value": 0.0},  # HEPData refuses an error of 0
                ],
                "qualifiers": [{"name": "of", "value": "it"}],
            }
        ],
    }


def tables_of(x, labels, weights=None):
    """Name → table of the probability 1/(1 + exp(-x))."""
    signal = 1 / (1 + np.exp(-x))
    found = performance_of(np.stack([1 - signal, signal], 1), labels, 1, weights=weights)
    scores = Scores("test split", "t", ("b", "s"), 1, (Scored("m", False, (found,)),), confirmed=True)
    return {one.name: one for one in tables_of_scores(found, scores)}


def test_where_less_than_one_background_event_passes_its_efficiency_has_the_error_of_one():
    count = 200
    labels = np.repeat([0, 1], count)
    x = np.r_[np.linspace(-3, -1, count), np.linspace(1, 3, count)]
    one = (1 / count * (1 - 1 / count) / count) ** 0.5
    roc = tables_of(x, labels)["ROC curve"]
    efficiency, rejection = (variable.document()["values"][49] for variable in roc.dependent)
    assert efficiency == {
        "value": 0.0,
        "errors": [{"symerror": pytest.approx(one, rel=1e-3), "label": "stat"}],
    }
    assert rejection == {"value": "-"}
    assert tells(roc.description, "Where less than one background event passes", "that of one event")
    # One light event on top: its efficiency is its weight, and the error no smaller than its weight.
    weights, x[count - 1] = np.ones(2 * count), 5.0
    weights[count - 1] = 0.01
    roc = tables_of(x, labels, weights)["ROC curve"]
    efficiency, rejection = (variable.document()["values"][49] for variable in roc.dependent)
    assert efficiency["value"] == pytest.approx(0.01 / 199.01, rel=1e-4)
    assert efficiency["errors"][0]["symerror"] == pytest.approx(one, rel=0.02)
    assert rejection == {"value": "-"}
    assert tells(roc.description, "400 events of the test split", "weighted", "as precise as")


def test_shares_of_scores_have_binomial_errors():
    labels = np.repeat([0, 1], 100)
    x = np.where(np.arange(200) % 100 < 36, 5.0, -5.0)  # 36 of 100 of each class in the last bin
    cells = tables_of(x, labels)["Scores"].dependent[0].document()["values"]
    assert cells[-1]["value"] == pytest.approx(0.36)
    assert cells[-1]["errors"][0]["symerror"] == pytest.approx(0.048)  # √(0.36·0.64/100)


def test_the_calibration_error_is_a_metric_and_no_error_of_one():
    labels = np.arange(400) % 2
    signal = np.random.default_rng(0).random(400)
    found = classification_metrics(np.stack([1 - signal, signal], 1), labels, ("b", "s"), "s")
    contender = SimpleNamespace(runs=[1], estimates={})
    evidence = SimpleNamespace(contender=contender, baseline=contender)
    metrics = {f"test_{key}": value for key, value in found.items()}
    table = table_of_metrics(SimpleNamespace(evidence=evidence, metrics=metrics, origin={}))
    named = list(table.independent[0].values)
    assert "test_auc_error" in metrics
    assert not [name for name in named if "AUC" in name and "error" in name]
    assert [name for name in named if "calibration error" in name]


@pytest.mark.slow
def test_a_bundle_is_checked_where_there_is_nothing_but_onnxruntime_and_numpy(folder, tmp_path):
    """In an environment of its own; the wheels come from where pip has them."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = [f"onnxruntime=={onnxruntime.__version__}", f"numpy=={np.__version__}"]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True, timeout=500)
    words = [str(python), "-I", str(folder / "check.py")]
    tried = [str(python), "-I", "-c", "import torch"]
    assert subprocess.run(tried, capture_output=True, check=False).returncode

    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert tells(done.stdout, "as it was handed on", "50 events in batches of 256:")
    change_weights(folder)
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert tells(done.stdout, "model.onnx is not as it was written", "not as it was handed on")
