"""Baselines without a network, against the estimators they come from and against arithmetic by hand."""

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from threadpoolctl import threadpool_limits

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CorruptCheckpoint, InvalidConfig, InvalidEvents, MissingPackage, NotFitted
from hep_ray.loading.batches import Events
from hep_ray.models import MODELS, build_model
from hep_ray.models.fitted import check_fit
from hep_ray.models.likelihood import adaptive_estimate
from hep_ray.training.config import TrialConfig
from hep_ray.training.fitted import FittedLoop
from hep_ray.training.loop import TrialLoop, start_trial
from tests.facts import raises

CLASSES = ("background", "signal")
BASELINES = [name for name in MODELS if MODELS[name].fitted]


@pytest.fixture(autouse=True)
def one_thread():
    """Small fits are faster on one thread, and on a busy machine much faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def schema(classes=CLASSES):
    return EventSchema(
        task="toy", columns=(Column(name="mass"), Column(name="momenta", shape=(3,))), classes=classes
    )


def events(count=400, classes=2, seed=0):
    """Normal features whose mean is 0.7 times the label; (inputs, labels)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = random.normal(0.7 * labels[:, None], 1.0, (count, 4)).astype(np.float32)
    return {"mass": features[:, 0], "momenta": features[:, 1:]}, labels


def probabilities(model, inputs):
    with torch.no_grad():
        return model(*(torch.from_numpy(inputs[name]) for name in model.columns)).softmax(1).numpy()


def flat(inputs):
    return np.column_stack([inputs["mass"], inputs["momenta"]])


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")])
@pytest.mark.parametrize("weighted", [False, True])
def test_boosted_trees_are_those_of_scikit_learn(classes, weighted):
    from sklearn.ensemble import HistGradientBoostingClassifier

    inputs, labels = events(classes=len(classes))
    weights = np.linspace(0.5, 1.5, len(labels)).astype(np.float32) if weighted else None
    model = build_model("gradient_boosting", {"trees": 20, "leaf_events": 5}, schema(classes))
    model.fit(inputs, labels, weights, seed=3)
    peer = HistGradientBoostingClassifier(
        max_iter=20, max_depth=10, min_samples_leaf=5, early_stopping=False, random_state=3
    ).fit(flat(inputs).astype(np.float64), labels, sample_weight=weights)

    unseen, _ = events(seed=1, classes=len(classes))
    np.testing.assert_allclose(probabilities(model, unseen), peer.predict_proba(flat(unseen)), atol=1e-6)


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")])
@pytest.mark.parametrize("weighted", [False, True])
def test_boosted_trees_are_those_of_xgboost(classes, weighted):
    """Its own probabilities, of a peer that is told nothing but what the model's options are called there."""
    import xgboost

    inputs, labels = events(classes=len(classes))
    weights = np.linspace(0.5, 1.5, len(labels)).astype(np.float32) if weighted else None
    options = {"trees": 20, "leaves": 8, "leaf_weight": 2.0, "leaf_penalty": 0.5, "events_per_tree": 0.7}
    model = build_model("xgboost", {**options, "features_per_tree": 0.6, "least_gain": 0.1}, schema(classes))
    model.fit(inputs, labels, weights, seed=3)
    peer = xgboost.XGBClassifier(
        n_estimators=20,
        max_leaves=8,
        max_depth=10,
        grow_policy="lossguide",
        learning_rate=0.1,
        min_child_weight=2.0,
        reg_lambda=0.5,
        subsample=0.7,
        colsample_bytree=0.6,
        gamma=0.1,
        random_state=3,
        n_jobs=1,
        tree_method="hist",
    ).fit(flat(inputs), labels, sample_weight=weights)

    unseen, _ = events(seed=1, classes=len(classes))
    np.testing.assert_allclose(probabilities(model, unseen), peer.predict_proba(flat(unseen)), atol=2e-6)


