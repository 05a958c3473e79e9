"""A 3D CNN: the layers of the calorimeter are the depth of one block of cells.

Shapes at 7x11x6 (N events, channels x depth x H x W), one of the architecture trials of the UdeM thesis:

    image                      1 x 6 x 7 x 11
    conv 3x3x3, ReLU          16 x 6 x 7 x 11      pool 1x2x2    16 x 6 x 4 x 6
    conv 3x3x3, ReLU          32 x 6 x 4 x  6      pool 1x2x2    32 x 6 x 2 x 3
    conv 3x3x3, ReLU          64 x 6 x 2 x  3      average over H and W, flatten  384
    linear                    n_classes
"""

from __future__ import annotations

from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

WIDTHS = (16, 32, 64)


class Conv3dConfig(ImageConfig):
    """Configuration of `conv3d`."""


@model("conv3d", Conv3dConfig)
class Conv3d(ImageModel):
    """Three convolutions in depth, φ and η; depth is never pooled.

    Args:
        config: scale and transform of the pixels.
        schema: events with one image, of any size, whose channels are a sequence.

    Raises:
        InvalidConfig: there is not exactly one image.
    """

    def __init__(self, config: Conv3dConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        layers: list[nn.Module] = []
        channels = 1
        for width in WIDTHS:
            layers += [nn.Conv3d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool3d((1, 2, 2), ceil_mode=True)] if width != WIDTHS[-1] else []
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(channels * self.image.channels, len(schema.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        maps = self.convolutions(self.image(images).unsqueeze(1))
        logits: Tensor = self.head(maps.mean((3, 4)).flatten(1))
        return logits
