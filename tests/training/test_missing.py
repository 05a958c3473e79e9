"""Missing values: filled in a network by what its training events have, a branch of their own in a tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hep_ray.conversion.cli import app
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema
from hep_ray.loading.batches import Events
from hep_ray.loading.scalers.missing import Imputer
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="x", shape=(2,), missing=True), Column(name="y")),
    classes=("a", "b"),
)
NETWORK: dict[str, Any] = {
    "model": "mlp",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 1e-2,
    "batch_size": 32,
    "scalar_scaling": "standardize",
}


def events(seed: int, count: int = 400) -> Events:
    """The first of x is missing in nine of ten events of class b, and else says nothing; y is noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(5, 1, (count, 2)).astype(np.float32)
    x[(labels == 1) & (rng.random(count) < 0.9), 0] = np.nan
    return Events.from_arrays({"x": x, "y": rng.normal(size=count).astype(np.float32)}, labels)


@pytest.mark.parametrize(
    ("kind", "filling"), [("median", [2.0, 10.0]), ("mean", [3.0, 10.0]), ("zero", [0, 0])]
)
def test_an_imputer_by_hand(kind: Any, filling: list[float]) -> None:
    values = np.array([[1, np.nan], [2, 10], [6, np.nan]], np.float32)
    one = Imputer((2,), kind)
    filled = one.fit(values)
    assert one(torch.from_numpy(values)).tolist() == [[1, filling[1]], [2, 10], [6, filling[1]]]
    assert np.asarray(filled).tolist() == [[1, filling[1]], [2, 10], [6, filling[1]]]
    assert one.filling.tolist() == filling


def test_a_place_without_any_value_is_named() -> None:
    with raises(InvalidEvents, "2", "value", "imputed"):
        Imputer((), "mean").fit(np.full(2, np.nan))


@pytest.mark.parametrize("scaling", ["standardize", "none"])
def test_a_network_trains_on_filled_values_and_keeps_the_filling(scaling: str) -> None:
    config = TrialConfig.from_params({**NETWORK, "scalar_scaling": scaling})
    train = events(0)
    trial = start_trial(config, SCHEMA, train, events(1), epochs=1, seed=0)
    found = trial.run_epoch()
    assert np.isfinite(list(found.values())).all()
    state = trial.state_dict()["model"]
    np.testing.assert_allclose(
        state["imputers.x.filling"], np.nanmedian(train.inputs["x"], axis=0), rtol=1e-6
    )
    assert not [key for key in state if key.startswith("imputers.y")]


def test_a_tree_finds_that_a_value_is_missing_and_a_linear_model_is_filled() -> None:
    found = {}
    for model in ("gradient_boosting", "xgboost", "lightgbm", "logistic_regression"):
        config = TrialConfig.from_params({"model": model})
        trial = start_trial(config, SCHEMA, events(0), events(1), epochs=1, seed=0)
        found[model] = trial.run_epoch()["val_auc"]
    # Of b nine in ten are told by the hole; of the others nothing is known: 0.9 + 0.1/2.
    assert found["gradient_boosting"] == pytest.approx(0.95, abs=0.04)
    assert found["xgboost"] == pytest.approx(0.95, abs=0.04)
    assert found["lightgbm"] == pytest.approx(0.95, abs=0.04)
    assert found["logistic_regression"] < 0.6


def test_trees_answer_as_scikit_learn_does_where_values_are_missing() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    trial = start_trial(
        TrialConfig.from_params({"model": "gradient_boosting", "trees": 20}),
        SCHEMA,
        events(0),
        events(1),
        epochs=1,
        seed=3,
    )
    trial.run_epoch()
    train, val = events(0), events(1)
    flat = [np.column_stack([one.inputs["x"], one.inputs["y"]]).astype(np.float64) for one in (train, val)]
    flat[1][::7, 2] = np.nan  # where training knows no hole
    theirs = HistGradientBoostingClassifier(
        max_iter=20, max_depth=10, early_stopping=False, random_state=3
    ).fit(flat[0], train.labels)
    ours = trial.model(
        torch.from_numpy(flat[1][:, :2]).float(), torch.from_numpy(flat[1][:, 2]).float()
    ).softmax(1)
    np.testing.assert_allclose(ours.detach(), theirs.predict_proba(flat[1].astype(np.float32)), atol=1e-5)


def test_sentinels_become_nan_and_others_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(("a", "b")):
        mass = rng.normal(90, 5, 100)
        mass[::4] = -999
        np.savez(tmp_path / f"{name}.npz", mass=mass, pt=rng.random(100) + number / 2)
    (tmp_path / "s.toml").write_text(
        'reader = "npz"\n[[columns]]\nname = "mass"\nsentinels = [-999]\nmissing = "nan"\nmissing_indicator = true\n'
        '[[columns]]\nname = "pt"\n'
    )
    words = ["convert", f"a={tmp_path / 'a.npz'}", f"b={tmp_path / 'b.npz'}", "--out", str(tmp_path / "d")]
    done = CliRunner().invoke(app, [*words, "--schema", str(tmp_path / "s.toml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.schema.column("mass").missing
    assert not dataset.schema.column("pt").missing
    train = dataset.arrays("train")
    assert (np.isnan(train["mass"]) == (train["mass_missing"] == 1)).all()
    assert 0.15 < train["mass_missing"].mean() < 0.35
    assert not check(tmp_path / "d").problems


@pytest.mark.parametrize(("given", "taken"), [("nan", True), ("0", True), ("none", False)])
def test_the_command_line_keeps_or_fills(given: str, taken: bool, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        values = np.random.default_rng(number).random(60)
        values[::5] = np.nan
        np.savez(tmp_path / f"{name}.npz", x=values, n=np.arange(60) % 7)
    words = ["convert", f"a={tmp_path / 'a.npz'}", f"b={tmp_path / 'b.npz'}", "--reader", "npz"]
    words += ["--missing", given, "--out", str(tmp_path / "d")]
    if not taken:
        with raises(InvalidConfig, "--missing", "'none'", "nan"):
            CliRunner().invoke(app, words, catch_exceptions=False)
        return
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    x = Dataset.open(tmp_path / "d").arrays("train")["x"]
    assert np.isnan(x).any() == (given == "nan")
    again = ["convert", str(tmp_path / "d"), "--reader", "parquet", "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(app, again, catch_exceptions=False).exit_code == 0
    assert Dataset.open(tmp_path / "again").schema.column("x").missing == (given == "nan")


def test_a_whole_number_has_no_nan_and_nan_is_refused_elsewhere() -> None:
    with raises(InvalidSchema, "'n'", "int32", "float32"):
        Column(name="n", dtype="int32", missing=True)
    ids = np.array(["e"], dtype=object)
    with raises(InvalidEvents, "'y'", "NaN"):
        Column(name="y").checked(np.array([np.nan], np.float32), ids)
    with raises(InvalidEvents, "'x'", "infinity"):
        Column(name="x", missing=True).checked(np.array([np.inf], np.float32), ids)
