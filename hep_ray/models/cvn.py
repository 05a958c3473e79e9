"""CVN: one branch of the convolutional visual network of NOvA (Aurisano et al., arXiv:1604.01444, figure 4).

The UCSD jet study runs it on a single view. Shapes at 30x30x1 (N events, channels x H x W):

    image                          1 x 30 x 30
    conv 7x7/2                    64 x 15 x 15      pool 3/2    64 x 8 x 8,  local response normalisation
    conv 1x1, conv 3x3           192 x  8 x  8      normalisation, pool 3/2   192 x 4 x 4
    inception 3a, 3b             480 x  4 x  4      pool 3/2   480 x 2 x 2
    inception 4a, 4b             512 x  2 x  2      average    512
    linear                       n_classes

Inception modules have the widths of GoogLeNet (Szegedy et al., arXiv:1409.4842, table 1), whose names they keep.

`cvn_ucsd` is the narrower network that the study itself built, 535,890 parameters for two classes: three modules of
GoogLeNet's widths 3a, normalisation with k = 2 (Krizhevsky et al.; `cvn` has torch's k = 1), and no activation
after any convolution, so that maxima and normalisations alone make it non-linear. At 30x30x1:

    image                          1 x 30 x 30
    conv 7x7/2                    64 x 15 x 15      pool 3/2    64 x 8 x 8,  local response normalisation
    conv 1x1, conv 3x3            64 x  8 x  8      normalisation, pool 3/2    64 x 4 x 4
    inception 3a, 3a             256 x  4 x  4      pool 3/2   256 x 2 x 2
    inception 3a                 256 x  2 x  2      average    256
    linear                       n_classes
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

NORMALISED_CHANNELS = 5
"""Channels over which local response normalisation sums (Krizhevsky et al., 2012, section 3.3)."""
KRIZHEVSKY_K = 2.0
"""What it adds to the sum, in the same source."""

Widths = tuple[int, int, int, int, int, int]
Make = Callable[[int, int, int], nn.Module]
INCEPTION_3: tuple[Widths, ...] = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
INCEPTION_4: tuple[Widths, ...] = ((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64))


class Inception(nn.Module):
    """1x1, 3x3, 5x5 convolutions and a pooling side by side, concatenated.

    Args:
        channels_in: of the maps it takes.
        widths: of the 1x1 branch; of the 3x3 branch's reduction and itself; of the 5x5 branch's reduction and
            itself; of the projection after the pooling.
        make: a convolution of channels, channels and kernel.
    """

    def __init__(self, channels_in: int, widths: Widths, make: Make | None = None) -> None:
        super().__init__()
        single, reduce3, wide3, reduce5, wide5, projected = widths
        make = make or convolution
        self.branches = nn.ModuleList(
            [
                make(channels_in, single, 1),
                nn.Sequential(make(channels_in, reduce3, 1), make(reduce3, wide3, 3)),
                nn.Sequential(make(channels_in, reduce5, 1), make(reduce5, wide5, 5)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), make(channels_in, projected, 1)),
            ]
        )
        self.channels = single + wide3 + wide5 + projected

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, channels, H, W) of maps (N, channels_in, H, W)."""
        return torch.cat([branch(maps) for branch in self.branches], dim=1)


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution, padded to keep the size at stride 1, and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2), nn.ReLU(inplace=True)
    )


def bare_convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution, padded likewise, without an activation."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2)


def halving() -> nn.MaxPool2d:
    """3x3 maximum at stride 2, rounding the size up."""
    return nn.MaxPool2d(3, stride=2, padding=1)


@model("cvn", ImageConfig)
class Cvn(ImageModel):
    """A branch of CVN with an average pooling and a linear classifier."""

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.stem = nn.Sequential(
            convolution(self.image.channels, 64, 7, stride=2),
            halving(),
            nn.LocalResponseNorm(NORMALISED_CHANNELS),
            convolution(64, 64, 1),
            convolution(64, 192, 3),
            nn.LocalResponseNorm(NORMALISED_CHANNELS),
            halving(),
        )
        modules: list[nn.Module] = []
        channels = 192
        for stage in (INCEPTION_3, INCEPTION_4):
            for widths in stage:
                inception = Inception(channels, widths)
                modules.append(inception)
                channels = inception.channels
            modules += [halving()] if stage is INCEPTION_3 else []
        self.inceptions = nn.Sequential(*modules)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(schema.classes))
        )


@model("cvn_ucsd", ImageConfig)
class CvnUcsd(ImageModel):
    """CVN as the UCSD jet study built it: three narrow inception modules, no activation after convolutions."""

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        widths = INCEPTION_3[0]
        self.stem = nn.Sequential(
            bare_convolution(self.image.channels, 64, 7, stride=2),
            halving(),
            nn.LocalResponseNorm(NORMALISED_CHANNELS, k=KRIZHEVSKY_K),
            bare_convolution(64, 64, 1),
            bare_convolution(64, 64, 3),
            nn.LocalResponseNorm(NORMALISED_CHANNELS, k=KRIZHEVSKY_K),
            halving(),
        )
        first, second, third = (Inception(channels, widths, bare_convolution) for channels in (64, 256, 256))
        self.inceptions = nn.Sequential(first, second, halving(), third)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third.channels, len(schema.classes))
        )
