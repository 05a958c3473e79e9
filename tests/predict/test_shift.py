"""New inputs beside those of the training: what is shifted is found, and little else."""

import json

import numpy as np
import pytest
from scipy.stats import ks_2samp
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CorruptModel, InvalidConfig, ModelMismatch
from hep_ray.predict.output import MANIFEST
from hep_ray.predict.run import predict
from hep_ray.predict.shift import ALL_FEATURES, ShiftSettings, reference_for, shift_test
from hep_ray.promote.package import Package
from hep_ray.promote.reference import MOST_VALUES, Reference, features_of, reference_of
from tests.facts import raises

NAMES = tuple(f"x{place}" for place in range(6))


def reference(random, events=2000, labels=None):
    values = random.normal(size=(events, len(NAMES))).astype(np.float32)
    return Reference(NAMES, values, np.zeros(events, np.int64) if labels is None else labels)


def with_reference(package, dataset):
    model = package.build()
    kept = reference_of(Dataset.open(dataset), model.model.columns)
    return Package.create(package.description, model.model.state_dict(), kept)


def test_of_unshifted_samples_no_more_than_the_level_are_called_shifted():
    """Of 400 samples at 5 %, 20 ± 4.4 are expected to be warned of; 34 would be 3.2 standard deviations too many."""
    random = np.random.default_rng(1)
    found = [
        bool(shift_test(reference(random, 500).values, reference(random, 500), ShiftSettings()).shifted)
        for _ in range(400)
    ]
    assert 7 <= sum(found) <= 34


def test_one_shifted_column_is_found_and_named():
    random = np.random.default_rng(2)
    new = reference(random).values
    new[:, 3] += 0.15
    shift = shift_test(new, reference(random), ShiftSettings())
    assert [one.name for one in shift.shifted] == ["x3"]
    beside = shift.comparisons[0]
    # Two Gaussians 0.15 s.d. apart differ at most by 2 Φ(0.075) - 1 = 0.060 in their cumulative distributions.
    assert beside.distance == pytest.approx(0.060, abs=0.04)
    assert any("x3" in line for line in shift.lines())


def test_distance_and_p_value_are_those_of_scipy():
    random = np.random.default_rng(5)
    new, known = random.normal(0.1, 1, (300, 1)).astype(np.float32), reference(random, 700).values[:, :1]
    (found,) = shift_test(new, Reference(("x",), known, np.zeros(700, np.int64)), ShiftSettings()).comparisons
    expected = ks_2samp(new[:, 0].astype(float), known[:, 0].astype(float), method="asymp")
    assert found.distance == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.05)


def test_a_correlation_that_no_column_shows_is_found_by_the_classifier():
    random = np.random.default_rng(3)
    new = reference(random).values
    new[:, 1] = np.sign(new[:, 0]) * np.abs(new[:, 1])
    known = reference(random)
    assert not shift_test(new, known, ShiftSettings()).shifted
    (found,) = shift_test(new, known, ShiftSettings("classifier")).shifted
    # x1 has the sign of x0, as has half of the reference: new events are told apart with an AUC of 0.75.
    assert (found.name, found.test) == (ALL_FEATURES, "classifier")
    assert found.distance == pytest.approx(0.5, abs=0.1)
    with raises(InvalidConfig, 2000, 50, "columns"):
        shift_test(new[:50], known, ShiftSettings("classifier"))


def test_categories_and_missing_values_are_compared_by_their_shares():
    random = np.random.default_rng(4)
    counts, pt = random.poisson(2, 3000).clip(0, 5), random.exponential(size=3000)
    known = Reference(("jets", "pt"), np.stack([counts, pt], 1).astype(np.float32), np.zeros(3000, np.int64))
    new = known.values[::-1].copy()
    new[:300, 1] = np.nan
    more = new.copy()
    more[:300, 0] = 7
    (missing,) = shift_test(new, known, ShiftSettings()).shifted
    assert (missing.name, missing.test, missing.distance) == ("pt missing", "missing", pytest.approx(0.1))
    names = {one.name: one for one in shift_test(more, known, ShiftSettings()).shifted}
    assert names["jets"].test == "chi-square"
    assert names["jets"].distance == pytest.approx(0.1, abs=0.01)