def test_trees_of_xgboost_send_values_at_a_threshold_and_missing_ones_where_it_does():
    """Few distinct values, so that every threshold is met, and one in seven missing."""
    import xgboost

    column = Column(name="mass", missing=True)
    one = EventSchema(task="toy", columns=(column, Column(name="charge")), classes=CLASSES)
    random = np.random.default_rng(5)
    mass = random.integers(0, 5, 600).astype(np.float32) / np.float32(3)
    charge = random.integers(-1, 2, 600).astype(np.float32)
    labels = (random.random(600) < 0.2 + 0.15 * (mass + charge / 2)).astype(np.int64)
    mass[random.random(600) < 1 / 7] = np.nan
    model = build_model("xgboost", {"trees": 30, "leaves": 6}, one)
    inputs = {"mass": mass, "charge": charge}
    model.fit(inputs, labels, None, seed=0)
    peer = xgboost.XGBClassifier(
        n_estimators=30, max_leaves=6, max_depth=10, grow_policy="lossguide", learning_rate=0.1, n_jobs=1
    ).fit(np.column_stack([mass, charge]), labels)
    np.testing.assert_allclose(
        probabilities(model, inputs), peer.predict_proba(np.column_stack([mass, charge])), atol=2e-6
    )


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")])
@pytest.mark.parametrize("weighted", [False, True])
def test_boosted_trees_are_those_of_lightgbm(classes, weighted):
    """Its own probabilities, of a peer that is told nothing but what the model's options are called there."""
    import lightgbm

    inputs, labels = events(classes=len(classes))
    weights = np.linspace(0.5, 1.5, len(labels)).astype(np.float32) if weighted else None
    options = {
        "trees": 20,
        "leaves": 8,
        "tree_depth": 3,
        "leaf_penalty": 0.5,
        "leaf_events": 5,
        "leaf_weight": 2.0,
    }
    sampled = {"events_per_tree": 0.7, "features_per_tree": 0.6, "least_gain": 0.1}
    model = build_model("lightgbm", {**options, **sampled}, schema(classes))
    model.fit(inputs, labels, weights, seed=3)
    peer = lightgbm.LGBMClassifier(
        n_estimators=20,
        num_leaves=8,
        max_depth=3,
        learning_rate=0.1,
        reg_lambda=0.5,
        min_child_samples=5,
        min_child_weight=2.0,
        min_split_gain=0.1,
        subsample=0.7,
        subsample_freq=1,
        colsample_bytree=0.6,
        random_state=3,
        data_random_seed=1,
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbosity=-1,
    ).fit(flat(inputs), labels, sample_weight=weights)

    unseen, _ = events(seed=1, classes=len(classes))
    # Not predict_proba, which warns of features without names in some of its versions.
    theirs = peer.booster_.predict(flat(unseen))
    theirs = np.column_stack([1 - theirs, theirs]) if len(classes) == 2 else theirs
    np.testing.assert_allclose(probabilities(model, unseen), theirs, atol=1e-6)
    assert theirs.std() > 0.1


def test_trees_of_lightgbm_send_values_at_a_threshold_and_missing_ones_where_it_does():
    """Few distinct values, zero among them, so that every threshold is met; a hole that training knew and one not."""
    import lightgbm

    columns = tuple(Column(name=name, missing=True) for name in ("mass", "charge"))
    random = np.random.default_rng(5)
    mass = random.integers(-2, 3, 600).astype(np.float32) / np.float32(3)
    charge = random.integers(-1, 2, 600).astype(np.float32)
    labels = (random.random(600) < 0.5 + 0.2 * (mass + charge / 2)).astype(np.int64)
    mass[(random.random(600) < 1 / 7) & (labels == 0)] = np.nan
    model = build_model(
        "lightgbm", {"trees": 30, "leaves": 6}, EventSchema(task="toy", columns=columns, classes=CLASSES)
    )
    model.fit({"mass": mass, "charge": charge}, labels, None, seed=0)
    peer = lightgbm.train(
        {"objective": "binary", "num_leaves": 6, "max_depth": 10, "num_threads": 1, "verbosity": -1},
        lightgbm.Dataset(np.column_stack([mass, charge]), label=labels),
        30,
    )
    unseen = charge.copy()
    unseen[::5] = np.nan
    found = probabilities(model, {"mass": mass, "charge": unseen})[:, 1]
    np.testing.assert_allclose(found, peer.predict(np.column_stack([mass, unseen])), atol=1e-6)
    known = ~np.isnan(unseen)
    assert found[np.isnan(mass) & known].mean() < 0.2 < found[~np.isnan(mass) & known].mean()


