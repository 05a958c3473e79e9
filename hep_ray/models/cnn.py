"""Convolutional networks of the HVL thesis on black holes and sphalerons.

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
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, flat_features, output_size

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
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU(inplace=True), nn.MaxPool2d(pooling)]
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
            for channels_in in (channels, width):
                layers += [nn.Conv2d(channels_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
                layers += [nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if width != WIDTHS[-1] else []
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *classifier(channels, config, schema),
        )
