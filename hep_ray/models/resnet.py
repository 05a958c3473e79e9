"""Residual networks (He et al., arXiv:1512.03385) in the variants of the HVL thesis.

`resnet34`, `resnet50` and `resnet101`, shapes at 50x50x3 (N events, channels x H x W):

                 resnet34                          resnet50, resnet101
    image           3 x 50 x 50                       3 x 50 x 50
    stem 7x7/2     64 x 25 x 25                      64 x 25 x 25
    max-pool       64 x 12 x 12   (2/2)              64 x 13 x 13   (3/2, padding 1)
    stage 1        64 x 12 x 12                     256 x 13 x 13
    stage 2       128 x  6 x  6                     512 x  7 x  7
    stage 3       256 x  3 x  3                    1024 x  4 x  4
    stage 4       512 x  2 x  2                    2048 x  2 x  2
    head          flatten 2048, linear             average to 2048, linear 1000, linear

Departures from He et al. are the thesis' own: every convolution but the deeper ones' first (listing A.5) carries a bias
although batch normalisation follows it, resnet34 flattens its last maps instead of averaging them, and the deeper ones
have a second linear layer. Shortcuts that change shape are 1x1 convolutions with batch normalisation;
a bottleneck's stride is in its 3x3 convolution.

`resnet18`, of torchvision with a stem that suits the image, is the network of the follow-up on six classes of black
holes and sphalerons (Grefsrud et al., arXiv:2310.15227):

    image                       3 x 50 x 50
    stem `large`: 7x7/2, pool  64 x 13 x 13      stem `small`: 3x3    64 x 50 x 50
    stage 1                    64 x 13 x 13                           64 x 50 x 50
    stages 2, 3, 4            128 x 7, 256 x 4, 512 x 2              128 x 25, 256 x 13, 512 x 7
    average                   512
    linear                    n_classes

`wide_resnet` (Zagoruyko and Komodakis, arXiv:1605.07146) of torchvision's bottlenecks, 2 blocks per stage:

    image                  3 x 50 x 50
    stem 7x7/2, pool      64 x 13 x 13
    stages 1 to 4        256 x 13, 512 x 7, 1024 x 4, 2048 x 2
    average             2048
    linear              n_classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageInput, ImageModel, flat_features, output_size

if TYPE_CHECKING:
    from torchvision.models import ResNet

STEM_CHANNELS = 64
STAGE_WIDTHS = (64, 128, 256, 512)
BOTTLENECK_EXPANSION = 4
HIDDEN_FEATURES = 1000


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)).

    Args:
        branch: layers from `channels_in` to `channels_out`, whose first dimension change is by `stride`.
        channels_in: channels of x.
        channels_out: channels of the result.
        stride: reduction of height and width.
    """

    def __init__(self, branch: nn.Module, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = convolution(channels_in, channels_out, kernel=1, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, channels_out, H/stride, W/stride) of maps (N, channels_in, H, W)."""
        return relu(self.branch(features) + self.shortcut(features), inplace=True)


def convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, bias: bool = True
) -> nn.Sequential:
    """A convolution, padded to keep the size at stride 1, and its batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(channels_out),
    )


def basic_block(channels_in: int, width: int, stride: int) -> tuple[Residual, int]:
    """Two 3x3 convolutions; returns the block and its number of output channels."""
    branch = nn.Sequential(
        convolution(channels_in, width, 3, stride),
        nn.ReLU(inplace=True),
        convolution(width, width, 3),
    )
    return Residual(branch, channels_in, width, stride), width


