"""Every registered model keeps the contract; those of the thesis have the sizes computed by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from hep_ray.errors import InvalidConfig, InvalidEvents, UnknownName
from hep_ray.models import MODELS, Model, build_model
from hep_ray.models.image import output_size


@dataclass(frozen=True)
class FakeColumn:
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FakeSchema:
    classes: tuple[str, ...] = ("m8", "m12")
    columns: tuple[FakeColumn, ...] = (FakeColumn("missing_pt", ()), FakeColumn("image", (50, 50, 3)))


SCHEMA = FakeSchema()


def schema_of(height: int, width: int, channels: int = 3) -> FakeSchema:
    return FakeSchema(columns=(FakeColumn("image", (height, width, channels)),))


def energies(events: int, height: int = 50, width: int = 50, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(events, height, width, channels, generator=generator)


@pytest.fixture(scope="module", params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def built(name: str) -> Model:
    torch.manual_seed(0)
    return build_model(name, {}, SCHEMA)


class TestContract:
    def test_reads_columns_of_the_schema(self, built: Model):
        assert set(built.columns) <= {column.name for column in SCHEMA.columns}
        assert built.columns == ("image",)

    @pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c", "d", "e", "f")])
    def test_one_logit_per_class(self, name: str, classes: tuple[str, ...]):
        built = build_model(name, {}, FakeSchema(classes=classes)).eval()
        with torch.no_grad():
            assert built(energies(2)).shape == (2, len(classes))

    def test_gradient_reaches_every_parameter(self, name: str):
        built = build_model(name, {}, SCHEMA)
        built(energies(2)).square().sum().backward()
        for parameter_name, parameter in built.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name

    def test_events_do_not_see_each_other_in_evaluation(self, built: Model):
        built.eval()
        images = energies(3)
        with torch.no_grad():
            together = built(images)
            alone = torch.cat([built(image.unsqueeze(0)) for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_every_axis_of_the_image_matters(self, built: Model):
        built.eval()
        images = energies(1)
        with torch.no_grad():
            reference = built(images)
            for axis in (1, 2, 3):
                assert not torch.allclose(reference, built(images.flip(axis)))

    def test_the_seed_decides_the_weights(self, name: str, built: Model):
        torch.manual_seed(0)
        again = build_model(name, {}, SCHEMA).state_dict()
        first = built.state_dict()
        assert again.keys() == first.keys()
        assert all(torch.equal(again[key], first[key]) for key in first if "running" not in key)

    def test_state_dict_carries_the_whole_model(self, name: str, built: Model):
        torch.manual_seed(1)
        other = build_model(name, {}, SCHEMA)
        other.load_state_dict(built.state_dict())
        built.eval()
        other.eval()
        images = energies(2)
        with torch.no_grad():
            assert torch.equal(built(images), other(images))

    def test_integer_images_are_read_as_numbers(self, built: Model):
        built.eval()
        counts = torch.randint(0, 200, (1, 50, 50, 3))
        with torch.no_grad():
            assert torch.equal(built(counts.to(torch.uint8)), built(counts.float()))

    def test_scale_and_log1p_are_functions_of_each_pixel(self, name: str, built: Model):
        values = {"input_scale": 100, "input_transform": "log1p"}
        transformed = build_model(name, values, SCHEMA).eval()
        transformed.load_state_dict(built.state_dict())
        built.eval()
        signed = 1000 * (energies(1) - 0.5)
        by_hand = torch.where(
            signed < 0, -torch.log(1 - signed.clamp_max(0) / 100), torch.log(1 + signed.clamp_min(0) / 100)
        )
        with torch.no_grad():
            torch.testing.assert_close(transformed(signed), built(by_hand), rtol=1e-4, atol=1e-4)

    def test_refuses_a_batch_of_another_shape(self, built: Model):
        with pytest.raises(
            InvalidEvents, match=r"'image' must be of shape \(N, 50, 50, 3\); got \(2, 50, 40, 3\)"
        ):
            built(energies(2, 50, 40))

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ((), "got 0 among: no columns"),
            (
                (FakeColumn("pt", ()), FakeColumn("tracks", (15, 5))),
                r"got 0 among: pt \(\), tracks \(15, 5\)",
            ),
            ((FakeColumn("near", (50, 50, 3)), FakeColumn("far", (50, 50, 3))), "got 2 among: near"),
        ],
    )
    def test_needs_exactly_one_image(self, name: str, columns: tuple[FakeColumn, ...], message: str):
        with pytest.raises(InvalidConfig, match=message):
            build_model(name, {}, FakeSchema(columns=columns))

    def test_refuses_unknown_fields(self, name: str):
        with pytest.raises(InvalidConfig, match=f"model '{name}': unknown key 'depth'"):
            build_model(name, {"depth": 3}, SCHEMA)


def parameters(built: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in built.parameters())


def conv(channels_in: int, channels_out: int, kernel: int) -> int:
    """Parameters of a convolution with bias."""
    return channels_out * (channels_in * kernel**2 + 1)


def normalised(channels_in: int, channels_out: int, kernel: int) -> int:
    """Parameters of a convolution with bias and of the scale and shift that normalise it."""
    return conv(channels_in, channels_out, kernel) + 2 * channels_out


def linear(features_in: int, features_out: int) -> int:
    return features_out * (features_in + 1)


def bottlenecks(depths: tuple[int, ...]) -> int:
    total, channels_in = 0, 64
    for width, depth in zip((64, 128, 256, 512), depths, strict=True):
        total += normalised(channels_in, 4 * width, 1)  # the shortcut of the stage's first block
        for _ in range(depth):
            total += normalised(channels_in, width, 1) + normalised(width, width, 3)
            total += normalised(width, 4 * width, 1)
            channels_in = 4 * width
    return total


CNN = conv(3, 16, 3) + conv(16, 64, 3) + conv(64, 256, 3) + linear(2304, 1000) + linear(1000, 2)
RESNET34 = (
    normalised(3, 64, 7)
    + 3 * 2 * normalised(64, 64, 3)
    + (normalised(64, 128, 3) + 7 * normalised(128, 128, 3) + normalised(64, 128, 1))
    + (normalised(128, 256, 3) + 11 * normalised(256, 256, 3) + normalised(128, 256, 1))
    + (normalised(256, 512, 3) + 5 * normalised(512, 512, 3) + normalised(256, 512, 1))
    + linear(2048, 2)
)
BOTTLENECK_HEAD = normalised(3, 64, 7) + linear(2048, 1000) + linear(1000, 2)


class TestSizes:
    @pytest.mark.parametrize(
        ("model_name", "by_formula", "by_hand"),
        [
            # 448 + 9,280 + 147,712 convolutions; 2,305,000 + 2,002 linear.
            ("cnn", CNN, 2_464_442),
            # The published counts for 1000 ImageNet classes, whose convolutions have no bias, are
            # 21,797,672, 25,557,032 and 44,549,160. ResNet34 loses its classifier (512·1000 + 1000), gains
            # 64 + 6·64 + 9·128 + 13·256 + 7·512 = 8,512 biases and 2048·2 + 2 = 4,098.
            ("resnet34", RESNET34, 21_797_672 - 513_000 + 8_512 + 4_098),
            # Biases: 64 + (3·384 + 256) + (4·768 + 512) + (6·1536 + 1024) + (3·3072 + 2048) = 26,560; the
            # 1000-way classifier stays, 1000·2 + 2 is added. ResNet101 has 17·1536 = 26,112 biases more.
            ("resnet50", bottlenecks((3, 4, 6, 3)) + BOTTLENECK_HEAD, 25_557_032 + 26_560 + 2_002),
            ("resnet101", bottlenecks((3, 4, 23, 3)) + BOTTLENECK_HEAD, 44_549_160 + 52_672 + 2_002),
        ],
    )
    def test_parameters(self, model_name: str, by_formula: int, by_hand: int):
        assert parameters(build_model(model_name, {}, SCHEMA)) == by_formula == by_hand

    @pytest.mark.parametrize(
        ("model_name", "expected"),
        [
            # Outputs of the layers that change the size, from 50: 48/24, 22/11, 9/3 without padding.
            ("cnn", [(16, 48), (16, 24), (64, 22), (64, 11), (256, 9), (256, 3)]),
            # 7x7/2 with padding 3: 25; pool 2/2: 12; then 12, 6, 3, 2.
            ("resnet34", [(64, 25), (64, 12), (64, 12), (128, 6), (256, 3), (512, 2)]),
            # 7x7/2 with padding 3: 25; pool 3/2 with padding 1: 13; then 13, 7, 4, 2.
            ("resnet50", [(64, 25), (64, 13), (256, 13), (512, 7), (1024, 4), (2048, 2)]),
            ("resnet101", [(64, 25), (64, 13), (256, 13), (512, 7), (1024, 4), (2048, 2)]),
        ],
    )
    def test_maps(self, model_name: str, expected: list[tuple[int, int]]):
        built = build_model(model_name, {}, SCHEMA).eval()
        seen: list[tuple[int, int]] = []

        def record(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
            if output.ndim == 4:
                assert output.shape[2] == output.shape[3]
                seen.append((output.shape[1], output.shape[2]))

        for module in built.modules():
            module.register_forward_hook(record)
        with torch.no_grad():
            built(energies(1))
        # Every legend line is met, in order.
        remaining = iter(seen)
        assert all(maps in remaining for maps in expected)

    @pytest.mark.parametrize(
        ("height", "width", "features"),
        [
            (50, 50, 256 * 3 * 3),
            (30, 30, 256 * 1 * 1),  # 30 → 28 → 14 → 12 → 6 → 4 → 1
            (64, 40, 256 * 4 * 2),  # 64 → 62 → 31 → 29 → 14 → 12 → 4; 40 → 38 → 19 → 17 → 8 → 6 → 2
        ],
    )
    def test_cnn_adapts_to_the_image(self, height: int, width: int, features: int):
        built = build_model("cnn", {}, schema_of(height, width))
        assert parameters(built) == CNN + 1000 * (features - 2304)
        assert built(energies(2, height, width)).shape == (2, 2)

    def test_resnet34_adapts_to_the_image(self):
        built = build_model("resnet34", {}, schema_of(64, 33, channels=1)).eval()
        # 64 → 32 → 16 → 8 → 4 → 2 and 33 → 17 → 8 → 4 → 2 → 1
        assert parameters(built) == RESNET34 - 2 * 49 * 64 + 2 * 512 * (2 * 1 - 4)
        assert built(energies(2, 64, 33, 1)).shape == (2, 2)

    @pytest.mark.parametrize(("model_name", "smallest"), [("cnn", 26), ("resnet34", 3)])
    def test_too_small_an_image_is_refused(self, model_name: str, smallest: int):
        build_model(model_name, {}, schema_of(smallest, smallest))
        with pytest.raises(InvalidConfig, match=f"'image' of 50x{smallest - 1} are too small"):
            build_model(model_name, {}, schema_of(50, smallest - 1))

    def test_output_size_agrees_with_torch(self):
        for side in range(9, 40):
            for kernel, stride, padding in ((3, 1, 0), (7, 2, 3), (3, 2, 1), (2, 2, 0), (3, 3, 0)):
                layer = torch.nn.Conv2d(1, 1, kernel, stride, padding)
                shape = layer(torch.zeros(1, 1, side, side + 1)).shape
                assert output_size((side, side + 1), kernel, stride, padding) == tuple(shape[2:])


class TestCnn:
    @pytest.mark.parametrize(
        ("values", "pixel"),
        [
            ({}, 6.0),
            ({"input_scale": 2}, 3.0),
            ({"input_transform": "log1p"}, math.log(7.0)),
            ({"input_scale": 2, "input_transform": "log1p"}, math.log(4.0)),
        ],
    )
    def test_golden_logits(self, values: dict[str, object], pixel: float):
        # Every layer averages its inputs, so a uniform image of 6 in each channel stays what the transform
        # makes of a 6 up to the hidden features; the two logits then sum the 1000 features with weights
        # 1/1000 and 2/1000.
        built = build_model("cnn", values, SCHEMA).eval()
        with torch.no_grad():
            for module in built.modules():
                if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                    module.weight.fill_(1 / module.weight[0].numel())
                    module.bias.zero_()
            output = [m for m in built.modules() if isinstance(m, torch.nn.Linear)][-1]
            output.weight[1] *= 2
            logits = built(torch.full((1, 50, 50, 3), 6.0))
        torch.testing.assert_close(logits, torch.tensor([[pixel, 2 * pixel]]), rtol=1e-4, atol=1e-4)

    def test_dropout_acts_in_training_only(self):
        built = build_model("cnn", {"dropout": 0.5}, SCHEMA)
        images = energies(1)
        with torch.no_grad():
            assert not torch.equal(built(images), built(images))
            built.eval()
            assert torch.equal(built(images), built(images))

    @pytest.mark.parametrize("dropout", [-0.1, 1.0])
    def test_dropout_is_a_probability_below_one(self, dropout: float):
        with pytest.raises(InvalidConfig, match=f"dropout: .*got {dropout}"):
            build_model("cnn", {"dropout": dropout}, SCHEMA)


@pytest.mark.parametrize("values", [{"input_scale": 0}, {"input_scale": -1}, {"input_transform": "sqrt"}])
def test_refuses_transforms_that_are_none(values: dict[str, object]):
    with pytest.raises(InvalidConfig, match=f"model 'cnn': {next(iter(values))}: "):
        build_model("cnn", values, SCHEMA)


def test_an_unknown_model_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown model 'resnet43' \(did you mean 'resnet34'\?\)"):
        build_model("resnet43", {}, SCHEMA)
