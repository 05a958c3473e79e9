"""First layers of torchvision's residual networks, made for images of any size and number of channels."""

from __future__ import annotations

from typing import Literal

import torchvision
from torch import nn

from hep_ray.models.image import ImageInput

Stem = Literal["auto", "large", "small"]
LARGE_IMAGE = 40
"""Pixels of the shorter side from which an image bears the fourfold reduction of the large stem."""


def fit_stem(network: torchvision.models.ResNet, image: ImageInput, stem: Stem) -> None:
    """Replace the first convolution by one of the image's channels, and drop the reduction where it is small."""
    small = stem == "small" or (stem == "auto" and min(image.size) < LARGE_IMAGE)
    width = network.conv1.out_channels
    kernel, stride = (3, 1) if small else (7, 2)
    network.conv1 = nn.Conv2d(image.channels, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        network.maxpool = nn.Identity()
