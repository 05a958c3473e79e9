"""CoordConv (Liu et al., arXiv:1807.03247): the first convolution also sees where each pixel lies.

Shapes at 50x50x3 (N events, channels x H x W):

    image                   3 x 50 x 50      and two channels of coordinates in [-1, 1]
    conv 3x3, ReLU         32 x 50 x 50      pool 2    32 x 25 x 25
    conv 3x3, ReLU         64 x 25 x 25      pool 2    64 x 13 x 13
    conv 3x3, ReLU        128 x 13 x 13      average  128
    linear                n_classes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

WIDTHS = (32, 64, 128)


class CoordConvConfig(ImageConfig):
    """Configuration of `coordconv`."""


@model("coordconv", CoordConvConfig)
class CoordConv(ImageModel):
    """Three convolutions on the image and its two coordinates."""

    coordinates: Tensor

    def __init__(self, config: CoordConvConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        height, width = self.image.size
        grid = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("coordinates", torch.stack(grid)[None], persistent=False)
        layers: list[nn.Module] = []
        channels = self.image.channels + 2
        for place, features in enumerate(WIDTHS, 1):
            layers += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if place < len(WIDTHS) else []
            channels = features
        self.network = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(schema.classes))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        maps = self.image(images)
        places = self.coordinates.expand(len(maps), -1, -1, -1)
        logits: Tensor = self.network(torch.cat([maps, places], dim=1))
        return logits
