"""ConvNeXt (Liu et al., arXiv:2201.03545) of torchvision, narrow and with small patches.

Shapes at 50x50x3 (N events, channels x H x W), width 40, patches of 2, four stages:

    image          3 x 50 x 50
    patches       40 x 25 x 25
    stage 1       40 x 25 x 25
    stages 2-4    80 x 12, 160 x 6, 320 x 3
    average      320
    linear       n_classes
"""

from __future__ import annotations

import torchvision
from pydantic import Field
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, check_size

DEPTHS = (2, 2, 6, 2)
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
        super().__init__(config, schema)
        side = config.patch_size * 2 ** (config.stages - 1)
        check_size("convnext", (self.image.size[0] // side, self.image.size[1] // side), self.image)
        widths = [config.width * 2**stage for stage in range(config.stages)]
        settings = [
            CNBlockConfig(width, following, depth)
            for width, following, depth in zip(widths, [*widths[1:], None], DEPTHS, strict=False)
        ]
        self.network = torchvision.models.ConvNeXt(
            settings, config.stochastic_depth, num_classes=len(schema.classes)
        )
        stem = nn.Conv2d(self.image.channels, config.width, config.patch_size, config.patch_size)
        nn.init.trunc_normal_(stem.weight, std=INITIAL_SPREAD)
        nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
        self.network.features[0][0] = stem
