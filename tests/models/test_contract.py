"""What every registered model promises, whatever it reads.

A model is tried on each of the reference events below in turn and tested on the first that it takes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.loading.augment import is_image
from hep_ray.loading.batches import Events
from hep_ray.losses import build_loss, event_losses
from hep_ray.models import MODELS, Model, build_model
from hep_ray.models.fitted import FittedModel
from hep_ray.models.image import ImageConfig
from hep_ray.training.attribution import integrated_gradients
from hep_ray.training.config import REGISTRIES, keys_read
from tests.facts import raises

IMAGE = (Column(name="missing_pt"), Column(name="image", shape=(32, 32, 3)))
ELECTRON = (
    Column(name="em1_image", shape=(56, 11)),
    Column(name="layer_images", shape=(7, 11, 6)),
    Column(name="tracks", shape=(15, 5)),
    Column(name="scalars", shape=(15,)),
)
FEATURES = (Column(name="low_level", shape=(8,)), Column(name="mass"))
KINEMATICS = ("pt", "energy", "delta_eta", "delta_phi", "charge")
CLOUD = (Column(name="particles", shape=(12, 5), elements=KINEMATICS, lists=True), Column(name="mass"))
REFERENCES = {"features": FEATURES, "image": IMAGE, "electron": ELECTRON, "cloud": CLOUD}
ROLES = (Column(name="weight"), Column(name="region", dtype="int64"))


def schema_of(
    columns: tuple[Column, ...], classes: tuple[str, ...] = ("background", "signal")
) -> EventSchema:
    return EventSchema(
        task="reference", columns=(*columns, *ROLES), classes=classes, weight="weight", group="region"
    )


@dataclass(frozen=True)
class Case:
    """A model and reference events that it takes."""

    name: str
    columns: tuple[Column, ...]

    def build(self, classes: tuple[str, ...] = ("background", "signal"), seed: int = 0) -> Model:
        """Ready to use: a model that is fitted has been, to events that tell the classes apart."""
        torch.manual_seed(seed)
        built = build_model(self.name, MODELS[self.name].example, schema_of(self.columns, classes))
        if isinstance(built, FittedModel) and not built.fitted.is_meta:
            labels = torch.arange(120) % len(classes)
            events = {
                name: values.numpy() for name, values in zip(built.columns, self.apart(labels), strict=True)
            }
            built.fit(events, labels.numpy(), None, seed)
        return built

    def apart(self, labels: torch.Tensor) -> list[torch.Tensor]:
        """Events whose values grow with the label."""
        return [
            values * (0.2 + 0.8 * labels.reshape(-1, *[1] * (values.ndim - 1)))
            for values in self.events(len(labels))
        ]

    def events(self, count: int, seed: int = 7) -> tuple[torch.Tensor, ...]:
        """One tensor per column that the model reads, in its order."""
        random = torch.Generator().manual_seed(seed)
        values = {
            column.name: torch.rand((count, *column.shape), generator=random) for column in self.columns
        }
        return tuple(values[name] for name in columns_of(self))


@cache
def columns_of(case: Case) -> tuple[str, ...]:
    with torch.device("meta"):
        return case.build().columns


@cache
def case_of(name: str) -> Case:
    refusals = []
    for columns in REFERENCES.values():
        try:
            with torch.device("meta"):  # no weights are drawn
                build_model(name, MODELS[name].example, schema_of(columns))
        except InvalidConfig as fault:
            refusals.append(str(fault))
        else:
            return Case(name, columns)
    pytest.fail(f"model '{name}' takes none of the reference events {list(REFERENCES)}: {refusals}")


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.fixture(scope="module", params=[name for name in MODELS if not MODELS[name].fitted])
def trained(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.fixture(scope="module")
def built(case: Case) -> Model:
    return case.build()


def test_reads_columns_that_a_model_may_read(case: Case, built: Model) -> None:
    assert built.columns
    assert set(built.columns) <= {column.name for column in case.columns}


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c", "d", "e", "f")])
def test_one_logit_per_class(case: Case, classes: tuple[str, ...]) -> None:
    built = case.build(classes).eval()
    with torch.no_grad():
        assert built(*case.events(2)).shape == (2, len(classes))


def test_the_members_of_a_model_answer_one_by_one_in_training_alone(trained: Case) -> None:
    built, events = trained.build(), trained.events(4)
    assert MODELS[trained.name].members == bool(built.members)
    with torch.no_grad():
        logits = built.train()(*events)
        assert logits.shape == ((4, built.members, 2) if built.members else (4, 2))


def test_gradient_reaches_every_parameter_that_trains(trained: Case) -> None:
    built = trained.build()
    built(*trained.events(4)).square().sum().backward()
    training = [named for named in built.named_parameters() if named[1].requires_grad]
    assert training
    for name, parameter in training:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_events_do_not_see_each_other_in_evaluation(case: Case, built: Model) -> None:
    built.eval()
    events = case.events(3)
    with torch.no_grad():
        together = built(*events)
        alone = torch.cat([built(*(values[row : row + 1] for values in events)) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_every_axis_of_every_column_matters(case: Case, built: Model) -> None:
    built.eval()
    events = case.events(1)
    with torch.no_grad():
        reference = built(*events)
        for place, values in enumerate(events):
            for axis in range(2 if built.takes_lists else 1, values.ndim):
                turned = list(events)
                turned[place] = values.flip(axis)
                assert not torch.allclose(reference, built(*turned)), (built.columns[place], axis)


def clouds() -> list[str]:
    return [name for name in MODELS if case_of(name).columns == CLOUD]


@pytest.mark.parametrize("name", clouds())
class TestClouds:
    """What models of lists of varying length promise beside."""

    def lists(self, *lengths: int) -> torch.Tensor:
        (values,) = case_of(name="pfn").events(len(lengths), seed=3)
        values = values[:, : max(lengths)].clone()
        values[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = torch.nan
        return values

    def trained(self, name: str) -> Model:
        """A model whose normalisations have seen some events."""
        built = case_of(name).build()
        built.train()(self.lists(12, 7, 3))
        return built.eval()

    def test_the_order_of_the_items_does_not_matter(self, name: str) -> None:
        built, values = self.trained(name), self.lists(12, 7, 3)
        order = torch.stack(
            [torch.cat([torch.randperm(length), torch.arange(length, 12)]) for length in (12, 7, 3)]
        )
        turned = values.gather(1, order[..., None].expand_as(values))
        with torch.no_grad():
            torch.testing.assert_close(built(turned), built(values), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(built(values)[0], built(values)[1])

    def test_how_far_lists_are_filled_up_does_not_matter(self, name: str) -> None:
        built, values = self.trained(name), self.lists(8, 5, 2)
        longer = torch.nn.functional.pad(values, (0, 0, 0, 9), value=torch.nan)
        with torch.no_grad():
            alone = [built(values[row : row + 1, :length]) for row, length in enumerate((8, 5, 2))]
            torch.testing.assert_close(built(longer), torch.cat(alone), rtol=1e-4, atol=1e-5)
        torch.manual_seed(0)  # the statistics of a batch, and dropout off, know as little of the filling
        batches = [copy.deepcopy(built).train() for _ in range(2)]
        for one in batches:
            for module in one.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        torch.testing.assert_close(batches[0](longer), batches[1](values), rtol=1e-4, atol=1e-5)

    def test_events_of_one_item_or_none_have_finite_logits_and_gradients(self, name: str) -> None:
        built, values = self.trained(name), self.lists(4, 1, 0)
        assert torch.isfinite(built(values)).all()
        assert torch.isfinite(built(values[2:])).all()
        built.train()(values).square().sum().backward()
        for parameter in built.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def test_the_seed_decides_the_weights(case: Case, built: Model) -> None:
    first, again = built.state_dict(), case.build().state_dict()
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], first[key]) for key in first if "running" not in key)


def test_state_dict_carries_the_whole_model(case: Case, built: Model) -> None:
    other = case.build(seed=1)
    other.load_state_dict(built.state_dict())
    events = case.events(2)
    with torch.no_grad():
        assert torch.equal(built.eval()(*events), other.eval()(*events))


def test_integers_are_read_as_numbers(case: Case, built: Model) -> None:
    counts = [(200 * values).to(torch.uint8) for values in case.events(1)]
    built.eval()
    with torch.no_grad():
        assert torch.equal(built(*counts), built(*(values.float() for values in counts)))


def test_builds_without_memory_for_its_weights(case: Case) -> None:
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in case.build().parameters())


def test_learns_a_separable_toy_problem(trained: Case) -> None:
    built = trained.build()
    labels = torch.arange(8) % 2
    events = trained.apart(labels)
    parameters = [parameter for parameter in built.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    criterion, loss = build_loss("cross_entropy", {}), float("inf")
    for _ in range(120):
        optimizer.zero_grad()
        value = event_losses(criterion, built.train()(*events), labels).mean()
        torch.autograd.backward(value)
        optimizer.step()
        loss = value.item()
        if loss < 0.4:  # guessing costs ln 2 = 0.69
            break
    assert loss < 0.4


@pytest.mark.filterwarnings("ignore:The tensor attributes self.recurrent._flat_weights:UserWarning")
def test_can_be_exported(case: Case, built: Model) -> None:
    built.eval()
    events = case.events(2)
    exported = torch.export.export(built, events)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*events), built(*events), rtol=1e-4, atol=1e-5)


def test_refuses_events_without_its_columns(case: Case) -> None:
    with raises(InvalidConfig, "odd"):
        build_model(
            case.name, MODELS[case.name].example, schema_of((Column(name="odd", shape=(2, 2, 2, 2)),))
        )


def test_refuses_unknown_fields(case: Case) -> None:
    with raises(InvalidConfig, case.name, "'nothing'"):
        build_model(case.name, {"nothing": 3}, schema_of(case.columns))


def test_its_fields_are_parameters_of_a_search(case: Case) -> None:
    readable = keys_read({"model": case.name})
    assert set(MODELS[case.name].config.model_fields) <= set(readable)
    assert not set(MODELS[case.name].config.model_fields) & set(REGISTRIES)


def image_models() -> list[str]:
    return [name for name in MODELS if issubclass(MODELS[name].config, ImageConfig)]


@pytest.mark.parametrize("name", image_models())
class TestImageModels:
    """What models of a single image promise beside."""

    def test_takes_the_only_image(self, name: str) -> None:
        assert case_of(name).build().columns == ("image",)

    def test_scale_and_log1p_are_functions_of_each_pixel(self, name: str) -> None:
        plain = case_of(name).build().eval()
        values = {"input_scale": 100, "input_transform": "log1p", **MODELS[name].example}
        transformed = build_model(name, values, schema_of(IMAGE)).eval()
        transformed.load_state_dict(plain.state_dict())
        signed = 1000 * (case_of(name).events(1)[0] - 0.5)
        by_hand = torch.where(
            signed < 0, -torch.log(1 - signed.clamp_max(0) / 100), torch.log(1 + signed.clamp_min(0) / 100)
        )
        with torch.no_grad():
            torch.testing.assert_close(transformed(signed), plain(by_hand), rtol=1e-4, atol=1e-4)

    def test_refuses_a_batch_of_another_shape(self, name: str) -> None:
        with raises(InvalidEvents, "'image'", "(N, 32, 32, 3)", "(2, 32, 20, 3)"):
            case_of(name).build()(torch.zeros(2, 32, 20, 3))

    @pytest.mark.parametrize(
        ("columns", "names"),
        [
            (
                (Column(name="pt"), Column(name="tracks", shape=(15, 5))),
                ("pt ()", "tracks (15, 5)"),
            ),
            (
                (Column(name="near", shape=(32, 32, 3)), Column(name="far", shape=(32, 32, 3))),
                ("near (32, 32, 3)", "far (32, 32, 3)"),
            ),
        ],
    )
    def test_needs_exactly_one_image(
        self, name: str, columns: tuple[Column, ...], names: tuple[str, ...]
    ) -> None:
        with raises(InvalidConfig, *names):
            build_model(name, MODELS[name].example, schema_of(columns))

    @pytest.mark.parametrize("size", [(1, 1), (2, 9), (16, 7)])
    def test_an_image_is_taken_or_refused_by_name(self, name: str, size: tuple[int, int]) -> None:
        schema = schema_of((Column(name="image", shape=(*size, 3)),))
        small = rf"'image' of {size[0]}x{size[1]} are too small"
        built = None
        try:
            built = build_model(name, MODELS[name].example, schema).eval()
        except InvalidConfig as fault:
            refusal = str(fault)
        if built is None:
            assert small in refusal
        else:
            with torch.no_grad():
                assert torch.isfinite(built(torch.rand(2, *size, 3))).all()


def test_a_frozen_network_stays_as_it_was_learnt() -> None:
    case = case_of("pretrained_resnet34")
    built = case.build()
    before = copy.deepcopy(built.state_dict())
    trained = [parameter for parameter in built.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    built.train()
    built(*case.events(4)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in built.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.weight", "head.bias"}
    assert sum(parameter.numel() for parameter in trained) == 1000 * 2 + 2

    tuned = build_model("pretrained_resnet34", {"weights": "random", "frozen": False}, schema_of(IMAGE))
    assert all(parameter.requires_grad for parameter in tuned.parameters())


def test_pretrained_weights_come_from_a_file_or_not_at_all(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with raises(InvalidConfig, "resnet34-b627a593.pth", "weights='random'"):
        build_model("pretrained_resnet34", {}, schema_of(IMAGE))
    learnt = torchvision.models.resnet34(weights=None)
    path = tmp_path / "mine.pth"
    torch.save(learnt.state_dict(), path)
    built = build_model("pretrained_resnet34", {"weights": str(path)}, schema_of(IMAGE))
    assert torch.equal(built.state_dict()["backbone.conv1.weight"], learnt.conv1.weight)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    path.rename(tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth")
    cached = build_model("pretrained_resnet34", {}, schema_of(IMAGE))
    assert torch.equal(cached.state_dict()["backbone.fc.bias"], learnt.fc.bias)
    with raises(InvalidConfig, "resnet34-b627a593.pth", "ResNet"):
        build_model(
            "pretrained_resnet50",
            {"weights": str(tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth")},
            schema_of(IMAGE),
        )


def test_bilinear_features_are_those_of_vgg16(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import torchvision

    learnt = torchvision.models.vgg16_bn(weights=None, init_weights=False)
    torch.save(learnt.state_dict(), tmp_path / "vgg.pth")
    built = build_model("bilinear_cnn", {"weights": str(tmp_path / "vgg.pth")}, schema_of(IMAGE))
    for key, value in learnt.features.state_dict().items():
        assert torch.equal(built.state_dict()[f"vgg.features.{key}"], value)


@pytest.mark.parametrize(
    ("parts", "columns"),
    [
        ("scalars", ("scalars",)),
        ("tracks+fine_image", ("em1_image", "tracks")),
        ("fine_image+layer_images+tracks+scalars", ("em1_image", "layer_images", "tracks", "scalars")),
    ],
)
def test_each_part_of_an_electron_can_be_removed(parts: str, columns: tuple[str, ...]) -> None:
    assert build_model("electron_id", {"parts": parts}, schema_of(ELECTRON)).columns == columns


def test_electron_refusals() -> None:
    with raises(InvalidConfig, "'muons'", "fine_image, layer_images, tracks, scalars"):
        build_model("electron_id", {"parts": "muons"}, schema_of(ELECTRON))
    with raises(InvalidConfig, "tracks", "'scalars'", "(15,)"):
        build_model("electron_id", {"tracks": "scalars"}, schema_of(ELECTRON))


def test_features_are_chosen_by_name() -> None:
    schema = schema_of((*FEATURES, Column(name="tracks", shape=(15, 5))))
    sizes = {"all": 9, "low_level": 8, "mass+tracks": 76}
    for inputs, size in sizes.items():
        built = build_model("mlp", {"inputs": inputs, "hidden_layers": 0}, schema)
        assert sum(parameter.numel() for parameter in built.parameters()) == 2 * size + 2
    with raises(InvalidConfig, "'weight'"):
        build_model("mlp", {"inputs": "weight"}, schema)


def test_what_moves_a_network_s_answer_is_finite_for_each_of_its_inputs(trained: Case) -> None:
    schema, model = schema_of(trained.columns), trained.build()
    dense = {
        name: values.numpy() for name, values in zip(columns_of(trained), trained.events(4), strict=True)
    }
    inputs = {
        name: ListColumn.from_dense(values, schema.column(name).shape)
        if schema.column(name).lists
        else values
        for name, values in dense.items()
    }
    found = integrated_gradients(
        model, build_loss("cross_entropy", {}), Events(inputs, np.arange(4) % 2), schema, steps=2
    )
    assert all(math.isfinite(one.size) for one in found.contributions)
    assert max(one.size for one in found.contributions) > 0
    assert set(found.maps) == {name for name in columns_of(trained) if is_image(schema.column(name))}