def test_lightgbm_that_finds_nothing_to_divide_answers_with_the_shares_of_the_classes():
    """Two leaves of 20 events each need more than 30: every tree is one leaf, at 10 of 30."""
    inputs, _ = events(30)
    labels = (np.arange(30) % 3 == 0).astype(np.int64)
    model = build_model("lightgbm", {"trees": 3}, schema())
    model.fit(inputs, labels, None, seed=0)
    np.testing.assert_allclose(probabilities(model, inputs)[:, 1], 1 / 3, atol=1e-6)


def test_a_seed_changes_lightgbm_only_where_it_draws():
    """More events than it makes its bins of, which are 200,000."""
    inputs, labels = events(210_000)
    found = {}
    for share in (1.0, 0.5):
        for seed in (0, 2**32 + 1):
            params = {"inputs": "mass", "trees": 2, "events_per_tree": share}
            model = build_model("lightgbm", params, schema())
            model.fit(inputs, labels, None, seed=seed)
            found[share, seed] = probabilities(model, pick(inputs, slice(1000)))
    np.testing.assert_array_equal(found[1.0, 0], found[1.0, 2**32 + 1])
    assert not np.array_equal(found[0.5, 0], found[0.5, 2**32 + 1])


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_a_fit_whose_package_is_absent_says_what_to_type(monkeypatch, name):
    inputs, labels = events()
    model = build_model(name, {"trees": 2}, schema())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for check in (lambda: check_fit(model), lambda: model.fit(inputs, labels, None, seed=0)):
        with raises(MissingPackage, name, "not installed", "hep-ray[trees]"):
            check()


def test_a_lightgbm_without_its_library_of_the_system_says_what_to_install(monkeypatch, tmp_path):
    """A copy of the package that is linked to a library which no system has."""
    import lightgbm

    copy = tmp_path / "lightgbm"
    shutil.copytree(
        Path(lightgbm.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc", "__pycache__")
    )
    (library,) = copy.rglob("lib_lightgbm.so")
    content = library.read_bytes()
    if b"libgomp.so.1" not in content:
        pytest.skip("this LightGBM is not linked to libgomp")
    library.write_bytes(content.replace(b"libgomp.so.1", b"libgomq.so.1"))
    for loaded in [name for name in sys.modules if name.split(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    with raises(MissingPackage, "lightgbm", "libgomq.so.1", "apt-get install libgomp1"):
        check_fit(build_model("lightgbm", {"trees": 2}, schema()))
    for loaded in [name for name in sys.modules if name.split(".")[0] == "lightgbm"]:
        del sys.modules[loaded]


@pytest.mark.parametrize(("name", "called"), [("xgboost", "XGBoost"), ("lightgbm", "LightGBM")])
def test_a_library_takes_no_weights_below_zero(name, called):
    inputs, labels = events()
    model = build_model(name, {"trees": 2}, schema())
    weights = np.where(np.arange(len(labels)) % 5, 1, -1).astype(np.float32)
    with raises(InvalidConfig, f"{called} takes no weights below 0", "negative_weights='absolute'"):
        model.fit(inputs, labels, weights, seed=0)
    model.fit(inputs, labels, np.abs(weights), seed=0)
    build_model("gradient_boosting", {"trees": 2}, schema()).fit(inputs, labels, weights, seed=0)


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")])
def test_logistic_regression_is_that_of_scikit_learn(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, labels = events(classes=len(classes))
    model = build_model("logistic_regression", {"regularisation": 4.0}, schema(classes))
    model.fit(inputs, labels, None, seed=0)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.25)).fit(
        flat(inputs).astype(np.float64), labels
    )

    unseen, _ = events(seed=1, classes=len(classes))
    np.testing.assert_allclose(probabilities(model, unseen), peer.predict_proba(flat(unseen)), atol=1e-4)


def test_the_likelihood_of_two_bins_by_hand():
    """Four signal events, three above 0.5; four background events, one above.

    Density of a bin with k of n events: (k + 1/2)/(n + 1). Signal: 0.3 below, 0.7 above; background the other way
    round. Equal numbers, so d = 0.7/(0.7 + 0.3) above the middle and 0.3 below.
    """
    one = EventSchema(task="toy", columns=(Column(name="mass"),), classes=CLASSES)
    mass = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0], np.float32)
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    model = build_model("likelihood", {"bins": 2, "smoothing": 0.0}, one)
    model.fit({"mass": mass}, labels, None, seed=0)

    found = probabilities(model, {"mass": np.array([0.1, 0.9], np.float32)})
    np.testing.assert_allclose(found[:, 1], [0.3, 0.7], rtol=1e-5)
    # Weights (3 for signal) leave its density as 9.5/13 above the middle and make the prior 12/16.
    model.fit({"mass": mass}, labels, np.where(labels == 1, 3, 1).astype(np.float32), seed=0)
    above, prior = (9.5 / 13, 0.3), (12 / 16, 4 / 16)
    expected = above[0] * prior[0] / (above[0] * prior[0] + above[1] * prior[1])
    assert probabilities(model, {"mass": np.array([0.9], np.float32)})[0, 1] == pytest.approx(expected, 1e-5)