def test_features_of_columns_of_every_kind():
    columns = (
        Column(name="mass"),
        Column(name="lepton", shape=(2,), elements=("pt", "eta")),
        Column(name="image", shape=(9, 9, 1)),
        Column(name="particles", shape=(3, 2), lists=True, elements=("pt", "eta")),
    )
    image = np.zeros((2, 9, 9, 1), np.float32)
    image[0, :3, 0, 0] = (1, 2, 3)
    nan = np.nan
    events = {
        "mass": np.array([5, 6], np.float32),
        "lepton": np.array([[1, 2], [3, 4]], np.float32),
        "image": image,
        "particles": np.array([[[2, 1], [4, 3], [nan, nan]], [[nan, nan]] * 3], np.float32),
    }
    names, values = features_of(columns, events)
    found = dict(zip(names, values.T.tolist(), strict=True))
    assert found["mass"] == [5, 6]
    assert (found["lepton.pt"], found["lepton.eta"]) == ([1, 3], [2, 4])
    assert found["image: sum"] == [6, 0]
    assert found["image: greatest"] == [3, 0]
    assert found["image: share not 0"] == pytest.approx([3 / 81, 0])
    assert found["particles: items"] == [2, 0]
    assert found["particles: mean pt"][0] == 3
    assert np.isnan(found["particles: mean eta"][1])
    assert len(names) * 10_000 < MOST_VALUES


def test_the_reference_stands_for_the_weighted_validation_events(tmp_path):
    schema = EventSchema(
        task="toy",
        columns=(Column(name="x"), Column(name="w")),
        classes=("background", "signal"),
        weight="w",
    )
    x = np.random.default_rng(0).random(20_000).astype(np.float32)
    events = {
        "event_id": [f"e{row}" for row in range(20_000)],
        "label": np.arange(20_000) % 2,
        "x": x,
        "w": np.where(x < 0.5, 3.0, 1.0).astype(np.float32),
    }
    with ShardWriter(tmp_path / "data", schema) as writer:
        writer.write(events)
    dataset = Dataset.open(tmp_path / "data")
    kept = reference_of(dataset, ("x",))
    # Three of four weighted events are below 0.5, and 2/3 of the events are kept.
    assert (kept.values < 0.5).mean() == pytest.approx(0.75, abs=0.02)
    assert len(kept.values) == pytest.approx(2 / 3 * dataset.rows("val"), rel=0.05)


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_the_reference_travels_with_the_model_and_is_known_by_its_hash(package, dataset, tmp_path, damage):
    kept = with_reference(package, dataset)
    kept.write(tmp_path / "model")
    again = Package.read(tmp_path / "model")
    assert again.digest == kept.digest != package.digest
    found = Reference.loads(again.reference)
    assert found.names == ("features.pt", "features.eta", "features.phi", "mass")
    assert found.values.shape == (Dataset.open(dataset).rows("val"), 4)
    path = tmp_path / "model" / "reference.safetensors"
    path.write_bytes(b"other") if damage == "other" else path.unlink()
    with raises(CorruptModel, "reference.safetensors"):
        Package.read(tmp_path / "model")
    with raises(CorruptModel, "reference.safetensors"):
        Reference.loads(b"other")


def test_a_prediction_warns_of_shifted_inputs_and_records_it(package, dataset, events, tmp_path):
    with_reference(package, dataset).write(tmp_path / "model")
    events["mass"] = events["mass"] + 0.5
    with ShardWriter(tmp_path / "shifted", Dataset.open(dataset).schema) as writer:
        writer.write(events)
    told = {}
    for data, flags in {
        "data": (),
        "shifted": ("--shift-class", "signal"),
        "off": ("--shift-test", "off"),
    }.items():
        folder = "shifted" if data == "off" else data
        words = [
            str(tmp_path / "model"),
            str(tmp_path / folder),
            "--out",
            str(tmp_path / f"scores_{data}"),
            *flags,
        ]
        done = CliRunner().invoke(app, ["predict", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        manifest = json.loads((tmp_path / f"scores_{data}" / MANIFEST).read_text())
        told[data] = (done.output, manifest.get("shift_test"))
    assert "none found" in told["data"][0]
    assert told["data"][1]["shifted"] == []
    assert (told["data"][1]["events"], told["data"][1]["level"]) == (300, 0.05)
    assert "warning" in told["shifted"][0]
    assert told["shifted"][1]["shifted"] == ["mass"]
    assert told["shifted"][1]["of_class"] == "signal"
    assert told["off"][1] is None


def test_what_cannot_be_tested_is_refused(package, dataset, tmp_path):
    with raises(InvalidConfig, 1.5):
        ShiftSettings(level=1.5)
    with raises(ModelMismatch, "--shift-test"):
        predict(package, [dataset], tmp_path / "scores", shift=ShiftSettings())
    assert not (tmp_path / "scores").exists()
    kept = with_reference(package, dataset)
    with raises(InvalidConfig, "top", "background", "signal"):
        reference_for(kept.reference, ("background", "signal"), ShiftSettings(of_class="top"))
    kept.write(tmp_path / "model")
    words = [str(tmp_path / "model"), str(dataset), "--out", str(tmp_path / "s"), "--shift-test", "off"]
    for flag in (["--shift-class", "signal"], ["--shift-level", "0.01"]):
        with raises(InvalidConfig, flag[0]):
            CliRunner().invoke(app, ["predict", *words, *flag], catch_exceptions=False, standalone_mode=False)
