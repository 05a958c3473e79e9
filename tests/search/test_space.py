import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.errors import InvalidSpace
from hep_ray.search.parameters import By, Choice, Integer, LogUniform, Uniform
from hep_ray.search.space import Space
from hep_ray.training.config import TrialConfig

GOOD = {
    "model": "cnn",
    "loss": Choice("cross_entropy", "root_softmax"),
    "root_index": Choice(3, 4).when(loss="root_softmax"),
    "optimizer": Choice("adam", "sgd"),
    "momentum": Choice(0.8, 0.9).when(optimizer="sgd"),
    "learning_rate": Choice(1e-3),
}


def test_a_grid_holds_every_reachable_configuration_once():
    points = Space(**GOOD).grid()

    # losses: cross_entropy, root 3, root 4 → 3; optimizers: adam, sgd 0.8, sgd 0.9 → 3
    assert len(points) == 9
    assert len({tuple(sorted(point.items(), key=str)) for point in points}) == 9
    assert all(("root_index" in point) == (point["loss"] == "root_softmax") for point in points)
    assert all(("momentum" in point) == (point["optimizer"] == "sgd") for point in points)
    for point in points:
        TrialConfig.from_params(point)


def test_a_sound_space_passes_its_check():
    Space(**GOOD).check()
    Space(**GOOD).replace(learning_rate=LogUniform(1e-5, 1e-1), batch_size=Integer(16, 256)).check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.1}, ["unknown key 'lr' in space", "learning_rate"]),
        ({"root_index": Choice(3, 4)}, ["'root_index'", "cross_entropy", ".when(loss='root_softmax')"]),
        ({"momentum": 0.9}, ["'momentum'", "adam", ".when(optimizer='sgd')"]),
        ({"loss": "cross_entropy", "root_index": 3}, ["unknown key 'root_index'", "root_softmax"]),
        ({"root_index": Choice(0.5, 3).when(loss="root_softmax")}, ["root_index", "0.5"]),
        ({"learning_rate": Uniform(-1.0, 1.0)}, ["learning_rate", "-1.0"]),
        ({"dropout": Uniform(0.0, 1.5)}, ["dropout", "1.5"]),
        ({"batch_size": Choice(0, 10)}, ["batch_size", "got 0"]),
        ({"model": Choice("cnn", "resnet43")}, ["resnet43", "resnet34"]),
    ],
)
def test_what_the_trainer_would_not_read_or_would_refuse_is_an_error(change, words):
    with pytest.raises(InvalidSpace) as error:
        Space(**{**GOOD, **change}).check()

    for word in words:
        assert word in str(error.value)


BASELINES = {
    **GOOD,
    "model": Choice("cnn", "gradient_boosting", "likelihood"),
    "trees": Choice(10, 20).when(model="gradient_boosting"),
    "phi_rotation": Choice(True),
}


def test_what_belongs_to_training_is_absent_where_a_model_is_fitted():
    space = Space(**BASELINES)
    space.check()

    points = space.grid()
    assert len(points) == 9 + 2 + 1  # the grid of GOOD; two sizes; one likelihood
    fitted = [point for point in points if point["model"] != "cnn"]
    assert fitted == [
        {"model": "gradient_boosting", "trees": 10},
        {"model": "gradient_boosting", "trees": 20},
        {"model": "likelihood"},
    ]
    for point in points:
        TrialConfig.from_params(point)


def test_the_model_is_drawn_before_what_depends_on_it():
    moved = {key: value for key, value in BASELINES.items() if key != "model"}
    del moved["trees"]
    space = Space(**moved, model=Choice("cnn", "likelihood"))

    assert len(space.grid()) == 10


def test_a_space_of_baselines_alone_needs_no_loss():
    Space(model="likelihood", bins=Integer(10, 100)).check()
    with pytest.raises(InvalidSpace, match="unknown key 'learning_rate'"):
        Space(model="likelihood", learning_rate=0.1).check()
    with pytest.raises(InvalidSpace, match=r"'trees' is read by .*add .when\(model='gradient_boosting'\)"):
        Space(model=Choice("likelihood", "gradient_boosting"), trees=10).check()


