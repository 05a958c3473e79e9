"""The convolutional network of the HVL thesis on black holes and sphalerons.

Shapes at 50x50x3 (N events, channels x H x W):

    image                      3 x 50 x 50
    conv 3x3, ReLU            16 x 48 x 48      pool 2    16 x 24 x 24
    conv 3x3, ReLU            64 x 22 x 22      pool 2    64 x 11 x 11
    conv 3x3, ReLU           256 x  9 x  9      pool 3   256 x  3 x  3
    flatten                 2304
    linear, ReLU, dropout   1000
    linear                  n_classes
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, flat_features, output_size

STAGES = ((16, 2), (64, 2), (256, 3))  # (channels, pooling) of each convolution
HIDDEN_FEATURES = 1000


class CnnConfig(ImageConfig):
    """Configuration of `cnn`.

    Attributes:
        dropout: probability of zeroing a feature of the hidden linear layer.
    """

    dropout: float = Field(default=0.5, ge=0, lt=1)


@model("cnn", CnnConfig)
class Cnn(ImageModel):
    """Three unpadded 3x3 convolutions with max-pooling, one hidden linear layer.

    Args:
        config: dropout, and scale and transform of the pixels.
        schema: events with one image of at least 26x26 pixels.

    Raises:
        InvalidConfig: there is not exactly one image, or it is too small.
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
            nn.Linear(flat_features("cnn", channels, size, self.image), HIDDEN_FEATURES),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(HIDDEN_FEATURES, len(schema.classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.head(self.convolutions(self.image(images)))
        return logits
