"""The network of Islam and Ramachandra for electron, muon, tau and jet images, after a well-known one for CIFAR-10.

Shapes at 16x16x2 (N events, channels x H x W), with the widths of the default variant:

    image                        2 x 16 x 16
    conv 3x3, padded            32 x 16 x 16
    conv 3x3                    32 x 14 x 14      pool 2, dropout 0.25    32 x 7 x 7
    conv 3x3, padded            64 x  7 x  7
    conv 3x3                    64 x  5 x  5      pool 2, dropout 0.25    64 x 2 x 2
    linear, dropout 0.5        512
    linear                     n_classes

The variant `wide` has 64 and 128 channels in the second and fourth convolution; `selu` replaces ReLU.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, flat_features, output_size
from hep_ray.models.mlp import ACTIVATIONS, Activation

HIDDEN_FEATURES = 512
STAGES = ((32, 64), (64, 128))  # channels of a stage's first convolution, of its second one where wide


class ObjectCnnConfig(ImageConfig):
    """Configuration of `object_cnn`.

    Attributes:
        wide: second convolutions twice as wide as first ones.
        activation: after each convolution and the hidden layer.
        image_dropout: probability of zeroing a pixel after a pooling.
        dropout: probability of zeroing a hidden feature.
    """

    wide: bool = False
    activation: Activation = "relu"
    image_dropout: float = Field(default=0.25, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)


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
        for first, wider in STAGES:
            second = wider if config.wide else first
            layers += [nn.Conv2d(channels, first, 3, padding=1), activation()]
            layers += [nn.Conv2d(first, second, 3), activation()]
            layers += [nn.MaxPool2d(2), nn.Dropout(config.image_dropout)]
            size = output_size(output_size(size, kernel=3), kernel=2, stride=2)
            channels = second
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(flat_features("object_cnn", channels, size, self.image), HIDDEN_FEATURES),
            activation(),
            nn.Dropout(config.dropout),
            nn.Linear(HIDDEN_FEATURES, len(schema.classes)),
        )