def test_a_space_states_its_model_loss_and_optimizer():
    for kind in ("model", "loss", "optimizer"):
        rest = {
            key: value for key, value in GOOD.items() if key != kind and not getattr(value, "condition", None)
        }
        with pytest.raises(InvalidSpace, match=kind):
            Space(**rest).check()


def test_a_condition_that_cannot_be_met_is_an_error():
    with pytest.raises(InvalidSpace, match="root_sotfmax"):
        Space(**{**GOOD, "root_index": Choice(3).when(loss="root_sotfmax")})
    with pytest.raises(InvalidSpace, match="stated before"):
        Space(root_index=Choice(3).when(loss="root_softmax"), loss=Choice("root_softmax"))


@pytest.mark.parametrize(
    "broken",
    [
        Choice,
        lambda: By("optimizer", {}),
        lambda: Choice(1, 1),
        lambda: Uniform(1.0, 0.0),
        lambda: Uniform(0.0, float("inf")),
        lambda: LogUniform(0.0, 1.0),
    ],
)
def test_an_empty_parameter_is_refused(broken):
    with pytest.raises(InvalidSpace):
        broken()


RATES = {"adam": 1e-3, "sgd": 1e-2}
BY_OPTIMIZER = Space(**{**GOOD, "learning_rate": By("optimizer", RATES)})


def test_what_follows_from_another_value_multiplies_nothing():
    BY_OPTIMIZER.check()
    points = BY_OPTIMIZER.grid()
    assert len(points) == 9  # as without: 3 losses × (adam, sgd 0.8, sgd 0.9)
    assert all(point["learning_rate"] == RATES[point["optimizer"]] for point in points)
    assert {point["learning_rate"] for point in BY_OPTIMIZER.samples()} == {1e-3, 1e-2}
    assert BY_OPTIMIZER.describe()["learning_rate"] == "0.001 | 0.01 when optimizer=adam|sgd"


def test_what_follows_is_put_right_where_the_other_value_changes():
    """10 features are no multiple of 3 heads, nor 9 of 5: only the pairs are sound."""
    sizes = {"model": "vision_transformer", "loss": "hinge", "optimizer": "adam", "learning_rate": 0.1}
    sound = Space(**sizes, token_features=Choice(9, 10), heads=By("token_features", {9: 3, 10: 5}))
    sound.check()
    assert [(point["token_features"], point["heads"]) for point in sound.grid()] == [(9, 3), (10, 5)]
    with pytest.raises(InvalidSpace, match="multiple of heads"):
        sound.replace(heads=By("token_features", {9: 3, 10: 4})).check()


def test_what_follows_from_nothing_sound_is_refused():
    with pytest.raises(InvalidSpace, match="optimizer=adagrad"):
        Space(**{**GOOD, "learning_rate": By("optimizer", {"adagrad": 0.1})})
    with pytest.raises(InvalidSpace, match="'learning_rate' is required"):
        Space(**{**GOOD, "learning_rate": By("optimizer", {"adam": 0.1})}).check()
    with pytest.raises(InvalidSpace, match="a loss is a Choice"):
        Space(model=Choice("cnn", "mlp"), loss=By("model", {"cnn": "hinge", "mlp": "mse"}))


def test_a_grid_over_a_range_is_refused():
    with pytest.raises(InvalidSpace, match="learning_rate"):
        Space(**{**GOOD, "learning_rate": Uniform(0.1, 0.2)}).grid()


def test_draws_follow_too_in_one_study():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(8):
        drawn = BY_OPTIMIZER.suggest(study.ask())
        assert drawn["learning_rate"] == RATES[drawn["optimizer"]]
    assert {trial.params["optimizer"] for trial in study.trials} == {"adam", "sgd"}


@given(st.integers(0, 2**32 - 1))
def test_every_draw_is_a_configuration_that_the_trainer_takes(seed):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = Space(**GOOD).replace(learning_rate=LogUniform(1e-5, 1e-1), dropout=Uniform(0.0, 0.9))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))

    params = space.suggest(study.ask())

    resolved = TrialConfig.from_params(params).resolved()
    assert params.items() <= resolved.items()
    assert 1e-5 <= params["learning_rate"] <= 1e-1
