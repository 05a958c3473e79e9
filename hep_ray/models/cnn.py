"""Plain convolutional networks: `cnn` and `deep_cnn` of the HVL thesis, `object_cnn` and `coordconv`.

`cnn`, shapes at 50x50x3 (N events, channels x H x W):

    image                      3 x 50 x 50
    conv 3x3, ReLU            16 x 48 x 48      pool 2    16 x 24 x 24
    conv 3x3, ReLU            64 x 22 x 22      pool 2    64 x 11 x 11
    conv 3x3, ReLU           256 x  9 x  9      pool 3   256 x  3 x  3
    flatten                 2304
    linear, ReLU, dropout   1000
    linear                  n_classes

`deep_cnn`, a deeper form, which the thesis' outlook asks for: two normalised convolutions per stage:

    image                              3 x 50 x 50
    2 x (conv 3x3, norm, ReLU)        32 x 50 x 50      pool 2    32 x 25 x 25
    2 x (conv 3x3, norm, ReLU)        64 x 25 x 25      pool 2    64 x 13 x 13
    2 x (conv 3x3, norm, ReLU)       128 x 13 x 13      pool 2   128 x  7 x  7
    2 x (conv 3x3, norm, ReLU)       256 x  7 x  7      average  256
    linear, ReLU, dropout           1000
    linear                          n_classes

`object_cnn`, the network of Islam and Ramachandra for electron, muon, tau and jet images, after a well-known one for
CIFAR-10. Shapes at 16x16x2, with the widths of the default variant:

    image                        2 x 16 x 16
    conv 3x3, padded            32 x 16 x 16
    conv 3x3                    32 x 14 x 14      pool 2, dropout 0.25    32 x 7 x 7
    conv 3x3, padded            64 x  7 x  7
    conv 3x3                    64 x  5 x  5      pool 2, dropout 0.25    64 x 2 x 2
    linear, dropout 0.5        512
    linear                     n_classes

Of 16x16x2 and four classes these are 198,916 parameters. The published slides have 64 channels in the second
convolution (`second_features=64`: 226,596 parameters) or 128 in the fourth (`fourth_features=128`: 366,916); `wide` is
both at once, 394,596. `selu` replaces ReLU.

`coordconv` (Liu et al., arXiv:1807.03247): the first convolution also sees where each pixel lies. Shapes at 50x50x3:

    image                   3 x 50 x 50      and two channels of coordinates in [-1, 1]
    conv 3x3, ReLU         32 x 50 x 50      pool 2    32 x 25 x 25
    conv 3x3, ReLU         64 x 25 x 25      pool 2    64 x 13 x 13
    conv 3x3, ReLU        128 x 13 x 13      average  128
    linear                n_classes

Here as in `resnet` and `calorimeter_layers`, maps are pooled before the ReLU that is written before: the largest of
pixels is rectified, in place of every pixel. Values and gradients are the same to the last bit, the steps fewer: a step
of `cnn` in bfloat16 takes a sixth less of a processor.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, flat_features, output_size
from hep_ray.models.mlp import ACTIVATIONS, Activation

STAGES = ((16, 2), (64, 2), (256, 3))  # (channels, pooling) of each convolution
WIDTHS = (32, 64, 128, 256)  # channels of each stage of `deep_cnn`
HIDDEN_FEATURES = 1000


class CnnConfig(ImageConfig):
    """Configuration of `cnn` and `deep_cnn`.

    Attributes:
        dropout: probability of zeroing a feature of the hidden linear layer.
    """

    dropout: float = Field(default=0.5, ge=0, lt=1)


def classifier(features: int, config: CnnConfig, schema: SchemaLike) -> tuple[nn.Module, ...]:
    """Return the hidden and the last linear layer."""
    return (
        nn.Linear(features, HIDDEN_FEATURES),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(HIDDEN_FEATURES, len(schema.classes)),
    )


@model("cnn", CnnConfig)
class Cnn(ImageModel):
    """Three unpadded 3x3 convolutions with max-pooling, one hidden linear layer.

    It takes one image of at least 26x26 pixels.
    """

    def __init__(self, config: CnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        layers: list[nn.Module] = []
        channels, size = self.image.channels, self.image.size
        for width, pooling in STAGES:
            layers += [nn.Conv2d(channels, width, 3), nn.MaxPool2d(pooling), nn.ReLU(inplace=True)]
            size = output_size(output_size(size, kernel=3), kernel=pooling, stride=pooling)
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            *classifier(flat_features("cnn", channels, size, self.image), config, schema),
        )


@model("deep_cnn", CnnConfig)
class DeepCnn(ImageModel):
    """Four stages of two padded 3x3 convolutions with batch normalisation, one hidden linear layer."""

    def __init__(self, config: CnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        layers: list[nn.Module] = []
        channels = self.image.channels
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if width != WIDTHS[-1] else []
            layers += [nn.ReLU(inplace=True)]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier(channels, config, schema)
        )


OBJECT_FEATURES = 512
OBJECT_STAGES = (32, 64)  # channels of the first convolution of each stage


class ObjectCnnConfig(ImageConfig):
    """Configuration of `object_cnn`.

    Attributes:
        second_features: channels of the second convolution.
        fourth_features: channels of the fourth convolution.
        wide: 64 and 128 channels in these two.
        activation: after each convolution and the hidden layer.
        image_dropout: probability of zeroing a pixel after the first pooling.
        second_image_dropout: the same after the second pooling; unless given that of the first.
        dropout: probability of zeroing a hidden feature.
    """

    second_features: int = Field(default=OBJECT_STAGES[0], ge=1)
    fourth_features: int = Field(default=OBJECT_STAGES[1], ge=1)
    wide: bool = False
    activation: Activation = "relu"
    image_dropout: float = Field(default=0.25, ge=0, lt=1)
    second_image_dropout: float | None = Field(default=None, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_statement_of_the_widths(self) -> Self:
        if self.wide and (self.second_features, self.fourth_features) != OBJECT_STAGES:
            raise ValueError(
                f"wide states second_features and fourth_features, which are given as {self.second_features} and "
                f"{self.fourth_features}: leave out one or the other"
            )
        return self

    @property
    def stages(self) -> tuple[tuple[int, int, float], ...]:
        """Channels of both convolutions of each stage, and the dropout after it."""
        second, fourth = (64, 128) if self.wide else (self.second_features, self.fourth_features)
        last = self.image_dropout if self.second_image_dropout is None else self.second_image_dropout
        return (OBJECT_STAGES[0], second, self.image_dropout), (OBJECT_STAGES[1], fourth, last)


@model("object_cnn", ObjectCnnConfig)
class ObjectCnn(ImageModel):
    """Two stages of two convolutions each, one hidden layer.

    It takes one image of at least 10x10 pixels.
    """

    def __init__(self, config: ObjectCnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        activation = ACTIVATIONS[config.activation]
        layers: list[nn.Module] = []
        channels, size = self.image.channels, self.image.size
        for first, second, dropout in config.stages:
            layers += [nn.Conv2d(channels, first, 3, padding=1), activation()]
            layers += [nn.Conv2d(first, second, 3), nn.MaxPool2d(2), activation(), nn.Dropout(dropout)]
            size = output_size(output_size(size, kernel=3), kernel=2, stride=2)
            channels = second
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(flat_features("object_cnn", channels, size, self.image), OBJECT_FEATURES),
            activation(),
            nn.Dropout(config.dropout),
            nn.Linear(OBJECT_FEATURES, len(schema.classes)),
        )


COORDINATE_WIDTHS = (32, 64, 128)


@model("coordconv", ImageConfig)
class CoordConv(ImageModel):
    """Three convolutions on the image and its two coordinates."""

    coordinates: Tensor

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        height, width = self.image.size
        grid = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("coordinates", torch.stack(grid)[None], persistent=False)
        layers: list[nn.Module] = []
        channels = self.image.channels + 2
        for place, features in enumerate(COORDINATE_WIDTHS, 1):
            layers += [nn.Conv2d(channels, features, 3, padding=1)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if place < len(COORDINATE_WIDTHS) else []
            layers += [nn.ReLU(inplace=True)]
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