def bottleneck_block(channels_in: int, width: int, stride: int) -> tuple[Residual, int]:
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide; returns block and output channels."""
    channels_out = width * BOTTLENECK_EXPANSION
    branch = nn.Sequential(
        convolution(channels_in, width, 1),
        nn.ReLU(inplace=True),
        convolution(width, width, 3, stride),
        nn.ReLU(inplace=True),
        convolution(width, channels_out, 1),
    )
    return Residual(branch, channels_in, channels_out, stride), channels_out


def residual_stages(
    block: Callable[[int, int, int], tuple[Residual, int]], depths: tuple[int, int, int, int]
) -> tuple[nn.Sequential, int]:
    """Four stages of `depths` blocks, each but the first halving the image, and their output channels."""
    blocks: list[nn.Module] = []
    channels = STEM_CHANNELS
    for stage, (width, depth) in enumerate(zip(STAGE_WIDTHS, depths, strict=True)):
        for position in range(depth):
            stride = 2 if stage > 0 and position == 0 else 1
            residual, channels = block(channels, width, stride)
            blocks.append(residual)
    return nn.Sequential(*blocks), channels


@model("resnet34", ImageConfig)
class ResNet34(ImageModel):
    """Basic blocks 3, 4, 6, 3; the last maps are flattened, not averaged.

    It takes one image of at least 3x3 pixels.
    """

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.stem = nn.Sequential(
            convolution(self.image.channels, STEM_CHANNELS, 7, stride=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )
        self.stages, channels = residual_stages(basic_block, (3, 4, 6, 3))
        size = output_size(self.image.size, kernel=7, stride=2, padding=3)
        size = output_size(size, kernel=2, stride=2)
        for _ in STAGE_WIDTHS[1:]:
            size = output_size(size, kernel=3, stride=2, padding=1)
        features = flat_features("resnet34", channels, size, self.image)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, len(schema.classes)))


class BottleneckResNet(ImageModel):
    """Bottleneck blocks, average pooling and two linear layers; the first convolution has no bias (listing A.5)."""

    def __init__(self, config: ImageConfig, schema: SchemaLike, depths: tuple[int, int, int, int]) -> None:
        super().__init__(config, schema)
        self.stem = nn.Sequential(
            convolution(self.image.channels, STEM_CHANNELS, 7, stride=2, bias=False),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.stages, channels = residual_stages(bottleneck_block, depths)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, HIDDEN_FEATURES),
            nn.Linear(HIDDEN_FEATURES, len(schema.classes)),
        )
        self.register_load_state_dict_pre_hook(_without_stem_bias)  # type: ignore[no-untyped-call]


def _without_stem_bias(_module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Fold the bias of weights saved when the first convolution had one into the normalisation behind it."""
    bias = state.pop(f"{prefix}stem.0.0.bias", None)
    if bias is not None:
        state[f"{prefix}stem.0.1.running_mean"] = state[f"{prefix}stem.0.1.running_mean"] - bias


@model("resnet50", ImageConfig)
class ResNet50(BottleneckResNet):
    """Bottlenecks 3, 4, 6, 3."""

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema, depths=(3, 4, 6, 3))


@model("resnet101", ImageConfig)
class ResNet101(BottleneckResNet):
    """Bottlenecks 3, 4, 23, 3."""

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema, depths=(3, 4, 23, 3))


Stem = Literal["auto", "large", "small"]
LARGE_IMAGE = 40
"""Pixels of the shorter side from which an image bears the fourfold reduction of the large stem."""


def fit_stem(network: ResNet, image: ImageInput, stem: Stem) -> None:
    """Replace the first convolution by one of the image's channels, and drop the reduction where it is small."""
    small = stem == "small" or (stem == "auto" and min(image.size) < LARGE_IMAGE)
    width = network.conv1.out_channels
    kernel, stride = (3, 1) if small else (7, 2)
    network.conv1 = nn.Conv2d(image.channels, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        network.maxpool = nn.Identity()


class ResNet18Config(ImageConfig):
    """Configuration of `resnet18`.

    Attributes:
        stem: `large` reduces the image four times before the first stage; `small` leaves its size; `auto` is small
            below 40 pixels.
    """

    stem: Stem = "auto"


@model("resnet18", ResNet18Config)
class ResNet18(ImageModel):
    """Basic blocks 2, 2, 2, 2."""

    def __init__(self, config: ResNet18Config, schema: SchemaLike) -> None:
        from torchvision.models import resnet18  # with torch's compiler, which takes seconds

        super().__init__(config, schema)
        self.network = resnet18(weights=None, num_classes=len(schema.classes))
        fit_stem(self.network, self.image, config.stem)


BASE_WIDTH = 64


class WideResNetConfig(ImageConfig):
    """Configuration of `wide_resnet`.

    Attributes:
        stem: as of `resnet18`.
        widening: factor of the channels within a bottleneck; 2 is torchvision's `wide_resnet50_2`.
        blocks: bottlenecks in each of the four stages.
    """

    stem: Stem = "auto"
    widening: int = Field(default=2, ge=1)
    blocks: int = Field(default=2, ge=1)


@model("wide_resnet", WideResNetConfig)
class WideResNet(ImageModel):
    """Four stages of bottlenecks that are `widening` times as wide within."""

    def __init__(self, config: WideResNetConfig, schema: SchemaLike) -> None:
        from torchvision.models.resnet import Bottleneck, ResNet

        super().__init__(config, schema)
        self.network = ResNet(
            Bottleneck,
            [config.blocks] * 4,
            num_classes=len(schema.classes),
            width_per_group=BASE_WIDTH * config.widening,
        )
        fit_stem(self.network, self.image, config.stem)
