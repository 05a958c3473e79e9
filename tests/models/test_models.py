"""Sizes of published networks, computed by hand; the contract of all models is in test_contract.py."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hep_ray.errors import InvalidConfig, UnknownName
from hep_ray.models import build_model
from hep_ray.models.image import output_size
from tests.facts import raises


@dataclass(frozen=True)
class FakeColumn:
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FakeSchema:
    classes: tuple[str, ...] = ("m8", "m12")
    columns: tuple[FakeColumn, ...] = (FakeColumn("missing_pt", ()), FakeColumn("image", (50, 50, 3)))

    @property
    def inputs(self) -> tuple[FakeColumn, ...]:
        return self.columns


SCHEMA = FakeSchema()


def schema_of(height: int, width: int, channels: int = 3) -> FakeSchema:
    return FakeSchema(columns=(FakeColumn("image", (height, width, channels)),))


def energies(events: int, height: int = 50, width: int = 50, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(events, height, width, channels, generator=generator)


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
BOTTLENECK_HEAD = normalised(3, 64, 7) - 64 + linear(2048, 1000) + linear(1000, 2)  # a stem without bias


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
            # Biases: (3·384 + 256) + (4·768 + 512) + (6·1536 + 1024) + (3·3072 + 2048) = 26,496; the
            # 1000-way classifier stays, 1000·2 + 2 is added. ResNet101 has 17·1536 = 26,112 biases more.
            ("resnet50", bottlenecks((3, 4, 6, 3)) + BOTTLENECK_HEAD, 25_557_032 + 26_496 + 2_002),
            ("resnet101", bottlenecks((3, 4, 23, 3)) + BOTTLENECK_HEAD, 44_549_160 + 52_608 + 2_002),
        ],
    )
    def test_parameters(self, model_name: str, by_formula: int, by_hand: int):
        assert parameters(build_model(model_name, {}, SCHEMA)) == by_formula == by_hand

    def test_weights_saved_with_a_bias_in_the_stem_give_the_same_outputs(self):
        """The bias is folded into the running mean that the normalisation subtracts."""
        network = build_model("resnet50", {}, SCHEMA).eval()
        images = torch.rand(2, 50, 50, 3)
        saved = {name: values.clone() for name, values in network.state_dict().items()}
        bias = torch.linspace(-1, 1, 64)
        saved["stem.0.0.bias"] = bias
        saved["stem.0.1.running_mean"] += bias  # what a network with this bias would have averaged
        again = build_model("resnet50", {}, SCHEMA).eval()
        again.load_state_dict(saved)
        assert torch.allclose(again(images), network(images), atol=1e-4)

    @pytest.mark.parametrize(
        ("model_name", "values", "shape", "by_hand"),
        [
            # 16-16: 18*16+16 = 304, 16*16+16 = 272, 16*2+2 = 34.
            ("mlp", {"hidden_layers": 2, "hidden_features": 16}, (18,), 610),
            # 5x300: 18*300+300 = 5,700, four times 300*300+300 = 90,300, 300*2+2 = 602.
            ("mlp", {"hidden_layers": 5, "hidden_features": 300}, (18,), 367_502),
            # At 16x16x2: 608 + 9,248 + 18,496 + 36,928 convolutions; 256*512+512 = 131,584; 1,026.
            ("object_cnn", {}, (16, 16, 2), 197_890),
            # Wide: 608 + 18,496 + 36,928 + 73,856; 512*512+512 = 262,656; 1,026.
            ("object_cnn", {"wide": True}, (16, 16, 2), 393_570),
            # The published 11,689,512 for 1000 classes, whose classifier has 513,000; ours 512*2 + 2.
            ("resnet18", {"stem": "large"}, (50, 50, 3), 11_689_512 - 513_000 + 1_026),
            # torchvision's VGG16-BN has 14,723,136 outside its classifier (138,365,992 - 123,642,856).
            ("bilinear_cnn", {}, (30, 30, 1), 14_723_136 + 2 * 512**2 + 2),
            # The published count, its 1000-way classifier kept, and the added layer's 1000*2 + 2.
            ("pretrained_resnet50", {"weights": "random"}, (50, 50, 3), 25_557_032 + 2_002),
        ],
    )
    def test_published_networks(
        self, model_name: str, values: dict[str, object], shape: tuple[int, ...], by_hand: int
    ):
        schema = FakeSchema(columns=(FakeColumn("image", shape),))
        assert parameters(build_model(model_name, values, schema)) == by_hand

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
        with raises(InvalidConfig, "'image'", f"50x{smallest - 1}"):
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
            ({"input_scale": 2, "input_transform": "fraction"}, 1 / 7500),  # of 50·50·3 equal ones
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
        with raises(InvalidConfig, "dropout", dropout):
            build_model("cnn", {"dropout": dropout}, SCHEMA)


def test_fractions_know_no_scale_and_leave_an_empty_image_empty():
    built = build_model("cnn", {"input_transform": "fraction"}, SCHEMA)
    images = torch.cat([energies(2), torch.zeros(1, 50, 50, 3)])
    shares = built.image(images)
    torch.testing.assert_close(built.image(1000 * images), shares)
    torch.testing.assert_close(shares.sum(dim=(1, 2, 3)), torch.tensor([1.0, 1.0, 0.0]))


def test_one_output_is_the_logit_of_the_second_of_two_classes():
    columns = (FakeColumn("x", (4,)),)
    built = build_model("mlp", {"single_output": True}, FakeSchema(columns=columns))
    features = torch.linspace(-2, 2, 12).reshape(3, 4)
    logits = built(features)
    assert logits.shape == (3, 2)
    torch.testing.assert_close(logits.softmax(1)[:, 1], built.layers(features)[:, 0].sigmoid())
    with raises(InvalidConfig, "single_output", 3):
        build_model("mlp", {"single_output": True}, FakeSchema(("a", "b", "c"), columns))


def test_dropout_of_the_last_hidden_layer_alone():
    schema = FakeSchema(columns=(FakeColumn("x", (4,)),))
    for which, expected in (("all", 3), ("last", 1)):
        built = build_model("mlp", {"dropout": 0.5, "dropout_layers": which, "hidden_layers": 3}, schema)
        places = [place for place, one in enumerate(built.layers) if isinstance(one, torch.nn.Dropout)]
        assert len(places) == expected
        assert isinstance(built.layers[places[-1] + 1], torch.nn.Linear)
        assert places[-1] == len(built.layers) - 2


def test_streams_are_pooled_before_their_product_or_after():
    schema = schema_of(32, 32, channels=1)
    torch.manual_seed(0)
    products = build_model("bilinear_cnn", {"pooling": "products"}, schema).eval()
    streams = build_model("bilinear_cnn", {"pooling": "streams"}, schema).eval()
    streams.load_state_dict(products.state_dict())
    images = energies(1, 32, 32, 1)
    with torch.no_grad():
        maps = products.vgg["features"](images.permute(0, 3, 1, 2).repeat(1, 3, 1, 1))[0].flatten(
            1
        )  # (512, 4)
        assert maps.shape == (512, 4)
        mean = maps.mean(1)
        for built, product in ((products, maps @ maps.T / 4), (streams, torch.outer(mean, mean))):
            roots = product.flatten().sqrt()
            logits = built.classifier(roots / roots.norm())
            torch.testing.assert_close(built(images)[0], logits, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(products(images), streams(images))
        for built in (products, streams):
            built.image.size = (30, 30)
        small = energies(1, 30, 30, 1)  # one place is left
        torch.testing.assert_close(products(small), streams(small))


def test_widths_of_the_object_network_are_stated_once():
    with raises(InvalidConfig, "wide", 48):
        build_model("object_cnn", {"wide": True, "second_features": 48}, schema_of(16, 16, 2))


def test_dropout_of_the_object_network_by_stage():
    values = {"image_dropout": 0.5, "second_image_dropout": 0.25, "dropout": 0.4}
    rates = {}
    for given in (values, {"image_dropout": 0.3, "dropout": 0.4}):
        built = build_model("object_cnn", given, schema_of(16, 16, 2))
        rates[len(given)] = [one.p for one in built.modules() if isinstance(one, torch.nn.Dropout)]
    assert rates == {3: [0.5, 0.25, 0.4], 2: [0.3, 0.3, 0.4]}


@pytest.mark.parametrize("values", [{"input_scale": 0}, {"input_scale": -1}, {"input_transform": "sqrt"}])
def test_refuses_transforms_that_are_none(values: dict[str, object]):
    with raises(InvalidConfig, *values):
        build_model("cnn", values, SCHEMA)


def rectified_before_pooled(built: nn.Module) -> int:
    """Give every maximum and ReLU that follow each other the order of the documents; return how many did."""
    pairs = 0
    for module in built.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for place, (first, second) in enumerate(itertools.pairwise(list(module))):
            if isinstance(first, nn.MaxPool2d | nn.MaxPool3d) and isinstance(second, nn.ReLU):
                module[place], module[place + 1] = second, first
                pairs += 1
    return pairs


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        *(("cnn", 3), ("deep_cnn", 3), ("object_cnn", 2), ("coordconv", 2)),
        *(("cnn_rnn", 1), ("conv3d", 2), ("resnet34", 1), ("resnet50", 1)),
    ],
)
def test_pooling_before_the_relu_changes_no_bit(name: str, pairs: int, half: bool):
    ours = build_model(name, {}, SCHEMA)
    documents = copy.deepcopy(ours)
    assert rectified_before_pooled(documents) == pairs
    images = torch.where(
        energies(4) > 0.9, energies(4), 0.0
    )  # sparse, so that many pixels of a map are alike
    results = []
    for one in (ours, documents):
        torch.manual_seed(0)  # of dropout
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = one(images)
        logits.float().square().sum().backward()
        results.append([logits.detach(), *(one.grad for one in one.parameters())])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


def test_an_unknown_model_is_named_with_the_nearest():
    with raises(UnknownName, "'resnet43'", "'resnet34'"):
        build_model("resnet43", {}, SCHEMA)
