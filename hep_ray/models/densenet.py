"""DenseNet (Huang et al., arXiv:1608.06993) of torchvision with the stem of the paper's CIFAR networks.

Shapes at 50x50x3 (N events, channels x H x W), growth 12, blocks of 6 layers:

    image             3 x 50 x 50
    conv 3x3         24 x 50 x 50
    dense block 1    96 x 50 x 50      halved    48 x 25 x 25
    dense block 2   120 x 25 x 25      halved    60 x 12 x 12
    dense block 3   132 x 12 x 12      average  132
    linear          n_classes
"""

from __future__ import annotations

import torchvision
from pydantic import Field
from torch import nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, check_size


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
        super().__init__(config, schema)
        check_size("densenet", (self.image.size[0] // 4, self.image.size[1] // 4), self.image)
        self.network = torchvision.models.DenseNet(
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
