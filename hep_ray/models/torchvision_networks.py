"""Small forms of three networks of torchvision, for images smaller than photographs.

`convnext` (Liu et al., arXiv:2201.03545), narrow and with small patches.
Shapes at 50x50x3 (N events, channels x H x W), width 40, patches of 2, four stages:

    image          3 x 50 x 50
    patches       40 x 25 x 25
    stage 1       40 x 25 x 25
    stages 2-4    80 x 12, 160 x 6, 320 x 3
    average      320
    linear       n_classes

`densenet` (Huang et al., arXiv:1608.06993) with the stem of the paper's CIFAR networks.
Shapes at 50x50x3, growth 12, blocks of 6 layers:

    image             3 x 50 x 50
    conv 3x3         24 x 50 x 50
    dense block 1    96 x 50 x 50      halved    48 x 25 x 25
    dense block 2   120 x 25 x 25      halved    60 x 12 x 12
    dense block 3   132 x 12 x 12      average  132
    linear          n_classes

`vision_transformer` (Dosovitskiy et al., arXiv:2010.11929), small and of small patches.
Shapes at 50x50x3, patches of 5, 96 features:

    image                        3 x 50 x 50      padded with zeros to a square of whole patches
    patches                    100 x 96           and one class token, with learnt positions
    encoder, 4 layers          101 x 96
    linear, of the token       n_classes
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, check_size

DEPTHS = (2, 2, 6, 2)
WIDENING = 2
INITIAL_SPREAD = 0.02


class ConvNextConfig(ImageConfig):
    """Configuration of `convnext`.

    Attributes:
        width: channels of the first stage; each stage doubles them.
        stages: number of stages of depths 2, 2, 6, 2, each but the first halving the image.
        patch_size: pixels of a patch's side.
        stochastic_depth: probability of leaving out a block in training.
    """

    width: int = Field(default=40, ge=1)
    stages: int = Field(default=4, ge=1, le=4)
    patch_size: int = Field(default=2, ge=1)
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)


@model("convnext", ConvNextConfig)
class ConvNext(ImageModel):
    """Depthwise 7x7 convolutions and inverted bottlenecks.

    It takes one image, of at least 16x16 pixels by default.
    """

    def __init__(self, config: ConvNextConfig, schema: SchemaLike) -> None:
        from torchvision.models.convnext import (  # with torch's compiler, which takes seconds
            CNBlockConfig,
            ConvNeXt,
        )

        super().__init__(config, schema)
        side = config.patch_size * 2 ** (config.stages - 1)
        check_size("convnext", (self.image.size[0] // side, self.image.size[1] // side), self.image)
        widths = [config.width * 2**stage for stage in range(config.stages)]
        settings = [
            CNBlockConfig(width, following, depth)
            for width, following, depth in zip(widths, [*widths[1:], None], DEPTHS, strict=False)
        ]
        self.network = ConvNeXt(settings, config.stochastic_depth, num_classes=len(schema.classes))
        stem = nn.Conv2d(self.image.channels, config.width, config.patch_size, config.patch_size)
        nn.init.trunc_normal_(stem.weight, std=INITIAL_SPREAD)
        nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
        self.network.features[0][0] = stem


class DenseNetConfig(ImageConfig):
    """Configuration of `densenet`.

    Attributes:
        growth: channels that each layer adds.
        block_layers: layers of each of the three dense blocks.
        dropout: probability of zeroing an added channel's pixel.
    """

    growth: int = Field(default=12, ge=1)
    block_layers: int = Field(default=6, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@model("densenet", DenseNetConfig)
class DenseNet(ImageModel):
    """Three dense blocks; every layer sees all earlier ones of its block.

    It takes one image, of at least 4x4 pixels.
    """

    def __init__(self, config: DenseNetConfig, schema: SchemaLike) -> None:
        from torchvision import models

        super().__init__(config, schema)
        check_size("densenet", (self.image.size[0] // 4, self.image.size[1] // 4), self.image)
        self.network = models.DenseNet(
            growth_rate=config.growth,
            block_config=(config.block_layers,) * 3,
            num_init_features=2 * config.growth,
            drop_rate=config.dropout,
            num_classes=len(schema.classes),
        )
        stem = nn.Conv2d(self.image.channels, 2 * config.growth, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight)
        self.network.features.conv0 = stem
        self.network.features.pool0 = nn.Identity()


class VisionTransformerConfig(ImageConfig):
    """Configuration of `vision_transformer`.

    Attributes:
        patch_size: pixels of a patch's side.
        encoder_layers: number of encoder layers.
        heads: attention heads of each.
        token_features: width of a token; a multiple of the heads.
        dropout: probability of zeroing a feature.
    """

    patch_size: int = Field(default=5, ge=1)
    encoder_layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    token_features: int = Field(default=96, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.token_features % self.heads:
            raise ValueError(
                f"token_features must be a multiple of heads; got {self.token_features} of {self.heads}"
            )
        return self


@model("vision_transformer", VisionTransformerConfig)
class SmallVisionTransformer(ImageModel):
    """Patches of the image as tokens."""

    def __init__(self, config: VisionTransformerConfig, schema: SchemaLike) -> None:
        from torchvision.models import VisionTransformer

        super().__init__(config, schema)
        height, width = self.image.size
        side = -(-max(height, width) // config.patch_size) * config.patch_size
        self.padding = (0, side - width, 0, side - height)
        self.network = VisionTransformer(
            image_size=side,
            patch_size=config.patch_size,
            num_layers=config.encoder_layers,
            num_heads=config.heads,
            hidden_dim=config.token_features,
            mlp_dim=WIDENING * config.token_features,
            dropout=config.dropout,
            num_classes=len(schema.classes),
        )
        self.network.conv_proj = nn.Conv2d(
            self.image.channels, config.token_features, config.patch_size, config.patch_size
        )
        nn.init.trunc_normal_(self.network.heads.head.weight, std=INITIAL_SPREAD)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.network(functional.pad(self.image(images), self.padding))
        return logits
