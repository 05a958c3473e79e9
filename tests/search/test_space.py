import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.errors import InvalidSpace
from hep_ray.search.parameters import Choice, Integer, LogUniform, Mapped, Uniform
from hep_ray.search.space import COMPONENTS, Space
from hep_ray.tracking.records import SearchStarted, decode
from hep_ray.training.config import REGISTRIES, TrialConfig
from tests.facts import raises

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


def test_a_space_knows_the_kinds_of_component_without_their_registries():
    assert tuple(REGISTRIES) == COMPONENTS


def test_a_sound_space_passes_its_check():
    Space(**GOOD).check()
    Space(**GOOD).replace(learning_rate=LogUniform(1e-5, 1e-1), batch_size=Integer(16, 256)).check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.1}, ["unknown key 'lr' in space", "learning_rate"]),
        ({"learning_rte": 0.1}, ["did you mean 'learning_rate'?", "batch_size"]),
        ({"root_index": Choice(3, 4)}, ["'root_index'", "cross_entropy", ".when(loss='root_softmax')"]),
        ({"momentum": 0.9}, ["'momentum'", "adam", ".when(optimizer='sgd')"]),
        ({"loss": "cross_entropy", "root_index": 3}, ["unknown key 'root_index'", "root_softmax"]),
        ({"root_index": Choice(0, 3).when(loss="root_softmax")}, ["root_index", "got 0"]),
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


def test_parameters_without_a_name_are_told_how_those_of_one_model_are_stated() -> None:
    case = {"model": "mlp", "hidden_layers": 2}
    with raises(InvalidSpace, "{'model': 'mlp'", "by name", ".when(model='mlp')"):
        Space(case)


def test_a_space_of_baselines_alone_needs_no_loss():
    Space(model="likelihood", bins=Integer(10, 100)).check()
    with raises(InvalidSpace, "'learning_rate'"):
        Space(model="likelihood", learning_rate=0.1).check()
    with raises(InvalidSpace, "'trees'", "'likelihood'", ".when(model='gradient_boosting')"):
        Space(model=Choice("likelihood", "gradient_boosting"), trees=10).check()


def test_a_space_states_its_model_loss_and_optimizer():
    for kind in ("model", "loss", "optimizer"):
        rest = {
            key: value for key, value in GOOD.items() if key != kind and not getattr(value, "condition", None)
        }
        with raises(InvalidSpace, kind):
            Space(**rest).check()


def test_a_condition_that_cannot_be_met_is_an_error():
    with raises(InvalidSpace, "'root_index'", "loss=root_sotfmax"):
        Space(**{**GOOD, "root_index": Choice(3).when(loss="root_sotfmax")})
    with raises(InvalidSpace, "'root_index'", "'loss'"):
        Space(root_index=Choice(3).when(loss="root_softmax"), loss=Choice("root_softmax"))