def test_the_adaptive_kernel_is_the_sum_over_events():
    """Every event by itself, with the width of Cranmer's formula at its place, and what lies outside put back."""
    counts = np.array([0, 4, 30, 12, 2, 0, 0, 1, 0.0])
    events_at = np.repeat(np.arange(9) + 0.5, counts.astype(int))
    spread, many = events_at.std(), len(events_at)
    fixed = (4 / 3) ** 0.2 * spread * many**-0.2

    def kernel(at, width):
        edges = scipy.special.ndtr((np.arange(10) - at) / width)
        return np.diff(edges) / (edges[-1] - edges[0])

    first = sum(kernel(at, fixed) for at in events_at) / many
    expected = sum(kernel(at, fixed / math.sqrt(spread * first[int(at)])) for at in events_at)
    found = adaptive_estimate(counts)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.sum() == pytest.approx(49)
    width_of_the_lone_event = fixed / math.sqrt(spread * first[7])
    assert width_of_the_lone_event > 2 * fixed / math.sqrt(spread * first[2])
    np.testing.assert_array_equal(adaptive_estimate(np.array([0, 5.0, 0])), [0, 5, 0])
    np.testing.assert_array_equal(adaptive_estimate(np.zeros(3)), np.zeros(3))
    lonely = np.zeros(
        500
    )  # the first estimate underflows between the two, and at the second is all but nothing
    lonely[[3, 4, 499]] = 3_000, 3_000, 1
    assert np.isfinite(adaptive_estimate(lonely)).all()
    assert adaptive_estimate(lonely).sum() == pytest.approx(6_001)


@pytest.mark.parametrize(
    "kernel", [{"bins": 60, "smoothing": 2.0}, {"bins": 200, "kernel": "adaptive"}], ids=["fixed", "adaptive"]
)
def test_the_likelihood_approaches_the_true_ratio(kernel):
    """Independent normal features of unit width, means 0 and 0.7: ln L_S/L_B = Σ (0.7 x − 0.7²/2)."""
    inputs, labels = events(60_000)
    model = build_model("likelihood", {**kernel, "prior": "equal"}, schema())
    model.fit(inputs, labels, None, seed=0)

    unseen, _ = events(2_000, seed=1)
    found = probabilities(model, unseen)[:, 1]
    truth = 1 / (1 + np.exp(-(0.7 * flat(unseen) - 0.245).sum(1)))
    assert np.abs(found - truth).mean() < 0.02


def test_working_points_keep_their_share_of_the_signal():
    inputs, labels = events(5_000)
    model = build_model("likelihood", {}, schema())
    model.fit(inputs, labels, None, seed=0)
    signal = scipy.special.logit(probabilities(model, inputs)[labels == 1, 1])

    assert list(model.cuts()) == ["loose", "medium", "tight"]
    for cut, efficiency in zip(model.cuts().values(), (0.93, 0.88, 0.80), strict=True):
        assert (signal >= cut).mean() == pytest.approx(efficiency, abs=0.002)


