"""A wide residual network (Zagoruyko and Komodakis, arXiv:1605.07146) of torchvision's bottlenecks.

Shapes at 50x50x3 (N events, channels x H x W), 2 blocks per stage:

    image                  3 x 50 x 50
    stem 7x7/2, pool      64 x 13 x 13
    stages 1 to 4        256 x 13, 512 x 7, 1024 x 4, 2048 x 2
    average             2048
    linear              n_classes
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torchvision.models.resnet import Bottleneck, ResNet

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel
from hep_ray.models.stem import Stem, fit_stem

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
    """Four stages of bottlenecks that are `widening` times as wide within.

    Args:
        config: see there; scale and transform of the pixels.
        schema: events with one image, of any size.

    Raises:
        InvalidConfig: there is not exactly one image.
    """

    def __init__(self, config: WideResNetConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.network = ResNet(
            Bottleneck,
            [config.blocks] * 4,
            num_classes=len(schema.classes),
            width_per_group=BASE_WIDTH * config.widening,
        )
        fit_stem(self.network, self.image, config.stem)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.network(self.image(images))
        return logits