@pytest.mark.parametrize(
    "broken",
    [
        Choice,
        lambda: Mapped("optimizer", {}),
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
BY_OPTIMIZER = Space(**{**GOOD, "learning_rate": Mapped("optimizer", RATES)})


def test_what_follows_from_another_value_multiplies_nothing():
    BY_OPTIMIZER.check()
    points = BY_OPTIMIZER.grid()
    assert len(points) == 9  # as without: 3 losses × (adam, sgd 0.8, sgd 0.9)
    assert all(point["learning_rate"] == RATES[point["optimizer"]] for point in points)
    assert {point["learning_rate"] for point in BY_OPTIMIZER.samples()} == {1e-3, 1e-2}
    assert str(BY_OPTIMIZER.parameters["learning_rate"]) == "0.001 | 0.01 when optimizer=adam|sgd"


def test_what_follows_is_put_right_where_the_other_value_changes():
    """10 features are no multiple of 3 heads, nor 9 of 5: only the pairs are sound."""
    sizes = {"model": "vision_transformer", "loss": "hinge", "optimizer": "adam", "learning_rate": 0.1}
    sound = Space(**sizes, token_features=Choice(9, 10), heads=Mapped("token_features", {9: 3, 10: 5}))
    sound.check()
    assert [(point["token_features"], point["heads"]) for point in sound.grid()] == [(9, 3), (10, 5)]
    with raises(InvalidSpace, "token_features", "heads", 10, 4):
        sound.replace(heads=Mapped("token_features", {9: 3, 10: 4})).check()


def test_what_follows_from_nothing_sound_is_refused():
    with raises(InvalidSpace, "'learning_rate'", "optimizer=adagrad"):
        Space(**{**GOOD, "learning_rate": Mapped("optimizer", {"adagrad": 0.1})})
    with raises(InvalidSpace, "'learning_rate'"):
        Space(**{**GOOD, "learning_rate": Mapped("optimizer", {"adam": 0.1})}).check()
    with raises(InvalidSpace, "loss", "Choice"):
        Space(model=Choice("cnn", "mlp"), loss=Mapped("model", {"cnn": "hinge", "mlp": "mse"}))


def test_a_grid_over_a_range_is_refused():
    with raises(InvalidSpace, "'learning_rate'", "Choice"):
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


VALUES = st.one_of(
    st.text(max_size=8), st.booleans(), st.integers(-1000, 1000), st.floats(-1e6, 1e6, allow_subnormal=False)
)
CHOICES = st.lists(VALUES, min_size=1, max_size=4, unique=True).map(lambda values: Choice(*values))
BOUNDS = st.tuples(st.floats(1e-9, 1e3), st.floats(1.01, 1e3)).map(lambda pair: (pair[0], pair[0] * pair[1]))
RANGES = st.one_of(
    BOUNDS.map(lambda bounds: Uniform(*bounds)),
    BOUNDS.map(lambda bounds: LogUniform(*bounds)),
    st.tuples(st.integers(-100, 100), st.integers(1, 100)).map(
        lambda pair: Integer(pair[0], pair[0] + pair[1])
    ),
)


@st.composite
def spaces(draw):
    """Spaces of up to six parameters, of which some exist beside some values of earlier ones, or follow from one."""
    parameters = {}
    for number in range(draw(st.integers(1, 6))):
        choices = {name: one for name, one in parameters.items() if isinstance(one, Choice)}
        made = draw(st.one_of(CHOICES, RANGES))
        if choices and draw(st.booleans()):
            name = draw(st.sampled_from(sorted(choices)))
            some = tuple(draw(st.lists(st.sampled_from(choices[name].values), min_size=1, unique=True)))
            follows = Mapped(name, {value: draw(VALUES) for value in some})
            made = follows if draw(st.booleans()) else made.when(**{name: some})
        parameters[f"p{number}"] = made
    return Space(**parameters)


@given(spaces())
def test_a_space_survives_json(space):
    read = Space.from_json(json.loads(json.dumps(space.to_json())))

    assert read.parameters == space.parameters
    assert list(read.parameters) == list(space.parameters)
    assert space.changes_since(started(space).space) == []


@given(spaces(), spaces())
def test_spaces_are_told_apart_by_the_names_of_what_differs(before, now):
    differing = {
        name
        for name in {*before.parameters, *now.parameters}
        if before.parameters.get(name) != now.parameters.get(name)
    }
    changes = now.changes_since(started(before).space)
    assert {change.split(" ", 1)[0] for change in changes} == differing


def started(space):
    """The first record of a search over a space, as its journal gives it back."""
    record = SearchStarted(
        time=0.0, search="toy", search_id="a", dataset_fingerprint="f", task="toy", metric="val_auc", mode="max",
        epochs=1, sampler="random", scheduler="none", seed=0, space=space.to_json(), options={}, provenance={},
    )  # fmt: skip
    return decode(record.model_dump_json())


def test_a_change_is_told_with_before_and_now():
    before = started(Space(**GOOD)).space
    now = Space(**GOOD).replace(momentum=Choice(0.8, 0.95).when(optimizer="sgd"), batch_size=64)
    assert now.changes_since(before) == [
        "momentum was 0.8 | 0.9 when optimizer=sgd and is now 0.8 | 0.95 when optimizer=sgd",
        "batch_size was absent and is now 64",
    ]
    assert Space(**GOOD).replace(momentum=Choice(0.8, 0.9)).changes_since(before) == [
        "momentum was 0.8 | 0.9 when optimizer=sgd and is now 0.8 | 0.9"
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_choice_that_json_cannot_hold_is_refused(value):
    with pytest.raises(InvalidSpace, match=str(value)):
        Choice(0.1, value)


def test_each_value_of_the_keys_of_some_components_is_met_once_beside_what_it_needs() -> None:
    space = Space(
        model=Choice("mlp", "cnn"),
        hidden_layers=Choice(1, 2, 3).when(model="mlp"),
        loss=Choice("cross_entropy", "focal"),
        focusing=Uniform(0.5, 3.0).when(loss="focal"),
        optimizer="adam",
        learning_rate=LogUniform(1e-4, 1e-2),
        batch_size=Choice(8, 16),
    )
    found = list(space.each_value({"model 'mlp'", "loss 'focal'"}, 99))
    assert [(one["model"], one["hidden_layers"]) for one in found if one["loss"] == "cross_entropy"] == [
        ("mlp", 1),
        ("mlp", 2),
        ("mlp", 3),
    ]
    assert [one["focusing"] for one in found if one["loss"] == "focal"] == [0.5, 3.0]
    assert {one["batch_size"] for one in found} == {8}
    assert list(space.each_value(set(), 99)) == []
    assert len(list(space.each_value({"model 'mlp'"}, 2))) == 2