@pytest.mark.parametrize("name", BASELINES)
class TestEveryBaseline:
    def test_is_no_use_before_it_is_fitted(self, name):
        with pytest.raises(NotFitted):
            probabilities(build_model(name, {}, schema()), events(5)[0])

    def test_refuses_features_that_are_not_finite(self, name):
        inputs, labels = events(50)
        inputs["momenta"][7, 1] = np.nan
        with raises(InvalidEvents, "feature 2", "mass+momenta", "nan"):
            build_model(name, {}, schema()).fit(inputs, labels, None, seed=0)

    def test_names_the_columns_there_are(self, name):
        with raises(InvalidConfig, "mass, momenta", "'mas'"):
            build_model(name, {"inputs": "mas"}, schema())

    def test_reads_the_columns_it_is_told_to(self, name):
        assert build_model(name, {"inputs": "momenta"}, schema()).columns == ("momenta",)

    def test_has_no_loss_and_no_optimizer(self, name):
        assert set(TrialConfig.from_params({"model": name}).components) == {"model"}
        with raises(InvalidConfig, "'learning_rate'"):
            TrialConfig.from_params({"model": name, "learning_rate": 0.1})

    def test_a_trial_is_one_fit_and_its_checkpoint_the_whole_of_it(self, name):
        loop = trial(name)
        report = loop.run_epoch()

        assert loop.finished
        assert report["epoch"] == 1
        assert report["val_accuracy"] > 0.7  # the best cut on the sum of features reaches Φ(0.7) = 0.758
        assert report["val_auc"] > 0.75
        again = trial(name, seed=9)
        again.load_state_dict(loop.state_dict())
        assert again.finished
        unseen, _ = events(30, seed=2)
        np.testing.assert_array_equal(probabilities(again.kept, unseen), probabilities(loop.kept, unseen))

    def test_another_trials_checkpoint_is_refused(self, name):
        other = trial(name, class_weights="balanced")
        with raises(CorruptCheckpoint, "'class_weights': 'none'", "'class_weights': 'balanced'"):
            other.load_state_dict(trial(name).state_dict())

    def test_classes_can_be_balanced(self, name):
        def mean_score(weights):
            inputs, labels = events(1_000)
            kept = (labels == 0) | (np.arange(1_000) % 5 == 0)
            loop = trial(name, train=(pick(inputs, kept), labels[kept]), class_weights=weights)
            loop.run_epoch()
            return probabilities(loop.kept, events(500, seed=1)[0])[:, 1].mean()

        assert mean_score("balanced") > 1.1 * mean_score("none")


def pick(inputs, kept):
    return {column: values[kept] for column, values in inputs.items()}


def trial(name, train=None, seed=0, **params):
    config = TrialConfig.from_params({"model": name, **params})
    splits = [
        Events.from_arrays(*(given or events(1_000, seed=place))) for place, given in enumerate((train, None))
    ]
    return start_trial(config, schema(), *splits, epochs=5, seed=seed)


def test_the_likelihood_reports_its_working_points():
    report = trial("likelihood", train=events(8_000), bins=30).run_epoch()

    for name, efficiency in (("loose", 0.93), ("medium", 0.88), ("tight", 0.80)):
        assert report[f"val_signal_efficiency_{name}"] == pytest.approx(efficiency, abs=0.03)
        assert report[f"val_background_rejection_{name}"] > 1
    assert report["val_background_rejection_tight"] > report["val_background_rejection_loose"]


def test_the_model_decides_which_loop_a_trial_has():
    params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.01}
    config = TrialConfig.from_params(params)
    split = Events.from_arrays(*events(50))
    assert isinstance(start_trial(config, schema(), split, split, epochs=1, seed=0), TrialLoop)
    with raises(InvalidConfig, "'mlp'"):
        FittedLoop(config, schema(), split, split, seed=0)
